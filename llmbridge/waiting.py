"""Pauses, and the two ways to spend them.

Whatever has to wait (a locked ledger, a back-off, a rate limit, another caller's flight) is written once, as a
generator that yields pauses in seconds; the sync verbs spend them asleep, the async verbs on the event loop. So a
cancellation can only land in a pause, between two steps of work and never inside one. Worker threads were tried
instead for the ledger: a cancelled task cannot stop its thread, and 13 to 26 of 60 reservations leaked per run.

asyncio is imported by what runs on an event loop, here and in all that a cached answer needs: with ssl and the rest of
it, it is a tenth of a short process that asks the cache in the sync colour.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from llmbridge.errors import LedgerBusy


T = TypeVar("T")
_waiting: set[object] = set()
Pauses = Generator[float, None, T]
_NOBODY: AbstractContextManager[object] = nullcontext()


class Waited:
    """How long one call has waited so far, for providers and in pauses: `with waited:` around each wait, in any
    thread. Waits at the same time count once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_s = 0.0
        self._clock = clock
        self._lock = threading.RLock()  # the collector may end an attempt inside it
        self._under_way = 0
        self._since = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._under_way:
                self._since = self._clock()
            self._under_way += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                self.total_s += self._clock() - self._since


def wait(pauses: Pauses[T], waited: AbstractContextManager[object] = _NOBODY) -> T:
    """Spend *pauses* (seconds) asleep, each within *waited*; returns what the generator returns."""
    try:
        while True:
            try:
                pause_s = next(pauses)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            with waited:
                time.sleep(pause_s)
    finally:
        pauses.close()  # now, and not when a traceback lets go of it: others may wait for what it holds


async def wait_async(pauses: Pauses[T], waited: AbstractContextManager[object] = _NOBODY) -> T:
    """Spend *pauses* (seconds) without blocking the event loop, each within *waited*; returns what the generator
    returns."""
    try:
        while True:
            try:
                pause_s = next(pauses)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            with waited:
                await _asleep(pause_s)
    finally:
        pauses.close()


async def _asleep(pause_s: float) -> None:
    import asyncio

    await asyncio.sleep(pause_s)


def patiently(step: Callable[[], T], patience_s: float) -> Pauses[T]:
    """What *step* returns, once the ledger is free; LedgerBusy if it is not for *patience_s* seconds.

    The pauses stay short. Backing off would let the one who has waited longest wait longest again: with 32 writers
    SQLite's own back-off made one wait for 5.8 s. They grow with the number of those who wait in this process, so that
    together these ask about once a millisecond: 64 threads that asked every one left the one that writes no
    turn of the interpreter, and took 10 s instead of 1.
    """
    give_up = time.monotonic() + patience_s
    me = object()
    try:
        while True:
            try:
                return step()
            except LedgerBusy:
                if time.monotonic() >= give_up:
                    raise
            _waiting.add(me)
            yield random.uniform(0.0002, 0.0015) * len(_waiting)
    finally:
        _waiting.discard(me)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)
