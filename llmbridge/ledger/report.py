"""Questions to the ledger: where the counters stand, and what was spent on what."""

from __future__ import annotations

import functools
import json
import sqlite3
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from llmbridge.ledger import booking
from llmbridge.ledger.budget import Budget, known_as, show_amount
from llmbridge.ledger.rows import first_made, moment, period
from llmbridge.ledger.transaction import Connection
from llmbridge.ledger.window import at, clocks, window
from llmbridge.money import usd


@dataclass(frozen=True, slots=True)
class Balance:
    """One counter of a budget, now. Amounts are in `unit`: nanodollars, tokens or requests.

    Attributes:
        tags: the values that this counter is for, of a budget with `per`.
        limit: the one in force, which may have been set at run time.
        settled, reserved: what was spent; what calls under way hold at most.
        resets_at: when the window ends; None for never, and for a rolling one, which ends all the time.
    """

    budget: str
    unit: str
    window: str
    limit: int
    settled: int
    reserved: int
    resets_at: datetime | None
    tags: dict[str, str | None] = field(default_factory=dict)

    @property
    def remaining(self) -> int:
        """What is left; negative after the limit was lowered or a settlement passed its reservation."""
        return self.limit - self.settled - self.reserved

    @property
    def limit_usd(self) -> Decimal | None:
        """The limit in US dollars; None for tokens and requests. So are the next three."""
        return self._usd(self.limit)

    @property
    def settled_usd(self) -> Decimal | None:
        return self._usd(self.settled)

    @property
    def reserved_usd(self) -> Decimal | None:
        return self._usd(self.reserved)

    @property
    def remaining_usd(self) -> Decimal | None:
        return self._usd(self.remaining)

    def _usd(self, amount: int) -> Decimal | None:
        return usd(amount) if self.unit == "nanousd" else None

    def __str__(self) -> str:
        whose = "".join(f" {name}={value}" for name, value in self.tags.items())
        parts = (show_amount(self.unit, each) for each in (self.settled, self.reserved, self.limit))
        return f"{self.budget}{whose}: {next(parts)} settled, {next(parts)} reserved of {next(parts)}"


@dataclass(frozen=True, slots=True)
class Spend:
    """What one group took. `of` has the group's values, by the names that were asked for.

    Attributes:
        cost_usd: everything charged, `uncertain_usd` of it at the worst case.
        saved_usd: what cached answers would have cost.
        unknown: attempts without a price, which are not in `cost_usd`.
    """

    of: dict[str, str | None]
    calls: int
    attempts: int
    cost_usd: Decimal
    uncertain_usd: Decimal
    saved_usd: Decimal
    unknown: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Typical:
    """What one model's recorded answers were like: how many there are, and medians over them. `output_tokens` is None
    if none of them said it."""

    answers: int
    latency_s: float
    output_tokens: int | None


Number = TypeVar("Number", int, float)
# Of no time zone do hours begin between two quarters of an hour, and a million times are some thousand quarters.
QUARTER_US = 15 * 60 * 1_000_000
_DATES = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}
_COLUMNS = ("model", "provider", "verb", "call")
_SUMS = """
    count(DISTINCT call) + sum(more_calls), sum(attempts), sum(cost), sum(uncertain), sum(saved), sum(unknown),
    sum(input_tokens), sum(output_tokens)
"""
# Reservations that are still under way are not spent; what compaction has folded stands at the start of its day.
_SPENT = """
    SELECT made_us AS at_us, call, 0 AS more_calls, verb, model, provider, tags, 1 AS attempts,
        coalesce(cost_nanousd, 0) AS cost, iif(uncertain, coalesce(cost_nanousd, 0), 0) AS uncertain, 0 AS saved,
        cost_nanousd IS NULL AS unknown, coalesce(input_tokens, 0) AS input_tokens,
        coalesce(output_tokens, 0) AS output_tokens
    FROM reservation WHERE state != 'reserved' AND id >= {first} AND {made}
    UNION ALL
    SELECT started_us, id, 0, verb, coalesce(model, ''), coalesce(provider, ''), tags, 0, 0, 0, saved_nanousd, 0, 0, 0
    FROM call WHERE saved_nanousd > 0 AND {started}
    UNION ALL
    SELECT day_us, NULL, calls, verb, model, provider, tags, attempts, cost_nanousd, uncertain_nanousd, saved_nanousd,
        unknown, input_tokens, output_tokens
    FROM (SELECT *, unixepoch(day) * 1000000 AS day_us FROM archive) WHERE {day}
"""


def spend(
    db: Connection, *, by: tuple[str, ...], since: datetime | None, until: datetime | None, zone: str
) -> list[Spend]:
    """One Spend a group, dearest first."""
    there = clocks(zone)
    assert isinstance(db, sqlite3.Connection), "this only reads"

    @functools.lru_cache
    def local(quarter: int, form: str) -> str:
        return moment(quarter * QUARTER_US).astimezone(there).strftime(form)

    db.create_function("local", 2, local)
    # not SQLite's own JSON paths, which know no name with a quote in it and none that JSON writes with escapes
    db.create_function("tag", 2, functools.lru_cache(lambda tags, name: json.loads(tags).get(name)))
    groups, group_values = zip(*map(_group, by), strict=True) if by else ((), ())
    parts: dict[str, Any] = {"first": first_made(db, since)}
    values: list[Any] = []
    for name, column in (("made", "made_us"), ("started", "started_us"), ("day", "day_us")):
        parts[name], more = period(column, since, until)
        values += more
    chosen = "".join(f"{group}, " for group in groups)
    grouped = f"GROUP BY {', '.join(map(str, range(1, len(by) + 1)))}" if by else "HAVING count(*)"
    names = [value for values_ in group_values for value in values_]
    rows = db.execute(f"SELECT {chosen}{_SUMS} FROM ({_SPENT.format(**parts)}) {grouped}", (*names, *values))
    found = [_spend(dict(zip(by, row[: len(by)], strict=True)), row[len(by) :]) for row in rows]
    return sorted(found, key=lambda each: (-each.cost_usd, [str(value) for value in each.of.values()]))


