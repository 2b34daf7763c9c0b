"""Single flight: equal requests that are under way at the same time make one provider call.

Whoever comes first leads; the others wait and get its answer. Within a process the leader hands its answer over as it
is; between processes the answer comes from the cache, and who leads is a lock on one byte of a file, the key's, which
the kernel gives back when its holder ends in whatever way. So a leader that fails, is cancelled or is killed is
followed by exactly one of those who wait, at once and without a lease to run out. A lease in the cache was rejected: it
would have to be longer than the slowest answer, and a killed leader's followers would wait for all of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from llmbridge.cache.entry import Entry
from llmbridge.waiting import Pauses


try:
    import fcntl
except ImportError:  # Windows: each process leads for itself
    fcntl = None  # type: ignore[assignment]

LOOK_S = 0.005  # between two looks at a leader; a provider takes a hundred times as long
_under_way: dict[tuple[Path, str], Flight] = {}
_files: dict[Path, int] = {}


class Flight:
    """One key that somebody in this process is getting the answer to. `landed` is set once, with the answer if there is
    one."""

    def __init__(self, directory: Path, key: str) -> None:
        self._place = directory, key
        self._locked = False
        self.thread = threading.get_ident()
        self.waiting = 0
        self.landed = False
        self.entry: Entry | None = None

    def land(self, entry: Entry | None) -> None:
        """End the flight: hand *entry* to those who wait, or the lead to one of them. May run in the garbage collector,
        and twice."""
        if self.landed:
            return
        self.entry, self.landed = entry, True
        if self._locked:  # before another thread can take the lead: locks are the process's, and it would lose its own
            self._locked = False
            directory, key = self._place
            if (file := _files.get(directory)) is not None:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, _byte(key))
        if _under_way.get(self._place) is self:
            del _under_way[self._place]

    def take_lead(self) -> bool:
        """Whether no other process leads."""
        directory, key = self._place
        if fcntl is None or self._locked:
            return True
        try:
            file = _files.get(directory)
            if file is None:
                file = _files.setdefault(directory, os.open(directory / "flights", os.O_RDWR | os.O_CREAT, 0o600))
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(key))
        except BlockingIOError:
            return False
        except OSError:
            return True  # a directory that does not work: the cache says so
        self._locked = True
        return True


def join(
    directory: Path, key: str, recall: Callable[[], Entry | None], *, blocking: bool
) -> Pauses[Flight | Entry | None]:
    """Pauses until *key* is answered by somebody else, or this caller is to lead: then it lands the Flight, whatever
    happens. None if it cannot wait: it is *blocking*, and the leader is a task of its own thread.
    """
    while True:
        flight = Flight(directory, key)
        other = _under_way.setdefault((directory, key), flight)
        if other is flight:
            return (yield from _led(flight, recall))
        if blocking and other.thread == threading.get_ident():
            return None
        other.waiting += 1
        while not other.landed:
            yield LOOK_S * max(1.0, other.waiting / 50)  # a thousand who look every 5 ms do nothing else
        if other.entry is not None:
            return other.entry


def _led(flight: Flight, recall: Callable[[], Entry | None]) -> Pauses[Flight | Entry]:
    """Lead, in this process; the answer may come from another one meanwhile."""
    leads = False
    try:
        while not flight.take_lead():
            yield LOOK_S
        entry = recall()  # by whoever led before
        if entry is None:
            leads = True
            return flight
        flight.land(entry)
        return entry
    finally:
        if not leads:
            flight.land(None)


def _byte(key: str) -> int:
    return int(key[:15], 16)


def _after_fork() -> None:
    _under_way.clear()  # the parent's; the locks stayed with it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
