"""SIGKILL anywhere: two processes write one ledger, one of them is killed at a random line or moment. What it had
acknowledged is there, what it left open is charged when its lease is over, and the file agrees with itself."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from llmbridge.ledger import Budget, Charge, Ledger, Need, Reservation
from llmbridge.record import AttemptRecord, CallRecord
from tests.ledger_worker import Worker, main, say


LONG = bool(os.environ.get("LLMBRIDGE_LONG"))
TRIALS = 2000 if LONG else 200
SEED = 20261121
LEASE_S = 3600.0
PRICE = 1_000_000  # nanodollars: a thousandth of a dollar, of which a fifth is spent
CAPS = ("$0.05", "200 requests", "$500/48h")  # no window ends while a lease does, at whatever hour this runs

# Where a worker is killed: in one of these functions, once in so many lines on average; "outside" by another process.
PLACES: dict[str, tuple[set[str], int]] = {
    "anywhere": (set(), 400),
    "opening": (
        {"__init__", "_prepare", "_connect", "_open_lock", "_open_wal", "_migrate", "_statements", "_sync_directory"},
        60,
    ),
    "transaction": ({"__enter__", "__exit__", "end", "lock", "unlock", "_reserve", "insert", "counter"}, 200),
    "resolving": ({"_resolve", "resolve", "_book", "_enter", "write_call", "book", "settle", "release"}, 100),
    "upkeep": ({"run", "_read", "_done", "_sync", "sync", "expire", "_expire", "_finish", "later"}, 80),
    "checkpoint": ({"checkpoint"}, 10),
    "closing": ({"close", "stop", "close_thread", "_finish", "_close_wal"}, 30),
    "outside": (set(), 0),
}


def kill_here(place: str, rng: random.Random) -> None:
    """Have this process killed at a random line of llmbridge.ledger, in *place*."""
    names, lines = PLACES[place]

    def line(frame: FrameType, event: str, _: object) -> Any:
        if rng.random() * lines < 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        return line if "/llmbridge/ledger/" in code.co_filename and (not names or code.co_name in names) else None

    threading.settrace(call)
    sys.settrace(call)


def write(path: str, name: str, rng: random.Random, acknowledge: int, rounds: int | None) -> None:
    """Open, reserve and resolve, and close; *rounds* times or for ever. What is certain is said in *acknowledge*."""
    number = 0
    while rounds is None or rounds > 0:
        rounds = None if rounds is None else rounds - 1
        with Ledger(path) as ledger:
            for _ in range(rng.randrange(1, 25)):
                number += 1
                one(ledger, f"{name}{number}", rng, acknowledge)


def one(ledger: Ledger, call: str, rng: random.Random, acknowledge: int) -> None:
    """One call: reserved, and then settled, released, booked or left."""
    made = ledger.reserve(f"{call}.1", Need(PRICE, 10), [Budget(cap) for cap in CAPS], lease_s=LEASE_S)
    if not isinstance(made, Reservation):
        return
    os.write(acknowledge, f"{call}.1 reserved\n".encode())
    charge = Charge(PRICE // 5, 5)
    ending = rng.choice(["settled", "settled", "released", "booked", "booked"] + ["left"] * (rng.random() < 0.3))
    if ending == "settled":
        ledger.settle(made, charge)
    elif ending == "released":
        ledger.release(made)
    elif ending == "booked":
        attempt = AttemptRecord(number=1, model="m", provider="p", reason="initial", outcome="answered")
        ledger.book(CallRecord(id=call, verb="chat", models=("m",), started_at=time.time()), (made, attempt, charge))
    os.write(acknowledge, f"{call}.1 {ending}\n".encode())


def trials(directory: str, seeds: list[int]) -> None:
    """A worker that forks the two writers of each trial, for a fork is cheaper than an interpreter."""
    from llmbridge.ledger import sqlite, upkeep

    sqlite.CHECKPOINT_BYTES, sqlite.CHECKPOINT_COMMITS = 20_000, 5
    upkeep.SYNC_S = 0.002
    for seed in seeds:
        say(trial(os.path.join(directory, f"{seed}.db"), seed))  # noqa: PTH118


def trial(path: str, seed: int) -> dict[str, Any]:
    """One of the two is killed; returns where, how each ended, and what each had acknowledged."""
    rng = random.Random(seed)
    place = rng.choice(list(PLACES))
    doomed, doomed_said = fork(lambda to: doom(path, place, random.Random(f"{seed} doomed"), to))
    witness, witness_said = fork(lambda to: write(path, "w", random.Random(f"{seed} witness"), to, 2))
    if place == "outside":
        time.sleep(rng.uniform(0.001, 0.06))
        os.kill(doomed, signal.SIGKILL)
    said = [read_all(doomed_said), read_all(witness_said)]
    ended = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in (doomed, witness)]
    return {"seed": seed, "place": place, "ended": ended, "said": said}


def doom(path: str, place: str, rng: random.Random, acknowledge: int) -> None:
    if place != "outside":
        kill_here(place, rng)
    write(path, "d", rng, acknowledge, None)


def fork(run: Any) -> tuple[int, int]:
    """Run in a child that is killed after a while at the latest; its process id, and a pipe that it writes to."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    os.close(reader)
    signal.alarm(20)
    code = 1
    try:
        run(writer)
        code = 0
    finally:
        os._exit(code)


