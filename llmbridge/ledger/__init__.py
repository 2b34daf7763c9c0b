"""The budget ledger: Budget, Ledger, Reservation. A cap that holds, in one SQLite file."""

from __future__ import annotations

from sqlite3 import sqlite_version

from llmbridge.ledger.booking import Reservation
from llmbridge.ledger.budget import LARGEST, Budget, budgets_of, distinct
from llmbridge.ledger.ending import close_ledgers
from llmbridge.ledger.ledger import Ledger
from llmbridge.ledger.need import Asked, Charge, Need
from llmbridge.ledger.reading import ReadOnlyLedger
from llmbridge.ledger.refusal import Refusal
from llmbridge.ledger.report import Balance, Spend


__all__ = [
    "LARGEST",
    "Asked",
    "Balance",
    "Budget",
    "Charge",
    "Ledger",
    "Need",
    "ReadOnlyLedger",
    "Refusal",
    "Reservation",
    "Spend",
    "budgets_of",
    "close_ledgers",
    "distinct",
    "sqlite_version",
]
