"""A plan says what a call would do, and does nothing of it."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import llmbridge
from llmbridge import (
    AuthenticationFailed,
    Bridge,
    Budget,
    Cache,
    Fallback,
    Limit,
    Model,
    Plan,
    UnknownPrice,
    count_tokens,
    default,
)
from tests.conftest import ONCE
from tests.simulator import Fault, Reply, Simulator
from tests.test_faults import FISH, at


IMAGE = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}
]
SOUND = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}]
TOOLS = [{"type": "function", "function": {"name": "fish", "parameters": {"type": "object", "properties": {}}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "fish", "schema": {"type": "object", "properties": {}}}}


@pytest.fixture
def bridge() -> Bridge:
    return Bridge()


def planned(bridge: Bridge, *models: Any, messages: Any = FISH, strategy: Any = "priority", **arguments: Any) -> Plan:
    return bridge.plan(messages, model=Fallback(list(models), strategy=strategy), **arguments)


def test_it_names_the_candidates_in_the_order_of_the_strategy(bridge: Bridge) -> None:
    models = ("openai/gpt-4o", "anthropic/claude-haiku-4-5", "openai/gpt-4o-mini")

    assert planned(bridge, *models).models == models
    assert planned(bridge, *models, strategy="least_cost", max_tokens=100).models[0] == "openai/gpt-4o-mini"
    assert planned(bridge, *models, strategy=lambda candidates: candidates[::-1]).models == models[::-1]


def test_the_worst_case_of_each_is_what_its_call_would_reserve(bridge: Bridge, sim: Simulator) -> None:
    models = [at(sim, "openai"), at(sim, "anthropic")]
    plan = planned(bridge, *models, max_tokens=100)

    for prospect, model in zip(plan.candidates, models, strict=True):
        attempt = bridge.complete(FISH, model=model, max_tokens=100).attempts[0]
        assert prospect.worst_usd == attempt.reserved_usd
    free = planned(bridge, "openai/nobody-knows-me").candidates[0]
    assert free.worst_usd is None


# What a request needs


@pytest.mark.parametrize(
    ("asked", "without", "lacks"),
    [
        ({"messages": IMAGE}, "openai/gpt-3.5-turbo", "images"),
        ({"messages": SOUND}, "openai/gpt-4o", "sound"),
        ({"tools": TOOLS}, "perplexity/sonar", "tools"),
        ({"response_format": SCHEMA}, "openai/gpt-3.5-turbo", "JSON schemas"),
        ({"reasoning_effort": "low"}, "openai/gpt-4o", "reasoning"),
        ({"messages": "fish " * 20_000}, "openai/gpt-3.5-turbo", "a context window of some 25,000 tokens"),
    ],
)
def test_a_candidate_that_lacks_something_is_dropped_and_the_plan_says_what(
    bridge: Bridge, asked: dict[str, Any], without: str, lacks: str
) -> None:
    able = "gemini/gemini-2.5-flash"

    plan = planned(bridge, without, able, **asked)

    assert plan.models == (able,)
    (dropped,) = plan.dropped
    assert (dropped.model, dropped.why.startswith(f"lacks {lacks}")) == (without, True)
    assert f"passed over: {without}: lacks {lacks}" in plan.explain()


def test_when_each_lacks_something_all_are_asked_but_by_capability_nobody(bridge: Bridge) -> None:
    models = ("openai/gpt-3.5-turbo", "openai/gpt-4")

    assert planned(bridge, *models, messages=IMAGE).models == models
    with pytest.raises(ValueError, match=r"gpt-3.5-turbo lacks images; openai/gpt-4 lacks images"):
        planned(bridge, *models, messages=IMAGE, strategy="capability")


def test_a_model_that_is_not_in_the_table_is_not_dropped(bridge: Bridge) -> None:
    plan = planned(bridge, "openai/nobody-knows-me", messages=IMAGE, strategy="capability", tools=TOOLS)

    assert plan.models == ("openai/nobody-knows-me",)


# Breakers, budgets, cache


def test_who_is_left_alone_is_dropped_unless_all_are(bridge: Bridge, sim: Simulator) -> None:
    dead, spare = at(sim, "openai"), at(sim, "anthropic")
    sim.script(Fault.status(401))
    with pytest.raises(AuthenticationFailed):
        bridge.complete(FISH, model=dead)

    plan = planned(bridge, dead, spare)

    assert (plan.models, plan.dropped[0].model) == ((spare.model,), dead.model)
    assert "its breaker is open for" in plan.explain()
    assert "HTTP 401" in plan.explain()
    assert planned(bridge, dead).models == (dead.model,)
    assert bridge.plan(FISH, model=Fallback([dead, spare], breaker=False)).models == (dead.model, spare.model)


def test_the_headroom_of_every_budget_that_applies_is_what_the_ledger_says(sim: Simulator) -> None:
    budgets = [Budget("$1/day"), Budget("3 requests/day", on_exceed="warn"), Budget("$5/day", models=("ollama/*",))]
    bridge = Bridge(budgets=budgets)
    gpt = at(sim, "openai")
    spent = bridge.complete(FISH, model=gpt, max_tokens=50).cost_usd
    assert spent is not None

    plan = bridge.plan(FISH, model=gpt, max_tokens=50, budget="$0.01/call")

    rooms = {room.budget: room for room in plan.headroom}
    assert set(rooms) == {"$1/day", "3 requests/day", "$0.01/call"}
    assert Decimal(rooms["$1/day"].remaining).scaleb(-9) == 1 - spent
    assert (rooms["3 requests/day"].remaining, rooms["$0.01/call"].remaining) == (2, 10_000_000)
    assert all(room.fits for room in plan.headroom)
    assert "budget '3 requests/day': 2 requests left, enough" in plan.explain()


def test_a_budget_by_tag_has_the_headroom_of_this_caller(sim: Simulator) -> None:
    bridge = Bridge(budgets=Budget("2 requests/day", per=("user",)))
    for _ in range(2):
        bridge.complete(FISH, model=at(sim, "openai"), tags={"user": "alice"})

    rooms = [bridge.plan(FISH, model=at(sim, "openai"), tags={"user": user}).headroom[0] for user in ("alice", "bob")]

    assert [(room.remaining, room.fits) for room in rooms] == [(0, False), (2, True)]


def test_a_budget_that_does_not_suffice_says_what_it_would_do(bridge: Bridge) -> None:
    plan = bridge.plan(FISH, model="openai/gpt-4o", max_tokens=1000, budget=Budget("$0.0001", on_exceed="clamp"))

    assert not plan.headroom[0].fits
    assert plan.explain().endswith("budget '$0.0001': $0.0001 left, clamp")


def test_an_answer_that_is_kept_is_predicted(sim: Simulator, tmp_path: Path) -> None:
    bridge = Bridge(cache=Cache(tmp_path / "cache"))
    gpt = at(sim, "openai")
    assert not bridge.plan(FISH, model=gpt).is_kept
    bridge.complete(FISH, model=gpt)

    plan = bridge.plan(FISH, model=gpt)

    assert (plan.is_kept, len(sim.requests)) == (True, 1)
    assert plan.explain().startswith("the answer is kept: nothing would be sent")
    assert not bridge.plan("Name a bird.", model=gpt).is_kept


# It does nothing


def test_a_plan_sends_reserves_and_changes_nothing(sim: Simulator) -> None:
    bridge = Bridge(budgets="$1/day", limits=Limit(rpm=1, concurrency=1))
    models = [at(sim, "openai", rpm=1), at(sim, "anthropic", rpm=1)]
    policy = Fallback(models, strategy="round_robin")

    plans = [bridge.plan(FISH, model=policy) for _ in range(5)]

    assert {plan.models for plan in plans} == {tuple(model.model for model in models)}  # nobody's turn was taken
    assert (sim.requests, list(bridge.ledger.records()), bridge.ledger.check()) == ([], [], [])
    assert [(each.settled, each.reserved) for each in bridge.ledger.balance("$1/day")] in ([], [(0, 0)])
    assert bridge.complete(FISH, model=policy, deadline_s=5).model == models[0].model


def test_a_wrong_request_raises_what_its_call_would(bridge: Bridge) -> None:
    with pytest.raises(TypeError, match="did you mean 'budget'"):
        bridge.plan(FISH, model="openai/gpt-4o", bugdet="$5")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="no model"):
        bridge.plan(FISH)


ALONE = """
import socket, sys
def refuse(*arguments, **named): raise AssertionError("a socket")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from llmbridge import Bridge, Fallback
bridge = Bridge(budgets="$5/day")
models = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash"]
for strategy in ("priority", "round_robin", "weighted", "least_latency", "quality", "least_cost", "capability"):
    plan = bridge.plan("Name a fish.", model=Fallback(models, strategy=strategy), max_tokens=10)
    assert len(plan.models) == 3 and plan.headroom[0].fits, plan
