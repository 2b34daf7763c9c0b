"""What is written in one transaction: reserve, resolve, expire, reconcile.

Two-phase money, as accountants and payment systems do it: the worst case is reserved before anything is sent, and
resolved once afterwards. A counter (a row of `balance`) says how much is reserved and how much settled. What changes it
is inserted and stays: a row of `reserved`, then one of `resolved`, and an `entry` for what corrects that; the counters
are the sums over them (the view `trail`). A reservation stays in the windows that it was made in, also when it is
settled after midnight.

Every function here runs inside a transaction of its caller, with the ledger's time from `now_us()`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmbridge.errors import AlreadyResolved, LedgerError
from llmbridge.ledger.budget import Budget, Unit
from llmbridge.ledger.need import Asked, Charge, Need, tags_text
from llmbridge.ledger.transaction import Connection
from llmbridge.record import BudgetAlert


_CHANGED = (
    "(SELECT amount FROM change WHERE budget = ? AND unit = ? AND (until_us IS NULL OR until_us > ?)"
    " ORDER BY id DESC LIMIT 1)"
)
_COUNTER = (
    f"SELECT id, reserved, settled, alerted, {_CHANGED} FROM balance"
    " WHERE budget = ? AND scope = ? AND call = ? AND starts_us = ?"
)
_INSERT = (
    "INSERT INTO reserved (attempt, made_us, lease_us, verb, model, provider, tags, reason, reserved_nanousd,"
    " reserved_tokens, held) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_OVERRUN = "coalesce(? > reserved_nanousd, 0) OR coalesce(? > reserved_tokens, 0)"
_RESOLVE = (
    "INSERT INTO resolved (id, state, resolved_us, charged, cost_nanousd, uncertain, overrun{names})"
    f" SELECT id, ?, ?, ?, coalesce(?, reserved_nanousd), ?, {_OVERRUN}{{marks}} FROM reserved WHERE id = ?"
    " ON CONFLICT (id) DO NOTHING"
)
_LATE = (
    "UPDATE resolved SET state = ?, late_us = ?, cost_nanousd = coalesce(?, cost_nanousd), uncertain = ?,"
    f" overrun = {_OVERRUN}{{changes}} FROM reserved r"
    " WHERE r.id = resolved.id AND resolved.id = ? AND state = 'expired' AND uncertain"  # or it was reconciled
)
_OPEN = "NOT EXISTS (SELECT 1 FROM resolved s WHERE s.id = r.id)"
Facts = tuple[tuple[str, ...], Sequence[object]]  # columns of `reservation`, and their values
Part = tuple[int, Unit, int]  # what a reservation took from one counter: its row, its unit, how much
Charged = tuple[int, int, int]  # what is settled in one counter: its row, how much was reserved, how much is settled
_NO_FACTS: Facts = ((), ())


@dataclass(slots=True)
class Counter:
    """A budget's counter as one transaction sees it. Of a rolling window `reserved` and `settled` are sums over steps,
    of which `steps` has start and amount, oldest first; new entries go to the row `id`."""

    budget: Budget
    id: int
    limit: int
    reserved: int
    settled: int
    alerted: int
    scope: str
    ends_us: int | None
    steps: list[tuple[int, int]] = field(default_factory=list)

    @property
    def headroom(self) -> int:
        """What is left; negative after the limit was lowered."""
        return self.limit - self.reserved - self.settled


def now_us(db: Connection, clock_us: int) -> int:
    """The ledger's time: the machine's, but never before what is stored; stores it.

    So a clock that is set back reopens no window, and what has expired stays so.
    """
    (latest,) = db.execute("UPDATE clock SET at_us = max(at_us, ?) RETURNING at_us", (clock_us,)).fetchone()
    return int(latest)


def budget_id(db: Connection, budget: Budget) -> int:
    """The row of *budget*, made if there is none, with the limit that it declares."""
    per = json.dumps(budget.per, ensure_ascii=False)
    key = (budget.name, budget.unit, budget.window.text, budget.zone, per)
    found = db.execute(
        "SELECT id, amount FROM budget WHERE name = ? AND unit = ? AND window = ? AND zone = ? AND per = ?", key
    ).fetchone()
    if found is None:
        row = db.execute(
            "INSERT INTO budget (name, unit, window, zone, per, amount) VALUES (?, ?, ?, ?, ?, ?)",
            (*key, budget.amount),
        )
        return int(row.lastrowid or 0)
    if found[1] != budget.amount:
        db.execute("UPDATE budget SET amount = ? WHERE id = ?", (budget.amount, found[0]))
    return int(found[0])


def counter(db: Connection, budget: Budget, row: int, asked: Asked, at_us: int) -> Counter:
    """The counter of *budget* (whose row is *row*) that *asked* takes from at *at_us*, made if there is none."""
    window, scope = budget.window, budget.scope(asked.tags)
    span = window.span(at_us)
    key = (budget.name, budget.unit, at_us, row, scope, asked.call if window.kind == "call" else "", span.starts_us)
    found = db.execute(_COUNTER, key).fetchone()
    if found is None:
        db.execute(
            "INSERT INTO balance (budget, scope, call, starts_us, ends_us) VALUES (?, ?, ?, ?, ?)",
            (*key[3:], span.ends_us),
        )
        found = db.execute(_COUNTER, key).fetchone()
    id, reserved, settled, alerted, changed = found
    limit = budget.amount if changed is None else changed
    state = Counter(budget, id, limit, reserved, settled, alerted, scope, span.ends_us)
    if window.kind == "rolling":
        _sum_steps(db, state, row, window.counted_from_us(at_us), span.starts_us)
        state.steps.append((span.starts_us, reserved + settled))
    return state


def limit_of(db: Connection, budget: Budget, at_us: int) -> int:
    """The limit in force: the latest one set at run time whose time is not over, else the budget's own."""
    (changed,) = db.execute(f"SELECT {_CHANGED}", (budget.name, budget.unit, at_us)).fetchone()
    return budget.amount if changed is None else int(changed)


