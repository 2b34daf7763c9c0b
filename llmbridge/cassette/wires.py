"""Where httpx meets the network, with a cassette in between. vcrpy's own patch would join a stream into one piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any
from unittest import mock

import httpx

from llmbridge.cassette.entry import Recording, events


if TYPE_CHECKING:
    from llmbridge.cassette.replaying import Patched

SYNC = (httpx.HTTPTransport, httpx.MockTransport, httpx.WSGITransport)
ASYNC = (httpx.AsyncHTTPTransport, httpx.MockTransport, httpx.ASGITransport)


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, each after its pause."""

    def __init__(self, pieces: list[bytes], pauses_s: list[float] | None = None) -> None:
        self._pieces = pieces
        # Where what was recorded and what is read differ in their number, somebody has edited the body: no pauses.
        self._pauses_s = pauses_s if pauses_s and len(pauses_s) == len(pieces) else []

    def __iter__(self) -> Iterator[bytes]:
        for piece, pause_s in zip_longest(self._pieces, self._pauses_s):
            if pause_s:
                time.sleep(pause_s)
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece, pause_s in zip_longest(self._pieces, self._pauses_s):
            if pause_s:
                await asyncio.sleep(pause_s)
            yield piece


class Heard:
    """What came of an answer so far, and when: the pieces, and seconds since the request was sent."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._times_s: list[float] = []
        self._started = time.monotonic()

    def take(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self._times_s.append(time.monotonic() - self._started)

    def times_s(self, headers: dict[str, list[str]]) -> list[float]:
        """When the end of each event was there."""
        ends, times, size = events(b"".join(self.pieces), headers), [], 0
        arrived = iter(zip(self.pieces, self._times_s, strict=True))
        come, at_s = 0, 0.0
        for event in ends:
            size += len(event)
            while come < size:
                piece, at_s = next(arrived)
                come += len(piece)
            times.append(round(at_s, 3))
        return times


def patches(cassette: Patched) -> Iterator[Any]:
    """What puts *cassette* in the place of the network, as context managers."""
    for kind in SYNC:
        yield mock.patch.object(kind, "handle_request", _sync(cassette, kind.handle_request))
    for each in ASYNC:
        yield mock.patch.object(each, "handle_async_request", _async(cassette, each.handle_async_request))


def _sync(cassette: Patched, real: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    def handle_request(self: Any, request: httpx.Request) -> httpx.Response:
        sent = _sent(request, b"".join(request.stream))  # type: ignore[arg-type]
        recording = cassette.take(sent)
        if recording is not None:
            return _played(recording, cassette)
        heard = Heard()
        response = real(self, request)
        try:
            for piece in response.stream:  # type: ignore[union-attr]
                heard.take(piece)
        finally:
            response.close()
        return _kept(cassette, sent, response, heard)

    return handle_request


def _async(cassette: Patched, real: Callable[..., Any]) -> Callable[..., Any]:
    async def handle_async_request(self: Any, request: httpx.Request) -> httpx.Response:
        sent = _sent(request, b"".join([piece async for piece in request.stream]))  # type: ignore[union-attr]
        recording = cassette.take(sent)
        if recording is not None:
            return _played(recording, cassette)
        heard = Heard()
        response = await real(self, request)
        try:
            async for piece in response.stream:
                heard.take(piece)
        finally:
            await response.aclose()
        return _kept(cassette, sent, response, heard)

    return handle_async_request


def _sent(request: httpx.Request, body: bytes) -> dict[str, Any]:
    request.stream = httpx.ByteStream(body)  # what was read is there again for who sends it
    return {"method": request.method, "uri": str(request.url), "headers": dict(request.headers), "body": body}


def _played(recording: Recording, cassette: Patched) -> httpx.Response:
    answer = recording.answer
    headers = [(name, value) for name, values in answer["headers"].items() for value in values]
    pauses_s = recording.pauses_s if cassette.timing else None
    message = answer["status"]["message"]
    return httpx.Response(
        answer["status"]["code"],
        headers=headers,
        stream=Pieces(events(answer["body"]["string"], answer["headers"]), pauses_s),
        extensions={"reason_phrase": message.encode("ascii", "replace")} if message else None,
    )


def _kept(cassette: Patched, sent: dict[str, Any], response: httpx.Response, heard: Heard) -> httpx.Response:
    headers: dict[str, list[str]] = {}
    for name, value in response.headers.multi_items():
        headers.setdefault(name, []).append(value)
    body: dict[str, Any] = {"string": b"".join(heard.pieces)}
    if cassette.timing and "content-encoding" not in headers:
        body["times_s"] = heard.times_s(headers)
    status = {"code": response.status_code, "message": response.reason_phrase}
    cassette.keep(sent, {"status": status, "headers": headers, "body": body})
    return httpx.Response(
        response.status_code,
        headers=response.headers.raw,
        stream=Pieces(heard.pieces),
        extensions={name: value for name, value in response.extensions.items() if name != "network_stream"},
    )
