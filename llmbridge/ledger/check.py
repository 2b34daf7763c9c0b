"""Recompute what the ledger keeps twice, and say where the two differ."""

from __future__ import annotations

from collections.abc import Iterator

from llmbridge.ledger.sqlite import Connection


# The clock is stored once a second, so two processes may differ by one. Each row of a query is a difference: what it is about, what was expected and what stands there.
_QUERIES = {
    "balance {0}: reserved is {2}, its entries say {1}": """
        SELECT w.id, coalesce(sum(e.reserved), 0) AS expected, w.reserved FROM balance w
        LEFT JOIN entry e ON e.balance = w.id GROUP BY w.id HAVING expected != w.reserved""",
    "balance {0}: settled is {2}, its entries say {1}": """
        SELECT w.id, coalesce(sum(e.settled), 0) AS expected, w.settled FROM balance w
        LEFT JOIN entry e ON e.balance = w.id GROUP BY w.id HAVING expected != w.settled""",
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
    "reservation {0} reserves {2} nanodollars, its entry {1}": """
        SELECT r.attempt, e.reserved, r.reserved_nanousd FROM reservation r JOIN entry e ON e.reservation = r.id
        JOIN balance w ON w.id = e.balance JOIN budget b ON b.id = w.budget
        WHERE b.unit = 'nanousd' AND e.kind = 'reserve' AND e.reserved IS NOT r.reserved_nanousd""",
    "reservation {0} is {2}, which needs a time and has {1}": """
        SELECT attempt, resolved_us, state FROM reservation
        WHERE (state = 'reserved') != (resolved_us IS NULL)""",
    "an entry ({0}) has no reservation": """
        SELECT e.reservation, 1, 0 FROM entry e LEFT JOIN reservation r ON r.id = e.reservation
        WHERE r.id IS NULL AND e.kind != 'carried'""",
    "entry {0} at {2} is before its reservation at {1}": """
        SELECT r.attempt, r.made_us, e.at_us FROM entry e JOIN reservation r ON r.id = e.reservation
        WHERE e.at_us < r.made_us - 1000000""",
    "the clock is at {2}, before an entry at {1}": """
        SELECT 0, (SELECT max(at_us) FROM entry) AS latest, at_us FROM clock WHERE at_us < latest - 1000000""",
}


def differences(db: Connection) -> list[str]:
    """Every difference, in words; an empty list if there is none."""
    return [*_file(db), *_kept_twice(db)]


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
