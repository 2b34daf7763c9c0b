"""Single flight: equal requests that are under way at the same time make one provider call.

Whoever comes first leads; the others wait and get its answer. Within a process the leader hands its answer over as it
is, or chunk by chunk (shared.py); between processes the answer comes from the cache, and who leads is a lock on one
byte of a file, the key's, which the kernel gives back when its holder ends in whatever way. So a leader that fails, is
cancelled or is killed is followed by exactly one of those who wait, at once and without a lease to run out. A lease in
the cache was rejected: it would have to be longer than the slowest answer, and a killed leader's followers would wait
for all of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from llmbridge.cache import Entry
from llmbridge.call.shared import Reader, Shared
from llmbridge.waiting import Pauses


try:
    import fcntl
except ImportError:  # Windows: each process leads for itself
    fcntl = None  # type: ignore[assignment]

WAITING = 1 << 60  # above every key's byte
LOOK_S = 0.005  # between two looks at a leader; a provider takes a hundred times as long
_under_way: dict[tuple[Path, str], Flight] = {}
_files: dict[Path, int] = {}


class Flight:
    """One key that somebody in this process is getting the answer to. `landed` is set once, with the answer if there is
    one; `stream` is its chunks while they come; `traceparent` is the span of the call that leads."""

    def __init__(self, directory: Path, key: str, *, alone: bool) -> None:
        self._place = directory, key
        self.alone = alone or fcntl is None  # no other process can be told
        self._locked = self._waits = False
        self.thread = threading.get_ident()
        self.waiting = 0
        self.landed = False
        self.entry: Entry | None = None
        self.stream: Shared | None = None
        self.traceparent: str | None = None

    def register(self) -> Flight:
        """The flight that is under way for this one's key: itself, if there was none."""
        return _under_way.setdefault(self._place, self)

    def land(self, entry: Entry | None) -> None:
        # Each step by itself: Ctrl-C may strike between two, and then this runs again.
        if not self.landed:
            self.entry, self.landed = entry, True
        self.stream = None
        if self._locked:  # before another thread can take the lead: locks are the process's, and it would lose its own
            self._locked = False
            directory, key = self._place
            if (file := _files.get(directory)) is not None:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, _byte(key))
        self._wait_no_more()
        if _under_way.get(self._place) is self:
            del _under_way[self._place]

    def take_lead(self) -> bool:
        """Whether no other process leads."""
        if self.alone or self._locked:
            return True
        directory, key = self._place
        try:
            file = _files.get(directory)
            if file is None:
                file = _files.setdefault(directory, os.open(directory / "flights", os.O_RDWR | os.O_CREAT, 0o600))
            self._locked = True  # first: a byte that nobody has locked may be unlocked, for Ctrl-C's sake
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(key))
            self._wait_no_more()
        except BlockingIOError:
            self._locked = False
            self._wait_abroad()
        except OSError:  # a directory that does not work: the cache says so
            self._locked = False
            self.alone = True
        return self.alone or self._locked

    def _wait_abroad(self) -> None:
        """Tell the process that leads that another one waits: by a lock on a second byte, which many can share."""
        directory, key = self._place
        if not self._waits:
            self._waits = True
            try:
                fcntl.lockf(_files[directory], fcntl.LOCK_SH | fcntl.LOCK_NB, 1, WAITING + _byte(key))
            except OSError:  # the leader is looking
                self._waits = False

    def _wait_no_more(self) -> None:
        directory, key = self._place
        if self._waits and (file := _files.get(directory)) is not None:
            self._waits = False
            fcntl.lockf(file, fcntl.LOCK_UN, 1, WAITING + _byte(key))

    def is_waited_for_abroad(self) -> bool:
        """Whether another process waits for what this one leads."""
        directory, key = self._place
        file = _files.get(directory)
        if file is None or not self._locked:
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, WAITING + _byte(key))
        except OSError:
            return True
        fcntl.lockf(file, fcntl.LOCK_UN, 1, WAITING + _byte(key))
        return False


class Lead:
    """The right to ask, and the duty to land: a flight lands at the latest when its Lead is collected, wherever Ctrl-C
    struck or whoever forgot it."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self._process = os.getpid()

    def land(self, entry: Entry | None = None) -> None:
        """End the flight: hand *entry* to those who wait, or the lead to one of them. May run in the garbage collector,
        and twice."""
        if self._process == os.getpid():
            self.flight.land(entry)

    def __del__(self) -> None:
        self.land()


def join(
    directory: Path,
    key: str,
    recall: Callable[[], Entry | None] = lambda: None,
    *,
    blocking: bool,
    alone: bool = False,
    enter: Callable[[Shared], Reader | None] = lambda stream: None,
    follow: Callable[[str | None], None] = lambda traceparent: None,
) -> Pauses[Lead | Entry | Reader | None]:
    """Pauses until *key* is answered by somebody else (an Entry, or the Reader of a stream that has begun, if *enter*
    made one that wants chunks), or until this caller is to lead. None if it cannot wait: it is *blocking* and the
    leader is a task of its own thread, or nobody runs the leader's event loop.

    *recall* looks whether another process has answered it meanwhile. *alone*: there are no other processes. *follow*
    is told whose answer it is, if it is one of this process.
    """
    while True:
        lead = Lead(Flight(directory, key, alone=alone))
        other = lead.flight.register()
        if other is lead.flight:
            return (yield from _led(lead, recall))
        found = yield from _followed(other, enter, blocking=blocking)
        if found is not None:
            follow(other.traceparent)
        if found is not None or not other.landed:
            return found


def _led(lead: Lead, recall: Callable[[], Entry | None]) -> Pauses[Lead | Entry]:
    """Lead, in this process; the answer may come from another one meanwhile."""
    while not lead.flight.take_lead():
        yield LOOK_S
    entry = recall()  # by whoever led before
    if entry is None:
        return lead
    lead.land(entry)
    return entry


def _followed(
    other: Flight, enter: Callable[[Shared], Reader | None], *, blocking: bool
) -> Pauses[Entry | Reader | None]:
    """What comes of the *other* flight; None if it landed without an answer, or cannot be waited for."""
    other.waiting += 1
    reader: Reader | None = None
    while not other.landed:
        stream = other.stream
        if stream is None and blocking and other.thread == threading.get_ident():
            return None
        if stream is not None:
            if not stream.can_be_read(blocking=blocking):
                return None
            reader = reader or enter(stream)
        if reader is not None and reader.wants_chunks and reader.begun:
            return reader
        # A thousand who look every 5 ms do nothing else.
        yield LOOK_S * max(1.0, other.waiting / 50)
    if reader is not None:
        reader.leave()
    if other.entry is None:
        yield 0.0  # it may be about to leave the registry
    return other.entry


def _byte(key: str) -> int:
    return int(key[:15], 16)


def _after_fork() -> None:
    _under_way.clear()  # the parent's; the locks stayed with it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
