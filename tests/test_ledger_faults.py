"""What goes wrong around the ledger: disks, permissions, other programs, clocks, signals. It fails closed, says what to
do, leaves the file as it was, and goes on when the fault is over."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from llmbridge.errors import AlreadyResolved, LedgerBusy, LedgerCorrupt, LedgerError
from llmbridge.ledger import Budget, Charge, Ledger, Need, Reservation, place, sqlite, upkeep
from llmbridge.record import AttemptRecord
from llmbridge.waiting import wait_async
from tests.ledger_worker import WAIT_S, Worker, main, ready, say


LONG = bool(os.environ.get("LLMBRIDGE_LONG"))
SEED = 20261121
NOBODY = 65534
CAP = Budget("100000 requests")
NEED, CHARGE = Need(1_000_000, 10), Charge(200_000, 5)
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


class Clock:
    """Seconds since the epoch, as told."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def _reserve(ledger: Ledger, attempt: str) -> Reservation:
    made = ledger.reserve(attempt, NEED, [CAP])
    assert isinstance(made, Reservation)
    return made


def _book(ledger: Ledger, made: Reservation) -> None:
    record = AttemptRecord(number=1, model="m", provider="p", reason="initial", outcome="answered")
    ledger.book(None, (made, record, CHARGE))


def _states(path: Path) -> dict[str, str]:
    """What the file says; it is made sure that it agrees with itself."""
    with Ledger(path) as ledger:
        assert ledger.check() == []
        with ledger._file.reading() as db:
            return dict(db.execute("SELECT attempt, state FROM reservation").fetchall())


def _until(true: Callable[[], object], seconds: float = 5.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.002)


def _filled(path: Path, calls: int = 150) -> None:
    """A ledger with some rows, in one file."""
    with Ledger(path) as ledger:
        for each in range(calls):
            ledger.settle(_reserve(ledger, f"call{each}.1"), CHARGE)


# Full disks


def full(path: str, way: str) -> None:
    """A worker: fills the disk, tries, makes room, tries again; says what came of it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    ledger = Ledger(path)
    held = _reserve(ledger, "before.1")
    fill, free = _filling(Path(path), way)
    fill()
    said = [_outcome(lambda: _until_error(ledger))]
    said.append(_outcome(lambda: _book(ledger, held)))
    free()
    said.append(_outcome(lambda: _reserve(ledger, "after.1")))
    ledger.close()
    say(said)


def _until_error(ledger: Ledger) -> None:
    """Reserve until it fails: some pages still fit into what is allocated."""
    for each in range(2000):
        _reserve(ledger, f"full{each}.1")


def _outcome(step: Callable[[], object]) -> str:
    try:
        step()
    except LedgerError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def _filling(path: Path, way: str) -> tuple[Callable[[], None], Callable[[], None]]:
    if way == "limit":
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = path.with_name(path.name + "-wal").stat().st_size + 20_000
        return (
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
        )
    ballast = path.with_name("ballast")

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    return fill, ballast.unlink


@pytest.fixture(params=["limit", "small disk"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    if request.param == "limit":
        yield tmp_path, "limit"
        return
    with _mounted("-t", "tmpfs", "-o", "size=512k", "tmpfs", at=tmp_path / "disk") as disk:
        yield disk, "disk"


@contextlib.contextmanager
def _mounted(*what: str, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    if subprocess.run(["mount", *what, str(at)], capture_output=True, timeout=WAIT_S).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True, timeout=WAIT_S)


def test_a_full_disk_admits_nothing_and_is_over_when_there_is_space_again(small: tuple[Path, str]) -> None:
    directory, way = small
    path = directory / "ledger.db"
    with Worker("full", module=__name__, path=str(path), way=way) as worker:
        ((reserved, booked, after),) = worker.end()
    assert reserved.startswith("LedgerError: ")
    assert "ledger.db" in reserved
    assert "disk is full" in reserved
    assert (booked, after) == ("done", "done")
    states = _states(path)
    assert states["before.1"] == "reserved", "booking it failed, so that it stands"
    assert states["after.1"] == "reserved"
    admitted = sorted(int(attempt[4:-2]) for attempt in states if attempt.startswith("full"))
    assert admitted == list(range(len(admitted))), "what failed was not admitted"


def test_what_could_not_be_synced_is_not_admitted_and_the_next_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Ledger(path, durability="power") as ledger:
        with monkeypatch.context() as broken:
            broken.setattr(sqlite, "_sync", failing)
            with pytest.raises(LedgerError, match=r"ledger\.db could not be synced to disk: Input/output error"):
                ledger.reserve("lost.1", NEED, [CAP])
        for each in range(5):
            _reserve(ledger, f"kept{each}.1")
        assert ledger.balance()[0].reserved == 5
    assert _states(path)["lost.1"] == "released"


# Permissions and owners


def unprivileged(path: str, then: str = "") -> None:
    """A worker: as nobody, opens a ledger; says what came of it."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    say(_outcome(lambda: _reserve(Ledger(path), "a.1")))


