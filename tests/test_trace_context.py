"""Whose child a call's span is, what is current while it runs, and what of it goes on to a provider."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Tracer, get_current_span

from llmbridge import Bridge, Fallback, Model, traced, wire
from llmbridge.tracing.tracer import Own
from tests.conftest import ONCE, Run
from tests.simulator import Reply, Simulator
from tests.tracing_spans import Spans


FISH = "Name a fish."
SIX = ("complete", "acomplete", "stream", "astream", "embed", "aembed")


@pytest.fixture
def tracer(spans: Spans) -> Tracer:
    """The application's own."""
    assert Own.tracer_provider is not None
    return Own.tracer_provider.get_tracer("application")


@pytest.fixture
def model(sim: Simulator) -> Model:
    return at(sim, "openai/gpt-4o-mini")


def at(sim: Simulator, name: str) -> Model:
    return Model(name, api_base=sim.api_base("openai"), api_key="sk-test-key")


async def verb_of(bridge: Bridge, verb: str, sim: Simulator, seen: Callable[[], object] = lambda: None) -> None:
    """Ask by *verb*, and have *seen* look around between the chunks."""
    model = at(sim, "openai/text-embedding-3-small" if "embed" in verb else "openai/gpt-4o-mini")
    if verb == "stream":
        with bridge.stream(FISH, model=model) as chunks:
            for _ in chunks:
                seen()
    elif verb == "astream":
        async with bridge.astream(FISH, model=model) as asynchronous:
            async for _ in asynchronous:
                seen()
    elif verb.startswith("a"):
        await getattr(bridge, verb)(FISH, model=model)
    else:
        getattr(bridge, verb)(FISH, model=model)


def ids(span: Any) -> tuple[int, int]:
    has = span.get_span_context()
    return has.trace_id, has.span_id


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


@pytest.mark.parametrize("verb", SIX)
def test_whoever_instruments_http_stands_below_the_attempt_and_the_caller_gets_back_what_was_current(
    verb: str,
    run: Run,
    fresh_default: Bridge,
    sim: Simulator,
    spans: Spans,
    tracer: Tracer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = wire._on_request

    def instrumented(request: Any) -> None:
        with tracer.start_as_current_span("POST"):
            real(request)

    monkeypatch.setattr(wire, "_on_request", instrumented)
    between = []

    async def call() -> None:
        with tracer.start_as_current_span("handler") as mine:
            await verb_of(fresh_default, verb, sim, lambda: between.append(get_current_span() is mine))
            assert get_current_span() is mine

    run(call())

    attempt = spans.one("attempt")
    assert parent(spans.one("POST")) == ids(attempt)
    chat = spans.one("embeddings" if "embed" in verb else "chat")
    assert parent(attempt) == ids(chat)
    assert parent(chat) == ids(spans.one("handler"))
    assert all(between)
    assert bool(between) == ("stream" in verb)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_what_reads_a_chunk_runs_in_the_attempts_span(
    verb: str, run: Run, fresh_default: Bridge, sim: Simulator, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.script(Reply(pieces=["Trout", ", ", "carp"], gap_s=0.02))
    real, seen = wire._bounded, []

    def looking(timeout_s: float | None) -> float | None:
        seen.append(ids(get_current_span()))
        return real(timeout_s)

    monkeypatch.setattr(wire, "_bounded", looking)

    run(verb_of(fresh_default, verb, sim))

    assert len(seen) > 2
    assert set(seen) == {ids(spans.one("attempt"))}


@pytest.fixture
def families(spans: Spans) -> Iterator[Callable[[], set[tuple[str, ...]]]]:
    """What was traced of traced functions and calls, as (function, ..., call) from the root down."""

    def found() -> set[tuple[str, ...]]:
        by_id = {ids(span): span for span in spans()}

        def path(span: ReadableSpan) -> tuple[str, ...]:
            above = by_id.get(parent(span) or (0, 0))
            return (*(path(above) if above is not None else ()), span.name)

        return {path(span) for span in spans("chat")}

    yield found


Families = Callable[[], set[tuple[str, ...]]]
CHAT = "chat gpt-4o-mini"


def test_threads_of_a_pool_begin_traces_of_their_own_unless_they_are_given_the_callers(
    fresh_default: Bridge, model: Model, families: Families
) -> None:
    def call() -> None:
        fresh_default.complete(FISH, model=model)

    @traced("answer")
    def answer() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: traced("alone")(call)(), range(4)))
            for _ in range(4):
                pool.submit(contextvars.copy_context().run, traced("below")(call))

    answer()

    assert families() == {("alone", CHAT), ("answer", "below", CHAT)}