def _sum_steps(db: Connection, state: Counter, row: int, from_us: int, until_us: int) -> None:
    for starts_us, reserved, settled, alerted in db.execute(
        "SELECT starts_us, reserved, settled, alerted FROM balance"
        " WHERE budget = ? AND scope = ? AND call = '' AND starts_us >= ? AND starts_us < ? ORDER BY starts_us",
        (row, state.scope, from_us, until_us),
    ):
        state.reserved += reserved
        state.settled += settled
        state.alerted = max(state.alerted, alerted)
        state.steps.append((starts_us, reserved + settled))


@dataclass(slots=True)
class Reservation:
    """Money held for one attempt. Resolve it with Ledger.settle() or Ledger.release(), once."""

    attempt: str
    need: Need
    row: int
    counters: Sequence[Counter]
    parts: Sequence[Part]
    alerts: tuple[BudgetAlert, ...] = ()


def insert(
    db: Connection, asked: Asked, need: Need, counters: Sequence[Counter], at_us: int, lease_us: int
) -> Reservation:
    """Write a reservation, and what it takes from each of *counters*."""
    parts: list[Part] = []
    held = []
    for each in counters:
        balance, unit = each.id, each.budget.unit
        amount = need.of(unit)
        db.execute("UPDATE balance SET reserved = reserved + ? WHERE id = ?", (amount, balance))
        parts.append((balance, unit, amount))
        held.append(f'"{balance}":{amount}')
    if len(parts) > 1 and len({balance for balance, _, _ in parts}) < len(parts):
        raise LedgerError(f"attempt {asked.attempt!r} would count twice by one budget; nothing was reserved")
    row = db.execute(
        _INSERT,
        (
            asked.attempt, at_us, at_us + lease_us, asked.verb, asked.model, asked.provider, tags_text(asked.tags),
            asked.reason, need.nanousd, need.tokens, _json(held),
        ),
    ).lastrowid  # fmt: skip
    assert row is not None
    return Reservation(asked.attempt, need, row, counters, parts)