def _as_nobody(path: Path) -> str:
    with Worker("unprivileged", module=__name__, path=str(path)) as worker:
        (said,) = worker.end()
        return str(said)


@pytest.fixture
def open_to_all(path: Path) -> Path:
    """A directory that anybody may pass through."""
    for parent in (path.parent, *path.parent.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return path


@ROOT_ONLY
def test_a_ledger_of_another_user_is_refused(open_to_all: Path) -> None:
    _filled(open_to_all, 1)
    assert "belongs to another user (uid 0)" in _as_nobody(open_to_all)


@ROOT_ONLY
def test_a_directory_that_cannot_be_written_is_refused_with_advice(open_to_all: Path) -> None:
    assert _as_nobody(open_to_all) == (
        f"LedgerError: {open_to_all} cannot be made or read: Permission denied; give Ledger a path that can be written"
    )
    assert not open_to_all.exists()


@ROOT_ONLY
@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_ledger_that_may_only_be_read_is_refused_with_advice(open_to_all: Path, what: str) -> None:
    _filled(open_to_all, 1)
    for each in open_to_all.parent.iterdir():
        os.chown(each, NOBODY, NOBODY)
    before = open_to_all.read_bytes()
    if what == "file":
        open_to_all.chmod(0o400)
        os.chown(open_to_all.parent, NOBODY, NOBODY)
    said = _as_nobody(open_to_all)
    assert said.startswith("LedgerError: ")
    assert "ledger.db" in said
    assert "cannot be written" in said or "cannot be opened" in said
    assert open_to_all.read_bytes() == before


def test_a_file_system_that_is_mounted_to_be_read_is_refused_with_advice(tmp_path: Path) -> None:
    real = tmp_path / "real"
    _filled(real / "ledger.db", 1)
    with _mounted("--bind", "-o", "ro", str(real), at=tmp_path / "seen") as seen:
        with pytest.raises(LedgerError, match=r"ledger\.db.*(cannot be written|cannot be opened|cannot be made)"):
            _reserve(Ledger(seen / "ledger.db"), "a.1")
        with pytest.raises(LedgerError, match=r"cannot be made or read: Read-only file system; give Ledger a path"):
            Ledger(seen / "other.db")


def test_files_and_directories_are_for_the_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "ledger.db"
    for mask in (0o000, 0o777):
        before = os.umask(mask)
        try:
            ledger = Ledger(path)
            _reserve(ledger, f"{mask}.1")
        finally:
            os.umask(before)
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-lock"), 0o600)
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path.parent.parent)] == [0o700, 0o700]
        ledger.close()


# Other programs


