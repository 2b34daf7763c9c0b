"""What can go wrong between here and a provider, and what each verb makes of it."""

from __future__ import annotations

import asyncio
import email.utils
import gc
import sys
import time
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest
from pydantic import BaseModel

import llmbridge
from llmbridge import (
    AllAttemptsFailed,
    AuthenticationFailed,
    BadRequest,
    CallRecord,
    ContentFiltered,
    ContextWindowExceeded,
    DeadlineExceeded,
    InvalidOutput,
    Model,
    NotFound,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    StreamInterrupted,
    wire,
)
from tests.conftest import Ask, Run, assert_charged
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
PROVIDERS = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "ollama_chat": "ollama_chat/llama3.2",
    "azure": "azure/gpt-4o-mini",
}
STATUSES: dict[int, tuple[type[ProviderError], str]] = {
    400: (BadRequest, "bad request"),
    401: (AuthenticationFailed, "dead key"),
    402: (AuthenticationFailed, "dead key"),
    403: (AuthenticationFailed, "dead key"),
    404: (NotFound, "not found"),
    408: (ProviderTimeout, "sick upstream"),
    409: (BadRequest, "bad request"),
    413: (BadRequest, "bad request"),
    422: (BadRequest, "bad request"),
    424: (BadRequest, "bad request"),
    429: (ProviderRateLimited, "throttled"),
    500: (ProviderUnavailable, "sick upstream"),
    502: (ProviderUnavailable, "sick upstream"),
    503: (ProviderUnavailable, "sick upstream"),
    504: (ProviderTimeout, "sick upstream"),
    529: (ProviderRateLimited, "throttled"),
}
LONG = Reply(pieces=[f"{number} " for number in range(400)], gap_s=0.02)


def at(sim: Simulator, provider: str, **fields: Any) -> Model:
    version = "2024-10-21" if provider == "azure" else None
    base = sim.api_base(provider)
    return Model(PROVIDERS[provider], api_base=base, api_key="sk-test-key", api_version=version, **fields)


@pytest.fixture(params=PROVIDERS)
def model(request: pytest.FixtureRequest, sim: Simulator) -> Model:
    return at(sim, request.param)


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return at(sim, "openai")


@pytest.fixture
def claude(sim: Simulator) -> Model:
    return at(sim, "anthropic")


# Statuses


@pytest.mark.parametrize("status", STATUSES)
def test_the_status_on_the_wire_decides_the_error(
    ask: Ask, sim: Simulator, model: Model, records: list[CallRecord], status: int
) -> None:
    sim.script(Fault.status(status, headers={"x-request-id": "req-7", "retry-after": "3"}))

    with pytest.raises(ProviderError) as caught:
        ask(FISH, model=model)

    error = caught.value
    assert (type(error), error.kind) == STATUSES[status]
    assert (error.status, error.retry_after_s, error.request_id, error.model) == (status, 3, "req-7", model.model)
    (record,) = records
    (attempt,) = record.attempts
    assert (record.outcome, record.error_type, error.call_id) == ("failed", type(error).__name__, record.id)
    assert (attempt.status, attempt.request_id, attempt.retry_after_s, attempt.sent) == (status, "req-7", 3, True)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429])
def test_what_a_provider_refused_costs_nothing(
    ask: Ask, sim: Simulator, model: Model, records: list[CallRecord], status: int
) -> None:
    sim.script(Fault.status(status))

    with pytest.raises(ProviderError):
        ask(FISH, model=model)

    assert (records[0].cost_usd, records[0].uncertain, records[0].attempts[0].sent) == (Decimal(0), False, True)


