"""`llmbridge spend`: what went where, for people and for scripts."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from llmbridge.cli.options import moment
from llmbridge.home import ledger_path
from tests.commands import Story, run, three_days
from tests.test_cli import llmbridge


@pytest.fixture(autouse=True)
def book() -> Path:
    three_days(ledger_path())
    return ledger_path()


def test_spend_says_what_was_spent_in_all() -> None:
    done = run("spend")

    assert (done.code, done.err) == (0, "")
    names, _, figures = [line.split() for line in done.out.splitlines() if line.strip()]
    assert dict(zip(names, figures, strict=True)) == {
        "calls": "4",
        "attempts": "5",
        "cost": "$1.7500",
        "uncertain": "$0.5000",
        "unpriced": "0",
        "saved": "$0.5000",
        "tokens": "3,600+400",
    }


def test_groups_come_dearest_first_and_with_their_total() -> None:
    lines = run("spend", "--by", "model", "--by", "tag:user").out.splitlines()

    rows = [line.split()[:3] for line in lines if "/" in line or "total" in line]
    assert rows == [
        ["openai/gpt-4o-mini", "alice", "1"],
        ["openai/gpt-4o-mini", "[/carol]", "1"],
        ["anthropic/claude-haiku-4-5", "bob", "1"],
        ["openai/gpt-4o-mini", "bob", "2"],
        ["total", "4", "5"],  # and not 5 calls: one of them asked two models
    ]


def test_json_and_csv_say_the_same() -> None:
    as_json = run("spend", "--by", "day", "--json").json
    as_csv = list(csv.DictReader(io.StringIO(run("spend", "--by", "day", "--csv").out)))

    assert [(each["of"]["day"], each["cost_usd"]) for each in as_json] == [
        ("2026-03-02", "1"),
        ("2026-03-05", "0.5"),
        ("2026-03-03", "0.25"),
    ]
    assert [(each["day"], Decimal(each["cost_usd"])) for each in as_csv] == [
        (each["of"]["day"], Decimal(each["cost_usd"])) for each in as_json
    ]
    assert [each["attempts"] for each in as_csv] == ["1", "1", "3"]


def test_a_period_is_said_by_dates_and_ends_before_its_end() -> None:
    found = run("spend", "--by", "day", "--since", "2026-03-03", "--until", "2026-03-05", "--json").json

    assert [each["of"]["day"] for each in found] == ["2026-03-03"]


def test_dates_are_those_of_the_zone() -> None:
    found = run("spend", "--by", "hour", "--zone", "Asia/Kolkata", "--until", "2026-03-02T17:31", "--json").json

    assert [each["of"]["hour"] for each in found] == ["2026-03-02 17:00"]
    assert run("spend", "--until", "2026-03-02T17:29", "--zone", "Asia/Kolkata", "--json").json == []


@pytest.mark.parametrize(("text", "ago"), [("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600)])
def test_a_length_of_time_counts_from_now(text: str, ago: int) -> None:
    before = datetime.now(UTC)

    found = moment(text)

    assert found is not None
    assert before <= found + timedelta(seconds=ago) <= datetime.now(UTC)


def test_a_plot_has_a_bar_for_each_day_also_for_those_without_calls() -> None:
    lines = run("spend", "--plot", columns=80).out.splitlines()

    assert [line[:14] for line in lines[:-1]] == [
        "Mon 2026-03-02",
        "Tue 2026-03-03",
        "Wed 2026-03-04",
        "Thu 2026-03-05",
    ]
    full, quarter, none, half = [line.count("█") for line in lines[:-1]]
    assert (quarter, none, half) == (full // 4, 0, full // 2)
    assert lines[-1].split() == ["$1.7500", "4", "calls"]
    assert max(map(len, lines)) <= 80


def test_a_narrow_screen_has_fewer_columns_and_no_broken_line() -> None:
    wide, narrow = (run("spend", "--by", "model", columns=width).out.splitlines() for width in (160, 60))

    assert "tokens" in wide[1] and "tokens" not in narrow[1]
    assert len(wide) == len(narrow)
    assert max(map(len, narrow)) <= 60


def test_a_small_amount_is_not_shown_as_nothing(tmp_path: Path) -> None:
    with Story(path := tmp_path / "small.db") as story:
        story.call("a1" * 16, "0.9")
        story.now += 1
        story.call("a2" * 16, "0.000000001", user="bob")

    assert "<$0.000001" in run("spend", "--by", "tag:user", "--ledger", path).out


def test_nothing_spent_is_said_beside_the_output(tmp_path: Path) -> None:
    Story(path := tmp_path / "new.db").ledger.close()

    done = run("spend", "--ledger", path)

    assert (done.code, done.out, done.err) == (0, "", "Nothing was spent.\n")
    assert run("spend", "--ledger", path, "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--by", "modle"), "--by modle is none of model, provider, "),
        (("--since", "yesterday"), "'yesterday' is no time; write it as 2026-11-01"),
        (("--since", "2026-13-01"), "'2026-13-01' is no time"),
        (("--zone", "Mars/Base"), "there is no time zone 'Mars/Base'"),
        (("--csv", "--json"), "--json, --csv and --plot exclude each other"),
        (("--plot", "--by", "model"), "--plot draws days"),
        (("--whatever",), "No such option"),
    ],
)
def test_a_users_mistake_is_exit_code_2_and_no_traceback(arguments: tuple[str, ...], said: str) -> None:
    done = run("spend", *arguments)

    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "verb", ["spend", "calls", "budget list", "budget tree", "budget show x", "budget set x $1", "ledger check",
             "ledger export", "ledger tail", "ledger compact --older-than 1d"],
)  # fmt: skip
def test_a_missing_ledger_is_said_and_not_made(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "ledger.db"

    done = run(*verb.split(), "--ledger", path)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"LedgerError: there is no ledger at {path}") and done.err.count("\n") == 1
    assert not path.parent.exists()


def test_what_is_no_ledger_is_said_and_left_alone(tmp_path: Path) -> None:
    (path := tmp_path / "notes.txt").write_text("x" * 5000)

    done = run("spend", "--ledger", path)

    assert done.code == 1
    assert done.err.startswith("LedgerCorrupt: ") and str(path) in done.err
    assert path.read_text() == "x" * 5000 and list(tmp_path.glob("notes*")) == [path]


def test_through_a_pipe_there_is_no_colour_and_a_reader_may_leave_early() -> None:
    done = llmbridge("spend", "--by", "model")
    command = f"{sys.executable} -c 'from llmbridge.cli import main; main()' ledger export"
    left = subprocess.run(f"{command} | head -n 1", shell=True, capture_output=True, text=True, check=True, timeout=50)

    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert left.stdout.count("\n") == 1
    assert "Traceback" not in left.stderr
