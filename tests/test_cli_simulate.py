"""`llmbridge simulate`: the recorded calls under another policy, figures by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from llmbridge.completion import Usage
from llmbridge.home import ledger_path
from llmbridge.ledger import Asked, Budget, Charge, Ledger, Need, PastAttempt
from llmbridge.provider import cost
from llmbridge.provider.table import PLAIN, bundled, plain_cost_usd
from llmbridge.record import CallRecord
from llmbridge.request import Hidden, Model, Request
from llmbridge.simulation import Simulation
from tests.commands import DAY_S, Story, run


# Of 900 tokens in and 100 out.
MINI = Decimal("0.000195")  # 900 * $0.15/M + 100 * $0.60/M
HAIKU = Decimal("0.0014")  # 900 * $1/M + 100 * $5/M
OWN = """
[models.own]
model = "acme/x"
input_usd_per_mtok = 100
output_usd_per_mtok = 1000
"""  # so 900 + 100 tokens are $0.19


@pytest.fixture(autouse=True)
def book() -> None:
    """Three calls for $1.75, one of them after a failure that cost nothing, and a hit."""
    with Story(ledger_path()) as story:
        story.call("a1" * 16, "1.00")
        story.now += DAY_S
        story.call("b2" * 16, "0.25", user="bob", model="anthropic/claude-haiku-4-5", failed="openai/gpt-4o-mini")
        hit = CallRecord(
            id="b3" * 16,
            verb="chat",
            models=("openai/gpt-4o-mini",),
            started_at=story.now,
            outcome="answered",
            model="openai/gpt-4o-mini",
            cached=True,
            saved_usd=Decimal("0.5"),
        )
        story.ledger.book(hit)
        story.now += 2 * DAY_S
        story.call("c4" * 16, "0.50", uncertain=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "new.toml"


def by_model(found: Any) -> dict[tuple[str, str], tuple[int, Decimal, Decimal]]:
    return {
        (each["model"], each["instead"]): (
            each["attempts"],
            Decimal(each["recorded_usd"]),
            Decimal(each["simulated_usd"]),
        )
        for each in found["by_model"]
    }


def test_a_model_instead_of_another_costs_what_the_same_tokens_cost_there() -> None:
    found = run("simulate", "--model", "openai/gpt-4o-mini=anthropic/claude-haiku-4-5", "--json").json

    assert by_model(found) == {
        ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"): (2, Decimal("1.5"), 2 * HAIKU),
        ("anthropic/claude-haiku-4-5", "anthropic/claude-haiku-4-5"): (1, Decimal("0.25"), Decimal("0.25")),
    }
    assert Decimal(found["total"]["recorded_usd"]) == Decimal("1.75")
    assert Decimal(found["total"]["simulated_usd"]) == 2 * HAIKU + Decimal("0.25")
    assert found["cached_calls"] == 1


def test_a_pattern_stands_for_all_models_that_fit_it() -> None:
    found = run("simulate", "-m", "*=openai/gpt-4o-mini", "--json").json

    assert Decimal(found["total"]["simulated_usd"]) == 3 * MINI


def test_the_first_of_the_new_default_chain_answers_every_chat(config: Path) -> None:
    config.write_text(f'default = "chain"\n[fallback.chain]\nmodels = ["own", "openai/gpt-4o-mini"]\n{OWN}')

    found = run("simulate", "--config", config, "--json").json

    assert {instead for _, instead in by_model(found)} == {"acme/x"}
    assert Decimal(found["total"]["simulated_usd"]) == 3 * Decimal("0.19")
    assert found["assumed"][0].startswith("acme/x, the first of the new chain, answers every chat")


def test_a_chain_by_least_cost_is_answered_by_the_cheapest(config: Path) -> None:
    config.write_text(
        'default = "chain"\n[fallback.chain]\nmodels = ["acme/unknown", "own", "openai/gpt-4o-mini"]\n'
        f'strategy = "least_cost"\n{OWN}'
    )

    assert {instead for _, instead in by_model(run("simulate", "--config", config, "--json").json)} == {
        "openai/gpt-4o-mini"
    }


def test_a_price_map_alone_prices_the_models_that_are_in_it(config: Path) -> None:
    config.write_text(OWN.replace("acme/x", "openai/gpt-4o-mini"))

    assert by_model(run("simulate", "--config", config, "--json").json) == {
        ("openai/gpt-4o-mini", "openai/gpt-4o-mini"): (2, Decimal("1.5"), Decimal("0.38")),
        ("anthropic/claude-haiku-4-5", "anthropic/claude-haiku-4-5"): (1, Decimal("0.25"), Decimal("0.25")),
    }


def test_a_replacement_may_be_a_name_of_the_configuration_and_goes_before_its_chain(config: Path) -> None:
    config.write_text(f'default = "openai/gpt-4o-mini"\n{OWN}')

    found = by_model(run("simulate", "--config", config, "-m", "anthropic/*=own", "--json").json)

    assert found[("anthropic/claude-haiku-4-5", "acme/x")] == (1, Decimal("0.25"), Decimal("0.19"))
    assert found[("openai/gpt-4o-mini", "openai/gpt-4o-mini")] == (2, Decimal("1.5"), 2 * MINI)


def test_a_new_cap_refuses_in_the_order_of_time(config: Path) -> None:
    with Story(ledger_path()) as story:
        story.now += 3 * DAY_S + 60
        story.call("d5" * 16, "0.10", user="carol")  # on the day of the last one
    config.write_text(f'default = "own"\nbudgets = ["$0.20/day"]\n{OWN}')

    found = run("simulate", "--config", config, "--json").json

    assert found["budgets"] == [{"budget": "$0.2/day", "on_exceed": "refuse", "refused": 1, "refused_usd": "0.19"}]
    assert (found["total"]["refused"], found["total"]["attempts"]) == (1, 4)
    assert Decimal(found["total"]["simulated_usd"]) == 3 * Decimal("0.19")
    assert "Budget '$0.2/day' would have refused 1 calls, of $0.19." in run("simulate", "--config", config).out


def past(number: int, at_s: float, *, user: str = "alice", tokens: int | None = 1000) -> PastAttempt:
    return PastAttempt(
        f"c{number}", int(at_s * 1e6), "chat", "a/b", {"user": user}, Decimal("0.5"), tokens, 0, None, None, None
    )


@pytest.mark.parametrize(
    ("budget", "times", "refused"),
    [
        (Budget("$2/hour"), [0, 10, 20, 3600], 1),
        (Budget("$2"), [0, 10, 90_000, 10**7], 2),
        (Budget("$2/60m"), [0, 1800, 3599, 3700], 1),  # of the first one nothing counts after an hour and a minute
        (Budget("$2/60m"), [0, 1800, 3599, 3610], 2),
        (Budget("$1.50/call"), [0, 0, 0], 0),
        (Budget("$0.50/call"), [0, 0, 0], 3),
        (Budget("1500 tokens/day"), [0, 10], 1),
        (Budget("2 requests/day"), [0, 10, 20], 1),
        (Budget("$2/day", models=("c/*",)), [0, 10, 20], 0),
    ],
    ids=lambda value: value.name if isinstance(value, Budget) else "",
)
def test_a_window_counts_what_was_made_in_it(budget: Budget, times: list[float], refused: int) -> None:
    dear = Model("a/b", input_usd_per_mtok=1000, output_usd_per_mtok=0)  # a dollar each
    simulation = Simulation([dear], budgets=[budget])

    for number, at_s in enumerate(times):
        simulation.take(past(number, at_s))

    assert (simulation.caps[0].refused, simulation.total().refused) == (refused, refused)


def test_a_budget_per_user_counts_each_by_himself_and_one_on_trial_only_warns() -> None:
    dear = Model("a/b", input_usd_per_mtok=1000, output_usd_per_mtok=0)
    simulation = Simulation([dear], budgets=[Budget("$1", per=("user",)), Budget("$1", name="trial", on_exceed="warn")])

    for number, user in enumerate(["alice", "bob", "bob"]):
        simulation.take(past(number, number, user=user))

    assert [(cap.refused, cap.refused_usd) for cap in simulation.caps] == [(1, 1), (2, 2)]
    assert simulation.total().simulated_usd == 2


def test_a_cap_that_downgrades_asks_the_next_one_that_is_cheaper() -> None:
    chain = [Model(name, input_usd_per_mtok=price, output_usd_per_mtok=0) for name, price in
             [("a/dear", 1000), ("a/dearer", 2000), ("a/cheap", 10)]]  # fmt: skip
    simulation = Simulation(chain, budgets=[Budget("$1.01", on_exceed="downgrade")])

    for number in range(3):
        simulation.take(past(number, number))

    assert [(each.instead, each.attempts, each.refused) for each in simulation.lines()] == [
        ("a/dear", 2, 1),
        ("a/cheap", 1, 0),
    ]
    assert simulation.total().simulated_usd == Decimal("1.01")


def test_a_call_that_was_refused_makes_no_further_attempt() -> None:
    cheap = Model("a/b", input_usd_per_mtok=1, output_usd_per_mtok=0)
    simulation = Simulation([cheap], budgets=[Budget("1000 tokens/day")])

    simulation.take(past(1, 0, tokens=2000))
    simulation.take(past(1, 1, tokens=10))

    assert (simulation.total().refused, simulation.caps[0].refused) == (2, 1)


def test_what_has_no_price_is_unknown_and_not_free() -> None:
    found = run("simulate", "-m", "openai/*=acme/unheard", "--json").json
    shown = run("simulate", "-m", "openai/*=acme/unheard").out

    assert (found["total"]["unpriced"], Decimal(found["total"]["simulated_usd"])) == (2, Decimal("0.25"))
    assert " unknown " in shown
    assert "$0.2500 and more" in shown


def test_a_charge_without_token_counts_stays_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "lost.db")
    held = ledger.reserve(Asked("c1.1", "openai/gpt-4o", "openai"), Need(300_000_000, 10))
    ledger.settle(held, Charge(None, None, uncertain=True))  # type: ignore[arg-type]
    ledger.close()

    found = run("simulate", "-m", "*=openai/gpt-4o-mini", "--ledger", tmp_path / "lost.db", "--json").json

    assert by_model(found) == {("openai/gpt-4o", "openai/gpt-4o"): (1, Decimal("0.3"), Decimal("0.3"))}


def test_old_calls_without_details_are_named_and_left_out() -> None:
    with Story(ledger_path()) as story:
        story.now += 40 * DAY_S
        story.call("e6" * 16, "0.10", user="carol")
        story.ledger.compact(30)

    found = run("simulate", "-m", "*=openai/gpt-4o-mini", "--json").json

    # the uncertain one of $0.50 is kept
    assert found["total"]["attempts"] == 2
    assert found["assumed"][-1].startswith("$1.25 of old calls is left out")


def test_a_period_bounds_what_is_looked_at() -> None:
    found = run("simulate", "-m", "*=openai/gpt-4o-mini", "--since", "2026-03-03", "--until", "2026-03-05", "--json")

    assert list(by_model(found.json)) == [("anthropic/claude-haiku-4-5", "openai/gpt-4o-mini")]


def test_the_table_says_the_change_and_what_is_assumed() -> None:
    out = run("simulate", "-m", "openai/gpt-4o-mini=anthropic/claude-haiku-4-5").out

    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[2] == [
        "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "2", "1,800+200", "$1.5000", "$0.0028", "-99.8%",
    ]  # fmt: skip
    assert lines[3] == ["anthropic/claude-haiku-4-5", "1", "900+100", "$0.2500", "$0.2500", "none"]
    assert lines[4] == ["total", "3", "2,700+300", "$1.7500", "$0.2528", "-85.6%"]
    assert "Assumed:" in out and "cache hits stay hits, for $0: 1 of them" in out


def test_an_empty_ledger_is_said_beside_the_output(tmp_path: Path) -> None:
    Ledger(tmp_path / "new.db").balance()

    done = run("simulate", "-m", "a/b=c/d", "--ledger", tmp_path / "new.db")

    assert (done.code, done.out) == (0, "")
    assert done.err == "--model a/b=c/d: no recorded answer is of such a model\nNothing that was billed is recorded.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what is to be different: --config FILE, --model A=B, or both"),
        (("-m", "openai/gpt-4o"), "--model 'openai/gpt-4o' is not of the form A=B"),
        (("-m", "=openai/gpt-4o"), "is not of the form A=B"),
        (("--config", "nowhere.toml"), "nowhere.toml: there is no such file"),
        (("-m", "a/b=c/d", "--since", "soon"), "'soon' is no time"),
    ],
)
def test_a_users_mistake_is_exit_code_2_and_no_traceback(arguments: tuple[str, ...], said: str) -> None:
    done = run("simulate", *arguments)

    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_configuration_that_is_wrong_says_where(config: Path) -> None:
    config.write_text("[models.a]\nmodle = 1\n")

    done = run("simulate", "--config", config)

    assert done.code == 2
    assert f"{config} has" in done.err or f"{config}, line 2" in done.err


def test_a_missing_ledger_is_said_and_not_made(tmp_path: Path) -> None:
    done = run("simulate", "-m", "a/b=c/d", "--ledger", tmp_path / "no.db")

    assert done.code == 1
    assert done.err.startswith("LedgerError: there is no ledger at")
    assert not (tmp_path / "no.db").exists()


def test_the_table_prices_tokens_by_kind_as_litellm_does() -> None:
    """But for searches and off-peak hours, which no token count tells."""
    usage = {
        "prompt_tokens": 250_000, "completion_tokens": 3000, "total_tokens": 253_000,
        "prompt_tokens_details": {"cached_tokens": 300, "cache_creation_tokens": 200},
        "completion_tokens_details": {"reasoning_tokens": 100},
        "cache_creation_input_tokens": 200, "cache_read_input_tokens": 300,
    }  # fmt: skip
    differing, compared = [], 0
    for key, fields in bundled().items():
        provider = fields.get("litellm_provider")
        if provider not in PLAIN or fields.get("mode") != "chat" or "off_peak_pricing" in fields or "-search-" in key:
            continue
        model = key if key.startswith(f"{provider}/") else f"{provider}/{key}"
        asked = Request("chat", "", (), Hidden()).for_model(Model(model))
        with patch("llmbridge.provider.pricing.asks_search", return_value=False):
            theirs = cost(asked, Usage.model_validate(usage))
        ours = plain_cost_usd(model, 250_000, 3000, cached_tokens=300, cache_write_tokens=200, reasoning_tokens=100)
        compared += 1
        if (theirs is None) != (ours is None) or (theirs and ours and abs(theirs.usd - ours) > Decimal("2e-9")):
            differing.append((model, theirs, ours))

    assert differing == []
    assert compared > 300


def test_it_needs_no_litellm_and_no_socket(tmp_path: Path) -> None:
    script = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"): raise SystemExit(event)
sys.addaudithook(refuse)
sys.argv = ["llmbridge", "simulate", "-m", "*=ollama/llama3.2", "--json"]
from llmbridge.cli import main
try:
    main()
except SystemExit:
    print("litellm" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "False"
    assert Decimal(json.loads(done.stdout)["total"]["simulated_usd"]) == 0