def find(db: Connection, attempt: str) -> tuple[int, list[Part]]:
    """The row of a reservation, and its parts. Raises LedgerError if there is none."""
    found = db.execute("SELECT id FROM reserved WHERE attempt = ?", (attempt,)).fetchone()
    if found is None:
        raise LedgerError(f"the ledger knows no reservation {attempt!r}")
    return found[0], _parts(db, found[0])


def resolve(
    db: Connection, row: int, parts: Sequence[Part], charge: Charge, state: str, at_us: int, facts: Facts = _NO_FACTS
) -> None:
    """Settle or release a reservation, whose row also gets *facts*.

    After it has expired this is still possible, once and unless it was reconciled: what was charged for it becomes what
    it did cost. Raises AlreadyResolved.
    """
    columns, values = facts
    charged = _charged(parts, charge)
    cost, tokens = charge.nanousd, charge.tokens
    uncertain = int(charge.uncertain or cost is None)  # sqlite3 is slow to take a bool
    text = _json([f'"{balance}":{settled}' for balance, _, settled in charged])
    written = (state, at_us, text, cost, uncertain, cost, tokens, *values, row)
    if db.execute(_with(_RESOLVE, columns), written).rowcount:
        for balance, reserved, settled in charged:
            _change(db, balance, -reserved, settled)
    elif db.execute(_with(_LATE, columns), (*written[:2], *written[3:])).rowcount:
        _correct(db, row, charged, at_us)
    else:
        found = db.execute("SELECT attempt, state FROM reservation WHERE id = ?", (row,)).fetchone()
        (attempt, now) = found or (row, "resolved and compacted")
        raise AlreadyResolved(f"reservation {attempt!r} is {now} already; nothing was changed")


@functools.cache
def _with(statement: str, columns: tuple[str, ...]) -> str:
    return statement.format(
        names="".join(f", {column}" for column in columns),
        marks=", ?" * len(columns),
        changes="".join(f", {column} = ?" for column in columns),
    )


def standing(db: Connection, counters: Sequence[Counter]) -> list[Counter]:
    """*counters* as they stand now. Of a rolling window that is the step's own part: less than the sum, so its
    thresholds are announced at the next reservation."""
    found = []
    for each in counters:
        row = db.execute("SELECT reserved, settled, alerted FROM balance WHERE id = ?", (each.id,)).fetchone()
        if row is not None:
            reserved, settled, alerted = row
            found.append(
                Counter(each.budget, each.id, each.limit, reserved, settled, alerted, each.scope, each.ends_us)
            )
    return found


def is_due(db: Connection, at_us: int) -> bool:
    """Whether there is something to expire."""
    (latest, open_from) = db.execute("SELECT at_us, open_from FROM clock").fetchone()
    due = f"SELECT 1 FROM reserved r WHERE id >= ? AND lease_us <= ? AND {_OPEN} LIMIT 1"
    return db.execute(due, (open_from, max(at_us, latest))).fetchone() is not None


def is_behind(db: Connection) -> bool:
    """Whether is_due() looks at many rows, most of which may be resolved."""
    return bool(db.execute("SELECT (SELECT max(id) FROM reserved) - open_from > 1000 FROM clock").fetchone()[0])


