"""Hedging: when the first model is slow, a second one is asked beside it, and the first good answer wins."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, CallRecord, Fallback, Model
from tests.conftest import Run
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
VERBS = ("complete", "acomplete", "stream", "astream", "embed", "aembed")
SLOW = Reply(text="Pike.", delay_s=5, gap_s=0.01)


@pytest.fixture(scope="module")
def _second() -> Any:
    with Simulator() as running:
        yield running


@pytest.fixture
def quick(_second: Simulator) -> Simulator:
    """Another provider, on a port of its own."""
    _second.reset()
    return _second


def at(sim: Simulator, name: str = "openai/gpt-4o-mini", **fields: Any) -> Model:
    return Model(name, api_base=sim.api_base("openai"), api_key="sk-test-key", **fields)


class Asker:
    """One verb of one Bridge; what it answers as text."""

    def __init__(self, verb: str, run: Run, bridge: Bridge) -> None:
        self.verb, self.bridge, self._run = verb, bridge, run

    def models(self, *places: Simulator) -> list[Model]:
        names = ("openai/text-embedding-3-small", "openai/text-embedding-3-large")
        chat = ("openai/gpt-4o-mini", "openai/gpt-4o")
        return [at(sim, (names if "embed" in self.verb else chat)[number]) for number, sim in enumerate(places)]

    def __call__(self, policy: Fallback, **arguments: Any) -> Any:
        return self._run(self.ask(policy, **arguments)) if self.verb.startswith("a") else self.sync(policy, **arguments)

    def sync(self, policy: Fallback, **arguments: Any) -> Any:
        if self.verb == "stream":
            with self.bridge.stream(FISH, model=policy, **arguments) as chunks:
                for _ in chunks:
                    pass
            return chunks.completion
        return getattr(self.bridge, self.verb)(FISH, model=policy, **arguments)

    async def ask(self, policy: Fallback, **arguments: Any) -> Any:
        if self.verb == "astream":
            async with self.bridge.astream(FISH, model=policy, **arguments) as chunks:
                async for _ in chunks:
                    pass
            return chunks.completion
        return await getattr(self.bridge, self.verb)(FISH, model=policy, **arguments)


@pytest.fixture(params=VERBS)
def asker(request: pytest.FixtureRequest, run: Run, fresh_default: Bridge) -> Asker:
    return Asker(request.param, run, fresh_default)


def outcomes(record: CallRecord) -> list[tuple[str, str]]:
    return [(each.reason, each.outcome) for each in record.attempts]


def hedged(asker: Asker, *places: Simulator, after_s: float = 0.05, **fields: Any) -> Fallback:
    return Fallback(asker.models(*places), hedge_after_s=after_s, retries=0, **fields)


def test_a_slow_model_is_overtaken_by_the_next_one(
    asker: Asker, sim: Simulator, quick: Simulator, records: list[CallRecord]
) -> None:
    sim.script(SLOW)
    started = time.monotonic()

    answer = asker(hedged(asker, sim, quick))

    assert time.monotonic() - started < 4  # the slow one takes 5
    assert (len(sim.requests), len(quick.requests)) == (1, 1)
    assert sim.wait_for_disconnects(1)
    (record,) = records
    assert [(each.reason, each.outcome) for each in record.attempts] == [
        ("initial", "cancelled"),
        ("hedge", "answered"),
    ]
    assert record.model == record.attempts[1].model == answer.attempts[1].model
    slow, won = record.attempts
    assert (slow.uncertain, slow.cost_usd) == (True, slow.reserved_usd)
    assert not won.uncertain
    ledger = asker.bridge.ledger
    assert ledger.check() == []
    (kept,) = ledger.records(id=record.id)
    assert kept.cost_usd == record.cost_usd


def test_a_quick_model_is_asked_alone(
    asker: Asker, sim: Simulator, quick: Simulator, records: list[CallRecord]
) -> None:
    asker(hedged(asker, sim, quick, after_s=5))

    assert (len(sim.requests), len(quick.requests)) == (1, 0)
    assert [each.reason for each in records[0].attempts] == ["initial"]


def test_the_first_model_may_still_win(
    asker: Asker, sim: Simulator, quick: Simulator, records: list[CallRecord]
) -> None:
    sim.script(Reply(text="Pike.", delay_s=0.5))
    quick.script(SLOW)

    asker(hedged(asker, sim, quick))

    assert quick.wait_for_disconnects(1)
    (record,) = records
    assert [(each.reason, each.outcome) for each in record.attempts] == [
        ("initial", "answered"),
        ("hedge", "cancelled"),
    ]
    assert record.model == record.attempts[0].model
    assert asker.bridge.ledger.check() == []


def test_a_hedge_saves_a_call_whose_first_model_fails_late(
    asker: Asker, sim: Simulator, quick: Simulator, records: list[CallRecord]
) -> None:
    sim.script(Fault.hang())
    quick.script(Reply(text="Trout.", delay_s=0.6))
    first, second = asker.models(sim, quick)
    impatient = dataclasses.replace(first, params={"timeout": 0.3})

    asker(Fallback([impatient, second], hedge_after_s=0.05, retries=0))

    (record,) = records
    assert (record.outcome, record.model) == ("answered", second.model)
    assert [(each.reason, each.error_type) for each in record.attempts] == [
        ("initial", "ProviderTimeout"),
        ("hedge", None),
    ]


def test_when_both_fail_both_errors_are_told(
    asker: Asker, sim: Simulator, quick: Simulator, records: list[CallRecord]
) -> None:
    sim.script(Fault.hang())
    quick.script(Fault.status(503))

    with pytest.raises(llmbridge.AllAttemptsFailed) as caught:
        asker(hedged(asker, sim, quick), timeout=0.5)

    assert {type(error).__name__ for error in caught.value.errors} == {"ProviderTimeout", "ProviderUnavailable"}
    assert len(records) == 1
    assert asker.bridge.ledger.check() == []


def test_the_budget_holds_for_both(asker: Asker, sim: Simulator, quick: Simulator, records: list[CallRecord]) -> None:
    sim.script(Reply(text="Pike.", delay_s=0.4))

    asker(hedged(asker, sim, quick), budget="1 request/hour")

    assert (len(sim.requests), len(quick.requests)) == (1, 0)
    assert [each.outcome for each in records[0].attempts] == ["answered"]


def test_the_bound_on_attempts_holds_for_both(asker: Asker, sim: Simulator, quick: Simulator) -> None:
    sim.script(Reply(text="Pike.", delay_s=0.4))

    asker(hedged(asker, sim, quick, attempts=1))

    assert (len(sim.requests), len(quick.requests)) == (1, 0)


@pytest.mark.parametrize("verb", ["acomplete", "astream", "aembed"])
def test_cancelling_the_call_ends_both(
    verb: str, run: Run, fresh_default: Bridge, sim: Simulator, quick: Simulator, records: list[CallRecord]
) -> None:
    asker = Asker(verb, run, fresh_default)
    sim.script(SLOW)
    quick.script(SLOW)

    async def cancelled() -> None:
        task = asyncio.ensure_future(asker.ask(hedged(asker, sim, quick)))
        await asyncio.to_thread(quick.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())

    assert sim.wait_for_disconnects(1)
    assert quick.wait_for_disconnects(1)
    (record,) = records
    assert (record.outcome, [each.outcome for each in record.attempts]) == ("cancelled", ["cancelled"] * 2)
    assert all(each.uncertain and each.cost_usd == each.reserved_usd for each in record.attempts)
    assert fresh_default.ledger.check() == []
