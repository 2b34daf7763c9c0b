"""`llmbridge budget`: counters, limits, and the trail of their changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmbridge.home import ledger_path
from llmbridge.ledger import Ledger, Need, Refusal
from tests.commands import DAILY, Story, run


@pytest.fixture(autouse=True)
def book() -> Iterator[Path]:
    """Calls of today by three users of two teams, one of which is under way."""
    with Story(ledger_path(), time.time()) as story:
        story.call("a1" * 16, "0.50")
        story.call("a2" * 16, "1.90", user="bob")
        story.call("a3" * 16, "0.25", user="carol", team="blue")
        story.hold("a4" * 16)
        yield ledger_path()


def test_list_shows_every_counter() -> None:
    done = run("budget", "list")

    rows = [line.split() for line in done.out.splitlines() if "$" in line]
    assert [row[0] for row in rows] == ["$5/day", "support", "support", "support"]
    assert rows[0][1:6] == ["$2.65", "$0.0100", "$5.00", "$2.34", "53%"]
    assert rows[3][1:8] == ["team=red,", "user=bob", "$1.90", "$0.00", "$2.00", "$0.1000", "95%"]
    assert rows[0][-3:] == [f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}", "00:00", "UTC"]


def test_list_as_json_has_exact_amounts_in_dollars_too() -> None:
    daily, *_ = run("budget", "list", "--json").json

    assert (daily["settled"], daily["settled_usd"], daily["remaining_usd"]) == (2_650_000_000, "2.65", "2.34")
    assert datetime.fromisoformat(daily["resets_at"]) > datetime.now(UTC)


def test_the_tree_sums_up_from_tag_to_tag() -> None:
    lines = run("budget", "tree").out.splitlines()

    said = [" ".join(line.split()[:3]) for line in lines[3:] if line.strip()]
    assert said == [
        "$5/day $2.65 $0.0100",
        "support $2.65 $0.00",
        "├─ team=blue $0.2500",
        "│ └─ user=carol",
        "└─ team=red $2.40",
        "├─ user=alice $0.5000",
        "└─ user=bob $1.90",
    ]
    _, support = run("budget", "tree", "--json").json
    assert [each["name"] for each in support["below"]] == ["team=blue", "team=red"]
    assert [each["settled"] for each in support["below"][1]["below"]] == [500_000_000, 1_900_000_000]


def test_a_limit_that_is_set_holds_for_the_next_call_and_is_in_the_trail(book: Path) -> None:
    done = run("budget", "set", "$5 / day", "$2.65", "--reason", "a hard month")

    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("  $5/day: limit $2.65 (a hard month)\n")
    with Ledger(book) as ledger:
        assert isinstance(ledger.reserve("later.1", Need(1, 1), [DAILY]), Refusal)
    shown = run("budget", "show", "$5/day", "--json").json
    assert [(each["limit"], each["reason"]) for each in shown["changes"]] == [("$2.65", "a hard month")]
    assert shown["balances"][0]["limit_usd"] == "2.65"
    assert shown["budgets"][0]["limit"] == "$5/day"


def test_default_goes_back_to_the_programs_own_limit() -> None:
    run("budget", "set", "support", "$7")

    done = run("budget", "set", "support", "default", "--json")

    assert done.json["limit"] is None
    assert {each["limit_usd"] for each in run("budget", "show", "support", "--json").json["balances"]} == {"2"}
    assert "support: back to what the program says" in run("budget", "show", "support").out


def test_an_override_ends_by_itself() -> None:
    done = run("budget", "override", "$5/day", "$50", "--until", "2h", "--json")

    ends = datetime.fromisoformat(done.json["until"])
    assert timedelta(minutes=119) < ends - datetime.now(UTC) <= timedelta(hours=2)
    assert run("budget", "show", "$5/day", "--json").json["balances"][0]["limit_usd"] == "50"


def test_show_says_what_the_program_declared() -> None:
    out = run("budget", "show", "support").out

    assert out.startswith("support: $2.00 in all, for each team and user, as the program says\n")


def test_a_budget_per_tag_is_known_also_without_a_counter_in_this_window(tmp_path: Path) -> None:
    with Story(path := tmp_path / "old.db") as story:
        story.call("a1" * 16, "0.50")

    found = run("budget", "show", "$5/day", "--ledger", path, "--json").json

    assert found["balances"][0]["settled"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "suport"), 1, "the ledger knows no budget 'suport'; it knows '$5/day', 'support'"),
        (("set", "suport", "$5"), 1, "the ledger knows no budget 'suport'"),
        (("set", "support", "5"), 2, "'5' is no amount of dollars, tokens or requests"),
        (("set", "support", "5k tokens"), 2, "budget 'support' counts nanousd, not tokens"),
        (("override", "support", "$5"), 2, "Missing option '--until'"),
        (("override", "support", "$5", "--until", "2020-01-01"), 2, "--until 2020-01-01 is over"),
        (("lst",), 2, "No such command 'lst'"),
    ],
)
def test_a_mistake_changes_nothing(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run("budget", *arguments)

    assert (done.code, done.out) == (code, "")
    assert said in done.err and "Traceback" not in done.err
    assert run("budget", "show", "support", "--json").json["changes"] == []