def _group(name: str) -> tuple[str, tuple[str, ...]]:
    """SQL for a group, with its values."""
    if name in _COLUMNS:
        return name, ()
    if name in _DATES:
        return f"local(at_us / {QUARTER_US}, ?)", (_DATES[name],)
    return "tag(tags, ?)", (name.removeprefix("tag:"),)


def _spend(of: dict[str, str | None], row: tuple[Any, ...]) -> Spend:
    calls, attempts, cost, uncertain, saved, unknown, input_tokens, output_tokens = row
    return Spend(of, calls, attempts, usd(cost), usd(uncertain), usd(saved), unknown, input_tokens, output_tokens)


def typical(db: Connection, *, latest: int) -> dict[str, Typical]:
    """By model, over the *latest* attempts."""
    found: dict[str, list[tuple[float, int | None]]] = {}
    for model, outcome, duration_s, tokens in db.execute(
        "SELECT model, outcome, duration_s, output_tokens FROM reservation ORDER BY id DESC LIMIT ?", (latest,)
    ):
        if outcome == "answered" and duration_s is not None:
            found.setdefault(model, []).append((duration_s, tokens))
    return {model: _typical(answers) for model, answers in found.items()}


def _typical(answers: list[tuple[float, int | None]]) -> Typical:
    counts = [tokens for _, tokens in answers if tokens is not None]
    return Typical(len(answers), _median([seconds for seconds, _ in answers]), _median(counts) if counts else None)


def _median(values: list[Number]) -> Number:
    return sorted(values)[len(values) // 2]  # of two in the middle the upper; the module for it takes 12 ms to import


def balances(db: Connection, *, budget: Budget | str | None, clock_us: int) -> list[Balance]:
    """The counters that count now."""
    (latest,) = db.execute("SELECT at_us FROM clock").fetchone()
    now = max(latest, clock_us)
    name = None if budget is None else known_as(budget)
    found = []
    for row, known in declared(db, name):
        if not isinstance(budget, Budget) or _same(known, budget):
            shown = budget if isinstance(budget, Budget) else known
            found += counters(db, row, shown, now) or _untouched(db, shown, now)
    return found or (_untouched(db, budget, now) if isinstance(budget, Budget) else [])


def budgets(db: Connection) -> list[Budget]:
    """The budgets that the file knows."""
    return [budget for _, budget in declared(db, None)]


def changes(db: Connection) -> list[dict[str, Any]]:
    """The trail of limits set at run time."""
    return [
        {
            "at": moment(at_us),
            "budget": budget,
            "limit": None if amount is None else show_amount(unit, amount),
            "until": None if until_us is None else moment(until_us),
            "reason": reason,
        }
        for at_us, budget, unit, amount, until_us, reason in db.execute(
            "SELECT at_us, budget, unit, amount, until_us, reason FROM change ORDER BY id"
        )
    ]


def counters(db: Connection, row: int, budget: Budget, now: int) -> list[Balance]:
    """Those of the budget in *row* that count at *now*."""
    limit = booking.limit_of(db, budget, now)
    query = (
        "SELECT scope, sum(settled), sum(reserved) FROM balance WHERE budget = ? AND starts_us >= ? AND starts_us <= ?"
        " AND (call = '' OR reserved > 0)"  # of a budget by the call, those under way
        " GROUP BY scope, call ORDER BY scope, call"
    )
    return [
        Balance(
            budget.name, budget.unit, budget.window.text, limit, settled, reserved, _ends(budget, now),
            dict(zip(budget.per, json.loads(scope), strict=True)),
        )
        for scope, settled, reserved in db.execute(query, (row, budget.window.counted_from_us(now), now))
    ]  # fmt: skip


def _untouched(db: Connection, budget: Budget, now: int) -> list[Balance]:
    """The counter of a window that nothing was reserved in yet; with `per`, there is no saying which there will be."""
    if budget.per:
        return []
    limit = booking.limit_of(db, budget, now)
    return [Balance(budget.name, budget.unit, budget.window.text, limit, 0, 0, _ends(budget, now))]


def _ends(budget: Budget, now: int) -> datetime | None:
    ends_us = budget.window.span(now).ends_us
    return None if ends_us is None or budget.window.kind == "rolling" else at(ends_us, budget.zone)


def declared(db: Connection, name: str | None) -> list[tuple[int, Budget]]:
    """The row and the Budget of each, or of those of that name."""
    rows = db.execute(
        "SELECT id, name, unit, window, zone, per, amount FROM budget WHERE ? IS NULL OR name = ? ORDER BY id",
        (name, name),
    )
    return [(row, _budget(*declared)) for row, *declared in rows]


def _budget(name: str, unit: str, window_text: str, zone: str, per: str, amount: int) -> Budget:
    """The Budget that a row describes."""
    text = show_amount(unit, amount, short=True)
    window(window_text, zone)
    return Budget(f"{text}/{window_text}", name=name, per=tuple(json.loads(per)), zone=zone)


def _same(known: Budget, budget: Budget) -> bool:
    return (known.unit, known.window, known.per) == (budget.unit, budget.window, budget.per)