print("litellm" in sys.modules)
"""


def test_a_plan_for_the_usual_providers_opens_no_socket_and_leaves_litellm_alone() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


def test_what_has_no_price_is_planned_though_its_call_would_be_refused(bridge: Bridge) -> None:
    unknown = Model("openai/nobody-knows-me", api_key="sk-test-key")

    plan = bridge.plan(FISH, model=unknown, budget="$5/day")

    assert (plan.headroom[0].needed, plan.headroom[0].fits) == (None, False)
    with pytest.raises(UnknownPrice):
        bridge.complete(FISH, model=unknown, budget="$5/day")


# What it will likely take


def test_an_estimate_is_near_what_the_call_then_takes_and_below_its_worst_case(sim: Simulator) -> None:
    prompt = "Why do fish swim in schools, and who leads them? " * 40
    model = at(sim, "openai")
    sim.script(Reply(text="Nobody does. " * 30, input_tokens=403, output_tokens=90))

    guess = llmbridge.estimate(prompt, model=model, max_tokens=500)
    reply = default.default().complete(prompt, model=model, max_tokens=500)

    assert reply.usage is not None
    assert guess.input_tokens == pytest.approx(count_tokens(prompt, model="openai/gpt-4o-mini"), rel=0.2)
    assert guess.output_tokens == 400
    assert guess.typical_usd == guess.input_tokens * Decimal("0.15e-6") + 400 * Decimal("0.6e-6")
    assert guess.worst_usd is not None
    assert guess.typical_usd < guess.worst_usd
    assert reply.cost_usd is not None
    assert reply.cost_usd < guess.worst_usd


def test_a_typical_answer_is_the_middle_one_of_those_recorded_and_never_above_the_cap(sim: Simulator) -> None:
    bridge, model = Bridge(fallback=ONCE), at(sim, "openai")
    for tokens in (2_000, 5, 60):
        sim.script(Reply(output_tokens=tokens))
        bridge.complete(FISH, model=model)

    assert bridge.plan(FISH, model=model).candidates[0].output_tokens == 60
    assert bridge.plan(FISH, model=model, max_tokens=7, n=3).candidates[0].output_tokens == 21
    assert bridge.plan(FISH, model="openai/gpt-4o").candidates[0].output_tokens == 400


def test_without_a_price_there_is_no_typical_cost_with_ones_own_there_is(bridge: Bridge) -> None:
    stranger = Model("openai/nobody-knows-me", input_usd_per_mtok=1, output_usd_per_mtok=10)

    assert bridge.plan(FISH, model="openai/nobody-knows-me").candidates[0].typical_usd is None
    assert bridge.plan(FISH, model="ollama/llama3").candidates[0].typical_usd == 0
    own = bridge.plan(FISH, model=stranger)
    guess = own.candidates[0]
    assert guess.typical_usd == (guess.input_tokens + 10 * guess.output_tokens) / Decimal(10**6)
    assert "typically $0.004" in own.explain()


def test_an_image_and_the_definitions_of_tools_are_part_of_an_estimate(bridge: Bridge) -> None:
    plain, shown, told = (
        bridge.plan(messages, model="openai/gpt-4o", **given).candidates[0].input_tokens
        for messages, given in ((FISH, {}), (IMAGE, {}), (FISH, {"tools": TOOLS}))
    )

    assert shown > 1_000 > told > plain
