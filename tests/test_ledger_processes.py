"""Many at once: threads, tasks and processes on one file. The cap holds exactly, everybody gets a turn soon, an event
loop is never held up, and a fork hurts nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbridge.errors import LedgerError
from llmbridge.ledger import Budget, Charge, Ledger, Need, Reservation
from llmbridge.record import AttemptRecord, CallRecord
from llmbridge.waiting import Pauses, wait_async
from tests.ledger_worker import WAIT_S, Worker, in_threads, main, say, workers


LONG = bool(os.environ.get("LLMBRIDGE_LONG"))
LOOP_CALLS = 400 if LONG else 50
DOLLAR = 10**9
CAPS = ["500 requests", "$0.50", "5000 tokens", "$100/day"]  # each unit is a request, $0.001 and 10 tokens
NEED, CHARGE = Need(1_000_000, 10), Charge(1_000_000, 10)


def _caps() -> list[Budget]:
    return [Budget(cap) for cap in CAPS]


def _assert_full(ledger: Ledger) -> None:
    """Every cap of 500 units is used up, to the unit."""
    assert ledger.check() == []
    standing = {each.budget: (each.settled + each.reserved, each.limit) for each in ledger.balance()}
    assert standing["500 requests"] == (500, 500)
    assert standing["$0.5"] == (DOLLAR // 2, DOLLAR // 2)
    assert standing["5000 tokens"] == (5000, 5000)
    assert standing["$100/day"] == (DOLLAR // 2, 100 * DOLLAR)


def test_eight_processes_of_threads_admit_exactly_what_the_cap_allows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with workers(8, "race", path=str(path), budgets=CAPS, threads=8, tries=16) as racers:
        for racer in racers:
            racer.go()
        said = [racer.end()[0] for racer in racers]
    assert [errors for _, errors in said if errors] == []
    assert sum(admitted for admitted, _ in said) == 500
    with Ledger(path) as ledger:
        _assert_full(ledger)


def test_sixty_four_threads_admit_exactly_what_the_cap_allows(tmp_path: Path) -> None:
    admitted: list[Reservation] = []
    with Ledger(tmp_path / "ledger.db") as ledger:

        def run(thread: int) -> None:
            for each in range(16):
                made = ledger.reserve(f"{thread}-{each}.1", NEED, _caps())
                if isinstance(made, Reservation):
                    admitted.append(made)
                    if each % 2:
                        ledger.settle(made, CHARGE)

        in_threads(64, run)
        assert len(admitted) == 500
        _assert_full(ledger)


def test_two_hundred_and_fifty_six_tasks_admit_exactly_what_the_cap_allows(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        admitted: list[Reservation] = []

        async def one(task: int) -> None:
            for each in range(4):
                made = await wait_async(ledger.reserving(f"{task}-{each}.1", NEED, _caps()))
                await asyncio.sleep(0)
                if isinstance(made, Reservation):
                    admitted.append(made)
                    ledger.book(None, (made, _answered(), CHARGE))

        async def all_of_them() -> None:
            await asyncio.gather(*(one(task) for task in range(256)))

        asyncio.run(all_of_them())
        assert len(admitted) == 500
        _until(lambda: sum(each.reserved for each in ledger.balance()) == 0)
        _assert_full(ledger)


def _answered() -> AttemptRecord:
    return AttemptRecord(number=1, model="m", provider="p", reason="initial", outcome="answered")


def _until(true: Any, seconds: float = 5.0) -> None:
    """Wait until *true()*."""
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.005)


def test_what_fits_is_never_refused_while_others_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    # four hold at most one unit each, and there are four
    with workers(4, "mixed", path=str(path), budgets=["4 requests"], tries=150) as each:
        for worker in each:
            worker.go()
        assert [worker.end() for worker in each] == [[0]] * 4
    with Ledger(path) as ledger:
        assert ledger.check() == []
        (balance,) = ledger.balance()
        assert (balance.reserved, balance.settled, balance.remaining) == (0, 0, 4)
        taken = [ledger.reserve(f"last-{unit}.1", NEED, [Budget("4 requests")]) for unit in range(5)]
        assert [isinstance(made, Reservation) for made in taken] == [True] * 4 + [False]


def _waits(path: Path) -> list[float]:
    """How long 32 processes waited, for each of their transactions."""
    with workers(32, "pairs", path=str(path), tries=100 if LONG else 30) as writers:
        for writer in writers:
            writer.go()
        took = [seconds for writer in writers for seconds in writer.end()[0]]
    with Ledger(path) as ledger:
        assert ledger.check() == []
        assert ledger.balance()[0].settled == len(took) // 2 * NEED.nanousd  # type: ignore[operator]
    return took


def test_of_thirty_two_writers_none_waits_for_a_second(tmp_path: Path) -> None:
    for again in range(3):  # the machine may have had a moment of its own
        took = _waits(tmp_path / f"{again}.db")
        if max(took) < 1.0:
            break
    p99 = statistics.quantiles(took, n=100)[98]
    print(f"32 writers, {len(took)} transactions: p99 {p99 * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms")
    assert max(took) < 1.0


class Steps:
    """How long the event loop was held by each step of the ledger, without what the thread spent waiting for a free
    processor, which Linux counts for each thread."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._scheduling = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def _queued_ns(self) -> int:
        return int(os.pread(self._scheduling, 100, 0).split()[1])

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        queued, started = self._queued_ns(), time.perf_counter_ns()
        try:
            yield
        finally:
            held = time.perf_counter_ns() - started
            self.seconds.append((held - (self._queued_ns() - queued)) / 1e9)

    async def wait(self, pauses: Pauses[Any]) -> Any:
        """As wait_async()."""
        while True:
            try:
                with self.one():
                    pause_s = next(pauses)
            except StopIteration as end:
                return end.value
            await asyncio.sleep(pause_s)


