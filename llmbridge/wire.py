"""The HTTP of one attempt: what was sent, what came back, and whether it all came.

Every attempt goes through an httpx client of ours, with two hooks. They hold what LiteLLM and the SDKs below it do
not: one request an attempt (a second one, LiteLLM's or an SDK's own retry, is refused before it is sent), no redirect
followed (it would carry key and prompt to another host), the status and headers as they were on the wire, and the
response itself, so that leaving early or failing closes it. LiteLLM leaves a stream open whose parsing failed; if the
garbage collector closes that inside the connection pool's lock, the thread hangs for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx


TAIL_BYTES = 65_536
_REASON = re.compile(rb'"(?:finish|stop|done|completion|block)_?reason"\s*:\s*"[^"]', re.IGNORECASE)


class SecondRequest(Exception):
    """LiteLLM tried to send a second request within one attempt."""


class RedirectRefused(Exception):
    """The provider answered with a redirect."""


@dataclass(slots=True, eq=False)
class Exchange:
    """What went over the wire in one attempt.

    Attributes:
        deadline: time.monotonic() after which the answer may not go on, or None.
        watched: LiteLLM was given a client of ours, so `requests` is the truth; else LiteLLM used its own.
        provider: LiteLLM's name of the provider, once it is known.
        requests: how many were sent, 0 or 1; a second one is refused.
        response: the answer, from its headers on.
        timed_out: the connection was broken because time was over.
        streaming: a stream was asked for; `tail` holds the end of what came of it, some 64 KB.
        headers_s: how long to wait for the answer's headers, if that is shorter than for its body.
    """

    deadline: float | None = None
    watched: bool = True
    provider: str = ""
    requests: int = 0
    host: str | None = None
    response: httpx.Response | None = None
    timed_out: bool = False
    streaming: bool = False
    headers_s: float | None = None
    body_timeout_s: float | None = None
    tail: deque[bytes] = field(default_factory=deque)

    @property
    def status(self) -> int | None:
        return self.response.status_code if self.response is not None else None

    @property
    def headers(self) -> httpx.Headers:
        return self.response.headers if self.response is not None else httpx.Headers()

    @property
    def sent(self) -> bool:
        """False if surely nothing was sent."""
        return self.requests > 0 or not self.watched

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, never below a millisecond; None without one."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.001)

    def names_its_end(self) -> bool:
        """Whether the end of the answer's body gives a reason for ending, under any of the names in use for one."""
        return _REASON.search(b"".join(self.tail)) is not None

    def close(self) -> None:
        """Give the connection back or hang up. Safe to call twice."""
        if self.response is not None and isinstance(self.response.stream, httpx.SyncByteStream):
            with contextlib.suppress(Exception):
                self.response.close()

    async def aclose(self) -> None:
        """Same as close(), for an async exchange."""
        if self.response is not None and isinstance(self.response.stream, httpx.AsyncByteStream):
            with contextlib.suppress(Exception):
                await self.response.aclose()

    def hang_up(self) -> None:
        """Break the connection from another thread: the only way to end a blocked read."""
        self.timed_out = True
        stream = self.response.extensions.get("network_stream") if self.response is not None else None
        sock = stream.get_extra_info("socket") if stream is not None else None
        if sock is not None and self.response is not None and not self.response.is_closed:
            with contextlib.suppress(OSError):
                sock.shutdown(2)


current: ContextVar[Exchange | None] = ContextVar("llmbridge_exchange", default=None)


def _on_request(request: httpx.Request) -> None:
    exchange = current.get()
    if exchange is None:
        return
    if exchange.headers_s is not None:
        # httpcore looks the timeout up anew for each phase: this one is for the headers, _on_response sets the body's.
        timeout = request.extensions["timeout"]
        exchange.body_timeout_s, timeout["read"] = timeout["read"], exchange.headers_s
    if exchange.streaming:
        request.headers["accept-encoding"] = "identity"  # or the tail of the answer could not be read
    exchange.requests += 1
    if exchange.requests > 1:
        exchange.requests -= 1
        raise SecondRequest(f"a second {request.method} within one attempt was not sent")
    exchange.host = request.url.host


