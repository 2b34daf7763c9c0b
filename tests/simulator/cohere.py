"""Cohere's second version: chat and embed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .steps import Cause, Reply, split
from .wire import Asked, sse, vector


STREAM_TYPE = "text/event-stream"
HEADERS = {"x-debug-trace-id": "simulated"}

_FINISHES = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "content_filter": "ERROR_TOXIC"}
_ERRORS = {
    400: "invalid request: messages must not be empty.",
    401: "invalid api token",
    404: "model 'missing' not found, make sure the correct model ID was used and that you have access to the model.",
    429: "You are using a Trial key, which is limited to 20 API calls / minute.",
    500: "internal server error, this has been reported to our developers",
    503: "service unavailable",
}


def plain(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The whole answer as one object."""
    message: dict[str, Any] = {"role": "assistant"}
    if reply.tool_calls:
        message |= {"tool_plan": "I will use a tool.", "tool_calls": _calls(reply)}
    else:
        message["content"] = [{"type": "text", "text": _text(reply)}]
    body = {"id": reply.id or "simulated", "message": message, "finish_reason": _FINISHES[reply.ending]}
    return body | ({"usage": _usage(reply)} if reply.usage else {})


def events(asked: Asked, reply: Reply) -> list[bytes]:
    """The answer as named stream events."""
    return [*(sse(event, event["type"]) for event in _events(reply)), b"data: [DONE]\n\n"]


def embedding(asked: Asked, reply: Reply) -> dict[str, Any]:
    """One vector per text."""
    texts = asked.body.get("texts") or []
    vectors = reply.vectors or [vector(row, asked.body.get("output_dimension") or 8) for row in range(len(texts))]
    billed = {"input_tokens": reply.input_tokens, "image_tokens": 0}
    return {
        "id": reply.id or "simulated",
        "texts": texts,
        "embeddings": {"float": [list(row) for row in vectors]},
        "meta": {"api_version": {"version": "2"}, "billed_units": billed if reply.usage else {}},
        "response_type": "embeddings_by_type",
    }


def error(code: int, cause: Cause = "status", key: str = "") -> tuple[int, dict[str, Any]]:
    """The status and body of an error."""
    body = {"id": "simulated", "message": _ERRORS.get(code, _ERRORS[500])}
    if cause == "context_window":
        limit = "too many tokens: size limit exceeded by 25836 tokens. Try using shorter or fewer inputs."
        body |= {"error_type": "TOO_MANY_TOKENS", "message": limit}
    elif cause == "content_filter":
        body["message"] = "the prompt was blocked by our safety system"
    elif cause == "echo_key":
        body["message"] = f"invalid api token: {key}"
    return code, body


def error_event(error: Any = None) -> bytes:
    """An error in the middle of a stream."""
    delta = {"finish_reason": "ERROR", "error": error or _ERRORS[500]}
    return sse({"type": "message-end", "delta": delta}, "message-end")


def _text(reply: Reply) -> str:
    return reply.choices(1)[0] or reply.refusal or ""


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{name}_simulated{number}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for number, (name, arguments) in enumerate(reply.tool_calls)
    ]


def _events(reply: Reply) -> Iterator[dict[str, Any]]:
    start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    yield {"id": reply.id or "simulated", "type": "message-start", "delta": {"message": start}}
    if text := _text(reply):
        block = {"content": {"type": "text", "text": ""}}
        yield {"type": "content-start", "index": 0, "delta": {"message": block}}
        for piece in reply.chunks(text):
            yield {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": piece}}}}
        yield {"type": "content-end", "index": 0}
    for index, call in enumerate(_calls(reply)):
        arguments, call["function"]["arguments"] = call["function"]["arguments"], ""
        yield {"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": call}}}
        for piece in split(arguments):
            said = {"tool_calls": {"function": {"arguments": piece}}}
            yield {"type": "tool-call-delta", "index": index, "delta": {"message": said}}
        yield {"type": "tool-call-end", "index": index}
    usage = {"usage": _usage(reply)} if reply.usage else {}
    yield {"type": "message-end", "delta": {"finish_reason": _FINISHES[reply.ending], **usage}}


def _usage(reply: Reply) -> dict[str, Any]:
    tokens = {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
    return {"billed_units": tokens, "tokens": tokens, "cached_tokens": reply.cached_tokens}