def loop(path: str, durability: str, calls: int) -> None:
    """A worker: eight tasks that reserve and book; says how long each step held the loop, and what is in the ledger."""
    from llmbridge.ledger import sqlite

    sqlite.CHECKPOINT_BYTES, sqlite.CHECKPOINT_COMMITS = 200_000, 50  # so that there are some
    gc.freeze()
    with Ledger(path, durability=durability) as ledger:  # type: ignore[arg-type]
        steps = Steps()
        budgets = [Budget("$500/day"), Budget("1000000 requests")]

        async def task(name: int) -> None:
            for each in range(calls):
                call = f"loop-{name}-{each}"
                made = await steps.wait(ledger.reserving(f"{call}.1", NEED, budgets))
                await asyncio.sleep(0)
                record = CallRecord(id=call, verb="chat", models=("m",), started_at=time.time(), outcome="answered")
                with steps.one():
                    ledger.book(record, (made, _answered(), CHARGE))

        async def tasks() -> None:
            await asyncio.gather(*(task(name) for name in range(8)))

        asyncio.run(tasks())
    say(steps.seconds)


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="needs Linux's account of each thread")
@pytest.mark.parametrize("durability", ["second", "power"])
def test_the_event_loop_is_not_held_for_ten_milliseconds_by_a_ledger_that_others_fight_for(
    tmp_path: Path, durability: str
) -> None:
    path = str(tmp_path / "ledger.db")
    with workers(4, "fight", path=path) as fighters:
        for fighter in fighters:
            fighter.go()
        with Worker("loop", module=__name__, path=path, durability=durability, calls=LOOP_CALLS) as worker:
            (steps,) = worker.end()
        done = []
        for fighter in fighters:
            fighter.process.stdin.close()  # type: ignore[union-attr]
            done.append(fighter.end()[0])
    slow = [step for step in steps if step > 0.010]
    print(f"{durability}: {len(steps)} steps beside {sum(done)} others' pairs, longest {max(steps) * 1000:.2f} ms")
    assert min(done) > 0
    assert len(slow) <= max(1, len(steps) // 100), slow  # what the machine does behind Linux's back
    with Ledger(path) as ledger:
        assert ledger.check() == []
        assert sum(record.outcome == "answered" for record in ledger.records()) == 8 * LOOP_CALLS


def _in_child(run: Any) -> tuple[int, int]:
    """Fork; the child runs and ends. Its process id, and a pipe that what *run* returned comes through, as JSON."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    code = 1
    try:
        signal.alarm(20)
        os.write(writer, json.dumps(run()).encode())
        code = 0
    finally:
        os._exit(code)


def forked(path: str, inside: bool) -> None:
    """A worker: forks while another of its threads is in a transaction for a moment (or for longer than a fork waits),
    uses the ledger in both, closes the parent's, uses the child's again. Says what each got."""
    from llmbridge.ledger import sqlite

    sqlite.FORK_S = 0.3
    ledger = Ledger(path, patience_s=2.0)
    ledger.reserve("before.1", NEED, _caps())
    begun, over = threading.Event(), threading.Event()

    def transaction() -> None:
        with ledger._file.transaction():
            begun.set()
            over.wait(5.0 if inside else 0.05)

    other = threading.Thread(target=transaction)
    other.start()
    begun.wait(WAIT_S)
    hear, tell = os.pipe()
    process, said = _in_child(lambda: _child(ledger, hear))
    over.set()
    other.join()
    parent = type(ledger.reserve("parent.1", NEED, _caps())).__name__
    ledger.close()
    os.write(tell, b"\n")
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    say([parent, code, json.loads(os.read(said, 10_000))])


def _child(ledger: Ledger, hear: int) -> list[str]:
    said = [_try(ledger, "child.1")]
    os.read(hear, 1)  # the parent has closed its connections
    said.append(_try(ledger, "child.2"))
    return said


def _try(ledger: Ledger, attempt: str) -> str:
    try:
        return type(ledger.reserve(attempt, NEED, _caps())).__name__
    except LedgerError as error:
        return str(error)


def _attempts(path: Path) -> set[str]:
    with Ledger(path) as ledger:
        assert ledger.check() == []
        with ledger._file.reading() as db:
            return {attempt for (attempt,) in db.execute("SELECT attempt FROM reservation")}


def test_a_fork_beside_a_transaction_leaves_both_processes_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Worker("forked", module=__name__, path=str(path), inside=False) as worker:
        (said,) = worker.end()
    assert said == ["Reservation", 0, ["Reservation", "Reservation"]]
    assert _attempts(path) == {"before.1", "parent.1", "child.1", "child.2"}


def test_a_child_of_a_fork_inside_a_long_transaction_is_told_and_the_parent_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Worker("forked", module=__name__, path=str(path), inside=True) as worker:
        (said,) = worker.end()
    parent, code, child = said
    assert (parent, code) == ("Reservation", 0)
    assert all("forked" in each and "spawn" in each for each in child)
    assert _attempts(path) == {"before.1", "parent.1"}


def orphaned(path: str) -> None:
    """A worker: forks, and is killed while it holds the lock. The child goes on, and says how."""
    ledger = Ledger(path)
    ledger.reserve("before.1", NEED, _caps())
    parent = os.getpid()
    reader, writer = os.pipe()
    if os.fork():
        with ledger._file.transaction() as db:
            db.execute("UPDATE balance SET settled = settled + 1")
            os.write(writer, b"\n")
            os.kill(os.getpid(), signal.SIGKILL)
    signal.alarm(20)
    os.read(reader, 1)
    _until(lambda: os.getppid() != parent)
    say([_try(ledger, "child.1"), ledger.check()])
    ledger.close()
    os._exit(0)


def test_a_child_goes_on_when_its_parent_is_killed_inside_a_transaction(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Worker("orphaned", module=__name__, path=str(path)) as worker:
        assert worker.hear() == ["Reservation", []]
        assert worker.process.wait(WAIT_S) == -signal.SIGKILL
        assert worker.hear() is None  # the child has ended too
    assert _attempts(path) == {"before.1", "child.1"}


def pool(path: str, method: str) -> None:
    """A worker: processes of multiprocessing reserve in a ledger that their parent has open, by *method*."""
    ledger = Ledger(path)
    ledger.reserve("before.1", NEED, _caps())
    context: Any = multiprocessing.get_context(method)
    shared = ledger if method == "fork" else path
    children = [context.Process(target=_reserve_some, args=(shared, name)) for name in range(4)]
    for child in children:
        child.start()
        ledger.reserve(f"parent-{child.pid}.1", NEED, _caps())
    for child in children:
        child.join(WAIT_S)
    say([child.exitcode for child in children])
    ledger.close()


def _reserve_some(shared: Any, name: int) -> None:
    ledger = shared if isinstance(shared, Ledger) else Ledger(shared)
    for each in range(20):
        made = ledger.reserve(f"{name}-{each}.1", NEED, _caps())
        assert isinstance(made, Reservation)
        ledger.settle(made, CHARGE)
    ledger.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_processes_of_a_pool_share_their_parents_ledger(tmp_path: Path, method: str) -> None:
    path = tmp_path / "ledger.db"
    with Worker("pool", module=__name__, path=str(path), method=method) as worker:
        assert worker.end() == [[0, 0, 0, 0]]
    assert len(_attempts(path)) == 1 + 4 + 80


class Clock:
    """Seconds since the epoch, as told."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("what", ["ledger.db", "ledger.db-wal"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_vanished_while_it_was_open_is_noticed_within_a_second_of_ledger_time(
    tmp_path: Path, what: str, how: str
) -> None:
    clock = Clock(1_000_000.0)
    ledger = Ledger(tmp_path / "ledger.db", clock=clock)
    ledger.reserve("before.1", NEED, _caps())
    (tmp_path / what).rename(tmp_path / "moved")
    if how == "replaced":
        (tmp_path / what).write_bytes((tmp_path / "moved").read_bytes())
    there = set(tmp_path.iterdir())
    clock.now += 1.0
    with pytest.raises(LedgerError, match=r"ledger\.db.*deleted or replaced.*nothing can be reserved"):
        ledger.reserve("after.1", NEED, _caps())
    assert set(tmp_path.iterdir()) == there, "something was made again"
    ledger.close()


if __name__ == "__main__":
    main(globals())
