"""Limits of our own in whole calls, counted where the requests arrive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmbridge import Bridge, Fallback, Limit, Model, ProviderRateLimited, RateLimited, default
from tests.conftest import Ask, Run, asking
from tests.pauses import Pauses, pauses
from tests.simulator import Fault, Reply, Simulator
from tests.simulator.connection import Connection
from tests.test_faults import FISH, at, embedded


__all__ = ["pauses"]


class Crowd:
    """How many requests the simulator is answering, and how many it ever was at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    seen, perform = Crowd(), Connection._perform

    async def watched(self: Connection, play: Any) -> None:
        seen.now += 1
        seen.most = max(seen.most, seen.now)
        try:
            await asyncio.sleep(0.01)
            seen.now -= 1  # before the last byte goes, after which the client is free to send another
            await perform(self, play)
        except BaseException:
            raise

    monkeypatch.setattr(Connection, "_perform", watched)
    yield seen


def test_what_one_model_may_be_asked_a_minute_is_waited_for(ask: Ask, sim: Simulator, pauses: Pauses) -> None:
    limited = at(sim, "openai", rpm=60)
    for _ in range(8):
        ask(FISH, model=limited)

    assert len(sim.requests) == 8
    assert len(pauses) in (1, 2)
    assert sum(pauses) == pytest.approx(2, abs=0.001)


def test_the_next_candidate_is_asked_when_the_wait_would_be_longer_than_patience(
    ask: Ask, sim: Simulator, pauses: Pauses
) -> None:
    limited, spare = at(sim, "openai", rpm=1), at(sim, "anthropic")

    models = [ask(FISH, model=[limited, spare]).model for _ in range(3)]

    assert models == [limited.model, spare.model, spare.model]
    assert list(pauses) == []
    assert ask(FISH, model=Fallback([limited, spare], patience_s=61)).model == limited.model
    assert pauses[0] == pytest.approx(60, abs=5)


def test_when_nobody_else_is_left_the_call_says_when_there_is_room(
    ask: Ask, sim: Simulator, pauses: Pauses, verb: str
) -> None:
    limited = at(sim, "openai", rpm=1)
    ask(FISH, model=limited)

    with pytest.raises(RateLimited, match="was not asked: its limit a minute has room again in") as caught:
        ask(FISH, model=limited, deadline_s=10, budget="$1/day")

    assert caught.value.retry_after_s == pytest.approx(60, abs=5)
    assert (caught.value.attempts, len(sim.requests)) == ((), 1)
    assert default.default().ledger.check() == []


def test_tokens_are_counted_by_what_was_used_and_by_the_worst_case_until_then(
    ask: Ask, sim: Simulator, pauses: Pauses
) -> None:
    limited = at(sim, "openai", tpm=6000)
    sim.script(Reply(input_tokens=10, output_tokens=90))
    for _ in range(5):
        ask(FISH, model=limited, max_tokens=590)  # each of some 600, which is all that goes at once
    assert len(sim.requests) == 5
    assert sum(pauses) == pytest.approx(4.0, abs=0.1)  # for 400 used, at 100 a second

    with pytest.raises(RateLimited, match="6,000 a minute are allowed") as caught:
        ask(FISH, model=limited, max_tokens=6001)
    assert caught.value.retry_after_s is None


