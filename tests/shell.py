"""The command in the test's own process: a process of its own imports LiteLLM, which takes three seconds."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from llmbridge import cli, default, everywhere
from tests.simulator import Simulator


PROCESS = [sys.executable, "-c", "from llmbridge.cli import main; main()"]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def openai_here(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, and addresses on loopback, where LiteLLM looks for them."""
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-test-key")
    monkeypatch.setenv("OPENAI_BASE_URL", sim.api_base("openai"))
    monkeypatch.setenv("ANTHROPIC_API_BASE", sim.api_base("anthropic"))


@pytest.fixture
def command(
    openai_here: None, fresh_default: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`llmbridge ARGUMENTS`, with the default Bridge that a user has: a ledger, a cache, retries."""
    monkeypatch.setattr(default, "_bridge", None)
    monkeypatch.delenv("COLUMNS", raising=False)  # a test runner's, for its own screen

    def run(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(everywhere, "_budgets", ())
        monkeypatch.setattr(sys, "argv", ["llmbridge", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


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