def _on_response(response: httpx.Response) -> None:
    exchange = current.get()
    if exchange is None:
        return
    if exchange.headers_s is not None:
        response.request.extensions["timeout"]["read"] = exchange.body_timeout_s
    if exchange.streaming and isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _Tee(response.stream, exchange.tail)
    elif exchange.streaming and isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _AsyncTee(response.stream, exchange.tail)
    exchange.response = response
    if response.has_redirect_location:
        raise RedirectRefused(f"HTTP {response.status_code} to another address was not followed")


async def _aon_response(response: httpx.Response) -> None:
    _on_response(response)


async def _aon_request(request: httpx.Request) -> None:
    _on_request(request)


def _keep(tail: deque[bytes], piece: bytes) -> None:
    tail.append(piece)
    while len(tail) > 1 and sum(map(len, tail)) - len(tail[0]) > TAIL_BYTES:
        tail.popleft()


class _Tee(httpx.SyncByteStream):
    """A body that leaves its end in *tail*."""

    def __init__(self, stream: httpx.SyncByteStream, tail: deque[bytes]) -> None:
        self._stream = stream
        self._tail = tail

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            _keep(self._tail, piece)
            yield piece

    def close(self) -> None:
        self._stream.close()


class _AsyncTee(httpx.AsyncByteStream):
    """Same as _Tee."""

    def __init__(self, stream: httpx.AsyncByteStream, tail: deque[bytes]) -> None:
        self._stream = stream
        self._tail = tail

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            _keep(self._tail, piece)
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def _settings() -> dict[str, Any]:
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=30)
    return {"follow_redirects": False, "timeout": httpx.Timeout(600, connect=10), "limits": limits}


def new_client() -> httpx.Client:
    """A sync client that reports to the current exchange."""
    return httpx.Client(event_hooks={"request": [_on_request], "response": [_on_response]}, **_settings())


def new_async_client() -> httpx.AsyncClient:
    """An async client that reports to the current exchange; good for one event loop."""
    return httpx.AsyncClient(event_hooks={"request": [_aon_request], "response": [_aon_response]}, **_settings())


class Watchdog:
    """Hangs up on sync exchanges whose time is over; one daemon thread for the process, started when first needed.

    A socket's timeout starts anew with every byte, so a provider that sends one byte a second would hold a blocked
    thread for ever. A threading.Timer a chunk was tried: 60 microseconds each, for a thread that almost never acts.
    """

    def __init__(self) -> None:
        self._due: dict[Exchange, float] = {}
        self._changed = threading.Condition()
        self._wakes = 0.0
        self._pid = 0

    def watch(self, exchange: Exchange, due: float) -> None:
        """Hang up on *exchange* at *due* (time.monotonic()), unless it is watched anew or left alone before."""
        with self._changed:
            self._due[exchange] = due
            if self._pid != os.getpid():  # a thread does not live on in a forked child
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="llmbridge-watchdog", daemon=True).start()
            elif due < self._wakes:
                self._changed.notify()

    def leave(self, exchange: Exchange) -> None:
        """Forget *exchange*."""
        with self._changed:
            self._due.pop(exchange, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                late = [exchange for exchange, due in self._due.items() if due <= now]
                for exchange in late:
                    del self._due[exchange]
                self._wakes = min(self._due.values(), default=now + 3600)
                if not late:
                    self._changed.wait(self._wakes - now)
            for exchange in late:
                exchange.hang_up()


watchdog = Watchdog()
_lock = threading.Lock()
_client: httpx.Client | None = None
_async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = weakref.WeakKeyDictionary()


def client() -> httpx.Client:
    """The process's sync client."""
    global _client
    with _lock:
        if _client is None or _client.is_closed:
            _client = new_client()
        return _client


def async_client() -> httpx.AsyncClient:
    """The running event loop's client: a connection belongs to the loop that opened it."""
    loop = asyncio.get_running_loop()
    with _lock:
        existing = _async_clients.get(loop)
        if existing is None or existing.is_closed:
            existing = _async_clients[loop] = new_async_client()
        return existing
