"""The HTTP of one attempt: what was sent, what came back, and whether it all came.

Every attempt goes through an httpx client of ours, with two hooks. They hold what LiteLLM and the SDKs below it do
not: one request an attempt (a second one, LiteLLM's or an SDK's own retry, is refused before it is sent), no redirect
followed (it would carry key and prompt to another host), the status and headers as they were on the wire, and the
response itself, so that leaving early or failing closes it: LiteLLM leaves a stream open whose parsing failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpcore
import httpx

from llmbridge.connections import BlockingTransport, Transport
from llmbridge.exchange import Exchange, close_left, current, is_asking_another, is_loopback, left, under_way


class SecondRequest(Exception):
    """LiteLLM tried to send a second request within one attempt."""


class RedirectRefused(Exception):
    """The provider answered with a redirect."""


class LeavesMachine(Exception):
    """A request that has to stay here was about to be sent to another machine."""


LAST_BYTES_S = 0.02  # how long what comes after an answer's last event is waited for
LARGEST_BYTES = 256 * 2**20  # of an answer on the wire: an endless one would fill the memory until its deadline


def _on_request(request: httpx.Request) -> None:
    exchange = current.get()
    if exchange is None:
        return
    if exchange.requests:
        raise SecondRequest(f"a second {request.method} within one attempt was not sent")
    if exchange.local_only and not is_loopback(request.url.host):
        raise LeavesMachine(f"local_only: {request.url.host} is not this machine")
    exchange.requests = 1
    exchange.host = request.url.host
    exchange.port = request.url.port or {"http": 80, "https": 443}.get(request.url.scheme)
    request.headers.update(exchange.propagated)
    if exchange.streaming:
        request.headers["accept-encoding"] = "identity"  # or the tail of the answer could not be read
    # Not every provider's code in LiteLLM hands the timeout on. That for reading holds for each piece of a stream: the
    # guard, which moves on with them, is looked at there (`_bounded`).
    timeout = request.extensions["timeout"]
    timeout.update({phase: exchange.left_s(limit_s, guarded=phase != "read") for phase, limit_s in timeout.items()})


def _on_response(response: httpx.Response) -> None:
    exchange = current.get()
    if exchange is None:
        return
    if exchange.streaming and isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _Tee(response.stream, exchange)
        under_way[id(exchange)] = exchange
    elif exchange.streaming and isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _AsyncTee(response.stream, exchange)
    exchange.response = response
    if response.has_redirect_location:
        raise RedirectRefused(f"HTTP {response.status_code} to another address was not followed")


def _on_sync_request(request: httpx.Request) -> None:
    _on_request(request)
    request.extensions["trace"] = _trace


async def _on_async_request(request: httpx.Request) -> None:
    _on_request(request)
    request.extensions["trace"] = _atrace


async def _on_async_response(response: httpx.Response) -> None:
    _on_response(response)


# A socket's timeout starts anew with every byte, so a provider that sends one byte a second would be listened to for
# ever. The total is kept where the bytes are read: a "trace" function is shown each new connection, by ours as by
# httpcore, and its `read` is bounded there by what is left of the exchange that is current at the call. A watchdog
# thread that shuts the socket down was tried first; it knows no socket until the headers are there.
_CONNECTED = ("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")


def _trace(event: str, info: dict[str, Any]) -> None:
    if event.endswith("connect_tcp.failed") and isinstance(info["exception"], UnicodeError):
        raise httpcore.ConnectError(str(info["exception"]))  # of a host's name that is none; httpcore lets it through
    if event.endswith(_CONNECTED):
        stream = info["return_value"]
        read = stream.read

        def bounded_read(max_bytes: int, timeout: float | None = None) -> bytes:
            exchange = current.get()
            if exchange is None:
                return read(max_bytes, timeout)  # type: ignore[no-any-return]
            exchange.reading = stream
            try:
                return _counted(read(max_bytes, _bounded(timeout)))
            finally:
                exchange.reading = None

        stream.read = bounded_read


async def _atrace(event: str, info: dict[str, Any]) -> None:
    if event.endswith(_CONNECTED):
        stream = info["return_value"]
        read = stream.read

        async def bounded_read(max_bytes: int, timeout: float | None = None) -> bytes:
            return _counted(await read(max_bytes, _bounded(timeout)))

        stream.read = bounded_read


def _bounded(timeout_s: float | None) -> float | None:
    exchange = current.get()
    if exchange is None:
        return timeout_s
    if exchange.late():
        raise httpcore.ReadTimeout("time was over while the answer was coming")
    return exchange.left_s(timeout_s)


def _counted(piece: bytes) -> bytes:
    exchange = current.get()
    if exchange is not None:
        exchange.received_bytes += len(piece)
        if exchange.received_bytes > LARGEST_BYTES:
            raise httpcore.ReadError(f"more than {LARGEST_BYTES:,} bytes came, and no end of them")
    return piece


class _Tee(httpx.SyncByteStream):
    """A body that leaves its end in *exchange*.

    The SDK hangs up at an answer's last event, before the body's last bytes: here they are read, if they come at once,
    so that the next request has the connection, without another handshake.
    """

    def __init__(self, stream: httpx.SyncByteStream, exchange: Exchange) -> None:
        self._pieces = iter(stream)  # kept, as the collector ends a generator that nobody has any more
        self._stream = stream
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._exchange.keep(piece)
            yield piece

    def close(self) -> None:
        if is_asking_another(self._exchange):  # the SDK closes what the collector finds
            left.append(self)
            return
        token = current.set(self._exchange)
        try:
            if self._exchange.ends_soon(LAST_BYTES_S):
                with contextlib.suppress(Exception):
                    for _ in self._pieces:
                        pass
            self._stream.close()
        finally:
            current.reset(token)


class _AsyncTee(httpx.AsyncByteStream):
    """Same as _Tee."""

    def __init__(self, stream: httpx.AsyncByteStream, exchange: Exchange) -> None:
        self._pieces = aiter(stream)
        self._stream = stream
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            self._exchange.keep(piece)
            yield piece

    async def aclose(self) -> None:
        token = current.set(self._exchange)
        try:
            if self._exchange.ends_soon(LAST_BYTES_S):
                with contextlib.suppress(Exception):
                    async for _ in self._pieces:
                        pass
        finally:
            current.reset(token)
            await self._stream.aclose()


class _NoCookies(httpx.Cookies):
    """A gateway may know a session by a cookie: kept, that of one key would go along with another's requests."""

    def extract_cookies(self, response: httpx.Response) -> None: ...


