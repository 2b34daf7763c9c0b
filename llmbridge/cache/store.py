"""The cache's directory, for many threads and processes, and across forks. Only disk.py knows what is in it.

Waiting is short everywhere: whoever calls may be an event loop, and the worst that can happen is a miss. The connection
is closed before a fork, for the reasons in ledger/sqlite.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from llmbridge.cache.disk import DATABASE, FILE_NAME, IN_ROW_BYTES, Database, Locked
from llmbridge.cache.entry import Foreign, Unusable
from llmbridge.home import NETWORK, file_system


FORK_S = 5.0  # how long a fork waits for other threads; a child that was not waited for keeps nothing
T = TypeVar("T")
Tally = Mapping[str, int]
_NOTHING: Tally = {}
CULL_EVERY, CULL = 20, 200  # one write in so many looks for what can go, and removes so many at most
LOCKED_S = 0.1  # how long a write waits for other processes; one takes 0.1 ms


class Busy(Unusable):
    """Others were writing for longer than this one waits; or, in SQLite's words the same, it cannot be written."""

    rest_s = 0.5


class Remote(Unusable):
    """The directory is on a network file system, and stays there."""

    rest_s = 600.0


class Item(NamedTuple):
    """A text to be kept. `about` is what remove() sees of it."""

    key: str
    text: str
    about: str
    expire_s: float | None


class Store:
    """Texts by key in a directory of their own, shared by threads and processes.

    Every method raises Unusable when the directory or its database does not work, get() also Foreign, and none anything
    else. A write may wait LOCKED_S for other processes, opening OPEN_S. Opening costs about 5 ms, the first time 20.
    """

    def __init__(self, directory: Path, size_limit_bytes: int, *, read_only: bool = False) -> None:
        self.directory = directory
        self._lock = threading.RLock()
        self._forking: threading.Event | None = None  # set when others may have the lock again
        self._database: Database | None = None
        with self._translated():
            if not read_only:
                _prepare(directory)
            elif not (directory / DATABASE).is_file():
                raise Unusable("there is none")
            self._database = Database(str(directory), size_limit_bytes, read_only=read_only)
        _stores.add(self)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[Any]:
        """The database, for one thread at a time."""
        self._give_way()
        with self._lock:
            try:
                yield self._database
            except Exception as exc:
                raise self._trouble(exc) from None

    def _trouble(self, exc: Exception) -> Exception:
        """What to raise for *exc*; a damaged file shows as any error there is, UnicodeDecodeError for one."""
        if isinstance(exc, (Foreign, Unusable)):
            return exc
        self._let_go()
        if isinstance(exc, Locked):
            return Busy("its database is locked, or cannot be written")
        return Unusable(f"{type(exc).__name__}: {exc}")

    def _let_go(self) -> None:
        """Close the connection: an error in the middle of a transaction may have left it open."""
        if self._database is not None:
            with contextlib.suppress(Exception):
                self._database.close()

    def get(self, key: str) -> str | None:
        """The text of *key*, or None. Raises Foreign for a row that is none of ours."""
        if self._forking is not None:
            self._give_way()
        with self._lock:
            try:
                return self._database.text(key)  # type: ignore[union-attr]
            except Exception as exc:
                raise self._trouble(exc) from None

    def get_all(self, keys: Iterable[str]) -> list[str | Foreign | None]:
        """The text of each of *keys*, or None, or the Foreign that get() would raise."""

        def text(database: Any, key: str) -> str | Foreign | None:
            try:
                found: str | None = database.text(key)
            except Foreign as exc:
                return exc
            return found

        with self._translated() as database:
            return [text(database, key) for key in keys]

    def latest(self, key: str, wanted: Callable[[object], bool], most: int) -> list[tuple[str, str]]:
        """Key and text of at most so many entries whose `about` is *wanted* and whose key begins so, latest first."""
        with self._translated() as database, contextlib.closing(database.latest(key)) as rows:
            found: list[tuple[str, str]] = []
            for about, stored, raw, mode, name, value in rows:
                if len(found) == most:
                    break
                with contextlib.suppress(Foreign, OSError):  # check() names them
                    if wanted(about):
                        found.append((database.disk.get(stored, raw), database.disk.fetch(mode, name, value, False)))
            return found

    def put(self, items: Iterable[Item], *, tally: Tally = _NOTHING) -> None:
        """Keep *items*, all or none, and add *tally* to the counters. Now and then, remove what is over or too much."""
        items = list(items)
        culls = _is_time_to_cull(items)
        with self._translated() as database:
            if len(items) == 1 and not (culls or tally) and _patiently(lambda: database.keep(*items[0])):
                return
            made = database.disk.made = []
            database.cull_limit = CULL if culls else 0
            try:
                with self._writing(database):
                    for item in items:
                        database.set(item.key, item.text, expire=item.expire_s, tag=item.about)
                    database.tally(tally)
            except BaseException:
                for name in made:
                    database.disk.remove(name)  # its row is not there
                raise

    @contextlib.contextmanager
    def _writing(self, database: Database) -> Iterator[None]:
        """A transaction; Locked if other processes do not let it begin for LOCKED_S."""
        with contextlib.ExitStack() as stack:
            _patiently(lambda: stack.enter_context(database.transact()))
            yield

    def remove(self, wanted: Callable[[object], bool]) -> int:
        """Remove the entries whose `about` is *wanted*; returns how many. Reads every row, but no value."""
        with self._translated() as database:
            return _removed(database, wanted)

    def clear(self) -> int:
        """Remove every entry, and every file of a value that a killed process left behind; returns how many entries."""
        with self._translated() as database:
            removed = _removed(database, lambda about: True)  # not remove(): who has the lock gives way to no fork
            for name in self._files():
                database.disk.remove(name)
            return removed

    def check(self, read: Callable[[str, str], str | None]) -> list[str]:
        """What is wrong, as sentences: with the file, with each row (by *read* of its key and text), with the files."""
        with self._translated() as database:
            wrong = [f"{DATABASE}: {line}" for line in database.complaints()]
            known = set()
            for rowid, key, raw, mode, name, value in database.rows("key, raw, mode, filename, value"):
                known.add(name)
                try:
                    reason = read(database.disk.get(key, raw), database.disk.fetch(mode, name, value, False))
                except (Foreign, OSError) as exc:
                    reason = str(exc) if isinstance(exc, Foreign) else "its file cannot be read"
                if reason:
                    wrong.append(f"row {rowid}: {reason}")
            lost = len(self._files() - known)
            return [*wrong, f"{lost} files belong to no entry; clear() removes them"] if lost else wrong

    def _files(self) -> set[str]:
        paths = self.directory.glob("??/??/*.val")
        names = (path.relative_to(self.directory).as_posix() for path in paths)
        return {name for name in names if FILE_NAME.fullmatch(name)}

    def tally(self, amounts: Tally) -> None:
        """Add *amounts* to the counters that all processes share."""
        if amounts:
            with self._translated() as database, self._writing(database):
                database.tally(amounts)

    def counts(self) -> tuple[dict[str, int], int, int]:
        """The counters that all processes share, the number of entries, and the bytes on disk."""
        with self._translated() as database:
            return database.tallied(), len(database), database.volume()

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        with self._translated() as database:
            database.close()

    def _give_way(self) -> None:
        """Let a fork go first: a lock has no order, and a thread that writes all the time always has it again."""
        if (forking := self._forking) is not None:
            forking.wait(FORK_S)

    def pause(self) -> bool:
        """Hold everybody off and close the connection, for a fork; False if another thread would not let go."""
        self._forking = threading.Event()
        if not self._lock.acquire(timeout=FORK_S):
            return False
        self._let_go()
        return True

    def resume(self, paused: bool, *, child: bool) -> None:
        """Go on after a fork. In a child whose parent could not pause, the lock's owner does not exist and the
        connection is another process's: both are left behind, the latter unclosed, since closing it would act on the
        parent's files."""
        forking, self._forking = self._forking, None
        if forking is not None:
            forking.set()
        if paused:
            self._lock.release()
        elif child:
            self._lock = threading.RLock()
            if self._database is not None:
                _left_behind.append(self._database.abandon())


