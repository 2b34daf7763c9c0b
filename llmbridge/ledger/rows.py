"""Records to rows and back: what the ledger keeps of a call, which is no prompt and no answer."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import IO, Any

from llmbridge.errors import AlreadyResolved, LedgerError
from llmbridge.ledger.booking import Facts
from llmbridge.ledger.need import tags_text
from llmbridge.ledger.transaction import Connection
from llmbridge.money import nanousd, usd
from llmbridge.record import AttemptRecord, CallRecord, sum_usd


log = logging.getLogger("llmbridge")
_encode = json.JSONEncoder(ensure_ascii=False).encode
# An error's text may quote the prompt, so it stays out.
_ATTEMPT = (
    "reason", "outcome", "error_type", "kind", "status", "input_tokens", "output_tokens", "cached_tokens",
    "cache_write_tokens", "reasoning_tokens", "estimated", "duration_s", "first_chunk_s", "request_id",
    "response_model", "price_source", "provider",
)  # fmt: skip
_CALL = (
    "verb", "outcome", "error_type", "model", "provider", "duration_s", "first_chunk_s", "chunk_count",
    "input_tokens", "output_tokens", "estimated", "cached", "trace_id",
)  # fmt: skip
_PUT_CALL = (
    f"INSERT OR REPLACE INTO call (id, started_us, models, tags, saved_nanousd, {', '.join(_CALL)})"
    f" VALUES (?, ?, ?, ?, ?, {', '.join('?' * len(_CALL))})"
)
EXPORTED = (
    "attempt", "call", "made_at", "state", "verb", "model", "provider", "tags", "cost_usd", "reserved_usd",
    "uncertain", "overrun", "price_source", "reason", "outcome", "error_type", "status", "input_tokens",
    "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "estimated", "duration_s",
    "request_id", "response_model",
)  # fmt: skip


def facts_of(record: AttemptRecord) -> Facts:
    """What is known of an attempt after its end, for its reservation's row."""
    return _ATTEMPT, [_plain(getattr(record, name)) for name in _ATTEMPT]


def write_call(db: Connection, record: CallRecord) -> None:
    """The row of a call that is over."""
    db.execute(
        _PUT_CALL,
        (
            record.id,
            int(record.started_at * 1e6),
            _encode(record.models),
            tags_text(record.tags),
            nanousd(record.saved_usd or 0),
            *(_plain(getattr(record, name)) for name in _CALL),
        ),
    )


def is_open(db: Connection, attempt: str) -> bool:
    """Whether *attempt* is reserved and unresolved."""
    return db.execute(
        "SELECT 1 FROM reservation WHERE attempt = ? AND state = 'reserved'", (attempt,)
    ).fetchone() is not None  # fmt: skip


def uncertain_attempt(db: Connection, id: str) -> str:
    """The attempt that *id* names: itself, or the one of a call that is uncertain."""
    if "." in id:
        return id
    rows = db.execute(
        "SELECT attempt, uncertain FROM reservation WHERE attempt > ? AND attempt < ?", (f"{id}.", f"{id}/")
    )
    attempts = {attempt: bool(uncertain) for attempt, uncertain in rows}
    if not attempts:
        raise LedgerError(f"the ledger knows no call {id!r}")
    uncertain = [attempt for attempt, is_uncertain in attempts.items() if is_uncertain]
    if not uncertain:
        raise AlreadyResolved(f"nothing about call {id!r} is uncertain; nothing was changed")
    if len(uncertain) > 1:
        raise LedgerError(f"call {id!r} has {len(uncertain)} uncertain attempts; name one: {', '.join(uncertain)}")
    return str(uncertain[0])


def units(db: Connection, budget: str) -> list[str]:
    """The units of the budgets of that name."""
    return [unit for (unit,) in db.execute("SELECT DISTINCT unit FROM budget WHERE name = ?", (budget,))]


def write_change(
    db: Connection, budget: str, unit: str | None, change: tuple[int, int | None, int | None, str]
) -> None:
    """A limit set at run time: (when, amount, until, reason); *unit* None: in whatever the budgets of that name count.

    Raises LedgerError if there is none of that name to go back to its own limit.
    """
    known = units(db, budget)
    if unit is None and not known:
        raise LedgerError(f"the ledger knows no budget {budget!r}")
    if unit is not None and unit not in known:
        log.warning("no call has counted by budget %r in %s yet; its limit is set all the same", budget, unit)
    put = "INSERT INTO change (budget, unit, at_us, amount, until_us, reason) VALUES (?, ?, ?, ?, ?, ?)"
    db.executemany(put, [(budget, each, *change) for each in ([unit] if unit is not None else known)])


def records(
    db: Connection,
    *,
    since: datetime | None,
    until: datetime | None,
    ended_since: datetime | None,
    id: str | None,
    limit: int,
) -> list[CallRecord]:
    """CallRecords out of their rows, oldest first."""
    where, values = period("started_us", since, until)
    ended, more = period("started_us + duration_s * 1e6", ended_since, None)
    where, values = f"{where} AND {ended}", [*values, *more]
    if id is not None:
        where, values = f"{where} AND id >= ? AND id < ?", [*values, id, f"{id}\U0010ffff"]
    cursor = db.execute(
        f"SELECT id, started_us, models, tags, saved_nanousd, {', '.join(_CALL)} FROM call"
        f" WHERE {where} ORDER BY started_us DESC, id DESC LIMIT ?",
        (*values, limit),
    )
    return [_record(db, *row) for row in reversed(cursor.fetchall())]