def read_all(descriptor: int) -> list[list[str]]:
    """The lines that came through a pipe, as words; a line that was cut off was never said."""
    with os.fdopen(descriptor) as lines:
        return [line.split() for line in lines if line.endswith("\n")]


def _rows(ledger: Ledger) -> dict[str, tuple[str, int | None, bool]]:
    with ledger._file.reading() as db:
        found = db.execute("SELECT attempt, state, cost_nanousd, uncertain FROM reservation")
        return {attempt: (state, cost, bool(uncertain)) for attempt, state, cost, uncertain in found}


def _verify(path: Path, result: dict[str, Any]) -> None:
    with Ledger(path) as ledger:
        assert ledger.check() == []
        rows = _rows(ledger)
    latest = dict(result["said"][0] + result["said"][1])
    for attempt, what in latest.items():
        assert attempt in rows, f"{attempt} was acknowledged and is lost"
        allowed = {what} if what in ("settled", "released") else {"reserved", "settled", "released"}
        assert rows[attempt][0] in allowed, (attempt, what, rows[attempt])
    unsaid = [attempt for attempt in rows if attempt not in latest]
    assert len(unsaid) <= 1, unsaid
    assert all(attempt.startswith("d") for attempt in unsaid)
    _verify_expiry(path, rows)


def _verify_expiry(path: Path, before: dict[str, tuple[str, int | None, bool]]) -> None:
    with Ledger(path, clock=lambda: time.time() + LEASE_S + 1) as later:
        assert later.check() == []
        after = _rows(later)
        balances = later.balance()
    for attempt, (state, *_) in before.items():
        if state == "reserved":
            assert after[attempt] == ("expired", PRICE, True)
        else:
            assert after[attempt] == before[attempt]
    spent = sum(cost or 0 for _, cost, _ in after.values())
    for balance in balances:
        assert balance.reserved == 0
        assert balance.settled <= balance.limit
        if balance.settled_usd is not None:
            assert balance.settled_usd == Decimal(spent) / 10**9


@pytest.mark.timeout(600 if LONG else 60)
def test_a_ledger_survives_the_death_of_a_writer_at_any_line(tmp_path: Path) -> None:
    seeds = [SEED + number for number in range(TRIALS)]
    places: Counter[str] = Counter()
    half = len(seeds) // 2
    with (
        Worker("trials", module=__name__, directory=str(tmp_path), seeds=seeds[:half]) as first,
        Worker("trials", module=__name__, directory=str(tmp_path), seeds=seeds[half:]) as second,
    ):
        for worker in (first, second):
            while (result := worker.hear()) is not None:
                assert result["ended"] == [-signal.SIGKILL, 0], result
                _verify(tmp_path / f"{result['seed']}.db", result)
                places[result["place"]] += 1
    assert places.total() == TRIALS
    assert min(places.values()) >= TRIALS // 20, places
    assert set(places) == set(PLACES)


if __name__ == "__main__":
    main(globals())
