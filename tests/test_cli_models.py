"""llmbridge models and llmbridge chains."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, Model, cli
from llmbridge.catalog.chains import CHAINS
from tests.test_catalog import answered


class Command:
    """The command, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Its exit code, and what it printed."""
        self._monkeypatch.setattr(sys, "argv", ["llmbridge", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
            sys.exit(0)
        code = left.value.code
        return int(code or 0), *self._capsys.readouterr()


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.delenv("COLUMNS", raising=False)  # a test runner's, for its own screen
    return Command(monkeypatch, capsys)


def rows(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.splitlines()[3:] if line.strip()]


def test_models_are_a_table_without_colours_where_nobody_looks(run_cli: Command) -> None:
    code, out, err = run_cli("models", "GPT-4o-mini", "--provider", "openai", "--capability", "vision")

    assert (code, err) == (0, "")
    assert "\x1b" not in out
    found = {row[0]: row[1:] for row in rows(out)}
    assert found["openai/gpt-4o-mini"][:4] == ["128,000", "16,384", "0.15", "0.6"]
    assert "tools" in found["openai/gpt-4o-mini"]
    assert all("gpt-4o-mini" in model for model in found)


def test_every_filter_is_an_option_and_json_has_exact_prices(run_cli: Command) -> None:
    code, out, _ = run_cli(
        "models",
        *("--capability", "tools", "--capability", "vision", "--max-input-usd-per-mtok", "0.15"),
        *("--min-context", "100000", "--mode", "chat", "--sort", "cost", "--deprecated", "--json"),
    )

    listed = json.loads(out)
    expected = llmbridge.models.find(
        capability=["tools", "vision"], max_input_usd_per_mtok="0.15", min_context=100_000, sort="cost", deprecated=True
    )
    assert code == 0
    assert [each["model"] for each in listed] == [each.model for each in expected]
    assert len(listed) > 40
    mini = next(each for each in listed if each["model"] == "openai/gpt-4o-mini")
    assert (mini["input_usd_per_mtok"], mini["output_usd_per_mtok"]) == ("0.15", "0.6")
    assert (mini["context_window"], mini["own"]) == (128_000, False)
    assert "vision" in mini["capabilities"]


def test_of_many_the_first_are_shown_and_how_many_there_are(run_cli: Command) -> None:
    _, out, err = run_cli("models")
    assert len(rows(out)) == 40
    assert err.startswith("40 of 2,")
    _, out, _ = run_cli("models", "--limit", "3")
    assert len(rows(out)) == 3
    _, out, err = run_cli("models", "--limit", "0", "--provider", "openai")
    assert (len(rows(out)) > 50, err) == (True, "")


def test_by_latency_the_ledgers_figures_are_a_column(run_cli: Command) -> None:
    llmbridge.configure(bridge := Bridge([Model("acme/x", input_usd_per_mtok=1, output_usd_per_mtok=2)]))
    answered(bridge, "acme/x", 1.25, tokens=3)

    _, out, _ = run_cli("models", "--sort", "latency", "--limit", "1")

    assert rows(out) == [["acme/x", "1", "2", "1.25"]]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("models", "--capability", "visoin"), 2, "there is no capability 'visoin': did you mean 'vision'?"),
        (("models", "--provider", "opneai"), 2, "there is no provider 'opneai': did you mean 'openai'?"),
        (("models", "--sort", "costs"), 2, "there is no sort 'costs': did you mean 'cost'?"),
        (("models", "--max-input-usd-per-mtok", "low"), 2, "US dollars per million tokens, 0 or more, not 'low'"),
        (("models", "nothing-is-called-this"), 1, "no model fits"),
        (("chains", "high_qualty"), 2, "there is no ready chain 'high_qualty': did you mean 'high_quality'?"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], code: int, message: str, run_cli: Command) -> None:
    got, out, err = run_cli(*arguments)

    assert (got, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_chains_are_shown_with_their_rule_their_models_and_the_missing_keys(
    run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-key")

    code, out, _ = run_cli("chains")

    assert code == 0
    assert all(f"\n {name} " in out for name in CHAINS)
    assert "1. anthropic/" in out
    assert "OPENAI_API_KEY" in out
    assert "sk-test-key" not in out
    assert "name what runs here" in out


def test_one_chain_as_json_is_what_the_program_would_ask(run_cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-key")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")

    _, out, _ = run_cli("chains", "cost_optimized", "--json")

    (shown,) = json.loads(out)
    chain = llmbridge.models.explain_chain("cost_optimized")
    assert [each["model"] for each in shown["models"]] == [each.listing.model for each in chain.members]
    assert (shown["chain"], shown["strategy"], shown["rule"]) == ("cost_optimized", "least_cost", chain.rule)
    assert {"model": chain.missing[0].model, "keys": list(chain.missing[0].keys)} in shown["missing"]


def test_neither_command_loads_litellm() -> None:
    script = """
import sys
from llmbridge import cli
for arguments in (["models", "haiku"], ["chains"]):
    sys.argv = ["llmbridge", *arguments]
    try: cli.main()
    except SystemExit as left: assert not left.code, left.code
print("litellm" in sys.modules)
"""

    done: Any = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "False"
