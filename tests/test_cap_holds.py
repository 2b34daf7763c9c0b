"""A cap that holds: threads, tasks, processes, cancellations, kill -9, and a ledger that cannot be used."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmbridge import (
    AlreadyResolved,
    Bridge,
    Budget,
    BudgetExceeded,
    CallRecord,
    Ledger,
    LedgerBusy,
    LedgerCorrupt,
    Model,
    default,
)
from tests.conftest import VERBS, Run, asking
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
CAP = Budget("$0.0003", name="cap")
COST_NANOUSD = 7350  # nine tokens in, ten out
FULL = Reply(input_tokens=9, output_tokens=10, delay_s=0.01)


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture
def ledger(fresh_default: Bridge) -> Ledger:
    return fresh_default.ledger


@pytest.fixture(params=[*VERBS, "embed", "aembed"])
def send(request: pytest.FixtureRequest, gpt: Model, run: Run) -> Callable[..., Any]:
    """Ask the default Bridge by each of the six verbs."""
    verb = request.param
    if verb in VERBS:
        return lambda **more: asking(verb, run)(FISH, model=gpt, **more)
    embedder = Model("openai/text-embedding-3-small", api_base=gpt.api_base, api_key="sk-test-key")

    def embed(**more: Any) -> Any:
        answer = getattr(default.default(), verb)(FISH, model=embedder, **more)
        return run(answer) if isinstance(answer, Coroutine) else answer

    return embed


# Many at once


def held(ledger: Ledger, bridge: Bridge, sim: Simulator, *, answered: int) -> None:
    """Nothing was overspent, nothing is held, and what is left admits exactly what the arithmetic says."""
    (balance,) = ledger.balance(CAP)
    assert balance.settled == len(sim.requests) * COST_NANOUSD == answered * COST_NANOUSD
    assert (balance.settled <= CAP.amount, balance.reserved, ledger.check()) == (True, 0, [])
    assert answered > 0

    admitted = 0
    with pytest.raises(BudgetExceeded) as caught:
        for _ in itertools.count():
            bridge.complete(FISH, max_tokens=10)
            admitted += 1

    worst = caught.value.needed
    assert COST_NANOUSD < worst < CAP.amount / 3
    assert admitted == max(balance.remaining - worst + COST_NANOUSD, 0) // COST_NANOUSD
    assert ledger.balance(CAP)[0].settled <= CAP.amount


def test_sixty_four_threads_do_not_pass_a_cap(sim: Simulator, gpt: Model, ledger: Ledger) -> None:
    sim.script(FULL)
    bridge = Bridge(gpt, budgets=CAP, ledger=ledger)
    together = threading.Barrier(64)

    def ask(number: int) -> int:
        together.wait(10)
        try:
            if number % 2:
                bridge.complete(FISH, max_tokens=10)
            else:
                with bridge.stream(FISH, max_tokens=10) as chunks:
                    list(chunks)
        except BudgetExceeded:
            return 0
        return 1

    with ThreadPoolExecutor(64) as pool:
        answered = sum(pool.map(ask, range(64)))

    held(ledger, bridge, sim, answered=answered)


def test_two_hundred_and_fifty_six_tasks_do_not_pass_a_cap(
    sim: Simulator, gpt: Model, ledger: Ledger, run: Run
) -> None:
    sim.script(FULL)
    bridge = Bridge(gpt, budgets=CAP, ledger=ledger)

    async def ask(number: int) -> int:
        try:
            if number % 2:
                await bridge.acomplete(FISH, max_tokens=10)
            else:
                async with bridge.astream(FISH, max_tokens=10) as chunks:
                    [chunk async for chunk in chunks]
        except BudgetExceeded:
            return 0
        return 1

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(ask(number) for number in range(256)))

    held(ledger, bridge, sim, answered=sum(run(all_of_them())))


WORKER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import llmbridge
path, base, limit, calls = sys.argv[1:]
llmbridge.warm()
budget = llmbridge.Budget(limit, name="cap")
bridge = llmbridge.Bridge(llmbridge.Model("openai/gpt-4o-mini", api_base=base, api_key="sk-test-key"), ledger=path)
def ask(_):
    try:
        bridge.complete("Name a fish.", max_tokens=10, budget=budget)
    except llmbridge.BudgetExceeded:
        return 0
    return 1
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(ask, range(int(calls)))), flush=True)
"""


