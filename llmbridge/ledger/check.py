"""Recompute what the ledger keeps twice, and say where the two differ."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from llmbridge.ledger.transaction import Connection
from llmbridge.ledger.window import Span, window


# Each row of a query is a difference: what it is about, what was expected and what stands there. The clock is stored
# once a second, so two processes may differ by one.
_QUERIES = {
    "balance {0}: reserved is {2}, its entries say {1}": """
        SELECT w.id, coalesce(e.total, 0) AS expected, w.reserved FROM balance w
        LEFT JOIN (SELECT balance, sum(reserved) AS total FROM entry GROUP BY balance) e ON e.balance = w.id
        WHERE expected != w.reserved""",
    "balance {0}: settled is {2}, its entries say {1}": """
        SELECT w.id, coalesce(e.total, 0) AS expected, w.settled FROM balance w
        LEFT JOIN (SELECT balance, sum(settled) AS total FROM entry GROUP BY balance) e ON e.balance = w.id
        WHERE expected != w.settled""",
    "reservation {0} is {2}, and its entries still hold {1}": """
        SELECT r.attempt, sum(e.reserved) AS held, r.state FROM reservation r JOIN entry e ON e.reservation = r.id
        WHERE r.state != 'reserved' GROUP BY r.id, e.balance HAVING held != 0""",
    "reservation {0} is under way, and has {2} entries of its resolution": """
        SELECT r.attempt, 0, count(*) FROM reservation r JOIN entry e ON e.reservation = r.id
        WHERE r.state = 'reserved' AND e.kind != 'reserve' GROUP BY r.id""",
    "reservation {0} cost {2} nanodollars, a dollar budget was charged {1}": """
        SELECT r.attempt, sum(e.settled) AS charged, r.cost_nanousd FROM reservation r
        JOIN entry e ON e.reservation = r.id JOIN balance w ON w.id = e.balance JOIN budget b ON b.id = w.budget
        WHERE b.unit = 'nanousd' AND r.state != 'reserved' GROUP BY r.id, e.balance
        HAVING charged IS NOT r.cost_nanousd""",
    "reservation {0} reserves {2} nanodollars or tokens, its entry {1}": """
        SELECT r.attempt, e.reserved AS entered, iif(b.unit = 'tokens', r.reserved_tokens, r.reserved_nanousd) AS held
        FROM reservation r JOIN entry e ON e.reservation = r.id
        JOIN balance w ON w.id = e.balance JOIN budget b ON b.id = w.budget
        WHERE b.unit != 'requests' AND e.kind = 'reserve' AND entered IS NOT held""",
    "reservation {0} is {2}, and its time of resolution {1}": """
        SELECT attempt, resolved_us, state FROM reservation
        WHERE (state = 'reserved') != (resolved_us IS NULL) OR state = 'expired' AND resolved_us < lease_us""",
    "reservation {0} is {2}, and its cost {1}": """
        SELECT attempt, cost_nanousd, state FROM reservation
        WHERE state = 'reserved' AND cost_nanousd IS NOT NULL OR state = 'released' AND cost_nanousd IS NOT 0""",
    "reservation {0} is {2}, and its outcome {1}": """
        SELECT attempt, outcome, state FROM reservation r
        WHERE state = 'expired' AND outcome IS NOT 'lost' OR state != 'expired' AND outcome = 'lost'
        AND EXISTS (SELECT 1 FROM entry e WHERE e.reservation = r.id AND kind = 'resolve')
        AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.reservation = r.id AND kind = 'late')""",
    "reservation {0} is {2}, and was settled late": """
        SELECT attempt, 1, state FROM reservation r
        WHERE state = 'expired' AND EXISTS (SELECT 1 FROM entry e WHERE e.reservation = r.id AND kind = 'late')""",
    "reservation {0} was reconciled: {1}; uncertain: {2}": """
        SELECT attempt, EXISTS (SELECT 1 FROM entry e WHERE e.reservation = r.id AND kind = 'reconcile') AS was,
            uncertain
        FROM reservation r WHERE uncertain AND was OR state = 'expired' AND NOT uncertain AND NOT was
        AND EXISTS (SELECT 1 FROM entry e JOIN balance w ON w.id = e.balance JOIN budget b ON b.id = w.budget
            WHERE e.reservation = r.id AND b.unit = 'nanousd')""",
    "reservation {0} cost {2}, more than its {1}, and is not flagged": """
        SELECT attempt, reserved_nanousd, cost_nanousd FROM reservation
        WHERE cost_nanousd > reserved_nanousd AND NOT overrun""",
    "reservation {0} is {2}, and counter {1} has no entry of its resolution": """
        SELECT r.attempt, e.balance, r.state FROM reservation r JOIN entry e ON e.reservation = r.id
        WHERE r.state != 'reserved' AND e.kind = 'reserve' AND NOT EXISTS (
            SELECT 1 FROM entry o WHERE o.reservation = r.id AND o.kind = 'resolve' AND o.balance = e.balance)""",
    "{2} of {1} reservations are there or in the archive": """
        SELECT 0, coalesce(max(id), 0) AS made, count(*) + (SELECT coalesce(sum(attempts), 0) FROM archive) AS kept
        FROM reservation HAVING made != kept""",
    "{2} of {1} changes of a limit are there": """
        SELECT 0, seq, (SELECT count(*) FROM change) AS kept FROM sqlite_sequence
        WHERE name = 'change' AND seq != kept""",
    "an entry ({0}) has no reservation": """
        SELECT e.reservation, 1, 0 FROM entry e LEFT JOIN reservation r ON r.id = e.reservation
        WHERE r.id IS NULL AND NOT (e.kind = 'carried' AND e.reservation = 0)""",
    "an entry (of reservation {0}) is in counter {1}, which does not exist": """
        SELECT e.reservation, e.balance, 0 FROM entry e LEFT JOIN balance w ON w.id = e.balance WHERE w.id IS NULL""",
    "entry {0} at {2} is before its reservation at {1}": """
        SELECT r.attempt, r.made_us, e.at_us FROM entry e JOIN reservation r ON r.id = e.reservation
        WHERE e.at_us < r.made_us - 1000000""",
    "reservation {0} has an entry at {2}, which should be at {1}": """
        SELECT r.attempt, iif(e.kind = 'reserve', r.made_us, r.resolved_us) AS expected, e.at_us
        FROM entry e JOIN reservation r ON r.id = e.reservation
        WHERE e.at_us IS NOT expected AND (e.kind IN ('reserve', 'late') OR e.kind = 'resolve' AND NOT EXISTS (
            SELECT 1 FROM entry o WHERE o.reservation = r.id AND o.kind = 'late' AND o.balance = e.balance))""",
    "reservation {0} was made at {2}, outside its window from {1}": """
        SELECT r.attempt, w.starts_us, e.at_us FROM entry e JOIN reservation r ON r.id = e.reservation
        JOIN balance w ON w.id = e.balance
        WHERE e.kind = 'reserve' AND NOT (w.starts_us <= e.at_us AND e.at_us < coalesce(w.ends_us, e.at_us + 1))""",
    "the clock is at {2}, before an entry at {1}": """
        SELECT 0, (SELECT max(at_us) FROM entry) AS latest, at_us FROM clock WHERE at_us < latest - 1000000""",
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
