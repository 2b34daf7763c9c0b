"""Anthropic messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .steps import Cause, Reply, split
from .wire import Asked, sse


STREAM_TYPE = "text/event-stream; charset=utf-8"
HEADERS = {"request-id": "req_simulated"}

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    400: ("invalid_request_error", "messages: at least one message is required"),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: missing"),
    413: ("request_too_large", "Request exceeds the maximum allowed number of bytes."),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}


def plain(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The whole message as one object."""
    message = _message(asked, reply)
    message["content"] = _blocks(reply)
    message["stop_reason"] = _STOPS[reply.ending]
    if reply.usage:
        message["usage"] = _usage(reply, reply.output_tokens)
    return message


def events(asked: Asked, reply: Reply) -> list[bytes]:
    """The message as named stream events."""
    return [sse(event, event["type"]) for event in _events(asked, reply)]


def embedding(asked: Asked, reply: Reply) -> dict[str, Any]:
    """Anthropic has no embeddings."""
    raise NotImplementedError


def error(code: int, cause: Cause = "status", key: str = "") -> tuple[int, dict[str, Any]]:
    """The status and body of an error."""
    kind, message = _ERRORS.get(code, _ERRORS[500])
    if cause == "context_window":
        message = "prompt is too long: 200001 tokens > 200000 maximum"
    elif cause == "content_filter":
        message = "Output blocked by content filtering policy"
    elif cause == "echo_key":
        message = f"{key} is not a valid key"
    told = {"type": kind, "message": message}
    return code, {"type": "error", "error": told, "request_id": "req_simulated"}


def error_event(error: Any = None) -> bytes:
    """An error in the middle of a stream."""
    kind, message = _ERRORS[529]
    return sse({"type": "error", "error": error or {"type": kind, "message": message}}, "error")


def _message(asked: Asked, reply: Reply) -> dict[str, Any]:
    return {
        "model": reply.model or asked.model,
        "id": reply.id or "msg_simulated",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(reply: Reply) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if reply.reasoning is not None:
        blocks.append({"type": "thinking", "thinking": reply.reasoning, "signature": "c2lnbmVk"})
    if text := reply.choices(1)[0] or reply.refusal:
        blocks.append({"type": "text", "text": text})
    for number, (name, arguments) in enumerate(reply.tool_calls):
        call_id = f"toolu_simulated{number}"
        blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": dict(arguments)})
    return blocks


def _events(asked: Asked, reply: Reply) -> Iterator[dict[str, Any]]:
    message = _message(asked, reply)
    if reply.usage:
        message["usage"] = _usage(reply, 1)
    yield {"type": "message_start", "message": message}
    for index, block in enumerate(_blocks(reply)):
        yield {"type": "content_block_start", "index": index, "content_block": _hollow(block)}
        if index == 0:
            yield {"type": "ping"}
        for delta in _deltas(block, reply):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    stop = {"stop_reason": _STOPS[reply.ending], "stop_sequence": None}
    last: dict[str, Any] = {"type": "message_delta", "delta": stop}
    if reply.usage:
        last["usage"] = _counts(reply, reply.output_tokens)
    yield last
    yield {"type": "message_stop"}


def _hollow(block: dict[str, Any]) -> dict[str, Any]:
    """The block as it starts: everything that deltas will bring is empty."""
    empty: dict[str, Any] = {"thinking": "", "signature": "", "text": "", "input": {}}
    return {name: empty.get(name, value) for name, value in block.items()}


def _deltas(block: dict[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    if block["type"] == "thinking":
        for piece in split(block["thinking"]):
            yield {"type": "thinking_delta", "thinking": piece}
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif block["type"] == "text":
        for piece in reply.chunks(block["text"]):
            yield {"type": "text_delta", "text": piece}
    else:
        yield {"type": "input_json_delta", "partial_json": ""}
        for piece in split(json.dumps(block["input"])):
            yield {"type": "input_json_delta", "partial_json": piece}


def _counts(reply: Reply, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": reply.fresh_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": reply.cached_tokens,
        "output_tokens": output_tokens,
    }


def _usage(reply: Reply, output_tokens: int) -> dict[str, Any]:
    written = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    counts = _counts(reply, output_tokens)
    return {**counts, "cache_creation": written, "service_tier": "standard"}