@pytest.mark.parametrize("status", [408, 504])
def test_a_timeout_that_a_gateway_reports_is_charged_at_its_worst_case(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord], status: int
) -> None:
    sim.script(Fault.status(status))

    with pytest.raises(ProviderTimeout):
        ask(FISH, model=gpt)

    assert records[0].cost_usd == records[0].attempts[0].reserved_usd
    assert_charged(records[0])


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({"retry-after": "7"}, 7.0, id="seconds"),
        pytest.param({"retry-after": "0.25"}, 0.25, id="fraction"),
        pytest.param({"retry-after": "0"}, 0.0, id="zero"),
        pytest.param({"retry-after-ms": "1500"}, 1.5, id="milliseconds"),
        pytest.param({"x-ms-retry-after-ms": "250"}, 0.25, id="azure-milliseconds"),
        pytest.param({"retry-after": "9", "retry-after-ms": "1500"}, 1.5, id="the-finer-wins"),
        pytest.param({"retry-after": "86400000"}, 86_400_000.0, id="absurd"),
        pytest.param({"retry-after": "-1"}, None, id="negative"),
        pytest.param({"retry-after": "soon"}, None, id="garbage"),
        pytest.param({"retry-after": "nan"}, None, id="nan"),
        pytest.param({"retry-after": "inf"}, None, id="infinity"),
        pytest.param({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0, id="past-date"),
        pytest.param({}, None, id="absent"),
    ],
)
def test_every_form_of_retry_after_is_read(
    ask: Ask, sim: Simulator, model: Model, headers: dict[str, str], seconds: float | None
) -> None:
    sim.script(Fault.status(429, headers=headers))

    with pytest.raises(ProviderRateLimited) as caught:
        ask(FISH, model=model)

    assert caught.value.retry_after_s == seconds


def test_a_retry_after_that_is_a_date_is_counted_from_now(ask: Ask, sim: Simulator, gpt: Model) -> None:
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    sim.script(Fault.status(503, headers={"retry-after": in_a_minute}))

    with pytest.raises(ProviderUnavailable) as caught:
        ask(FISH, model=gpt)

    assert caught.value.retry_after_s == pytest.approx(60, abs=10)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "azure"])
def test_a_prompt_too_long_is_told_apart_from_a_bad_request(ask: Ask, sim: Simulator, provider: str) -> None:
    sim.script(Fault.context_window())

    with pytest.raises(ContextWindowExceeded) as caught:
        ask(FISH, model=at(sim, provider))

    assert (caught.value.status, caught.value.kind) == (400, "too long")


@pytest.mark.parametrize("provider", ["openai", "anthropic", "azure"])
def test_a_refusal_by_policy_is_told_apart_from_a_bad_request(ask: Ask, sim: Simulator, provider: str) -> None:
    sim.script(Fault.content_filter())

    with pytest.raises(ContentFiltered) as caught:
        ask(FISH, model=at(sim, provider))

    assert (caught.value.status, caught.value.kind) == (400, "refused")


def test_a_refusal_in_an_answer_is_an_answer_that_says_so(ask: Ask, sim: Simulator) -> None:
    sim.script(Fault.content_filter())

    reply = ask(FISH, model=at(sim, "gemini"))

    assert (reply.text, reply.finish_reason) == ("", "content_filter")


# Broken connections and silence


@pytest.mark.parametrize("after_bytes", [0, 20], ids=["before-the-status", "in-the-status-line"])
def test_a_reset_before_the_headers_is_charged_at_its_worst_case(
    ask: Ask, sim: Simulator, model: Model, records: list[CallRecord], after_bytes: int
) -> None:
    sim.script(Fault.reset(after_bytes))

    with pytest.raises(ProviderUnavailable) as caught:
        ask(FISH, model=model)

    (attempt,) = records[0].attempts
    assert (caught.value.status, caught.value.sent, len(sim.requests)) == (None, True, 1)
    assert (attempt.sent, attempt.cost_usd) == (True, attempt.reserved_usd)
    assert_charged(records[0])


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_a_reset_in_the_body_is_charged_at_its_worst_case(
    ask: Ask, sim: Simulator, model: Model, records: list[CallRecord], verb: str
) -> None:
    sim.script(Fault.reset(after_bytes=200))

    with pytest.raises(ProviderUnavailable) as caught:
        ask(FISH, model=model)

    assert caught.value.status == 200
    assert records[0].cost_usd == records[0].attempts[0].reserved_usd
    assert_charged(records[0])


@pytest.mark.parametrize("after_events", [None, 0], ids=["before-the-headers", "after-the-headers"])
def test_silence_ends_with_the_deadline(
    ask: Ask, sim: Simulator, model: Model, records: list[CallRecord], after_events: int | None
) -> None:
    sim.script(Fault.hang(after_events))
    started = time.monotonic()

    with pytest.raises(DeadlineExceeded) as caught:
        ask(FISH, model=model, deadline_s=1)

    assert time.monotonic() - started < 10
    assert caught.value.deadline_s == 1
    assert [attempt.error_type for attempt in caught.value.attempts] == ["ProviderTimeout"]
    assert (len(records), records[0].error_type) == (1, "DeadlineExceeded")
    assert_charged(records[0])


