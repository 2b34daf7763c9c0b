"""In which order candidates are asked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmbridge import Bridge, Candidate, Fallback, Model, default
from llmbridge.fallback import STRATEGIES, Endpoints, strategies
from llmbridge.fallback.strategies import BALANCE, EXPLORE
from llmbridge.request import Hidden, Request
from tests.conftest import Ask
from tests.simulator import Reply, Simulator
from tests.test_faults import FISH, at


few = settings(max_examples=40, deadline=None)


def candidate(position: int = 0, *, weight: float = 1.0, quality: float | None = None, **known: Any) -> Candidate:
    price = known.pop("price", None)
    model = Model(f"openai/m{position}", weight=weight, quality=quality)
    request = Request("chat", model.model, [], Hidden())
    return Candidate(model, request, Endpoints(), position=position, price=lambda request: price, **known)


maybe = st.none() | st.floats(0, 1e6)
facts = st.fixed_dictionaries(
    {
        "weight": st.floats(0, 1e6),
        "quality": maybe,
        "price": maybe,
        "latency_s": maybe,
        "measured_s": maybe,
        "under_way": st.integers(0, 100),
        "draw": st.floats(0, 1, exclude_max=True),
        "is_local": st.booleans(),
        "lacks": st.just(()) | st.just(("images",)),
    }
)
some = st.lists(facts, min_size=1, max_size=8).flatmap(
    lambda each: st.integers(0, 100).map(
        lambda turn: [candidate(position, turn=turn, **known) for position, known in enumerate(each)]
    )
)


def positions(candidates: Any) -> list[int]:
    return [each.position for each in candidates]


@pytest.mark.parametrize("name", STRATEGIES)
@few
@given(candidates=some)
def test_a_strategy_puts_its_candidates_in_order_and_adds_and_changes_none(
    name: str, candidates: list[Candidate]
) -> None:
    given_order = list(candidates)

    chosen = STRATEGIES[name](candidates)

    assert candidates == given_order
    assert len(set(positions(chosen))) == len(chosen)
    assert all(each in candidates for each in chosen)
    assert name == "capability" or len(chosen) == len(candidates)
    assert positions(STRATEGIES[name](candidates)) == positions(chosen)


BY: dict[str, Callable[[Candidate], Any]] = {
    "priority": lambda each: each.position,
    "least_cost": lambda each: (each.worst_usd is None, each.worst_usd or 0.0, each.position),
    "least_busy": lambda each: (each.under_way, each.position),
    "quality": lambda each: (each.model.quality is None, -(each.model.quality or 0.0), each.position),
    "local_first": lambda each: (not each.is_local, each.position),
}


@pytest.mark.parametrize("name", BY)
@few
@given(candidates=some)
def test_the_order_is_the_documented_one_and_equals_stay_as_they_were_given(
    name: str, candidates: list[Candidate]
) -> None:
    assert positions(STRATEGIES[name](candidates)) == positions(sorted(candidates, key=BY[name]))


@few
@given(candidates=some)
def test_capability_leaves_out_who_lacks_something(candidates: list[Candidate]) -> None:
    assert STRATEGIES["capability"](candidates) == [each for each in candidates if not each.lacks]


@few
@given(st.integers(1, 8), st.integers(0, 1000))
def test_round_robin_begins_with_the_next_one_at_each_turn(count: int, turn: int) -> None:
    order = positions(STRATEGIES["round_robin"]([candidate(number, turn=turn) for number in range(count)]))

    assert order == [(turn + number) % count for number in range(count)]


# Weighted


@pytest.mark.parametrize("weights", [(1, 1), (9, 1), (5, 3, 2), (0.001, 0.002, 0.001), (1e6, 3e6), (1e-300, 1e-300)])
def test_weighted_gives_each_its_share(weights: tuple[float, ...]) -> None:
    draw = random.Random(20261121).random
    firsts: Counter[int] = Counter()
    for _ in range(4_000):
        candidates = [candidate(number, weight=weight, draw=draw()) for number, weight in enumerate(weights)]
        firsts[STRATEGIES["weighted"](candidates)[0].position] += 1

    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        assert firsts[number] / 4_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4_000) ** 0.5)


@few
@given(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_weight_0_comes_last(weights: list[float], lots: random.Random) -> None:
    candidates = [candidate(number, weight=weight, draw=lots.random()) for number, weight in enumerate(weights)]

    chosen = [each.model.weight for each in STRATEGIES["weighted"](candidates)]

    assert chosen == sorted(chosen, key=lambda weight: weight == 0)


# Latency and balance


@few
@given(some)
def test_least_latency_asks_the_unknown_first_then_the_quickest_and_last_who_only_ever_failed(
    candidates: list[Candidate],
) -> None:
    for each in candidates:
        each.draw = EXPLORE

    def rank(each: Candidate) -> tuple[int, float, int]:
        if each.latency_s is not None:
            return (1, each.latency_s, each.position)
        return (0 if each.measured_s is None else 2, 0.0, each.position)

    assert positions(STRATEGIES["least_latency"](candidates)) == positions(sorted(candidates, key=rank))


def test_now_and_then_least_latency_asks_who_was_measured_longest_ago() -> None:
    draw = random.Random(7).random
    firsts: Counter[int] = Counter()
    for _ in range(5_000):
        candidates = [
            candidate(0, latency_s=0.1, measured_s=1.0, draw=draw()),
            candidate(1, latency_s=5.0, measured_s=900.0, draw=draw()),
            candidate(2, latency_s=1.0, measured_s=20.0, draw=draw()),
        ]
        firsts[STRATEGIES["least_latency"](candidates)[0].position] += 1

    assert set(firsts) == {0, 1}
    assert firsts[1] / 5_000 == pytest.approx(EXPLORE, abs=0.015)


def test_the_weights_of_balanced_are_the_documented_ones() -> None:
    assert BALANCE == {"cost": 0.4, "latency": 0.3, "quality": 0.2, "load": 0.1}
    best: dict[str, dict[str, Any]] = {
        "cost": {"price": 1.0}, "latency": {"latency_s": 1.0}, "quality": {"quality": 9.0}, "load": {"under_way": 0}
    }  # fmt: skip
    worst: dict[str, Any] = {"price": 2.0, "latency_s": 2.0, "quality": 1.0, "under_way": 5}

    for stronger, weaker in [("cost", "latency"), ("latency", "quality"), ("quality", "load")]:
        pair = [candidate(0, **{**worst, **best[weaker]}), candidate(1, **{**worst, **best[stronger]})]
        assert positions(STRATEGIES["balanced"](pair)) == [1, 0]
    both = [candidate(0, **{**worst, **best["cost"]}), candidate(1, **{**worst, **best["latency"], **best["quality"]})]
    assert positions(STRATEGIES["balanced"](both)) == [1, 0]


@few
@given(some, st.floats(0.001, 1000))
def test_balanced_does_not_depend_on_the_units(candidates: list[Candidate], scale: float) -> None:
    whole = [each for each in candidates if each.latency_s is None or each.latency_s > 1e-3]
    if whole:
        first = positions(STRATEGIES["balanced"](whole))
        for each in whole:
            each.under_way *= 2
        assert positions(STRATEGIES["balanced"](whole)) == first


def test_what_nobody_knows_counts_as_the_middle() -> None:
    three = [candidate(0, price=2.0), candidate(1, price=None), candidate(2, price=1.0)]

    assert positions(STRATEGIES["balanced"](three)) == [2, 1, 0]


# Whole calls


@pytest.fixture
def three(sim: Simulator) -> list[Model]:
    fields = ({"weight": 0, "quality": 1}, {"weight": 5, "quality": 3}, {"weight": 0, "quality": 2})
    providers = ("openai", "anthropic", "gemini")
    return [at(sim, provider, **each) for provider, each in zip(providers, fields, strict=True)]


def asked(bridge: Bridge, policy: Fallback) -> str:
    return str(bridge.complete(FISH, model=policy).attempts[0].model.partition("/")[0])


def test_round_robin_takes_turns_though_another_list_is_asked_in_between(
    sim: Simulator, three: list[Model], fresh_default: Bridge
) -> None:
    here, there = Fallback(three[:2], strategy="round_robin"), Fallback(three[1:], strategy="round_robin")

    seen = [(asked(fresh_default, here), asked(fresh_default, there)) for _ in range(4)]

    assert seen == [("openai", "anthropic"), ("anthropic", "gemini")] * 2


@pytest.mark.parametrize(
    ("strategy", "first"),
    [("priority", "openai"), ("weighted", "anthropic"), ("quality", "anthropic"), ("least_cost", "openai")],
)
def test_a_call_asks_in_the_order_of_its_strategy(
    ask: Ask, sim: Simulator, three: list[Model], strategy: str, first: str
) -> None:
    reply = ask(FISH, model=Fallback(three, strategy=strategy), max_tokens=50)

    assert (reply.attempts[0].provider, len(sim.requests)) == (first, 1)


def test_local_first_asks_this_machine(ask: Ask, sim: Simulator) -> None:
    models = [at(sim, "ollama_chat"), Model("openai/gpt-4o-mini", api_key="sk-test-key")]

    assert ask(FISH, model=Fallback(models[::-1], strategy="local_first")).record.provider == "ollama_chat"


def test_least_latency_learns_from_the_answers(
    sim: Simulator, three: list[Model], fresh_default: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "EXPLORE", 0.0)  # else one call in 20 would look at the slower one again
    policy = Fallback(three[:2], strategy="least_latency")
    sim.script(Reply(delay_s=0.15), Reply(), Reply())
    assert {asked(fresh_default, policy), asked(fresh_default, policy)} == {"openai", "anthropic"}

    assert [asked(fresh_default, policy) for _ in range(20)].count("anthropic") >= 14


def test_who_only_ever_failed_is_not_asked_first_by_every_call(
    sim: Simulator, three: list[Model], fresh_default: Bridge
) -> None:
    away = Model("openai/gpt-4o", api_base="http://127.0.0.1:9/v1", api_key="sk-test-key")
    policy = Fallback([away, three[0]], strategy="least_latency", retries=0, breaker=False)

    attempts = [len(fresh_default.complete(FISH, model=policy).attempts) for _ in range(10)]

    assert attempts[0] == 2
    assert sum(attempts) <= 15  # 11, and one more for each time that it is tried again, 1 in 20


# The caller's own


def test_a_function_may_order_and_leave_out(ask: Ask, sim: Simulator, three: list[Model]) -> None:
    reply = ask(FISH, model=Fallback(three, strategy=lambda candidates: [candidates[2], candidates[0]]))

    assert (reply.record.provider, len(reply.record.dropped)) == ("gemini", 1)
    assert reply.record.dropped == (f"{three[1].model}: the strategy left it out",)


def test_a_function_sees_what_the_others_see(sim: Simulator, three: list[Model], fresh_default: Bridge) -> None:
    seen: list[Candidate] = []

    def watching(candidates: list[Candidate]) -> list[Candidate]:
        seen.extend(candidates)
        return candidates

    fresh_default.complete(FISH, model=Fallback(three, strategy=watching), max_tokens=10)

    assert positions(seen) == [0, 1, 2]
    assert [each.model.quality for each in seen] == [1, 3, 2]
    assert all(each.worst_usd is not None and each.worst_usd > 0 for each in seen)
    assert "Name a fish" not in repr(seen)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        pytest.param(lambda candidates: [], ValueError, id="nobody"),
        pytest.param(lambda candidates: ["openai/gpt-4o"], ValueError, id="a-name"),
        pytest.param(lambda candidates: [candidate()], ValueError, id="a-foreign-candidate"),
        pytest.param(lambda candidates: None, TypeError, id="nothing"),
        pytest.param(lambda candidates: 1 / 0, ZeroDivisionError, id="raises"),
        pytest.param(lambda first, second: [], TypeError, id="takes-two"),
    ],
)
def test_a_function_that_is_wrong_fails_its_call_before_anything_is_sent(
    ask: Ask, sim: Simulator, three: list[Model], records: list[Any], wrong: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ask(FISH, model=Fallback(three, strategy=wrong))

    assert (sim.requests, [record.outcome for record in records]) == ([], ["failed"])
    assert default.default().ledger.check() == []


def test_a_function_that_empties_its_list_harms_nobody(ask: Ask, sim: Simulator, three: list[Model]) -> None:
    def emptying(candidates: list[Candidate]) -> list[Candidate]:
        return [candidates.pop() for _ in range(len(candidates))]

    assert ask(FISH, model=Fallback(three, strategy=emptying)).record.provider == "gemini"