_NO_COOKIES = _NoCookies()


class _Client(httpx.Client):
    cookies = property(lambda _: _NO_COOKIES)


class _AsyncClient(httpx.AsyncClient):
    cookies = property(lambda _: _NO_COOKIES)


def _settings(transport: Callable[[], object]) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=30)
    settings = {"follow_redirects": False, "timeout": httpx.Timeout(600, connect=10), "limits": limits}
    if not urllib.request.getproxies():  # which httpx reads for itself, unless it is given a transport
        settings["transport"] = transport()
    return settings


def new_client() -> httpx.Client:
    """A sync client that reports to the current exchange."""
    hooks: dict[str, list[Any]] = {"request": [_on_sync_request], "response": [_on_response]}
    return _Client(event_hooks=hooks, **_settings(BlockingTransport))


def new_async_client() -> httpx.AsyncClient:
    """An async client that reports to the current exchange; good for one event loop."""
    hooks: dict[str, list[Any]] = {"request": [_on_async_request], "response": [_on_async_response]}
    return _AsyncClient(event_hooks=hooks, **_settings(Transport))


_lock = threading.Lock()
_client: httpx.Client | None = None
_async_clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}


def client() -> httpx.Client:
    """The process's sync client."""
    global _client
    close_left()
    with _lock:
        if _client is None or _client.is_closed:
            _client = new_client()
        return _client


def async_client() -> httpx.AsyncClient:
    """The running event loop's client: a connection belongs to the loop that opened it."""
    loop = asyncio.get_running_loop()
    close_left()
    with _lock:
        # Not a WeakKeyDictionary: through its connections a client keeps its own loop alive.
        for ended in [other for other in _async_clients if other.is_closed()]:
            del _async_clients[ended]
        existing = _async_clients.get(loop)
        if existing is None or existing.is_closed:
            existing = _async_clients[loop] = new_async_client()
        return existing


def forget_client() -> None:
    """Let the next sync call open a client of its own.

    After a KeyboardInterrupt inside httpcore, which is there for proxies, its pool's lock may stay taken, and every
    later call would wait for it.
    """
    global _client
    _client = None


def _forget_all() -> None:
    """In a forked child: its parent's connections are not its own, and the lock may have been taken at the fork."""
    global _lock
    _lock = threading.Lock()
    _async_clients.clear()
    left.clear()  # they stay in `under_way`, so that nothing waits for the parent's lock
    forget_client()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
