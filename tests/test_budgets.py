"""Budgets as callers meet them: what is let through, what is refused, and what is said about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import llmbridge
from llmbridge import (
    Bridge,
    Budget,
    BudgetExceeded,
    CallRecord,
    Completion,
    Embedding,
    Ledger,
    Model,
    UnknownPrice,
    default,
    tagged,
)
from tests.conftest import VERBS, Ask, Run, asking
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
Send = Callable[..., Completion | Embedding]


def at(sim: Simulator, model: str, **fields: Any) -> Model:
    return Model(model, api_base=sim.api_base(model.partition("/")[0]), api_key="sk-test-key", **fields)


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return at(sim, "openai/gpt-4o-mini")


@pytest.fixture
def dear(sim: Simulator) -> Model:
    return at(sim, "openai/gpt-4o")


@pytest.fixture
def claude(sim: Simulator) -> Model:
    return at(sim, "anthropic/claude-haiku-4-5")


@pytest.fixture(params=[*VERBS, "embed", "aembed"])
def send(request: pytest.FixtureRequest, sim: Simulator, run: Run) -> Send:
    """Ask the default Bridge by each of the six verbs, each with a model that it can ask."""
    verb = request.param
    if verb in VERBS:
        return lambda **arguments: asking(verb, run)(FISH, **{"model": at(sim, "openai/gpt-4o-mini"), **arguments})

    def embed(**arguments: Any) -> Embedding:
        arguments = {"model": at(sim, "openai/text-embedding-3-small"), **arguments}
        answer: Any = getattr(default.default(), verb)(FISH, **arguments)
        found: Embedding = run(answer) if isinstance(answer, Coroutine) else answer
        return found

    return embed


@pytest.fixture
def ledger(fresh_default: Bridge) -> Ledger:
    return fresh_default.ledger


@pytest.fixture(params=["complete", "astream"])
def either(request: pytest.FixtureRequest, run: Run) -> Ask:
    """Ask by one verb of each colour and kind, where what is decided comes before they differ."""
    return asking(request.param, run)


def settled(ledger: Ledger, budget: Budget | str) -> Any:
    """What the budget's one counter says, which holds nothing."""
    (balance,) = ledger.balance(budget)
    assert balance.reserved == 0
    assert ledger.check() == []
    return balance.settled if balance.unit != "nanousd" else balance.settled_usd


def worst(ask: Ask, model: Model, **arguments: Any) -> Decimal:
    """What a call may cost at most, as the closest bound has it."""
    cap = Budget("$0.000000001", name="nothing")
    with pytest.raises(BudgetExceeded) as caught:
        ask(FISH, model=model, budget=cap, **arguments)
    assert caught.value.needed_usd is not None
    return caught.value.needed_usd


# Let through, or refused


def test_a_call_within_its_budget_takes_what_it_cost_and_holds_nothing(send: Send, ledger: Ledger) -> None:
    first = send(budget="$5/day").cost_usd
    second = send(budget="$5.00 / day").cost_usd

    assert first is not None
    assert second is not None
    assert settled(ledger, "$5/day") == first + second > 0


def test_a_call_that_could_pass_its_budget_is_not_sent(
    send: Send, sim: Simulator, ledger: Ledger, records: list[CallRecord]
) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        send(budget="$0.000001/day")

    error = caught.value
    assert sim.requests == []
    assert (error.budget, error.unit, error.limit_usd) == ("$0.000001/day", "nanousd", Decimal("0.000001"))
    assert (error.settled_usd, error.reserved_usd, error.attempts) == (Decimal(0), Decimal(0), ())
    assert error.needed_usd is not None
    assert error.needed_usd > Decimal("0.000001")
    assert error.resets_at is None  # it will not fit tomorrow either
    assert [(r.id, r.outcome, r.error_type, r.cost_usd) for r in records] == [
        (error.call_id, "failed", "BudgetExceeded", Decimal(0))
    ]
    assert [(r.id, r.error_type, r.attempts) for r in ledger.records()] == [(error.call_id, "BudgetExceeded", ())]
    assert settled(ledger, "$0.000001/day") == 0


