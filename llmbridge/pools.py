"""Connections for many async requests at the same time.

httpcore's pool goes through all its connections at the beginning and at the end of each request, and for each idle one
through all of them again: with 64 open, half of a call's time. Several small pools look through a few each.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable

import httpx


POOLS = 32
LIMITS = httpx.Limits(max_connections=1000 // POOLS, max_keepalive_connections=256 // POOLS, keepalive_expiry=30)


class Pools(httpx.AsyncBaseTransport):
    """Several pools of connections. A request goes to the one with the fewest under way; of those to the first, whose
    connections are the likeliest to be open."""

    def __init__(self) -> None:
        context = httpx.create_ssl_context()
        self._pools = [httpx.AsyncHTTPTransport(verify=context, limits=LIMITS) for _ in range(POOLS)]
        self._under_way = [0] * POOLS

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = min(range(POOLS), key=self._under_way.__getitem__)
        self._under_way[number] += 1
        try:
            response = await self._pools[number].handle_async_request(request)
        except BaseException:
            self._end(number)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Pooled(response.stream, functools.partial(self._end, number))
        return response

    def _end(self, number: int) -> None:
        self._under_way[number] -= 1

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


class _Pooled(httpx.AsyncByteStream):
    """A body whose end is told to its pool, once."""

    def __init__(self, stream: httpx.AsyncByteStream, end: Callable[[], None]) -> None:
        self._stream = stream
        self._end: Callable[[], None] | None = end

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()  # first: the next request is to find the connection idle
        finally:
            end, self._end = self._end, None
            if end is not None:
                end()
