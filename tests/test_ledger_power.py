"""Power cuts: what a worker wrote is recorded with strace and replayed up to a random moment, without what no sync had
reached, or with some of it. The ledger that is left must open, agree with itself and hold what was promised."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmbridge.ledger import Budget, Ledger, Need
from tests.ledger_worker import WAIT_S, Worker


LONG = bool(os.environ.get("LLMBRIDGE_LONG"))
CUTS = 3000 if LONG else 200
CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink"
STRACE = ("strace", "-f", "-y", "-xx", "-s", "100000", "-e", f"trace={CALLS}", "-e", "signal=none")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_PATH = re.compile(r'<((?:\\x[0-9a-f]{2})+)>|^"((?:\\x[0-9a-f]{2})+)"')
_TEXT = re.compile(r', "((?:\\x[0-9a-f]{2})*)"')


@dataclass
class Event:
    """A system call on a file of the ledger: from line *began* to line *ended* of the recording."""

    thread: str
    call: str
    path: str
    data: bytes
    number: int  # of a write its offset, of a truncation the size
    began: int
    ended: int


@dataclass
class Recording:
    """What one worker did."""

    directory: Path
    events: list[Event]
    lines: int

    @property
    def acknowledged(self) -> list[tuple[str, str, int]]:
        """What was said, of which attempt, and when."""
        said = [each for each in self.events if each.path.endswith("marker") and each.call == "write"]
        return [(*each.data.decode().split(), each.began) for each in said]  # type: ignore[misc]

    def syncs(self, cut: int) -> list[Event]:
        """Those that had returned at *cut*."""
        return [each for each in self.events if each.call in ("fsync", "fdatasync") and each.ended < cut]


def _record(directory: Path, durability: str, pairs: int) -> Recording:
    path, log = directory / "ledger.db", directory / "strace.log"
    work = {"path": str(path), "marker": str(directory / "marker"), "durability": durability}
    with Worker("power", prefix=(*STRACE, "-o", str(log)), **work, threads=3, pairs=pairs) as worker:
        assert worker.end() == []
    lines = log.read_text().splitlines()
    log.unlink()
    return Recording(directory, [each for each in _events(lines) if each.path.startswith(str(directory))], len(lines))


def _events(lines: list[str]) -> Iterator[Event]:
    """The calls that succeeded, in the order of their beginnings."""
    unfinished: dict[str, tuple[str, str, int]] = {}
    found: list[Event] = []
    for at, line in enumerate(lines):
        if resumed := _RESUMED.match(line):
            call, text, began = unfinished.pop(resumed[1])
            text += resumed[3]
        elif begun := _BEGUN.match(line):
            call, text, began = begun[2], begun[3], at
            if text.endswith("<unfinished ...>"):
                unfinished[begun[1]] = call, text.removesuffix("<unfinished ...>"), began
                continue
        else:
            continue
        arguments, _, result = text.rpartition(" = ")
        if (
            not result.startswith("-1")
            and (event := _event(line.split()[0], call, arguments.rstrip(" )"), began, at)) is not None
        ):
            found.append(event)
    yield from sorted(found, key=lambda each: each.began)


def _event(thread: str, call: str, text: str, began: int, ended: int) -> Event | None:
    if call == "openat":
        text = text.partition(", ")[2]
        if "O_CREAT" not in text:
            return None
    path = _PATH.search(text)
    if path is None:
        return None
    data = _TEXT.search(text)
    last = text.rpartition(", ")[2]
    return Event(
        thread,
        call,
        _bytes(path[1] or path[2]).decode(),
        _bytes(data[1]) if data else b"",
        int(last) if call in ("pwrite64", "ftruncate") else 0,
        began,
        ended,
    )


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _rebuild(recording: Recording, cut: int, rng: random.Random, target: Path) -> None:
    """The files as a disk may have them that lost its power at line *cut*."""
    safe_until: dict[str, int] = {}
    for sync in recording.syncs(cut):
        safe_until[sync.path] = sync.began
    keep = rng.choice([0.0, 1.0, 0.5, 0.9])
    files: dict[str, bytearray] = {}
    for event in recording.events:
        if event.began >= cut:
            break
        if not event.path.startswith(str(recording.directory / "ledger.db")) or event.path.endswith(("-shm", "-lock")):
            continue
        owner = str(recording.directory) if event.call in ("openat", "unlink") else event.path
        safe = event.ended < safe_until.get(owner, -1)
        if safe or rng.random() < keep:
            _apply(event, files, None if safe or rng.random() < 0.8 else rng)
    for path, content in files.items():
        (target / Path(path).name).write_bytes(content)


def _apply(event: Event, files: dict[str, bytearray], torn: random.Random | None) -> None:
    if event.call == "openat":
        files.setdefault(event.path, bytearray())
    elif event.call == "unlink":
        files.pop(event.path, None)
    elif event.call in ("pwrite64", "ftruncate") and event.path in files:
        content, size = files[event.path], event.number
        if event.call == "ftruncate":
            content[:] = content[:size].ljust(size, b"\0")
        else:
            data = event.data[: torn.randrange(len(event.data))] if torn else event.data
            content[:] = content.ljust(size, b"\0")
            content[size : size + len(data)] = data


def _cuts(recording: Recording, rng: random.Random) -> list[int]:
    """Right after a sync or an acknowledgement, and anywhere else; more than there are if they are asked for."""
    edges = [each.ended + 1 for each in recording.events if each.call in ("fsync", "fdatasync", "write")]
    edges += [each.began + 1 for each in recording.events if each.call in ("ftruncate", "unlink")]
    edges = rng.sample(edges, min(len(edges), CUTS * 2 // 3))
    first = recording.events[0].began
    return edges + [rng.randrange(first, recording.lines + 1) for _ in range(CUTS - len(edges))]


def _promised(recording: Recording, cut: int, durability: str) -> Iterator[tuple[str, set[str]]]:
    """Each attempt that must be there, with the states that it may have."""
    synced = max((each.began for each in recording.syncs(cut) if each.path.endswith("-wal")), default=-1)
    for what, attempt, at in recording.acknowledged:
        if at < synced:
            yield attempt, {"settled"} if what == "settled" else {"reserved", "settled"}
        elif at < cut and durability == "power" and what == "reserved":
            yield attempt, {"reserved", "settled"}


def _states(ledger: Ledger) -> dict[str, tuple[str, int]]:
    query = "SELECT attempt, state, coalesce(cost_nanousd, reserved_nanousd) FROM reservation"
    with ledger._file.reading() as db:
        return {attempt: (state, held) for attempt, state, held in db.execute(query)}


@pytest.fixture(scope="module", params=["power", "second"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Recording]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, timeout=WAIT_S).returncode:
        pytest.skip("strace may not trace here")
    for pairs in (60 if LONG else 25, 100, 400):  # a busy machine sees fewer checkpoints
        recorded = _record(tmp_path_factory.mktemp(request.param), request.param, pairs)
        if len(_begun(recorded)) >= 3:
            break
    return request.param, recorded


def _begun(recorded: Recording) -> list[Event]:
    """The writes with which a log begins anew, after a checkpoint."""
    return [
        each for each in recorded.events if each.path.endswith("-wal") and (each.call, each.number) == ("pwrite64", 0)
    ]


def test_a_power_cut_at_any_moment_leaves_a_ledger_that_holds_what_was_promised(
    recording: tuple[str, Recording], tmp_path: Path
) -> None:
    durability, recorded = recording
    rng = random.Random(20261121)
    for number, cut in enumerate(_cuts(recorded, rng)):
        target = tmp_path / f"{number}-at-{cut}"
        target.mkdir()
        _rebuild(recorded, cut, rng, target)
        promised = list(_promised(recorded, cut, durability))
        with Ledger(target / "ledger.db") as ledger:
            assert ledger.check() == [], target
            states = _states(ledger)
        for attempt, allowed in promised:
            assert attempt in states, (attempt, target)
            assert states[attempt][0] in allowed, (attempt, states[attempt], target)
        assert all(held >= 3_000 for _, held in states.values()), "less is charged than was spent"
        shutil.rmtree(target)


def test_the_recording_has_what_a_power_cut_could_hurt(recording: tuple[str, Recording]) -> None:
    durability, recorded = recording
    wal = [each for each in recorded.events if each.path.endswith("-wal")]
    begun = _begun(recorded)
    syncs = [each for each in wal if each.call == "fdatasync"]
    assert len(begun) >= 3, "no checkpoint was recorded"
    assert len(syncs) >= (10 if durability == "power" else 3)
    assert len(recorded.acknowledged) == 2 * 3 * (60 if LONG else 25)


def test_no_thread_that_reserves_makes_a_sync(recording: tuple[str, Recording]) -> None:
    _, recorded = recording
    said = [each for each in recorded.events if each.path.endswith("marker") and each.call == "write"]
    reserving, last = {each.thread for each in said}, said[-1].ended
    syncing = {each.thread for each in recorded.syncs(last)} - {recorded.events[0].thread}  # which opened the ledger
    assert len(reserving) == 3
    assert len(syncing) == 1
    assert not reserving & syncing


def test_what_was_committed_is_synced_within_a_second_and_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.reserve("a.1", Need(1, 1), [Budget("$5")])
        committed, started = ledger._file.commits, time.monotonic()
        while ledger._upkeep._synced < committed and time.monotonic() < started + 5:
            time.sleep(0.01)
        assert time.monotonic() - started < 1.6
