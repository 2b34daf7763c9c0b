"""The bytes under a connection: what goes out, what comes in, what ends it. Against real sockets and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
import trustme

from llmbridge import wire
from llmbridge.network import MOST_BUFFERED, MOST_HELD, BlockingStream, Stream, connect, connect_blocking
from tests.conftest import Run


MEGABYTE = 2**20
ASYNCIO_READS = 256 * 1024  # at most, at a time
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Stream, socket.socket]]:
    """A stream, and the socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = await connect("127.0.0.1", server.getsockname()[1], 10)
        with server.accept()[0] as peer:
            yield stream, peer
            stream.close()


def _exactly(peer: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        received += peer.recv(65_536)
    return bytes(received)


def test_headers_and_body_go_out_in_one_piece_when_the_answer_is_waited_for(run: Run) -> None:
    async def ask() -> None:
        async with connected() as (stream, peer):
            peer.setblocking(False)
            await stream.write(b"headers, ")
            await stream.write(b"body")
            with pytest.raises(BlockingIOError):
                peer.recv(100)
            reading = asyncio.ensure_future(stream.read(100))
            await asyncio.sleep(0)
            peer.setblocking(True)

            assert await asyncio.to_thread(peer.recv, 100) == b"headers, body"

            peer.sendall(b"answer")
            assert await reading == b"answer"

    run(ask())


@pytest.mark.parametrize("size", [1, MOST_HELD - 1, MOST_HELD, 8 * MEGABYTE])
def test_a_request_of_any_size_arrives_whole(run: Run, size: int) -> None:
    async def ask() -> None:
        async with connected() as (stream, peer):
            receiving = asyncio.ensure_future(asyncio.to_thread(_exactly, peer, 2 + size))
            await stream.write(b">>")
            await stream.write(b"x" * size, timeout=30)
            reading = asyncio.ensure_future(stream.read(10, timeout=30))

            assert await receiving == b">>" + b"x" * size

            peer.sendall(b"thanks")
            assert await reading == b"thanks"

    run(ask())


def test_an_answer_that_nobody_reads_is_not_taken_from_the_socket_for_ever(run: Run) -> None:
    async def ask() -> None:
        async with connected() as (stream, peer):
            sending = asyncio.ensure_future(asyncio.to_thread(peer.sendall, b"y" * (16 * MEGABYTE)))
            first = await stream.read(1, timeout=30)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert not sending.done()
            received = len(first)
            while received < 16 * MEGABYTE:
                assert stream._buffered < MOST_BUFFERED + ASYNCIO_READS
                received += len(await stream.read(65_536, timeout=30))
            await sending

    run(ask())


def test_no_more_is_read_than_was_asked_for(run: Run) -> None:
    async def ask() -> list[bytes]:
        async with connected() as (stream, peer):
            peer.sendall(b"abcdef")
            return [await stream.read(4), await stream.read(4)]

    assert run(ask()) == [b"abcd", b"ef"]


def test_a_read_that_is_cancelled_loses_nothing(run: Run) -> None:
    async def ask() -> bytes:
        async with connected() as (stream, peer):
            reading = asyncio.ensure_future(stream.read(10))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            peer.sendall(b"late")
            return await stream.read(10)

    assert run(ask()) == b"late"


async def _silent(stream: Stream | BlockingStream, _: socket.socket) -> None:
    await stream.read(10, timeout=0.01)


async def _deaf(stream: Stream | BlockingStream, _: socket.socket) -> None:
    await stream.write(b"z" * (64 * MEGABYTE), timeout=0.01)


async def _reset(stream: Stream | BlockingStream, peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    peer.close()
    await stream.read(10, timeout=10)


async def _gone(stream: Stream, peer: socket.socket) -> None:
    peer.close()
    assert await stream.read(10, timeout=10) == b""
    await stream.write(b"anybody?", timeout=10)


async def _no_tls(stream: Stream, _: socket.socket) -> None:
    await stream.start_tls(ssl.create_default_context(), "localhost", timeout=0.01)


async def _other_than_tls(stream: Stream, peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await stream.start_tls(ssl.create_default_context(), "localhost", timeout=10)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (_silent, httpcore.ReadTimeout),
        (_deaf, httpcore.WriteTimeout),
        (_reset, httpcore.ReadError),
        (_gone, httpcore.WriteError),
        (_no_tls, httpcore.ConnectTimeout),
        (_other_than_tls, httpcore.ConnectError),
    ],
)
def test_whatever_ends_a_connection_is_an_error_of_httpcores(
    run: Run, what: Callable[[Stream, socket.socket], Coroutine[Any, Any, None]], error: type[Exception]
) -> None:
    async def ask() -> None:
        async with connected() as (stream, peer):
            with pytest.raises(error):
                await what(stream, peer)

    run(ask())


@pytest.mark.parametrize(
    ("host", "timeout_s", "error"),
    [
        ("127.0.0.1", 10, httpcore.ConnectError),
        ("127.0.0.1", 0, httpcore.ConnectTimeout),
        ("fish..example", 10, httpcore.ConnectError),
        ("f" * 64 + ".example", 10, httpcore.ConnectError),
    ],
)
def test_where_nobody_can_be_reached_nothing_was_sent(
    run: Run, host: str, timeout_s: float, error: type[Exception]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(error):
        run(connect(host, port, timeout_s))
    if timeout_s:  # a thread hears at once that nobody is there
        with pytest.raises(error):
            connect_blocking(host, port, timeout_s)


def test_an_idle_connection_is_quiet_until_the_other_side_has_said_anything_or_gone(run: Run) -> None:
    async def ask() -> list[bool]:
        async with connected() as (quiet, _), connected() as (told, telling), connected() as (left, leaving):
            before = [each.is_quiet() for each in (quiet, told, left)]
            telling.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            leaving.close()
            now = [each.is_quiet() for each in (quiet, told, left)]
            await asyncio.sleep(0)  # the event loop takes it from the sockets
            await asyncio.sleep(0)
            return before + now + [each.is_quiet() for each in (quiet, told, left)]

    assert run(ask()) == [True, True, True, True, False, False, True, False, False]


@contextlib.contextmanager
def connected_blocking() -> Iterator[tuple[BlockingStream, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = BlockingStream(connect_blocking("127.0.0.1", server.getsockname()[1], 10))
        with server.accept()[0] as peer:
            yield stream, peer
            stream.close()


def test_a_thread_sends_headers_and_body_in_one_piece_when_it_waits_for_the_answer(run: Run) -> None:
    with connected_blocking() as (stream, peer):
        peer.setblocking(False)
        run(stream.write(b"headers, "))
        run(stream.write(b"body"))
        with pytest.raises(BlockingIOError):
            peer.recv(100)
        peer.sendall(b"answer")

        assert run(stream.read(100)) == b"answer"
        assert peer.recv(100) == b"headers, body"


@pytest.mark.parametrize("size", [1, MOST_HELD - 1, MOST_HELD, 8 * MEGABYTE])
def test_what_a_thread_sends_arrives_whole_in_any_size(run: Run, size: int) -> None:
    with connected_blocking() as (stream, peer), ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(_exactly, peer, 2 + size)
        receiving.add_done_callback(lambda _: peer.sendall(b"thanks"))
        run(stream.write(b">>"))
        run(stream.write(b"x" * size, timeout=30))

        assert run(stream.read(10, timeout=30)) == b"thanks"
        assert receiving.result() == b">>" + b"x" * size


@pytest.mark.parametrize(
    ("what", "error"),
    [(_silent, httpcore.ReadTimeout), (_deaf, httpcore.WriteTimeout), (_reset, httpcore.ReadError)],
)
def test_a_thread_gets_the_same_errors(
    run: Run, what: Callable[[BlockingStream, socket.socket], Coroutine[Any, Any, None]], error: type[Exception]
) -> None:
    with connected_blocking() as (stream, peer), pytest.raises(error):
        run(what(stream, peer))


def test_a_threads_connection_on_which_nothing_could_be_sent_is_open_no_more(run: Run) -> None:
    with connected_blocking() as (stream, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        assert (stream.is_open(), stream.is_quiet()) == (True, True)
        peer.close()
        assert (stream.is_open(), stream.is_quiet()) == (True, False)
        run(stream.write(b"anybody?"))
        with contextlib.suppress(httpcore.ReadError):
            assert run(stream.read(10)) == b""
        assert not stream.is_open()


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server with a certificate, whose authority is known."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["sync", "async"])
def post(request: pytest.FixtureRequest, run: Run) -> Callable[[str, int], list[httpx.Response]]:
    """Post so many times to an address with a client of the wire's, the sync or the async one."""

    def sync(url: str, times: int) -> list[httpx.Response]:
        with wire.new_client() as client:
            return [client.post(url, content=b"x" * MEGABYTE) for _ in range(times)]

    async def asynchronous(url: str, times: int) -> list[httpx.Response]:
        async with wire.new_async_client() as client:
            return [await client.post(url, content=b"x" * MEGABYTE) for _ in range(times)]

    return sync if request.param == "sync" else lambda url, times: run(asynchronous(url, times))


def test_a_connection_with_tls_is_used_again(post: Callable[[str, int], list[httpx.Response]], secure: str) -> None:
    answers = post(secure, 3)

    assert [answer.content for answer in answers] == [b"hi"] * 3
    assert len({answer.extensions["network_stream"].get_extra_info("ssl_object") for answer in answers}) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(
    post: Callable[[str, int], list[httpx.Response]], secure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        post(secure, 1)
