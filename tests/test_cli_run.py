"""llmbridge run: a program, with a budget around every call in it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from llmbridge import default
from tests.shell import Command
from tests.simulator import Simulator


ASKS = """
import sys
import llmbridge

def ask(number):
    return llmbridge.complete(f"Name fish {number}.", model="openai/gpt-4o-mini", max_tokens=20, cache="off").text

for number in range(int(sys.argv[1])):
    print(ask(number))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "fish.py"
    path.write_text(ASKS)
    return path


def test_a_script_runs_as_it_would_by_itself_and_what_it_took_is_said(
    sim: Simulator, command: Command, script: Path
) -> None:
    (script.parent / "beside.py").write_text("NAME = 'found'")
    script.write_text("import sys, beside\nprint(sys.argv, __name__, beside.NAME, __file__)\n" + ASKS)
    before = sys.argv, sys.path[:]

    done = command("run", str(script), "2", "--verbose", "--budget", "$5", "--", "--budget", "x")

    first, *rest = done.out.splitlines()
    assert done.code == 0, done.err
    assert first == f"{[str(script), '2', '--verbose', '--budget', 'x']} __main__ found {script}"
    assert rest == ["Trout."] * 2
    assert done.err == "2 calls  $0.000006  of $5\n"
    assert sys.path == before[1]


def test_the_budget_caps_all_calls_of_a_run_together_and_the_command_says_so(
    sim: Simulator, command: Command, script: Path
) -> None:
    worst_usd = worst(command)

    done = command("run", str(script), "1000", "--budget", f"${worst_usd * 2:.9f}")

    (balance,) = default.default().ledger.balance()
    assert done.code == 3
    assert 2 <= len(sim.requests) < 1000
    assert len(done.out.splitlines()) == len(sim.requests)
    assert balance.settled + balance.reserved <= balance.limit
    refusal, *_, took, said = done.err.splitlines()
    assert refusal.startswith("BudgetExceeded: budget 'dollars for fish.py at ")
    assert refusal.endswith("(fish.py, line 6)")
    assert took.startswith(f"{len(sim.requests) + 1} calls  ")
    assert re.fullmatch(r"The budget of \$\S+ was exceeded: a call was refused\.", said)


def test_each_run_has_the_whole_budget_but_one_with_a_window_is_shared(
    sim: Simulator, command: Command, script: Path
) -> None:
    for _ in range(2):
        command("run", str(script), "1", "--budget", "$1")
        command("run", str(script), "1", "--budget", "$1/day")

    balances = default.default().ledger.balance()
    assert len(balances) == 3
    assert {each.window for each in balances if each.budget == "$1/day"} == {"day"}


def test_a_script_that_catches_the_refusal_goes_on_and_keeps_its_exit_code(
    sim: Simulator, command: Command, script: Path
) -> None:
    script.write_text(
        "import sys, llmbridge\n"
        "for _ in range(3):\n"
        "    try: llmbridge.complete('Name a fish.', model='openai/gpt-4o-mini')\n"
        "    except llmbridge.BudgetExceeded: print('refused')\n"
        "sys.exit(7)\n"
    )

    done = command("run", str(script), "--budget", "$0.000000001")

    assert (done.code, done.out, len(sim.requests)) == (7, "refused\n" * 3, 0)
    assert done.err.endswith("was exceeded: 3 calls were refused.\n")


def test_calls_of_another_bridge_in_another_thread_count_too(sim: Simulator, command: Command, script: Path) -> None:
    script.write_text(
        "import threading\n"
        "from llmbridge import Bridge, BudgetExceeded\n"
        "def ask():\n"
        "    try: Bridge('openai/gpt-4o-mini').complete('Name a fish.')\n"
        "    except BudgetExceeded as error: print(error.budget)\n"
        "thread = threading.Thread(target=ask)\n"
        "thread.start(); thread.join()\n"
    )

    done = command("run", str(script), "--budget", "$0.000000001")

    assert (done.code, len(sim.requests)) == (0, 0)
    assert "for fish.py at" in done.out
    assert "1 calls" not in done.err
    assert done.err.startswith("1 call ")


@pytest.mark.parametrize(
    ("code", "returncode", "stderr"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(4)", 4, ""),
        ("raise SystemExit('no fish')", 1, "no fish\n"),
    ],
)
def test_the_exit_code_of_the_script_is_kept(
    code: str, returncode: int, stderr: str, command: Command, script: Path
) -> None:
    script.write_text(code)

    done = command("run", str(script))

    assert (done.code, done.err) == (returncode, f"{stderr}0 calls  $0\n")


def test_a_script_that_fails_shows_its_own_traceback_alone(command: Command, script: Path) -> None:
    script.write_text("def swim():\n    1 / 0\n\nswim()\n")

    done = command("run", str(script))

    assert done.code == 1
    assert done.err.startswith(f'Traceback (most recent call last):\n  File "{script}", line 4, in <module>\n')
    assert "ZeroDivisionError: division by zero\n" in done.err
    assert "runpy" not in done.err


def test_a_script_that_is_no_python_says_where(command: Command, script: Path) -> None:
    script.write_text("swim(\n")

    done = command("run", str(script))

    assert done.code == 1
    assert f'File "{script}", line 1' in done.err
    assert "SyntaxError" in done.err
    assert "runpy" not in done.err


def test_a_budget_that_is_none_is_exit_code_2_and_nothing_runs(command: Command, script: Path) -> None:
    done = command("run", str(script), "--budget", "5")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("'5' is no amount of dollars")


def test_what_it_took_is_json_on_stderr_if_asked(sim: Simulator, command: Command, script: Path) -> None:
    done = command("run", str(script), "2", "--json")

    assert json.loads(done.err) == {
        "calls": 2,
        "cached": 0,
        "refused": 0,
        "cost_usd": "0.00000630",
        "budgets": [],
    }


def worst(command: Command) -> float:
    """The worst case of one call of the script, in US dollars."""
    shown = command("explain", "Name fish 1.", "-m", "openai/gpt-4o-mini", "--max-tokens", "20", "--json").out
    return float(json.loads(shown)["candidates"][0]["worst_usd"])