def test_tasks_stand_below_what_was_current_where_they_were_made(
    fresh_default: Bridge, model: Model, families: Families, run: Run
) -> None:
    async def call() -> None:
        await fresh_default.acomplete(FISH, model=model)

    async def one(name: str) -> None:
        await traced(name)(call)()

    @traced("answer")
    async def answer() -> None:
        await asyncio.gather(one("first"), one("second"))
        await asyncio.to_thread(lambda: fresh_default.complete(FISH, model=model))
        async with asyncio.TaskGroup() as group:
            group.create_task(one("third"))
            group.create_task(one("fourth"))

    run(answer())

    assert families() == {
        ("answer", CHAT),
        *(("answer", name, CHAT) for name in ("first", "second", "third", "fourth")),
    }


def test_a_stream_may_be_read_by_a_task_a_step(
    fresh_default: Bridge, model: Model, sim: Simulator, spans: Spans, tracer: Tracer, run: Run
) -> None:
    sim.script(Reply(pieces=["Trout", ", ", "carp", " and ", "pike"]))

    async def in_a_task(name: str, step: Callable[[], Any]) -> Any:
        async def body() -> Any:
            with tracer.start_as_current_span(name) as mine:
                found = await step()
                assert get_current_span() is mine
                return found

        return await asyncio.create_task(body())

    async def read() -> None:
        chunks = fresh_default.astream(FISH, model=model)
        await in_a_task("opens", chunks.__aenter__)
        for number in range(3):
            await in_a_task(f"reads {number}", chunks.__anext__)
        await in_a_task("closes", chunks.aclose)
        assert not get_current_span().get_span_context().is_valid

    run(read())

    assert parent(spans.one("chat")) == ids(spans.one("opens"))
    assert parent(spans.one("attempt")) == ids(spans.one("chat"))


def test_calls_side_by_side_do_not_mix(fresh_default: Bridge, model: Model, spans: Spans, run: Run) -> None:
    @traced("answer")
    async def answer() -> str | None:
        reply = await fresh_default.acomplete(FISH, model=model)
        assert ids(get_current_span())[0] == int(reply.record.trace_id or "0", 16)
        return reply.record.trace_id

    async def many() -> list[str | None]:
        return await asyncio.gather(*(answer() for _ in range(20)))

    assert len(set(run(many()))) == 20
    assert {parent(span) for span in spans("attempt")} == {ids(span) for span in spans("chat")}


@pytest.mark.parametrize("verb", SIX)
@pytest.mark.parametrize("propagate", [False, True])
def test_the_trace_goes_on_to_the_provider_only_if_that_is_asked_for(
    verb: str, propagate: bool, run: Run, sim: Simulator, spans: Spans
) -> None:
    bridge = Bridge(fallback=ONCE, propagate=propagate)

    async def call() -> None:
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        try:
            await verb_of(bridge, verb, sim)
        finally:
            context.detach(token)

    run(call())

    headers = sim.requests[0].headers
    trace_id, span_id = ids(spans.one("attempt"))
    sent = {name: headers[name] for name in ("traceparent", "tracestate", "baggage") if name in headers}
    expected = {"traceparent": f"00-{trace_id:032x}-{span_id:016x}-01", "baggage": "tenant=acme"}
    if propagate:
        sent["traceparent"] = sent["traceparent"][:-2] + "01"  # another bit says that the trace's id is random
    assert sent == (expected if propagate else {})
    bridge.ledger.close()


def test_what_is_propagated_is_no_part_of_the_cache_key(
    sim: Simulator, model: Model, spans: Spans, tmp_path: Any
) -> None:
    asked = Bridge(cache=tmp_path / "cache", propagate=True, ledger=None, fallback=Fallback(retries=0))
    again = Bridge(cache=tmp_path / "cache", ledger=None)

    first, second = asked.complete(FISH, model=model), again.complete(FISH, model=model)

    assert (first.cached, second.cached, len(sim.requests)) == (False, True, 1)
    assert "traceparent" in sim.requests[0].headers
