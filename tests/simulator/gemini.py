"""Gemini (Google AI Studio) content generation and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .steps import Cause, Reply, split
from .wire import Asked, sse, vector


STREAM_TYPE = "text/event-stream"
HEADERS: dict[str, str] = {}

_FINISHES = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
}
_ERRORS = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission."),
    404: ("NOT_FOUND", "models/missing is not found for API version v1beta."),
    429: ("RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan."),
    500: ("INTERNAL", "An internal error has occurred."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "The request timed out. Please try again."),
}


def plain(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The whole answer as one object."""
    texts = reply.choices(_count(asked))
    thoughts = [reply.reasoning] if reply.reasoning else []
    candidates = [
        _candidate(index, _parts(thoughts, [text] if text else [], reply), _FINISHES[reply.ending])
        for index, text in enumerate(texts)
    ]
    return _body(asked, reply, candidates, last=True)


def events(asked: Asked, reply: Reply) -> list[bytes]:
    """The answer as stream events: one part each, the last of a candidate with its finish."""
    candidates = []
    for index, text in enumerate(reply.choices(_count(asked))):
        parts = _parts(split(reply.reasoning or ""), reply.chunks(text), reply)
        candidates += [_candidate(index, [part], None) for part in parts[:-1]]
        candidates.append(_candidate(index, parts[-1:], _FINISHES[reply.ending]))
    last = len(candidates) - 1
    return [sse(_body(asked, reply, [c], i == last)) for i, c in enumerate(candidates)]


def embedding(asked: Asked, reply: Reply) -> dict[str, Any]:
    """One vector (embedContent), one per request (batchEmbedContents), or one per instance (Vertex's predict)."""
    if asked.verb == "predict":
        return _predictions(asked, reply)
    requests = asked.body.get("requests") or [asked.body]
    vectors = reply.vectors or [vector(row, _size(each)) for row, each in enumerate(requests)]
    values = [{"values": list(row)} for row in vectors]
    if asked.verb == "embed":
        return {"embedding": values[0]}
    return {"embeddings": values}


def _predictions(asked: Asked, reply: Reply) -> dict[str, Any]:
    vectors = reply.vectors or [vector(row, 8) for row in range(len(asked.body.get("instances") or [None]))]
    counted = {"statistics": {"token_count": reply.input_tokens, "truncated": False}} if reply.usage else {}
    return {"predictions": [{"embeddings": {**counted, "values": list(row)}} for row in vectors]}


def error(code: int, cause: Cause = "status", key: str = "") -> tuple[int, dict[str, Any]]:
    """The status and body of an error; a prompt blocked by policy is a 200 without candidates."""
    if cause == "content_filter":
        usage = {"promptTokenCount": 9, "totalTokenCount": 9}
        return 200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage}
    word, message = _ERRORS.get(code, _ERRORS[500])
    if cause == "context_window":
        message = "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
    elif cause == "echo_key":
        message = f"API key not valid: {key}. Please pass a valid API key."
    return code, {"error": {"code": code, "message": message, "status": word}}


def error_event(error: Any = None) -> bytes:
    """An error in the middle of a stream."""
    word, message = _ERRORS[503]
    return sse({"error": error or {"code": 503, "message": message, "status": word}})


def _body(asked: Asked, reply: Reply, candidates: list[Any], last: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"candidates": candidates}
    if reply.usage:
        body["usageMetadata"] = _usage(reply) if last else _early_usage(reply)
    body["modelVersion"] = reply.model or asked.model
    body["responseId"] = reply.id or "simulated"
    return body


def _candidate(index: int, parts: list[Any], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
    if finish:
        candidate["finishReason"] = finish
    candidate["index"] = index
    return candidate


def _parts(thoughts: Sequence[str], spoken: Sequence[str], reply: Reply) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"text": piece, "thought": True} for piece in thoughts]
    parts += [{"text": piece} for piece in spoken]
    if reply.refusal:
        parts.append({"text": reply.refusal})
    for number, (name, arguments) in enumerate(reply.tool_calls):
        call = {"name": name, "args": dict(arguments), "id": f"call_simulated{number}"}
        parts.append({"functionCall": call})
    return parts or [{"text": ""}]


def _usage(reply: Reply) -> dict[str, Any]:
    usage = {
        **_early_usage(reply),
        "candidatesTokenCount": reply.output_tokens - reply.reasoning_tokens,
        "totalTokenCount": reply.input_tokens + reply.output_tokens,
    }
    if reply.reasoning_tokens:
        usage["thoughtsTokenCount"] = reply.reasoning_tokens
    return usage


def _early_usage(reply: Reply) -> dict[str, Any]:
    """What is known before the answer is complete: the prompt."""
    usage: dict[str, Any] = {
        "promptTokenCount": reply.input_tokens,
        "totalTokenCount": reply.input_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": reply.input_tokens}],
    }
    if reply.cached_tokens:
        usage["cachedContentTokenCount"] = reply.cached_tokens
        usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": reply.cached_tokens}]
    return usage


def _count(asked: Asked) -> int:
    """How many candidates were asked for; Gemini takes its names in either case, and so do we."""
    settings = asked.body.get("generationConfig") or {}
    return settings.get("candidateCount") or settings.get("candidate_count") or 1


def _size(request: dict[str, Any]) -> int:
    return request.get("outputDimensionality") or request.get("output_dimensionality") or 8