def _record(db: Connection, id: str, started_us: int, models: str, tags: str, saved: int, *rest: Any) -> CallRecord:
    fields = dict(zip(_CALL, rest, strict=True))
    attempts = tuple(_attempts(db, id))
    return CallRecord(
        id=id,
        started_at=started_us / 1e6,
        models=tuple(json.loads(models)),
        tags=json.loads(tags),
        cost_usd=sum_usd(attempt.cost_usd for attempt in attempts),
        saved_usd=usd(saved),
        attempts=attempts,
        uncertain=any(attempt.uncertain for attempt in attempts),
        **{**fields, "estimated": bool(fields["estimated"]), "cached": bool(fields["cached"])},
    )


def _attempts(db: Connection, call: str) -> Iterator[AttemptRecord]:
    names = ", ".join(name for name in _ATTEMPT if name != "provider")
    for attempt, state, model, provider, cost, reserved, uncertain, *rest in db.execute(
        f"SELECT attempt, state, model, provider, cost_nanousd, reserved_nanousd, uncertain, {names} FROM reservation"
        " WHERE attempt > ? AND attempt < ? ORDER BY id",
        (f"{call}.", f"{call}/"),
    ):
        fields = dict(zip((name for name in _ATTEMPT if name != "provider"), rest, strict=True))
        fields = {name: value for name, value in fields.items() if value is not None}
        yield AttemptRecord(
            number=int(attempt.rpartition(".")[2]),
            model=model,
            provider=provider,
            cost_usd=_usd(cost),
            reserved_usd=_usd(reserved),
            uncertain=bool(uncertain),
            sent=state != "released" or bool(uncertain) or fields.get("status") is not None,
            **{**fields, "estimated": bool(fields.get("estimated"))},
        )


def export(db: Connection, *, file: IO[str], format: str, since: datetime | None) -> int:
    """Write every attempt's row to *file*, as JSON lines or CSV; returns how many."""
    if format not in ("json", "csv"):
        raise ValueError(f"format is 'json' or 'csv', not {format!r}")
    where, values = period("made_us", since, None)
    stored = [name.replace("_usd", "_nanousd").replace("made_at", "made_us") for name in EXPORTED]
    writer = csv.DictWriter(file, EXPORTED) if format == "csv" else None
    if writer is not None:
        writer.writeheader()
    count = 0
    for row in db.execute(
        f"SELECT {', '.join(stored)} FROM reservation WHERE {where} AND id >= ? ORDER BY id",
        (*values, first_made(db, since)),
    ):
        line = dict(zip(EXPORTED, row, strict=True))
        line["made_at"] = moment(line["made_at"]).isoformat()
        for name in ("cost_usd", "reserved_usd"):
            line[name] = None if line[name] is None else f"{usd(line[name]):f}"
        if writer is not None:
            writer.writerow(line)
        else:
            line |= {name: bool(line[name]) for name in ("uncertain", "overrun", "estimated")}
            file.write(json.dumps({**line, "tags": json.loads(line["tags"])}, ensure_ascii=False) + "\n")
        count += 1
    return count


def first_made(db: Connection, since: datetime | None) -> int:
    """The first reservation's row that can have been made at *since* or later: rows are in the order of time.

    A second's slack, by which the ledger's time may differ between processes whose clock was set back.
    """
    if since is None:
        return 0
    wanted = int(since.timestamp() * 1e6) - 1_000_000
    # Two questions: asked together, SQLite reads every row for them.
    ends = "SELECT coalesce((SELECT min(id) FROM reserved), 0), coalesce((SELECT max(id) FROM reserved), 0) + 1"
    (low, high) = db.execute(ends).fetchone()
    while low < high:
        middle = (low + high) // 2
        row = db.execute("SELECT made_us FROM reserved WHERE id >= ? ORDER BY id LIMIT 1", (middle,)).fetchone()
        if row is not None and row[0] < wanted:
            low = middle + 1
        else:
            high = middle
    return int(low)


def period(column: str, since: datetime | None, until: datetime | None) -> tuple[str, list[Any]]:
    """SQL, with its values, for *column* between two moments. Raises ValueError for a moment without time zone."""
    where, values = "1", []
    for moment_, sign in ((since, ">="), (until, "<")):
        if moment_ is None:
            continue
        if moment_.tzinfo is None:
            raise ValueError("since= and until= need a time zone: datetime(..., tzinfo=UTC)")
        where += f" AND {column} {sign} ?"
        values.append(int(moment_.timestamp() * 1e6))
    return where, values


def moment(time_us: int) -> datetime:
    """*time_us* as an aware datetime."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)


def _plain(value: Any) -> Any:
    """*value* as SQLite takes it; a provider may say anything."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else None
    return value


def _usd(amount: int | None) -> Decimal | None:
    return None if amount is None else usd(amount)
