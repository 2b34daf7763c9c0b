"""What a forked child makes anew: locks that another thread may have held, and what calls hold that the parent ends."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class _Renewed(Protocol):
    def after_fork(self) -> None: ...


_alive: weakref.WeakSet[_Renewed] = weakref.WeakSet()


def renew_after_fork(thing: _Renewed) -> None:
    """Have *thing*.after_fork() called in every child, for as long as it lives."""
    _alive.add(thing)


def _after_fork() -> None:
    for thing in list(_alive):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
