"""The README's code runs, and prints what it says."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

import llmbridge
from llmbridge import Bridge, CallRecord, default, semconv
from llmbridge.catalog.chains import CHAINS
from llmbridge.cli.tree import rows, tree
from tests.simulator import Fault, Reply, Simulator
from tests.tracing_spans import Spans


pytest_plugins = "pytester"

README = (Path(__file__).parents[1] / "README.md").read_text()


def snippet(number: int) -> str:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]


@pytest.fixture(autouse=True)
def providers_on_loopback(sim: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")
    monkeypatch.setenv("OPENAI_BASE_URL", sim.api_base("openai"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-key")
    monkeypatch.setenv("ANTHROPIC_API_BASE", sim.api_base("anthropic"))
    monkeypatch.chdir(tmp_path)


def test_the_first_example_prints_what_the_readme_shows(
    sim: Simulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "_bridge", None)  # the one that a user has
    sim.script(*[Fault.status(503)] * 3, Reply(text="Trout."))

    exec(snippet(0), {})

    lines = capsys.readouterr().out.splitlines()
    shown = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[0].splitlines()
    assert [numbers_off(line) for line in lines] == [numbers_off(line) for line in shown]


def test_the_budget_example_runs_and_shows_what_was_spent(sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    exec(snippet(1), names := {})

    printed = capsys.readouterr().out
    cost = names["reply"].cost_usd
    assert "per user user=alice:" in printed
    assert f"alice {cost} 0" in printed
    assert {each.limit_usd for each in names["bridge"].ledger.balance("per user")} == {10}
    names["bridge"].ledger.close()


def test_the_cache_example_pays_once(sim: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    exec(snippet(2), names := {})

    assert capsys.readouterr().out.startswith(f"True 0 {names['reply'].cost_usd} 0.")
    assert len(sim.requests) == 2


def test_the_fallback_example_plans_first_and_explains_afterwards(
    sim: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(snippet(3), names := {})

    plan, record = capsys.readouterr().out.split("call ")
    assert [line.split(": ")[0] for line in plan.splitlines()[1:4]] == [
        "1. openai/gpt-4o-mini",
        "2. anthropic/claude-haiku-4-5",
        "3. ollama_chat/llama3.2",
    ]
    assert "budget '$0.05/call': $0.05 left, enough" in plan
    assert re.search(r"1\. openai/gpt-4o-mini \(initial[^)]*\): answered", record)
    names["bridge"].ledger.close()


def test_the_example_of_models_and_chains_asks_what_it_found(
    sim: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(snippet(4), names := {})

    found, estimated, answered = capsys.readouterr().out.splitlines()
    assert found.split()[1].startswith("openai/")
    assert all(int(number) > 0 for number in (found.split()[0], found.split()[2]))
    tokens, typical_usd, worst_usd = estimated.split()
    assert (int(tokens) > 0, 0 < float(typical_usd) < float(worst_usd)) == (True, True)
    assert answered == "Trout. True"
    assert {each.partition("/")[0] for each in (model.model for model in names["chain"].models)} == {
        "openai",
        "anthropic",
    }


def test_every_ready_chain_is_in_the_readme() -> None:
    told = re.findall(r"^\| `(\w+)` \|", README.split("## Models and chains")[1].split("## Trace")[0], re.MULTILINE)

    assert sorted(told) == sorted(CHAINS)


def test_the_configuration_example_asks_its_fallback_under_its_budget(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    Path("llmbridge.toml").write_text(shown)
    monkeypatch.setattr(default, "_bridge", None)
    sim.script(Fault.status(401), Reply(text="Trout."))

    reply = llmbridge.complete("Name a fish.", tags={"user": "alice"})

    assert [attempt.model for attempt in reply.attempts] == ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
    (balance,) = default.default().ledger.balance()
    assert (balance.budget, balance.settled_usd) == ("$5/day per user", reply.cost_usd)
    assert Bridge.from_config(name="batch").plan("Name a fish.").models == ("ollama/llama3.2",)
    default.default().ledger.close()


def test_the_environment_example_does_without_a_file(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = re.findall(r"^export (.*)", README, re.MULTILINE)
    for each in shlex.split(shown):
        monkeypatch.setenv(*each.split("=", 1))
    monkeypatch.setattr(default, "_bridge", None)
    sim.script(Fault.status(401), Reply(text="Trout."))

    reply = llmbridge.complete("Name a fish.")

    assert (reply.model, len(sim.requests)) == ("anthropic/claude-haiku-4-5", 2)
    (balance,) = default.default().ledger.balance()
    assert (balance.budget, balance.settled_usd) == ("$5/day", reply.cost_usd)
    default.default().ledger.close()


def test_the_trace_example_puts_a_function_above_its_call(
    sim: Simulator, spans: Spans, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(snippet(5), {})

    function, call = spans.one("answer_ticket"), spans.one("chat gpt-4o-mini")
    assert call.parent == function.context
    assert capsys.readouterr().out.strip() == f"{call.context.trace_id:032x}"


def test_the_tree_in_the_readme_is_that_of_the_first_example(sim: Simulator) -> None:
    ended: list[CallRecord] = []
    bridge = Bridge()
    bridge.subscribe(ended.append)
    sim.script(*[Fault.status(503)] * 3, Reply(text="Trout."))

    bridge.complete("Name a fish.", model=["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"])

    Console(width=160, file=(drawn := io.StringIO())).print(tree(rows(ended[0])))
    shown = re.findall(r"```text\n(.*?)```", README, re.DOTALL)[2].splitlines()
    assert [bars_off(line) for line in shown] == [bars_off(line) for line in drawn.getvalue().splitlines()]
    bridge.ledger.close()


def test_the_metrics_in_the_readme_are_those_that_there_are() -> None:
    told = re.findall(r"`((?:gen_ai\.client|llmbridge)\.[a-z_.]+)`", README.split("* **Metrics**")[1].split("##")[0])

    assert sorted(told) == sorted(
        [
            semconv.DURATION,
            semconv.TOKEN_USAGE,
            semconv.TIME_TO_FIRST_CHUNK,
            semconv.TIME_PER_CHUNK,
            semconv.OVERHEAD,
            semconv.ATTEMPTS,
            semconv.COST,
            semconv.LOOKUPS,
            semconv.REJECTIONS,
        ]
    )


def test_the_replay_example_records_and_then_plays(sim: Simulator) -> None:
    Path("cassettes").mkdir()

    exec(snippet(6), first := {})
    exec(snippet(6), second := {})

    assert first["reply"].text == second["reply"].text == "Trout."
    assert len(sim.requests) == 1


def test_the_mock_example_answers_without_a_provider(sim: Simulator) -> None:
    exec(snippet(7), names := {})

    assert names["reply"].text in ("Trout.", "Fixed.")
    assert len(sim.requests) == 0


def of_health(number: int) -> str:
    section = README.split("## Health, events, logs")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]


def test_the_health_example_says_of_each_model_that_it_is_there(
    sim: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(of_health(0), names := {})

    first, *lines = capsys.readouterr().out.splitlines()
    assert (first, len(lines)) == ("True", len(names["health"].checks))
    assert {seen.method for seen in sim.requests} == {"GET"}


def test_the_events_example_hears_a_failure_a_hit_and_both_records(
    sim: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    sim.script(Fault.status(401), Reply(text="Trout."))

    exec(of_health(1), names := {})

    out = capsys.readouterr().out.splitlines()
    assert out[0] == "openai/gpt-4o-mini 401 0"
    assert out[1] == "openai/gpt-4o-mini is left alone for 30.0 s"
    assert [line.split()[0] for line in out[2:]] == ["answered", "saved", "answered"]
    names["bridge"].ledger.close()


def test_the_plugin_example_is_a_test_that_passes(
    pytester: pytest.Pytester, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    pytester.makepyfile(test_fish="import pytest\n" + shown.replace('"trout"', '"Trout"'))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for option in ("--llmbridge-record=once", "--llmbridge-record=none"):
        done = pytester.runpytest_subprocess("-p", "llmbridge.pytest_plugin", option)
        done.assert_outcomes(passed=1)

    assert len(sim.requests) == 1


def bars_off(line: str) -> str:
    """A line of a tree without its bars and the seconds it took."""
    return " ".join(re.sub(r"[▏▎▍▌▋▊▉█]+|\d+\.\d\d s", "", line).split())


def numbers_off(line: str) -> str:
    """A line without the call's id and the seconds it took."""
    return re.sub(r"call \S+:|\d+\.\d\d s", "", line)
