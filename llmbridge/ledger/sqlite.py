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

import contextlib
import ctypes
import os
import sqlite3
import stat
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

from llmbridge.errors import LedgerBusy, LedgerCorrupt, LedgerError


try:
    import fcntl
except ImportError:  # Windows: SQLite's own locks alone
    fcntl = None  # type: ignore[assignment]

Connection = sqlite3.Connection
Row = tuple[object, ...]

APPLICATION_ID = 0x4C4C4D42  # "LLMB": another program's database is never taken for a ledger
VERSION = 1
PAGE_BYTES = 1024  # a commit writes whole pages; with SQLite's 4,096 a reservation took a fifth longer
CHECKPOINT_BYTES = 4 * 1024 * 1024
CHECKPOINT_COMMITS = 500  # of this process, after which the log begins again at its start
FORK_S = 2.0  # how long a fork waits for other threads' transactions
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs", "lustre"})
SCHEMA = """
CREATE TABLE clock (                    -- the latest time of any transaction: the ledger's time never goes back
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at_us INTEGER NOT NULL CHECK (at_us >= 0),
    open_from INTEGER NOT NULL          -- every reservation before this row is resolved
) STRICT;
INSERT INTO clock VALUES (1, 0, 0);
CREATE TABLE budget (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('nanousd', 'tokens', 'requests')),
    window TEXT NOT NULL,
    zone TEXT NOT NULL,
    per TEXT NOT NULL,                  -- JSON list of tag names
    amount INTEGER NOT NULL CHECK (amount >= 0),    -- the limit, as a program declared it last
    UNIQUE (name, unit, window, zone, per)
) STRICT;
CREATE TABLE change (                   -- limits set at run time, append-only: the latest one in force wins
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    budget TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('nanousd', 'tokens', 'requests')),
    amount INTEGER CHECK (amount >= 0), -- NULL: back to what programs declare
    until_us INTEGER,                   -- NULL: for good
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX change_by_budget ON change (budget, unit, id);
CREATE TABLE balance (                  -- one counter: a budget, the values of its tags, a window
    id INTEGER PRIMARY KEY,
    budget INTEGER NOT NULL REFERENCES budget (id),
    scope TEXT NOT NULL,                -- JSON list of tag values
    call TEXT NOT NULL,                 -- the call's id for windows of one call, else ''
    starts_us INTEGER NOT NULL,
    ends_us INTEGER,                    -- NULL: never
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    settled INTEGER NOT NULL DEFAULT 0 CHECK (settled >= 0),
    alerted INTEGER NOT NULL DEFAULT 0, -- the highest threshold that was announced, in thousandths of the limit
    UNIQUE (budget, scope, call, starts_us)
) STRICT;
CREATE TABLE reservation (
    id INTEGER PRIMARY KEY,
    attempt TEXT NOT NULL UNIQUE,       -- the call's id, a point, the attempt's number
    call TEXT NOT NULL GENERATED ALWAYS AS (substr(attempt, 1, instr(attempt, '.') - 1)) VIRTUAL,
    made_us INTEGER NOT NULL,           -- rows are in the order of it, so it needs no index
    lease_us INTEGER NOT NULL,          -- when it expires
    state TEXT NOT NULL                 -- no IN (...) here and below: SQLite builds a table for it at every write
        CHECK (state = 'reserved' OR state = 'settled' OR state = 'released' OR state = 'expired'),
    verb TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    tags TEXT NOT NULL,
    reserved_nanousd INTEGER CHECK (reserved_nanousd >= 0),
    reserved_tokens INTEGER CHECK (reserved_tokens >= 0),
    resolved_us INTEGER,
    cost_nanousd INTEGER CHECK (cost_nanousd >= 0),     -- NULL: unknown
    uncertain INTEGER NOT NULL DEFAULT 0,
    overrun INTEGER NOT NULL DEFAULT 0, -- it cost more than was reserved
    price_source TEXT,
    reason TEXT,
    outcome TEXT,
    error_type TEXT,
    kind TEXT,
    status INTEGER,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cached_tokens INTEGER,
    cache_write_tokens INTEGER,
    reasoning_tokens INTEGER,
    estimated INTEGER NOT NULL DEFAULT 0,
    duration_s REAL,
    first_chunk_s REAL,
    request_id TEXT,
    response_model TEXT
) STRICT;
CREATE TABLE entry (                    -- append-only; the balances are the sums over it
    reservation INTEGER NOT NULL,
    kind TEXT NOT NULL
        CHECK (kind = 'reserve' OR kind = 'resolve' OR kind = 'late' OR kind = 'reconcile' OR kind = 'carried'),
    balance INTEGER NOT NULL,           -- no foreign key: without an index of it, dropping a counter reads every entry
    at_us INTEGER NOT NULL,
    reserved INTEGER NOT NULL,          -- changes, of either sign
    settled INTEGER NOT NULL,
    PRIMARY KEY (reservation, kind, balance)    -- so at most one resolution a reservation
) STRICT, WITHOUT ROWID;
CREATE TRIGGER entry_is_append_only BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE TABLE call (                     -- what it cost is the sum over its reservations
    id TEXT PRIMARY KEY,
    started_us INTEGER NOT NULL,
    verb TEXT NOT NULL,
    outcome TEXT NOT NULL,
    error_type TEXT,
    models TEXT NOT NULL,
    model TEXT,
    provider TEXT,
    tags TEXT NOT NULL,
    duration_s REAL NOT NULL,
    first_chunk_s REAL,
    chunk_count INTEGER,
    input_tokens INTEGER,
    output_tokens INTEGER,
    estimated INTEGER NOT NULL,
    saved_nanousd INTEGER NOT NULL DEFAULT 0,
    trace_id TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX call_started ON call (started_us);
CREATE TABLE archive (                  -- what compaction removed, by UTC day
    day TEXT NOT NULL,
    verb TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    tags TEXT NOT NULL,
    calls INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    uncertain_nanousd INTEGER NOT NULL,
    saved_nanousd INTEGER NOT NULL,
    unknown INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, verb, model, provider, tags)
) STRICT, WITHOUT ROWID;
"""
DAMAGE = (sqlite3.Error, UnicodeDecodeError)  # the second for texts and for messages that quote them
READ, WRITE, ALONE = "BEGIN", "BEGIN IMMEDIATE", ""  # the last: no transaction, but no writer either
TABLES = ("archive", "balance", "budget", "call", "change", "clock", "entry", "reservation")

