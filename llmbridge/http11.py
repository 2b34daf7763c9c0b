"""HTTP/1.1 over one connection: h11 writes the request, httptools reads the answer.

httpcore reads with h11 too, which is Python, and takes each chunk of a body for itself: a tenth of what a stream
costs. httptools is Node's parser, in C; chunks that have come together stay together.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any

import h11
import httpcore
import httptools

from llmbridge.network import BlockingStream, Stream


MOST_HEAD = 100 * 1024  # bytes, of a status line and headers; as much as httpcore takes
READ_BYTES = 64 * 1024
# What h11 takes from a server, and llhttp only if told to.
_LENIENT = {
    "lenient_headers": True,
    "lenient_chunked_length": True,
    "lenient_optional_cr_before_lf": True,
    "lenient_spaces_after_chunk_size": True,
}


class Connection:
    """For one request at a time, and the next one if the answer came to its end."""

    def __init__(self, stream: Stream | BlockingStream) -> None:
        self._stream = stream
        self._answer: Answer | None = None
        self._was_sent = False
        self._read_s: float | None = None

    async def ask(self, request: httpcore.Request) -> Answer:
        """Send *request*; returns once the head of its answer is there. Raises httpcore's errors."""
        limits = request.extensions["timeout"]
        self._read_s = limits["read"]
        self._answer = Answer(has_body=request.method != b"HEAD")
        await self._send(request, limits["write"])
        while not self._answer.begun:
            await self._take(self._answer)
        return self._answer

    async def read(self) -> bytes:
        """The next piece of the answer's body; none at its end."""
        assert self._answer is not None
        while not (self._answer.pieces or self._answer.ended):
            await self._take(self._answer)
        return self._answer.taken()

    def is_good(self) -> bool:
        """Whether the request is over, and another one may follow it."""
        return self._was_sent and self._answer is not None and self._answer.keeps_alive and self._stream.is_open()

    def is_quiet(self) -> bool:
        """Whether nothing has happened since: else the other side has hung up, or said what nobody asked for."""
        return self._stream.is_quiet()

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    async def _send(self, request: httpcore.Request, limit_s: float | None) -> None:
        self._was_sent = False
        writer = h11.Connection(h11.CLIENT)
        pieces = request.stream
        try:
            head = h11.Request(method=request.method, target=request.url.target, headers=request.headers)
            await self._write(writer.send(head), limit_s)
            if isinstance(pieces, Iterable):  # also in the async colour: they are in memory
                for piece in pieces:
                    await self._write(writer.send(h11.Data(piece)), limit_s)
            else:
                assert isinstance(pieces, AsyncIterable)
                async for piece in pieces:
                    await self._write(writer.send(h11.Data(piece)), limit_s)
            await self._write(writer.send(h11.EndOfMessage()), limit_s)
            self._was_sent = True
        except h11.LocalProtocolError as error:
            raise httpcore.LocalProtocolError(str(error)) from error
        except httpcore.WriteError:
            pass  # some answer what they do not want to hear, and hang up: the answer tells

    async def _write(self, data: bytes | None, limit_s: float | None) -> None:
        if data:
            await self._stream.write(data, limit_s)

    async def _take(self, answer: Answer) -> None:
        if answer.error is not None:
            raise answer.error
        answer.feed(await self._stream.read(READ_BYTES, self._read_s))


class Answer:
    """One answer, as httptools tells of it."""

    def __init__(self, *, has_body: bool) -> None:
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.http_version = b""
        self.begun = False  # the head is there
        self.ended = False
        self.keeps_alive = False  # known at the end
        self.error: Exception | None = None  # after what `pieces` hold
        self.pieces: list[bytes] = []
        self._has_body = has_body
        self._ends_with_connection = False
        self._head_size = 0
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**_LENIENT)

    def taken(self) -> bytes:
        """What has come of the body since the last time."""
        taken, self.pieces = b"".join(self.pieces), []
        return taken

    def feed(self, data: bytes) -> None:
        """Read on in what came; nothing: the other side has hung up."""
        if not data:
            self._hang_up()
            return
        if not self.begun:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:  # the latter: nobody asked for it
            self.keeps_alive = False
            self._is_wrong(f"this is not HTTP/1.1: {error}")
        if not self.begun and self._head_size > MOST_HEAD:
            self._is_wrong(f"the headers are longer than {MOST_HEAD:,} bytes")
        if self.ended:
            del self._parser  # which refers to this: the collector would have to find that

    def _hang_up(self) -> None:
        if not self.begun:
            self._is_wrong("the other side hung up before it had answered")
        elif not self._ends_with_connection:
            self._is_wrong("the other side hung up before the end of the body")
        else:
            self.ended = True

    def _is_wrong(self, why: str) -> None:
        if not (self.ended or self.error):
            self.error = httpcore.RemoteProtocolError(why)

    def on_message_begin(self) -> None:
        self.keeps_alive = False  # after the end: nobody has asked for another one

    def on_status(self, reason: bytes) -> None:
        if not self.begun:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.begun:  # else it is a trailer
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.begun or status < 200:  # of what nobody has asked for; or it is not the answer yet
            return
        self.status, self.begun = status, True
        self.http_version = b"HTTP/" + self._parser.get_http_version().encode()
        named = {name.lower(): value.lower() for name, value in self.headers}
        is_framed = b"content-length" in named or named.get(b"transfer-encoding", b"").endswith(b"chunked")
        self._ends_with_connection = not is_framed
        self.ended = not self._has_body

    def on_body(self, piece: bytes) -> None:
        if not self.ended:
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        if not self.begun:
            self.reason, self.headers = b"", []
        elif not self.ended:
            self.ended, self.keeps_alive = True, self._parser.should_keep_alive()
