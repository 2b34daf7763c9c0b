"""reserve() and settle() against two bare SQLite transactions: python -m tests.benchmarks.ledger [N]

Both write in one directory, in turn; N rounds of each (25). No commit of the bare ones is synced to disk; ours are,
once a second and beside the calls, or once a call with durability="power".
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llmbridge.ledger import Budget, Charge, Ledger, Need, Reservation
from llmbridge.record import new_id
from tests.ledger_worker import workers


Pair = Callable[[], object]
PAIRS = 200  # in each round
BUDGETS = ("$500/day", "1000000 requests/month", "500M tokens")
GROWTH = (0, 100_000, 1_000_000)


def bare(path: Path, synchronous: str = "NORMAL") -> Pair:
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


def ours(ledger: Ledger, budgets: int) -> Pair:
    """reserve() and settle(), under so many budgets."""
    caps = [Budget(each) for each in BUDGETS[:budgets]]
    need, charge = Need(5_000_000, 500), Charge(3_000_000, 300)

    def pair() -> None:
        made = ledger.reserve(f"{new_id()}.1", need, caps)
        assert isinstance(made, Reservation)
        ledger.settle(made, charge)

    return pair


def microseconds(pair: Pair, count: int = PAIRS) -> float:
    """What one takes, on average over *count*."""
    started = time.perf_counter()
    for _ in range(count):
        pair()
    return (time.perf_counter() - started) / count * 1e6


def compared(pair: Pair, reference: Pair, rounds: int) -> tuple[float, float, list[float]]:
    """Medians of both in microseconds, and the ratio of each round."""
    found = [(microseconds(pair), microseconds(reference)) for _ in range(rounds)]
    mine, theirs = zip(*found, strict=True)
    return statistics.median(mine), statistics.median(theirs), [a / b for a, b in found]


def grow(path: Path, rows: int) -> None:
    """Fill a ledger with settled reservations, quicker than by settling them."""
    with Ledger(path) as ledger:
        ledger.settle(ledger.reserve("first.1", Need(1, 1), [Budget(BUDGETS[0])]), Charge(1, 1))  # type: ignore[arg-type]
    db = sqlite3.connect(path, isolation_level=None)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i <= ?)"
    made = "(SELECT made_us FROM reserved WHERE id = 1)"
    db.execute("BEGIN IMMEDIATE")
    db.execute(
        f"{numbers} INSERT INTO reserved (id, attempt, made_us, lease_us, verb, model, provider, tags,"
        f" reserved_nanousd, held) SELECT i, printf('%032x.1', i), {made}, {made}, 'chat', 'm', 'p', '{{}}', 1,"
        " '{\"1\":1}' FROM n",
        (rows,),
    )
    db.execute(
        f"{numbers} INSERT INTO resolved (id, state, resolved_us, charged, cost_nanousd, uncertain, overrun)"
        f" SELECT i, 'settled', {made}, '{{\"1\":1}}', 1, 0, 0 FROM n",
        (rows,),
    )
    db.execute("UPDATE balance SET settled = settled + ?", (rows,))
    db.execute("COMMIT")
    db.close()


def together(path: Path, processes: int, tries: int) -> float:
    """Pairs a second of so many processes on one file; each releases what it reserved."""
    with workers(processes, "mixed", path=str(path), budgets=[BUDGETS[0]], tries=tries) as each:
        started = time.perf_counter()
        for worker in each:
            worker.go()
        for worker in each:
            worker.end()
        return processes * tries / (time.perf_counter() - started)


def row(name: str, pair: Pair, reference: Pair, rounds: int) -> None:
    """A line of the table."""
    mine, theirs, ratios = compared(pair, reference, rounds)
    print(
        f"| {name} | {mine:.0f} | {theirs:.0f} | {statistics.median(ratios):.2f} |"
        f" {min(ratios):.2f} to {max(ratios):.2f} |"
    )


def main(rounds: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        reference = bare(directory / "bare.db")
        print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, {rounds} rounds of {PAIRS} pairs\n")
        print("| reserve and settle | µs | two bare transactions, µs | median ratio | least to greatest |")
        print("|---|---|---|---|---|")
        with Ledger(directory / "ledger.db") as ledger:
            for budgets in (0, 1, 3):
                row(f"{budgets} budget{'s' * (budgets != 1)}", ours(ledger, budgets), reference, rounds)
            careless = bare(directory / "careless.db", "OFF")
            row("1 budget, against synchronous=OFF", ours(ledger, 1), careless, rounds)
        for rows in GROWTH:
            path = directory / f"{rows}.db"
            grow(path, rows)
            with Ledger(path) as ledger:
                row(f"1 budget, {rows:,} rows", ours(ledger, 1), reference, rounds)
            path.unlink()
        with Ledger(directory / "power.db", durability="power") as ledger:
            row('1 budget, durability="power"', ours(ledger, 1), reference, max(rounds // 5, 3))
        print(f"\n4 processes together: {together(directory / 'together.db', 4, 2000):,.0f} pairs a second")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
