"""The ledger's tables, and whether a file has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmbridge.errors import LedgerCorrupt, LedgerError


if TYPE_CHECKING:
    from llmbridge.ledger.transaction import Connection

APPLICATION_ID = 0x4C4C4D42  # "LLMB": another program's database is never taken for a ledger
VERSION = 1
PAGE_BYTES = 1024  # a commit writes whole pages; with SQLite's 4,096 a reservation took a fifth longer
TABLES = ("archive", "balance", "budget", "call", "change", "clock", "entry", "reserved", "resolved")
ADVICE = "move it away to begin a new ledger, or restore it from a backup; nothing was changed"
SCHEMA = """
CREATE TABLE clock (                    -- the latest time of any transaction: the ledger's time never goes back
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at_us INTEGER NOT NULL CHECK (at_us >= 0),
    open_from INTEGER NOT NULL          -- every reservation before this row is resolved
) STRICT;
INSERT INTO clock VALUES (1, 0, 0);
CREATE TABLE budget (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('nanousd', 'tokens', 'requests')),
    window TEXT NOT NULL,
    zone TEXT NOT NULL,
    per TEXT NOT NULL,                  -- JSON list of tag names
    amount INTEGER NOT NULL CHECK (amount >= 0),    -- the limit, as a program declared it last
    UNIQUE (name, unit, window, zone, per)
) STRICT;
CREATE TABLE change (                   -- limits set at run time, append-only: the latest one in force wins
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    budget TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('nanousd', 'tokens', 'requests')),
    amount INTEGER CHECK (amount >= 0), -- NULL: back to what programs declare
    until_us INTEGER,                   -- NULL: for good
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX change_by_budget ON change (budget, unit, id);
CREATE TABLE balance (                  -- one counter: a budget, the values of its tags, a window
    id INTEGER PRIMARY KEY,
    budget INTEGER NOT NULL REFERENCES budget (id),
    scope TEXT NOT NULL,                -- JSON list of tag values
    call TEXT NOT NULL,                 -- the call's id for windows of one call, else ''
    starts_us INTEGER NOT NULL,
    ends_us INTEGER,                    -- NULL: never
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    settled INTEGER NOT NULL DEFAULT 0 CHECK (settled >= 0),
    alerted INTEGER NOT NULL DEFAULT 0, -- the highest threshold that was announced, in thousandths of the limit
    UNIQUE (budget, scope, call, starts_us)
) STRICT;
CREATE TABLE reserved (                 -- what an attempt took; never changed
    id INTEGER PRIMARY KEY,
    attempt TEXT NOT NULL UNIQUE,       -- the call's id, a point, the attempt's number
    call TEXT GENERATED ALWAYS AS (substr(attempt, 1, instr(attempt, '.') - 1)) VIRTUAL,  -- NOT NULL would compute it
    made_us INTEGER NOT NULL,           -- rows are in the order of it, so it needs no index
    lease_us INTEGER NOT NULL,          -- when it expires
    verb TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    tags TEXT NOT NULL,
    reason TEXT,
    reserved_nanousd INTEGER CHECK (reserved_nanousd >= 0),
    reserved_tokens INTEGER CHECK (reserved_tokens >= 0),
    held TEXT NOT NULL                  -- JSON: how much it took from which row of balance
) STRICT;
CREATE TRIGGER reserved_stays BEFORE UPDATE ON reserved
    BEGIN SELECT RAISE(ABORT, 'what was reserved stays as it was'); END;
CREATE TABLE resolved (                 -- what became of it
    id INTEGER PRIMARY KEY REFERENCES reserved (id),    -- so at most one resolution a reservation
    state TEXT NOT NULL                 -- no IN (...) here and below: SQLite builds a table for it at every write
        CHECK (state = 'settled' OR state = 'released' OR state = 'expired'),
    resolved_us INTEGER NOT NULL,
    late_us INTEGER,                    -- when it was settled or released after it had expired
    charged TEXT NOT NULL,              -- JSON: how much was settled in which row of balance
    cost_nanousd INTEGER CHECK (cost_nanousd >= 0),     -- NULL: unknown
    uncertain INTEGER NOT NULL,
    overrun INTEGER NOT NULL,           -- it cost more than was reserved
    provider TEXT,
    price_source TEXT,
    reason TEXT,
    outcome TEXT,
    error_type TEXT,
    kind TEXT,
    status INTEGER,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cached_tokens INTEGER,
    cache_write_tokens INTEGER,
    reasoning_tokens INTEGER,
    estimated INTEGER NOT NULL DEFAULT 0,
    duration_s REAL,
    first_chunk_s REAL,
    request_id TEXT,
    response_model TEXT
) STRICT;
CREATE TRIGGER charged_stays BEFORE UPDATE OF id, resolved_us, charged ON resolved
    BEGIN SELECT RAISE(ABORT, 'what was charged stays; entries correct it'); END;