@contextmanager
def worker(ledger: Path, gpt: Model, *, calls: int) -> Iterator[subprocess.Popen[str]]:
    """Another process, which asks as soon as it is told to."""
    command = [sys.executable, "-c", WORKER, str(ledger), str(gpt.api_base), CAP.limit, str(calls)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_four_processes_do_not_pass_a_cap(sim: Simulator, gpt: Model, ledger: Ledger) -> None:
    sim.script(FULL)
    bridge = Bridge(gpt, budgets=CAP, ledger=ledger)

    with (
        worker(ledger.path, gpt, calls=24) as one,
        worker(ledger.path, gpt, calls=24) as two,
        worker(ledger.path, gpt, calls=24) as three,
        worker(ledger.path, gpt, calls=24) as four,
    ):
        processes = [one, two, three, four]
        assert [line(process) for process in processes] == ["ready"] * 4
        for process in processes:
            go(process)
        answered = sum(int(line(process)) for process in processes)
        for process in processes:
            process.wait(20)  # whoever closes its ledger has written everything

    held(ledger, bridge, sim, answered=answered)


# Killed


def test_what_a_killed_process_held_is_charged_when_its_lease_is_over(
    sim: Simulator, gpt: Model, tmp_path: Path
) -> None:
    sim.script(Fault.hang())
    path = tmp_path / "ledger.db"

    with worker(path, gpt, calls=1) as process:
        assert line(process) == "ready"
        go(process)
        assert sim.wait_for_requests(1)
        process.kill()
        process.wait(10)

    with Ledger(path) as ledger:  # the lease is not over
        (balance,) = ledger.balance(CAP)
        worst = balance.reserved
        assert (balance.settled, worst > COST_NANOUSD, ledger.records()) == (0, True, [])
    with Ledger(path, clock=lambda: time.time() + 100_000) as ledger:
        (balance,) = ledger.balance(CAP)
        (record,) = ledger.records()
        assert (balance.settled, balance.reserved, ledger.check()) == (worst, 0, [])
        assert (record.outcome, record.uncertain, record.cost_usd) == ("lost", True, Decimal(worst).scaleb(-9))
        assert [attempt.outcome for attempt in record.attempts] == ["lost"]

        ledger.reconcile(record.id, "0.00000735")

        assert ledger.balance(CAP)[0].settled == COST_NANOUSD
        assert [(r.cost_usd, r.uncertain) for r in ledger.records()] == [(Decimal("0.00000735"), False)]
        assert ledger.check() == []
        with pytest.raises(AlreadyResolved):
            ledger.reconcile(record.id, 0)


# Cancelled


@contextmanager
def somebody_writing(path: Path, chance: random.Random) -> Iterator[None]:
    """Another connection that takes the ledger's lock for some milliseconds, again and again."""
    over = threading.Event()

    def fight() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as db:
            while not over.wait(chance.uniform(0, 0.004)):
                db.execute("BEGIN IMMEDIATE")
                over.wait(chance.uniform(0, 0.004))
                db.execute("ROLLBACK")

    thread = threading.Thread(target=fight)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_cancellation_at_any_moment_leaves_nothing_held_and_nothing_unpaid(
    sim: Simulator, gpt: Model, run: Run, fresh_default: Bridge, records: list[CallRecord], seed: int
) -> None:
    chance = random.Random(seed)
    path, trials = fresh_default.ledger.path, 60
    sim.script(Reply(pieces=["Tr", "out", "."], gap_s=0.002))
    embedder = Model("openai/text-embedding-3-small", api_base=gpt.api_base, api_key="sk-test-key")
    budget = Budget("$5", name="ample")

    async def ask(verb: str, trial: str) -> None:
        tags = {"trial": trial}
        if verb == "astream":
            async with fresh_default.astream(trial, model=gpt, budget=budget, tags=tags, max_tokens=100) as chunks:
                async for _ in chunks:
                    pass
        elif verb == "aembed":
            await fresh_default.aembed(trial, model=embedder, budget=budget, tags=tags)
        else:
            await fresh_default.acomplete(trial, model=gpt, budget=budget, tags=tags, max_tokens=100)

    async def cancel(number: int) -> str:
        task = asyncio.create_task(ask(chance.choice(["acomplete", "astream", "aembed"]), f"trial-{number}"))
        for _ in range(chance.randrange(chance.choice([6, 60, 400]))):
            await asyncio.sleep(0 if chance.random() < 0.9 else 0.0005)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "answered"

    async def every_trial() -> Counter[str]:
        return Counter([await cancel(number) for number in range(trials)])

    with somebody_writing(path, random.Random(seed)):
        ends = run(every_trial())
    fresh_default.ledger.close()
    gc.collect()

    served = Counter(_trial(seen.raw) for seen in sim.requests)
    assert ends["cancelled"] > trials / 3
    assert served
    assert max(served.values()) == 1
    with Ledger(path) as ledger:
        assert [(balance.reserved, ledger.check()) for balance in ledger.balance(budget)] == [(0, [])]
        rows = list(_rows(path))
    assert {state for state, _, _ in rows} <= {"settled", "released"}
    reserved = Counter(trial for _, trial, _ in rows)
    assert not reserved or max(reserved.values()) == 1
    paid = {trial for _, trial, cost in rows if cost > 0}
    assert served.keys() <= paid <= reserved.keys()
    assert [record.outcome for record in records].count("answered") >= ends["answered"]


def _trial(body: bytes) -> str:
    asked = json.loads(body)
    return str(asked["messages"][0]["content"] if "messages" in asked else asked["input"]).strip("[]'")


def _rows(path: Path) -> Iterator[tuple[str, str, int]]:
    with closing(sqlite3.connect(path)) as db:
        for state, tags, cost in db.execute("SELECT state, tags, cost_nanousd FROM reservation"):
            yield state, json.loads(tags)["trial"], cost


# A ledger that cannot be used


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A stranger holds the ledger's lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@pytest.fixture
def impatient(fresh_default: Bridge, tmp_path: Path) -> Iterator[Ledger]:
    """The default Bridge's ledger waits for nobody."""
    with Ledger(tmp_path / "impatient.db", patience_s=0.02) as ledger:
        fresh_default._ledger = ledger
        yield ledger


def test_nothing_is_sent_that_could_not_be_reserved(
    send: Callable[..., Any], sim: Simulator, impatient: Ledger, records: list[CallRecord]
) -> None:
    with locked(impatient.path), pytest.raises(LedgerBusy):
        send(budget="$5")

    assert sim.requests == []
    assert [(r.outcome, r.error_type, r.attempts) for r in records] == [("failed", "LedgerBusy", ())]
    send(budget="$5")
    (balance,) = impatient.balance("$5")
    assert (balance.reserved, balance.settled_usd, impatient.check()) == (0, records[1].cost_usd, [])


def test_a_ledger_that_fails_open_lets_each_call_through_with_a_warning(
    send: Callable[..., Any], sim: Simulator, fresh_default: Bridge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(tmp_path / "open.db", patience_s=0.01, fail_open=True) as ledger:
        fresh_default._ledger = ledger
        with locked(ledger.path), caplog.at_level(logging.WARNING, "llmbridge"):
            first, second = send(budget="$5"), send(budget="$5")

    said = [record.getMessage() for record in caplog.records]
    for answer in (first, second):
        assert [f"{answer.record.id}.1" in message for message in said].count(True) == 1
    assert len(sim.requests) == 2


def test_a_call_without_a_budget_goes_on_without_its_ledger(
    send: Callable[..., Any], sim: Simulator, impatient: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(impatient.path), caplog.at_level(logging.WARNING, "llmbridge"):
        answer = send()

    assert answer.cost_usd > 0
    assert [answer.record.id in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("deadline_s", [2, 20])
def test_a_call_without_a_budget_does_not_wait_for_its_ledger_until_its_time_is_over(
    sim: Simulator, gpt: Model, ledger: Ledger, fresh_default: Bridge, deadline_s: float
) -> None:
    started = time.monotonic()

    with locked(ledger.path):
        assert fresh_default.complete(FISH, model=gpt, deadline_s=deadline_s).text == "Trout."

    assert time.monotonic() - started < 8


GARBAGE = b"This is no database, and it is somebody's.\n" * 500


def test_a_file_that_is_no_ledger_is_left_alone_and_nothing_is_sent(
    send: Callable[..., Any], sim: Simulator, fresh_default: Bridge, tmp_path: Path
) -> None:
    fresh_default._ledger = path = tmp_path / "ledger.db"
    path.write_bytes(GARBAGE)
    path.chmod(0o600)

    with pytest.raises(LedgerCorrupt, match=str(path)):
        send(budget="$5")

    assert (sim.requests, path.read_bytes()) == ([], GARBAGE)


def test_a_call_without_a_budget_goes_on_beside_a_file_that_is_no_ledger(
    send: Callable[..., Any], sim: Simulator, fresh_default: Bridge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh_default._ledger = path = tmp_path / "ledger.db"
    path.write_bytes(GARBAGE)
    path.chmod(0o600)

    with caplog.at_level(logging.WARNING, "llmbridge"):
        costs = [send().cost_usd, send().cost_usd]

    assert min(costs) > 0
    assert ["calls are not recorded" in record.getMessage() for record in caplog.records] == [True]
    assert path.read_bytes() == GARBAGE


def test_a_bridge_without_a_ledger_takes_no_budget(
    send: Callable[..., Any], sim: Simulator, gpt: Model, fresh_default: Bridge
) -> None:
    fresh_default._ledger = None

    with pytest.raises(ValueError, match="a budget needs a ledger"):
        send(budget="$5")
    with pytest.raises(ValueError, match="budgets need a ledger"):
        Bridge(gpt, budgets="$5", ledger=None)

    assert sim.requests == []
    assert send().cost_usd > 0
