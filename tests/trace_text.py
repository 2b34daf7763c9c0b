"""A trace as a few lines of text, to be compared as a whole: `text(spans)`.

    chat gpt-4o-mini CLIENT fallback.used                  name, kind, what is chosen of the attributes
    . retry ProviderUnavailable                            its events, without their prefix
      attempt openai/gpt-4o-mini ERROR ProviderUnavailable 503 initial failed

Times, ids, amounts and counts of tokens are left out: the contract (trace_contract.py) sees to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from llmbridge import semconv


SHOWN = (semconv.HTTP_STATUS, semconv.ATTEMPT_REASON, semconv.ATTEMPT_OUTCOME)
NAMED = (semconv.CACHE_HIT, semconv.FALLBACK_USED, semconv.COST_UNCERTAIN)
LABELLED = {semconv.STREAM_OUTCOME: "stream", semconv.BUDGET: "budget"}
TOLD = (
    semconv.BUDGET,
    semconv.ATTEMPT_MODEL,
    semconv.ERROR_TYPE,
    semconv.EXCEPTION_TYPE,
    "llmbridge.fallback.from",
    "llmbridge.fallback.to",
    "llmbridge.fallback.reason",
)


def text(spans: Iterable[ReadableSpan]) -> str:
    """*spans* as lines, parents before children, siblings by their start; whoever follows comes last."""
    all_spans = sorted(spans, key=lambda span: span.start_time or 0)
    known = {span.context.span_id for span in all_spans if span.context}
    roots = [span for span in all_spans if span.parent is None or span.parent.span_id not in known]
    roots.sort(key=lambda span: len(span.links))  # a follower may be first
    return "\n".join(line for root in roots for line in _lines(root, all_spans, 0)) + "\n"


def expected(golden: str, *, stream: bool) -> str:
    """What *golden* says of this verb: {what stands in braces} is for streams alone."""
    kept = re.sub(r"[{}]", "", golden) if stream else re.sub(r" ?\{.*?\}", "", golden)
    lines = [line.rstrip() for line in kept.splitlines() if line.strip()]
    depth = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[depth:] for line in lines) + "\n"


def _lines(span: ReadableSpan, all_spans: list[ReadableSpan], depth: int) -> Iterator[str]:
    indent = "  " * depth
    yield indent + " ".join([span.name, *_about(span)])
    for event in span.events:
        told = [_short(value) for name in TOLD if (value := dict(event.attributes or {}).get(name)) is not None]
        yield f"{indent}. {' '.join([event.name.removeprefix('llmbridge.'), *told])}"
    for child in all_spans:
        if child.parent is not None and span.context and child.parent.span_id == span.context.span_id:
            yield from _lines(child, all_spans, depth + 1)


def _about(span: ReadableSpan) -> Iterator[str]:
    has = dict(span.attributes or {})
    if span.kind is not SpanKind.INTERNAL:
        yield span.kind.name
    if span.status.status_code is not StatusCode.UNSET:
        yield f"{span.status.status_code.name} {_short(has.get(semconv.ERROR_TYPE))}"
    yield from (str(has[name]) for name in SHOWN if name in has)
    yield from (name.removeprefix("llmbridge.") for name in NAMED if has.get(name))
    yield from (f"{label}={has[name]}" for name, label in LABELLED.items() if name in has)
    if span.links:
        yield f"{len(span.links)} link"


def _short(value: Any) -> str:
    word = str(value)
    return word.rpartition(".")[2] if word.startswith(("llmbridge.", "asyncio.")) else word