def test_a_refusal_says_the_numbers_and_what_to_do(sim: Simulator, tmp_path: Path, gpt: Model) -> None:
    with Ledger(tmp_path / "noon.db", clock=NOON.timestamp) as ledger:
        bridge = Bridge(gpt, ledger=ledger)
        spent = bridge.complete(FISH, max_tokens=1000, budget=Budget("$0.0007/day", name="team")).cost_usd
        sim.script(Reply(output_tokens=900))
        bridge.complete(FISH, max_tokens=1000, budget=Budget("$0.0007/day", name="team"))

        with pytest.raises(BudgetExceeded) as caught:
            bridge.complete(FISH, max_tokens=1000, budget=Budget("$0.0007/day", name="team"))

    assert spent == Decimal("0.00000315")
    assert caught.value.settled_usd == Decimal("0.0005445")
    assert caught.value.resets_at == datetime(2026, 11, 21, tzinfo=UTC)
    assert str(caught.value).startswith(
        "budget 'team' has $0.000156 left of $0.000700, and this call may take up to $0.0006"
    )
    assert str(caught.value).endswith(
        " (openai/gpt-4o-mini, max_tokens=1000); raise the limit, lower max_tokens or wait until 2026-11-21 00:00 UTC"
    )
    assert len(sim.requests) == 2


def test_the_functions_of_the_package_take_a_budget_without_any_configuration(
    sim: Simulator, gpt: Model, ledger: Ledger
) -> None:
    embedder = at(sim, "openai/text-embedding-3-small")

    async def awaited() -> None:
        await llmbridge.acomplete(FISH, model=gpt, budget="6 requests")
        await llmbridge.aembed(FISH, model=embedder, budget="6 requests")
        async with llmbridge.astream(FISH, model=gpt, budget="6 requests") as chunks:
            [chunk async for chunk in chunks]

    llmbridge.complete(FISH, model=gpt, budget="6 requests")
    llmbridge.embed(FISH, model=embedder, budget="6 requests")
    with llmbridge.stream(FISH, model=gpt, budget="6 requests") as chunks:
        list(chunks)
    asyncio.run(awaited())

    with pytest.raises(BudgetExceeded, match="'6 requests' has 0 requests left of 6 requests"):
        llmbridge.complete(FISH, model=gpt, budget="6 requests")
    assert (settled(ledger, "6 requests"), len(sim.requests)) == (6, 6)


def test_the_budgets_of_the_bridge_apply_besides_those_of_the_call(sim: Simulator, gpt: Model, ledger: Ledger) -> None:
    bridge = Bridge(gpt, budgets=["2 requests", Budget("$1", name="all")], ledger=ledger)

    costs = [bridge.complete(FISH, budget="$5/day").cost_usd, bridge.complete(FISH).cost_usd]
    with pytest.raises(BudgetExceeded, match="'2 requests'"):
        bridge.complete(FISH, budget="$5/day")

    assert costs[0] is not None
    assert (settled(ledger, "2 requests"), settled(ledger, "all")) == (2, 2 * costs[0])
    assert settled(ledger, "$5/day") == costs[0]


def test_several_budgets_are_taken_from_all_or_not_at_all(send: Send, sim: Simulator, ledger: Ledger) -> None:
    with pytest.raises(BudgetExceeded, match=r"'\$0.0000001/month'"):
        send(budget=["$5/day", Budget("7 requests/hour"), "$0.0000001/month"])

    assert [(b.settled, b.reserved) for b in ledger.balance()] == [(0, 0)] * 3
    assert sim.requests == []


def test_tags_have_a_counter_for_each_of_their_values(send: Send, sim: Simulator, ledger: Ledger) -> None:
    budget = Budget("1 requests", per=("user",))

    send(budget=budget, tags={"user": "alice"})
    with pytest.raises(BudgetExceeded, match=r"\(user=alice\) has 0 requests left"):
        send(budget=budget, tags={"user": "alice", "purpose": "x"})
    with tagged(user="bob"):
        send(budget=budget)
        with pytest.raises(BudgetExceeded, match=r"\(user=bob\)"):
            send(budget=budget)
        send(budget=budget, tags={"user": "carol"})
    send(budget=budget)
    with pytest.raises(BudgetExceeded, match="user=None"):
        send(budget=budget, tags={"purpose": "x"})

    assert {balance.tags["user"]: balance.settled for balance in ledger.balance(budget)} == dict.fromkeys(
        ["alice", "bob", "carol", None], 1
    )
    assert len(sim.requests) == 4
    assert [spent.attempts for spent in ledger.spend(by="user")] == [1, 1, 1, 1]


