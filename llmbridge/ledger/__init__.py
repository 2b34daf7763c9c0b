"""The budget ledger: Budget, Ledger, Reservation. A cap that holds, in one SQLite file."""

from __future__ import annotations

from sqlite3 import sqlite_version

from llmbridge.ledger.booking import Reservation
from llmbridge.ledger.budget import LARGEST, Budget, budgets_of, distinct, one_call
from llmbridge.ledger.ending import close_ledgers
from llmbridge.ledger.history import Course, Failure, Latency, PastAttempt
from llmbridge.ledger.ledger import Ledger
from llmbridge.ledger.need import Asked, Charge, Need
from llmbridge.ledger.reading import ReadOnlyLedger
from llmbridge.ledger.refusal import Refusal
from llmbridge.ledger.report import Balance, Spend, Typical


__all__ = [
    "LARGEST",
    "Asked",
    "Balance",
    "Budget",
    "Charge",
    "Course",
    "Failure",
    "Latency",
    "Ledger",
    "Need",
    "PastAttempt",
    "ReadOnlyLedger",
    "Refusal",
    "Reservation",
    "Spend",
    "Typical",
    "budgets_of",
    "close_ledgers",
    "distinct",
    "one_call",
    "sqlite_version",
]
