"""One transaction of one thread, as a `with` block that Ctrl-C and the garbage collector may strike anywhere."""

from __future__ import annotations

import os
import sqlite3
import sys
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from llmbridge.errors import LedgerBusy


try:
    import fcntl
except ImportError:  # Windows: SQLite's own locks alone
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from llmbridge.ledger.sqlite import File

Connection = sqlite3.Connection | sqlite3.Cursor
DAMAGE = (sqlite3.Error, UnicodeDecodeError)  # the second for texts and for messages that quote them
READ, WRITE, ALONE = "BEGIN", "BEGIN IMMEDIATE", ""  # the last: no transaction, but no writer either


class Thread:
    """What one thread has open: a connection, and the lock file. `inside` is the frame of its transaction.

    All statements of its writing share one cursor, since a new one each cost 3 microseconds a call: of a statement's
    rows nothing is left to read once the next one is executed.
    """

    def __init__(self, connection: sqlite3.Connection, lock: int | None) -> None:
        self.connection = connection
        self.cursor = connection.cursor()
        self.execute = self.cursor.execute
        self.lock = lock
        self.inside: FrameType | None = None
        self.wal: tuple[int, int] | None = None
        self.usable = True

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        self.usable = False
        self.connection.close()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def end(self) -> None:
        """Roll back what is not committed and give the lock file back."""
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error:  # not suppress(), which costs half a microsecond
            pass  # it may have been closed meanwhile
        finally:
            if self.lock is not None:
                fcntl.flock(self.lock, fcntl.LOCK_UN)
            self.inside = None

    def recover(self) -> None:
        """End a transaction that is over: Ctrl-C strikes at the entry of `__exit__` too, which then does nothing."""
        frame: FrameType | None = sys._getframe()  # noqa: SLF001
        while frame is not None:
            if frame is self.inside:
                return
            frame = frame.f_back
        self.end()


class Transaction:
    """`with` block around one transaction. A class, since contextlib's generators cost 2 microseconds more."""

    __slots__ = ("_begin", "_file", "_thread")

    def __init__(self, file: File, thread: Thread, begin: str) -> None:
        self._file, self._thread, self._begin = file, thread, begin

    def __enter__(self) -> Connection:
        thread = self._thread
        if thread.inside is not None:
            thread.recover()
            if thread.inside is not None:
                # The garbage collector runs anywhere, in the middle of this thread's own transaction too.
                raise LedgerBusy(f"{self._file.path} is in use by this very thread")
        thread.inside = sys._getframe(1)  # noqa: SLF001
        try:
            if not thread.usable:
                raise LedgerBusy(f"{self._file.path} is being closed")
            if self._begin != READ:
                self._file.lock(thread)
            if self._begin:
                thread.execute(self._begin)
        except BaseException as exc:
            thread.end()
            if not isinstance(exc, (*DAMAGE, OSError)):
                raise
            error = self._file.translated(exc)
        else:
            return thread.connection if self._begin == READ else thread.cursor
        raise error from None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None) -> None:
        try:
            if self._begin == WRITE:
                if exc is None:
                    self._thread.execute("COMMIT")
                    self._file.commits += 1
                else:
                    self._file.rollbacks += 1
        except sqlite3.Error as failure:
            self._file.rollbacks += 1
            exc = failure
        finally:
            self._thread.end()
        if isinstance(exc, DAMAGE):
            raise self._file.translated(exc) from None
