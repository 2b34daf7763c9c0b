"""`llmbridge ledger`, and what holds for every verb that reads one: it changes nothing, and holds nobody up."""

from __future__ import annotations

import csv
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmbridge.errors import LedgerError
from llmbridge.home import ledger_path
from llmbridge.ledger import ReadOnlyLedger
from tests.commands import DAY_S, START, Story, files, run, three_days
from tests.ledger_worker import Worker


READING = (
    "spend", "spend --by model --json", "spend --plot", "calls", "calls a1", "budget list", "budget tree",
    "budget show support", "ledger check", "ledger export",
)  # fmt: skip


@pytest.fixture
def book() -> Path:
    three_days(ledger_path())
    return ledger_path()


def test_check_finds_nothing_in_a_whole_ledger(book: Path) -> None:
    done = run("ledger", "check")

    assert (done.code, done.out, done.err) == (0, "", f"{book}: no difference\n")
    assert run("ledger", "check", "--json").json == []


def test_check_says_what_differs_by_its_exit_code_too(book: Path) -> None:
    with sqlite3.connect(book) as db:
        db.execute("UPDATE balance SET settled = settled + 1 WHERE id = 1")
    db.close()

    done = run("ledger", "check")

    assert done.code == 1
    assert done.out == "balance 1 has 0 and 1000000001 reserved and settled, its trail says 0 and 1000000000\n"
    assert run("ledger", "check", "--json").json == [done.out.strip()]


def test_export_writes_a_line_an_attempt(book: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in run("ledger", "export", "--since", "2026-03-03").out.splitlines()]
    done = run("ledger", "export", "--format", "csv", "-o", tmp_path / "all.csv")

    assert [(each["attempt"][:2], each["cost_usd"]) for each in lines] == [
        ("b2", "0"), ("b2", "0.25"), ("b3", "0"), ("c4", "0.5"),
    ]  # fmt: skip
    assert (done.code, done.out, done.err) == (0, "", f"{tmp_path / 'all.csv'}: 5 attempts\n")
    with (tmp_path / "all.csv").open(newline="") as file:
        assert [each["call"][:2] for each in csv.DictReader(file)] == ["a1", "b2", "b2", "b3", "c4"]


def test_export_writes_over_no_file(book: Path) -> None:
    before = book.read_bytes()

    done = run("ledger", "export", "-o", book)

    assert (done.code, done.err) == (2, f"{book} cannot be made: File exists\n")
    assert book.read_bytes() == before


def test_compact_takes_details_out_and_leaves_totals(book: Path) -> None:
    total = run("spend", "--by", "day", "--json").json

    done = run("ledger", "compact", "--older-than", "1d", "--json")

    assert done.json == {"attempts": 4}  # what is uncertain stays
    assert [each["id"][:2] for each in run("calls", "--json").json] == ["c4"]
    assert run("spend", "--by", "day", "--json").json == total
    assert run("ledger", "check").code == 0
    assert run("ledger", "compact", "--older-than", "soon").err == (
        "--older-than soon is no length of time; write it as 90d or 12w\n"
    )


@pytest.mark.parametrize("verb", READING)
def test_a_reader_changes_no_byte(verb: str, book: Path) -> None:
    with Story(book, START + 4 * DAY_S) as story:
        story.hold("d5" * 16, lease_s=0.001)  # long over: for a program that writes to charge
    before = files(book.parent)

    assert run(*verb.split()).code == 0

    assert files(book.parent) == before


@pytest.mark.parametrize("verb", READING)
def test_a_reader_changes_no_byte_beside_a_process_that_has_the_ledger_open(verb: str, book: Path) -> None:
    with Worker("mixed", path=str(book), number=0, budgets=["$5/day"], tries=3) as worker:
        assert worker.hear() == "ready"
        before = files(book.parent)

        assert run(*verb.split()).code == 0

        assert files(book.parent) == before
        worker.go()
        assert worker.end() == [0]
    assert run("ledger", "check").code == 0


