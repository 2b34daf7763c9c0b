"""What the ledger's tests run in processes of their own: python -m tests.ledger_worker NAME JSON

Each worker says a JSON line when it is ready, begins when a line comes in and says JSON lines about how it went. None
imports LiteLLM, so that one costs a tenth of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmbridge.ledger import Budget, Charge, Ledger, Need, Refusal, Reservation


ROOT = Path(__file__).parent.parent
WAIT_S = 50.0


class Worker:
    """A process that runs one of the functions below; killed at the end of the block if it still runs."""

    def __init__(self, name: str, prefix: tuple[str, ...] = (), module: str = __name__, **arguments: Any) -> None:
        command = [*prefix, sys.executable, "-m", module, name, json.dumps(arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]
        self.process.wait(WAIT_S)

    def hear(self) -> Any:
        """Its next line; None after its last."""
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        return json.loads(line) if line else None

    def go(self) -> None:
        """Let it go on."""
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]

    def end(self) -> list[Any]:
        """All that it still says, when it has ended; its exit code is asserted to be 0."""
        said = list(iter(self.hear, None))
        assert self.process.wait(WAIT_S) == 0
        return said


@contextlib.contextmanager
def workers(count: int, name: str, module: str = __name__, **arguments: Any) -> Iterator[list[Worker]]:
    """*count* of one kind, each with its number as `number`; all of them ready."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(Worker(name, module=module, number=number, **arguments)) for number in range(count)
        ]
        for worker in started:
            assert worker.hear() == "ready"
        yield started


def say(what: Any) -> None:
    """One line to whoever started this process."""
    os.write(1, json.dumps(what).encode() + b"\n")


def ready() -> None:
    """Say so, and wait to be let go."""
    say("ready")
    sys.stdin.readline()


def in_threads(count: int, run: Callable[[int], object]) -> None:
    """Call *run* with 0, 1, 2... in a thread each, at the same time."""
    gate = threading.Barrier(count)
    threads = [threading.Thread(target=lambda each=each: (gate.wait(WAIT_S), run(each))) for each in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)


def race(path: str, number: int, budgets: list[str], threads: int, tries: int) -> None:
    """Reserve one unit again and again; settle some, release none. Says how many were admitted, and what went wrong."""
    caps = [Budget(each) for each in budgets]
    admitted: list[Reservation] = []
    errors: list[str] = []
    with Ledger(path) as ledger:
        ready()

        def run(thread: int) -> None:
            for each in range(tries):
                try:
                    made = ledger.reserve(f"{number}-{thread}-{each}.1", Need(1_000_000, 10), caps)
                    if isinstance(made, Reservation):
                        admitted.append(made)
                        if each % 2:
                            ledger.settle(made, Charge(1_000_000, 10))
                except Exception as exc:
                    errors.append(repr(exc))

        in_threads(threads, run)
    say([len(admitted), errors])


def mixed(path: str, number: int, budgets: list[str], tries: int) -> None:
    """Reserve and release, so that there is always room for somebody; says how often it was refused."""
    caps = [Budget(each) for each in budgets]
    refused = 0
    with Ledger(path) as ledger:
        ready()
        for each in range(tries):
            made = ledger.reserve(f"{number}-{each}.1", Need(1_000_000, 10), caps)
            if isinstance(made, Refusal):
                refused += 1
            else:
                ledger.release(made)
    say(refused)


def unqueued_s() -> float:
    """A clock that stands still while this thread is ready to run and no processor is free, where Linux counts that."""
    queued_ns = 0
    with contextlib.suppress(OSError):
        queued_ns = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    return time.monotonic() - queued_ns / 1e9


def pairs(path: str, number: int, tries: int) -> None:
    """A worker: reserve and settle; says how long each took, in seconds."""
    with Ledger(path, patience_s=30.0) as ledger:
        budgets = [Budget("$500/day")]
        ledger.reserve(f"first-{number}.1", Need(1_000_000, 10), budgets)
        ready()
        took = []
        for each in range(tries):
            started = unqueued_s()
            made = ledger.reserve(f"{number}-{each}.1", Need(1_000_000, 10), budgets)
            reserved = unqueued_s()
            assert isinstance(made, Reservation)
            ledger.settle(made, Charge(1_000_000, 10))
            took += [reserved - started, unqueued_s() - reserved]
    say(took)


def fight(path: str, number: int) -> None:
    """A worker: reserves and settles without end, until its input is closed."""
    ended = threading.Event()
    with Ledger(path) as ledger:
        ready()
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        each = 0
        while not ended.is_set():
            each += 1
            made = ledger.reserve(f"{number}-{each}.1", Need(1_000_000, 10), [Budget("$500/day")])
            assert isinstance(made, Reservation)
            ledger.settle(made, Charge(1_000_000, 10))
    say(each)


def power(path: str, marker: str, durability: str, threads: int, pairs: int) -> None:
    """Reserve and settle in threads, and acknowledge each in *marker*; with a checkpoint every few commits."""
    from llmbridge.ledger import sqlite, upkeep

    sqlite.CHECKPOINT_BYTES, sqlite.CHECKPOINT_COMMITS = 20_000, 10
    upkeep.SYNC_S = 0.02
    acknowledge = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ledger = Ledger(path, durability=durability)  # type: ignore[arg-type]

    def run(thread: int) -> None:
        for each in range(pairs):
            attempt = f"{thread}-{each}.1"
            made = ledger.reserve(attempt, Need(5_000, 50), [Budget("$500/day"), Budget("100000 requests")])
            assert isinstance(made, Reservation)
            os.write(acknowledge, f"reserved {attempt}\n".encode())
            ledger.settle(made, Charge(3_000, 30))
            os.write(acknowledge, f"settled {attempt}\n".encode())

    in_threads(threads, run)
    ledger.close()


def main(functions: dict[str, Any]) -> None:
    """Run the function that the command line names."""
    functions[sys.argv[1]](**json.loads(sys.argv[2]))


if __name__ == "__main__":
    main(globals())
