"""The span of one attempt."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from llmbridge.tracing import attributes
from llmbridge.tracing.current import NOTHING, Current
from llmbridge.tracing.failure import fail, qualified
from llmbridge.tracing.harmless import harmless


if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from llmbridge.record import AttemptRecord


class AttemptTrace:
    """What an attempt tells the trace. This one is for a process without tracing: it does nothing."""

    __slots__ = ()

    def current(self) -> AbstractContextManager[None]:
        """A block in which the attempt's span is the current one: around one step, never around a `yield`."""
        return NOTHING

    def headers(self) -> dict[str, str]:
        """What carries the trace on to a provider (traceparent, and baggage if the caller has any). To be sent only
        if the caller asked for it."""
        return {}

    def event(self, name: str, **arguments: Any) -> None:
        """Something happened: an event of `semconv.EVENTS`, with its arguments; those that are None are left out."""

    def end(self) -> None:
        """The attempt is over, as its record says. Only the first time counts."""


class RecordedAttempt(AttemptTrace):
    """The span of one attempt, below its call's."""

    __slots__ = ("_context", "_ended", "_record", "_span")

    def __init__(self, tracer: Tracer, context: Context, record: AttemptRecord, verb: str) -> None:
        from opentelemetry.trace import set_span_in_context

        self._ended = False
        self._record = record
        self._span: Span = tracer.start_span(
            f"attempt {record.model}", context, attributes=attributes.of_attempt(record)
        )
        self._context = _claimed(set_span_in_context(self._span, context), verb)

    def current(self) -> AbstractContextManager[None]:
        return Current(self._context)

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._inject(carrier)
        return carrier

    @harmless(None)
    def _inject(self, carrier: dict[str, str]) -> None:
        from opentelemetry.propagate import inject

        inject(carrier, self._context)

    @harmless(None)
    def event(self, name: str, **arguments: Any) -> None:
        self._span.add_event(name, attributes.of_event(name, arguments))

    @harmless(None)
    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        record = self._record
        try:
            if self._span.is_recording():
                self._span.set_attributes(attributes.clean(attributes.of_attempt_end(record)))
                if record.error_type is not None and record.outcome in ("failed", "cancelled"):
                    fail(self._span, qualified(record.error_type), record.error or record.error_type)
        finally:
            self._span.end()


def _claimed(context: Context, verb: str) -> Context:
    """*context* with the mark by which instrumentations of SDKs below know that this request has its span: they would
    make a second one. Whoever looks for the mark has imported the module that names it."""
    from opentelemetry.context import set_value

    module = sys.modules.get("opentelemetry.util.genai.invocation")
    key, kind = ("EMBEDDING_CONTEXT_KEY", "EmbeddingData") if verb == "embeddings" else _INFERENCE
    if module is None or not hasattr(module, key):
        return context
    made = getattr(module, kind, dict)
    return set_value(getattr(module, key), made(), context)


_INFERENCE = ("CLIENT_INFERENCE_CONTEXT_KEY", "InferenceData")
OFF = AttemptTrace()
