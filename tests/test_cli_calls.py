"""`llmbridge calls`: what was asked lately, and one call in full."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from llmbridge import Bridge, Fallback, Model
from llmbridge.home import ledger_path
from tests.commands import Story, run, three_days
from tests.simulator import Fault, Reply, Simulator


def test_a_real_call_is_listed_and_shown_in_full(sim: Simulator) -> None:
    sim.script(Fault.status(503), Reply(text="Trout."))
    models = [Model(f"openai/{name}", api_base=sim.api_base("openai"), api_key="sk-test-key") for name in NAMES]
    bridge = Bridge(models, fallback=Fallback(retries=0))
    reply = bridge.complete("Name a fish.", tags={"user": "alice"})
    bridge.ledger.close()

    (listed,) = run("calls", "--json").json
    row = run("calls").out.splitlines()[3].split()
    shown = run("calls", reply.record.id[:14]).out

    assert (listed["id"], listed["cost_usd"]) == (reply.record.id, str(reply.cost_usd))
    assert [each["status"] for each in listed["attempts"]] == [503, 200]
    assert row[0] == reply.record.id[:12]
    assert row[3:6] == ["openai/gpt-4o", "answered", "2"]
    assert row[-2:] == ["user=alice", reply.trace_id] if reply.trace_id else row[-1] == "user=alice"
    assert "├─ attempt openai/gpt-4o-mini" in shown and "ProviderUnavailable 503" in shown
    assert "└─ attempt openai/gpt-4o " in shown and "fallback" in shown
    assert run("calls", reply.record.id, "--json").json["id"] == reply.record.id


NAMES = ("gpt-4o-mini", "gpt-4o")


@pytest.fixture
def book() -> Path:
    three_days(ledger_path())
    return ledger_path()


def test_the_latest_come_last_and_so_many(book: Path) -> None:
    ids = [each["id"][:2] for each in run("calls", "-n", "2", "--json").json]

    assert ids == ["b3", "c4"]
    one_day = run("calls", "--since", "2026-03-03", "--until", "2026-03-04", "--json").json
    assert [each["id"][:2] for each in one_day] == ["b2", "b3"]


def test_what_became_of_a_call_is_a_word_or_two(book: Path) -> None:
    lines = run("calls").out.splitlines()[3:]

    assert [line.split()[4] for line in lines if line.strip()] == ["answered", "answered", "cached", "answered,"]
    assert "user=[/carol]" in lines[3]  # a tag is no markup


def test_a_call_that_cannot_be_told_from_others_is_exit_code_1(book: Path) -> None:
    several, none = run("calls", "b"), run("calls", "ff")

    assert (several.code, several.err) == (1, "2 calls begin with b.\n")
    assert "b2b2b2b2b2b2" in several.out and "b3b3b3b3b3b3" in several.out
    assert (none.code, none.out, none.err) == (1, "", "No calls begin with ff.\n")


def test_calls_of_one_millisecond_are_listed_by_as_much_of_their_ids_as_tells_them_apart(tmp_path: Path) -> None:
    with Story(path := tmp_path / "ledger.db") as story:
        story.call("0" * 12 + "a" * 20, "0")
        story.call("0" * 12 + "b" * 20, "0")

    out = run("calls", "--ledger", path).out

    assert "000000000000aaaa " in out and "000000000000bbbb " in out


def test_no_terminal_command_comes_out_of_a_tag(tmp_path: Path) -> None:
    with Story(path := tmp_path / "ledger.db") as story:
        story.call("a1" * 16, "0", user="\x1b[2Jalice")

    for verb in (("calls",), ("calls", "a1"), ("spend", "--by", "tag:user"), ("budget", "list"), ("budget", "tree")):
        assert "\x1b" not in run(*verb, "--ledger", path).out
        assert "alice" in run(*verb, "--ledger", path).out


def test_in_a_terminal_the_table_fits_and_has_colour_and_in_a_pipe_it_has_neither(book: Path) -> None:
    """A process in a pseudo-terminal of 80 columns."""
    command = [sys.executable, "-c", "from llmbridge.cli import main; main()", "calls", "b2"]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}

    seen = in_terminal(command, {**environment, "TERM": "xterm-256color"})
    piped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50, env=environment).stdout

    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert "\x1b[31m" in seen  # the attempt that failed
    assert max(map(len, plain.splitlines())) <= 80
    assert "ProviderUnavailable 503" in piped and "\x1b" not in piped


def in_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What *command* writes to a terminal until it ends."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        said, give_up = b"", time.monotonic() + 50
        while time.monotonic() < give_up:
            try:
                piece = os.read(master, 65_536)
            except OSError:  # Linux says so that nobody has the terminal any more
                break
            if not piece:
                break
            said += piece
        os.close(master)
        assert process.wait(50) == 0
    return said.decode()
