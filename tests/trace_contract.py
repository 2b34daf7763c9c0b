"""What holds for every span that llmbridge emits: `violations(spans)` is empty."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from llmbridge import redaction, semconv


CONTENT = (
    semconv.INPUT_MESSAGES,
    semconv.OUTPUT_MESSAGES,
    semconv.SYSTEM_INSTRUCTIONS,
    semconv.TOOL_DEFINITIONS,
)
OUTCOMES = {"completed", "closed", "cancelled", "abandoned", "error"}
REASONS = {"initial", "retry", "fallback", "hedge", "repair", "downgrade", "restart"}
CLASS = re.compile(r"[A-Za-z_][\w.]*")


def violations(spans: Iterable[ReadableSpan], *, content: bool = False, secrets: Iterable[str] = ()) -> list[str]:
    """What is wrong with *spans*, those of whole traces, one line each. *content*: prompts and answers were asked for;
    *secrets*: what may stand nowhere, besides every key that was ever handed out."""
    ours = [span for span in spans if span.instrumentation_scope and span.instrumentation_scope.name == semconv.SCOPE]
    found: list[str] = []
    for span in ours:
        rules = _call if _is_call(span) else _attempt if _is_attempt(span) else _function
        found += [f"{span.name}: {line}" for line in rules(span, ours)]
        found += [f"{span.name}: {line}" for line in _any_span(span, tuple(secrets), content=content)]
    return found


def _is_call(span: ReadableSpan) -> bool:
    return semconv.OPERATION in attributes(span)


def _is_attempt(span: ReadableSpan) -> bool:
    return semconv.ATTEMPT_NUMBER in attributes(span)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def _any_span(span: ReadableSpan, secrets: tuple[str, ...], *, content: bool) -> Iterator[str]:
    has, status = attributes(span), span.status.status_code
    if status is StatusCode.OK:
        yield "success leaves the status unset"
    if (status is StatusCode.ERROR) != (semconv.ERROR_TYPE in has):
        yield f"status {status.name} with error.type {has.get(semconv.ERROR_TYPE)!r}"
    if not CLASS.fullmatch(has.get(semconv.ERROR_TYPE, "x")):
        yield f"error.type {has[semconv.ERROR_TYPE]!r} is no class"
    exceptions = [event for event in span.events if event.name == semconv.EXCEPTION]
    if len(exceptions) > (status is StatusCode.ERROR):
        yield f"{len(exceptions)} exception events with status {status.name}"
    for name in CONTENT if not content else ():
        if name in has:
            yield f"{name} though nobody asked for content"
    texts = [span.name, span.status.description or "", *_texts(has)]
    texts += [text for event in span.events for text in _texts(dict(event.attributes or {}))]
    if redaction.holds_secret("\n".join(texts)) or any(secret in text for secret in secrets for text in texts):
        yield "a secret"
    if (span.start_time or 0) > (span.end_time or 0):
        yield "it ends before it starts"


def _texts(has: dict[str, Any]) -> list[str]:
    return [text for name, value in has.items() for text in (name, str(value))]


def _typed(has: dict[str, Any], table: dict[str, type]) -> Iterator[str]:
    for name, value in has.items():
        if name.startswith(semconv.TAG):
            kind: type = str
        elif name in table:
            kind = table[name]
        else:
            yield f"unknown attribute {name}"
            continue
        if type(value) is not kind:
            yield f"{name} is {type(value).__name__}, not {kind.__name__}"


def _events(span: ReadableSpan) -> Iterator[str]:
    for event in span.events:
        if event.name == semconv.EXCEPTION:
            continue
        if event.name not in semconv.EVENTS:
            yield f"unknown event {event.name}"
            continue
        for name, value in (event.attributes or {}).items():
            if name not in semconv.EVENTS[event.name].values():
                yield f"event {event.name} has unknown attribute {name}"
            if not isinstance(value, (str, bool, int, float)):
                yield f"event {event.name}: {name} is no scalar"


def _call(span: ReadableSpan, all_spans: list[ReadableSpan]) -> Iterator[str]:
    has = attributes(span)
    yield from _typed(has, semconv.CALL)
    yield from _events(span)
    yield from _stream(has)
    yield from _answer(span, has, all_spans)
    if span.kind is not SpanKind.CLIENT:
        yield f"kind {span.kind.name}"
    if span.name != f"{has[semconv.OPERATION]} {has.get(semconv.REQUEST_MODEL)}":
        yield "its name is no 'operation model'"
    missing = [name for name in (semconv.CALL_ID, semconv.CACHE_HIT, semconv.ATTEMPT_COUNT) if name not in has]
    if missing:
        yield f"lacks {', '.join(missing)}"


def _answer(span: ReadableSpan, has: dict[str, Any], all_spans: list[ReadableSpan]) -> Iterator[str]:
    children = [each for each in all_spans if _is_attempt(each) and each.parent and each.parent == span.context]
    if len(children) != has.get(semconv.ATTEMPT_COUNT):
        yield f"{has.get(semconv.ATTEMPT_COUNT)} attempts were counted and {len(children)} have a span"
    named = [each for each in children if "/" in str(attributes(each).get(semconv.ATTEMPT_MODEL, ""))]
    if named and semconv.PROVIDER not in has:  # a bare name that LiteLLM does not know is of nobody
        yield "something was asked, of no provider"
    if has.get(semconv.CACHE_HIT):
        if any(name.startswith("gen_ai.usage.") for name in has):
            yield "a cached answer has no usage"
        if children and semconv.CACHE_STALE not in has:  # a stale one is what is left when attempts have failed
            yield "a cached answer has no attempt"
    elif semconv.SAVED_USD in has or semconv.CACHE_AGE_S in has:
        yield "what is not cached saves nothing and has no age"
    reasons = {attributes(child)[semconv.ATTEMPT_REASON] for child in children}
    if has.get(semconv.FALLBACK_USED, False) != bool(reasons & {"fallback", "downgrade"}):
        yield f"fallback.used {has.get(semconv.FALLBACK_USED)} with attempts {sorted(reasons)}"


def _stream(has: dict[str, Any]) -> Iterator[str]:
    if has.get(semconv.STREAM_OUTCOME, "completed") not in OUTCOMES:
        yield f"stream.outcome {has[semconv.STREAM_OUTCOME]}"
    if semconv.STREAM not in has and {semconv.STREAM_OUTCOME, semconv.CHUNK_COUNT, semconv.FIRST_CHUNK_S} & has.keys():
        yield "it has what only a stream has"
    if semconv.STREAM in has and (semconv.STREAM_OUTCOME not in has or has[semconv.STREAM] is not True):
        yield "a stream without an outcome"


def _attempt(span: ReadableSpan, all_spans: list[ReadableSpan]) -> Iterator[str]:
    has = attributes(span)
    yield from _typed(has, semconv.ATTEMPT)
    yield from _events(span)
    if span.kind is not SpanKind.INTERNAL:
        yield f"kind {span.kind.name}"
    if span.name != f"attempt {has.get(semconv.ATTEMPT_MODEL)}":
        yield "its name is no 'attempt model'"
    if has.get(semconv.ATTEMPT_REASON) not in REASONS:
        yield f"reason {has.get(semconv.ATTEMPT_REASON)}"
    if any(event.name == semconv.EXCEPTION for event in span.events):
        yield "the exception event is the call's"
    parents = [each for each in all_spans if _is_call(each) and span.parent and each.context == span.parent]
    if not parents:
        yield "it is not below a call"
    for parent in parents:
        if (span.start_time or 0) < (parent.start_time or 0) or (span.end_time or 0) > (parent.end_time or 0):
            yield "it reaches beyond its call"


def _function(span: ReadableSpan, _: list[ReadableSpan]) -> Iterator[str]:
    yield from _typed(attributes(span), {semconv.ERROR_TYPE: str, semconv.STREAM_OUTCOME: str})
    if span.kind is not SpanKind.INTERNAL:
        yield f"kind {span.kind.name}"
