"""One client's connection: requests in, plays out, and whether the client stayed for them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .plays import Play
from .wire import Seen


RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """Serve one connection, one request at a time.

    *arrived* is called with each request and returns its play and what to call if the client leaves
    before the play is over. While it is open, the connection is among *all_open*.
    """

    def __init__(self, arrived: Callable[[Seen], tuple[Play, Callable[[], None]]], all_open: set[Connection]) -> None:
        self._arrived = arrived
        self._all_open = all_open
        self._left: Callable[[], None] | None = None
        self._received = bytearray()
        self._needed = 0
        self._playing: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._transport: asyncio.Transport
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._all_open.add(self)
        transport.set_write_buffer_limits(0)
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) >= self._needed:
            self._take()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._playing:
            self._playing.cancel()
        if self._left:
            self._left()
        self._all_open.discard(self)
        self.lost.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def drop(self) -> None:
        """Close at once, whatever is being sent."""
        self._left = None
        self._transport.abort()

    def _take(self) -> None:
        """Answer the next request if it is complete and none is being answered."""
        if self._playing:
            return
        seen, self._needed = read(self._received)
        if seen is None:
            return
        del self._received[: self._needed]
        self._needed = 0
        play, self._left = self._arrived(seen)
        self._playing = asyncio.get_running_loop().create_task(self._perform(play))
        self._playing.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._playing = None
        if task.cancelled():
            return
        self._left = None
        task.result()
        if self._received and not self._transport.is_closing():
            self._take()

    async def _perform(self, play: Play) -> None:
        if play.delay_s:
            await asyncio.sleep(play.delay_s)
        await self._send(play.head)
        for number, part in enumerate(play.parts):
            # Even a pause of nothing lets the loop see that a client has gone.
            await asyncio.sleep(play.gap_s if number else 0)
            await self._send(part)
        if play.end == "hang":
            await asyncio.Future()
        elif play.end == "close":
            self._left = None
            self._transport.close()
        elif play.end == "reset":
            self._reset()

    async def _send(self, data: bytes) -> None:
        self._transport.write(data)
        await self._writable.wait()

    def _reset(self) -> None:
        self._left = None
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()


def read(received: bytearray) -> tuple[Seen | None, int]:
    """The first request in *received*, and its length; or None, and the length it needs at least."""
    end = received.find(b"\r\n\r\n") + 4
    if end < 4:
        return None, 0
    first, *lines = bytes(received[: end - 4]).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, length = _unchunk(received, end)
        if body is None:
            return None, 0
    else:
        length = end + int(headers.get("content-length", 0))
        body = bytes(received[end:length])
    if len(received) < length:
        return None, length
    method, target, _ = first.split(" ", 2)
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Seen(method, unquote(parts.path), query, headers, _json(body), body), length


def _unchunk(received: bytearray, start: int) -> tuple[bytes | None, int]:
    """The chunked body from *start* on and where it ends; None if it isn't complete."""
    body, at = b"", start
    while (line := received.find(b"\r\n", at)) >= 0:
        size = int(received[at:line].split(b";")[0], 16)
        at = line + 2 + size + 2
        if len(received) < at:
            break
        if size == 0:
            return body, at
        body += received[line + 2 : at - 2]
    return None, 0


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
