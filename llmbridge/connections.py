"""Connections for many requests at the same time, instead of httpcore's pools.

Those go through all their connections at the beginning and at the end of each request, and for each idle one through
all of them again: with 64 open, half of a call's time. Here a request takes the connection to its address that became
idle last, which is the likeliest to be open still, or a new one. No lock is held: a stream may be closed by the
garbage collector, in the middle of any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NamedTuple, TypeVar

import httpcore
import httpx

from llmbridge.http11 import Connection
from llmbridge.network import BlockingStream, Stream, connect, connect_blocking


T = TypeVar("T")
MOST = 1000  # requests at a time, as long as their answers are read; others wait
MOST_IDLE = 256
IDLE_S = 30.0
_Told = Callable[[str, dict[str, Any]], Any] | None  # what httpx knows as the extension "trace"
_Address = tuple[bytes, bytes, int | None]


class Transport(httpx.AsyncHTTPTransport):
    """httpx's own, over Connections; it knows no proxy. Whatever takes the place of httpx's method, as a cassette does,
    sees each request as ever."""

    def __init__(self) -> None:
        self._pool = Connections()  # type: ignore[assignment]


class BlockingTransport(httpx.HTTPTransport):
    """Same, blocking."""

    def __init__(self) -> None:
        self._pool = BlockingConnections()  # type: ignore[assignment]


class _Idle(NamedTuple):
    connection: Connection
    until: float  # time.monotonic()


class _Connections:
    """What both colours share. The blocking one has the same coroutines, over streams that never let them wait."""

    def __init__(self) -> None:
        self._context = httpx.create_ssl_context()
        self._context.set_alpn_protocols(["http/1.1"])
        self._idle: dict[_Address, deque[_Idle]] = {}
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()

    async def _enter(self, limit_s: float | None) -> None:
        """Take one of the MOST places; raises TimeoutError if none is free for so long."""
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError

    async def _connect(self, origin: httpcore.Origin, limit_s: float | None, told: _Told) -> Stream | BlockingStream:
        raise NotImplementedError

    async def _asked(self, request: httpcore.Request) -> httpcore.Response:
        url, limits = request.url, request.extensions["timeout"]
        if url.scheme not in (b"http", b"https"):
            raise httpcore.UnsupportedProtocol("the address begins with neither http:// nor https://")
        address = url.scheme, url.host, url.port
        try:
            await self._enter(limits["pool"])
        except TimeoutError:
            raise httpcore.PoolTimeout(f"{MOST:,} requests are under way already") from None
        connection = None
        try:
            told = request.extensions.pop("trace", None)  # of new connections, and not of a dozen things more
            connection = self._idle_one(address)
            if connection is None:
                connection = Connection(await self._connect(url.origin, limits["connect"], told))
                self._open.add(connection)
            answer = await connection.ask(request)
        except BaseException:
            self.over(address, connection)
            raise
        return httpcore.Response(
            answer.status,
            headers=answer.headers,
            content=_Body(connection, functools.partial(self.over, address, connection)),
            extensions={
                "http_version": answer.http_version,
                "reason_phrase": answer.reason,
                "network_stream": connection,
            },
        )

    def _idle_one(self, address: _Address) -> Connection | None:
        idle, now = self._idle.get(address), time.monotonic()
        with contextlib.suppress(IndexError):  # another thread had the last one
            while idle:
                oldest = idle[0].until < now
                connection, _ = idle.popleft() if oldest else idle.pop()
                if not oldest and connection.is_quiet():
                    return connection
                connection.close()
        return None

    def over(self, address: _Address, connection: Connection | None) -> None:
        """A request is over. Its connection is kept for the next one to *address*, if it is good for one."""
        self._leave()
        if connection is None:
            return
        if not connection.is_good() or sum(map(len, [*self._idle.values()])) >= MOST_IDLE:
            connection.close()
            return
        self._idle.setdefault(address, deque()).append(_Idle(connection, time.monotonic() + IDLE_S))

    def close(self) -> None:
        self._idle.clear()
        for connection in list(self._open):
            connection.close()


class Connections(_Connections):
    """As much of httpcore's AsyncConnectionPool as httpx calls; good for one event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._room = asyncio.Semaphore(MOST)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        return await self._asked(request)

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def aclose(self) -> None:
        self.close()

    async def _enter(self, limit_s: float | None) -> None:
        if not self._room.locked():
            await self._room.acquire()
            return
        async with asyncio.timeout(limit_s):
            await self._room.acquire()

    def _leave(self) -> None:
        self._room.release()

    async def _connect(self, origin: httpcore.Origin, limit_s: float | None, told: _Told) -> Stream:
        host = origin.host.decode("ascii")
        stream = await connect(host, origin.port, limit_s)
        if origin.scheme == b"https":
            stream = await stream.start_tls(self._context, host, limit_s)
        if told is not None:
            await told("connection.connect_tcp.complete", {"return_value": stream})
        return stream


class BlockingConnections(_Connections):
    """As much of httpcore's ConnectionPool as httpx calls; for any number of threads."""

    def __init__(self) -> None:
        super().__init__()
        # A semaphore's lock is one that the collector's finalizers would wait for inside of it; this has none.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(MOST):
            self._room.put(None)

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        return _finished(self._asked(request))

    def __enter__(self) -> BlockingConnections:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _enter(self, limit_s: float | None) -> None:
        try:
            self._room.get(timeout=limit_s)
        except queue.Empty:
            raise TimeoutError from None

    def _leave(self) -> None:
        self._room.put(None)

    async def _connect(self, origin: httpcore.Origin, limit_s: float | None, told: _Told) -> BlockingStream:
        host = origin.host.decode("ascii")
        stream = connect_blocking(host, origin.port, limit_s)
        if origin.scheme == b"https":
            stream = stream.start_tls(self._context, host, limit_s)
        if told is not None:
            told("connection.connect_tcp.complete", {"return_value": stream})
        return BlockingStream(stream)


class _Body:
    """An answer's body. At its end, or when it is left, the connection is given back, once."""

    def __init__(self, connection: Connection, at_end: Callable[[], None]) -> None:
        self._connection = connection
        self._at_end = [at_end]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._connection.read():
                yield piece
        except BaseException:  # a generator that is dropped is closed by the event loop, which ends here
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := _finished(self._connection.read()):
                yield piece
        except BaseException:
            self.close()
            raise

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        try:
            at_end = self._at_end.pop()  # which only one of several threads can
        except IndexError:
            return
        at_end()


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """What *work* returns, which never waits: what it awaits blocks the thread instead."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise RuntimeError("it waits for an event loop")