def strange(path: str) -> None:
    """A worker: another program that keeps the database locked, until it is told to let go."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    ready()
    db.execute("COMMIT")
    say("over")


def test_a_stranger_that_locks_the_file_is_waited_for(path: Path) -> None:
    _filled(path, 1)
    hold_s = 5.0 if LONG else 1.5
    with Ledger(path, patience_s=hold_s + 8) as ledger, Worker("strange", module=__name__, path=str(path)) as stranger:
        assert stranger.hear() == "ready"
        threading.Timer(hold_s, stranger.go).start()
        started = time.monotonic()
        _reserve(ledger, "waited.1")
        assert hold_s - 0.1 <= time.monotonic() - started < hold_s + 5
        assert stranger.end() == ["over"]


def test_a_stranger_that_keeps_the_file_locked_is_given_up_on_when_patience_ends(path: Path) -> None:
    _filled(path, 1)
    with Ledger(path, patience_s=0.2) as ledger, Worker("strange", module=__name__, path=str(path)) as stranger:
        assert stranger.hear() == "ready"
        started = time.monotonic()
        with pytest.raises(LedgerBusy, match=r"ledger\.db is locked by another program"):
            ledger.reserve("late.1", NEED, [CAP])
        assert 0.2 <= time.monotonic() - started < 2
        stranger.go()
        assert stranger.end() == ["over"]
        _reserve(ledger, "next.1")
    assert "late.1" not in _states(path)


def test_what_is_booked_while_a_stranger_locks_the_file_is_written_later(path: Path) -> None:
    with Ledger(path) as ledger, Worker("strange", module=__name__, path=str(path)) as stranger:
        held = _reserve(ledger, "held.1")
        assert stranger.hear() == "ready"
        started = time.monotonic()
        _book(ledger, held)
        assert time.monotonic() - started < 0.5, "booking waits for nobody"
        assert ledger.balance()[0].reserved == 1
        stranger.go()
        assert stranger.end() == ["over"]
        _until(lambda: ledger.balance()[0].settled == 1)


# Files that are no ledger


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, but long enough to be taken for one. " * 40)


def _bad_header(path: Path) -> None:
    _filled(path)
    path.write_bytes(b"\x13" * 100 + path.read_bytes()[100:])


def _truncated(path: Path) -> None:
    _filled(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 1024 * 1024])


def _zeroed(path: Path) -> None:
    _filled(path)
    data = bytearray(path.read_bytes())
    data[1024 : 1024 * 20] = bytes(1024 * 19)
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA application_id = 252006673; CREATE TABLE theirs (x)")


def _anonymous(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE theirs (x)")


def _altered(script: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        _filled(path, 1)
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript(script)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    return damage


BROKEN: dict[str, tuple[Callable[[Path], None], type[LedgerError], str]] = {
    "garbage": (_garbage, LedgerCorrupt, "no ledger at all.*move it away"),
    "a damaged header": (_bad_header, LedgerCorrupt, "no ledger at all.*move it away"),
    "a half": (_truncated, LedgerCorrupt, "damaged.*move it away"),
    "pages of zeros": (_zeroed, LedgerCorrupt, "damaged.*move it away"),
    "another program's database": (_foreign, LedgerError, "of another program; give the ledger a file of its own"),
    "a database of nobody's": (_anonymous, LedgerError, "of another program; give the ledger a file of its own"),
    "a newer schema": (_altered("PRAGMA user_version = 99"), LedgerError, "schema 99.*up to 1: update llmbridge"),
    "half a schema": (_altered("PRAGMA foreign_keys = OFF; DROP TABLE entry"), LedgerCorrupt, "lacks entry: move it"),
    "no clock": (_altered("DELETE FROM clock"), LedgerCorrupt, "damaged.*move it away"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_no_ledger_is_refused_by_name_and_left_as_it_is(path: Path, what: str) -> None:
    damage, kind, message = BROKEN[what]
    damage(path)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"ledger\.db.*{message}") as caught:
        Ledger(path)
    assert type(caught.value) is kind
    assert path.read_bytes() == before


def test_no_flip_of_bits_ends_in_anything_but_a_right_ledger_or_a_clear_error(path: Path) -> None:
    _filled(path, 60)
    rng = random.Random(SEED)
    good = path.read_bytes()
    refused = 0
    for _ in range(2000 if LONG else 150):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 8, 64])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(data)
        refused += not _usable(path)
    assert refused > 0


def _usable(path: Path) -> bool:
    try:
        with Ledger(path) as ledger:
            found = ledger.check()
            ledger.reserve("more.1", NEED, [CAP])
            ledger.records()
            ledger.spend("model")
            ledger.balance()
            return not found
    except LedgerError as error:
        assert path.name in str(error)
        return False


def test_an_empty_file_is_a_new_ledger(path: Path) -> None:
    path.touch()
    with Ledger(path) as ledger:
        _reserve(ledger, "a.1")
    assert _states(path) == {"a.1": "reserved"}


def test_a_directory_is_no_ledger(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LedgerError, match=r"ledger\.db is not a file"):
        Ledger(path)


def test_a_symbolic_link_is_refused(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere.db"))
    with pytest.raises(LedgerError, match=r"ledger\.db is a symbolic link; give the ledger's real path"):
        Ledger(path)
    assert not path.with_name("elsewhere.db").exists()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(place, "file_system", lambda _: kind)
    with pytest.raises(LedgerError, match=rf"ledger\.db is on a network file system \({kind}\).*use a local disk"):
        Ledger(path)
    assert not path.exists()


def test_the_file_system_of_a_directory_is_found_where_it_is_mounted(tmp_path: Path) -> None:
    with _mounted("-t", "tmpfs", "tmpfs", at=tmp_path / "a disk") as disk:
        assert place.file_system(disk) == "tmpfs"
        (disk / "inner").mkdir()
        assert place.file_system(disk / "inner") == "tmpfs"
    assert place.file_system(Path("/proc/self")) == "proc"


@pytest.mark.parametrize("name", [":memory:", "file:ledger.db?mode=memory"])
def test_a_ledger_in_memory_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be in memory"):
        Ledger(name)


def test_a_second_ledger_on_one_file_is_the_same_ledger(path: Path) -> None:
    with Ledger(path) as one, Ledger(path) as other:
        held = _reserve(one, "a.1")
        other.settle("a.1", CHARGE)
        with pytest.raises(AlreadyResolved):
            one.settle(held, CHARGE)
        assert one.balance() == other.balance()


# Clocks


def clocked(path: str, now: float, attempt: str) -> None:
    """A worker: reserves by a clock of its own."""
    with Ledger(path, clock=lambda: now) as ledger:
        say(type(ledger.reserve(attempt, NEED, [Budget("1 requests/day"), CAP], lease_s=600)).__name__)


@pytest.mark.parametrize("back_s", [3600, 86_400])
def test_a_clock_that_goes_back_reopens_no_window(path: Path, back_s: float) -> None:
    clock = Clock()
    day = Budget("1 requests/day")
    with Ledger(path, clock=clock) as ledger:
        clock.now += 86_400  # yesterday's is unused, and over
        assert isinstance(ledger.reserve("today.1", NEED, [day]), Reservation)
        clock.now -= back_s
        assert not isinstance(ledger.reserve("again.1", NEED, [day]), Reservation)
        with Worker("clocked", module=__name__, path=str(path), now=clock.now, attempt="other.1") as other:
            assert other.end() == ["Refusal"]
        assert ledger.check() == []


def test_a_clock_that_jumps_a_year_ahead_and_back_charges_what_was_open_and_frees_nothing(path: Path) -> None:
    clock = Clock()
    with Ledger(path, clock=clock) as ledger:
        held = ledger.reserve("open.1", NEED, [CAP], lease_s=600)
        assert isinstance(held, Reservation)
        with Worker(
            "clocked", module=__name__, path=str(path), now=clock.now + 365 * 86_400, attempt="future.1"
        ) as other:
            assert other.end() == ["Reservation"]
        (balance,) = ledger.balance(CAP)
        assert (balance.settled, balance.reserved) == (1, 1), "one has expired and is charged, one is held"
        clock.now += 5
        later = _reserve(ledger, "later.1")
        ledger.settle(later, CHARGE)
        ledger.settle(held, CHARGE)  # an answer that comes late, once
        with pytest.raises(AlreadyResolved):
            ledger.settle(held, CHARGE)
        assert ledger.check() == []


def test_a_process_whose_clock_is_behind_keeps_up_with_the_others(path: Path) -> None:
    ahead, behind = Clock(1_000_000.0), Clock(990_000.0)
    with Ledger(path, clock=ahead) as one, Ledger(path, clock=behind) as other:
        _reserve(one, "a.1")
        for each in range(20):
            ahead.now += 60
            behind.now += 60
            _reserve(one, f"one{each}.1")
            _reserve(other, f"other{each}.1")
        with one._file.reading() as db:
            made = [at for (at,) in db.execute("SELECT made_us FROM reservation ORDER BY id")]
        assert made == sorted(made)
        assert one.check() == []


def test_what_was_rolled_back_did_not_store_the_time(path: Path) -> None:
    clock = Clock()
    with Ledger(path, clock=clock) as ledger:
        held = _reserve(ledger, "a.1")
        ledger.settle(held, CHARGE)
        clock.now += 3600.1
        with pytest.raises(AlreadyResolved):
            ledger.settle(held, CHARGE)
        clock.now += 0.5
        _reserve(ledger, "b.1")
        assert ledger.check() == []


# Interruptions


class Cycle:
    """Something whose end books a call, as that of a stream nobody closed does."""

    def __init__(self, ending: Callable[[], None]) -> None:
        self.ending = ending
        self.itself = self

    def __del__(self) -> None:
        self.ending()


def test_what_the_garbage_collector_books_inside_a_transaction_of_the_same_thread_is_written_later(path: Path) -> None:
    with Ledger(path) as ledger:
        held = _reserve(ledger, "held.1")
        with ledger._file.transaction() as db:
            db.execute("UPDATE budget SET amount = amount")
            Cycle(lambda: _book(ledger, held))
            gc.collect()
        _until(lambda: ledger.balance()[0].settled == 1)
    assert _states(path) == {"held.1": "settled"}


def test_a_collector_that_runs_at_every_allocation_deadlocks_nothing_and_loses_nothing(path: Path) -> None:
    before = gc.get_threshold()
    with Ledger(path) as ledger:
        kept = [_reserve(ledger, f"kept{each}.1") for each in range(100)]
        gc.set_threshold(3)
        try:
            for each, held in enumerate(kept):
                Cycle(lambda held=held: _book(ledger, held))  # type: ignore[misc]
                _reserve(ledger, f"more{each}.1")
        finally:
            gc.set_threshold(*before)
        gc.collect()
        _until(lambda: ledger.balance()[0].settled == 100)
        assert ledger.check() == []


class Interrupt:
    """Raises KeyboardInterrupt at the *n*th line that is run in llmbridge.ledger or on entry of a function there."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __enter__(self) -> Interrupt:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: object) -> Any:
        if "/llmbridge/ledger/" not in frame.f_code.co_filename or frame.f_code.co_name == "__del__":
            return None
        self._count()
        return self._line

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self._count()
        return self._line

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def _interrupted(step: Callable[[], object], n: int) -> bool:
    try:
        with Interrupt(n):
            step()
    except KeyboardInterrupt:
        return True
    return False


