"""How a call can end, and what each end is charged: the table of llmbridge/call/charge.py, through the verbs."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sqlite3
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmbridge import (
    Bridge,
    Budget,
    CallRecord,
    Completion,
    DeadlineExceeded,
    Embedding,
    Ledger,
    LLMBridgeError,
    Model,
    ProviderError,
    StreamInterrupted,
    default,
)
from tests.conftest import VERBS, Ask, Run, asking
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
MONEY, COUNT = Budget("$5", name="money"), Budget("1000 requests", name="count")
BUDGETS = [MONEY, COUNT]
SIX = (*VERBS, "embed", "aembed")
Send = Callable[..., Completion | Embedding]


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture
def embedder(sim: Simulator) -> Model:
    return Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture(params=SIX)
def send(request: pytest.FixtureRequest, gpt: Model, embedder: Model, run: Run) -> Send:
    """Ask the default Bridge by each of the six verbs, under the two budgets."""
    verb = request.param
    if verb in VERBS:
        return lambda **more: asking(verb, run)(FISH, **{"model": gpt, "budget": BUDGETS, **more})

    def embed(**more: Any) -> Embedding:
        answer: Any = getattr(default.default(), verb)(FISH, **{"model": embedder, "budget": BUDGETS, **more})
        found: Embedding = run(answer) if isinstance(answer, Coroutine) else answer
        return found

    return embed


@pytest.fixture
def ledger(fresh_default: Bridge) -> Ledger:
    return fresh_default.ledger


class Books:
    """What the ledger holds against what the simulator has served."""

    def __init__(self, ledger: Ledger, sim: Simulator, records: list[CallRecord]) -> None:
        self._ledger, self._sim, self._records = ledger, sim, records

    def closed(self) -> CallRecord:
        """The one call's record, after finding that nothing is held, nothing differs and that each request which was
        served has exactly one reservation."""
        (record,) = self._records
        (kept,) = self._ledger.records()
        assert (kept.id, kept.cost_usd, kept.uncertain) == (record.id, record.cost_usd, record.uncertain)
        money, count = self._ledger.balance(MONEY)[0], self._ledger.balance(COUNT)[0]
        assert (money.reserved, count.reserved, self._ledger.check()) == (0, 0, [])
        assert (money.settled_usd, count.settled) == (record.cost_usd, sum(a.sent for a in record.attempts))
        assert len(self._sim.requests) == count.settled
        assert reservations(self._ledger.path) == [f"{record.id}.{a.number}" for a in record.attempts]
        return record


@pytest.fixture
def books(ledger: Ledger, sim: Simulator, records: list[CallRecord]) -> Books:
    return Books(ledger, sim, records)


def reservations(path: Path) -> list[str]:
    """The attempts that have a reservation, as the file has them."""
    db = sqlite3.connect(path)
    try:
        return [attempt for (attempt,) in db.execute("SELECT attempt FROM reservation ORDER BY id")]
    finally:
        db.close()


def charged(record: CallRecord) -> tuple[Decimal | None, bool]:
    return record.cost_usd, record.uncertain


def reserved(record: CallRecord) -> Decimal:
    """What the only attempt held."""
    (attempt,) = record.attempts
    assert attempt.reserved_usd is not None
    return attempt.reserved_usd


# The whole call


def test_an_answer_with_counts_is_charged_at_them(send: Send, sim: Simulator, books: Books) -> None:
    sim.script(Reply(input_tokens=200, output_tokens=10))

    answer = send()

    cost = Decimal("0.000036") if isinstance(answer, Completion) else Decimal("0.000004")
    assert charged(books.closed()) == (cost, False)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
def test_what_was_refused_or_failed_in_order_is_charged_nothing_and_counted_as_sent(
    send: Send, sim: Simulator, books: Books, status: int
) -> None:
    sim.script(Fault.status(status))

    with pytest.raises(ProviderError):
        send()

    record = books.closed()
    assert charged(record) == (Decimal(0), False)
    assert reserved(record) > 0


def test_a_5xx_is_charged_at_its_worst_case_if_the_ledger_is_told_so(
    send: Send, sim: Simulator, records: list[CallRecord], fresh_default: Bridge, tmp_path: Path
) -> None:
    with Ledger(tmp_path / "l.db", charge_5xx=True) as ledger:
        fresh_default._ledger = ledger
        for status, worst in ((500, True), (503, True), (429, False), (401, False)):
            sim.reset()
            sim.script(Fault.status(status))
            with pytest.raises(ProviderError):
                send()
            assert charged(records[-1]) == (reserved(records[-1]) if worst else 0, worst)
        assert ledger.balance(MONEY)[0].settled_usd == sum(r.cost_usd for r in records if r.cost_usd is not None)
        assert (ledger.balance(MONEY)[0].reserved, ledger.check()) == (0, [])


def test_a_connection_that_is_refused_takes_nothing_and_counts_as_nothing(send: Send, books: Books) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ProviderError):
            send(model=Model("openai/gpt-4o-mini", api_base=base, api_key="sk-test-key"))

    record = books.closed()
    assert charged(record) == (Decimal(0), False)
    assert not record.attempts[0].sent


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.reset(), id="reset"),
        pytest.param(Fault.reset(after_bytes=20), id="reset-in-the-head"),
        pytest.param(Fault.body(b"<html>"), id="garbage"),
        pytest.param(Fault.body(b"{}"), id="empty"),
        pytest.param(Fault.error_in_200(), id="error-in-a-200"),
        pytest.param(Fault.status(408), id="gateway-timeout"),
        pytest.param(Fault.hang(), id="silence"),
    ],
)
def test_what_may_have_been_billed_is_charged_at_its_worst_case(
    send: Send, sim: Simulator, books: Books, fault: Fault
) -> None:
    sim.script(fault)

    with pytest.raises(LLMBridgeError):
        send(deadline_s=1 if fault.kind == "hang" else 20)

    record = books.closed()
    assert charged(record) == (reserved(record), True)


@pytest.mark.parametrize("verb", ["complete", "acomplete", "embed", "aembed"])
def test_an_answer_without_counts_is_charged_at_what_was_seen_or_more(
    verb: str, run: Run, sim: Simulator, gpt: Model, embedder: Model, books: Books
) -> None:
    sim.script(Reply(text="Trout, of course.", usage=False))

    _whole(verb, run, embedder if "embed" in verb else gpt)

    cost, uncertain = charged(record := books.closed())
    assert uncertain
    assert cost is not None
    assert Decimal(0) < cost <= reserved(record)


def _whole(verb: str, run: Run, model: Model, **arguments: Any) -> Any:
    answer = getattr(default.default(), verb)(FISH, model=model, budget=BUDGETS, **arguments)
    return run(answer) if isinstance(answer, Coroutine) else answer


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens": -5, "completion_tokens": 3, "total_tokens": -2},
        {"prompt_tokens": 5, "completion_tokens": -(10**6), "total_tokens": -999_995},
        {"prompt_tokens": 10**15, "completion_tokens": 10**15, "total_tokens": 2 * 10**15},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    ],
    ids=["negative-input", "negative-output", "absurd", "nothing"],
)
@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_counts_that_cannot_be_lower_no_charge(
    verb: str, run: Run, sim: Simulator, gpt: Model, books: Books, counts: dict[str, int]
) -> None:
    message = {"role": "assistant", "content": "Trout."}
    body = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "usage": counts,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }  # fmt: skip
    sim.script(Fault.body(json.dumps(body).encode()))

    _whole(verb, run, gpt)

    cost, uncertain = charged(record := books.closed())
    assert uncertain
    assert cost is not None
    assert Decimal("0.000005") < cost <= reserved(record)


def test_an_answer_above_its_reservation_is_charged_in_full_and_flagged(
    ask: Ask, sim: Simulator, gpt: Model, books: Books, ledger: Ledger
) -> None:
    sim.script(Reply(input_tokens=9, output_tokens=2000))

    ask(FISH, model=gpt, max_tokens=100, budget=BUDGETS)

    cost, uncertain = charged(record := books.closed())
    assert (cost, uncertain) == (Decimal("0.00120135"), False)
    assert cost is not None
    assert cost > reserved(record)
    db = sqlite3.connect(ledger.path)
    assert db.execute("SELECT overrun FROM reservation").fetchall() == [(1,)]
    db.close()


# Streams


@pytest.fixture(params=["stream", "astream"])
def read(request: pytest.FixtureRequest, run: Run, fresh_default: Bridge, gpt: Model) -> Callable[..., None]:
    """Read a stream to its end or for *limit* chunks, and leave its block as *how* says."""

    def sync(limit: int, how: Callable[[], Any], **more: Any) -> None:
        with fresh_default.stream(FISH, model=gpt, budget=BUDGETS, **more) as chunks:
            for number, _ in enumerate(chunks, 1):
                if number == limit:
                    how()
                    break

    async def asynchronous(limit: int, how: Callable[[], Any], **more: Any) -> None:
        async with fresh_default.astream(FISH, model=gpt, budget=BUDGETS, **more) as chunks:
            number = 0
            async for _ in chunks:
                number += 1
                if number == limit:
                    how()
                    break

    def read(limit: int = 0, how: Callable[[], Any] = lambda: None, **more: Any) -> None:
        if request.param == "stream":
            sync(limit, how, **more)
        else:
            run(asynchronous(limit, how, **more))

    return read


SLOW = Fault.hang(after_events=3, reply=Reply(pieces=["Tr", "ou", "t", "."]))


def seen(record: CallRecord) -> None:
    """More than nothing, less than the worst case of an answer of 16,384 tokens."""
    cost, uncertain = charged(record)
    assert uncertain
    assert cost is not None
    assert Decimal("0.00004") < cost < reserved(record) / 10


def fail() -> None:
    raise ZeroDivisionError


def test_a_stream_that_is_left_is_charged_for_its_input_and_what_was_seen(
    read: Callable[..., None], sim: Simulator, books: Books
) -> None:
    sim.script(SLOW)

    read(limit=1)

    seen(record := books.closed())
    assert record.outcome == "left"


def test_a_readers_own_error_is_charged_for_what_was_seen(
    read: Callable[..., None], sim: Simulator, books: Books
) -> None:
    sim.script(SLOW)

    with pytest.raises(ZeroDivisionError):
        read(limit=1, how=fail)

    seen(books.closed())


@pytest.mark.parametrize("clean", [True, False], ids=["with-a-made-up-stop", "broken"])
def test_a_truncated_stream_is_charged_for_what_was_seen_and_is_no_answer(
    read: Callable[..., None], sim: Simulator, books: Books, clean: bool
) -> None:
    sim.script(Fault.cut(3, Reply(pieces=["Tr", "ou", "t", "."]), clean=clean))

    with pytest.raises(StreamInterrupted):
        read()

    seen(books.closed())


def test_a_deadline_in_a_stream_is_charged_for_what_was_seen(
    read: Callable[..., None], sim: Simulator, books: Books
) -> None:
    sim.script(SLOW)

    with pytest.raises((StreamInterrupted, DeadlineExceeded)):
        read(deadline_s=1)

    seen(books.closed())


def test_a_stream_without_counts_is_charged_for_what_was_seen(
    read: Callable[..., None], sim: Simulator, books: Books
) -> None:
    sim.script(Reply(pieces=["Tr", "out", "."], usage=False))

    read()

    seen(record := books.closed())
    assert record.outcome == "answered"


def test_a_stream_that_is_never_read_reserves_nothing(
    sim: Simulator, gpt: Model, ledger: Ledger, fresh_default: Bridge
) -> None:
    fresh_default.stream(FISH, model=gpt, budget=BUDGETS).close()
    dropped = [fresh_default.astream(FISH, model=gpt, budget=BUDGETS)]
    dropped.clear()
    gc.collect()

    assert (sim.requests, reservations(ledger.path)) == ([], [])


def test_a_dropped_stream_is_charged_for_what_was_seen(
    sim: Simulator, gpt: Model, books: Books, fresh_default: Bridge
) -> None:
    sim.script(SLOW)

    chunks = fresh_default.stream(FISH, model=gpt, budget=BUDGETS)
    next(chunks)
    del chunks
    gc.collect()

    seen(books.closed())


def test_a_dropped_async_stream_is_charged_for_what_was_seen(
    sim: Simulator, gpt: Model, books: Books, fresh_default: Bridge, run: Run
) -> None:
    sim.script(SLOW)

    async def drop() -> None:
        chunks = fresh_default.astream(FISH, model=gpt, budget=BUDGETS)
        await anext(chunks)
        del chunks
        gc.collect()

    run(drop())

    seen(books.closed())


@pytest.mark.parametrize("verb", ["acomplete", "astream", "aembed"])
def test_a_cancelled_call_is_charged_at_its_worst_case(
    verb: str, run: Run, sim: Simulator, gpt: Model, embedder: Model, books: Books, fresh_default: Bridge
) -> None:
    sim.script(Fault.hang())

    async def cancel() -> None:
        if verb == "astream":
            coroutine: Any = fresh_default.astream(FISH, model=gpt, budget=BUDGETS).__aenter__()
        else:
            model = embedder if verb == "aembed" else gpt
            coroutine = getattr(fresh_default, verb)(FISH, model=model, budget=BUDGETS)
        task = asyncio.ensure_future(coroutine)
        assert await asyncio.to_thread(sim.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancel())

    record = books.closed()
    assert (record.outcome, charged(record)) == ("cancelled", (reserved(record), True))


def test_each_attempt_of_a_call_has_a_reservation_of_its_own(
    ask: Ask, sim: Simulator, gpt: Model, books: Books
) -> None:
    sim.script(Fault.status(503), Fault.reset(), Fault.status(429), Reply(input_tokens=9, output_tokens=3))

    ask(FISH, model=[gpt] * 4, max_tokens=100, budget=BUDGETS)

    record = books.closed()
    assert [attempt.uncertain for attempt in record.attempts] == [False, True, False, False]
    second = record.attempts[1].reserved_usd
    assert [attempt.cost_usd for attempt in record.attempts] == [0, second, 0, Decimal("0.00000315")]


# What is kept


def test_the_ledgers_row_has_the_id_the_tokens_and_the_tags_of_the_call(
    ask: Ask, sim: Simulator, gpt: Model, ledger: Ledger
) -> None:
    sim.script(Reply(input_tokens=2000, cached_tokens=1024, output_tokens=50, reasoning_tokens=20))

    reply = ask(FISH, model=gpt, budget=BUDGETS, tags={"user": "alice", "Zweck": "Prüfung"})

    (record,) = ledger.records(id=reply.record.id)
    (attempt,) = record.attempts
    assert (record.tags, record.verb, record.outcome) == ({"user": "alice", "Zweck": "Prüfung"}, "chat", "answered")
    assert (attempt.input_tokens, attempt.cached_tokens, attempt.output_tokens) == (2000, 1024, 50)
    assert (attempt.reasoning_tokens, attempt.estimated) == (20, False)
    assert attempt.price_source == reply.attempts[0].price_source == "litellm 1.106.2"
    assert record.cost_usd == reply.cost_usd == ledger.spend(by="user")[0].cost_usd


def test_neither_a_prompt_nor_an_answer_nor_a_key_is_in_the_ledgers_files(
    ask: Ask, sim: Simulator, gpt: Model, ledger: Ledger, records: list[CallRecord]
) -> None:
    prompt, answer, key = "PLANTED-quetzal-prompt", "PLANTED-axolotl-answer", "sk-test-key"
    echo = {"error": {"message": f"cannot read {prompt!r} with {key}", "type": "invalid_request_error", "code": None}}
    sim.script(Reply(text=answer), Fault.status(400, echo), Fault.echo_key(), Fault.cut(2, Reply(text=answer)))

    for _ in range(4):
        try:
            ask(prompt, model=gpt, budget=BUDGETS)
        except LLMBridgeError:
            continue

    assert len(ledger.records()) == len(records) == 4
    found = b"".join(path.read_bytes() for path in ledger.path.parent.iterdir() if path.name.startswith("ledger.db"))
    assert records[0].id.encode() in found  # so it is the right files that were searched
    assert [word for word in ("PLANTED", "quetzal", "axolotl", key) if word.encode() in found] == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Reply(model="gpt-\ud800"), id="a name that is no text"),
        pytest.param(Reply(input_tokens=10**19), id="a count that no database holds"),
    ],
)
def test_an_odd_answer_is_an_answer_and_its_call_is_recorded(
    ask: Ask, sim: Simulator, gpt: Model, fresh_default: Bridge, answer: Reply
) -> None:
    sim.script(answer)

    reply = ask("Name a fish.", model=gpt, budget="$5/day")

    (record,) = fresh_default.ledger.records()
    assert (reply.text, record.id, record.outcome) == ("Trout.", reply.record.id, "answered")
    assert [balance.reserved for balance in fresh_default.ledger.balance()] == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_stream_that_was_open_at_a_fork_is_the_parents(sim: Simulator, gpt: Model, fresh_default: Bridge) -> None:
    with fresh_default.stream("Name a fish.", model=gpt, budget="$5/day") as chunks:
        next(chunks)
        child = os.fork()
        if not child:
            chunks.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        for _ in chunks:
            pass

    (balance,) = fresh_default.ledger.balance()
    assert (balance.reserved, balance.settled_usd) == (0, chunks.completion.cost_usd)
