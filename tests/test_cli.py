"""The command, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmbridge import cli
from tests.simulator import Fault, Reply, Simulator


def llmbridge(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from llmbridge.cli import main; main()", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=50, env={**environment, **env}, check=False
    )


@pytest.fixture
def openai_here(sim: Simulator) -> dict[str, str]:
    return {"OPENAI_API_KEY": "sk-test-key", "OPENAI_BASE_URL": sim.api_base("openai")}


def test_the_demo_shows_a_fallback_without_network_and_key() -> None:
    done = llmbridge("demo", COLUMNS="100")

    assert done.returncode == 0, done.stderr
    assert "trout" in done.stdout
    assert "ProviderUnavailable" in done.stdout
    assert "anthropic/claude-haiku-4-5" in done.stdout
    assert "nothing was billed" in done.stdout


def test_complete_prints_the_answer_and_apart_from_it_what_it_took(sim: Simulator, openai_here: dict[str, str]) -> None:
    sim.script(Reply(text="Trout."))

    done = llmbridge("complete", "-", "-m", "openai/gpt-4o-mini", stdin="Name a fish.", **openai_here)

    assert done.stdout == "Trout.\n"
    assert "openai/gpt-4o-mini  9+3 tokens  $0.000003" in done.stderr
    assert sim.requests[0].body is not None
    assert sim.requests[0].body["messages"] == [{"role": "user", "content": "Name a fish."}]


@pytest.mark.parametrize("how", [(), ("--stream",)], ids=["whole", "stream"])
def test_complete_shows_the_call_as_a_tree(how: tuple[str, ...], sim: Simulator, openai_here: dict[str, str]) -> None:
    sim.script(Fault.status(401), Reply(text="Carp."))
    two = ("-m", "openai/gpt-4o-mini", "-m", "openai/gpt-4o")

    done = llmbridge("complete", "Name a fish.", *two, "--trace", *how, **openai_here)

    assert done.stdout == "Carp.\n"
    call, failed, answered = [line for line in done.stderr.splitlines() if "█" in line or "▏" in line or "─" in line]
    assert call.startswith("chat gpt-4o-mini")
    assert call.rstrip().endswith("$0.000052")
    assert failed.startswith("├─ attempt openai/gpt-4o-mini")
    assert "AuthenticationFailed 401" in failed
    assert answered.startswith("└─ attempt openai/gpt-4o ")
    assert "fallback" in answered


@pytest.mark.parametrize("how", [(), ("--stream",)], ids=["whole", "stream"])
def test_the_tree_of_a_call_that_fails_is_shown_too(
    how: tuple[str, ...], sim: Simulator, openai_here: dict[str, str]
) -> None:
    sim.script(Fault.status(401))

    done = llmbridge("complete", "Name a fish.", "-m", "openai/gpt-4o-mini", "--trace", *how, **openai_here)

    assert (done.returncode, done.stdout) == (1, "")
    tree, attempt, error = done.stderr.splitlines()
    assert tree.startswith("chat gpt-4o-mini")
    assert "AuthenticationFailed" in tree
    assert attempt.startswith("└─ attempt openai/gpt-4o-mini")
    assert error.startswith("AuthenticationFailed: ")


def test_complete_streams(sim: Simulator, openai_here: dict[str, str]) -> None:
    sim.script(Fault.status(503), Fault.status(503), Fault.status(503), Reply(text="Carp."))
    two = ("-m", "openai/gpt-4o-mini", "-m", "openai/gpt-4o")

    done = llmbridge("complete", "Name a fish.", *two, "--stream", "--max-tokens", "9", **openai_here)

    assert done.stdout == "Carp.\n"
    assert [(seen.body or {})["model"] for seen in sim.requests] == [*["gpt-4o-mini"] * 3, "gpt-4o"]


def test_complete_prints_json(sim: Simulator, openai_here: dict[str, str]) -> None:
    done = llmbridge("complete", "Name a fish.", "-m", "openai/gpt-4o-mini", "--json", **openai_here)

    printed = json.loads(done.stdout)
    assert (printed["text"], printed["record"]["outcome"]) == ("Trout.", "answered")


def test_a_failure_is_one_line_and_exit_code_1(sim: Simulator, openai_here: dict[str, str]) -> None:
    sim.script(Fault.echo_key())

    done = llmbridge("complete", "Name a fish.", "-m", "openai/gpt-4o-mini", **openai_here)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("AuthenticationFailed: openai/gpt-4o-mini refused the key (HTTP 401)")
    assert "sk-test-key" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_users_mistake_is_one_line_and_exit_code_2() -> None:
    done = llmbridge("complete", "Name a fish.", "-m", "openai/gpt-4o-mini", "--deadline-s", "-1")

    assert (done.returncode, done.stderr) == (2, "deadline_s is a number of seconds above 0, not -1.0\n")


def test_the_version_is_printed_without_importing_a_verb() -> None:
    script = """
import sys
from llmbridge.cli import VERBS, main
sys.argv = ["llmbridge", "--version"]
try: main()
except SystemExit: pass
heavy = ["rich", "sqlite3", "json", "asyncio", "llmbridge.ledger", "llmbridge.cache", "llmbridge.record"]
print([name for name in (*heavy, *(f"llmbridge.cli.{verb}" for verb in VERBS)) if name in sys.modules])
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    version, imported = done.stdout.splitlines()
    assert version.startswith("llmbridge 0.")
    assert imported == "[]"


def test_a_misspelt_verb_is_told_what_was_meant() -> None:
    done = llmbridge("compleet")

    assert done.returncode == 2
    assert "No such command 'compleet'. Did you mean 'complete'?" in done.stderr


def test_the_version_is_printed() -> None:
    assert llmbridge("--version").stdout.startswith("llmbridge 0.")


def test_the_demos_recording_says_that_a_simulator_made_it() -> None:
    first_line = (Path(cli.__file__).with_name("demo.yaml")).read_text().splitlines()[0]

    assert "simulator" in first_line
