"""What is said of each verb: by itself, and in the README."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmbridge import Cache
from llmbridge.home import ledger_path
from tests.commands import Story, run


README = (Path(__file__).parents[1] / "README.md").read_text()
GROUPS = {
    "spend": [()],
    "calls": [()],
    "budget": [("list",), ("show",), ("set",), ("override",), ("tree",)],
    "ledger": [("check",), ("export",), ("compact",), ("tail",)],
    "cache": [("stats",), ("list",), ("show",), ("clear",), ("verify",)],
    "simulate": [()],
    "report": [()],
    "doctor": [()],
}
VERBS = [(verb, *rest) for verb, below in GROUPS.items() for rest in below]


@pytest.fixture
def today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with Story(ledger_path(), datetime.now(UTC).timestamp()) as story:
        story.call("a1" * 16, "0.50")
        (cache := Cache()).stats()
        cache.close()
        yield


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_has_an_example_that_is_of_this_verb_the_exit_codes_and_json(verb: tuple[str, ...]) -> None:
    out = run(*verb, "--help", columns=200).out

    assert f"Example: llmbridge {' '.join(verb)}" in out
    assert re.search(r"Exit code: 0.*, 1 .*, 2 for wrong usage\.", out)
    assert "--json" in out


def commands() -> list[str]:
    section = README.split("### Money, calls and the cache")[1]
    lines = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0].splitlines()
    return [line for line in lines if line.startswith("llmbridge ")]


@pytest.mark.parametrize("line", commands())
def test_a_line_of_the_readme_runs(line: str, today: None) -> None:
    _, *arguments = shlex.split(line, comments=True)

    done = run(*arguments)

    assert done.code == 0, done.err


def test_the_readme_names_every_verb() -> None:
    section = README.split("## Health, events, logs")[1].split("\n## LiteLLM")[0]

    assert [verb for verb in VERBS if verb[-1] not in section] == []
