"""The spans themselves: of a call, and of an attempt. Imported by the first call that somebody traces, with the API."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, set_value
from opentelemetry.propagate import inject
from opentelemetry.trace import Span, SpanKind, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llmbridge import semconv
from llmbridge.errors import BudgetExceeded
from llmbridge.tracing import attempts, attributes, content
from llmbridge.tracing.attempts import AttemptTrace
from llmbridge.tracing.calls import CallTrace
from llmbridge.tracing.current import Current
from llmbridge.tracing.failure import fail, fail_with, qualified
from llmbridge.tracing.harmless import harmless


if TYPE_CHECKING:
    from llmbridge.completion import Completion, Embedding
    from llmbridge.record import AttemptRecord, CallRecord
    from llmbridge.request import Request

FAILED = ("failed", "cancelled")
_INFERENCE = ("CLIENT_INFERENCE_CONTEXT_KEY", "InferenceData")
_EMBEDDING = ("EMBEDDING_CONTEXT_KEY", "EmbeddingData")


class RecordedAttempt(AttemptTrace):
    """The span of one attempt, below its call's."""

    __slots__ = ("_context", "_ended", "_record", "_span", "_told")

    def __init__(self, tracer: Tracer, context: Context, record: AttemptRecord, verb: str) -> None:
        self._ended = False
        self._record = record
        self._told = attributes.of_attempt(record)
        self._span = tracer.start_span(f"attempt {record.model}", context, attributes=self._told)
        self._context = _claimed(set_span_in_context(self._span, context), verb)

    def current(self) -> Current:
        return Current(self._context)

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._inject(carrier)
        return carrier

    @harmless(None)
    def _inject(self, carrier: dict[str, str]) -> None:
        inject(carrier, self._context)

    @harmless(None)
    def event(self, name: str, **arguments: Any) -> None:
        if self._span.is_recording():
            self._span.add_event(name, attributes.of_event(name, arguments))

    @harmless(None)
    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        record = self._record
        try:
            if self._span.is_recording():
                _add(self._span, attributes.of_attempt_end(record), self._told)
                if record.error_type is not None and record.outcome in FAILED:
                    fail(self._span, qualified(record.error_type), record.error or record.error_type)
        finally:
            self._span.end()


class RecordedCall(CallTrace):
    """The span of one call; `begin()` makes it."""

    __slots__ = (
        "_asked",
        "_below",
        "_context",
        "_ended",
        "_leaders",
        "_record",
        "_request",
        "_reserved",
        "_span",
        "_stream",
        "_told",
        "_tracer",
    )

    def __init__(self, tracer: Tracer, record: CallRecord, request: Request, *, stream: bool) -> None:
        self._tracer, self._record, self._request, self._stream = tracer, record, request, stream
        self._ended = False
        self._asked: dict[str, str] = {}
        self._below: list[RecordedAttempt] = []
        self._leaders: list[str] = []
        self._reserved = False
        told = self._told = attributes.clean(attributes.of_request(record, request, stream=stream))
        name = f"{request.verb} {told[semconv.REQUEST_MODEL]}"
        span = self._span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=told)
        self._context = set_span_in_context(span)
        if span.is_recording():
            record.trace_id = f"{span.get_span_context().trace_id:032x}"
            if content.wanted():
                self._capture_request()

    @property
    def recording(self) -> bool:
        return self._span.is_recording()

    @property
    def traceparent(self) -> str | None:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    @harmless(attempts.OFF)
    def attempt(self, record: AttemptRecord) -> AttemptTrace:
        made = RecordedAttempt(self._tracer, self._context, record, self._request.verb)
        self._below.append(made)
        return made

    def current(self) -> Current:
        return Current(self._context)

    @harmless(None)
    def event(self, name: str, **arguments: Any) -> None:
        if not self._span.is_recording():
            return
        self._span.add_event(name, attributes.of_event(name, arguments))
        self._reserved = self._reserved or name == "llmbridge.budget.reserved"
        budget = arguments.get("budget")
        if budget is not None:
            self._span.set_attribute(semconv.BUDGET, budget)

    @harmless(None)
    def link(self, traceparent: str | None) -> None:
        if traceparent is not None and traceparent not in (self.traceparent, *self._leaders):
            self._leaders.append(traceparent)
            carried = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, context=Context())
            self._span.add_link(get_current_span(carried).get_span_context())

    @harmless(None)
    def end(self, error: BaseException | None = None, answer: Completion | Embedding | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            for each in self._below:  # Ctrl-C may have kept one from ending
                each.end()
            if self._span.is_recording():
                self._describe(answer)
                self._judge(error)
        finally:
            self._span.end()

    def _describe(self, answer: Completion | Embedding | None) -> None:
        record = self._record
        for alert in record.alerts:
            self.event(
                "llmbridge.budget.alert",
                budget=alert.budget,
                share=alert.share,
                passed=alert.passed or None,
                message=alert.message,
            )
        if self._reserved:
            self.event("llmbridge.budget.settled", actual_usd=record.cost_usd)
        found = attributes.of_call(record)
        if self._stream:
            found |= attributes.of_stream(record)
        if answer is not None:
            found |= attributes.of_answer(answer)
        _add(self._span, found, self._told)
        if answer is not None and content.wanted():
            self._capture_answer(answer)

    def _judge(self, error: BaseException | None) -> None:
        """A call that was answered, or whose reader had enough, has not failed."""
        if isinstance(error, BudgetExceeded):
            self._span.set_attribute(semconv.BUDGET, error.budget)
        if self._record.outcome not in FAILED:
            return
        if error is not None:
            fail_with(self._span, error)
        elif self._record.error_type is not None:
            fail(self._span, qualified(self._record.error_type), self._record.error_type)

    @harmless(None)
    def _capture_request(self) -> None:
        """Now: the messages are the caller's to change meanwhile."""
        if self._request.verb == "chat":
            self._asked = content.of_request(self._request)
            if content.on_span():
                self._span.set_attributes(self._asked)

    @harmless(None)
    def _capture_answer(self, answer: Completion | Embedding) -> None:
        if self._request.verb == "chat":
            said = content.of_answer(answer)
            if content.on_span():
                self._span.set_attributes(said)
            if content.as_event():
                content.emit({**self._asked, **said}, self._context, self._record)


def _add(span: Span, found: attributes.Attributes, told: attributes.Attributes) -> None:
    """Set what is *found* on *span*, less what it was *told* as it started: an SDK takes 2 microseconds for each."""
    new = {name: value for name, value in found.items() if value is not None and told.get(name) != value}
    span.set_attributes(attributes.clean(new))


def _claimed(context: Context, verb: str) -> Context:
    """*context* with the mark by which instrumentations of SDKs below know that this request has its span: they would
    make a second one. Whoever looks for the mark has imported the module that names it."""
    module = sys.modules.get("opentelemetry.util.genai.invocation")
    if module is None:
        return context
    key, kind = _EMBEDDING if verb == "embeddings" else _INFERENCE
    if not hasattr(module, key):
        return context
    made = getattr(module, kind, dict)
    return set_value(getattr(module, key), made(), context)
