"""Equal requests under way at the same time, streams among them: one provider call, and nobody harms the others."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, Budget, Cache, CallRecord, Model, StreamInterrupted
from llmbridge.call import flight
from tests.conftest import ONCE, VERBS, Run
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
CAP = Budget("$5", name="cap")
PIECES = [f"{number} trout, " for number in range(8)]
TEXT = "".join(PIECES)
SLOW = Reply(pieces=PIECES, gap_s=0.03)
HELD = Fault.hang(after_events=4, reply=Reply(pieces=PIECES))  # three pieces, and then nothing


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    made = Bridge(cache=Cache(tmp_path / "cache"), ledger=tmp_path / "ledger.db", budgets=[CAP], fallback=ONCE)
    yield made
    until(lambda: not flight._under_way or gc.collect() < 0)
    until(lambda: not made.ledger.balance(CAP) or made.ledger.balance(CAP)[0].reserved == 0)
    assert made.ledger.check() == []
    made.ledger.close()


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as running:
        yield running


def until(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def ask(bridge: Bridge, verb: str, **arguments: Any) -> llmbridge.Completion:
    """The answer by *verb*, in whatever thread this is."""
    if verb == "complete":
        return bridge.complete(FISH, **arguments)
    if verb == "stream":
        with bridge.stream(FISH, **arguments) as chunks:
            assert "".join(chunk.text for chunk in chunks) == chunks.completion.text
        return chunks.completion
    return asyncio.run(aask(bridge, verb, **arguments))


async def aask(bridge: Bridge, verb: str, **arguments: Any) -> llmbridge.Completion:
    if verb == "acomplete":
        return await bridge.acomplete(FISH, **arguments)
    async with bridge.astream(FISH, **arguments) as chunks:
        text = "".join([chunk.text async for chunk in chunks])
    assert text == chunks.completion.text
    return chunks.completion


class Leading:
    """A stream of either colour that somebody has opened, on a thread of its own, and reads only when told to."""

    def __init__(self, verb: str, bridge: Bridge, **arguments: Any) -> None:
        self._sync = verb == "stream"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.text = ""
        self._chunks: Any = getattr(bridge, verb)(FISH, **arguments)
        self.next()

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    @property
    def completion(self) -> llmbridge.Completion:
        found: llmbridge.Completion = self._chunks.completion
        return found

    def next(self) -> str:
        chunk = next(self._chunks) if self._sync else self._do(self._chunks.__anext__())
        self.chunk: llmbridge.Chunk = chunk
        self.text += chunk.text
        return str(chunk.text)

    def rest(self) -> str:
        """Read on to the end; the whole text."""
        with_end = (StopIteration, StopAsyncIteration)
        while True:
            try:
                self.next()
            except with_end:
                return self.text

    def close(self) -> None:
        self._chunks.close() if self._sync else self._do(self._chunks.aclose())

    def fail(self) -> None:
        """An exception in the body."""
        error = ZeroDivisionError()
        if self._sync:
            self._chunks.__exit__(ZeroDivisionError, error, None)
        else:
            self._do(self._chunks.__aexit__(ZeroDivisionError, error, None))

    def drop(self) -> None:
        self._chunks = None

    def end(self) -> None:
        """The end of its thread and event loop, as asyncio.run() makes it."""

        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        if not self._loop.is_closed():
            self._do(cancel())
            self._do(self._loop.shutdown_asyncgens())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


@pytest.fixture(params=["stream", "astream"])
def lead(request: pytest.FixtureRequest, bridge: Bridge, gpt: Model) -> Iterator[Callable[..., Leading]]:
    """Open a stream, of either colour, and read its first chunk."""
    opened: list[Leading] = []

    def lead(**arguments: Any) -> Leading:
        opened.append(Leading(request.param, bridge, model=gpt, **arguments))
        return opened[-1]

    yield lead
    for each in opened:
        each.drop()
        each.end()


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def settled(bridge: Bridge) -> Decimal | None:
    return bridge.ledger.balance(CAP)[0].settled_usd


def test_equal_calls_of_every_verb_in_threads_and_tasks_are_one_request(
    sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor, records: list[CallRecord]
) -> None:
    sim.script(SLOW)

    async def tasks() -> list[llmbridge.Completion]:
        return await asyncio.gather(*(aask(bridge, verb, model=gpt) for verb in ("acomplete", "astream") * 5))

    asked = [pool.submit(ask, bridge, verb, model=gpt) for verb in VERBS * 5]
    asked_tasks = [pool.submit(asyncio.run, tasks()) for _ in range(2)]
    found = [each.result() for each in asked] + [reply for each in asked_tasks for reply in each.result()]

    assert (len(sim.requests), {reply.text for reply in found}, len(found)) == (1, {TEXT}, 40)
    (first,) = [reply for reply in found if not reply.cached]
    assert {(reply.cost_usd, reply.saved_usd) for reply in found if reply.cached} == {(Decimal(0), first.cost_usd)}
    assert settled(bridge) == first.cost_usd
    assert sum(len(record.attempts) for record in records) == 1


def test_a_leader_that_reads_no_further_holds_nobody_up(
    lead: Callable[..., Leading], verb: str, sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor
) -> None:
    sim.script(SLOW)
    leading = lead()

    found = [each.result(20) for each in [pool.submit(ask, bridge, verb, model=gpt) for _ in range(3)]]

    assert ({reply.text for reply in found}, leading.text) == ({TEXT}, PIECES[0])
    assert leading.rest() == leading.completion.text == TEXT
    assert (len(sim.requests), leading.completion.cached) == (1, False)
    assert {reply.saved_usd for reply in found} == {leading.completion.cost_usd}


@pytest.mark.parametrize("way", ["close", "fail", "drop"])
def test_a_leader_that_leaves_early_leaves_the_answer_to_its_followers(
    lead: Callable[..., Leading],
    way: str,
    verb: str,
    sim: Simulator,
    gpt: Model,
    bridge: Bridge,
    pool: ThreadPoolExecutor,
    records: list[CallRecord],
) -> None:
    sim.script(SLOW)
    leading = lead()
    following = [pool.submit(ask, bridge, verb, model=gpt) for _ in range(3)]
    until(lambda: readers() == 4)

    getattr(leading, way)()

    found = [each.result(20) for each in following]
    assert ({reply.text for reply in found}, len(sim.requests)) == ({TEXT}, 1)
    until(lambda: len(records) == 4)  # its own thread writes the leader's, after the answer was handed over
    (call,) = [record for record in records if not record.cached]
    assert (call.outcome, call.uncertain, settled(bridge)) == ("answered", False, call.cost_usd)
    assert bridge.complete(FISH, model=gpt, cache="only").text == TEXT


def readers() -> int:
    """How many read the streams that are under way."""
    return sum(len(each.stream._readers) for each in list(flight._under_way.values()) if each.stream is not None)


def test_a_leader_that_was_left_shows_nothing_more(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor
) -> None:
    sim.script(SLOW)
    leading = lead()
    following = pool.submit(ask, bridge, "stream", model=gpt)
    until(lambda: readers() == 2)
    leading.close()
    following.result(20)

    with pytest.raises(RuntimeError, match="closed before its end"):
        leading.next()
    with pytest.raises(RuntimeError, match="read all chunks first"):
        leading.completion


def test_followers_read_the_chunks_as_they_come_and_the_last_to_leave_ends_the_call(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge, records: list[CallRecord]
) -> None:
    sim.script(HELD)
    leading = lead()

    with bridge.stream(FISH, model=gpt) as chunks:
        assert [next(chunks).text for _ in range(3)] == PIECES[:3]
        leading.close()
        assert sim.disconnects == 0

    assert sim.wait_for_disconnects(1)
    (call,) = [record for record in records if not record.cached]
    assert (call.outcome, call.uncertain, settled(bridge)) == ("left", True, call.cost_usd)
    assert call.cost_usd is not None
    assert call.attempts[0].reserved_usd is not None
    assert 0 < call.cost_usd < call.attempts[0].reserved_usd / 10


def test_an_async_follower_reads_the_chunks_as_they_come_and_can_leave_last(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge, records: list[CallRecord]
) -> None:
    sim.script(HELD)
    leading = lead()

    async def follow() -> None:
        async with bridge.astream(FISH, model=gpt) as chunks:
            assert [(await anext(chunks)).text for _ in range(3)] == PIECES[:3]
            await asyncio.to_thread(leading.close)

    asyncio.run(follow())

    assert [record.outcome for record in records] == ["left", "left"]
    assert sim.wait_for_disconnects(1)


def test_followers_that_leave_do_not_harm_the_leader(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge
) -> None:
    sim.script(SLOW)
    leading = lead()
    for _ in range(3):
        with bridge.stream(FISH, model=gpt) as chunks:
            next(chunks)

    assert (leading.rest(), len(sim.requests)) == (TEXT, 1)
    assert leading.completion.record.outcome == "answered"


def test_a_break_after_content_gives_each_reader_its_own_error_with_what_came(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor
) -> None:
    sim.script(Fault.cut(5, Reply(pieces=PIECES, gap_s=0.3)))
    leading = lead()

    def follow(verb: str) -> StreamInterrupted:
        with pytest.raises(StreamInterrupted) as caught:
            ask(bridge, verb, model=gpt)
        return caught.value

    following = [pool.submit(follow, verb) for verb in ("stream", "astream", "stream")]
    until(lambda: readers() == 4)
    errors = [each.result(20) for each in following]
    with pytest.raises(StreamInterrupted) as caught:
        leading.rest()
    errors.append(caught.value)

    assert {error.partial for error in errors} == {"".join(PIECES[:4])}
    assert leading.text == "".join(PIECES[:4])
    assert len({id(error) for error in errors}) == len({error.call_id for error in errors}) == 4
    assert len(sim.requests) == 1


def test_a_complete_that_followed_a_broken_stream_asks_for_itself_and_the_others_follow_it(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor
) -> None:
    sim.script(Fault.cut(5, Reply(pieces=PIECES, gap_s=0.3)), Reply(text="Pike."))
    leading = lead()
    following = [pool.submit(ask, bridge, verb, model=gpt) for verb in ("complete", "acomplete", "complete")]
    until(lambda: readers() == 4)

    found = [each.result(20) for each in following]

    assert ({reply.text for reply in found}, len(sim.requests)) == ({"Pike."}, 2)
    with pytest.raises(StreamInterrupted):
        leading.rest()


@pytest.mark.parametrize("limit", [{"deadline_s": 0.4}, {"chunk_gap_s": 0.3}], ids=["deadline", "gap"])
def test_a_followers_patience_is_its_own(
    lead: Callable[..., Leading],
    sim: Simulator,
    gpt: Model,
    bridge: Bridge,
    limit: dict[str, float],
    records: list[CallRecord],
) -> None:
    sim.script(HELD)
    leading = lead()

    with pytest.raises(StreamInterrupted) as caught:
        ask(bridge, "stream", model=gpt, **limit)
    with pytest.raises(StreamInterrupted):
        ask(bridge, "astream", model=gpt, **limit)

    assert (caught.value.partial, sim.disconnects) == ("".join(PIECES[:3]), 0)
    assert [leading.next() for _ in range(2)] == PIECES[1:3]
    leading.close()
    assert [record.outcome for record in records] == ["failed", "failed", "left"]
    assert [record.cost_usd for record in records[:2]] == [0, 0]


@pytest.mark.parametrize("limit", [{"deadline_s": 1.0}, {"chunk_gap_s": 0.3}], ids=["deadline", "gap"])
def test_a_leaders_patience_is_its_own(
    lead: Callable[..., Leading],
    sim: Simulator,
    gpt: Model,
    bridge: Bridge,
    limit: dict[str, float],
    pool: ThreadPoolExecutor,
) -> None:
    sim.script(Reply(pieces=PIECES[:3], gap_s=0.6))
    leading = lead(**limit)
    following = pool.submit(ask, bridge, "stream", model=gpt)
    until(lambda: readers() == 2)

    with pytest.raises(StreamInterrupted):
        leading.rest()

    assert (following.result(20).text, len(sim.requests)) == ("".join(PIECES[:3]), 1)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_follower_waits_for_the_first_content_no_longer_than_it_said_and_then_asks_for_itself(
    verb: str, sim: Simulator, gpt: Model, bridge: Bridge, run: Run
) -> None:
    sim.script(Fault.hang(), Reply(text=TEXT))

    async def both() -> llmbridge.Completion:
        leading = asyncio.ensure_future(aask(bridge, "acomplete", model=gpt))
        assert await asyncio.to_thread(sim.wait_for_requests, 1)
        try:
            return await asyncio.to_thread(ask, bridge, verb, model=gpt, first_chunk_s=1)
        finally:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)

    found = run(both())
    assert (found.text, found.cached, len(sim.requests)) == (TEXT, False, 2)


def test_a_stream_follows_a_complete_and_replays_its_answer(
    sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor
) -> None:
    sim.script(Reply(text=TEXT, delay_s=0.2))
    leading = pool.submit(ask, bridge, "complete", model=gpt)
    assert sim.wait_for_requests(1)

    found = [each.result(20) for each in [pool.submit(ask, bridge, verb, model=gpt) for verb in VERBS]]

    assert ({reply.text for reply in found}, {reply.cached for reply in found}) == ({TEXT}, {True})
    assert (leading.result().cached, len(sim.requests)) == (False, 1)


@pytest.mark.parametrize("leader", ["stream", "astream"])
def test_a_leader_that_fails_before_content_hands_over_to_exactly_one(
    leader: str, sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor
) -> None:
    sim.script(Fault.status(500), SLOW)
    found: list[Any] = []

    def one(verb: str) -> None:
        try:
            found.append(ask(bridge, verb, model=gpt))
        except llmbridge.ProviderUnavailable as error:
            found.append(error)

    running = [pool.submit(one, verb) for verb in (leader, *VERBS, *VERBS)]
    for each in running:
        each.result(20)

    failed = [each for each in found if isinstance(each, llmbridge.ProviderUnavailable)]
    assert (len(failed), len(sim.requests)) == (1, 2)
    assert {each.text for each in found if each not in failed} == {TEXT}


def test_a_leader_that_is_cancelled_before_content_hands_over_at_once(
    sim: Simulator, gpt: Model, bridge: Bridge, run: Run
) -> None:
    sim.script(Fault.hang(), Reply(text=TEXT))

    async def handed_over() -> list[str]:
        leading = asyncio.ensure_future(aask(bridge, "astream", model=gpt))
        assert await asyncio.to_thread(sim.wait_for_requests, 1)
        following = [asyncio.ensure_future(aask(bridge, verb, model=gpt)) for verb in ("astream", "acomplete") * 3]
        while max(each.waiting for each in flight._under_way.values()) < 6:  # noqa: ASYNC110
            await asyncio.sleep(0)
        leading.cancel()
        return [reply.text for reply in await asyncio.gather(*following)]

    started = time.monotonic()
    assert (set(run(handed_over())), len(sim.requests)) == ({TEXT}, 2)
    assert time.monotonic() - started < 5


def test_the_leaders_cancellation_in_the_middle_leaves_the_connection_to_the_others(
    sim: Simulator, gpt: Model, bridge: Bridge, run: Run, records: list[CallRecord]
) -> None:
    sim.script(Reply(pieces=PIECES, gap_s=0.05))

    async def cancelled_while_it_waits() -> str:
        leading = asyncio.ensure_future(aask(bridge, "astream", model=gpt))
        while not readers():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        following = asyncio.ensure_future(aask(bridge, "astream", model=gpt))
        while not any(each.stream and each.stream.pumped for each in flight._under_way.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        leading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leading
        return (await following).text

    assert (run(cancelled_while_it_waits()), len(sim.requests)) == (TEXT, 1)
    assert sorted(record.outcome for record in records) == ["answered", "answered"]


def test_readers_of_a_stream_whose_event_loop_ends_are_told_so(
    sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor, records: list[CallRecord]
) -> None:
    sim.script(HELD, Reply(text="Pike."))
    leading = Leading("astream", bridge, model=gpt)
    shown = threading.Event()

    def follow() -> str:
        with bridge.stream(FISH, model=gpt) as chunks:
            next(chunks)
            shown.set()
            return "".join(chunk.text for chunk in chunks)

    following = pool.submit(follow)
    waiting = pool.submit(ask, bridge, "complete", model=gpt)
    assert shown.wait(20)
    until(lambda: readers() == 3)

    leading.end()

    with pytest.raises(StreamInterrupted, match="event loop that it was read on has ended") as caught:
        following.result(20)
    assert caught.value.partial == "".join(PIECES[:3])
    assert (waiting.result(20).text, len(sim.requests)) == ("Pike.", 2)
    leading.drop()


def test_what_one_reader_does_to_its_chunks_the_others_do_not_see(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge
) -> None:
    sim.script(Reply(tool_calls=[("weather", {"city": "Ulm"})]))
    leading = lead()
    for delta in leading.chunk.tool_calls:
        delta.arguments = "spoilt"

    for _ in range(2):
        with bridge.stream(FISH, model=gpt) as chunks:
            for chunk in chunks:
                for delta in chunk.tool_calls:
                    delta.arguments = "spoilt"
        chunks.completion.tool_calls[0].function.arguments = "spoilt"

    leading.rest()
    assert leading.completion.tool_calls[0].function.arguments.replace(" ", "") == '{"city":"Ulm"}'
    kept = bridge.complete(FISH, model=gpt, cache="only")
    assert kept.tool_calls[0].function.arguments.replace(" ", "") == '{"city":"Ulm"}'


def test_a_follower_has_the_usage_chunk_if_it_asked_for_one_and_counts_its_chunks_as_the_leader_does(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge
) -> None:
    sim.script(SLOW)
    leading = lead()
    with bridge.stream(FISH, model=gpt, stream_options={"include_usage": True}) as chunks:
        followed = list(chunks)
    leading.rest()
    with bridge.stream(FISH, model=gpt) as recalled:
        again = list(recalled)

    assert followed[-1].usage is not None
    assert [chunk.text for chunk in followed[:-1]] == [chunk.text for chunk in again]
    counts = [each.completion.record.chunk_count for each in (leading, chunks, recalled)]
    assert counts == [len(again)] * 3


def test_a_truncated_answer_is_followed_to_its_end_and_not_kept(
    lead: Callable[..., Leading], sim: Simulator, gpt: Model, bridge: Bridge
) -> None:
    sim.script(Reply(pieces=PIECES, finish="length"))
    leading = lead()

    followed = ask(bridge, "stream", model=gpt)

    assert (followed.text, followed.finish_reason, leading.rest()) == (TEXT, "length", TEXT)
    assert followed.saved_usd == leading.completion.cost_usd
    with pytest.raises(llmbridge.CacheMiss):
        bridge.complete(FISH, model=gpt, cache="only")


def test_a_call_follows_a_stream_of_its_own_thread(sim: Simulator, gpt: Model, bridge: Bridge) -> None:
    sim.script(SLOW)

    with bridge.stream(FISH, model=gpt) as chunks:
        next(chunks)
        assert bridge.complete(FISH, model=gpt).text == TEXT
        assert PIECES[0] + "".join(chunk.text for chunk in chunks) == TEXT

    assert len(sim.requests) == 1


def test_a_stream_without_followers_is_read_no_faster_than_its_reader_reads(
    lead: Callable[..., Leading], sim: Simulator, bridge: Bridge
) -> None:
    sim.script(HELD)
    leading = lead()

    assert not any(each.stream is None or each.stream.pumped for each in flight._under_way.values())
    assert not [thread for thread in threading.enumerate() if thread.name == "llmbridge-stream"]
    leading.close()


def test_ctrl_c_between_taking_the_lead_and_holding_it_leaves_no_flight(
    sim: Simulator, gpt: Model, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    led = flight._led

    def struck(*arguments: Any) -> Any:
        yield from led(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(flight, "_led", struck)
        for verb in ("complete", "stream"):
            with pytest.raises(KeyboardInterrupt):
                ask(bridge, verb, model=gpt)
            gc.collect()
            assert not flight._under_way

    assert ask(bridge, "complete", model=gpt).text == "Trout."


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_takes_nothing_from_a_stream_that_is_followed(sim: Simulator, gpt: Model, bridge: Bridge) -> None:
    sim.script(SLOW)
    with bridge.stream(FISH, model=gpt) as leading, bridge.stream(FISH, model=gpt) as following:
        next(leading), next(following)
        child = os.fork()
        if not child:
            leading.close()
            following.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        texts = ["".join(chunk.text for chunk in each) for each in (leading, following)]

    assert (texts, len(sim.requests)) == ([TEXT.removeprefix(PIECES[0])] * 2, 1)


WORKER = """
import asyncio, sys, threading
import llmbridge
from llmbridge import Bridge, Model
llmbridge.warm()
bridge = Bridge(cache=sys.argv[1], ledger=sys.argv[1] + ".db")
model = Model("openai/gpt-4o-mini", api_base=sys.argv[2], api_key="sk-test-key")
found = []
def complete(): found.append(bridge.complete("Name a fish.", model=model))
def stream():
    with bridge.stream("Name a fish.", model=model) as chunks:
        for chunk in chunks: print("chunk", flush=True) if sys.argv[4:] else None
    found.append(chunks.completion)