def test_a_limit_of_the_bridge_counts_each_user_and_only_the_models_it_names(
    verb: str, run: Run, sim: Simulator, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit(rpm=1, per=("user",), models=("openai/*",))
    monkeypatch.setattr(default, "_bridge", pauses.bridge(limits=limit, deadline_s=5))
    ask, gpt = asking(verb, run), at(sim, "openai")

    ask(FISH, model=gpt, tags={"user": "alice"})
    ask(FISH, model=gpt, tags={"user": "bob"})
    ask(FISH, model=gpt)
    ask(FISH, model=at(sim, "anthropic"), tags={"user": "alice"})
    with pytest.raises(RateLimited):
        ask(FISH, model=gpt, tags={"user": "alice"})

    assert len(sim.requests) == 4


@pytest.mark.parametrize("verb", ["embed", "aembed"])
def test_embeddings_are_limited_too(verb: str, run: Run, sim: Simulator, pauses: Pauses) -> None:
    small = Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key", rpm=1)
    embedded(verb, run, small)

    with pytest.raises(RateLimited):
        embedded(verb, run, small, deadline_s=5)
    assert len(sim.requests) == 1


@pytest.mark.parametrize("inputs", [["fish " * 200], [list(range(250))]], ids=["text", "token-ids"])
def test_an_embedding_takes_the_tokens_of_its_inputs_alone(sim: Simulator, pauses: Pauses, inputs: Any) -> None:
    base = sim.api_base("openai")
    small = Model("openai/text-embedding-3-small", api_base=base, api_key="sk-test-key", tpm=400)
    bridge = default.default()
    sim.script(Reply(input_tokens=250, output_tokens=0))
    bridge.embed(inputs, model=small)

    with pytest.raises(RateLimited) as caught:
        bridge.embed(inputs, model=small, deadline_s=5)

    assert caught.value.retry_after_s == pytest.approx((40 + 210) / 400 * 60, abs=8)


def test_what_was_refused_by_a_budget_takes_nothing_of_the_limit(sim: Simulator, pauses: Pauses) -> None:
    limited, bridge = at(sim, "openai", rpm=1, concurrency=1), default.default()
    for _ in range(3):
        with pytest.raises(Exception, match="budget"):
            bridge.complete(FISH, model=limited, budget="$0.000000001/call")

    assert bridge.complete(FISH, model=limited, deadline_s=5).text == "Trout."


def test_a_429_halves_what_adaptive_concurrency_lets_through(sim: Simulator, fresh_default: Bridge) -> None:
    model = at(sim, "openai", concurrency="adaptive")
    sim.script(Fault.status(429), Reply())
    with pytest.raises(ProviderRateLimited):
        fresh_default.complete(FISH, model=model)

    (endpoint,) = fresh_default._endpoints._known.values()
    assert endpoint.limiter is not None
    slots = endpoint.limiter.counter({}).slots
    assert slots is not None
    assert slots.most == 4


def test_sixty_four_threads_are_never_more_than_five_at_a_time(
    sim: Simulator, crowd: Crowd, fresh_default: Bridge
) -> None:
    model = at(sim, "openai", concurrency=5)
    begin = threading.Barrier(64)

    def one(_: int) -> str:
        begin.wait()
        return fresh_default.complete(FISH, model=model).text

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(one, range(64))) == {"Trout."}

    assert (len(sim.requests), 2 <= crowd.most <= 5) == (64, True)


def test_two_hundred_and_fifty_six_tasks_are_never_more_than_five_at_a_time(
    run: Run, sim: Simulator, crowd: Crowd, fresh_default: Bridge
) -> None:
    limited = Bridge(fallback=Fallback(retries=0), limits=Limit(concurrency=5, models=("openai/*",)))

    async def together() -> list[Any]:
        asked = [limited.acomplete(FISH, model=at(sim, "openai")) for _ in range(256)]
        tasks = [asyncio.create_task(each) for each in asked]
        await asyncio.sleep(0.05)
        for task in tasks[100:130]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    ends = [type(end).__name__ for end in run(together())]

    assert (ends.count("Completion"), ends.count("CancelledError")) == (226, 30)
    assert 2 <= crowd.most <= 5
    (limiter,) = limited._limiters
    assert limiter.counter({}).is_idle


def test_a_stream_holds_its_slot_until_it_ends_however_it_ends(sim: Simulator, fresh_default: Bridge) -> None:
    model = at(sim, "openai", concurrency=1)
    with fresh_default.stream(FISH, model=model) as chunks:
        next(chunks)
        with pytest.raises(RateLimited):
            fresh_default.complete(FISH, model=model, deadline_s=0.1)

    dropped = fresh_default.stream(FISH, model=model)
    next(dropped)
    del dropped

    assert fresh_default.complete(FISH, model=model, deadline_s=5).text == "Trout."
