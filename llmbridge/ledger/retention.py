"""Compaction: details out, totals kept."""

from __future__ import annotations

from llmbridge.ledger.transaction import Connection
from llmbridge.ledger.window import window


# The latest row stays, or SQLite would give its number to the next reservation: whoever still holds the old one would
# resolve the new, and expiry, which looks from `clock.open_from` on, would not see it.
_OLD = "state != 'reserved' AND uncertain = 0 AND resolved_us < :before AND id < (SELECT max(id) FROM reserved)"
_FOLD = """
    INSERT INTO archive
    SELECT date(at_us / 1000000, 'unixepoch'), verb, model, provider, tags, sum(calls), sum(attempts), sum(cost), 0,
        sum(saved), sum(unknown), sum(input_tokens), sum(output_tokens)
    FROM (
        SELECT made_us AS at_us, verb, model, provider, tags,
            row_number() OVER (PARTITION BY call ORDER BY id) = 1 AS calls, 1 AS attempts,
            coalesce(cost_nanousd, 0) AS cost, 0 AS saved, cost_nanousd IS NULL AS unknown,
            coalesce(input_tokens, 0) AS input_tokens, coalesce(output_tokens, 0) AS output_tokens
        FROM reservation WHERE id IN (SELECT id FROM old)
        UNION ALL
        SELECT started_us, verb, coalesce(model, ''), coalesce(provider, ''), tags,
            id NOT IN (SELECT call FROM reservation), 0, 0, saved_nanousd, 0, 0, 0
        FROM call WHERE saved_nanousd > 0 AND id IN (SELECT id FROM old_call)
    )
    WHERE true GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT DO UPDATE SET calls = calls + excluded.calls, attempts = attempts + excluded.attempts,
        cost_nanousd = cost_nanousd + excluded.cost_nanousd, saved_nanousd = saved_nanousd + excluded.saved_nanousd,
        unknown = unknown + excluded.unknown, input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens
"""
_CARRY = """
    INSERT OR REPLACE INTO entry
    SELECT 0, 'carried', balance, max(at_us), sum(reserved), sum(settled) FROM trail
    WHERE reservation = 0 OR reservation IN (SELECT id FROM old) GROUP BY balance
"""


def compact(db: Connection, now_us: int, before_us: int) -> int:
    """Fold what is resolved, certain and older than *before_us* into `archive`; returns how many attempts.

    A call goes as a whole or not at all. What it changed becomes one "carried" entry a counter, so that the counters
    are still the sums over the trail; counters that count no more go with it.
    """
    for table, kind in (("old", "INTEGER"), ("old_call", "TEXT"), ("used", "INTEGER")):
        db.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table} (id {kind} PRIMARY KEY)")
        db.execute(f"DELETE FROM {table}")
    before = {"before": before_us}
    db.execute(
        f"INSERT INTO old SELECT id FROM reservation WHERE {_OLD}"
        f" AND call NOT IN (SELECT call FROM reservation WHERE NOT ({_OLD}))",
        before,
    )
    db.execute(
        "INSERT INTO old_call SELECT id FROM call WHERE started_us < :before"
        " AND id NOT IN (SELECT call FROM reservation WHERE id NOT IN (SELECT id FROM old))",
        before,
    )
    db.execute(_FOLD)
    db.execute(_CARRY)
    db.execute("DELETE FROM entry WHERE reservation IN (SELECT id FROM old)")
    db.execute("DELETE FROM resolved WHERE id IN (SELECT id FROM old)")
    db.execute("DELETE FROM reserved WHERE id IN (SELECT id FROM old)")
    db.execute("DELETE FROM call WHERE id IN (SELECT id FROM old_call)")
    (count,) = db.execute("SELECT count(*) FROM old").fetchone()
    _drop_counters(db, now_us, before_us)
    return int(count)


def _drop_counters(db: Connection, now_us: int, before_us: int) -> None:
    """Take out counters that count no more and that nothing but a carried entry is in."""
    db.execute("INSERT OR IGNORE INTO used SELECT balance FROM trail WHERE reservation != 0")
    for budget, text, zone in db.execute("SELECT id, window, zone FROM budget").fetchall():
        counted_us = window(text, zone).counted_from_us(now_us)
        gone = (
            "SELECT id FROM balance WHERE budget = ? AND reserved = 0"
            " AND (ends_us <= ? AND starts_us < ? OR call != '')"
            " AND id NOT IN (SELECT id FROM used)"
        )
        values = (budget, before_us, counted_us)
        rows = [row for (row,) in db.execute(gone, values)]
        db.executemany(
            "DELETE FROM entry WHERE reservation = 0 AND kind = 'carried' AND balance = ?", [(row,) for row in rows]
        )
        db.executemany("DELETE FROM balance WHERE id = ?", [(row,) for row in rows])
