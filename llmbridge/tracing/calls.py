"""What a call tells the trace, and where its span begins."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from llmbridge.tracing import attempts
from llmbridge.tracing.attempts import AttemptTrace
from llmbridge.tracing.current import NOTHING
from llmbridge.tracing.harmless import harmless
from llmbridge.tracing.tracer import tracer


if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from llmbridge.completion import Completion, Embedding
    from llmbridge.record import AttemptRecord, CallRecord
    from llmbridge.request import Request


class CallTrace:
    """What a call tells the trace. This one is for a process without tracing: it does nothing."""

    __slots__ = ()

    @property
    def recording(self) -> bool:
        """Whether anybody will read it: what is told to the trace alone need not be found out otherwise."""
        return False

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
        """The answer is that of another call, which was under way: its leader. Once for each leader."""

    def end(self, error: BaseException | None = None, answer: Completion | Embedding | None = None) -> None:
        """The call is over, as its record says. Only the first time counts.

        *error* is what the caller catches, *answer* what it gets.
        """


OFF = CallTrace()


def begin(record: CallRecord, request: Request, *, stream: bool = False) -> CallTrace:
    """A call starts: its span, below whatever is current here. *request* is that to the first candidate.

    Sets `record.trace_id` if the span is recorded.
    """
    using = tracer()
    return OFF if using is None else _begin(using, record, request, stream)


@harmless(OFF)
def _begin(using: Tracer, record: CallRecord, request: Request, stream: bool) -> CallTrace:
    from llmbridge.tracing.recorded import RecordedCall

    return RecordedCall(using, record, request, stream=stream)
