"""Everything at once: many calls, three candidates, faults of all kinds, one ledger with a budget that runs out."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmbridge import Bridge, Completion, Fallback, LLMBridgeError
from tests.conftest import Run
from tests.simulator import Fault, Reply, Simulator, Step
from tests.test_faults import FISH, at


CALLS = 5_000 if os.environ.get("LLMBRIDGE_LONG") else 250  # of each of the four runs
TASKS, THREADS = 16, 8
DEADLINE_S, MOST_ATTEMPTS, BUDGET = 8.0, 4, "$0.012/day" if CALLS == 250 else "$0.1/day"
SHARE = 0.3
ALIVE: tuple[Step, ...] = (
    *(Fault.status(code) for code in (400, 404, 408, 422, 429, 500, 503, 529)),
    *(Fault.status(429, headers={"retry-after": seconds}) for seconds in ("0.02", "1e9")),
    Fault.reset(), Fault.reset(100), Fault.hang(), Fault.hang(0), Fault.cut(0), Fault.cut(3),
    Fault.cut(3, clean=False), Fault.stream_error(0), Fault.stream_error(3), Fault.error_in_200(), Fault.body(b"{"),
    Fault.body(b"", "text/html"), Fault.context_window(), Fault.content_filter(),
    Fault.redirect("http://127.0.0.1:9/v1"),
)  # fmt: skip
DEAD = (Fault.status(401), Fault.status(403), Fault.echo_key())


def steps(lots: random.Random, faults: tuple[Step, ...]) -> list[Step]:
    return [lots.choice(faults) if lots.random() < SHARE else Reply() for _ in range(CALLS * MOST_ATTEMPTS)]


class Ends:
    """How calls ended, and whether each did so in time."""

    def __init__(self) -> None:
        self.answered = 0
        self.errors: list[BaseException] = []
        self.slowest_s = 0.0

    def told(self, started: float, end: Completion | BaseException) -> None:
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        if isinstance(end, Completion):
            assert end.text or end.finish_reason == "content_filter"  # which Gemini says in an answer
            self.answered += 1
        else:
            self.errors.append(end)


def sync(bridge: Bridge, ask: dict[str, Any], stream: bool) -> Completion:
    if not stream:
        return bridge.complete(FISH, **ask)
    with bridge.stream(FISH, **ask) as chunks:
        for _ in chunks:
            pass
    return chunks.completion


async def asynchronous(bridge: Bridge, ask: dict[str, Any], stream: bool) -> Completion:
    if not stream:
        return await bridge.acomplete(FISH, **ask)
    async with bridge.astream(FISH, **ask) as chunks:
        async for _ in chunks:
            pass
    return chunks.completion


def by_threads(bridge: Bridge, ask: dict[str, Any], run: Run) -> Ends:
    ends = Ends()

    def one(number: int) -> None:
        started = time.monotonic()
        try:
            ends.told(started, sync(bridge, ask, number % 2 == 0))
        except BaseException as error:
            ends.told(started, error)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, range(CALLS)))
    return ends


def by_tasks(bridge: Bridge, ask: dict[str, Any], run: Run) -> Ends:
    ends, numbers = Ends(), iter(range(CALLS))

    async def work() -> None:
        for number in numbers:
            started = time.monotonic()
            try:
                ends.told(started, await asynchronous(bridge, ask, number % 2 == 0))
            except BaseException as error:
                ends.told(started, error)

    async def together() -> None:
        await asyncio.gather(*(work() for _ in range(TASKS)))

    run(together())
    return ends


@pytest.mark.timeout(900 if os.environ.get("LLMBRIDGE_LONG") else 120)
@pytest.mark.parametrize("breaker", [True, False], ids=["breaker", "no-breaker"])
@pytest.mark.parametrize("together", [by_threads, by_tasks])
def test_every_call_ends_in_time_in_an_answer_or_an_error_and_the_books_are_right(
    sim: Simulator, run: Run, breaker: bool, together: Callable[[Bridge, dict[str, Any], Run], Ends]
) -> None:
    lots = random.Random(f"{breaker} {together.__name__}")
    sim.script(*steps(lots, ALIVE if breaker else ALIVE + DEAD))
    models = [at(sim, provider, params={"timeout": 0.5}) for provider in ("openai", "anthropic", "gemini")]
    policy = Fallback(
        models, strategy="round_robin", attempts=MOST_ATTEMPTS, backoff_s=0.01, patience_s=0.05, breaker=breaker
    )
    bridge = Bridge(budgets=BUDGET)

    ends = together(bridge, {"model": policy, "deadline_s": DEADLINE_S, "max_tokens": 50}, run)

    assert ends.answered + len(ends.errors) == CALLS
    assert ends.answered > CALLS / 4
    assert [error for error in ends.errors if not isinstance(error, LLMBridgeError)] == []
    assert ends.slowest_s <= DEADLINE_S + 1
    assert_books(bridge, sim)


def assert_books(bridge: Bridge, sim: Simulator) -> None:
    """One record a call, one reservation and one request an attempt, nothing left of either, and no more spent than
    was allowed."""
    records = bridge.ledger.records(limit=CALLS + 1)
    attempts = [attempt for record in records for attempt in record.attempts]
    assert len(records) == CALLS
    assert max(len(record.attempts) for record in records) <= MOST_ATTEMPTS
    assert all(attempt.reserved_usd is not None and attempt.cost_usd is not None for attempt in attempts)
    assert len(sim.requests) == sum(attempt.sent for attempt in attempts)
    (balance,) = bridge.ledger.balance(BUDGET)
    assert (balance.reserved, bridge.ledger.check()) == (0, [])
    assert balance.settled <= balance.limit
    assert balance.settled_usd == sum(attempt.cost_usd for attempt in attempts if attempt.cost_usd is not None)