def _patiently(work: Callable[[], T]) -> T:
    """What *work* returns, as soon as other processes let it write; Locked if they do not for LOCKED_S.

    The pauses stay short: SQLite's own grow to 100 ms, which leaves those out longest who have waited longest.
    """
    give_up = time.monotonic() + LOCKED_S
    while True:
        try:
            return work()
        except Locked:
            if time.monotonic() > give_up:
                raise
            time.sleep(random.uniform(0.0003, 0.0015))


def _removed(database: Database, wanted: Callable[[object], bool]) -> int:
    found = [rowid for rowid, about in database.rows("tag") if wanted(about)]
    for start in range(0, len(found), 100):
        database.remove_rows(found[start : start + 100])
    return len(found)


def _is_time_to_cull(items: Sequence[Item]) -> bool:
    """By chance, since a process may live for one write alone; to look costs as much as a fifth of a write."""
    return random.random() < len(items) / CULL_EVERY or any(len(item.text.encode()) >= IN_ROW_BYTES for item in items)


def _prepare(directory: Path) -> None:
    """Make the directory and an empty database for the owner alone, whatever the umask. Raises Unusable, OSError."""
    if (kind := file_system(directory)) in NETWORK:
        raise Remote(f"it is on a network file system ({kind}), where SQLite's locks do not hold; use a local disk")
    for each in reversed([directory, *directory.parents]):
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and directory.stat().st_uid != os.getuid():
        raise Unusable("its directory belongs to another user")
    path = directory / DATABASE
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # -wal and -shm take its mode
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Unusable("its database is a link")


_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_left_behind: list[object] = []
_paused: list[tuple[Store, bool]] = []


def _before_fork() -> None:
    _paused.extend((store, store.pause()) for store in list(_stores))


def _after_fork(*, child: bool) -> None:
    while _paused:
        store, paused = _paused.pop()
        store.resume(paused, child=child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=functools.partial(_after_fork, child=False),
        after_in_child=functools.partial(_after_fork, child=True),
    )
