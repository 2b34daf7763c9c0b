"""Pauses, and the two ways to spend them.

Whatever has to wait (a locked ledger, a back-off, a rate limit, another caller's flight) is written once, as a
generator that yields pauses in seconds; the sync verbs spend them asleep, the async verbs on the event loop. So a
cancellation can only land in a pause, between two steps of work and never inside one. Worker threads were tried
instead for the ledger: a cancelled task cannot stop its thread, and 13 to 26 of 60 reservations leaked per run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from llmbridge.errors import LedgerBusy


T = TypeVar("T")
_waiting: set[object] = set()
Pauses = Generator[float, None, T]


def wait(pauses: Pauses[T]) -> T:
    """Spend *pauses* (seconds) asleep; returns what the generator returns."""
    try:
        while True:
            try:
                pause_s = next(pauses)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            time.sleep(pause_s)
    finally:
        pauses.close()  # now, and not when a traceback lets go of it: others may wait for what it holds


async def wait_async(pauses: Pauses[T]) -> T:
    """Spend *pauses* (seconds) without blocking the event loop; returns what the generator returns."""
    try:
        while True:
            try:
                pause_s = next(pauses)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            await asyncio.sleep(pause_s)
    finally:
        pauses.close()


def patiently(step: Callable[[], T], patience_s: float) -> Pauses[T]:
    """What *step* returns, once the ledger is free; LedgerBusy if it is not for *patience_s* seconds.

    The pauses stay short. Backing off would let the one who has waited longest wait longest again: with 32 writers
    SQLite's own back-off made one wait for 5.8 s. They grow with the number of those who wait in this process: 64
    threads that ask every millisecond left the one that writes no turn of the interpreter, and took 10 s instead of 1.
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
            yield random.uniform(0.0002, 0.0015) * max(1.0, len(_waiting) / 8)
    finally:
        _waiting.discard(me)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)
