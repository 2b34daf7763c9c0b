"""Connections for many async requests at the same time, instead of httpcore's pool.

That goes through all its connections at the beginning and at the end of each request, and for each idle one through
all of them again: with 64 open, half of a call's time. Here a request takes the connection to its address that became
idle last, which is the likeliest to be open still, or a new one.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import httpcore
import httpx

from llmbridge.http11 import Connection
from llmbridge.network import connect


MOST = 1000  # requests at a time, as long as their answers are read; others wait
MOST_IDLE = 256
IDLE_S = 30.0
_Trace = Callable[[str, dict[str, Any]], Awaitable[None]]  # what httpx knows as the extension "trace"
_Address = tuple[bytes, bytes, int | None]


class Transport(httpx.AsyncHTTPTransport):
    """httpx's own, over Connections; it knows no proxy. Whatever takes the place of httpx's method, as a cassette does,
    sees each request as ever."""

    def __init__(self) -> None:
        self._pool = Connections()  # type: ignore[assignment]


class _Idle(NamedTuple):
    connection: Connection
    until: float  # time.monotonic()


class Connections:
    """As much of httpcore's AsyncConnectionPool as httpx calls; good for one event loop."""

    def __init__(self) -> None:
        self._context = httpx.create_ssl_context()
        self._context.set_alpn_protocols(["http/1.1"])
        self._room = asyncio.Semaphore(MOST)
        self._idle: dict[_Address, deque[_Idle]] = {}
        self._idle_count = 0
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        url = request.url
        if url.scheme not in (b"http", b"https"):
            raise httpcore.UnsupportedProtocol("the address begins with neither http:// nor https://")
        address = url.scheme, url.host, url.port
        await self._enter(request.extensions["timeout"]["pool"])
        connection = None
        try:
            told = request.extensions.pop("trace", None)  # of new connections, and not of a dozen things more
            connection = self._idle_one(address)
            if connection is None:
                connection = await self._new_one(url.origin, request.extensions["timeout"]["connect"], told)
            answer = await connection.ask(request)
        except BaseException:
            self.leave(None, connection)
            raise
        return httpcore.Response(
            answer.status,
            headers=answer.headers,
            content=_Body(self, address, connection),
            extensions={
                "http_version": answer.http_version,
                "reason_phrase": answer.reason,
                "network_stream": connection,
            },
        )

    async def _enter(self, limit_s: float | None) -> None:
        if not self._room.locked():
            await self._room.acquire()
            return
        try:
            async with asyncio.timeout(limit_s):
                await self._room.acquire()
        except TimeoutError:
            raise httpcore.PoolTimeout(f"{MOST:,} requests are under way already") from None

    def _idle_one(self, address: _Address) -> Connection | None:
        idle, now = self._idle.get(address), time.monotonic()
        while idle:
            oldest = idle[0].until < now
            connection, _ = idle.popleft() if oldest else idle.pop()
            self._idle_count -= 1
            if not oldest and connection.is_quiet():
                return connection
            connection.close()
        return None

    async def _new_one(self, origin: httpcore.Origin, limit_s: float | None, told: _Trace | None) -> Connection:
        host = origin.host.decode("ascii")
        stream = await connect(host, origin.port, limit_s)
        if origin.scheme == b"https":
            stream = await stream.start_tls(self._context, host, limit_s)
        if told is not None:
            await told("connection.connect_tcp.complete", {"return_value": stream})
        connection = Connection(stream)
        self._open.add(connection)
        return connection

    def leave(self, address: _Address | None, connection: Connection | None) -> None:
        """A request is over. Its connection is kept for the next one to *address*, if it is good for one."""
        self._room.release()
        if connection is None:
            return
        if address is None or not connection.is_good() or self._idle_count >= MOST_IDLE:
            connection.close()
            return
        self._idle.setdefault(address, deque()).append(_Idle(connection, time.monotonic() + IDLE_S))
        self._idle_count += 1

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._idle.clear()
        self._idle_count = 0
        for connection in list(self._open):
            connection.close()


class _Body:
    """An answer's body. At its end, or when it is left, the connection is given back, once."""

    def __init__(self, connections: Connections, address: _Address, connection: Connection) -> None:
        self._connections: Connections | None = connections
        self._address = address
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._connection.read():
                yield piece
        except BaseException:  # a generator that is dropped is closed by the event loop, which ends here
            await self.aclose()
            raise

    async def aclose(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.leave(self._address, self._connection)