def expire(db: Connection, at_us: int, most: int = 200) -> int:
    """Charge what is reserved by leases that are over, as uncertain; returns how many, at most *most*.

    Looks from the first row that may be unresolved on: an index of those would cost every call two pages.
    """
    due = db.execute(
        "SELECT id, call, made_us, verb, model, provider, tags FROM reserved r"
        f" WHERE id >= (SELECT open_from FROM clock) AND lease_us <= ? AND {_OPEN} LIMIT ?",
        (at_us, most),
    ).fetchall()
    for row, call, made_us, verb, model, provider, tags in due:
        for balance, _, reserved in _parts(db, row):
            _change(db, balance, -reserved, reserved)
        db.execute(
            "INSERT INTO resolved (id, state, resolved_us, charged, cost_nanousd, uncertain, overrun, outcome)"
            " SELECT id, 'expired', ?, held, reserved_nanousd, 1, 0, 'lost' FROM reserved WHERE id = ?",
            (at_us, row),
        )
        db.execute(
            "INSERT OR IGNORE INTO call (id, started_us, verb, outcome, models, model, provider, tags, duration_s,"
            " estimated) VALUES (?, ?, ?, 'lost', json_array(?), ?, ?, ?, ?, 0)",
            (call, made_us, verb, model, model, provider, tags, (at_us - made_us) / 1e6),
        )
    _move_on(db)
    return len(due)


def reconcile(db: Connection, attempt: str, cost_nanousd: int, at_us: int) -> None:
    """Lower an uncertain charge to what it did cost. Raises AlreadyResolved, LedgerError or ValueError."""
    found = db.execute(
        "SELECT id, state, cost_nanousd, uncertain FROM reservation WHERE attempt = ?", (attempt,)
    ).fetchone()
    if found is None:
        raise LedgerError(f"the ledger knows no reservation {attempt!r}")
    row, state, cost, uncertain = found
    if state == "reserved":
        raise LedgerError(f"reservation {attempt!r} is still under way; it can be reconciled when it is resolved")
    if not uncertain:
        raise AlreadyResolved(f"what {attempt!r} cost is certain already; nothing was changed")
    if cost is not None and cost_nanousd > cost:
        raise ValueError(
            f"{attempt!r} is charged at {cost} nanodollars and reconciling only lowers a charge, not to {cost_nanousd}"
        )
    for balance, unit, _ in _parts(db, row):
        if unit == "nanousd" and cost is not None:
            _enter(db, row, "reconcile", balance, at_us, cost_nanousd - cost)
    db.execute("UPDATE resolved SET cost_nanousd = ?, uncertain = 0 WHERE id = ?", (cost_nanousd, row))


def _parts(db: Connection, row: int) -> list[Part]:
    return db.execute(
        "SELECT w.id, b.unit, h.value FROM reserved r, json_each(r.held) h"
        " JOIN balance w ON w.id = CAST(h.key AS INTEGER) JOIN budget b ON b.id = w.budget WHERE r.id = ?",
        (row,),
    ).fetchall()


def _charged(parts: Sequence[Part], charge: Charge) -> list[Charged]:
    charged = []
    for balance, unit, reserved in parts:
        amount: int | None = getattr(charge, unit)
        charged.append((balance, reserved, reserved if amount is None else amount))
    return charged


def _correct(db: Connection, row: int, charged: Sequence[Charged], at_us: int) -> None:
    """Make of what expiry has charged, which is the worst case, what is charged now."""
    for balance, reserved, settled in charged:
        _enter(db, row, "late", balance, at_us, settled - reserved)


def _enter(db: Connection, row: int, kind: str, balance: int, at_us: int, settled: int) -> None:
    db.execute("INSERT INTO entry VALUES (?, ?, ?, ?, 0, ?)", (row, kind, balance, at_us, settled))
    _change(db, balance, 0, settled)


def _change(db: Connection, balance: int, reserved: int, settled: int) -> None:
    db.execute(
        "UPDATE balance SET reserved = reserved + ?, settled = settled + ? WHERE id = ?", (reserved, settled, balance)
    )


def _json(members: Sequence[str]) -> str:
    return f"{{{','.join(members)}}}"  # json.dumps() costs a microsecond more


def _move_on(db: Connection) -> None:
    db.execute(
        "UPDATE clock SET open_from = coalesce("
        f" (SELECT min(id) FROM reserved r WHERE id >= open_from AND {_OPEN}),"
        " (SELECT max(id) + 1 FROM reserved), 0)"
    )