def test_an_interrupt_at_any_line_of_a_reservation_leaves_no_lock_and_no_reservation(path: Path) -> None:
    with Ledger(path, patience_s=2.0) as ledger:
        _reserve(ledger, "first.1")
        n = 1
        while _interrupted(lambda n=n: ledger.reserve(f"call{n}.1", NEED, [CAP]), n):
            ledger.forget(f"call{n}.1")
            _reserve_elsewhere(ledger, f"other{n}.1")
            n += 1
        assert n > 40, "no line was hit"
        assert ledger.check() == []
    states = _states(path)
    assert {state for attempt, state in states.items() if attempt.startswith("call")} <= {"released", "reserved"}
    assert [attempt for attempt, state in states.items() if state == "reserved" and attempt.startswith("call")] == [
        f"call{n}.1"
    ]


def _reserve_elsewhere(ledger: Ledger, attempt: str) -> None:
    """Reserve in another thread: nobody else's lock may be left."""
    made: list[Reservation] = []
    thread = threading.Thread(target=lambda: made.append(_reserve(ledger, attempt)))
    thread.start()
    thread.join(WAIT_S)
    assert made


def test_an_interrupt_at_any_line_of_a_booking_leaves_no_lock_and_is_booked_once(path: Path) -> None:
    with Ledger(path, patience_s=2.0) as ledger:
        n, going = 0, True
        while going:
            n += 1
            held = _reserve(ledger, f"call{n}.1")
            going = _interrupted(lambda held=held: _book(ledger, held), n)
            if going and n < 5:
                _book(ledger, held)  # it struck before book() had begun
            _reserve_elsewhere(ledger, f"other{n}.1")
        assert n > 40, "no line was hit"
        _until(lambda: ledger.balance()[0].settled == n)
        assert ledger.check() == []