def test_a_budget_counts_only_the_models_it_names(
    either: Ask, sim: Simulator, gpt: Model, claude: Model, ledger: Ledger
) -> None:
    budget = Budget("1 requests", models=("openai/*", "gemini/*"))

    either(FISH, model=gpt, budget=budget)
    either(FISH, model=claude, budget=budget)
    with pytest.raises(BudgetExceeded):
        either(FISH, model=gpt, budget=budget)

    assert settled(ledger, budget) == 1
    assert [(seen.body or {})["model"] for seen in sim.requests] == ["gpt-4o-mini", "claude-haiku-4-5"]


def test_a_token_budget_counts_input_and_output_as_the_provider_did(send: Send, sim: Simulator, ledger: Ledger) -> None:
    sim.script(Reply(input_tokens=100, output_tokens=20))

    record = send(budget="1M tokens").record

    assert settled(ledger, Budget("1M tokens")) == (record.input_tokens or 0) + (record.output_tokens or 0) >= 100


def test_a_call_that_could_pass_a_token_budget_is_not_sent(send: Send, sim: Simulator) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        send(budget="3 tokens")

    assert (caught.value.unit, caught.value.limit, caught.value.limit_usd) == ("tokens", 3, None)
    assert sim.requests == []


def test_a_budget_of_a_call_is_the_sum_of_its_attempts(
    ask: Ask, sim: Simulator, gpt: Model, ledger: Ledger, records: list[CallRecord]
) -> None:
    most = worst(ask, gpt, max_tokens=1000)
    sim.script(Fault.reset(), Reply())

    with pytest.raises(BudgetExceeded) as caught:
        ask(FISH, model=[gpt, gpt], max_tokens=1000, budget=f"${most * Decimal('1.9')}/call")

    (attempt,) = caught.value.attempts
    assert (attempt.error_type, len(sim.requests)) == ("ProviderUnavailable", 1)
    assert (records[-1].cost_usd, records[-1].uncertain) == (attempt.reserved_usd, True)
    sim.script(Fault.reset(), Reply())
    assert len(ask(FISH, model=[gpt, gpt], max_tokens=1000, budget=f"${most * 3}/call").attempts) == 2
    assert ledger.check() == []


