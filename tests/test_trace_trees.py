"""The trace of whole calls, as a tree: what stands below what, how it ended, what was said on the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import format_span_id

import llmbridge
from llmbridge import Bridge, Budget, Cache, Fallback, Model, default, traced
from tests.conftest import Ask, Run
from tests.simulator import Fault, Reply, Simulator
from tests.trace_text import expected, text
from tests.tracing_spans import Spans


FISH = "Name a fish."
DOWN = Fault.status(503)
QUICK = Fallback(retries=1, breaker=False)


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bridge:
    """The default one, with a cache; it asks the same model twice."""
    bridge = Bridge(cache=Cache(tmp_path / "cache"), fallback=QUICK)
    monkeypatch.setattr(default, "_bridge", bridge)
    return bridge


@pytest.fixture
def models(sim: Simulator) -> list[Model]:
    """Two, at one simulator: its script is for both, in the order of the requests."""
    names = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-haiku-4-5"}
    return [Model(name, api_base=sim.api_base(place), api_key="sk-test-key") for place, name in names.items()]


@pytest.fixture
def sees(spans: Spans, verb: str) -> Callable[[str], None]:
    """Compare what was traced with a golden tree."""

    def compare(golden: str) -> None:
        assert text(spans()) == expected(golden, stream="stream" in verb)

    return compare


Sees = Callable[[str], None]


def test_a_plain_answer(bridge: Bridge, ask: Ask, models: list[Model], sees: Sees) -> None:
    ask(FISH, model=models[0], budget="$1/day")

    sees("""
        chat gpt-4o-mini CLIENT {stream=completed} budget=$1/day
        . cache.miss
        . budget.reserved $1/day
        . budget.settled
          attempt openai/gpt-4o-mini 200 initial answered
          {. first_chunk}
    """)


def test_a_cache_hit(bridge: Bridge, ask: Ask, models: list[Model], spans: Spans, sees: Sees) -> None:
    ask(FISH, model=models[0])
    spans.clear()

    ask(FISH, model=models[0])

    sees("""
        chat gpt-4o-mini CLIENT cache.hit {stream=completed}
        . cache.hit
    """)


def test_a_budget_refuses(bridge: Bridge, ask: Ask, models: list[Model], sees: Sees) -> None:
    with pytest.raises(llmbridge.BudgetExceeded):
        ask(FISH, model=models[0], budget=Budget("$0.000001", name="tight"))

    sees("""
        chat gpt-4o-mini CLIENT ERROR BudgetExceeded {stream=error} budget=tight
        . cache.miss
        . budget.alert tight
        . exception BudgetExceeded
    """)


def test_a_retry_succeeds(
    bridge: Bridge, ask: Ask, models: list[Model], sim: Simulator, spans: Spans, sees: Sees
) -> None:
    sim.script(DOWN, Reply())

    ask(FISH, model=models[0])

    sees("""
        chat gpt-4o-mini CLIENT {stream=completed}
        . cache.miss
        . retry ProviderUnavailable
          attempt openai/gpt-4o-mini ERROR ProviderUnavailable 503 initial failed
          attempt openai/gpt-4o-mini 200 retry answered
          {. first_chunk}
    """)
    first, second = sorted(spans("attempt"), key=lambda span: span.start_time or 0)
    assert (first.end_time or 0) <= (second.start_time or 0)


def test_another_model_answers_after_two_failures(
    bridge: Bridge, ask: Ask, models: list[Model], sim: Simulator, sees: Sees
) -> None:
    sim.script(DOWN, DOWN, Reply())

    ask(FISH, model=models)

    sees("""
        chat gpt-4o-mini CLIENT fallback.used {stream=completed}
        . cache.miss
        . retry ProviderUnavailable
        . fallback openai/gpt-4o-mini anthropic/claude-haiku-4-5 sick upstream
          attempt openai/gpt-4o-mini ERROR ProviderUnavailable 503 initial failed
          attempt openai/gpt-4o-mini ERROR ProviderUnavailable 503 retry failed
          attempt anthropic/claude-haiku-4-5 200 fallback answered
          {. first_chunk}
    """)


def test_all_fail(bridge: Bridge, ask: Ask, models: list[Model], sim: Simulator, sees: Sees) -> None:
    sim.script(DOWN, Fault.status(401))

    with pytest.raises(llmbridge.AllAttemptsFailed):
        ask(FISH, model=Fallback(models, retries=0))

    sees("""
        chat gpt-4o-mini CLIENT ERROR AllAttemptsFailed fallback.used {stream=error}
        . cache.miss
        . fallback openai/gpt-4o-mini anthropic/claude-haiku-4-5 sick upstream
        . exception AllAttemptsFailed
          attempt openai/gpt-4o-mini ERROR ProviderUnavailable 503 initial failed
          attempt anthropic/claude-haiku-4-5 ERROR AuthenticationFailed 401 fallback failed
    """)


def test_a_breaker_is_skipped(
    bridge: Bridge, ask: Ask, models: list[Model], sim: Simulator, spans: Spans, sees: Sees
) -> None:
    careful = Fallback(models, retries=0)
    sim.script(Fault.status(401), Reply())
    ask(FISH, model=careful)
    spans.clear()

    ask("Name another fish.", model=careful)

    sees("""
        chat gpt-4o-mini CLIENT {stream=completed}
        . cache.miss
        . skipped openai/gpt-4o-mini
          attempt anthropic/claude-haiku-4-5 200 initial answered
          {. first_chunk}
    """)


def test_a_cheaper_model_is_asked_where_the_budget_is_tight(
    bridge: Bridge, ask: Ask, sim: Simulator, sees: Sees
) -> None:
    dear, cheap = (
        Model(name, api_base=sim.api_base("openai"), api_key="sk-test-key")
        for name in ("openai/gpt-4o", "openai/gpt-4o-mini")
    )
    tight = Budget("$0.005", name="tight", on_exceed="downgrade")

    ask(FISH, model=[dear, cheap], max_tokens=1000, budget=tight)

    sees("""
        chat gpt-4o CLIENT fallback.used {stream=completed} budget=tight
        . cache.miss
        . fallback openai/gpt-4o openai/gpt-4o-mini budget
        . budget.reserved tight
        . budget.settled
          attempt openai/gpt-4o-mini 200 downgrade answered
          {. first_chunk}
    """)


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_an_answer_is_rejected(bridge: Bridge, ask: Ask, models: list[Model], sim: Simulator, sees: Sees) -> None:
    sim.script(Reply(text="Pike."), Reply(text="Trout."))

    ask(FISH, model=Fallback(models, retries=0, accept=lambda answer: answer.text == "Trout."))

    sees("""
        chat gpt-4o-mini CLIENT fallback.used
        . cache.miss
        . fallback openai/gpt-4o-mini anthropic/claude-haiku-4-5 bad answer
          attempt openai/gpt-4o-mini ERROR InvalidOutput 200 initial failed
          attempt anthropic/claude-haiku-4-5 200 fallback answered
    """)


LONG = Reply(pieces=[f"{number} " for number in range(400)], gap_s=0.02)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_stream_is_left(
    bridge: Bridge, verb: str, models: list[Model], sim: Simulator, run: Run, spans: Spans, sees: Sees
) -> None:
    sim.script(LONG)

    async def read_two() -> None:
        async with bridge.astream(FISH, model=models[0]) as chunks:
            await anext(chunks)
            await anext(chunks)

    if verb == "astream":
        run(read_two())
    else:
        with bridge.stream(FISH, model=models[0]) as chunks:
            next(chunks)
            next(chunks)

    sees("""
        chat gpt-4o-mini CLIENT cost.uncertain stream=closed
        . cache.miss
          attempt openai/gpt-4o-mini 200 initial left
          . first_chunk
    """)
    assert (spans.one("chat").attributes or {})["llmbridge.stream.chunk_count"] == 2


@pytest.mark.parametrize("verb", ["acomplete", "astream"])
def test_a_call_is_cancelled(
    bridge: Bridge, verb: str, models: list[Model], sim: Simulator, run: Run, sees: Sees
) -> None:
    sim.script(Reply(delay_s=5))

    async def cancelled() -> None:
        task = asyncio.ensure_future(read(bridge, verb, model=models[0]))
        await asyncio.to_thread(sim.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())

    sees("""
        chat gpt-4o-mini CLIENT ERROR CancelledError cost.uncertain {stream=cancelled}
        . cache.miss
        . exception CancelledError
          attempt openai/gpt-4o-mini ERROR CancelledError initial cancelled
    """)


@pytest.mark.parametrize("verb", ["embed", "aembed"])
def test_embeddings(bridge: Bridge, verb: str, sim: Simulator, run: Run, sees: Sees) -> None:
    model = Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")

    if verb == "embed":
        bridge.embed(["pike", "trout"], model=model)
    else:
        run(bridge.aembed(["pike", "trout"], model=model))

    sees("""
        embeddings text-embedding-3-small CLIENT
        . cache.miss
          attempt openai/text-embedding-3-small 200 initial answered
    """)


def test_two_calls_of_one_function(bridge: Bridge, ask: Ask, models: list[Model], sees: Sees) -> None:
    @traced("answer_ticket")
    def answer() -> None:
        ask(FISH, model=models[0])
        ask("Name another fish.", model=models[0])

    answer()

    sees("""
        answer_ticket
          chat gpt-4o-mini CLIENT {stream=completed}
          . cache.miss
            attempt openai/gpt-4o-mini 200 initial answered
            {. first_chunk}
          chat gpt-4o-mini CLIENT {stream=completed}
          . cache.miss
            attempt openai/gpt-4o-mini 200 initial answered
            {. first_chunk}
    """)


FIRST_WINS = """
    chat gpt-4o-mini CLIENT cost.uncertain {stream=completed}
    . cache.miss
    . hedge
      attempt openai/gpt-4o-mini 200 initial answered
      {. first_chunk}
      attempt openai/gpt-4o hedge cancelled
