"""reserve() and settle() against two bare SQLite transactions, in the same directory.

No commit of the bare ones is synced to disk; ours are, once a second and beside the calls, or, with durability="power",
once a call. What rows that are there already cost is in growth.py.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llmbridge.ledger import Budget, Charge, Ledger, Need, Reservation
from llmbridge.record import new_id
from tests.benchmarks.contender import Stage
from tests.benchmarks.paired import Table, Took, in_turn, way
from tests.ledger_worker import workers


ROUNDS = 25
PAIRS = 200  # in a round
TOGETHER = 1000  # of each process
BUDGETS = ("$500000/day", "1000000 requests/month", "500M tokens")
BARE, OURS = "two bare transactions", "1 budget"


def bare(path: Path, synchronous: str = "NORMAL") -> Callable[[], object]:
    """INSERT and COMMIT, UPDATE and COMMIT, as SQLite does it by itself: its page size, its checkpoints.

    With NORMAL a commit is not synced, and a power cut leaves the file whole; with OFF it may not.
    """
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", f"synchronous={synchronous}"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE reservation (id INTEGER PRIMARY KEY, attempt TEXT, state TEXT, amount INTEGER) STRICT")

    def pair() -> None:
        db.execute("BEGIN IMMEDIATE")
        insert = "INSERT INTO reservation (attempt, state, amount) VALUES (?, 'reserved', ?)"
        row = db.execute(insert, (f"{new_id()}.1", 5_000_000)).lastrowid
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE reservation SET state = 'settled', amount = ? WHERE id = ?", (3_000_000, row))
        db.execute("COMMIT")

    return pair


def ours(ledger: Ledger, budgets: int = 1) -> Callable[[], object]:
    """reserve() and settle(), under so many budgets."""
    caps = [Budget(each) for each in BUDGETS[:budgets]]
    need, charge = Need(5_000_000, 500), Charge(3_000_000, 300)

    def pair() -> None:
        made = ledger.reserve(f"{new_id()}.1", need, caps)
        assert isinstance(made, Reservation)
        ledger.settle(made, charge)

    return pair


def together(directory: Path, processes: int) -> Took:
    """What a pair takes of the wall's time, from the first's start to the last's end, by so many processes."""
    with workers(processes, "pairs", path=str(directory / f"{new_id()}.db"), tries=TOGETHER) as each:
        started = time.perf_counter()
        for worker in each:
            worker.go()
        for worker in each:
            worker.end()
        return Took((time.perf_counter() - started) / (processes * TOGETHER), None)


def tables(stage: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """One of a process alone, and one of four."""
    directory = stage.directory
    with Ledger(directory / "ledger.db") as ledger, Ledger(directory / "power.db", durability="power") as power:
        works = {BARE: bare(directory / "bare.db"), OURS: ours(ledger)}
        if not short:
            works["the same with synchronous=OFF"] = bare(directory / "careless.db", "OFF")
            works["no budget"], works["3 budgets"] = ours(ledger, 0), ours(ledger, 3)
        ways = {each: way(work, PAIRS) for each, work in works.items()}
        if not short:
            ways['1 budget, durability="power"'] = way(ours(power), PAIRS // 10)
        yield Table("reserve and settle", "µs", in_turn(ways, rounds), BARE)
    if not short:
        many = {f"{count} of them": functools.partial(together, directory, count) for count in (1, 4)}
        yield Table("reserve and settle, by processes", "µs", in_turn(many, max(rounds // 5, 3)), "1 of them")
