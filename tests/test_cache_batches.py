"""Batches of embeddings in the cache and in flight: each input is asked once, whichever batches it is in."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, Cache, CallRecord, Embedding, Model
from llmbridge.cache.store import Store
from llmbridge.call import flight
from tests.conftest import ONCE, Run
from tests.simulator import Fault, Reply, Simulator


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    made = Bridge(cache=Cache(tmp_path / "cache"), ledger=tmp_path / "ledger.db", fallback=ONCE)
    yield made
    made.ledger.close()
    assert not flight._under_way


@pytest.fixture
def model(sim: Simulator) -> Model:
    return Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture(params=["embed", "aembed"])
def embed(request: pytest.FixtureRequest, run: Run, bridge: Bridge) -> Any:
    if request.param == "embed":
        return bridge.embed
    return lambda inputs, **arguments: run(bridge.aembed(inputs, **arguments))


@pytest.fixture(params=["threads", "tasks"])
def embed_all(request: pytest.FixtureRequest, run: Run, bridge: Bridge, model: Model) -> Any:
    """Embed several batches at the same time; what each gave, or raised."""

    def threads(batches: list[list[str]]) -> list[Any]:
        found: list[Any] = [None] * len(batches)

        def one(index: int) -> None:
            try:
                found[index] = bridge.embed(batches[index], model=model)
            except llmbridge.LLMBridgeError as error:
                found[index] = error

        running = [threading.Thread(target=one, args=(index,)) for index in range(len(batches))]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return found

    async def tasks(batches: list[list[str]]) -> list[Any]:
        calls = (bridge.aembed(batch, model=model) for batch in batches)
        return await asyncio.gather(*calls, return_exceptions=True)

    return threads if request.param == "threads" else lambda batches: run(tasks(batches))


def sent(sim: Simulator) -> Counter[str]:
    return Counter(text for request in sim.requests for text in request.body["input"])


def texts(*numbers: int) -> list[str]:
    return [f"fish {number}" for number in numbers]


def test_a_batch_of_a_hundred_of_which_ninety_are_known_sends_ten_and_says_what_it_saved(
    embed: Any, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    first = embed(texts(*range(90)), model=model)

    second = embed(texts(*range(100)), model=model)

    assert len(sim.requests[1].body["input"]) == 10
    assert second.vectors[:90] == first.vectors
    assert not second.cached
    share = (first.cost_usd / 90).quantize(Decimal("1e-9"), rounding="ROUND_DOWN")
    assert (records[0].saved_usd, records[1].saved_usd) == (0, share * 90)
    assert second.saved_usd == records[1].saved_usd


def test_twenty_equal_batches_at_the_same_time_are_one_request(embed_all: Any, sim: Simulator) -> None:
    sim.script(Reply(delay_s=0.1))

    found: list[Embedding] = embed_all([texts(*range(30))] * 20)

    assert len(sim.requests) == 1
    assert len({str(each.vectors) for each in found}) == 1
    assert sum(each.cached for each in found) == 19
    assert {each.cost_usd for each in found if each.cached} == {Decimal(0)}


@pytest.mark.parametrize("seed", range(3))
def test_batches_that_overlap_send_each_input_once(embed_all: Any, sim: Simulator, seed: int) -> None:
    chance = random.Random(seed)
    sim.script(Reply(delay_s=0.02))
    batches = [texts(*chance.sample(range(40), 15)) for _ in range(12)]

    found: list[Embedding] = embed_all(batches)

    assert set(sent(sim).values()) == {1}
    assert sent(sim).keys() == {text for batch in batches for text in batch}
    vectors = [
        (text, vector)
        for batch, each in zip(batches, found, strict=True)
        for text, vector in zip(batch, each.vectors, strict=True)
    ]
    assert len({(text, str(vector)) for text, vector in vectors}) == len(sent(sim))


def test_a_leader_that_fails_hands_each_of_its_inputs_over(embed_all: Any, sim: Simulator) -> None:
    sim.script(Fault.status(500), Reply())

    found = embed_all([texts(1, 2), texts(2, 1), texts(1, 2)])

    failed = [each for each in found if isinstance(each, llmbridge.ProviderUnavailable)]
    assert (len(sim.requests), len(failed)) == (2, 1)


def test_a_cancelled_leader_hands_its_inputs_over(sim: Simulator, model: Model, bridge: Bridge, run: Run) -> None:
    sim.script(Fault.hang(), Reply())

    async def both() -> Embedding:
        leading = asyncio.ensure_future(bridge.aembed(texts(1, 2), model=model))
        assert await asyncio.to_thread(sim.wait_for_requests, 1)
        following = asyncio.ensure_future(bridge.aembed(texts(2, 3), model=model))
        while not any(each.waiting for each in flight._under_way.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        leading.cancel()
        return await following

    assert (len(run(both()).vectors), len(sim.requests)) == (2, 2)
    assert not flight._under_way


def test_a_batch_of_which_a_part_is_kept_and_the_rest_comes_from_another_call_sends_nothing(
    sim: Simulator, model: Model, bridge: Bridge, run: Run
) -> None:
    sim.script(Reply(), Reply(delay_s=0.2))

    async def both() -> tuple[Embedding, Embedding, Embedding]:
        kept = await bridge.aembed(texts(1), model=model)
        leading = asyncio.ensure_future(bridge.aembed(texts(2), model=model))
        assert await asyncio.to_thread(sim.wait_for_requests, 2)
        following = await bridge.aembed(texts(2, 1), model=model)
        return kept, await leading, following

    kept, led, followed = run(both())

    assert (followed.cached, len(sim.requests)) == (True, 2)
    assert followed.vectors == [*led.vectors, *kept.vectors]


def test_vectors_that_must_not_be_kept_free_those_who_wait(embed_all: Any, sim: Simulator) -> None:
    sim.script(Reply(vectors=[[0.5, 0.5], []]), Reply())

    found = embed_all([texts(1, 2), texts(1, 2)])

    assert (len(sim.requests), [each.cached for each in found]) == (2, [False, False])


def test_a_batch_is_read_once_and_kept_in_few_transactions(
    embed: Any, sim: Simulator, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    writes: list[int] = []
    get_all, put = Store.get_all, Store.put
    monkeypatch.setattr(Store, "get_all", lambda self, keys: reads.append(len(keys)) or get_all(self, keys))
    monkeypatch.setattr(Store, "put", lambda self, items, **more: writes.append(len(items)) or put(self, items, **more))

    embed(texts(*range(20)), model=model)
    embed(texts(*range(20)), model=model)

    assert reads == [20, 20, 20]  # and once more under the lead, for what another process kept meanwhile
    assert (sum(writes), len(writes) < 5) == (20, True)


def test_a_large_batch_is_kept_without_holding_the_event_loop(
    sim: Simulator, model: Model, bridge: Bridge, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["llmbridge.cache.cache"], "SLICE_S", 0.0)  # every vector is a slice
    turn = 0
    written_in: list[int] = []
    put = Store.put
    monkeypatch.setattr(Store, "put", lambda self, items, **more: written_in.append(turn) or put(self, items, **more))

    async def turning() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def both() -> Embedding:
        other = asyncio.ensure_future(turning())
        try:
            return await bridge.aembed(texts(*range(50)), model=model)
        finally:
            other.cancel()

    assert len(run(both()).data) == 50
    assert len(set(written_in)) == 50


def test_a_batch_whose_keeping_is_cancelled_frees_those_who_wait(
    sim: Simulator, model: Model, bridge: Bridge, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["llmbridge.cache.cache"], "SLICE_S", 0.0)

    async def cancelled() -> None:
        task = asyncio.ensure_future(bridge.aembed(texts(*range(50)), model=model))
        assert bridge.cache is not None
        while not bridge.cache.stats().entries:  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 0 < bridge.cache.stats().entries < 50

    run(cancelled())

    assert not flight._under_way
    assert [balance.reserved for balance in bridge.ledger.balance()] == []


def test_a_batch_waits_for_no_task_of_its_own_thread(sim: Simulator, model: Model, bridge: Bridge, run: Run) -> None:
    sim.script(Reply(delay_s=0.1))

    async def both() -> None:
        leading = asyncio.ensure_future(bridge.aembed(texts(1, 2), model=model))
        while not flight._under_way:  # noqa: ASYNC110
            await asyncio.sleep(0)
        bridge.embed(texts(1, 2), model=model, deadline_s=10)
        await leading

    started = time.monotonic()
    run(both())
    assert time.monotonic() - started < 5