def test_readers_neither_stop_a_process_that_writes_nor_are_stopped_by_it(book: Path) -> None:
    with Worker("mixed", path=str(book), number=0, budgets=["$5/day"], tries=3000) as worker:
        assert worker.hear() == "ready"
        worker.go()
        asked = [run(*verb.split()).code for verb in READING]
        assert worker.end() == [0]

    assert set(asked) == {0}
    assert run("ledger", "check").code == 0


def test_a_read_only_ledger_takes_nothing_back_and_reserves_nothing(book: Path) -> None:
    with ReadOnlyLedger(book) as ledger:
        assert ledger.expire() == 0
        assert not hasattr(ledger, "reserve")
        with pytest.raises(LedgerError, match="was opened to read only"):
            ledger._file.transaction()


def test_an_empty_file_is_no_ledger_and_stays_empty(tmp_path: Path) -> None:
    (path := tmp_path / "ledger.db").touch()

    with pytest.raises(LedgerError, match="is empty, and no ledger"):
        ReadOnlyLedger(path)

    assert files(tmp_path) == {"ledger.db": (path.stat().st_mtime_ns, b"")}


def test_the_verbs_that_ask_import_no_litellm_and_open_no_socket(book: Path) -> None:
    script = """
import sys
from llmbridge.cli import main
def refuse(event, arguments):
    if event.startswith("socket."): raise SystemExit(event)
sys.addaudithook(refuse)
for verb in sys.argv[1:]:
    sys.argv = ["llmbridge", *verb.split()]
    try: main()
    except SystemExit as end: assert not end.code, (verb, end.code)
print("litellm" in sys.modules, file=sys.stderr)
"""
    verbs = [*READING, "budget set support $3", "ledger compact --older-than 1d", "cache --help"]

    done = subprocess.run([sys.executable, "-c", script, *verbs], capture_output=True, text=True, timeout=50)

    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "False")


@contextmanager
def tailing(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from llmbridge.cli import main; main()", "ledger", "tail", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_tail_shows_the_latest_and_then_each_call_that_ends_until_ctrl_c() -> None:
    with Story(ledger_path(), time.time()) as story:
        story.call("a1" * 16, "0.10")
        story.call("b2" * 16, "0.25", failed="openai/gpt-4o-mini", model="anthropic/claude-haiku-4-5")
        with tailing("-n", "1") as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            # It began before the first look, and ends now.
            story.call("c3" * 16, "0.50", user="bob", started_at=time.time() - 60, duration_s=60.0)
            second = process.stdout.readline()
            story.call("d4" * 16, "0", cached=True)
            third = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest, err = process.communicate(timeout=50)

    assert "  b2b2b2b2b2b2  anthropic/claude-haiku-4-5  answered  2 attempts  900+100  $0.25  1.00 s  " in first
    assert "  c3c3c3c3c3c3  " in second and second.endswith("  60.00 s  user=bob team=red\n")
    assert "  cached  " in third
    assert (rest, err, process.returncode) == ("", "", 0)


def test_tail_in_json_is_a_line_a_call() -> None:
    with Story(ledger_path(), time.time()) as story:
        story.call("a1" * 16, "0.10")
        with tailing("--json") as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["cost_usd"] == "0.1"


def test_records_are_found_by_their_end_and_by_how_their_id_begins(book: Path) -> None:
    with ReadOnlyLedger(book) as ledger:
        long = ledger.records()[-1]
        ended = long.started_at + long.duration_s
        at, after = (datetime.fromtimestamp(ended + later, UTC) for later in (-0.01, 0.01))
        assert [each.id for each in ledger.records(ended_since=at)] == [long.id]
        assert ledger.records(ended_since=after) == []
        assert [each.id[:2] for each in ledger.records(id="b")] == ["b2", "b3"]
        assert [each.id for each in ledger.records(id=long.id)] == [long.id]
        assert [each.name for each in ledger.budgets()] == ["$5/day", "support"]
