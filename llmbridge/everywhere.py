"""What holds for every call of this process, whichever Bridge makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmbridge.events import Listeners
from llmbridge.ledger import Budget, distinct
from llmbridge.record import CallRecord


_budgets: tuple[Budget, ...] = ()
heard = Listeners()  # besides those of each Bridge


def cap_every_call(budgets: Sequence[Budget]) -> None:
    """Have every call from now on, in all threads and tasks of the process, counted by *budgets* as well.

    For good: a thread that outlives a program's last line, or what runs at exit, would spend without them.
    """
    global _budgets  # not a ContextVar, which a new thread begins without
    _budgets = distinct([*_budgets, *budgets])


def hear_every_call(listener: Callable[[CallRecord], None]) -> Callable[[], None]:
    """Bridge.subscribe() to all Bridges, also to those that are not made yet."""
    return heard.add(listener, (CallRecord,))


def budgets() -> tuple[Budget, ...]:
    """What cap_every_call() was given."""
    return _budgets