def test_a_provider_that_drips_bytes_is_cut_off_at_the_deadline(
    ask: Ask, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.drip(gap_s=0.05))
    started = time.monotonic()

    with pytest.raises((DeadlineExceeded, StreamInterrupted)):
        ask(FISH, model=model, deadline_s=1)

    assert time.monotonic() - started < 10
    assert (len(records), records[0].outcome) == (1, "failed")
    assert_charged(records[0])


def test_the_deadline_closes_the_connection(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Fault.hang())

    with pytest.raises(DeadlineExceeded):
        ask(FISH, model=model, deadline_s=1)

    assert sim.wait_for_disconnects(1, timeout_s=3)


def test_an_answer_that_has_no_end_is_given_up(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LARGEST_BYTES", 300_000)
    sim.script(Fault.body(b" " * 30_000_000))  # more than fits between here and there

    with pytest.raises(ProviderUnavailable):
        ask(FISH, model=gpt)

    assert sim.wait_for_disconnects(1, timeout_s=3)
    assert_charged(records[0])


def test_the_deadline_bounds_all_attempts_together(ask: Ask, sim: Simulator, gpt: Model, claude: Model) -> None:
    sim.script(Fault.hang())
    started = time.monotonic()

    with pytest.raises(DeadlineExceeded) as caught:
        ask(FISH, model=[gpt, claude, gpt], deadline_s=1)

    assert time.monotonic() - started < 10
    assert len(caught.value.attempts) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_timeout_of_one_request_goes_to_the_next_model(
    ask: Ask, sim: Simulator, claude: Model, provider: str
) -> None:
    sim.script(Fault.hang(), Reply())

    reply = ask(FISH, model=[at(sim, provider, params={"timeout": 1}), claude], deadline_s=20)

    assert [attempt.error_type for attempt in reply.attempts] == ["ProviderTimeout", None]
    assert reply.attempts[0].cost_usd == reply.attempts[0].reserved_usd
    assert_charged(reply.record)


# The guards of a stream


@pytest.mark.parametrize("verb", ["stream", "astream"])
@pytest.mark.parametrize("after_events", [None, 0], ids=["before-the-headers", "after-the-headers"])
def test_first_chunk_s_bounds_the_wait_for_content_and_asks_the_next_model(
    verb: str, run: Run, sim: Simulator, model: Model, gpt: Model, after_events: int | None
) -> None:
    sim.script(Fault.hang(after_events), Reply())
    started = time.monotonic()

    stream = opened(verb, run, FISH, model=[model, gpt], first_chunk_s=1, deadline_s=20)
    text, _ = read(verb, run, stream)

    assert time.monotonic() - started < 10
    assert text == "Trout."
    assert [attempt.error_type for attempt in stream.completion.attempts] == ["ProviderTimeout", None]


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_first_chunk_s_does_not_bound_what_comes_after(verb: str, run: Run, sim: Simulator, model: Model) -> None:
    sim.script(Reply(pieces=[*"abcdefgh"], gap_s=0.2))

    text, error = read(verb, run, opened(verb, run, FISH, model=model, first_chunk_s=1))

    assert (text, error) == ("abcdefgh", None)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_later_chunk_may_take_longer_than_the_first(verb: str, run: Run, sim: Simulator) -> None:
    sim.script(Reply(pieces=["a", "b"], gap_s=1.3))  # Gemini's first event has content

    text, error = read(verb, run, opened(verb, run, FISH, model=at(sim, "gemini"), first_chunk_s=1))

    assert (text, error) == ("ab", None)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_chunk_gap_s_bounds_the_wait_between_chunks(
    verb: str, run: Run, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.hang(4, Reply(pieces=["Tr", "out", ".", " Carp", "."])))
    started = time.monotonic()

    stream = opened(verb, run, FISH, model=model, chunk_gap_s=0.5, deadline_s=20)
    text, error = read(verb, run, stream)

    assert time.monotonic() - started < 10
    assert isinstance(error, StreamInterrupted)
    assert (error.partial, text) == (text, text)
    assert text.startswith("Tr")
    assert (len(records), records[0].error_type) == (1, "StreamInterrupted")
    assert_charged(records[0])
    assert sim.wait_for_disconnects(1)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_the_deadline_bounds_a_stream_as_a_whole(
    verb: str, run: Run, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(Reply(pieces=[f"{number} " for number in range(400)], gap_s=0.05))
    started = time.monotonic()

    stream = opened(verb, run, FISH, model=model, deadline_s=2.0)
    text, error = read(verb, run, stream)

    assert time.monotonic() - started < 10
    assert isinstance(error, StreamInterrupted)
    assert error.partial == text != ""
    assert (len(records), records[0].outcome) == (1, "failed")
    assert_charged(records[0])
    assert sim.wait_for_disconnects(1)


def opened(verb: str, run: Run, *arguments: Any, **named: Any) -> Any:
    """A stream of either colour, not read yet."""
    return getattr(llmbridge, verb)(*arguments, **named)


def read(verb: str, run: Run, stream: Any) -> tuple[str, ProviderError | None]:
    """The text of a stream of either colour, and the error that it ended in."""
    seen: list[str] = []
    try:
        run(_read_async(stream, seen)) if verb == "astream" else _read(stream, seen)
    except ProviderError as error:
        return "".join(seen), error
    return "".join(seen), None


def _read(stream: llmbridge.CompletionStream, seen: list[str]) -> None:
    with stream as chunks:
        seen.extend(chunk.text for chunk in chunks)


async def _read_async(stream: llmbridge.AsyncCompletionStream, seen: list[str]) -> None:
    async with stream as chunks:
        async for chunk in chunks:
            seen.append(chunk.text)  # noqa: PERF401 - what came before an error counts


# Leaving a stream early


def assert_left(sim: Simulator, records: list[CallRecord]) -> None:
    assert sim.wait_for_disconnects(1)
    (record,) = records
    (attempt,) = record.attempts
    assert (record.outcome, attempt.outcome) == ("left", "left")
    assert (attempt.sent, attempt.status) == (True, 200)
    assert_charged(record)


def test_a_break_out_of_a_stream_closes_its_connection(sim: Simulator, model: Model, records: list[CallRecord]) -> None:
    sim.script(LONG)

    with llmbridge.stream(FISH, model=model) as chunks:
        for _ in chunks:
            break

    assert_left(sim, records)


def test_a_break_out_of_an_async_stream_closes_its_connection(
    run: Run, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(LONG)

    async def leave() -> None:
        async with llmbridge.astream(FISH, model=model) as chunks:
            async for _ in chunks:
                break

    run(leave())

    assert_left(sim, records)


def test_close_ends_a_stream_without_a_block(sim: Simulator, model: Model, records: list[CallRecord]) -> None:
    sim.script(LONG)
    chunks = llmbridge.stream(FISH, model=model)

    first = next(chunks)
    chunks.close()
    chunks.close()

    assert first.text == chunks.text != ""
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(chunks)
    assert_left(sim, records)


def test_aclose_ends_an_async_stream_without_a_block(
    run: Run, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(LONG)

    async def leave() -> None:
        chunks = llmbridge.astream(FISH, model=model)
        await anext(chunks)
        await chunks.aclose()
        await chunks.aclose()

    run(leave())

    assert_left(sim, records)


def test_the_readers_own_error_passes_and_closes_the_connection(
    sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(LONG)

    with pytest.raises(ZeroDivisionError), llmbridge.stream(FISH, model=model) as chunks:
        next(chunks)
        1 / 0

    assert_left(sim, records)


def test_the_readers_own_error_passes_out_of_an_async_block_too(
    run: Run, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(LONG)

    async def fail() -> None:
        async with llmbridge.astream(FISH, model=model) as chunks:
            await anext(chunks)
            1 / 0

    with pytest.raises(ZeroDivisionError):
        run(fail())

    assert_left(sim, records)


def test_a_stream_that_is_dropped_unread_closes_its_connection(
    sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(LONG)
    chunks = llmbridge.stream(FISH, model=model)
    next(chunks)

    del chunks
    gc.collect()

    assert_left(sim, records)


@pytest.mark.parametrize("pool", ["connections.py", "connection_pool.py"])
def test_the_collector_may_find_a_dropped_stream_inside_the_connection_pool(
    sim: Simulator, model: Model, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pool == "connection_pool.py":  # httpcore's, which takes a lock
        monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setattr(wire, "_client", None)
    sim.script(LONG, Reply(pieces=["Tr", "out"]), Reply(pieces=["Tr", "out"]))
    cycle: list[Any] = [llmbridge.stream(FISH, model=model)]
    cycle.append(cycle)
    next(cycle[0])
    inside = 0

    def collect(frame: FrameType, event: str, _: object) -> Any:
        nonlocal inside
        if not frame.f_code.co_filename.endswith(f"/{pool}") or inside == 100:
            return None
        inside += 1
        gc.collect()
        return collect

    del cycle
    sys.settrace(collect)
    try:
        answer = llmbridge.complete(FISH, model=model)
    finally:
        sys.settrace(None)

    assert answer.text == "Trout"
    assert inside > 30
    assert llmbridge.complete(FISH, model=model).text == "Trout"
    assert sim.wait_for_disconnects(1)


def test_an_async_stream_that_is_dropped_unread_closes_its_connection(
    run: Run, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(LONG)

    async def drop() -> bool:
        chunks = llmbridge.astream(FISH, model=model)
        await anext(chunks)
        del chunks
        gc.collect()
        return await asyncio.to_thread(sim.wait_for_disconnects, 1)

    assert run(drop())
    assert_left(sim, records)


def test_a_stream_that_was_never_started_sends_nothing_and_leaves_no_record(
    sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    chunks = llmbridge.stream(FISH, model=gpt)
    chunks.close()

    del chunks
    gc.collect()

    assert (sim.requests, records) == ([], [])


def test_a_stream_read_to_its_end_was_answered_and_not_left(
    verb: str, ask: Ask, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    ask(FISH, model=model)
    gc.collect()

    assert [record.outcome for record in records] == ["answered"]
    assert sim.disconnects == 0


def test_a_stream_that_broke_is_recorded_once_however_often_it_is_closed(
    sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.cut(3))

    with llmbridge.stream(FISH, model=gpt) as chunks:
        with pytest.raises(StreamInterrupted):
            list(chunks)
        chunks.close()
    del chunks
    gc.collect()

    assert [record.outcome for record in records] == ["failed"]


# Cancelling


def cancelled(run: Run, sim: Simulator, work: Any) -> None:
    """Start *work*, and cancel it once its request has arrived."""

    async def cancel() -> None:
        task = asyncio.create_task(work())
        assert await asyncio.to_thread(sim.wait_for_requests, 1)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        run(cancel())


def assert_cancelled(sim: Simulator, records: list[CallRecord]) -> None:
    assert sim.wait_for_disconnects(1)
    (record,) = records
    (attempt,) = record.attempts
    assert (record.outcome, record.error_type, attempt.outcome) == ("cancelled", "CancelledError", "cancelled")
    assert attempt.sent
    assert_charged(record)


@pytest.mark.parametrize("after_events", [None, 0], ids=["before-the-headers", "after-the-headers"])
def test_cancelling_acomplete_closes_the_connection_and_is_charged_at_its_worst_case(
    run: Run, sim: Simulator, model: Model, records: list[CallRecord], after_events: int | None
) -> None:
    sim.script(Fault.hang(after_events))

    cancelled(run, sim, lambda: llmbridge.acomplete(FISH, model=[model, model]))

    assert_cancelled(sim, records)
    assert len(sim.requests) == 1


@pytest.mark.parametrize("after_events", [None, 0], ids=["before-the-headers", "after-the-headers"])
def test_cancelling_astream_before_its_content_closes_the_connection(
    run: Run, sim: Simulator, model: Model, records: list[CallRecord], after_events: int | None
) -> None:
    sim.script(Fault.hang(after_events))

    async def work() -> None:
        async with llmbridge.astream(FISH, model=[model, model]) as chunks:
            async for _ in chunks:
                pass

    cancelled(run, sim, work)

    assert_cancelled(sim, records)
    assert len(sim.requests) == 1


def test_cancelling_astream_between_two_chunks_closes_the_connection(
    run: Run, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.hang(4, Reply(pieces=["Tr", "out", ".", " Carp"])))

    async def cancel() -> None:
        begun = asyncio.Event()

        async def work() -> None:
            async with llmbridge.astream(FISH, model=model) as chunks:
                async for _ in chunks:
                    begun.set()

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        run(cancel())

    assert_cancelled(sim, records)


def test_cancelling_an_async_stream_that_has_no_block_closes_the_connection(
    run: Run, sim: Simulator, model: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.hang(0))

    async def work() -> None:
        async for _ in llmbridge.astream(FISH, model=model):
            pass

    cancelled(run, sim, work)

    assert_cancelled(sim, records)


def test_a_timeout_of_the_callers_own_cancels_the_call(
    run: Run, sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.hang())

    async def hurry() -> None:
        async with asyncio.timeout(0.2):
            await llmbridge.acomplete(FISH, model=gpt)

    with pytest.raises(TimeoutError):
        run(hurry())

    assert_cancelled(sim, records)


def test_cancelling_one_of_many_calls_leaves_the_others_alone(
    run: Run, sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    sim.script(Reply(delay_s=0.2))

    async def work() -> list[Any]:
        tasks = [asyncio.create_task(llmbridge.acomplete(FISH, model=gpt)) for _ in range(5)]
        await asyncio.to_thread(sim.wait_for_requests, 5)
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = run(work())

    assert [type(answer).__name__ for answer in answers] == [*["Completion"] * 2, "CancelledError", *["Completion"] * 2]
    assert sorted(record.outcome for record in records) == [*["answered"] * 4, "cancelled"]


# The next model


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.status(401), id="dead-key"),
        pytest.param(Fault.status(404), id="not-found"),
        pytest.param(Fault.status(408), id="timeout"),
        pytest.param(Fault.status(429), id="throttled"),
        pytest.param(Fault.status(500), id="server-error"),
        pytest.param(Fault.status(529), id="overloaded"),
        pytest.param(Fault.context_window(), id="too-long"),
        pytest.param(Fault.reset(), id="reset"),
        pytest.param(Fault.body(b"<html>", "text/html"), id="no-answer"),
        pytest.param(Fault.error_in_200(), id="error-in-a-200"),
        pytest.param(Fault.redirect("http://127.0.0.1:9/v1"), id="redirect"),
    ],
)
def test_what_another_model_may_do_better_goes_to_the_next(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, records: list[CallRecord], fault: Fault
) -> None:
    sim.script(fault, Reply(text="Carp."))

    reply = ask(FISH, model=[gpt, claude])

    assert (reply.text, reply.model, len(sim.requests)) == ("Carp.", claude.model, 2)
    assert [(attempt.outcome, attempt.reason) for attempt in reply.attempts] == [
        ("failed", "initial"),
        ("answered", "fallback"),
    ]
    assert [record.outcome for record in records] == ["answered"]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.status(400), id="400"),
        pytest.param(Fault.status(409), id="409"),
        pytest.param(Fault.status(413), id="413"),
        pytest.param(Fault.status(422), id="422"),
        pytest.param(Fault.content_filter(), id="refused"),
    ],
)
def test_what_is_wrong_for_every_model_goes_to_no_other(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, records: list[CallRecord], fault: Fault
) -> None:
    sim.script(fault, Reply())

    with pytest.raises((BadRequest, ContentFiltered)):
        ask(FISH, model=[gpt, claude])

    assert (len(sim.requests), len(records[0].attempts)) == (1, 1)


@pytest.mark.parametrize("verb", ["stream", "astream"])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.cut(0), id="cut-before-content"),
        pytest.param(Fault.cut(1, clean=False), id="broken-before-content"),
        pytest.param(Fault.stream_error(0), id="error-event-before-content"),
    ],
)
def test_a_stream_that_fails_before_its_content_goes_to_the_next_model(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, verb: str, fault: Fault
) -> None:
    sim.script(fault, Reply(text="Carp."))

    reply = ask(FISH, model=[gpt, claude])

    assert (reply.text, reply.model) == ("Carp.", claude.model)
    assert_charged(reply.record)


@pytest.mark.parametrize("verb", ["stream", "astream"])
@pytest.mark.parametrize("clean", [True, False], ids=["clean-end", "broken-connection"])
def test_nothing_is_sent_again_after_the_first_content(
    verb: str, run: Run, sim: Simulator, model: Model, gpt: Model, records: list[CallRecord], clean: bool
) -> None:
    sim.script(Fault.cut(4, Reply(pieces=["Tr", "out", ",", " of", " course"]), clean=clean), Reply())

    text, error = read(verb, run, opened(verb, run, FISH, model=[model, gpt]))

    assert isinstance(error, StreamInterrupted)
    assert (error.partial, error.kind, error.model) == (text, "interrupted", model.model)
    assert error.partial.startswith("Tr")
    assert (len(sim.requests), len(records)) == (1, 1)


class Fish(BaseModel):
    name: str


def test_an_answer_that_does_not_fit_is_asked_for_again_and_then_of_the_next_model(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, verb: str
) -> None:
    sim.script(Reply(text="no JSON"), Reply(text='{"size": 1}'), Reply(text='{"name": "Carp"}'))

    if verb in ("stream", "astream"):
        with pytest.raises(InvalidOutput) as caught:
            ask(FISH, model=[gpt, claude], response_model=Fish)

        assert caught.value.output == "no JSON"
    else:
        reply = ask(FISH, model=[gpt, claude], response_model=Fish)

        assert reply.parsed == Fish(name="Carp")
        assert [attempt.reason for attempt in reply.attempts] == ["initial", "repair", "fallback"]


def test_when_no_model_answers_the_error_holds_what_each_said(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.status(500), Fault.status(429, headers={"retry-after": "5"}), Fault.status(401))

    with pytest.raises(AllAttemptsFailed, match="none of 3 attempts was answered") as caught:
        ask(FISH, model=[gpt, claude, gpt])

    failed = caught.value
    assert [type(error) for error in failed.errors] == [ProviderUnavailable, ProviderRateLimited, AuthenticationFailed]
    assert [attempt.status for attempt in failed.attempts] == [500, 429, 401]
    assert [attempt.number for attempt in failed.attempts] == [1, 2, 3]
    assert (failed.call_id, len(records), records[0].error_type) == (records[0].id, 1, "AllAttemptsFailed")


def test_the_cost_of_a_call_is_unknown_if_that_of_one_attempt_is(ask: Ask, sim: Simulator, claude: Model) -> None:
    sim.script(Fault.reset(), Reply())

    reply = ask(FISH, model=[Model("openai/nobody-knows-me", api_base=sim.api_base("openai"), api_key="sk-k"), claude])

    assert [attempt.cost_usd is None for attempt in reply.attempts] == [True, False]
    assert (reply.cost_usd, reply.record.uncertain) == (None, True)


def test_an_attempt_that_may_have_been_billed_counts_at_its_worst_case(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model
) -> None:
    sim.script(Fault.reset(), Reply(input_tokens=9, output_tokens=3))

    reply = ask(FISH, model=[gpt, claude])

    first, second = reply.attempts
    assert (first.uncertain, second.uncertain, second.cost_usd) == (True, False, Decimal("0.000024"))
    assert first.cost_usd == first.reserved_usd
    assert_charged(reply.record)


def test_a_refused_attempt_adds_nothing_to_the_cost(ask: Ask, sim: Simulator, gpt: Model, claude: Model) -> None:
    sim.script(Fault.status(429), Reply(input_tokens=1000, output_tokens=100))

    reply = ask(FISH, model=[claude, gpt])

    assert (reply.cost_usd, reply.record.uncertain) == (Decimal("0.00021"), False)


# Embeddings


@pytest.mark.parametrize("verb", ["embed", "aembed"])
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_embeddings_fail_as_completions_do(
    verb: str, run: Run, sim: Simulator, records: list[CallRecord], status: int
) -> None:
    sim.script(Fault.status(status, headers={"retry-after": "3"}))
    small = Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")

    with pytest.raises(ProviderError) as caught:
        embedded(verb, run, small)

    assert (type(caught.value), caught.value.kind) == STATUSES[status]
    assert (caught.value.status, caught.value.retry_after_s, len(records)) == (status, 3, 1)


@pytest.mark.parametrize("verb", ["embed", "aembed"])
def test_embeddings_keep_the_deadline_and_go_to_the_next_model(
    verb: str, run: Run, sim: Simulator, records: list[CallRecord]
) -> None:
    sim.script(Fault.status(503), Fault.hang())
    small = Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")
    started = time.monotonic()

    with pytest.raises(DeadlineExceeded) as caught:
        embedded(verb, run, [small, small], deadline_s=1)

    assert time.monotonic() - started < 10
    assert [attempt.error_type for attempt in caught.value.attempts] == ["ProviderUnavailable", "ProviderTimeout"]
    assert (len(records), records[0].verb) == (1, "embeddings")


def embedded(verb: str, run: Run, model: Any, **arguments: Any) -> llmbridge.Embedding:
    if verb == "embed":
        return llmbridge.embed("fish", model=model, **arguments)
    found: llmbridge.Embedding = run(llmbridge.aembed("fish", model=model, **arguments))
    return found
