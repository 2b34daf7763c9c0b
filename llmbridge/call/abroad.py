"""Streams that other processes wait for.

A stream is read at the pace of whoever opened it, and another process can have its answer only whole. So one thread
looks ten times a second, while streams lead, whether somebody elsewhere waits for one: then it is read on at once.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from llmbridge.call.flight import Flight

LOOK_S = 0.1
_lock = threading.Lock()
_flights: set[Flight] = set()
_thread: threading.Thread | None = None


def watch(flight: Flight) -> None:
    """Have the stream of *flight* read on when another process waits for it."""
    global _thread
    with _lock:
        _flights.add(flight)
        if _thread is not None:
            return
        _thread = threading.Thread(target=_look, name="llmbridge-abroad", daemon=True)
    try:
        _thread.start()
    except RuntimeError:  # no more threads: others wait for the reader
        _thread = None


def _look() -> None:
    global _thread
    while True:
        time.sleep(LOOK_S)
        with _lock:
            _flights.difference_update([flight for flight in _flights if flight.stream is None])
            if not _flights:
                _thread = None
                return
            flights = list(_flights)
        for flight in flights:
            if (stream := flight.stream) is not None:
                stream.read_abroad(flight.is_waited_for_abroad())


def _after_fork() -> None:
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    _flights.clear()  # the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
