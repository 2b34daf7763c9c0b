"""A step and a request become a play: the bytes to send, their pace, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal

from . import anthropic, bedrock, cohere, gemini, huggingface, ollama, openai, replicate
from .steps import Fault, Reply, Step
from .wire import EMBEDDING, Asked, Seen, encode


JSON = "application/json"
FORMATS: dict[str, Any] = {
    "openai": openai,
    "anthropic": anthropic,
    "gemini": gemini,
    "ollama": ollama,
    "cohere": cohere,
    "replicate": replicate,
    "bedrock": bedrock,
    "huggingface": huggingface,
}
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Play:
    """Send *head*, then each of *parts* with *gap_s* between them, then do as *end* says."""

    head: bytes
    parts: Sequence[bytes] = ()
    end: Literal["keep", "close", "reset", "hang"] = "keep"
    delay_s: float = 0
    gap_s: float = 0


def play(asked: Asked | None, seen: Seen, step: Step) -> Play:
    """What to send for *step*; a request that no format knows gets a 404."""
    if asked is None:
        return _whole(404, encode({"error": f"no provider answers {seen.method} {seen.path}"}))
    if asked.verb == "show":
        return _whole(200, encode(ollama.show(asked)))
    if asked.verb == "models" and isinstance(step, Reply):
        return _whole(200, encode(_models(asked)))
    return _right(asked, step) if isinstance(step, Reply) else _wrong(asked, step)


def _models(asked: Asked) -> dict[str, Any]:
    """A list of models in the shape of its format, the same for all; OpenAI's is Ollama's too."""
    names = ("gpt-4o-mini", "claude-haiku-4-5-20251001", "gemini-2.5-flash", "llama3.2:latest")
    if asked.format == "gemini":
        return {"models": [{"name": f"models/{name}"} for name in names]}
    kind = {"object": "model", "created": 0, "owned_by": "simulator"}
    if asked.format == "anthropic":
        kind = {"type": "model", "display_name": "simulated", "created_at": "2025-10-01T00:00:00Z"}
    return {"object": "list", "data": [{"id": name, **kind} for name in names], "has_more": False}


def _right(asked: Asked, reply: Reply) -> Play:
    format = FORMATS[asked.format]
    headers = {**format.HEADERS, **reply.headers}
    if asked.stream:
        events = [_chunk(event) for event in format.events(asked, reply)]
        # The end goes with the last event, so that nothing comes after a stream's [DONE].
        parts = [*events[:-1], events[-1] + LAST_CHUNK]
        head = _head(200, format.STREAM_TYPE, None, headers)
        return Play(head, parts, delay_s=reply.delay_s, gap_s=reply.gap_s)
    make = format.embedding if asked.verb in EMBEDDING else format.plain
    return replace(_whole(200, encode(make(asked, reply)), JSON, headers), delay_s=reply.delay_s)


def _wrong(asked: Asked, fault: Fault) -> Play:
    if fault.kind in ("reset", "drip"):
        return _bytewise(_right(asked, fault.reply), fault)
    if fault.kind in ("hang", "cut"):
        return _early(asked, fault)
    if fault.kind == "stream_error" and asked.stream:
        return _broken(asked, fault)
    return _failure(asked, fault)


def _failure(asked: Asked, fault: Fault) -> Play:
    """A whole answer with a body that is no completion."""
    if fault.content is not None:
        return _whole(fault.code, fault.content, fault.content_type, fault.headers)
    format = FORMATS[asked.format]
    if fault.kind in ("stream_error", "error_in_200"):
        return _whole(200, encode(format.error(500)[1]), JSON, format.HEADERS)
    code, body = format.error(fault.code, fault.cause, asked.key)
    body = body if fault.error is None else fault.error
    return _whole(code, encode(body), JSON, {**format.HEADERS, **fault.headers})


def _bytewise(right: Play, fault: Fault) -> Play:
    """A right answer's bytes, up to a reset or one by one."""
    sent = right.head + b"".join(right.parts)
    if fault.kind == "reset":
        return replace(right, head=sent[: fault.after_bytes], parts=(), end="reset")
    singles = [sent[i : i + 1] for i in range(1, len(sent))]
    return replace(right, head=sent[:1], parts=singles, gap_s=fault.reply.gap_s)


def _early(asked: Asked, fault: Fault) -> Play:
    """A right answer that stops before its end."""
    if fault.kind == "hang" and fault.after_events is None:
        return Play(b"", end="hang")
    if not asked.stream:
        return _half(asked, fault)
    right = _right(asked, fault.reply)
    parts = [part.removesuffix(LAST_CHUNK) for part in right.parts][: fault.after_events]
    if fault.kind == "hang":
        return replace(right, parts=parts, end="hang")
    if fault.clean:
        return replace(right, parts=[*parts, LAST_CHUNK])
    return replace(right, parts=parts, end="close")


def _half(asked: Asked, fault: Fault) -> Play:
    """Half of a body, or none of it after no events; only a clean cut owns up to the length."""
    right = _right(asked, fault.reply)
    head, _, body = right.head.partition(b"\r\n\r\n")
    body = body[: len(body) // 2] if fault.after_events else b""
    if fault.kind == "cut" and fault.clean:
        return _whole(200, body)
    return replace(right, head=head + b"\r\n\r\n" + body, end="hang" if fault.kind == "hang" else "close")


def _broken(asked: Asked, fault: Fault) -> Play:
    """A stream with an error event in place of its rest."""
    right = _right(asked, fault.reply)
    parts = [part.removesuffix(LAST_CHUNK) for part in right.parts][: fault.after_events]
    error = _chunk(FORMATS[asked.format].error_event(fault.error))
    return replace(right, parts=[*parts, error + LAST_CHUNK])


def _whole(code: int, body: bytes, content_type: str = JSON, headers: Mapping[str, str] | None = None) -> Play:
    return Play(_head(code, content_type, len(body), headers or {}) + body)


def _head(code: int, content_type: str, length: int | None, headers: Mapping[str, str]) -> bytes:
    try:
        reason = HTTPStatus(code).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {code} {reason}", f"content-type: {content_type}"]
    lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
