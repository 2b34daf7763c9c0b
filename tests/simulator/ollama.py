"""Ollama chat, generate, embed and show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from .steps import Cause, Reply, split
from .wire import Asked, encode, vector


STREAM_TYPE = "application/x-ndjson"
HEADERS: dict[str, str] = {}

_DONE = {"stop": "stop", "length": "length", "tool_calls": "stop", "content_filter": "stop"}
_ERRORS = {
    400: "invalid options",
    401: "unauthorized",
    404: "model 'missing' not found",
    429: "too many concurrent requests",
    500: "model runner has unexpectedly stopped",
    503: "server busy, please try again.  maximum pending requests exceeded",
}


def plain(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The whole answer as one object."""
    text = _text(asked, reply)
    said = {"content": text, "tool_calls": _calls(reply), "thinking": reply.reasoning}
    return _line(asked, reply, said, _end(asked, reply))


def events(asked: Asked, reply: Reply) -> list[bytes]:
    """The answer as lines of JSON, the last of which says that it is done."""
    lines = [_line(asked, reply, said, {"done": False}) for said in _steps(asked, reply)]
    lines.append(_line(asked, reply, {}, _end(asked, reply)))
    return [encode(line) + b"\n" for line in lines]


def embedding(asked: Asked, reply: Reply) -> dict[str, Any]:
    """One vector per input."""
    given = asked.body.get("input", "")
    count = len(given) if isinstance(given, list) else 1
    dimensions = asked.body.get("dimensions") or 8
    vectors = reply.vectors or [vector(row, dimensions) for row in range(count)]
    body = {
        "model": reply.model or asked.model,
        "embeddings": [list(row) for row in vectors],
        "total_duration": 14_000_000,
        "load_duration": 1_000_000,
    }
    return body | ({"prompt_eval_count": reply.input_tokens} if reply.usage else {})


def show(asked: Asked) -> dict[str, Any]:
    """What a model is: one that can use tools and think, with a context of 8192 tokens."""
    return {
        "template": "{{ .Prompt }} {{ .Tools }}",
        "details": {"format": "gguf", "family": "simulated"},
        "model_info": {"general.architecture": "simulated", "simulated.context_length": 8192},
        "capabilities": ["completion", "tools", "thinking"],
    }


def error(code: int, cause: Cause = "status", key: str = "") -> tuple[int, dict[str, Any]]:
    """The status and body of an error."""
    message = _ERRORS.get(code, _ERRORS[500])
    if cause == "context_window":
        message = "the input length exceeds the context length"
    elif cause == "content_filter":
        message = "the prompt was rejected by a content filter"
    elif cause == "echo_key":
        message = f"unauthorized: {key}"
    return code, {"error": message}


def error_event(error: Any = None) -> bytes:
    """An error in the middle of a stream."""
    return encode({"error": error or "an error was encountered while running the model"}) + b"\n"


def _text(asked: Asked, reply: Reply) -> str:
    """The text; /api/generate, which has no tool calls, says the first one as JSON."""
    if asked.verb == "generate" and reply.tool_calls:
        name, arguments = reply.tool_calls[0]
        return json.dumps({"name": name, "arguments": dict(arguments)})
    return reply.choices(1)[0] or reply.refusal or ""


def _steps(asked: Asked, reply: Reply) -> Iterator[dict[str, Any]]:
    for piece in split(reply.reasoning or ""):
        yield {"thinking": piece}
    for piece in reply.chunks(_text(asked, reply)):
        yield {"content": piece}
    if reply.tool_calls and asked.verb == "chat":
        yield {"tool_calls": _calls(reply)}


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_simulated{number}",
            "function": {"index": number, "name": name, "arguments": dict(arguments)},
        }
        for number, (name, arguments) in enumerate(reply.tool_calls)
    ]


def _line(asked: Asked, reply: Reply, said: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    created = datetime.fromtimestamp(reply.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    frame = {"model": reply.model or asked.model, "created_at": created}
    if asked.verb == "generate":
        thinking = {"thinking": said["thinking"]} if said.get("thinking") else {}
        return {**frame, "response": said.get("content", ""), **thinking, **end}
    message = {"role": "assistant", "content": said.get("content", "")}
    message |= {name: said[name] for name in ("thinking", "tool_calls") if said.get(name)}
    return {**frame, "message": message, **end}


def _end(asked: Asked, reply: Reply) -> dict[str, Any]:
    end: dict[str, Any] = {
        "done": True,
        "done_reason": _DONE[reply.ending],
        "total_duration": 14_000_000,
        "load_duration": 1_000_000,
    }
    if asked.verb == "generate":
        end["context"] = [1, 2, 3]
    if reply.usage:
        end |= {"prompt_eval_count": reply.input_tokens, "prompt_eval_duration": 5_000_000}
        end |= {"eval_count": reply.output_tokens, "eval_duration": 8_000_000}
    return end