_files: weakref.WeakSet[File] = weakref.WeakSet()
_unusable: set[Path] = set()  # what this process inherited in the middle of a transaction


class _Thread:
    """What one thread has open: a connection, and the lock file. `inside` is the frame of its transaction."""

    def __init__(self, connection: Connection, lock: int | None) -> None:
        self.connection = connection
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
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
        finally:
            self.unlock()
            self.inside = None

    def unlock(self) -> None:
        if self.lock is not None:
            fcntl.flock(self.lock, fcntl.LOCK_UN)

    def recover(self) -> None:
        """End a transaction that is over: Ctrl-C strikes at the entry of `__exit__` too, which then does nothing."""
        frame: FrameType | None = sys._getframe()  # noqa: SLF001
        while frame is not None:
            if frame is self.inside:
                return
            frame = frame.f_back
        self.end()


class _Transaction:
    """`with` block around one transaction. A class, since contextlib's generators cost 2 microseconds more."""

    __slots__ = ("_begin", "_file", "_thread")

    def __init__(self, file: File, thread: _Thread, begin: str) -> None:
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
                thread.connection.execute(self._begin)
        except BaseException as exc:
            thread.end()
            if not isinstance(exc, DAMAGE):
                raise
            error = self._file.translated(exc)
        else:
            return thread.connection
        raise error from None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None) -> None:
        try:
            if exc is None and self._begin == WRITE:
                self._thread.connection.execute("COMMIT")
                self._file.commits += 1
            elif self._begin == WRITE:
                self._file.rollbacks += 1
        except sqlite3.Error as failure:
            self._file.rollbacks += 1
            exc = failure
        finally:
            self._thread.end()
        if isinstance(exc, DAMAGE):
            raise self._file.translated(exc) from None