"""
SECOND_WINS = """
    chat gpt-4o-mini CLIENT cost.uncertain {stream=completed}
    . cache.miss
    . hedge
      attempt openai/gpt-4o-mini initial cancelled
      attempt openai/gpt-4o 200 hedge answered
      {. first_chunk}
"""


@pytest.fixture(scope="module")
def _second() -> Any:
    with Simulator() as running:
        yield running


@pytest.mark.parametrize("slow", ["first", "second"])
def test_a_hedge(
    bridge: Bridge, ask: Ask, models: list[Model], sim: Simulator, _second: Simulator, slow: str, sees: Sees
) -> None:
    _second.reset()
    other = Model("openai/gpt-4o", api_base=_second.api_base("openai"), api_key="sk-test-key")
    sim.script(Reply(text="Pike.", delay_s=5 if slow == "first" else 0.4))
    _second.script(Reply(text="Trout.", delay_s=0 if slow == "first" else 5))

    ask(FISH, model=Fallback([models[0], other], hedge_after_s=0.05, retries=0))

    sees(FIRST_WINS if slow == "second" else SECOND_WINS)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_stream_begins_anew(bridge: Bridge, ask: Ask, models: list[Model], sim: Simulator, sees: Sees) -> None:
    sim.script(Fault.cut(after_events=3, reply=Reply(text="Pike and salmon and eel."), clean=False), Reply())

    ask(FISH, model=Fallback(models, retries=0, on_stream_break="restart"))

    sees("""
        chat gpt-4o-mini CLIENT cost.uncertain stream=completed
        . cache.miss
          attempt openai/gpt-4o-mini ERROR StreamInterrupted 200 initial failed
          . first_chunk
          attempt anthropic/claude-haiku-4-5 200 restart answered
          . first_chunk
    """)


def test_a_follower_links_to_its_leader(
    bridge: Bridge, verb: str, models: list[Model], sim: Simulator, run: Run, spans: Spans, sees: Sees
) -> None:
    sim.script(Reply(text="Trout and carp and perch.", delay_s=0.3, gap_s=0.02))

    async def both() -> None:
        await asyncio.gather(read(bridge, verb, model=models[0]), read(bridge, verb, model=models[0]))

    if verb in ("acomplete", "astream"):
        run(both())
    else:
        threads = [threading.Thread(target=consume, args=(bridge, verb), kwargs={"model": models[0]}) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    sees("""
        chat gpt-4o-mini CLIENT {stream=completed}
        . cache.miss
          attempt openai/gpt-4o-mini 200 initial answered
          {. first_chunk}
        chat gpt-4o-mini CLIENT cache.hit {stream=completed} 1 link
        . cache.miss
        . cache.hit
    """)
    (follower,) = [span for span in spans("chat") if span.links]
    (leader,) = [span for span in spans("chat") if not span.links]
    assert follower.links[0].context.span_id == leader.context.span_id, format_span_id(leader.context.span_id)
    assert follower.links[0].context.trace_id == leader.context.trace_id


async def read(bridge: Bridge, verb: str, **arguments: Any) -> None:
    """Ask by one of the async verbs, and read a stream to its end."""
    if verb == "acomplete":
        await bridge.acomplete(FISH, **arguments)
        return
    async with bridge.astream(FISH, **arguments) as chunks:
        async for _ in chunks:
            pass


def consume(bridge: Bridge, verb: str, **arguments: Any) -> None:
    """Same as read(), by one of the sync ones."""
    if verb == "complete":
        bridge.complete(FISH, **arguments)
        return
    with bridge.stream(FISH, **arguments) as chunks:
        for _ in chunks:
            pass
