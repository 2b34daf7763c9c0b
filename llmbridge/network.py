"""The bytes under a connection: asyncio's transports, or httpcore's blocking sockets, with httpcore's errors.

httpcore's own way in the async colour, anyio, arms two cancel scopes for each read and write, has the selector listen
anew for each read, and goes round the event loop once more: a twelfth of a call among 64. asyncio.StreamReader was not
taken, as its limit of time is an asyncio.timeout, and its buffer a copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import ssl
from collections import deque
from typing import Any

import httpcore


MOST_BUFFERED = 256 * 1024  # bytes that nobody has read yet: beyond them nothing more is taken from the socket
MOST_HELD = 64 * 1024
HAPPY_EYEBALLS_S = 0.25  # RFC 8305
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # one that needs no file of its own


async def connect(host: str, port: int, limit_s: float | None) -> Stream:
    """A connection of the running event loop. Raises httpcore's ConnectTimeout and ConnectError."""
    try:
        async with asyncio.timeout(limit_s):
            loop = asyncio.get_running_loop()
            _, stream = await loop.create_connection(Stream, host, port, happy_eyeballs_delay=HAPPY_EYEBALLS_S)
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(str(error)) from error
    except (OSError, UnicodeError) as error:  # the latter of a name that is none
        raise httpcore.ConnectError(str(error)) from error
    return stream


def connect_blocking(host: str, port: int, limit_s: float | None) -> httpcore.NetworkStream:
    """Same as connect(), of any thread."""
    try:
        return httpcore.SyncBackend().connect_tcp(host, port, limit_s)
    except UnicodeError as error:
        raise httpcore.ConnectError(str(error)) from error


class Stream(asyncio.Protocol):
    """One connection, for one reader and writer at a time.

    What is written is held until it is much, or until something is to be read: headers and body go in one piece.
    """

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._held: list[bytes] = []
        self._held_size = 0
        self._is_full = False  # what it is to send; asyncio says so
        self._ended = False
        self._error: Exception | None = None
        self._selector: selectors.BaseSelector | None = None
        self._waiting: asyncio.Future[bool] | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._held:
            self._send()
        while not (self._pieces or self._ended):
            if not await self._woken(timeout):
                raise httpcore.ReadTimeout(f"nothing came for {timeout:g} s")
        if not self._pieces:
            if self._error is not None:
                raise httpcore.ReadError(str(self._error)) from self._error
            return b""
        piece = self._pieces.popleft()
        if len(piece) > max_bytes:
            self._pieces.appendleft(piece[max_bytes:])
            piece = piece[:max_bytes]
        if self._buffered >= MOST_BUFFERED > self._buffered - len(piece) and not self._ended:
            self._transport.resume_reading()
        self._buffered -= len(piece)
        return piece

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._held.append(buffer)
        self._held_size += len(buffer)
        if self._held_size >= MOST_HELD:
            self._send()
        while self._is_full and not self._ended:
            if not await self._woken(timeout):
                raise httpcore.WriteTimeout(f"nothing could be sent for {timeout:g} s")
        if self._ended or self._transport.is_closing():
            raise httpcore.WriteError(str(self._error or "the connection is closed")) from self._error

    def close(self) -> None:
        self._transport.abort()  # close() would wait for what nobody reads, and for the other side's end of TLS

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        within = Stream()
        try:
            async with asyncio.timeout(timeout):
                transport = await self._loop.start_tls(
                    self._transport, within, ssl_context, server_hostname=server_hostname
                )
        except BaseException as error:
            self._transport.abort()
            if isinstance(error, TimeoutError):
                raise httpcore.ConnectTimeout(str(error)) from error
            if isinstance(error, OSError):  # as ssl.SSLError is
                raise httpcore.ConnectError(str(error)) from error
            raise
        assert transport is not None
        within.connection_made(transport)
        return within

    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def is_quiet(self) -> bool:
        """Of an idle connection: False if it was closed, or something has come that nobody asked for."""
        return not (self._ended or self._transport.is_closing() or self._pieces or self._has_more())

    def get_extra_info(self, info: str) -> Any:
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        if self._buffered < MOST_BUFFERED <= self._buffered + len(data):
            self._transport.pause_reading()
        self._buffered += len(data)
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._error = True, exc
        self._wake()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._wake()

    def _send(self) -> None:
        held, self._held, self._held_size = self._held, [], 0
        if not self._ended:
            self._transport.write(b"".join(held))

    def _has_more(self) -> bool:
        """Whether there is something that the event loop has not come to yet."""
        if self._selector is None:
            self._selector = _Selector()
            self._selector.register(self._transport.get_extra_info("socket"), selectors.EVENT_READ)
        return bool(self._selector.select(0))

    async def _woken(self, timeout_s: float | None) -> bool:
        """Whether something has happened within *timeout_s*."""
        self._waiting = waiting = self._loop.create_future()
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, _done, waiting, False)
        try:
            return bool(await waiting)
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiting is not None:
            _done(self._waiting, True)


class BlockingStream:
    """Same as Stream, for a thread: its coroutines never wait for anybody, as httpcore's stream blocks in them."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._held: list[bytes] = []
        self._held_size = 0
        self._limit_s: float | None = None
        self._is_open = True

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._held:
            with contextlib.suppress(httpcore.WriteError):  # as the other side may have answered
                self._send()
        return self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._held.append(buffer)
        self._held_size += len(buffer)
        self._limit_s = timeout
        if self._held_size >= MOST_HELD:
            self._send()

    def close(self) -> None:
        self._is_open = False
        self._stream.close()

    def is_open(self) -> bool:
        return self._is_open

    def is_quiet(self) -> bool:
        return self._is_open and not self._stream.get_extra_info("is_readable")

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _send(self) -> None:
        held, self._held, self._held_size = self._held, [], 0
        try:
            self._stream.write(b"".join(held), self._limit_s)
        except httpcore.WriteError:
            self._is_open = False
            raise


def _done(waiting: asyncio.Future[bool], happened: bool) -> None:
    if not waiting.done():
        waiting.set_result(happened)