class File:
    """One ledger's database. Opens it, or makes it; a missing directory is made, for the owner alone.

    Raises LedgerCorrupt if it is no ledger or cannot be read, LedgerError if it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commits = 0  # of this process, so that a sync knows what it covers
        self.rollbacks = 0
        self._checkpointed = -CHECKPOINT_COMMITS
        self._local = threading.local()
        self._all: weakref.WeakSet[_Thread] = weakref.WeakSet()
        self._opening = threading.Lock()  # never waited for but by a fork
        self._quiet = self._gated = True  # how the last fork went
        self._wal: int | None = None
        self._known = self._closed = False
        self._prepare()
        self._inode = _identity(self.path)
        _files.add(self)
        with self.transaction() as db:
            self._migrate(db)
            if self._wal_path.stat().st_size == 0:
                _begin_log(db)
        self._open_wal()

    def __del__(self) -> None:
        self._close_wal()

    def transaction(self) -> _Transaction:
        """A write transaction, committed at the end of the block. Raises LedgerBusy at once if there is another."""
        return _Transaction(self, self._thread(), WRITE)

    def reading(self) -> _Transaction:
        """A snapshot to read from; waits for nobody. Raises as transaction()."""
        return _Transaction(self, self._thread(), READ)

    def verify(self, db: Connection) -> None:
        """Raise LedgerCorrupt if SQLite finds the file damaged. Reads all of it."""
        (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise LedgerCorrupt(f"{self.path} is damaged ({found}): {_ADVICE}")

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
        with _Transaction(self, self._thread(), ALONE) as db:
            (blocked, *_) = db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
            self._checkpointed = self.commits
            if not blocked:
                db.execute(WRITE)
                _begin_log(db)
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

    def _thread(self) -> _Thread:
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

    def _connect(self) -> _Thread:
        try:
            # mode=rw: a file that vanished must not come back as an empty one
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            db = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as exc:
            error = self.translated(exc)
        else:
            try:
                if not self._known:  # before the first change to it: it may be another program's
                    db.execute(READ)  # one snapshot: somebody may be making the file
                    self._is_new(db)
                    db.execute("COMMIT")
                    self._known = True
                db.execute(f"PRAGMA page_size={PAGE_BYTES}")
                for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=0", "mmap_size=0"):
                    db.execute(f"PRAGMA {pragma}")
                db.execute("PRAGMA foreign_keys=ON")
                return _Thread(db, self._open_lock())
            except BaseException as exc:
                db.close()
                if not isinstance(exc, DAMAGE):
                    raise
                error = self.translated(exc)
        raise error from None

    def _open_lock(self) -> int | None:
        if fcntl is None:
            return None
        return os.open(self.path.with_name(self.path.name + "-lock"), os.O_RDWR | os.O_CREAT, 0o600)

    def lock(self, thread: _Thread) -> None:
        """Take the lock file, or raise LedgerBusy."""
        if thread.lock is None:
            return
        try:
            fcntl.flock(thread.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerBusy(f"{self.path} is being written by another thread or process") from None

    def check_files(self) -> None:
        """Raise LedgerError if the files are no longer those that were opened. Costs 8 microseconds; for use inside a
        transaction: SQLite replaces a -wal as long as nobody has it open."""
        thread = self._local.thread
        if _identity(self.path) != self._inode:
            raise self._vanished()
        wal = _identity(self._wal_path)
        if wal is None or thread.wal not in (None, wal):
            raise self._vanished()
        thread.wal = wal

    def _vanished(self) -> LedgerError:
        return LedgerError(
            f"{self.path} or its -wal was deleted or replaced while it was in use: nothing can be reserved;"
            " make a new Ledger"
        )

    def _prepare(self) -> None:
        """The directory and an empty file, for the owner alone whatever the umask, or what is wrong with them."""
        path = self.path
        try:
            for parent in reversed(path.parents):
                if not parent.exists():
                    parent.mkdir(mode=0o700, exist_ok=True)
                    _sync_directory(parent.parent)
            if path.is_symlink():
                raise LedgerError(f"{path} is a symbolic link; give the ledger's real path")
            kind = _file_system(path.parent)
            if kind in NETWORK:
                raise LedgerError(
                    f"{path} is on a network file system ({kind}), where SQLite's locks do not hold; use a local disk"
                )
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                os.chmod(path, 0o600)  # noqa: PTH101  the umask may have taken the owner's bits away
            found = path.stat()
        except OSError as exc:
            raise LedgerError(
                f"{path} cannot be made or read: {exc.strerror}; give Ledger a path that can be written"
            ) from None
        if not stat.S_ISREG(found.st_mode):
            raise LedgerError(f"{path} is not a file")
        if hasattr(os, "geteuid") and os.geteuid() not in (0, found.st_uid):
            raise LedgerError(f"{path} belongs to another user (uid {found.st_uid})")

    def _open_wal(self) -> None:
        self._close_wal()
        self._wal = os.open(self._wal_path, os.O_RDONLY)
        _sync_directory(self.path.parent)  # or a power cut could take the file's name

    def _migrate(self, db: Connection) -> None:
        if not self._is_new(db):
            return
        # not executescript(), which commits first: a crash inside it leaves half a schema
        for statement in _statements(SCHEMA):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")

    def _is_new(self, db: Connection) -> bool:
        """Whether the file is empty. Raises LedgerError if it is neither that nor a ledger that can be used."""
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (owner,) = db.execute("PRAGMA application_id").fetchone()
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if (version, owner, tables) == (0, 0, set()):
            return True
        if owner != APPLICATION_ID:
            raise LedgerError(f"{self.path} is a database of another program; give the ledger a file of its own")
        if version > VERSION:
            raise LedgerError(
                f"{self.path} has schema {version} and this llmbridge knows up to {VERSION}: update llmbridge"
            )
        if missing := set(TABLES) - tables:
            raise LedgerCorrupt(f"{self.path} lacks {', '.join(sorted(missing))}: {_ADVICE}")
        if db.execute("SELECT count(*) FROM clock").fetchone() != (1,):
            raise LedgerCorrupt(f"{self.path} is damaged (it lacks its clock): {_ADVICE}")
        return False

    def translated(self, exc: Exception) -> LedgerError:
        """SQLite's error as one of ours, with what to do about it."""
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LedgerBusy(f"{self.path} is locked by another program")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(exc, UnicodeDecodeError):
            return LedgerCorrupt(f"{self.path} is damaged, or no ledger at all ({exc}): {_ADVICE}")
        if "Could not decode to UTF-8" in str(exc):  # no code of its own
            return LedgerCorrupt(f"{self.path} is damaged ({exc}): {_ADVICE}")
        advice = _WHY.get(code, "see `PRAGMA integrity_check`")
        return LedgerError(f"{self.path} cannot be used ({exc}): {advice}")


