"""diskcache, with what it may load and touch held down to texts and files of its own making.

diskcache 5.6.3 trusts its database (CVE-2025-69872, no fixed release): a planted row is unpickled, under JSONDisk too,
a planted file name is read, and removed, wherever it points, and the rows of its Settings become attributes and pragmas
of the object that opens it. Here

* `TextDisk` stores and loads text alone, in the row or in a file whose name it made itself, and follows no links;
* `Database.reset()` takes settings from SETTINGS and not from the file;
* SQLite refuses rows longer than any of ours, does not map the file (a truncated one would kill the process) and does
  not run functions with side effects for a planted trigger.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import diskcache  # type: ignore[import-untyped]

from llmbridge.cache.entry import LARGEST_BYTES, Foreign
from llmbridge.home import mode_to_read


# As diskcache's get() asks when its eviction policy wants no access times; which takes 5 microseconds more.
TEXT = "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1 AND (expire_time IS NULL OR expire_time > ?)"
ROWS = (
    "SELECT tag, key, raw, mode, filename, value FROM Cache"
    " WHERE {key} >= ? AND {key} < ? AND (expire_time IS NULL OR expire_time > ?)"
)
# As diskcache's set() of a value that is not in a file, nor was before; which takes four statements, twice the time.
KEEP = (
    "INSERT INTO Cache"
    " (key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value)"
    " VALUES (:key, 1, :now, :over, :now, 0, :tag, 0, 1, NULL, :text) ON CONFLICT (key, raw) DO UPDATE SET"
    " store_time = :now, expire_time = :over, access_time = :now, access_count = 0, tag = :tag, value = :text"
    " WHERE mode = 1 AND filename IS NULL"
)
BUSY_S = 0.01  # how long SQLite itself waits for other processes; store.py has the patience
OPEN_S = 1.0  # how long opening does
IN_ROW_BYTES = 32 * 1024  # a longer value has a file of its own
LONGEST_ROW_BYTES = 1024 * 1024
DATABASE = "cache.db"  # diskcache's name for it
FILE_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")
SETTINGS: dict[str, Any] = {
    "statistics": 0,  # would make a write of each read; `tally` counts instead
    "tag_index": 0,
    "eviction_policy": "least-recently-stored",  # any other writes at each read, too
    "size_limit": 2**30,
    "cull_limit": 10,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2**9,  # pages of 4 KiB
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 1,
    "disk_min_file_size": IN_ROW_BYTES,
    "disk_pickle_protocol": 0,  # diskcache wants one; nothing is pickled
}
RAW, BINARY = 1, 2  # diskcache's modes of a row: its value is here, or in a file
_COUNTS = ("count", "size", "hits", "misses")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


Locked = diskcache.Timeout  # what a write raises that cannot begin, whether for a lock or for a full disk


class TextDisk(diskcache.Disk):  # type: ignore[misc]
    """Values are texts. Raises Foreign for anything else that the database says."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, min_file_size=IN_ROW_BYTES)
        self.made: list[str] = []  # files, for whoever has to remove them again

    def put(self, key: object) -> tuple[str, bool]:
        """A key as it is stored."""
        if type(key) is not str:
            raise TypeError(f"a key is a str, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """A stored key; `raw` 0 would mean a pickle."""
        if type(key) is not str or raw != 1:
            raise Foreign("its key is not a text")
        return key

    def store(self, value: str, read: bool, key: object = None) -> tuple[int, int, str | None, str | None]:
        """*value* as (size of the file, mode, name of the file, value of the row)."""
        if type(value) is not str or read:
            raise TypeError("a value is a str")
        content = value.encode()
        if len(content) < IN_ROW_BYTES:
            return 0, RAW, None, value
        digits = os.urandom(16).hex()
        name = f"{digits[:2]}/{digits[2:4]}/{digits[4:]}.val"
        self.made.append(name)
        self._write_file(name, content)
        return len(content), BINARY, name, None

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> str:
        """The value of a row, or of its file. Raises OSError if the file is gone."""
        if read:
            raise TypeError("values are not read as files")
        if mode == RAW and type(value) is str and filename is None:
            return value
        if mode == BINARY and value is None:
            return self._read_file(self._path(filename))
        raise Foreign("its row is not a text")

    def remove(self, file_path: object) -> None:
        """Remove a value's file, and directories that it leaves empty. A name that is not ours is left alone."""
        with contextlib.suppress(OSError, Foreign):
            path = self._path(file_path)
            path.unlink()
            path.parent.rmdir()
            path.parent.parent.rmdir()

    def _path(self, name: object) -> Path:
        if type(name) is not str or not FILE_NAME.fullmatch(name):
            raise Foreign("its file has a name that is not ours")
        path = Path(self._directory, name)
        if any(part.is_symlink() for part in (path.parent, path.parent.parent)):
            raise Foreign("its file is behind a link")
        return path

    def _read_file(self, path: Path) -> str:
        try:
            number = os.open(path, os.O_RDONLY | _NO_LINK)
        except FileNotFoundError:
            raise  # another process has just removed it: an ordinary miss
        except OSError as exc:
            raise Foreign(f"its file cannot be read ({exc.strerror})") from None
        with os.fdopen(number, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST_BYTES:
                raise Foreign("its file is not one of ours")
            return file.read(LARGEST_BYTES).decode(errors="replace")  # for the checksum to find

    def _write_file(self, name: str, content: bytes) -> None:
        path = self._path(name)
        for tries_left in (2, 1, 0):
            for parent in (path.parent.parent, path.parent):  # parents=True would ignore the mode
                parent.mkdir(mode=0o700, exist_ok=True)
            try:
                # another process may have removed the directory, which was empty
                number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)
                break
            except FileNotFoundError:
                if not tries_left:
                    raise
        with os.fdopen(number, "wb") as file:
            file.write(content)


class Database(diskcache.Cache):  # type: ignore[misc]
    """diskcache's Cache on one connection, with settings that are ours. Its callers hold a lock.

    diskcache's own habit, a connection for each thread, leaves them open in threads that are gone, and makes close() a
    matter of the calling thread.
    """

    _connection: sqlite3.Connection | None = None
    _ready = False

    def __init__(self, directory: str, size_limit_bytes: int, *, read_only: bool = False) -> None:
        self._read_only = read_only
        self._ours = SETTINGS | {"size_limit": size_limit_bytes}
        self._give_up = time.monotonic() + OPEN_S
        if read_only:  # diskcache's own opening writes, so what it would set is set here
            self._directory = directory
            self._disk: Any = TextDisk(directory)
            self._txn_id = None
            (self._page_size,) = self._patiently("PRAGMA page_size").fetchone()
            self._patiently(ROWS.format(key="key"), ("", "", 0))  # or it is no cache
            self._ready = True
            return
        super().__init__(directory, disk=TextDisk, **self._ours)
        self._sql_retry("CREATE TABLE IF NOT EXISTS Tally (name TEXT PRIMARY KEY, amount INTEGER NOT NULL)")
        self._ready = True

    @property
    def _con(self) -> sqlite3.Connection:
        if self._connection is None:
            path = Path(self._directory, DATABASE).absolute()
            uri = f"{path.as_uri()}?mode={mode_to_read(path) if self._read_only else 'rwc'}"
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            # rot inside a text is for the checksum to find: an error here would be one of the whole database
            self._connection.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_ROW_BYTES)
            self._connection.execute("PRAGMA trusted_schema = OFF")
            for name in ("cache_size", "mmap_size", "synchronous"):  # those of a connection; the others are in the file
                self._connection.execute(f"PRAGMA {name} = {SETTINGS['sqlite_' + name]}")
            if self._read_only:
                self._connection.execute("PRAGMA query_only = ON")
        return self._connection

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        """diskcache opens with this. Its own retries for a minute, at each of some forty statements."""
        return self._patiently

    def _patiently(self, statement: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        while True:
            try:
                return self._con.execute(statement, parameters)
            except sqlite3.OperationalError as exc:
                # others are opening it for the first time, and SQLite does not wait for a change of the journal's mode
                if "locked" not in str(exc) or time.monotonic() > self._give_up:
                    raise
                time.sleep(0.001)

    def close(self) -> None:
        """Close the connection; the next use opens one."""
        if self._ready:  # not in the middle of opening, as diskcache does to change a timeout
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def abandon(self) -> sqlite3.Connection | None:
        """Forget the connection without closing it."""
        connection, self._connection = self._connection, None
        return connection

    def reset(self, key: str, value: Any = diskcache.ENOVAL, update: bool = True) -> Any:
        """Read a count, or take over a setting: ours, whatever the file says."""
        if key in _COUNTS:
            row = self._sql("SELECT value FROM Settings WHERE key = ?", (key,)).fetchone()
            return row[0] if row and type(row[0]) is int else 0
        if key not in self._ours:
            return None
        value = self._ours[key]
        if key.startswith("sqlite_"):
            name = key.removeprefix("sqlite_")
            if self._patiently(f"PRAGMA {name}").fetchone() != (value,):
                self._patiently(f"PRAGMA {name} = {value}").fetchall()
        setattr(self, key, value)
        return value

    def text(self, key: str) -> str | None:
        """The text of *key*, or None. Raises Foreign for a row that is none of ours."""
        try:
            row = self._con.execute(TEXT, (key, time.time())).fetchone()
        except sqlite3.DataError:
            raise Foreign("its row is too long") from None
        try:
            return None if row is None else self._disk.fetch(*row, False)
        except OSError:
            return None  # removed between the two

    def keep(self, key: str, text: str, about: str, expire_s: float | None) -> bool:
        """Keep a short *text* in one statement; False if what is there has a file, and set() has to remove it.

        Raises Locked.
        """
        now = time.time()
        over = None if expire_s is None else now + expire_s
        values = {"key": key, "now": now, "over": over, "tag": about, "text": text}
        try:
            return self._con.execute(KEEP, values).rowcount == 1
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise Locked from None
            raise

    def tally(self, amounts: Mapping[str, int]) -> None:
        """Add *amounts* to the counters that all processes share."""
        for name, amount in amounts.items():
            self._sql(
                "INSERT INTO Tally VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET amount = amount + excluded.amount",
                (name, amount),
            )

    def tallied(self) -> dict[str, int]:
        """The counters that all processes share."""
        rows = self._sql("SELECT name, amount FROM Tally").fetchall()
        return {name: amount for name, amount in rows if isinstance(amount, int)}

    def rows(self, columns: str) -> Iterator[tuple[Any, ...]]:
        """(rowid, *columns) of every row, a hundred at a time."""
        page = f"SELECT rowid, {columns} FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT 100"
        last = -(2**63)
        while rows := self._sql(page, (last,)).fetchall():
            yield from rows
            last = rows[-1][0]

    def latest(self, key: str) -> Iterator[tuple[Any, ...]]:
        """(about, key, raw, mode, file's name, value) of every row whose key begins with *key* and whose time is not
        over, the latest first."""
        chosen = ROWS.format(key="key" if key else "+key")  # all of them: by the index of times, which +key is none of
        yield from self._sql(f"{chosen} ORDER BY store_time DESC", (key, f"{key}\U0010ffff", time.time()))

    def remove_rows(self, rowids: list[int]) -> None:
        """Remove rows and their files."""
        with self._transact() as (sql, remove_file):
            for rowid in rowids:
                for (name,) in sql("SELECT filename FROM Cache WHERE rowid = ?", (rowid,)).fetchall():
                    remove_file(name)
                sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))

    def complaints(self) -> list[str]:
        """What SQLite finds wrong with the file."""
        return [line for (line,) in self._sql("PRAGMA integrity_check(20)").fetchall() if line != "ok"]
