"""Hits in the ledger: recorded together, a moment later, and each of them."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from llmbridge.ledger import Ledger, rows
from llmbridge.record import CallRecord


def hit(number: int) -> CallRecord:
    return CallRecord(
        id=f"call-{number:04}",
        verb="chat",
        models=("openai/gpt-4o-mini",),
        tags={},
        started_at=1.8e9 + number,
        outcome="answered",
        cached=True,
    )


def book(path: Path, numbers: range) -> None:
    ledger = Ledger(path)
    for number in numbers:
        ledger.book(hit(number))


def ids(path: Path) -> list[str]:
    with Ledger(path) as ledger:
        return [record.id for record in ledger.records()]


def test_hits_are_written_together_and_a_report_sees_them_at_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        before = ledger._file.commits
        for number in range(1200):
            ledger.book(hit(number))

        assert [record.id for record in ledger.records()] == [hit(number).id for number in range(1200)]
        assert ledger._file.commits - before < 30
        assert ledger.check() == []


def test_another_process_sees_them_at_the_end_of_this_one(tmp_path: Path) -> None:
    script = f"from tests.test_ledger_hits import *; book(Path({str(tmp_path / 'ledger.db')!r}), range(7))"

    subprocess.run([sys.executable, "-c", script], check=True, timeout=50, cwd=Path(__file__).parents[1])

    assert len(ids(tmp_path / "ledger.db")) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_of_multiprocessing_writes_its_own_and_none_of_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.records()
        ledger.book(hit(1))
        child = multiprocessing.get_context("fork").Process(target=book, args=(path, range(2, 4)))
        child.start()
        child.join(50)
        assert child.exitcode == 0
        with closing(sqlite3.connect(path)) as db:
            seen = {id for (id,) in db.execute("SELECT id FROM call")}

        assert {"call-0002", "call-0003"} <= seen
        assert [record.id for record in ledger.records()] == ["call-0001", "call-0002", "call-0003"]


def test_a_ledger_that_others_write_keeps_nobody_waiting_and_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.book(hit(1))
        other.execute("COMMIT")

        assert [record.id for record in ledger.records()] == ["call-0001"]


def test_an_interruption_while_they_are_written_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        monkeypatch.setattr(ledger._upkeep, "dirty", lambda: None)  # or its thread would be the one that is interrupted
        for number in range(3):
            ledger.book(hit(number))
        with monkeypatch.context() as patch:
            patch.setattr(rows, "write_call", lambda db, record: interrupted())
            with pytest.raises(KeyboardInterrupt):
                ledger.records()

        assert len(ledger.records()) == 3


def interrupted() -> None:
    raise KeyboardInterrupt