CREATE VIEW reservation AS
    SELECT r.id, attempt, call, made_us, lease_us, coalesce(state, 'reserved') AS state, verb, model,
        coalesce(s.provider, r.provider) AS provider, tags, coalesce(s.reason, r.reason) AS reason,
        reserved_nanousd, reserved_tokens, held, charged, late_us, coalesce(late_us, resolved_us) AS resolved_us,
        cost_nanousd, coalesce(uncertain, 0) AS uncertain, coalesce(overrun, 0) AS overrun, price_source, outcome,
        error_type, kind, status, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
        coalesce(estimated, 0) AS estimated, duration_s, first_chunk_s, request_id, response_model
    FROM reserved r LEFT JOIN resolved s ON s.id = r.id;
CREATE TABLE entry (                    -- what corrects a resolution, and what compaction carried on; append-only
    reservation INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind = 'late' OR kind = 'reconcile' OR kind = 'carried'),
    balance INTEGER NOT NULL,           -- no foreign key: without an index of it, dropping a counter reads every entry
    at_us INTEGER NOT NULL,
    reserved INTEGER NOT NULL,          -- changes, of either sign
    settled INTEGER NOT NULL,
    PRIMARY KEY (reservation, kind, balance)    -- so at most one of each a reservation
) STRICT, WITHOUT ROWID;
CREATE TRIGGER entry_is_append_only BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END;
CREATE VIEW trail AS                    -- every change of every counter: the balances are the sums over it
    SELECT r.id AS reservation, 'reserve' AS kind, CAST(h.key AS INTEGER) AS balance, made_us AS at_us,
        h.value AS reserved, 0 AS settled
    FROM reserved r, json_each(held) h
    UNION ALL SELECT s.id, 'resolve', CAST(h.key AS INTEGER), resolved_us, -h.value, 0
    FROM resolved s JOIN reserved r ON r.id = s.id, json_each(held) h
    UNION ALL SELECT s.id, 'resolve', CAST(c.key AS INTEGER), resolved_us, 0, c.value
    FROM resolved s, json_each(charged) c
    UNION ALL SELECT reservation, kind, balance, at_us, reserved, settled FROM entry;
CREATE TABLE call (                     -- what it cost is the sum over its reservations
    id TEXT PRIMARY KEY,
    started_us INTEGER NOT NULL,
    verb TEXT NOT NULL,
    outcome TEXT NOT NULL,
    error_type TEXT,
    models TEXT NOT NULL,
    model TEXT,
    provider TEXT,
    tags TEXT NOT NULL,
    duration_s REAL NOT NULL,
    first_chunk_s REAL,
    chunk_count INTEGER,
    input_tokens INTEGER,
    output_tokens INTEGER,
    estimated INTEGER NOT NULL,
    saved_nanousd INTEGER NOT NULL DEFAULT 0,
    cached INTEGER NOT NULL DEFAULT 0,
    trace_id TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX call_started ON call (started_us);
CREATE TABLE archive (                  -- what compaction removed, by UTC day
    day TEXT NOT NULL,
    verb TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    tags TEXT NOT NULL,
    calls INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    uncertain_nanousd INTEGER NOT NULL,
    saved_nanousd INTEGER NOT NULL,
    unknown INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, verb, model, provider, tags)
) STRICT, WITHOUT ROWID;
"""


def migrate(db: Connection, path: Path) -> None:
    """Make the tables in an empty file. Raises as is_new() does."""
    if not is_new(db, path):
        return
    # not executescript(), which commits first: a crash inside it leaves half a schema
    for statement in SCHEMA.split(";\n"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def is_new(db: Connection, path: Path) -> bool:
    """Whether the file is empty. Raises LedgerError if it is neither that nor a ledger that can be used."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if (version, owner, tables) == (0, 0, set()):
        return True
    if owner != APPLICATION_ID:
        raise LedgerError(f"{path} is a database of another program; give the ledger a file of its own")
    if version > VERSION:
        raise LedgerError(f"{path} has schema {version} and this llmbridge knows up to {VERSION}: update llmbridge")
    if missing := set(TABLES) - tables:
        raise LedgerCorrupt(f"{path} lacks {', '.join(sorted(missing))}: {ADVICE}")
    if db.execute("SELECT count(*) FROM clock").fetchone() != (1,):
        raise LedgerCorrupt(f"{path} is damaged (it lacks its clock): {ADVICE}")
    return False


def begin_log(db: Connection) -> None:
    """Write something that changes nothing. There and back: SQLite sees through an update to the same value."""
    for step in (1, -1):
        db.execute("UPDATE clock SET at_us = at_us + ?", (step,))
