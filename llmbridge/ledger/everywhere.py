"""Budgets around every call of this process, whichever Bridge makes it."""

from __future__ import annotations

from collections.abc import Sequence

from llmbridge.ledger.budget import Budget, distinct


_budgets: tuple[Budget, ...] = ()


def cap_every_call(budgets: Sequence[Budget]) -> None:
    """Have every call from now on, in all threads and tasks of the process, counted by *budgets* as well.

    For good: a thread that outlives a program's last line, or what runs at exit, would spend without them.
    """
    global _budgets  # not a ContextVar, which a new thread begins without
    _budgets = distinct([*_budgets, *budgets])


def budgets_everywhere() -> tuple[Budget, ...]:
    """What cap_every_call() was given."""
    return _budgets
