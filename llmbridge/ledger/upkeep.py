"""What goes on beside the calls: syncing, hits, resolutions that found the ledger busy, expiry, checkpoints.

One daemon thread a ledger and process, asleep while nothing is dirty. A resolution that finds the lock taken is handed
over to it instead of waited for: until it is written the reservation stands, which overstates, and a cancelled task or
an event loop has nothing to wait for. If the process dies first, the reservation expires.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable

from llmbridge.errors import AlreadyResolved, LedgerBusy, LedgerError
from llmbridge.ledger import booking
from llmbridge.ledger.hits import Hits
from llmbridge.ledger.sqlite import File
from llmbridge.waiting import Pauses


log = logging.getLogger("llmbridge")
Step = Callable[[], object]
SYNC_S = 1.0
EXPIRY_S = 10.0


class Upkeep:
    """The thread, and what it is told. Every method may be called by the garbage collector, so none takes a lock:
    SimpleQueue is the one queue that is made for that."""

    def __init__(self, file: File, expire: Step, *, at_once: bool) -> None:
        self._file = file
        self.hits = Hits(file)
        self._expire = expire
        self._at_once = at_once  # sync as soon as somebody waits, instead of once a second
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._inbox: queue.SimpleQueue[Step | str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starter = threading.Lock()  # taken once, never waited for
        self._pending: dict[int, Step] = {}
        self._awake = False
        self._synced = 0
        self._tries = 0
        self._error: LedgerError | None = None
        self._stopped = False

    def after_fork(self) -> None:
        """In a child: the thread stayed in the parent, and so did what it had to do."""
        self.hits.after_fork()
        self._begin()

    def dirty(self) -> None:
        """Something was committed."""
        if not self._awake:
            self._awake = True
            self._wake(None)

    def later(self, step: Step) -> None:
        """Have *step* done as soon as the ledger is free; it raises LedgerBusy while it is not."""
        self._awake = True
        self._pending[id(step)] = step
        self._wake(step)

    @property
    def pending(self) -> bool:
        """Whether something that has happened is still to be written."""
        return bool(self._pending)

    def written(self, most_s: float = 2.0) -> Pauses[None]:
        """Pauses until nothing is pending, for whoever wants to see what this process did; *most_s* seconds at most."""
        give_up = time.monotonic() + most_s
        while self._pending and not self._stopped and time.monotonic() < give_up:
            yield 0.001

    def synced(self, commits: int) -> Pauses[None]:
        """Pauses until the disk holds this process's first *commits*. Raises LedgerError if it cannot."""
        tries = self._tries
        self._wake(None)
        while self._synced < commits:
            if self._error is not None and self._tries > tries:
                raise self._error
            if self._stopped or (self._thread is not None and not self._thread.is_alive()):
                self._synced = self._file.sync()  # at the interpreter's end
                return
            yield 0.0002

    def stop(self, *, wait_s: float = 0.0) -> None:
        """Do what is left to do, sync and end the thread."""
        self._stopped = True
        if self._thread is not None and self._thread.is_alive():
            self._inbox.put("stop")
            if wait_s:
                self.join(wait_s)

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to end."""
        return self._stopped

    def join(self, most_s: float) -> None:
        """Wait until the thread has ended, *most_s* seconds at most."""
        if self._thread is not None:
            self._thread.join(most_s)

    def _wake(self, message: Step | None) -> None:
        self._inbox.put(message)
        if self._thread is None and not self._stopped and self._starter.acquire(blocking=False):
            thread = threading.Thread(target=self.run, name="llmbridge-ledger", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is ending; expiry is the backstop
                thread.start()
            self._thread = thread

    def run(self) -> None:
        """The thread's life."""
        waiting: list[Step] = []
        expiry_at = sync_at = 0.0
        going = True
        while going:
            going = self._read(waiting)
            self._awake = False
            waiting = [step for step in waiting if not self._done(step)]
            if waiting:
                self._awake = True
                time.sleep(random.uniform(0.0005, 0.002))
            if self._write_hits not in waiting and not self._done(self._write_hits):
                waiting.append(self._write_hits)
            if self._at_once or not waiting or time.monotonic() >= sync_at:
                self._sync()
                sync_at = time.monotonic() + SYNC_S
            if time.monotonic() >= expiry_at:
                expiry_at = time.monotonic() + EXPIRY_S
                self._quietly(self._expire)
            if self._tidy not in waiting and not self._done(self._tidy):
                waiting.append(self._tidy)  # one try a second was not enough: beside busy writers the log only grew
        self._finish(waiting)

    def _write_hits(self) -> None:
        try:
            self.hits.write()
        except LedgerBusy:
            raise
        except Exception as error:
            log.warning("calls that were answered from the cache are not recorded yet: %s", error)

    def _tidy(self) -> None:
        try:
            self._file.checkpoint()
        except LedgerBusy:
            raise
        except Exception as error:
            log.warning("%s", error)

    def _read(self, waiting: list[Step]) -> bool:
        """Sleep until there is something to do, and for a second if it is not urgent; False at the end."""
        message = self._inbox.get() if not waiting else None
        if message is None and not waiting and not self._at_once:
            with contextlib.suppress(queue.Empty):
                message = self._inbox.get(timeout=SYNC_S)
        while True:
            if callable(message):
                waiting.append(message)
            elif message == "stop":
                return False
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return True

    def _done(self, step: Step) -> bool:
        try:
            step()
        except LedgerBusy:
            return False
        except AlreadyResolved as error:
            log.debug("%s", error)
        except LedgerError as error:
            log.warning("what a call cost could not be written; its reservation stands, and will expire: %s", error)
        except Exception:
            log.warning("what a call cost could not be written; its reservation stands, and will expire", exc_info=True)
        self._pending.pop(id(step), None)
        return True

    def _sync(self) -> None:
        try:
            self._synced = self._file.sync()
            self._error = None
        except LedgerError as error:
            self._error = error
            log.warning("%s", error)
        except OSError as error:
            self._error = LedgerError(f"{self._file.path} could not be synced: {error}")
        self._tries += 1

    def _quietly(self, step: Step) -> None:
        try:
            step()
        except LedgerBusy:
            pass  # next time
        except Exception as error:  # or nothing would ever be synced again
            log.warning("the ledger's upkeep goes on: %s: %s", type(error).__name__, error)

    def _finish(self, waiting: list[Step]) -> None:
        waiting.append(self._write_hits)
        give_up = time.monotonic() + 2.0
        while waiting and time.monotonic() < give_up:
            waiting = [step for step in waiting if not self._done(step)]
            time.sleep(0.001)
        self._sync()
        self._file.close_thread()


def join_stopped(most_s: float = 2.0) -> None:
    """Wait until the threads of ledgers that were dropped, and not closed, have written what was left."""
    for upkeep in list(_all):
        if upkeep.is_stopped:
            upkeep.join(most_s)


def expire(file: File, clock: Callable[[], float]) -> int:
    """Charge what is reserved by leases that are over; returns how many there were, at most as many as booking does."""
    with file.reading() as db:  # most often there is nothing, and then nobody has to wait for the lock
        if not (booking.is_due(db, int(clock() * 1e6)) or booking.is_behind(db)):
            return 0
    with file.transaction() as db:
        return booking.expire(db, booking.now_us(db, int(clock() * 1e6)))


_all: weakref.WeakSet[Upkeep] = weakref.WeakSet()


def _after_fork() -> None:
    for upkeep in list(_all):
        upkeep.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
