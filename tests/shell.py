"""The command and a provider on loopback: in the test's own process, and, where that proves more, in a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llmbridge import default, everywhere
from tests.commands import Done, run
from tests.simulator import Simulator


PROCESS = [sys.executable, "-c", "from llmbridge.cli import main; main()"]
Command = Callable[..., Done]


@pytest.fixture
def openai_here(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, and addresses on loopback, where LiteLLM looks for them."""
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-test-key")
    monkeypatch.setenv("OPENAI_BASE_URL", sim.api_base("openai"))
    monkeypatch.setenv("ANTHROPIC_API_BASE", sim.api_base("anthropic"))


@pytest.fixture
def command(openai_here: None, fresh_default: object, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`llmbridge ARGUMENTS`, with the default Bridge that a user has: a ledger, a cache, retries."""
    monkeypatch.setattr(default, "_bridge", None)

    def command(*arguments: object, **how: Any) -> Done:
        monkeypatch.setattr(everywhere, "_budgets", ())  # of a process of its own
        return run(*arguments, **how)

    return command


class Terminal:
    """A process whose three streams are a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self._shown, inner = pty.openpty()
        self.process = subprocess.Popen(
            [*PROCESS, *arguments], stdin=inner, stdout=inner, stderr=inner, env={**os.environ, "COLUMNS": "80"}
        )
        os.close(inner)

    def end(self) -> str:
        """What it shows until it ends."""
        shown = b""
        try:
            while piece := os.read(self._shown, 4096):
                shown += piece
        except OSError:  # Linux's way to say that the other side is closed
            pass
        return shown.decode().replace("\r\n", "\n")


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    """`llmbridge ARGUMENTS` in a terminal; killed at the end of the block if it still runs."""
    started = Terminal(*arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        os.close(started._shown)
