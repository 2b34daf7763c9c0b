"""Those that are compared, each in a process of its own, so that none pays for another's callbacks and globals.

    python -m tests.benchmarks.contender serve JSON

A process makes its contender, says so, and does one job for each line that comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.clients import MADE, Verbs, why_not
from tests.benchmarks.paired import Took, cpu_s, way
from tests.benchmarks.server import Server
from tests.ledger_worker import Worker, main, say


class Contender(Worker):
    """A process that does jobs, for as long as the block lasts: what `serve` of a module makes."""

    def __init__(self, module: str = __name__, **arguments: str) -> None:
        super().__init__("serve", module=module, **arguments)

    def do(self, **job: Any) -> Any:
        """Run a job; what it says."""
        self.process.stdin.write(json.dumps(job) + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.hear()

    def took(self, **job: Any) -> Took:
        """What a call of a job takes."""
        return Took(*self.do(**job))


class Stage:
    """Where they meet: a directory, the server, and whoever was asked for so far; all gone at the end of the block."""

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.server = stack.enter_context(Server())
            self._stack = stack.pop_all()
        self._started: dict[str, Contender] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def contenders(self, names: tuple[str, ...]) -> dict[str, Contender]:
        """Those of *names* that can be had here, ready."""
        new = [name for name in names if name not in self._started and not why_not(name)]
        for name in new:
            place = str(self.directory / f"contender{len(self._started)}")
            contender = Contender(who=name, api_base=self.server.api_base, directory=place)
            self._started[name] = self._stack.enter_context(contender)
        for name in new:
            assert self._started[name].hear() == "ready", f"{name} did not start"
        return {name: self._started[name] for name in names if name in self._started}


class Jobs:
    """What a contender is asked to do. No two calls ask the same."""

    def __init__(self, verbs: Verbs) -> None:
        self.verbs = verbs
        self.texts = (f"Name fish number {number}." for number in itertools.count())
        self.loop = asyncio.Runner()
        self.pools: dict[int, ThreadPoolExecutor] = {}

    def calls(self, verb: str, calls: int, concurrent: int) -> list[float]:
        """Wall and CPU seconds a call, of so many, so many at a time."""
        texts = [next(self.texts) for _ in range(calls)]
        started, cpu = time.perf_counter(), cpu_s()
        if verb == "acomplete":
            self.loop.run(self._together(texts, concurrent))
        elif concurrent == 1:
            for text in texts:
                self.verbs.complete(text)
        else:
            pool = self.pools.get(concurrent) or self.pools.setdefault(concurrent, ThreadPoolExecutor(concurrent))
            list(pool.map(self.verbs.complete, texts))
        return [(time.perf_counter() - started) / calls, (cpu_s() - cpu) / calls]

    async def _together(self, texts: list[str], concurrent: int) -> None:
        left = iter(texts)

        async def ask() -> None:
            for text in left:
                await self.verbs.acomplete(text)

        await asyncio.gather(*(ask() for _ in range(concurrent)))

    def hits(self, hits: int) -> Took:
        """What the same question takes, so many times."""
        return way(lambda: self.verbs.complete("Name a fish."), hits)()

    def streams(self, verb: str, streams: int) -> list[list[float]]:
        """Seconds to the first chunk, and wall and CPU seconds for each later one; the medians."""
        each = (self.loop.run(self._astream()) if verb == "astream" else self._stream() for _ in range(streams))
        return [statistics.median(values) for values in zip(*each, strict=True)]  # type: ignore[misc]

    def _stream(self) -> tuple[float, float, float]:
        started, count = time.perf_counter(), 0
        for _ in self.verbs.stream(next(self.texts)):
            if not count:
                first, cpu = time.perf_counter(), time.process_time()
            count += 1
        return first - started, (time.perf_counter() - first) / count, (time.process_time() - cpu) / count

    async def _astream(self) -> tuple[float, float, float]:
        started, count = time.perf_counter(), 0
        async for _ in self.verbs.astream(next(self.texts)):
            if not count:
                first, cpu = time.perf_counter(), time.process_time()
            count += 1
        return first - started, (time.perf_counter() - first) / count, (time.process_time() - cpu) / count

    def memory(self) -> int:
        """Bytes of memory in use, once what nobody holds is collected."""
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(who: str, api_base: str, directory: str) -> None:
    """A contender's process."""
    answer(Jobs(MADE[who](api_base, Path(directory))))


def answer(jobs: object) -> None:
    """Do what comes in, until nothing does."""
    say("ready")
    for line in sys.stdin:
        job = json.loads(line)
        say(getattr(jobs, job.pop("job"))(**job))


if __name__ == "__main__":
    main(globals())
