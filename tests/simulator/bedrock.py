"""Amazon Bedrock: Converse, its binary event stream, and Cohere's embeddings through InvokeModel."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from .steps import Cause, Reply, split
from .wire import Asked, encode, vector


STREAM_TYPE = "application/vnd.amazon.eventstream"
HEADERS = {"x-amzn-requestid": "simulated"}

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "content_filtered",
}
_ERRORS = {
    400: "The provided request is not valid",
    401: "The security token included in the request is invalid.",
    403: "The security token included in the request is invalid.",
    404: "Could not resolve the foundation model from the provided model identifier.",
    429: "Too many requests, please wait before trying again.",
    500: "The system encountered an unexpected error during processing. Try your request again.",
    503: "Bedrock is unable to process your request.",
}


def plain(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The whole answer as one object."""
    body = {
        "output": {"message": {"role": "assistant", "content": _blocks(reply)}},
        "stopReason": _STOPS[reply.ending],
        "metrics": {"latencyMs": 300},
    }
    return body | ({"usage": _usage(reply)} if reply.usage else {})


def events(asked: Asked, reply: Reply) -> list[bytes]:
    """The answer as frames of the event stream."""
    return [frame(kind, body) for kind, body in _events(reply)]


def embedding(asked: Asked, reply: Reply) -> dict[str, Any]:
    """One vector per text, as Cohere's models answer through InvokeModel."""
    texts = asked.body.get("texts") or []
    vectors = reply.vectors or [vector(row, 8) for row in range(len(texts))]
    rows = [list(row) for row in vectors]
    return {"id": "simulated", "embeddings": rows, "texts": texts, "response_type": "embeddings_floats"}


def error(code: int, cause: Cause = "status", key: str = "") -> tuple[int, dict[str, Any]]:
    """The status and body of an error."""
    message = _ERRORS.get(code, _ERRORS[500])
    if cause == "context_window":
        message = "Input is too long for requested model."
    elif cause == "content_filter":
        message = "The prompt was blocked by a guardrail."
    elif cause == "echo_key":
        message = f"The security token {key} is invalid."
    return code, {"message": message}


def error_event(error: Any = None) -> bytes:
    """An error in the middle of a stream."""
    return frame("internalServerException", {"message": error or _ERRORS[500]}, "exception")


def frame(kind: str, body: dict[str, Any], message: str = "event") -> bytes:
    """One message of AWS's event stream: lengths, headers and payload, each half with its checksum."""
    told = {f":{message}-type": kind, ":content-type": "application/json", ":message-type": message}
    headers = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in told.items()
    )
    payload = encode(body)
    prelude = struct.pack(">II", 12 + len(headers) + len(payload) + 4, len(headers))
    start = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return start + struct.pack(">I", zlib.crc32(start))


def _blocks(reply: Reply) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if text := reply.choices(1)[0] or reply.refusal:
        blocks.append({"text": text})
    for number, (name, arguments) in enumerate(reply.tool_calls):
        call = {"toolUseId": f"tooluse_simulated{number}", "name": name, "input": dict(arguments)}
        blocks.append({"toolUse": call})
    return blocks


def _events(reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "messageStart", {"role": "assistant"}
    for index, block in enumerate(_blocks(reply)):
        if call := block.get("toolUse"):
            start = {"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}}
            yield "contentBlockStart", {"contentBlockIndex": index, "start": start}
        for delta in _deltas(block, reply):
            yield "contentBlockDelta", {"contentBlockIndex": index, "delta": delta}
        yield "contentBlockStop", {"contentBlockIndex": index}
    yield "messageStop", {"stopReason": _STOPS[reply.ending]}
    yield "metadata", {"metrics": {"latencyMs": 300}} | ({"usage": _usage(reply)} if reply.usage else {})


def _deltas(block: dict[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    if "text" in block:
        for piece in reply.chunks(block["text"]):
            yield {"text": piece}
    else:
        for piece in split(json.dumps(block["toolUse"]["input"])):
            yield {"toolUse": {"input": piece}}


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "inputTokens": reply.fresh_tokens,
        "outputTokens": reply.output_tokens,
        "totalTokens": reply.input_tokens + reply.output_tokens,
        "cacheReadInputTokens": reply.cached_tokens,
        "cacheWriteInputTokens": 0,
    }
