"""traced(): four kinds of functions, and every way they end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry.trace import StatusCode, Tracer, get_current_span

from llmbridge import semconv
from llmbridge.tracing import traced
from llmbridge.tracing.tracer import Own
from tests.trace_contract import attributes, violations
from tests.tracing_spans import Spans


@pytest.fixture(autouse=True)
def a_clean_context(caplog: pytest.LogCaptureFixture, spans: Spans) -> Iterator[None]:
    """Every test here ends with nothing current, with spans that hold to the contract, and without the log line of a
    span that was attached across a yield."""
    caplog.set_level(logging.DEBUG, "opentelemetry")
    yield
    gc.collect()
    assert not get_current_span().get_span_context().is_valid
    said = [record.getMessage() for phase in ("call", "teardown") for record in caplog.get_records(phase)]
    assert "Failed to detach context" not in said
    assert violations(spans()) == []


@pytest.fixture
def tracer(spans: Spans) -> Tracer:
    assert Own.tracer_provider is not None
    return Own.tracer_provider.get_tracer("app")


def current() -> Any:
    return get_current_span().get_span_context()


@traced("work")
def plain(fail: BaseException | None = None) -> Any:
    if fail is not None:
        raise fail
    return current()


@traced("work")
async def coroutine(fail: BaseException | None = None) -> Any:
    await asyncio.sleep(0)
    if fail is not None:
        raise fail
    return current()


@traced("work")
def generator(fail: BaseException | None = None) -> Iterator[Any]:
    yield current()
    yield current()
    if fail is not None:
        raise fail


@traced("work")
async def async_generator(fail: BaseException | None = None) -> AsyncIterator[Any]:
    yield current()
    await asyncio.sleep(0)
    yield current()
    if fail is not None:
        raise fail


def run_plain(fail: BaseException | None = None) -> list[Any]:
    return [plain(fail)]


def run_coroutine(fail: BaseException | None = None) -> list[Any]:
    return [asyncio.run(coroutine(fail))]


def run_generator(fail: BaseException | None = None) -> list[Any]:
    return [(each, assert_outside())[0] for each in generator(fail)]


def run_async_generator(fail: BaseException | None = None) -> list[Any]:
    async def read() -> list[Any]:
        return [(each, assert_outside())[0] async for each in async_generator(fail)]

    return asyncio.run(read())


def assert_outside() -> None:
    assert not current().is_valid


kinds = pytest.mark.parametrize("run", [run_plain, run_coroutine, run_generator, run_async_generator])
Run = Callable[..., list[Any]]


def test_what_is_decorated_stays_what_it_was() -> None:
    assert not inspect.iscoroutinefunction(plain)
    assert not inspect.isgeneratorfunction(plain)
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(async_generator)
    assert (plain.__name__, list(inspect.signature(plain).parameters)) == ("plain", ["fail"])


def test_it_takes_the_name_of_the_span() -> None:
    with pytest.raises(TypeError, match="takes the name of the span"):
        traced(lambda: None)  # type: ignore[arg-type]


@kinds
def test_the_span_is_current_in_the_body_alone(spans: Spans, run: Run) -> None:
    seen = run()

    assert {each.span_id for each in seen} == {spans.one("work").context.span_id}  # type: ignore[union-attr]
    assert spans.one("work").status.status_code is StatusCode.UNSET


@kinds
@pytest.mark.parametrize("error", [ValueError("no fish"), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
def test_an_error_marks_the_span_once_and_passes_unchanged(
    spans: Spans,
    run: Run,
    error: BaseException,
) -> None:
    with pytest.raises(type(error)) as caught:
        run(error)

    span = spans.one("work")
    name = "asyncio.CancelledError" if isinstance(error, asyncio.CancelledError) else type(error).__name__
    assert caught.value is error or run is run_coroutine  # asyncio.run() makes a new one of a cancellation
    assert (span.status.status_code, attributes(span)[semconv.ERROR_TYPE]) == (StatusCode.ERROR, name)
    (event,) = span.events
    assert event.attributes is not None
    assert str(error) in str(event.attributes["exception.stacktrace"])


@kinds
def test_without_tracing_the_function_runs_as_it_is(
    spans: Spans,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Own, "tracer_provider", None)

    assert run()
    with pytest.raises(ValueError, match="no fish"):
        run(ValueError("no fish"))
    assert spans() == []


def test_a_generator_sends_throws_and_returns_as_it_did(spans: Spans) -> None:
    @traced("talk")
    def talk() -> Any:
        heard = []
        for _ in range(3):
            try:
                heard.append((yield len(heard)))
            except KeyError as error:
                heard.append(error)
        return heard

    def delegate() -> Any:
        return (yield from talk())

    talking = delegate()
    error = KeyError("x")
    assert [next(talking), talking.send("a"), talking.throw(error)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        talking.send("b")

    assert end.value.value == ["a", error, "b"]
    assert attributes(spans.one("talk"))[semconv.STREAM_OUTCOME] == "completed"


def test_an_async_generator_sends_and_throws_as_it_did(spans: Spans) -> None:
    heard: list[Any] = []

    @traced("talk")
    async def talk() -> Any:
        for _ in range(3):
            try:
                heard.append((yield len(heard)))
            except KeyError as error:
                heard.append(error)

    async def main() -> list[Any]:
        talking, error = talk(), KeyError("x")
        said = [await anext(talking), await talking.asend("a"), await talking.athrow(error)]
        assert await anext(talking, "end") == "end"
        return said

    assert asyncio.run(main()) == [0, 1, 2]
    assert (heard[0], type(heard[1]), heard[2]) == ("a", KeyError, None)


def test_an_error_thrown_in_that_the_body_lets_pass_is_the_spans(spans: Spans) -> None:
    running = generator()
    next(running)
    error = RuntimeError("from the reader")
    with pytest.raises(RuntimeError) as caught:
        running.throw(error)

    assert caught.value is error
    assert attributes(spans.one("work")) == {semconv.ERROR_TYPE: "RuntimeError", semconv.STREAM_OUTCOME: "error"}


def leave_by_break() -> None:
    for _ in generator():
        break


def leave_by_close() -> None:
    running = generator()
    next(running)
    running.close()


def leave_to_the_collector() -> None:
    running = generator()
    next(running)
    cycle: list[Any] = [running]
    cycle.append(cycle)
    del running, cycle
    gc.collect()


def leave_in_another_thread() -> None:
    running = [generator()]
    next(running[0])
    thread = threading.Thread(target=running.clear)
    thread.start()
    thread.join()


def leave_in_another_context() -> None:
    running = generator()
    contextvars.copy_context().run(next, running)
    running.close()


def leave_async(how: str) -> None:
    async def main() -> None:
        running = async_generator()
        if how == "close":
            await anext(running)
            await running.aclose()  # type: ignore[attr-defined]
        elif how == "break":
            async for _ in running:
                break
        else:
            await asyncio.create_task(anext(running))  # type: ignore[arg-type]
        del running
        gc.collect()
        await asyncio.sleep(0.01)

    asyncio.run(main())


def leave_after_the_loop() -> None:
    async def begin() -> AsyncIterator[Any]:
        running = async_generator()
        await anext(running)
        return running

    loop = asyncio.new_event_loop()
    left = [loop.run_until_complete(begin())]
    loop.close()
    left.clear()
    gc.collect()


LEAVING: dict[str, Callable[[], None]] = {
    "break": leave_by_break,
    "close": leave_by_close,
    "collected": leave_to_the_collector,
    "another thread": leave_in_another_thread,
    "another context": leave_in_another_context,
    "async break": lambda: leave_async("break"),
    "async close": lambda: leave_async("close"),
    "async collected": lambda: leave_async("collect"),
    "after the loop": leave_after_the_loop,
}


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
def test_a_generator_that_is_left_is_closed_and_has_not_failed(spans: Spans, leave: Callable[[], None]) -> None:
    leave()

    span = spans.one("work")
    assert (span.status.status_code, attributes(span)) == (StatusCode.UNSET, {semconv.STREAM_OUTCOME: "closed"})


def test_a_generator_that_was_never_asked_has_no_span(spans: Spans) -> None:
    generator()
    async_generator()

    assert spans() == []


def test_spans_that_the_body_opens_stay_current_for_the_body_alone(spans: Spans, tracer: Tracer) -> None:
    @traced("work")
    def body() -> Iterator[Any]:
        with tracer.start_as_current_span("inner"):
            yield current()
            yield current()
        yield current()

    seen = run_through(body())

    inner, work = spans.one("inner").context, spans.one("work").context
    assert seen == [inner, inner, work]
    assert spans.one("inner").parent == work


def run_through(steps: Iterator[Any]) -> list[Any]:
    return [(each, assert_outside())[0] for each in steps]


def test_the_same_for_async_generators_with_tasks_in_between(spans: Spans, tracer: Tracer) -> None:
    @traced("work")
    async def body() -> AsyncIterator[Any]:
        with tracer.start_as_current_span("inner"):
            yield current()
            async with asyncio.TaskGroup() as group:
                child = group.create_task(coroutine())
            yield child.result()
        yield current()

    async def read() -> list[Any]:
        return [(each, assert_outside())[0] async for each in body()]

    seen = asyncio.run(read())

    inner = spans.one("inner").context
    assert seen[0] == inner
    child, outer = spans("work")
    assert (child.parent, child.context, outer.context) == (inner, seen[1], seen[2])


@pytest.mark.parametrize("how", ["break", "collected", "another thread", "async"])
def test_a_body_that_is_left_inside_its_own_span_is_closed_quietly(
    spans: Spans,
    tracer: Tracer,
    how: str,
) -> None:
    @traced("work")
    def body() -> Iterator[int]:
        with tracer.start_as_current_span("inner"):
            yield 1

    @traced("work")
    async def async_body() -> AsyncIterator[int]:
        with tracer.start_as_current_span("inner"):
            yield 1

    async def leave() -> None:
        async for _ in async_body():
            break
        gc.collect()
        await asyncio.sleep(0.01)

    running = [body()]
    if how == "async":
        asyncio.run(leave())
    else:
        next(running[0])
    if how == "another thread":
        thread = threading.Thread(target=running.clear)
        thread.start()
        thread.join()
    running.clear()
    gc.collect()

    assert [span.status.status_code for span in spans()] == [StatusCode.UNSET] * 2
    assert spans.one("inner").parent == spans.one("work").context


def test_generators_side_by_side_do_not_mix(spans: Spans) -> None:
    one, two = generator(), generator()

    pairs = [(next(one), next(two)) for _ in range(2)]
    one.close()
    two.close()

    assert [len({pair[side].span_id for pair in pairs}) for side in (0, 1)] == [1, 1]
    assert len({each.span_id for pair in pairs for each in pair}) == 2


def test_a_generator_within_a_function_stands_below_it(spans: Spans) -> None:
    @traced("outer")
    def outer() -> None:
        list(generator())

    outer()

    assert spans.one("work").parent == spans.one("outer").context


def test_a_step_in_each_of_many_threads_leaves_none_of_them_with_a_span(spans: Spans) -> None:
    @traced("work")
    def count() -> Iterator[Any]:
        for _ in range(20):
            yield current()

    running = count()
    with ThreadPoolExecutor(4) as pool:
        seen = [pool.submit(next, running).result() for _ in range(20)]
        left = list(pool.map(lambda _: current().is_valid, range(20)))
    running.close()

    assert (len({each.span_id for each in seen}), set(left)) == (1, {False})


def test_tasks_of_a_group_each_have_their_own_span(spans: Spans) -> None:
    @traced("outer")
    async def outer() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(coroutine())

    asyncio.run(outer())

    outer_context = spans.one("outer").context
    assert [span.parent for span in spans("work")] == [outer_context] * 10


def test_a_task_that_is_cancelled_has_failed_with_asyncios_error(spans: Spans) -> None:
    @traced("work")
    async def wait() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert attributes(spans.one("work"))[semconv.ERROR_TYPE] == "asyncio.CancelledError"


def test_an_async_generator_that_is_cancelled_in_a_step_has_failed_so_too(spans: Spans) -> None:
    @traced("work")
    async def wait() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(60)

    async def main() -> None:
        running = wait()
        await anext(running)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(running)

    asyncio.run(main())

    assert attributes(spans.one("work")) == {
        semconv.ERROR_TYPE: "asyncio.CancelledError",
        semconv.STREAM_OUTCOME: "cancelled",
    }


def test_a_coroutine_that_is_collected_while_it_waits_has_not_failed(spans: Spans) -> None:
    class Never:
        def __await__(self) -> Iterator[None]:
            yield

    @traced("work")
    async def wait() -> None:
        await Never()

    waiting = wait()
    contextvars.copy_context().run(waiting.send, None)
    waiting.close()

    assert spans.one("work").status.status_code is StatusCode.UNSET


def test_methods_can_be_traced(spans: Spans) -> None:
    class Agent:
        @traced("work")
        def answer(self, times: int) -> list[int]:
            return [times] * times

        @classmethod
        @traced("work")
        def make(cls) -> Agent:
            return cls()

    assert Agent.make().answer(2) == [2, 2]
    assert len(spans("work")) == 2


def test_an_exception_thrown_in_keeps_no_frame_alive(spans: Spans) -> None:
    import weakref

    class Big:
        pass

    big = Big()
    alive = weakref.ref(big)

    @traced("work")
    def body(big: Any) -> Iterator[int]:
        yield 1

    gc.disable()
    try:
        running = body(big)
        next(running)
        with contextlib.suppress(ValueError):
            running.throw(ValueError("x"))
        del running, big
        assert alive() is None
    finally:
        gc.enable()
