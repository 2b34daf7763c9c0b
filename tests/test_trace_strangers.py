"""What a stranger's tracer, exporter, processor or Ctrl-C may do: no call breaks, no span is left open."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import Tracer, get_current_span

from llmbridge import Bridge, Model
from llmbridge.call.attempt import Attempt
from llmbridge.tracing.current import Current
from llmbridge.tracing.recorded import RecordedAttempt, RecordedCall
from llmbridge.tracing.tracer import Own
from tests.conftest import Ask, Run
from tests.simulator import Reply, Simulator
from tests.tracing_spans import Spans


FISH = "Name a fish."
LONG = Reply(pieces=[f"{number} " for number in range(400)], gap_s=0.02)


class Open(SpanProcessor):
    """The spans that have begun and not ended."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.names.append(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self.names.remove(span.name)


@pytest.fixture(autouse=True)
def none_is_left_open(spans: Spans) -> Iterator[list[str]]:
    assert isinstance(Own.tracer_provider, TracerProvider)
    watching = Open()
    Own.tracer_provider.add_span_processor(watching)
    yield watching.names
    gc.collect()
    assert watching.names == []
    assert not get_current_span().get_span_context().is_valid


@pytest.fixture
def model(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


class Broken(SpanProcessor):
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        raise OSError("no room")

    def on_end(self, span: ReadableSpan) -> None:
        raise OSError("no room")


class BrokenAtTheEnd(Broken):
    def on_start(self, span: Span, parent_context: Any = None) -> None: ...


@pytest.mark.parametrize("broken", [Broken, BrokenAtTheEnd])
def test_a_processor_that_raises_breaks_no_call(
    broken: type[Broken], ask: Ask, model: Model, monkeypatch: pytest.MonkeyPatch, fresh_default: Bridge
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(broken())
    monkeypatch.setattr(Own, "tracer_provider", provider)

    assert ask(FISH, model=model).text == "Trout."
    assert fresh_default.ledger.check() == []


@pytest.mark.parametrize("method", ["get_span_context", "is_recording", "set_attributes", "add_event", "set_status"])
def test_a_span_that_raises_breaks_no_call(
    method: str, ask: Ask, model: Model, monkeypatch: pytest.MonkeyPatch, fresh_default: Bridge
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Span, method, fail)
        patch.setattr(Own, "tracer_provider", TracerProvider(shutdown_on_exit=False))
        assert ask(FISH, model=model, budget="$1/day").text == "Trout."
    assert fresh_default.ledger.check() == []


def test_a_tracer_that_cannot_be_had_breaks_no_call(
    ask: Ask, model: Model, monkeypatch: pytest.MonkeyPatch, fresh_default: Bridge
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Tracer:
        raise OSError("no room")

    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(provider, "get_tracer", fail)
    monkeypatch.setattr(Own, "tracer_provider", provider)

    assert ask(FISH, model=model).text == "Trout."


STEPS: list[tuple[Any, str, str]] = [
    (RecordedCall, "attempt", "before"),
    (RecordedCall, "attempt", "after"),
    (RecordedCall, "event", "after"),
    (RecordedAttempt, "current", "after"),
    (Current, "__enter__", "after"),
    (RecordedAttempt, "end", "before"),
    (RecordedCall, "end", "before"),
    (Attempt, "_observe", "before"),
    (Attempt, "take", "after"),
]


@pytest.mark.parametrize(("kind", "name", "when"), STEPS, ids=lambda each: getattr(each, "__name__", each))
@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_ctrl_c_between_two_lines_leaves_no_span_open(
    kind: Any,
    name: str,
    when: str,
    ask: Ask,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    fresh_default: Bridge,
    none_is_left_open: list[str],
    spans: Spans,
) -> None:
    real: Callable[..., Any] = getattr(kind, name)
    struck: list[bool] = []

    def strike(*args: Any, **kwargs: Any) -> Any:
        if struck:
            return real(*args, **kwargs)
        struck.append(True)
        if when == "after":
            real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, name, strike)

    with pytest.raises(KeyboardInterrupt):
        ask(FISH, model=model, budget="$1/day")

    assert struck
    assert len(spans("chat")) == 1
    assert none_is_left_open == []
    spans.clear()  # it may have struck between the count of an attempt and its span
    assert not get_current_span().get_span_context().is_valid
    assert fresh_default.ledger.check() == []


@pytest.mark.parametrize("colour", ["stream", "astream"])
def test_a_stream_that_is_dropped_ends_its_spans_when_it_is_collected(
    colour: str, model: Model, sim: Simulator, run: Run, fresh_default: Bridge, spans: Spans
) -> None:
    sim.script(LONG)

    async def drop() -> None:
        chunks = fresh_default.astream(FISH, model=model)
        await anext(chunks)
        del chunks
        gc.collect()

    if colour == "astream":
        run(drop())
    else:
        chunks = fresh_default.stream(FISH, model=model)
        next(chunks)
        del chunks
        gc.collect()

    assert (spans.one("chat").attributes or {})["llmbridge.stream.outcome"] == "abandoned"
    assert len(spans("attempt")) == 1


def test_a_stream_that_is_closed_by_another_task_leaves_what_is_current_there(
    model: Model, sim: Simulator, run: Run, fresh_default: Bridge, spans: Spans
) -> None:
    sim.script(LONG)

    assert Own.tracer_provider is not None
    application = Own.tracer_provider.get_tracer("application")

    async def elsewhere() -> None:
        chunks = fresh_default.astream(FISH, model=model)
        await anext(chunks)

        async def close() -> None:
            with application.start_as_current_span("closes") as mine:
                await chunks.aclose()
                assert get_current_span() is mine

        await asyncio.create_task(close())

    run(elsewhere())

    assert spans.one("attempt").parent == spans.one("chat").context


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_in_the_middle_of_a_stream_ends_the_spans_once(
    model: Model, sim: Simulator, fresh_default: Bridge, spans: Spans, tmp_path: Path
) -> None:
    sim.script(LONG)
    with fresh_default.stream(FISH, model=model) as chunks:
        next(chunks)
        pid = os.fork()
        if pid == 0:
            try:
                del chunks
                gc.collect()
                (tmp_path / "child").write_text(str(len(spans("chat"))))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        next(chunks)

    assert (tmp_path / "child").read_text() == "0"
    assert len(spans("chat")) == 1
