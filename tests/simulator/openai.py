"""OpenAI chat completions and embeddings, with DeepSeek's `reasoning_content`."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

from .steps import Cause, Reply, split
from .wire import Asked, sse, vector


STREAM_TYPE = "text/event-stream; charset=utf-8"
HEADERS = {"x-request-id": "req_simulated"}

_ERRORS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "Invalid value for 'messages'."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-****."),
    403: ("invalid_request_error", "unsupported_country_region_territory", "Region not supported."),
    404: ("invalid_request_error", "model_not_found", "The model `missing` does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests per min (RPM)."),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
}


def plain(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The whole answer as one object."""
    texts = reply.choices(asked.body.get("n") or 1)
    body = _frame("chat.completion", asked, reply)
    body["choices"] = [_choice(index, text, reply) for index, text in enumerate(texts)]
    if reply.usage:
        body["usage"] = _usage(reply)
    return body


def events(asked: Asked, reply: Reply) -> list[bytes]:
    """The answer as stream events; usage only if it was asked for, as the real one does."""
    texts = reply.choices(asked.body.get("n") or 1)
    wants_usage = bool((asked.body.get("stream_options") or {}).get("include_usage"))
    frame = _frame("chat.completion.chunk", asked, reply)
    if wants_usage and reply.usage:
        frame["usage"] = None
    sent = [
        sse({**frame, "choices": [choice]})
        for index, text in enumerate(texts)
        for choice in _deltas(index, text, reply)
    ]
    if reply.usage_unasked:
        *_, last = _deltas(0, texts[0], reply)
        sent[-1] = sse({**frame, "choices": [last], "usage": _usage(reply)})
    elif wants_usage and reply.usage:
        sent.append(sse({**frame, "choices": [], "usage": _usage(reply)}))
    return [*sent, b"data: [DONE]\n\n"]


def embedding(asked: Asked, reply: Reply) -> dict[str, Any]:
    """One vector per input, as floats or, if asked for, base64."""
    given = asked.body.get("input", "")
    count = len(given) if isinstance(given, list) and not _is_tokens(given) else 1
    dimensions = asked.body.get("dimensions") or 8
    vectors = reply.vectors or [vector(row, dimensions) for row in range(count)]
    packed = asked.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": _pack(row) if packed else list(row)}
        for i, row in enumerate(vectors)
    ]
    body: dict[str, Any] = {"object": "list", "data": data, "model": reply.model or asked.model}
    if reply.usage:
        body["usage"] = {"prompt_tokens": reply.input_tokens, "total_tokens": reply.input_tokens}
    return body


def error(code: int, cause: Cause = "status", key: str = "") -> tuple[int, dict[str, Any]]:
    """The status and body of an error."""
    kind, name, message = _ERRORS.get(code, _ERRORS[500])
    param = None
    if cause == "context_window":
        name, param = "context_length_exceeded", "messages"
        message = (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in "
            "10001 tokens. Please reduce the length of the messages."
        )
    elif cause == "content_filter":
        name = "content_policy_violation"
        message = "Your request was rejected as a result of our safety system."
    elif cause == "echo_key":
        message = (
            f"Incorrect API key provided: {key}. "
            "You can find your API key at https://platform.openai.com/account/api-keys."
        )
    return code, {"error": {"message": message, "type": kind, "param": param, "code": name}}


def error_event(error: Any = None) -> bytes:
    """An error in the middle of a stream."""
    return sse({"error": error} if error else _error_body())


def _error_body() -> dict[str, Any]:
    return error(500)[1]


def _frame(kind: str, asked: Asked, reply: Reply) -> dict[str, Any]:
    return {
        "id": reply.id or "chatcmpl-simulated",
        "object": kind,
        "created": reply.created,
        "model": reply.model or asked.model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }


def _choice(index: int, text: str, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text or None if reply.tool_calls or reply.refusal else text,
        "refusal": reply.refusal,
        "annotations": [],
    }
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [
            _call(number, name, json.dumps(arguments)) for number, (name, arguments) in enumerate(reply.tool_calls)
        ]
    logprobs = _logprobs(reply.chunks(text)) if reply.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reply.ending}


def _deltas(index: int, text: str, reply: Reply) -> Iterator[dict[str, Any]]:
    """Every `choices` entry of one choice, in order."""

    def entry(delta: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    yield entry({"role": "assistant", "content": None if reply.tool_calls else "", "refusal": None})
    for piece in split(reply.reasoning or ""):
        yield entry({"reasoning_content": piece})
    for piece in reply.chunks(text):
        yield entry({"content": piece}, _logprobs((piece,)) if reply.logprobs else None)
    for piece in split(reply.refusal or ""):
        yield entry({"refusal": piece})
    for number, (name, arguments) in enumerate(reply.tool_calls):
        yield entry({"tool_calls": [{"index": number, **_call(number, name, "")}]})
        for piece in split(json.dumps(arguments)):
            yield entry({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
    yield entry({}, finish=reply.ending)


def _call(number: int, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_simulated{number}", "type": "function", "function": function}


def _logprobs(pieces: tuple[str, ...]) -> dict[str, Any]:
    tokens = [
        {"token": piece, "logprob": -0.125, "bytes": list(piece.encode()), "top_logprobs": []} for piece in pieces
    ]
    return {"content": tokens, "refusal": None}


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reply.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _is_tokens(given: list[Any]) -> bool:
    return bool(given) and all(isinstance(token, int) for token in given)


def _pack(row: Any) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()
