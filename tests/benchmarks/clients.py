"""Those that are compared: how each is set up, and how one asks it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


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
NEEDED = {DSPY: ("dspy",), LITELLM_CACHED: ("fastapi", "orjson", "soundfile")}


class Verbs(NamedTuple):
    """Ask; the streams are read to the end, a step a chunk."""

    complete: Callable[[str], object]
    acomplete: Callable[[str], Awaitable[object]] = NotImplemented
    stream: Callable[[str], Iterator[object]] = NotImplemented
    astream: Callable[[str], AsyncIterator[object]] = NotImplemented


def why_not(name: str) -> str | None:
    """Why there is none of that name here; None if there is."""
    missing = [module for module in NEEDED.get(name, ()) if importlib.util.find_spec(module) is None]
    return f"{name} was left out: without {', '.join(missing)} it does not work." if missing else None


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def with_httpx(api_base: str, _: Path) -> Verbs:
    """The least that a client with connections to keep can do: JSON out, JSON in, nothing checked."""
    import httpx

    everybody = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    sync, asynchronous = httpx.Client(limits=everybody), httpx.AsyncClient(limits=everybody, timeout=60)
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
    if who in (BARE, UNRECORDED):
        bridge = Bridge(model, cache=cache, ledger=None)
    else:
        ledger = Ledger(directory / "ledger.db", durability="power" if who == POWER else "second")
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
