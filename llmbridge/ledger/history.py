"""Questions to the ledger about what went on: attempt by attempt, how long, how calls ended, how a budget went down."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from llmbridge.ledger import report
from llmbridge.ledger.budget import Budget
from llmbridge.ledger.report import Balance
from llmbridge.ledger.rows import first_made, moment, period
from llmbridge.ledger.transaction import Connection
from llmbridge.ledger.window import at
from llmbridge.money import usd


OF_ONE = 3  # counters of a budget with `per` that have a course: one user more is not one budget more
POINTS = 200  # of a budget's course: a chart has no room for more


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """An attempt that is over, in the words of AttemptRecord; `made_us` is when it was reserved."""

    call: str
    made_us: int
    verb: str
    model: str
    tags: dict[str, str]
    cost_usd: Decimal | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a model took, in seconds: half, 90 % and 99 % of its `attempts` took no longer."""

    model: str
    attempts: int
    p50_s: float
    p90_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Attempts on a model without an answer, by `what` came instead: an error, "left", "cancelled", "lost"."""

    model: str
    what: str
    status: int | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Course:
    """How a counter got to where it stands in its window.

    Attributes:
        starts_at: of the window; of the first settlement, for a budget without one. `asked_at`: the ledger's now.
        settled: how much was settled until when, in the unit of `balance`; at most some 200 points.
    """

    balance: Balance
    starts_at: datetime
    asked_at: datetime
    settled: list[tuple[datetime, int]]


def attempts(
    db: Connection, *, visit: Callable[[PastAttempt], None], since: datetime | None, until: datetime | None
) -> None:
    """Show every attempt that is over to *visit*, in the order in which they were made."""
    made, values = period("made_us", since, until)
    for call, made_us, verb, model, tags, cost, *counts in db.execute(
        "SELECT call, made_us, verb, model, tags, cost_nanousd, input_tokens, output_tokens, cached_tokens,"
        " cache_write_tokens, reasoning_tokens FROM reservation"
        f" WHERE state != 'reserved' AND id >= ? AND {made} ORDER BY id",
        (first_made(db, since), *values),
    ):
        cost_usd = None if cost is None else usd(cost)
        visit(PastAttempt(call, made_us, verb, model, json.loads(tags), cost_usd, *counts))


def latencies(db: Connection, *, first_chunk: bool, since: datetime | None, until: datetime | None) -> list[Latency]:
    """By the nearest rank: each figure is one that was measured."""
    took = "first_chunk_s" if first_chunk else "duration_s"
    made, values = period("made_us", since, until)
    ranks = ", ".join(f"max(iif(place = (many * {share} + 99) / 100, took, 0))" for share in (50, 90, 99))
    rows = db.execute(
        f"SELECT model, many, {ranks} FROM ("
        f"SELECT model, {took} AS took, count(*) OVER (PARTITION BY model) AS many,"
        f" row_number() OVER (PARTITION BY model ORDER BY {took}) AS place"
        f" FROM reservation WHERE outcome = 'answered' AND {took} IS NOT NULL AND id >= ? AND {made}"
        ") GROUP BY model ORDER BY many DESC, model",
        (first_made(db, since), *values),
    )
    return [Latency(*row) for row in rows]


def endings(db: Connection, *, since: datetime | None, until: datetime | None) -> dict[str, int]:
    """How many calls ended how; an answer from a model counts by the reason why that was asked."""
    started, values = period("started_us", since, until)
    return dict(
        db.execute(
            "SELECT CASE WHEN cached THEN 'cached' WHEN error_type = 'BudgetExceeded' THEN 'refused'"
            " WHEN outcome != 'answered' THEN outcome ELSE coalesce((SELECT reason FROM reservation"
            " WHERE attempt > call.id || '.' AND attempt < call.id || '/' AND outcome = 'answered'"
            f" ORDER BY reservation.id DESC LIMIT 1), 'initial') END, count(*) FROM call WHERE {started} GROUP BY 1",
            values,
        ).fetchall()
    )


def failures(db: Connection, *, since: datetime | None, until: datetime | None) -> list[Failure]:
    """The most frequent ones first."""
    made, values = period("made_us", since, until)
    rows = db.execute(
        "SELECT model, coalesce(error_type, outcome, 'lost'), status, count(*) FROM reservation"
        f" WHERE state != 'reserved' AND coalesce(outcome, 'lost') != 'answered' AND id >= ? AND {made}"
        " GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
        (first_made(db, since), *values),
    )
    return [Failure(*row) for row in rows]


def tag_names(db: Connection, *, since: datetime | None, until: datetime | None) -> list[str]:
    """Every name of a tag, the most used first."""
    made, values = period("made_us", since, until)
    started, more = period("started_us", since, until)
    day, most = period("unixepoch(day) * 1000000", since, until)
    used: Counter[str] = Counter()
    for tags, count in db.execute(
        f"SELECT tags, sum(many) FROM (SELECT tags, 1 AS many FROM reserved WHERE id >= ? AND {made}"
        f" UNION ALL SELECT tags, 1 FROM call WHERE saved_nanousd > 0 AND {started}"
        f" UNION ALL SELECT tags, calls FROM archive WHERE {day}) GROUP BY tags",
        (first_made(db, since), *values, *more, *most),
    ):
        used.update(dict.fromkeys(json.loads(tags), count))
    return sorted(used, key=lambda name: (-used[name], name))


def courses(db: Connection, *, most: int, clock_us: int) -> list[Course]:
    """Of at most so many counters, and three of one budget, those that are used up furthest first. A rolling window has
    no beginning, and one of a call is over at once: they have no course."""
    (latest,) = db.execute("SELECT at_us FROM clock").fetchone()
    now = max(latest, clock_us)
    found: list[tuple[float, int, Budget, Balance]] = []
    for row, budget in report.declared(db, None):
        if budget.window.kind not in ("call", "rolling"):
            found += [
                (balance.settled / max(balance.limit, 1), row, budget, balance)
                for balance in report.counters(db, row, budget, now)
            ]
    found.sort(key=lambda each: -each[0])
    seen: Counter[int] = Counter()
    chosen: list[Course] = []
    for _, row, budget, balance in found:
        seen[row] += 1
        if seen[row] <= OF_ONE and len(chosen) < most:
            chosen.append(_course(db, row, budget, balance, now))
    return chosen


def _course(db: Connection, row: int, budget: Budget, balance: Balance, now: int) -> Course:
    starts_us = budget.window.span(now).starts_us
    (counter,) = db.execute(
        "SELECT id FROM balance WHERE budget = ? AND scope = ? AND call = '' AND starts_us = ?",
        (row, json.dumps(list(balance.tags.values()), ensure_ascii=False), starts_us),
    ).fetchone()
    # what counts in a window was reserved in it, but may be settled after it
    steps: list[tuple[int, int]] = db.execute(
        "SELECT at_us, settled FROM ("
        " SELECT resolved_us AS at_us, c.value AS settled FROM resolved s, json_each(s.charged) c"
        " WHERE s.id >= ? AND CAST(c.key AS INTEGER) = ?"
        " UNION ALL SELECT at_us, settled FROM entry WHERE balance = ?"
        ") WHERE settled ORDER BY at_us",
        (first_made(db, moment(starts_us)), counter, counter),
    ).fetchall()
    starts_us = starts_us or (steps[0][0] if steps else now)
    width_us, settled = max((now - starts_us) // POINTS, 1), 0
    points: dict[int, tuple[int, int]] = {}
    for at_us, change in steps:
        settled += change
        points[max(at_us - starts_us, 0) // width_us] = (at_us, settled)
    at_ = functools.partial(at, zone=budget.zone)
    return Course(balance, at_(starts_us), at_(now), [(at_(at_us), amount) for at_us, amount in points.values()])