def test_a_cancellation_in_any_pause_leaves_no_lock(path: Path) -> None:
    with Ledger(path, durability="power") as ledger:

        async def cancelled_after(pauses: int, attempt: str) -> None:
            task = asyncio.ensure_future(wait_async(ledger.reserving(attempt, NEED, [CAP])))
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            ledger.forget(attempt)

        for pauses in range(6):
            asyncio.run(cancelled_after(pauses, f"call{pauses}.1"))
        _until(lambda: sum(each.reserved for each in ledger.balance()) == 0)
        assert ledger.check() == []


# The life of a Ledger


def test_a_closed_ledger_says_so(path: Path) -> None:
    ledger = Ledger(path)
    held = _reserve(ledger, "a.1")
    ledger.close()
    ledger.close()
    for step in (
        lambda: ledger.reserve("b.1", NEED, [CAP]),
        lambda: ledger.settle(held, CHARGE),
        ledger.balance,
        ledger.check,
    ):
        with pytest.raises(LedgerError, match=r"ledger\.db was closed; make a new Ledger"):
            step()
    _book(ledger, held)
    ledger.forget("a.1")
    assert _states(path) == {"a.1": "reserved"}


def test_many_short_threads_leave_no_files_open(path: Path) -> None:
    with Ledger(path) as ledger:
        _reserve_elsewhere(ledger, "first.1")
        before = len(_open_files())
        for each in range(100):
            _reserve_elsewhere(ledger, f"{each}.1")
        gc.collect()
        assert len(_open_files()) < before + 10