async def astream():
    async with bridge.astream("Name a fish.", model=model) as chunks:
        async for _ in chunks: pass
    return chunks.completion
async def tasks(calls):
    found.extend(await asyncio.gather(*(each() for _ in range(calls) for each in (acomplete, astream))))
def acomplete(): return bridge.acomplete("Name a fish.", model=model)
calls = int(sys.argv[3])
threads = [threading.Thread(target=each) for _ in range(calls) for each in (stream, complete)]
if calls > 1: threads.append(threading.Thread(target=lambda: asyncio.run(tasks(calls))))
if calls == 1: threads = threads[:1]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(reply.cached for reply in found), len(found), len({reply.text for reply in found}))
"""


def worker(cache: Path, api_base: str, calls: int, *more: str) -> subprocess.Popen[str]:
    """A process that has everything loaded and waits to be told to make so many equal calls by every verb at once."""
    command = [sys.executable, "-c", WORKER, str(cache), api_base, str(calls), *more]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.timeout(180)  # four processes that load LiteLLM
def test_a_hundred_equal_calls_of_every_verb_in_four_processes_are_one_request(sim: Simulator, tmp_path: Path) -> None:
    sim.script(Reply(pieces=PIECES, gap_s=0.05))
    workers = [worker(tmp_path / "shared", sim.api_base("openai"), 7) for _ in range(4)]

    for each in workers:
        go(each)
    counts = sorted(each.communicate(timeout=50)[0].split() for each in workers)

    assert len(sim.requests) == 1
    assert counts == [["27", "28", "1"], *[["28", "28", "1"]] * 3]


PAUSED = """
import sys
from llmbridge import Bridge, Model
bridge = Bridge(cache=sys.argv[1], ledger=sys.argv[1] + ".db")
model = Model("openai/gpt-4o-mini", api_base=sys.argv[2], api_key="sk-test-key")
chunks = bridge.stream("Name a fish.", model=model)
text = next(chunks).text
print("ready", flush=True)
sys.stdin.readline()
print(text + "".join(chunk.text for chunk in chunks))
"""


def test_a_stream_that_is_paused_in_one_process_holds_up_no_call_in_another(
    sim: Simulator, gpt: Model, bridge: Bridge, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    sim.script(SLOW)
    command = [sys.executable, "-c", PAUSED, str(tmp_path / "cache"), sim.api_base("openai")]
    leader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    assert leader.stdout.readline() == "ready\n"

    found = [each.result(20) for each in [pool.submit(ask, bridge, verb, model=gpt) for verb in VERBS]]

    assert ({reply.text for reply in found}, {reply.cached for reply in found}) == ({TEXT}, {True})
    assert (leader.communicate("go\n", timeout=20)[0], len(sim.requests)) == (f"{TEXT}\n", 1)


def test_a_killed_stream_that_led_is_followed_by_one_that_waits(
    sim: Simulator, gpt: Model, bridge: Bridge, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    sim.script(HELD, SLOW)
    leader = worker(tmp_path / "cache", sim.api_base("openai"), 1, "tell")
    go(leader)
    assert leader.stdout is not None
    assert leader.stdout.readline() == "chunk\n"
    waiting = [pool.submit(ask, bridge, verb, model=gpt) for verb in VERBS]
    until(lambda: flight._under_way and max(each.waiting for each in flight._under_way.values()) == 3)

    leader.kill()
    leader.communicate(timeout=10)

    found = [each.result(30) for each in waiting]
    assert ({reply.text for reply in found}, len(sim.requests)) == ({TEXT}, 2)
    assert sum(not reply.cached for reply in found) == 1


@pytest.mark.parametrize("seed", range(12))
def test_readers_cancelled_at_any_moment_cost_the_others_nothing(
    sim: Simulator, gpt: Model, bridge: Bridge, run: Run, seed: int, records: list[CallRecord]
) -> None:
    chance = random.Random(seed)
    sim.script(Reply(pieces=PIECES, gap_s=0.004, delay_s=0.01))
    verbs = [chance.choice(["astream", "astream", "acomplete"]) for _ in range(12)]

    async def one(verb: str) -> str:
        await asyncio.sleep(chance.uniform(0, 0.05))
        if verb == "acomplete":
            return (await aask(bridge, verb, model=gpt)).text
        async with bridge.astream(FISH, model=gpt) as chunks:
            text = ""
            async for chunk in chunks:
                text += chunk.text
                await asyncio.sleep(chance.choice([0, 0, 0.005]))
            return text

    async def cancelled() -> list[Any]:
        tasks = [asyncio.ensure_future(one(verb)) for verb in verbs]
        for task in chance.sample(tasks, 7):
            await asyncio.sleep(chance.uniform(0, 0.015))
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = run(cancelled())

    left = [each for each in found if not isinstance(each, asyncio.CancelledError)]
    assert len(left) >= 5
    assert [each for each in left if each != TEXT] == []
    gc.collect()
    assert not flight._under_way
    until(lambda: [balance.reserved for balance in bridge.ledger.balance(CAP)] in ([0], []))
    assert bridge.ledger.check() == []
    assert all(record.cost_usd == 0 for record in records if record.cached)


@pytest.mark.parametrize("seed", range(6))
def test_readers_of_every_colour_that_leave_at_any_moment_cost_the_others_nothing(
    sim: Simulator, gpt: Model, bridge: Bridge, pool: ThreadPoolExecutor, seed: int
) -> None:
    sim.script(Reply(pieces=PIECES, gap_s=0.004, delay_s=0.01))

    def one(number: int) -> str | None:
        chance = random.Random(seed * 100 + number)
        time.sleep(chance.uniform(0, 0.04))
        limit = chance.choice([0, 1, 2, 5, 100, 100, 100])
        if chance.random() < 0.5:
            with bridge.stream(FISH, model=gpt) as chunks:
                text = "".join(chunk.text for _, chunk in zip(range(limit), chunks, strict=False))
            return text if limit == 100 else None

        async def read() -> str:
            text = ""
            async with bridge.astream(FISH, model=gpt) as chunks:
                for _ in range(limit):
                    try:
                        text += (await anext(chunks)).text
                    except StopAsyncIteration:
                        break
            return text

        text = asyncio.run(read())
        return text if limit == 100 else None

    for each in [pool.submit(one, number) for number in range(16)]:
        try:
            assert each.result(30) in (TEXT, None)
        except StreamInterrupted as error:
            assert "event loop" in str(error)
            assert TEXT.startswith(error.partial)
