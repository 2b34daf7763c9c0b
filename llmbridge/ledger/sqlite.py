"""The ledger's file: SQLite in WAL mode, a connection for each thread and process, one writer at a time.

What is decided here, and why:

* `BEGIN IMMEDIATE` always: a transaction that reads first and writes later fails at once when another one wrote in
  between, whatever the busy timeout says.
* The busy timeout is 0 and a lock that is taken is a LedgerBusy at once; who waits, and how, is for the caller's colour
  to say. SQLite's own waiting backs off to 100 ms and let one of 32 writers wait for 5.8 s.
* A lock file beside the database, by flock, around every write and every checkpoint. SQLite up to 3.51.2 can corrupt a
  file when a commit races a checkpoint. An flock is of no use to strangers, so SQLite's locks stay on.
* Nothing but SQLite opens the database or its -shm: closing any descriptor of a file drops all POSIX locks that the
  process holds on it. The -wal carries no locks, so it can be synced from here.
* Commits do not sync (`synchronous=NORMAL`): `sync()` does, when the ledger says so. The first commit of a new log does
  all the same, so checkpoint() makes that one itself: it would hold up an event loop.
* Every connection is closed before a fork. SQLite keeps the locks of a process in memory, so a child with a copy of it
  takes none: its parent then removed the -wal under it, and what it had written was lost.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
import time
import weakref
from pathlib import Path

from llmbridge.errors import LedgerBusy, LedgerCorrupt, LedgerError
from llmbridge.home import mode_to_read
from llmbridge.ledger.place import identity, prepare, require, sync_directory
from llmbridge.ledger.schema import ADVICE, PAGE_BYTES, begin_log, is_new, migrate
from llmbridge.ledger.transaction import ALONE, DAMAGE, READ, WRITE, Connection, Thread, Transaction


try:
    import fcntl
except ImportError:  # Windows: SQLite's own locks alone
    fcntl = None  # type: ignore[assignment]

_AT_ONCE = fcntl.LOCK_EX | fcntl.LOCK_NB if fcntl is not None else 0
CHECKPOINT_BYTES = 4 * 1024 * 1024
CHECKPOINT_COMMITS = 500  # of this process, after which the log begins again at its start
FORK_S = 2.0  # how long a fork waits for other threads' transactions
_files: weakref.WeakSet[File] = weakref.WeakSet()
_unusable: set[Path] = set()  # what this process inherited in the middle of a transaction


class File:
    """One ledger's database. Opens it, or makes it; a missing directory is made, for the owner alone. One to read only
    is not made, and nothing in it or beside it is changed.

    Raises LedgerCorrupt if it is no ledger or cannot be read, LedgerError if it cannot be used.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.commits = 0  # of this process, so that a sync knows what it covers
        self.rollbacks = 0
        self._checkpointed = -CHECKPOINT_COMMITS
        self._local = threading.local()
        self._all: weakref.WeakSet[Thread] = weakref.WeakSet()
        self._opening = threading.Lock()  # never waited for but by a fork
        self._quiet = self._gated = True  # how the last fork went
        self._wal: int | None = None
        self._known = self._closed = False
        if read_only:
            require(path)
        else:
            prepare(path)
        self._inode = identity(self.path)
        _files.add(self)
        if read_only:
            with self.reading() as db:
                if is_new(db, path):
                    raise LedgerError(f"{path} is empty, and no ledger")
            return
        with self.transaction() as db:
            migrate(db, path)
            if self._wal_path.stat().st_size == 0:
                begin_log(db)
        self._open_wal()

    def __del__(self) -> None:
        self._close_wal()

    def transaction(self) -> Transaction:
        """A write transaction, committed at the end of the block. Raises LedgerBusy at once if there is another."""
        if self.read_only:
            raise LedgerError(f"{self.path} was opened to read only")
        return Transaction(self, self._thread(), WRITE)

    def reading(self) -> Transaction:
        """A snapshot to read from; waits for nobody. Raises as transaction()."""
        return Transaction(self, self._thread(), READ)

    def verify(self, db: Connection) -> None:
        """Raise LedgerCorrupt if SQLite finds the file damaged. Reads all of it."""
        (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise LedgerCorrupt(f"{self.path} is damaged ({found}): {ADVICE}")

    def sync(self) -> int:
        """Have the disk hold everything committed so far; returns the number of commits that are safe by it."""
        covered = self.commits
        if not covered:
            return 0
        try:
            if self._wal is None or os.fstat(self._wal).st_nlink == 0:
                self._open_wal()
            assert self._wal is not None
            _sync(self._wal)
        except FileNotFoundError:
            # SQLite synced what was in it, and removed it with the last connection. Or it was somebody else.
            if any(thread.usable for thread in list(self._all)):
                raise self._vanished() from None
        except OSError as exc:
            raise LedgerError(f"{self.path} could not be synced to disk: {exc.strerror}") from None
        return covered

    def checkpoint(self) -> None:
        """Move what the -wal holds into the database, if it has grown large. Raises LedgerBusy as transaction()."""
        size = self._wal_path.stat().st_size if self._wal_path.exists() else 0
        due = size >= CHECKPOINT_BYTES and self.commits - self._checkpointed >= CHECKPOINT_COMMITS
        if not due:
            return
        # A log that is written over, and not made anew, makes a commit a tenth cheaper.
        how = "TRUNCATE" if size >= 4 * CHECKPOINT_BYTES else "RESTART"
        with Transaction(self, self._thread(), ALONE) as db:
            (blocked, *_) = db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
            self._checkpointed = self.commits
            if not blocked:
                db.execute(WRITE)
                begin_log(db)
                db.execute("COMMIT")

    def recover(self) -> None:
        """End what a Ctrl-C left open in this thread."""
        thread = getattr(self._local, "thread", None)
        if thread is not None and thread.inside is not None:
            thread.recover()

    def close_thread(self) -> None:
        """Close this thread's connection."""
        thread = getattr(self._local, "thread", None)
        if thread is not None:
            del self._local.thread
            thread.close()

    def close(self) -> None:
        """Close every thread's connection. No thread may be inside a transaction."""
        self._closed = True
        for thread in list(self._all):
            thread.close()
        self._local = threading.local()
        self._close_wal()

    def before_fork(self) -> None:
        """Wait for other threads' transactions, and close every connection; the next use opens them again."""
        give_up = time.monotonic() + FORK_S
        quiet = self._gated = self._opening.acquire(timeout=FORK_S)
        threads = list(self._all)
        for thread in threads:
            thread.usable = False
        while any(thread.inside for thread in threads):
            if time.monotonic() >= give_up:
                quiet = False
                break
            time.sleep(0.0005)
        self._quiet = quiet
        for thread in threads:
            thread.usable = not quiet
            if quiet:
                thread.close()
        if quiet:
            self._local = threading.local()

    def after_fork_in_parent(self) -> None:
        """Let threads connect again."""
        if self._gated:
            self._opening.release()

    def after_fork_in_child(self) -> None:
        """Begin with nothing open. What could not be closed is left alone, and the file refused in this process."""
        if not self._quiet:
            _unusable.add(self.path.resolve())
            for thread in list(self._all):
                # Kept alive for good: a child that exits runs destructors.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(thread))
                if thread.lock is not None:
                    os.close(thread.lock)  # a copy: it would hold the parent's lock beyond the parent's death
                    thread.lock = None
        self._opening = threading.Lock()
        self._all = weakref.WeakSet()
        self._local = threading.local()
        self._close_wal()
        self.commits = 0
        self._checkpointed = -CHECKPOINT_COMMITS

    def _close_wal(self) -> None:
        wal, self._wal = self._wal, None
        if wal is not None:
            os.close(wal)

    @property
    def _wal_path(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _thread(self) -> Thread:
        try:
            return self._local.thread  # type: ignore[no-any-return]
        except AttributeError:
            pass
        if self._closed:
            raise LedgerError(f"{self.path} was closed; make a new Ledger")
        if _unusable and self.path.resolve() in _unusable:
            raise LedgerError(f"{self.path} was in use while this process was forked; start processes by spawn instead")
        if not self._opening.acquire(blocking=False):
            raise LedgerBusy(f"{self.path} is being opened by another thread")
        try:
            thread = self._local.thread = self._connect()
            self._all.add(thread)
        finally:
            self._opening.release()
        return thread

    def _connect(self) -> Thread:
        try:
            # never rwc: a file that vanished must not come back as an empty one
            mode = mode_to_read(self.path) if self.read_only else "rw"
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            db = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as exc:
            error = self.translated(exc)
        else:
            try:
                if not self._known:  # before the first change to it: it may be another program's
                    db.execute(READ)  # one snapshot: somebody may be making the file
                    is_new(db, self.path)
                    db.execute("COMMIT")
                    self._known = True
                if self.read_only:
                    db.execute("PRAGMA query_only=ON")
                    return Thread(db, None)
                db.execute(f"PRAGMA page_size={PAGE_BYTES}")
                for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=0", "mmap_size=0"):
                    db.execute(f"PRAGMA {pragma}")
                db.execute("PRAGMA foreign_keys=ON")
                return Thread(db, self._open_lock())
            except BaseException as exc:
                db.close()
                if not isinstance(exc, (*DAMAGE, OSError)):
                    raise
                error = self.translated(exc)
        raise error from None

    def _open_lock(self) -> int | None:
        if fcntl is None:
            return None
        return os.open(self.path.with_name(self.path.name + "-lock"), os.O_RDWR | os.O_CREAT, 0o600)

    def lock(self, thread: Thread) -> None:
        """Take the lock file, or raise LedgerBusy."""
        if thread.lock is None:
            return
        try:
            fcntl.flock(thread.lock, _AT_ONCE)
        except BlockingIOError:
            raise LedgerBusy(f"{self.path} is being written by another thread or process") from None

    def check_files(self) -> None:
        """Raise LedgerError if the files are no longer those that were opened. Costs 8 microseconds; for use inside a
        transaction: SQLite replaces a -wal as long as nobody has it open."""
        thread = self._local.thread
        if identity(self.path) != self._inode:
            raise self._vanished()
        wal = identity(self._wal_path)
        if wal is None or thread.wal not in (None, wal):
            raise self._vanished()
        thread.wal = wal

    def _vanished(self) -> LedgerError:
        return LedgerError(
            f"{self.path} or its -wal was deleted or replaced while it was in use: nothing can be reserved;"
            " make a new Ledger"
        )

    def _open_wal(self) -> None:
        self._close_wal()
        self._wal = os.open(self._wal_path, os.O_RDONLY)
        sync_directory(self.path.parent)  # or a power cut could take the file's name

    def translated(self, exc: Exception) -> LedgerError:
        """SQLite's error as one of ours, with what to do about it."""
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LedgerBusy(f"{self.path} is locked by another program")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(exc, UnicodeDecodeError):
            return LedgerCorrupt(f"{self.path} is damaged, or no ledger at all ({exc}): {ADVICE}")
        if "Could not decode to UTF-8" in str(exc):  # no code of its own
            return LedgerCorrupt(f"{self.path} is damaged ({exc}): {ADVICE}")
        advice = _WHY.get(code, "see `PRAGMA integrity_check`")
        return LedgerError(f"{self.path} cannot be used ({exc}): {advice}")


_WHY = {
    sqlite3.SQLITE_FULL: "the disk is full; calls go on when there is space again",
    sqlite3.SQLITE_IOERR: "the disk is full or failing",
    sqlite3.SQLITE_READONLY: "the file or its directory cannot be written",
    sqlite3.SQLITE_CANTOPEN: "the file or its directory cannot be opened",
    sqlite3.SQLITE_CONSTRAINT: "it was written before, or a balance would become impossible; run Ledger.check()",
}


def _sync(descriptor: int) -> None:
    if fcntl is not None and hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # macOS: fsync leaves it in the drive's own memory
    else:
        getattr(os, "fdatasync", os.fsync)(descriptor)


def _before_fork() -> None:
    for file in list(_files):
        file.before_fork()


def _after_fork_in_parent() -> None:
    for file in list(_files):
        file.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for file in list(_files):
        file.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