def test_a_ledger_whose_first_thread_has_ended_still_syncs(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SYNC_S", 0.05)
    made: list[Ledger] = []

    def begin() -> None:
        made.append(Ledger(path))
        _reserve(made[0], "a.1")

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    del thread
    with made.pop() as ledger, caplog.at_level(logging.WARNING):
        gc.collect()
        _until(lambda: ledger._upkeep._synced >= 1)
        _reserve(ledger, "b.1")
    assert caplog.messages == []
    assert set(_states(path)) == {"a.1", "b.1"}


def test_closing_ends_the_thread(path: Path) -> None:
    ledger = Ledger(path)
    _reserve(ledger, "a.1")
    thread = ledger._upkeep._thread
    assert thread is not None
    assert thread.daemon
    ledger.close()
    assert not thread.is_alive()


def test_a_ledger_that_is_forgotten_ends_its_thread_and_closes_its_files(path: Path) -> None:
    before = _open_files()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger: Ledger | None = Ledger(path)
        assert ledger is not None
        made = _reserve(ledger, "a.1")
        _book(ledger, made)
        thread, gone = ledger._upkeep._thread, weakref.ref(ledger)
        assert thread is not None
        ledger = None
        gc.collect()
        assert gone() is None
        thread.join(WAIT_S)
        assert not thread.is_alive()
        gc.collect()
    left = _open_files() - before
    assert {each for each in left if "ledger.db" in each} == set()
    assert _states(path) == {"a.1": "settled"}


def _open_files() -> set[str]:
    """What this process has open."""
    names = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.add(f"{each.name} {each.readlink()}")
    return names


def leaving(path: str, threads: int) -> None:
    """A worker: books from threads that fight for the lock, and comes to its end at once, without closing."""
    ledger = Ledger(path)
    held = [_reserve(ledger, f"{each}.1") for each in range(threads * 10)]

    def run(thread: int) -> None:
        for each in held[thread::threads]:
            _book(ledger, each)

    started = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def test_an_interpreter_that_ends_has_written_everything(path: Path) -> None:
    with Worker("leaving", module=__name__, path=str(path), threads=16) as worker:
        assert worker.end() == []
    assert set(_states(path).values()) == {"settled"}
    assert len(_states(path)) == 160


if __name__ == "__main__":
    main(globals())