class Fish(BaseModel):
    name: str


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_a_repair_must_fit_into_the_calls_budget_too(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    sim.script(Reply(text="no JSON", output_tokens=1000), Reply(text='{"name": "trout"}'))
    ask(FISH, model=gpt, max_tokens=1000, response_model=Fish, budget="$0.002/call")

    sim.script(Reply(text="no JSON", output_tokens=1000), Reply(text='{"name": "trout"}'))
    with pytest.raises(BudgetExceeded, match="left of"):
        ask(FISH, model=gpt, max_tokens=1000, response_model=Fish, budget="$0.0009/call")

    assert [[a.reason for a in record.attempts] for record in records] == [["initial", "repair"], ["initial"]]
    assert len(sim.requests) == 3


@pytest.mark.parametrize(
    ("budget", "error"),
    [
        (5, TypeError),
        (5.0, TypeError),
        ({"limit": "$5"}, TypeError),
        ([5], TypeError),
        ("5/day", ValueError),
        ("$5/fortnight", ValueError),
        ("€5/day", ValueError),
        ("$-5/day", ValueError),
        ("$nan", ValueError),
        ("", ValueError),
        ([Budget("$5", name="a"), Budget("$6", name="a")], ValueError),
    ],
    ids=repr,
)
def test_a_budget_that_is_none_is_an_error_before_anything_is_sent(
    ask: Ask, sim: Simulator, gpt: Model, budget: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ask(FISH, model=gpt, budget=budget)

    assert sim.requests == []


# What happens instead of a refusal


def test_a_downgrade_asks_the_next_cheaper_model_that_fits_and_skips_the_dearer(
    ask: Ask, sim: Simulator, gpt: Model, dear: Model, ledger: Ledger
) -> None:
    dearer = at(sim, "anthropic/claude-opus-4-1")
    budget = Budget(f"${worst(ask, gpt, max_tokens=1000) * 2}", name="tight", on_exceed="downgrade")

    reply = ask(FISH, model=[dear, dearer, gpt], max_tokens=1000, budget=budget)

    assert [(a.number, a.model, a.reason, a.outcome) for a in reply.attempts] == [
        (1, gpt.model, "downgrade", "answered")
    ]
    assert [(seen.body or {})["model"] for seen in sim.requests] == ["gpt-4o-mini"]
    assert settled(ledger, budget) == reply.cost_usd
    assert [a.reason for a in ledger.records(id=reply.record.id)[0].attempts] == ["downgrade"]


@pytest.mark.parametrize("cheapest_first", [True, False])
def test_a_downgrade_that_finds_nothing_cheaper_that_fits_is_a_refusal(
    ask: Ask, sim: Simulator, gpt: Model, dear: Model, ledger: Ledger, cheapest_first: bool
) -> None:
    models = [gpt, dear] if cheapest_first else [dear, gpt]

    with pytest.raises(BudgetExceeded, match="openai/gpt-4o-mini, max_tokens=1000"):
        ask(FISH, model=models, max_tokens=1000, budget=Budget("$0.00001", name="tight", on_exceed="downgrade"))

    assert sim.requests == []
    assert settled(ledger, "tight") == 0


def test_a_clamp_lowers_the_cap_to_what_is_affordable_and_no_further(
    ask: Ask, sim: Simulator, gpt: Model, ledger: Ledger
) -> None:
    budget = Budget("$0.001", name="tight", on_exceed="clamp")

    reply = ask(FISH, model=gpt, max_tokens=5000, budget=budget)

    body = sim.requests[0].body or {}
    (attempt,) = reply.attempts
    assert 64 <= body["max_tokens"] < 5000
    assert attempt.reserved_usd is not None
    a_token = Decimal("0.0000006")
    assert Decimal("0.001") - a_token < attempt.reserved_usd <= Decimal("0.001")
    assert settled(ledger, budget) == reply.cost_usd


def test_a_clamp_leaves_alone_what_fits(either: Ask, sim: Simulator, gpt: Model) -> None:
    either(FISH, model=gpt, max_tokens=500, budget=Budget("$0.01", on_exceed="clamp"))

    assert (sim.requests[0].body or {})["max_tokens"] == 500


def test_a_clamp_below_what_is_useful_is_a_refusal(ask: Ask, sim: Simulator, gpt: Model) -> None:
    input_alone = worst(ask, gpt, max_tokens=1) - Decimal("0.0000006")
    budget = Budget(f"${input_alone + 63 * Decimal('0.0000006')}", on_exceed="clamp")

    with pytest.raises(BudgetExceeded):
        ask(FISH, model=gpt, max_tokens=5000, budget=budget)

    assert sim.requests == []


@pytest.mark.parametrize(
    ("budget", "cap"),
    [
        pytest.param(None, None, id="no-budget"),
        pytest.param("10 requests", None, id="requests"),
        pytest.param(Budget("$5", models=("anthropic/*",)), None, id="another-models"),
        pytest.param("$5", 16384, id="dollars"),
        pytest.param("1M tokens", 16384, id="tokens"),
    ],
)
def test_a_request_without_a_cap_gets_one_if_money_or_tokens_are_counted(
    ask: Ask, sim: Simulator, gpt: Model, budget: Any, cap: int | None
) -> None:
    ask(FISH, model=gpt, budget=budget)

    assert (sim.requests[0].body or {}).get("max_tokens") == cap


@pytest.mark.parametrize("budget", ["$0.001", "2000 tokens"])
def test_a_request_without_a_cap_gets_as_much_as_is_affordable(
    ask: Ask, sim: Simulator, gpt: Model, budget: str, ledger: Ledger
) -> None:
    reply = ask(FISH, model=gpt, budget=budget)

    assert 1000 < (sim.requests[0].body or {})["max_tokens"] < 2000
    assert settled(ledger, budget) == (reply.cost_usd if "$" in budget else 12)


def test_a_budget_on_trial_counts_and_says_so_and_lets_through(
    send: Send, sim: Simulator, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    budget = Budget("$0.0000001", name="trial", on_exceed="warn")

    with caplog.at_level(logging.WARNING, "llmbridge"):
        first, second = send(budget=budget), send(budget=budget)

    assert [(alert.budget, alert.share, alert.passed) for alert in first.record.alerts] == [("trial", 1.0, True)]
    assert second.record.alerts == ()
    (said,) = [record for record in caplog.records if "'trial'" in record.getMessage()]
    assert (said.levelno, said.getMessage()) == (logging.WARNING, first.record.alerts[0].message)
    assert "only warns" in said.getMessage()
    assert first.cost_usd is not None
    assert settled(ledger, budget) == 2 * first.cost_usd
    assert len(sim.requests) == 2


def test_a_threshold_is_announced_once_in_a_window(
    send: Send, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "llmbridge"):
        heard = [[alert.share for alert in send(budget="5 requests").record.alerts] for _ in range(5)]
        for _ in range(2):
            with pytest.raises(BudgetExceeded):
                send(budget="5 requests")

    assert heard == [[], [], [], [0.8], [1.0]]
    assert [record.getMessage() for record in caplog.records] == [
        "budget '5 requests' has reached 80%: 4 requests of 5 requests is spent",
        "budget '5 requests' has reached 100%: 5 requests of 5 requests is spent",
    ]


def test_the_first_refusal_of_a_window_is_announced(
    ask: Ask, gpt: Model, records: list[CallRecord], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "llmbridge"), pytest.raises(BudgetExceeded):
            ask(FISH, model=gpt, max_tokens=1000, budget="$0.0001")

    assert [[alert.share for alert in record.alerts] for record in records] == [[1.0], []]
    assert ["refused a call" in record.getMessage() for record in caplog.records] == [True]


def test_what_fits_a_closer_look_is_no_refusal_to_announce(
    ask: Ask, sim: Simulator, gpt: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "llmbridge"):
        reply = ask(FISH, model=gpt, budget="$0.001")

    assert (reply.record.alerts, caplog.records) == ((), [])


# Prices that nobody knows


def nobody(sim: Simulator, **fields: Any) -> Model:
    return at(sim, "openai/nobody-knows-me", **fields)


def test_a_model_without_a_price_is_not_asked_under_a_dollar_budget(
    send: Send, sim: Simulator, records: list[CallRecord]
) -> None:
    with pytest.raises(UnknownPrice) as caught:
        send(model=nobody(sim), budget="$5/day")

    assert "Model('openai/nobody-knows-me', input_usd_per_mtok=..., output_usd_per_mtok=...)" in str(caught.value)
    assert [(r.id, r.outcome, r.error_type) for r in records] == [(caught.value.call_id, "failed", "UnknownPrice")]
    assert sim.requests == []


def test_a_model_with_a_price_of_the_callers_own_is_charged_at_it(send: Send, sim: Simulator, ledger: Ledger) -> None:
    priced = nobody(sim, input_usd_per_mtok=1.5, output_usd_per_mtok=10, max_output_tokens=100)

    reply = send(model=priced, budget="$5/day")

    output = Decimal("0.00003") if isinstance(reply, Completion) else 0
    assert reply.cost_usd == Decimal("0.0000135") + output == settled(ledger, "$5/day")
    assert [attempt.price_source for attempt in ledger.records()[0].attempts] == ["model"]


def test_a_price_without_a_limit_of_output_is_no_bound(either: Ask, sim: Simulator) -> None:
    model = nobody(sim, input_usd_per_mtok=1.5, output_usd_per_mtok=10)

    with pytest.raises(UnknownPrice, match=r"give max_tokens=, or Model\(.*max_output_tokens=\.\.\.\)"):
        either(FISH, model=model, budget="$5/day")

    assert either(FISH, model=model, budget="$5/day", max_tokens=9).cost_usd == Decimal("0.0000435")


def test_a_requests_budget_needs_no_price(send: Send, sim: Simulator, ledger: Ledger) -> None:
    reply = send(model=nobody(sim), budget="5 requests")

    assert (reply.cost_usd, reply.record.uncertain, settled(ledger, "5 requests")) == (None, True, 1)
    assert [spent.unknown for spent in ledger.spend()] == [1]


def test_a_model_on_this_machine_is_free(ask: Ask, sim: Simulator, ledger: Ledger) -> None:
    reply = ask(FISH, model=at(sim, "ollama_chat/llama3.2"), budget="$0.000000001/day")

    assert (reply.cost_usd, reply.record.uncertain, reply.attempts[0].price_source) == (Decimal(0), False, "local")
    assert settled(ledger, "$0.000000001/day") == 0