_ADVICE = "move it away to begin a new ledger, or restore it from a backup; nothing was changed"
_WHY = {
    sqlite3.SQLITE_FULL: "the disk is full; calls go on when there is space again",
    sqlite3.SQLITE_IOERR: "the disk is full or failing",
    sqlite3.SQLITE_READONLY: "the file or its directory cannot be written",
    sqlite3.SQLITE_CANTOPEN: "the file or its directory cannot be opened",
    sqlite3.SQLITE_CONSTRAINT: "a balance would become impossible; run Ledger.check()",
}


def _begin_log(db: Connection) -> None:
    """Write something that changes nothing. There and back: SQLite sees through an update to the same value."""
    for step in (1, -1):
        db.execute("UPDATE clock SET at_us = at_us + ?", (step,))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  a third of Path.stat's time
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _sync(descriptor: int) -> None:
    if fcntl is not None and hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # macOS: fsync leaves it in the drive's own memory
    else:
        getattr(os, "fdatasync", os.fsync)(descriptor)


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _file_system(directory: Path) -> str:
    """The kind of file system that *directory* is on, as Linux names it; empty where that cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    resolved, best, kind = str(directory.resolve()), "", ""
    for line in mounts:
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ").rstrip("/") + "/"
        if (resolved + "/").startswith(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


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
