"""What calls and questions cost on a ledger of a million rows, and beside 100,000 kept answers."""

from __future__ import annotations

import functools
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import llmbridge
from llmbridge import Bridge, Cache, Ledger, Model
from llmbridge.ledger import Budget, Charge, Need, ReadOnlyLedger, Reservation
from tests.benchmarks.clients import KEY, MODEL
from tests.benchmarks.contender import Stage
from tests.benchmarks.ledger import BUDGETS, ours
from tests.benchmarks.paired import Table, Way, in_turn, way


ROUNDS = 15
ROWS, ENTRIES = (0, 100_000, 1_000_000), (0, 100_000)
CALLS, PAIRS, HITS, LOOKS = 20, 200, 100, 3  # in a round
DAYS = 30  # that the rows are spread over
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
RESERVED = """
INSERT INTO reserved (id, attempt, made_us, lease_us, verb, model, provider, tags, reserved_nanousd, held)
SELECT i, printf('%032x.1', i), {at}, {at}, 'chat', 'openai/model-' || (i % 5), 'openai',
    '{{"user":"user' || (i % 100) || '"}}', 1, '{{"1":1}}' FROM n
"""
RESOLVED = """
INSERT INTO resolved (id, state, resolved_us, charged, cost_nanousd, uncertain, overrun, reason, outcome)
SELECT i, 'settled', {at}, '{{"1":1}}', 1, 0, 0, 'initial', 'answered' FROM n
"""
CALLED = """
INSERT INTO call (id, started_us, verb, outcome, models, model, provider, tags, duration_s, estimated)
SELECT printf('%032x', i), {at}, 'chat', 'answered', '["openai/gpt-4o-mini"]', 'openai/model-' || (i % 5), 'openai',
    '{{"user":"user' || (i % 100) || '"}}', 0.5, 0 FROM n
"""
KEPT = """
INSERT INTO Cache (key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value)
SELECT printf('%064x', i), raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value
FROM n, (SELECT * FROM Cache LIMIT 1)
"""


def grow(path: Path, rows: int) -> None:
    """Fill a ledger with settled reservations and their calls, quicker than by making them."""
    began = time.time() - DAYS * 86_400
    with Ledger(path, clock=lambda: began) as ledger:
        made = ledger.reserve("first.1", Need(1, 1), [Budget(BUDGETS[0])])
        assert isinstance(made, Reservation)
        ledger.settle(made, Charge(1, 1))
    if not rows:
        return
    db = sqlite3.connect(path, isolation_level=None)
    at = f"(SELECT made_us FROM reserved WHERE id = 1) + i * {DAYS * 86_400_000_000 // (rows + 1)}"
    db.execute("BEGIN IMMEDIATE")
    for insert in (RESERVED, RESOLVED, CALLED):
        db.execute(f"{NUMBERS} {insert.format(at=at)}", (rows,))
    db.execute("UPDATE balance SET settled = settled + ?", (rows - 1,))
    db.execute("UPDATE clock SET open_from = ?", (rows + 1,))
    db.execute("COMMIT")
    db.close()


def stuff(cache: Path, bridge: Bridge, entries: int) -> None:
    """Fill a cache with copies of an answer, under keys that nobody asks for."""
    bridge.complete("Name a fish.")
    db = sqlite3.connect(cache / "cache.db", isolation_level=None)
    db.execute(f"{NUMBERS} {KEPT}", (entries + 1,)) if entries else None
    db.close()


def bridges(directory: Path, api_base: str) -> dict[str, Bridge]:
    """A Bridge for each number of rows, and for each number of entries."""
    made, model = {}, Model(MODEL, api_base=api_base, api_key=KEY)
    for rows in ROWS:
        grow(path := directory / f"{rows}.db", rows)
        made[f"{rows:,} rows"] = Bridge(
            model, cache=Cache(directory / f"beside{rows}"), ledger=path, budgets=BUDGETS[0]
        )
    for entries in ENTRIES:
        cache, ledger = directory / f"cache{entries}", directory / f"beside{entries}.db"
        made[f"{entries:,} entries"] = Bridge(model, cache=Cache(cache), ledger=ledger, budgets=BUDGETS[0])
        stuff(cache, made[f"{entries:,} entries"], entries)
    return made


def questions(path: Path, rows: int) -> dict[str, Callable[[], object]]:
    """What the report commands ask."""
    ledger, thousand = ReadOnlyLedger(path), datetime.now(UTC) - timedelta(days=DAYS * min(1000 / (rows + 1), 1))
    return {
        "calls -n 50": lambda: ledger.records(limit=50),
        "calls, one of them": lambda: ledger.records(id=f"{ROWS[1] // 2:032x}"),
        "budget list": ledger.balance,
        "spend --by model, the latest 1,000": lambda: ledger.spend(by="model", since=thousand),
        "spend --by tag:user, the latest 1,000": lambda: ledger.spend(by="tag:user", since=thousand),
        "spend --by model": lambda: ledger.spend(by="model"),
    }


def tables(stage: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """Whole calls, reservations, hits; then each question. One about everything reads everything."""
    llmbridge.warm()
    directory = stage.directory / "growth"
    directory.mkdir()
    made, number = bridges(directory, stage.server.api_base), itertools.count()

    def asking(bridge: Bridge) -> Way:
        return way(lambda: bridge.complete(f"Name fish number {next(number)}."), CALLS)

    first, kept = f"{ROWS[0]} rows", f"{ENTRIES[0]} entries"
    yield Table("a call, on", "ms", in_turn({each: asking(bridge) for each, bridge in made.items()}, rounds), first)
    pairs = {each: way(ours(bridge.ledger), PAIRS) for each, bridge in made.items() if each.endswith("rows")}
    yield Table("reserve and settle, on", "µs", in_turn(pairs, rounds), first)
    hits = {
        each: way(functools.partial(bridge.complete, "Name a fish."), HITS)
        for each, bridge in made.items()
        if each.endswith("entries")
    }
    yield Table("a hit, beside", "µs", in_turn(hits, rounds), kept)
    for bridge in made.values():
        bridge.ledger.close()
    readers = {f"{rows:,} rows": questions(directory / f"{rows}.db", rows) for rows in ROWS}
    for question in readers[first]:
        ways = {each: way(asked[question], LOOKS) for each, asked in readers.items()}
        yield Table(f"llmbridge {question}, of", "ms", in_turn(ways, max(rounds // 3, 3)), first)
