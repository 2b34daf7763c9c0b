"""Recompute what the ledger keeps twice, and say where the two differ."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from llmbridge.ledger.transaction import Connection
from llmbridge.ledger.window import Span, window


# Each row of a query is a difference: what it is about, what was expected and what stands there. The clock is stored
# once a second, so two processes may differ by one.
_QUERIES = {
    "balance {0} has {2} reserved and settled, its trail says {1}": """
        SELECT w.id, coalesce(t.reserved, 0) || ' and ' || coalesce(t.settled, 0) AS expected,
            w.reserved || ' and ' || w.settled AS stored
        FROM balance w LEFT JOIN (
            SELECT balance, sum(reserved) AS reserved, sum(settled) AS settled FROM trail GROUP BY balance
        ) t ON t.balance = w.id
        WHERE expected != stored""",
    "reservation {0} took {1} from counters, and was charged {2} in others": """
        SELECT attempt, held, charged FROM reservation, json_each(held) part
        WHERE charged IS NOT NULL AND json_type(charged, '$."' || part.key || '"') IS NULL
        UNION ALL
        SELECT attempt, held, charged FROM reservation, json_each(charged) part
        WHERE json_type(held, '$."' || part.key || '"') IS NULL""",
    "reservation {0} is under way, and has an entry ({2}) that corrects its resolution": """
        SELECT r.attempt, 0, e.kind FROM reservation r JOIN entry e ON e.reservation = r.id
        WHERE r.state = 'reserved'""",
    "reservation {0} cost {2} nanodollars, a dollar budget was charged {1}": """
        SELECT r.attempt, c.value + coalesce((SELECT sum(settled) FROM entry e
            WHERE e.reservation = r.id AND e.balance = w.id), 0) AS paid, r.cost_nanousd
        FROM reservation r, json_each(r.charged) c
        JOIN balance w ON w.id = CAST(c.key AS INTEGER) JOIN budget b ON b.id = w.budget
        WHERE b.unit = 'nanousd' AND paid IS NOT r.cost_nanousd""",
    "reservation {0} reserves {2} nanodollars or tokens, and took {1} from a counter": """
        SELECT r.attempt, h.value AS took, iif(b.unit = 'tokens', r.reserved_tokens, r.reserved_nanousd) AS needed
        FROM reserved r, json_each(r.held) h
        JOIN balance w ON w.id = CAST(h.key AS INTEGER) JOIN budget b ON b.id = w.budget
        WHERE b.unit != 'requests' AND took IS NOT needed""",
    "reservation {0} is {2}, and its time of resolution {1}": """
        SELECT attempt, resolved_us, state FROM reservation
        WHERE resolved_us < made_us - 1000000 OR state = 'expired' AND resolved_us < lease_us""",
    "reservation {0} is {2}, and its cost {1}": """
        SELECT attempt, cost_nanousd, state FROM reservation WHERE state = 'released' AND cost_nanousd IS NOT 0""",
    "reservation {0} is {2}, and its outcome {1}": """
        SELECT attempt, outcome, state FROM reservation
        WHERE state = 'expired' AND outcome IS NOT 'lost'
        OR state != 'expired' AND outcome = 'lost' AND late_us IS NULL""",
    "reservation {0} is {2}, and was settled late at {1}": """
        SELECT attempt, late_us, state FROM reservation WHERE state = 'expired' AND late_us IS NOT NULL""",
    "reservation {0} was settled late at {1}, and counter {2} says otherwise": """
        SELECT attempt, late_us, h.key FROM reservation r, json_each(held) h
        WHERE (late_us IS NOT NULL) != EXISTS (SELECT 1 FROM entry e
            WHERE e.reservation = r.id AND e.kind = 'late' AND e.balance = CAST(h.key AS INTEGER))""",
    "reservation {0} was reconciled: {1}; uncertain: {2}": """
        SELECT attempt, EXISTS (SELECT 1 FROM entry e WHERE e.reservation = r.id AND e.kind = 'reconcile') AS was,
            uncertain
        FROM reservation r WHERE uncertain AND was OR state = 'expired' AND NOT uncertain AND NOT was
        AND EXISTS (SELECT 1 FROM json_each(held) h JOIN balance w ON w.id = CAST(h.key AS INTEGER)
            JOIN budget b ON b.id = w.budget WHERE b.unit = 'nanousd')""",
    "reservation {0} cost {2}, more than its {1}, and is not flagged": """
        SELECT attempt, reserved_nanousd, cost_nanousd FROM reservation
        WHERE cost_nanousd > reserved_nanousd AND NOT overrun""",
    "{2} of {1} reservations are there or in the archive": """
        SELECT 0, coalesce(max(id), 0) AS made, count(*) + (SELECT coalesce(sum(attempts), 0) FROM archive) AS kept
        FROM reserved HAVING made != kept""",
    "{2} of {1} changes of a limit are there": """
        SELECT 0, seq, (SELECT count(*) FROM change) AS kept FROM sqlite_sequence
        WHERE name = 'change' AND seq != kept""",
    "an entry ({0}) has no reservation": """
        SELECT e.reservation, 1, 0 FROM entry e LEFT JOIN reserved r ON r.id = e.reservation
        WHERE r.id IS NULL AND NOT (e.kind = 'carried' AND e.reservation = 0)""",
    "reservation {0} took from counter {1}, which does not exist": """
        SELECT t.reservation, t.balance, 0 FROM trail t LEFT JOIN balance w ON w.id = t.balance WHERE w.id IS NULL""",
    "reservation {0} was settled late at {1}, its entry says {2}": """
        SELECT r.attempt, r.late_us, e.at_us FROM entry e JOIN reservation r ON r.id = e.reservation
        WHERE e.kind = 'late' AND e.at_us IS NOT r.late_us""",
    "reservation {0} has an entry at {2}, before its resolution at {1}": """
        SELECT r.attempt, s.resolved_us, e.at_us FROM entry e
        JOIN resolved s ON s.id = e.reservation JOIN reserved r ON r.id = s.id
        WHERE e.at_us < s.resolved_us - 1000000""",
    "reservation {0} was made at {2}, outside its window from {1}": """
        SELECT r.attempt, w.starts_us, r.made_us FROM reserved r, json_each(r.held) h
        JOIN balance w ON w.id = CAST(h.key AS INTEGER)
        WHERE NOT (w.starts_us <= r.made_us AND r.made_us < coalesce(w.ends_us, r.made_us + 1))""",
    "the clock is at {2}, before something that was written at {1}": """
        SELECT 0, max(coalesce((SELECT max(made_us) FROM reserved), 0), coalesce((SELECT max(at_us) FROM entry), 0),
            coalesce((SELECT max(resolved_us) FROM resolved), 0)) AS latest, at_us
        FROM clock WHERE at_us < latest - 1000000""",
}


def differences(db: Connection) -> list[str]:
    """Every difference, in words; an empty list if there is none."""
    return [*_file(db), *_kept_twice(db), *_windows(db)]


def _file(db: Connection) -> Iterator[str]:
    for (line,) in db.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield f"the file is damaged: {line}"
    for table, row, parent, _ in db.execute("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} names a row of {parent} that does not exist"


def _kept_twice(db: Connection) -> Iterator[str]:
    for text, query in _QUERIES.items():
        for row in db.execute(query):
            yield text.format(*row)


def _windows(db: Connection) -> Iterator[str]:
    """A counter whose window does not begin where windows begin is never found again: its budget would start anew."""
    known = functools.cache(window)
    for row, text, zone, *times in db.execute(
        "SELECT w.id, b.window, b.zone, w.starts_us, w.ends_us FROM balance w JOIN budget b ON b.id = w.budget"
    ):
        try:
            span = known(text, zone).span(times[0])
        except (ValueError, OverflowError, OSError):
            span = None
        if span != Span(*times):
            yield (
                f"balance {row} is for the {text} ({zone}) from {times[0]} until {times[1]}, which is none, unless the"
                " time zone's own rules have changed"
            )
