"""Those that are compared, each in a process of its own, so that none pays for another's callbacks and globals.

    python -m tests.benchmarks.contender serve JSON

A process makes its contender, says so, and does one job for each line that comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import importlib.util
import itertools
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.paired import Took, cpu_s, way
from tests.benchmarks.server import Server
from tests.ledger_worker import Worker, main, say


MODEL, KEY = "openai/gpt-4o-mini", "sk-benchmark-key"
LITELLM, ROUTER, SDK, HTTPX = "litellm", "LiteLLM's Router, disk cache", "OpenAI SDK", "httpx"
OURS, BARE, TRACED = "llmbridge, everything on", "llmbridge, nothing on", "llmbridge, everything on, traced in batches"
POWER = 'llmbridge, everything on, durability="power"'
FLOOR, DSPY, LITELLM_CACHED = "one SQLite read with hashing", "dspy's disk cache", "LiteLLM's disk cache"
UNRECORDED = "llmbridge, no ledger"
CACHED = (FLOOR, UNRECORDED, OURS, DSPY, LITELLM_CACHED)
EVERYONE = (HTTPX, SDK, LITELLM, ROUTER, BARE, OURS, TRACED, POWER)
BUDGET = "$500000/day"
# Packages of LiteLLM's proxy that version 1.106 imports to answer from a disk cache.
NEEDED = {"dspy": ("dspy",), "litellm's disk": ("fastapi", "orjson", "soundfile")}


class Verbs(NamedTuple):
    """Ask; the streams are read to the end, a step a chunk."""

    complete: Callable[[str], object]
    acomplete: Callable[[str], Awaitable[object]] = NotImplemented
    stream: Callable[[str], Iterator[object]] = NotImplemented
    astream: Callable[[str], AsyncIterator[object]] = NotImplemented


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


def why_not(name: str) -> str | None:
    """Why there is none of that name here; None if there is."""
    modules = next((needed for word, needed in NEEDED.items() if word in name.lower()), ())
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{name} was left out: without {', '.join(missing)} it does not work." if missing else None


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def with_httpx(api_base: str, _: Path) -> Verbs:
    """The least that a client with connections to keep can do: JSON out, JSON in, nothing checked."""
    import httpx

    everybody = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    sync, asynchronous = httpx.Client(limits=everybody), httpx.AsyncClient(limits=everybody)
    url, headers = f"{api_base}/chat/completions", {"Authorization": f"Bearer {KEY}"}

    def post(text: str, **more: object) -> dict[str, Any]:
        return {"url": url, "headers": headers, "json": {"model": "gpt-4o-mini", "messages": asked(text), **more}}

    async def acomplete(text: str) -> object:
        return (await asynchronous.post(**post(text))).json()

    def stream(text: str) -> Iterator[object]:
        with sync.stream("POST", **post(text, stream=True)) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])

    async def astream(text: str) -> AsyncIterator[object]:
        async with asynchronous.stream("POST", **post(text, stream=True)) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line[6:])

    return Verbs(lambda text: sync.post(**post(text)).json(), acomplete, stream, astream)


def with_sdk(api_base: str, _: Path) -> Verbs:
    import openai

    sync = openai.OpenAI(base_url=api_base, api_key=KEY, max_retries=0).chat.completions
    asynchronous = openai.AsyncOpenAI(base_url=api_base, api_key=KEY, max_retries=0).chat.completions

    async def astream(text: str) -> AsyncIterator[object]:
        async for chunk in await asynchronous.create(model="gpt-4o-mini", messages=asked(text), stream=True):  # type: ignore[call-overload]
            yield chunk

    return Verbs(
        lambda text: sync.create(model="gpt-4o-mini", messages=asked(text)),  # type: ignore[call-overload]
        lambda text: asynchronous.create(model="gpt-4o-mini", messages=asked(text)),  # type: ignore[call-overload]
        lambda text: sync.create(model="gpt-4o-mini", messages=asked(text), stream=True),  # type: ignore[call-overload]
        astream,
    )


def with_litellm(api_base: str, _: Path) -> Verbs:
    import litellm

    always: dict[str, Any] = {"model": MODEL, "api_base": api_base, "api_key": KEY, "max_retries": 0}
    return _of_litellm(litellm.completion, litellm.acompletion, always)


def litellm_cached(api_base: str, directory: Path) -> Verbs:
    import litellm

    litellm.cache = litellm.Cache(type="disk", disk_cache_dir=str(directory))  # type: ignore[arg-type]
    always = {"model": MODEL, "api_base": api_base, "api_key": KEY, "caching": True}
    return _of_litellm(litellm.completion, litellm.acompletion, always)


def with_dspy(api_base: str, directory: Path) -> Verbs:
    import dspy

    dspy.configure_cache(disk_cache_dir=str(directory), enable_memory_cache=False)
    return Verbs(dspy.LM(MODEL, api_base=api_base, api_key=KEY))


def floor(_: str, directory: Path) -> Verbs:
    """One read of a row of 2 KB, by the hash of a question."""
    directory.mkdir()
    db = sqlite3.connect(directory / "floor.db", isolation_level=None)
    db.execute("CREATE TABLE kept (key TEXT PRIMARY KEY, value TEXT)")

    def read(text: str) -> object:
        wanted = hashlib.sha256(repr(asked(text)).encode()).hexdigest()
        found = db.execute("SELECT value FROM kept WHERE key = ?", (wanted,)).fetchone()
        return found or db.execute("INSERT INTO kept VALUES (?, ?)", (wanted, "x" * 2000))

    return Verbs(read)


def with_router(api_base: str, directory: Path) -> Verbs:
    """As one would set it up who wants answers kept: a disk cache, and a router that uses it."""
    import litellm

    litellm.cache = litellm.Cache(type="disk", disk_cache_dir=str(directory))  # type: ignore[arg-type]
    where = {"model": MODEL, "api_base": api_base, "api_key": KEY}
    router = litellm.Router([{"model_name": "fish", "litellm_params": where}], cache_responses=True, num_retries=0)
    return _of_litellm(router.completion, router.acompletion, {"model": "fish"})


def _of_litellm(sync: Any, asynchronous: Any, always: dict[str, Any]) -> Verbs:
    async def astream(text: str) -> AsyncIterator[object]:
        async for chunk in await asynchronous(messages=asked(text), stream=True, **always):
            yield chunk

    return Verbs(
        lambda text: sync(messages=asked(text), **always),
        lambda text: asynchronous(messages=asked(text), **always),
        lambda text: sync(messages=asked(text), stream=True, **always),
        astream,
    )


def ours(api_base: str, directory: Path, who: str) -> Verbs:
    """The Bridge with all that it can keep and check, or with nothing. Nobody listens to its trace, but for TRACED."""
    import llmbridge
    from llmbridge import Bridge, Cache, Ledger, Model
    from llmbridge.tracing.tracer import Own
    from tests.benchmarks.tracing import batching

    llmbridge.warm()
    if who == TRACED:
        Own.tracer_provider = batching()
    model = Model(MODEL, api_base=api_base, api_key=KEY)
    cache = None if who == BARE else Cache(directory / "cache")
    ledger = Ledger(directory / "ledger.db", durability="power" if who == POWER else "second")
    if who in (BARE, UNRECORDED):
        bridge = Bridge(model, cache=cache, ledger=None)
    else:
        bridge = Bridge(model, cache=cache, ledger=ledger, budgets=BUDGET)

    def stream(text: str) -> Iterator[object]:
        with bridge.stream(text) as chunks:
            yield from chunks

    async def astream(text: str) -> AsyncIterator[object]:
        async with bridge.astream(text) as chunks:
            async for chunk in chunks:
                yield chunk

    return Verbs(bridge.complete, bridge.acomplete, stream, astream)


MADE: dict[str, Callable[[str, Path], Verbs]] = {
    HTTPX: with_httpx,
    SDK: with_sdk,
    LITELLM: with_litellm,
    ROUTER: with_router,
    FLOOR: floor,
    DSPY: with_dspy,
    LITELLM_CACHED: litellm_cached,
    **{name: functools.partial(ours, who=name) for name in (OURS, TRACED, POWER, BARE, UNRECORDED)},
}


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
