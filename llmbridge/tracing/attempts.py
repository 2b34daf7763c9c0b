"""What an attempt tells the trace."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from llmbridge.tracing.current import NOTHING


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


OFF = AttemptTrace()
