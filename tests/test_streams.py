"""What is true of the two streams alone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, CallRecord, Chunk, Completion, Model, connections, wire
from tests.conftest import Run, assert_charged
from tests.simulator import Fault, Reply, Simulator
from tests.test_complete import FISH, PROVIDERS, TOOL


Read = Callable[..., list[Chunk]]


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture(params=["stream", "astream"])
def read(request: pytest.FixtureRequest, run: Run, fresh_default: Bridge) -> Read:
    """All chunks of a stream, or the first *limit* and then out of the block."""

    def sync(limit: int | None = None, **arguments: Any) -> list[Chunk]:
        with fresh_default.stream(FISH, **arguments) as chunks:
            return [chunk for _, chunk in zip(range(limit or 10_000), chunks, strict=False)]

    async def asynchronous(limit: int | None = None, **arguments: Any) -> list[Chunk]:
        read: list[Chunk] = []
        async with fresh_default.astream(FISH, **arguments) as chunks:
            async for chunk in chunks:
                read.append(chunk)
                if len(read) == limit:
                    break
        return read

    if request.param == "stream":
        return sync
    return lambda limit=None, **arguments: run(asynchronous(limit, **arguments))


def test_chunks_carry_the_text_piece_by_piece_and_the_reason_last(read: Read, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(pieces=["Tr", "ou", "t."]))

    chunks = read(model=gpt)

    assert [chunk.text for chunk in chunks if chunk.text] == ["Tr", "ou", "t."]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "stop"]


def test_tool_calls_come_as_deltas(read: Read, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(tool_calls=[("weather", {"city": "Ulm"})]))

    deltas = [delta for chunk in read(model=gpt, tools=[TOOL]) for delta in chunk.tool_calls]

    assert deltas[0].name == "weather"
    assert "".join(delta.arguments for delta in deltas).replace(" ", "") == '{"city":"Ulm"}'


def test_reasoning_comes_before_the_text_and_apart_from_it(read: Read, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(text="Trout.", reasoning="Fish swim."))

    chunks = read(model=gpt)

    assert "".join(chunk.reasoning for chunk in chunks) == "Fish swim."
    assert "".join(chunk.text for chunk in chunks) == "Trout."


@pytest.mark.parametrize("asked", [False, True])
def test_a_usage_chunk_comes_only_if_it_was_asked_for(read: Read, sim: Simulator, gpt: Model, asked: bool) -> None:
    chunks = read(model=gpt, **({"stream_options": {"include_usage": True}} if asked else {}))

    assert [chunk.usage is not None for chunk in chunks][-1] is asked
    body = sim.requests[0].body
    assert body is not None
    assert body["stream_options"] == {"include_usage": True}


def test_the_completion_equals_that_of_complete(sim: Simulator, gpt: Model) -> None:
    bridge = Bridge(models=gpt)
    sim.script(Reply(text="Trout.", reasoning="Hm.", tool_calls=[("weather", {"city": "Ulm"})], logprobs=True))

    whole = bridge.complete(FISH, tools=[TOOL], logprobs=True)
    with bridge.stream(FISH, tools=[TOOL], logprobs=True) as chunks:
        list(chunks)

    apart = {"id", "created", "system_fingerprint", "service_tier"}
    assert chunks.completion.model_dump(exclude=apart) == whole.model_dump(exclude=apart)
    assert chunks.completion.attempts[0].response_model == whole.attempts[0].response_model == "gpt-4o-mini"


@pytest.mark.parametrize("provider", ["anthropic", "gemini", "ollama_chat"])
def test_the_completion_says_what_complete_says(sim: Simulator, provider: str) -> None:
    bridge = Bridge(Model(PROVIDERS[provider], api_base=sim.api_base(provider), api_key="sk-test-key"))
    sim.script(Reply(text="Trout.", reasoning="Hm.", tool_calls=[("weather", {"city": "Ulm"})]))

    whole = bridge.complete(FISH, tools=[TOOL])
    with bridge.stream(FISH, tools=[TOOL]) as chunks:
        list(chunks)

    assert said(chunks.completion) == said(whole)


def said(completion: Completion) -> Any:
    """What was said, without ids that LiteLLM makes up and details of tokens that it estimates."""
    calls = [(call.function.name, call.function.arguments) for call in completion.tool_calls]
    counts = completion.usage and (completion.usage.prompt_tokens, completion.usage.completion_tokens)
    return completion.text, completion.reasoning, completion.finish_reason, calls, counts


def test_the_completion_is_there_only_at_the_end(sim: Simulator, gpt: Model) -> None:
    with Bridge(models=gpt).stream(FISH) as chunks:
        next(chunks)

        with pytest.raises(RuntimeError, match="read all chunks first"):
            chunks.completion


@pytest.mark.parametrize("provider", ["openai", "deepseek", "anthropic"])
def test_a_chunk_of_an_async_stream_costs_the_event_loop_no_task(
    sim: Simulator, fresh_default: Bridge, provider: str
) -> None:
    model = Model(f"{provider}/fish-1", api_base=sim.api_base(provider), api_key="sk-test-key")

    async def tasks(chunk_count: int) -> int:
        sim.script(Reply(pieces=["ab"] * chunk_count))
        made: list[object] = []

        def task(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
            made.append(work)
            return asyncio.Task(work, loop=loop, **named)

        asyncio.get_running_loop().set_task_factory(task)
        async with fresh_default.astream(FISH, model=model) as chunks:
            # From one chunk to the next, without what opening and ending take, which depends on how the bytes come.
            counts = [len(made) async for chunk in chunks if chunk.text]
        assert len(counts) == chunk_count
        return counts[-1] - counts[1]

    asyncio.run(tasks(2))  # for what is done once
    assert asyncio.run(tasks(50)) == asyncio.run(tasks(2)) == 0


def test_leaving_early_closes_the_connection_and_records_it(
    read: Read, sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.hang(after_events=3, reply=Reply(pieces=["a", "b", "c", "d"])))

    chunks = read(limit=1, model=gpt)

    assert chunks[0].text == "a"
    assert sim.wait_for_disconnects(1)
    assert [r.outcome for r in records] == ["left"]
    assert_charged(records[0])
    assert_charged(records[0])


def test_a_stream_that_is_dropped_is_closed_by_the_garbage_collector(
    sim: Simulator, gpt: Model, records: list[CallRecord], fresh_default: Bridge
) -> None:
    sim.script(Fault.hang(after_events=3, reply=Reply(pieces=["a", "b", "c", "d"])))

    chunks = fresh_default.stream(FISH, model=gpt)
    next(chunks)
    del chunks
    gc.collect()

    assert sim.wait_for_disconnects(1)
    assert [r.outcome for r in records] == ["left"]
    assert_charged(records[0])


def test_a_failure_before_the_first_content_goes_to_the_next_model(read: Read, sim: Simulator, gpt: Model) -> None:
    sim.script(Fault.cut(after_events=1, reply=Reply(pieces=["lost", "lost"])), Reply(pieces=["Car", "p."]))

    text = "".join(chunk.text for chunk in read(model=[gpt, gpt]))

    assert text == "Carp."


@pytest.mark.parametrize("clean", [True, False], ids=["clean_end", "broken_connection"])
def test_a_break_after_content_shows_what_came(
    read: Read, sim: Simulator, gpt: Model, records: list[CallRecord], clean: bool
) -> None:
    sim.script(Fault.cut(after_events=3, reply=Reply(pieces=["Tr", "ou", "t", "."]), clean=clean))

    with pytest.raises(llmbridge.StreamInterrupted) as caught:
        read(model=[gpt, gpt])

    assert caught.value.partial.startswith("Tr")
    assert len(sim.requests) == 1
    assert [(r.outcome, r.error_type) for r in records] == [("failed", "StreamInterrupted")]
    assert_charged(records[0])


def test_a_slow_first_chunk_goes_to_the_next_model(read: Read, sim: Simulator, gpt: Model) -> None:
    sim.script(Fault.hang(after_events=0), Reply(text="Carp."))

    text = "".join(chunk.text for chunk in read(model=[gpt, gpt], first_chunk_s=1))

    assert text == "Carp."


def test_a_gap_between_chunks_is_bounded(read: Read, sim: Simulator, gpt: Model) -> None:
    sim.script(Fault.hang(after_events=3, reply=Reply(pieces=["Tr", "ou", "t", "."])))

    with pytest.raises(llmbridge.StreamInterrupted) as caught:
        read(model=gpt, chunk_gap_s=0.5)

    assert caught.value.partial.startswith("Tr")


def test_a_cancelled_stream_closes_the_connection(
    sim: Simulator, gpt: Model, run: Run, records: list[CallRecord], fresh_default: Bridge
) -> None:
    sim.script(Fault.hang(after_events=3, reply=Reply(pieces=["a", "b", "c"])))

    async def left_in_the_middle() -> None:
        started = asyncio.Event()

        async def reader() -> None:
            async with fresh_default.astream(FISH, model=gpt) as chunks:
                async for _ in chunks:
                    started.set()

        task = asyncio.create_task(reader())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(sim.wait_for_disconnects, 1)

    run(left_in_the_middle())

    assert [(r.outcome, r.error_type) for r in records] == [("cancelled", "CancelledError")]
    assert_charged(records[0])


def test_an_error_in_the_block_passes_and_ends_the_call(
    sim: Simulator, gpt: Model, records: list[CallRecord], fresh_default: Bridge
) -> None:
    with pytest.raises(ZeroDivisionError), fresh_default.stream(FISH, model=gpt) as chunks:
        next(chunks)
        1 / 0

    assert [r.outcome for r in records] == ["left"]


def test_a_closed_stream_sends_nothing_and_says_so(sim: Simulator, gpt: Model, fresh_default: Bridge) -> None:
    chunks = fresh_default.stream(FISH, model=gpt)
    chunks.close()

    with pytest.raises(RuntimeError, match="ask for a new one"):
        next(chunks)

    assert sim.requests == []


def test_a_stream_that_could_not_be_opened_is_not_sent_again(
    sim: Simulator, gpt: Model, records: list[CallRecord], fresh_default: Bridge
) -> None:
    sim.script(Fault.status(500), Reply())
    chunks = fresh_default.stream(FISH, model=gpt)
    with pytest.raises(llmbridge.ProviderUnavailable):
        next(chunks)

    with pytest.raises(RuntimeError, match="ask for a new one"):
        next(chunks)

    assert (len(sim.requests), len(records)) == (1, 1)


def test_a_stream_that_could_not_be_opened_keeps_its_record_when_it_is_collected(
    sim: Simulator, gpt: Model, records: list[CallRecord], fresh_default: Bridge
) -> None:
    sim.script(Fault.status(500))
    chunks = fresh_default.stream(FISH, model=gpt)
    with pytest.raises(llmbridge.ProviderUnavailable):
        next(chunks)
    before, dropped = repr(records), weakref.ref(chunks)

    del chunks
    gc.collect()

    assert dropped() is None
    assert repr(records) == before


def test_a_stream_that_fell_back_and_is_dropped_is_closed_by_the_garbage_collector(
    sim: Simulator, gpt: Model, records: list[CallRecord], fresh_default: Bridge
) -> None:
    sim.script(Fault.status(500), Fault.hang(after_events=3, reply=Reply(pieces=["a", "b", "c", "d"])))

    chunks = fresh_default.stream(FISH, model=[gpt, gpt])
    next(chunks)
    del chunks
    gc.collect()

    assert sim.wait_for_disconnects(1)
    assert [[attempt.outcome for attempt in r.attempts] for r in records] == [["failed", "left"]]


def test_a_stream_left_in_the_middle_does_not_look_whole(sim: Simulator, gpt: Model, fresh_default: Bridge) -> None:
    with fresh_default.stream(FISH, model=gpt) as chunks:
        next(chunks)

    with pytest.raises(RuntimeError, match="closed before its end"):
        next(chunks)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_read_to_its_end_without_a_block_gives_its_connection_back(
    sim: Simulator, provider: str, fresh_default: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = wire.new_client()
    monkeypatch.setattr(wire, "_client", client)
    model = Model(PROVIDERS[provider], api_base=sim.api_base(provider), api_key="sk-test-key")

    for _ in range(3):
        list(fresh_default.stream(FISH, model=model))

    transport: Any = client._transport
    assert transport._pool._room.qsize() == connections.MOST
    client.close()


def test_a_cancellation_while_a_failed_attempt_is_closed_is_recorded(
    sim: Simulator, gpt: Model, run: Run, records: list[CallRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(exchange: wire.Exchange) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(wire.Exchange, "aclose", cancelled)
    sim.script(Fault.status(500))

    with pytest.raises(asyncio.CancelledError):
        run(llmbridge.acomplete(FISH, model=[gpt, gpt]))

    assert [(record.outcome, len(record.attempts)) for record in records] == [("cancelled", 1)]
