"""The span of one call."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from llmbridge import semconv
from llmbridge.errors import BudgetExceeded
from llmbridge.tracing import attempts, attributes, content
from llmbridge.tracing.attempts import AttemptTrace, RecordedAttempt
from llmbridge.tracing.current import NOTHING, Current
from llmbridge.tracing.failure import fail, fail_with, qualified
from llmbridge.tracing.harmless import harmless
from llmbridge.tracing.tracer import tracer


if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from llmbridge.completion import Completion, Embedding
    from llmbridge.record import AttemptRecord, CallRecord
    from llmbridge.request import Request


class CallTrace:
    """What a call tells the trace. This one is for a process without tracing: it does nothing."""

    __slots__ = ()

    @property
    def traceparent(self) -> str | None:
        """The call's span as W3C names it, for a follower's link(); None without one."""
        return None

    def attempt(self, record: AttemptRecord) -> AttemptTrace:
        """An attempt starts; its number, model and reason are on its record."""
        return attempts.OFF

    def current(self) -> AbstractContextManager[None]:
        """A block in which the call's span is the current one: around one step, never around a `yield`."""
        return NOTHING

    def event(self, name: str, **arguments: Any) -> None:
        """Something happened: an event of `semconv.EVENTS`, with its arguments; those that are None are left out."""

    def link(self, traceparent: str | None) -> None:
        """The answer is that of another call, which was under way: its leader."""

    def end(self, error: BaseException | None = None, answer: Completion | Embedding | None = None) -> None:
        """The call is over, as its record says. Only the first time counts.

        *error* is what the caller catches, *answer* what it gets.
        """


class RecordedCall(CallTrace):
    """The span of one call; `begin()` makes it."""

    __slots__ = ("_asked", "_context", "_ended", "_record", "_request", "_span", "_stream", "_tracer")

    def __init__(self, tracer: Tracer, record: CallRecord, request: Request, *, stream: bool) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._tracer, self._record, self._request, self._stream = tracer, record, request, stream
        self._ended = False
        self._asked: dict[str, str] = {}
        known = attributes.clean(attributes.of_request(record, request, stream=stream))
        name = f"{request.verb} {known[semconv.REQUEST_MODEL]}"
        self._span: Span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=known)
        self._context = set_span_in_context(self._span)
        if self._span.is_recording():
            record.trace_id = f"{self._span.get_span_context().trace_id:032x}"
            self._capture_request()

    @property
    def traceparent(self) -> str | None:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def attempt(self, record: AttemptRecord) -> AttemptTrace:
        return _attempt(self._tracer, self._context, record, self._request.verb)

    def current(self) -> AbstractContextManager[None]:
        return Current(self._context)

    @harmless(None)
    def event(self, name: str, **arguments: Any) -> None:
        if not self._span.is_recording():
            return
        self._span.add_event(name, attributes.of_event(name, arguments))
        if arguments.get("budget") is not None:
            self._span.set_attribute(semconv.BUDGET, arguments["budget"])

    @harmless(None)
    def link(self, traceparent: str | None) -> None:
        from opentelemetry.trace import get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if traceparent is not None and traceparent != self.traceparent:
            carried = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, context={})  # type: ignore[arg-type]
            self._span.add_link(get_current_span(carried).get_span_context())

    @harmless(None)
    def end(self, error: BaseException | None = None, answer: Completion | Embedding | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        try:
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
        if any(attempt.reserved_usd is not None for attempt in record.attempts):
            self.event("llmbridge.budget.settled", actual_usd=record.cost_usd)
        found = attributes.of_call(record)
        if self._stream:
            found |= attributes.of_stream(record)
        if answer is not None:
            found |= attributes.of_answer(answer)
        self._span.set_attributes(attributes.clean(found))
        if answer is not None:
            self._capture_answer(answer)

    def _judge(self, error: BaseException | None) -> None:
        """A call that was answered, or whose reader had enough, has not failed."""
        if isinstance(error, BudgetExceeded):
            self._span.set_attribute(semconv.BUDGET, error.budget)
        if self._record.outcome not in ("failed", "cancelled"):
            return
        if error is not None:
            fail_with(self._span, error)
        elif self._record.error_type is not None:
            fail(self._span, qualified(self._record.error_type), self._record.error_type)

    @harmless(None)
    def _capture_request(self) -> None:
        """Now: the messages are the caller's to change meanwhile."""
        if content.wanted() and self._request.verb == "chat":
            self._asked = content.of_request(self._request)
            if content.on_span():
                self._span.set_attributes(self._asked)

    @harmless(None)
    def _capture_answer(self, answer: Completion | Embedding) -> None:
        if content.wanted() and self._request.verb == "chat":
            said = content.of_answer(answer)
            if content.on_span():
                self._span.set_attributes(said)
            if content.as_event():
                content.emit({**self._asked, **said}, self._context, self._record)


OFF = CallTrace()


def begin(record: CallRecord, request: Request, *, stream: bool = False) -> CallTrace:
    """A call starts: its span, below whatever is current here. *request* is that to the first candidate.

    Sets `record.trace_id` if the span is recorded.
    """
    using = tracer()
    return OFF if using is None else _begin(using, record, request, stream)


@harmless(OFF)
def _begin(using: Tracer, record: CallRecord, request: Request, stream: bool) -> CallTrace:
    return RecordedCall(using, record, request, stream=stream)


@harmless(attempts.OFF)
def _attempt(using: Tracer, context: Any, record: AttemptRecord, verb: str) -> AttemptTrace:
    return RecordedAttempt(using, context, record, verb)
