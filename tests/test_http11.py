"""HTTP/1.1 of both colours: another reader than httpx's own, and the same answers. Against real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpcore
import httpx
import pytest
from hypothesis import given, strategies as st

from llmbridge import wire
from llmbridge.http11 import MOST_HEAD, Answer
from tests.conftest import Run


@dataclass
class Server:
    """Says its answers to each connection, one a request, and hangs up after the last."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


@contextlib.contextmanager
def saying(*answers: bytes, connections: int = 1) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(f"http://127.0.0.1:{listening.getsockname()[1]}/")

        def serve() -> None:
            with contextlib.suppress(OSError):  # it may be stopped before the last connection has come
                for _ in range(connections):
                    with listening.accept()[0] as connection, contextlib.suppress(OSError):  # who has enough resets it
                        server.connections += 1
                        _converse(connection, answers, server.requests)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _converse(connection: socket.socket, answers: Sequence[bytes], requests: list[bytes]) -> None:
    for answer in answers:
        request = _request(connection)
        if not request:
            break
        requests.append(request)
        connection.sendall(answer)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65_536):  # or closing would be a reset, which overtakes the answer
        pass


def _request(connection: socket.socket) -> bytes:
    """A request, whose body ends with an exclamation mark if it has one."""
    received = b""
    while not received.endswith((b"!", b"!\r\n0\r\n\r\n")):
        piece = connection.recv(65_536)
        received += piece
        if not piece or (received.endswith(b"\r\n\r\n") and received.startswith((b"GET", b"HEAD"))):
            break
    return received


Told = tuple[int, str, list[tuple[bytes, bytes]], bytes] | str


def _told(response: httpx.Response) -> Told:
    return response.status_code, response.reason_phrase, response.headers.raw, response.content


def reference(url: str, method: str = "POST") -> Told:
    """By httpx's own transport, whose reader is h11."""
    return _by(httpx.Client(trust_env=False), url, method)


def blocking(url: str, method: str = "POST") -> Told:
    return _by(wire.new_client(), url, method)


def _by(client: httpx.Client, url: str, method: str) -> Told:
    with client:
        try:
            return _told(client.request(method, url, content=None if method == "HEAD" else b"fish!"))
        except httpx.HTTPError as error:
            return type(error).__name__


async def asynchronous(url: str, method: str = "POST") -> Told:
    async with wire.new_async_client() as client:
        try:
            return _told(await client.request(method, url, content=None if method == "HEAD" else b"fish!"))
        except httpx.HTTPError as error:
            return type(error).__name__


def _ok(*headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *headers, b"", body])


Content = bytes | Callable[[], Iterator[bytes]]


class Post(Protocol):
    def __call__(self, url: str, times: int = 1, content: Content = ..., **headers: str) -> list[httpx.Response]: ...


@pytest.fixture(params=["sync", "async"])
def post(request: pytest.FixtureRequest, run: Run) -> Post:
    """Post so many times with a client of the wire's, the sync or the async one."""

    def sync(url: str, times: int = 1, content: Content = b"fish!", **headers: str) -> list[httpx.Response]:
        with wire.new_client() as client:
            return [
                client.post(url, content=content() if callable(content) else content, headers=headers)
                for _ in range(times)
            ]

    async def each(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)

    async def asked(url: str, times: int, content: Content, headers: dict[str, str]) -> list[httpx.Response]:
        async with wire.new_async_client() as client:
            return [
                await client.post(url, content=each(content()) if callable(content) else content, headers=headers)
                for _ in range(times)
            ]

    def asynchronous(url: str, times: int = 1, content: Content = b"fish!", **headers: str) -> list[httpx.Response]:
        return run(asked(url, times, content, headers))

    return sync if request.param == "sync" else asynchronous


CHUNKED = b"Transfer-Encoding: chunked"
ANSWERS = {
    "with a length": _ok(b"Content-Length: 5", body=b"trout"),
    "in chunks": _ok(CHUNKED, body=b"3\r\ntro\r\n2\r\nut\r\n0\r\n\r\n"),
    "in chunks with extensions": _ok(CHUNKED, body=b"3;a=b\r\ntro\r\n2;c\r\nut\r\n0\r\n\r\n"),
    "in chunks with spaces": _ok(CHUNKED, body=b"5  \r\ntrout\r\n0\r\n\r\n"),
    "in chunks with trailers": _ok(CHUNKED, body=b"5\r\ntrout\r\n0\r\nX-Fish: 1\r\n\r\n"),
    "until the connection ends": _ok(b"Content-Type: text/plain", body=b"trout"),
    "empty, until the connection ends": _ok(b"Content-Type: text/plain"),
    "empty": _ok(b"Content-Length: 0"),
    "without content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "after another that only informs": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    + _ok(b"Content-Length: 2", body=b"hi"),
    "after which it is closed": _ok(b"Connection: close", b"Content-Length: 2", body=b"hi"),
    "after which it is closed, and more": _ok(b"Connection: close", b"Content-Length: 2", body=b"hi, fish"),
    "of version 1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "without a reason": b"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno",
    "with a long reason": b"HTTP/1.1 429 Too  Many Requests\r\nContent-Length: 2\r\n\r\nno",
    "with line feeds alone": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "with a header twice": _ok(b"Set-Cookie: a", b"set-cookie: b", b"Content-Length: 0"),
    "with an empty header": _ok(b"X-Empty:", b"Content-Length: 0"),
    "with a header outside of ASCII": _ok(b"X-Fish: \xc3\xa9", b"Content-Length: 0"),
    "with spaces around a header": _ok(b"X-Fish:  a  b ", b"Content-Length: 0"),
    "with a length and in chunks": _ok(CHUNKED, b"Content-Length: 2", body=b"5\r\ntrout\r\n0\r\n\r\n"),
    "that offers an upgrade": _ok(b"Upgrade: h2", b"Connection: Upgrade", b"Content-Length: 2", body=b"hi"),
    "cut in its first line": b"HTTP/1.1 20",
    "cut in its headers": b"HTTP/1.1 200 OK\r\nContent-",
    "cut in a body with a length": _ok(b"Content-Length: 5", body=b"tro"),
    "cut in a chunk": _ok(CHUNKED, body=b"5\r\ntro"),
    "cut between chunks": _ok(CHUNKED, body=b"5\r\ntrout\r\n"),
    "cut before its last line": _ok(CHUNKED, body=b"5\r\ntrout\r\n0\r\n"),
    "of no bytes": b"",
    "of another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "of two lengths": _ok(b"Content-Length: 2", b"Content-Length: 3", body=b"hi!"),
    "of no length that can be": _ok(b"Content-Length: -1", body=b"hi!"),
    "of chunks of no size": _ok(CHUNKED, body=b"x\r\ntrout\r\n0\r\n\r\n"),
    "of endless headers": _ok(*[b"X-Fish: " + b"f" * 1000] * 300),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=[f"an answer {name}" for name in ANSWERS])
def test_both_colours_are_told_what_httpx_is_told_of(answer: bytes, run: Run) -> None:
    with saying(answer, connections=3) as server:
        assert run(asynchronous(server.url)) == blocking(server.url) == reference(server.url)
    assert [request.endswith(b"\r\n\r\nfish!") for request in server.requests] == [True] * 3


NONE = ("cut", "of no", "of another", "of two", "of chunks", "of endless")


def test_an_answer_that_is_none_is_an_error_and_no_other_is() -> None:
    for name, answer in ANSWERS.items():
        with saying(answer) as server:
            told = blocking(server.url)
        assert (told == "RemoteProtocolError") == name.startswith(NONE)


def test_an_answer_to_head_has_no_body(run: Run) -> None:
    with saying(_ok(b"Content-Length: 5"), connections=3) as server:
        told = run(asynchronous(server.url, "HEAD"))
        assert told == blocking(server.url, "HEAD") == reference(server.url, "HEAD")
    assert [request[:5] for request in server.requests] == [b"HEAD "] * 3


def _read(*pieces: bytes) -> tuple[int, bytes, list[tuple[bytes, bytes]], bytes, bool]:
    answer, body = Answer(has_body=True), b""
    for piece in pieces:
        if not answer.ended:
            answer.feed(piece)
            body += answer.taken()
    if not answer.ended:
        answer.feed(b"")
    return answer.status, answer.reason, answer.headers, body, answer.keeps_alive


WHOLE = [name for name in ANSWERS if not name.startswith((*NONE, "after which"))]


@given(st.sampled_from(WHOLE), st.lists(st.integers(1, 200)))
def test_an_answer_is_the_same_however_it_is_cut(name: str, at: list[int]) -> None:
    answer = ANSWERS[name]
    ends = sorted({0, len(answer), *(each for each in at if each < len(answer))})
    pieces = [answer[start:end] for start, end in itertools.pairwise(ends)]

    assert _read(*pieces) == _read(answer)


def test_chunks_that_come_together_are_one_piece() -> None:
    answer = Answer(has_body=True)
    answer.feed(_ok(CHUNKED, body=b"1\r\na\r\n1\r\nb\r\n"))
    first = answer.taken()
    answer.feed(b"1\r\nc\r\n1\r\n")

    assert (first, answer.taken(), answer.ended) == (b"ab", b"c", False)


def test_a_protocol_that_nobody_asked_for_is_an_error() -> None:
    answer = Answer(has_body=True)
    answer.feed(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")

    assert (answer.begun, type(answer.error)) == (False, httpcore.RemoteProtocolError)


def test_what_came_before_an_error_is_read_before_it(run: Run) -> None:
    def blocking_read(url: str) -> list[bytes]:
        pieces = []
        with (
            wire.new_client() as client,
            client.stream("POST", url, content=b"fish!") as response,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            for piece in response.iter_raw():
                pieces.append(piece)  # noqa: PERF402 - it ends in an error
        return pieces

    async def read(url: str) -> list[bytes]:
        pieces = []
        async with wire.new_async_client() as client, client.stream("POST", url, content=b"fish!") as response:
            with pytest.raises(httpx.RemoteProtocolError):
                async for piece in response.aiter_raw():
                    pieces.append(piece)  # noqa: PERF401 - it ends in an error
        return pieces

    with saying(_ok(CHUNKED, body=b"5\r\ntrout\r\nand no chunk"), connections=2) as server:
        assert run(read(server.url)) == blocking_read(server.url) == [b"trout"]


def test_headers_have_an_end_or_are_an_error() -> None:
    answer = Answer(has_body=True)
    answer.feed(b"HTTP/1.1 200 OK\r\nX-Fish: ")
    for _ in range(MOST_HEAD // 1024):
        assert answer.error is None
        answer.feed(b"f" * 1024)

    assert str(answer.error) == "the headers are longer than 102,400 bytes"


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (_ok(b"Content-Length: 2", body=b"hi"), 1),
        (_ok(CHUNKED, body=b"2\r\nhi\r\n0\r\n\r\n"), 1),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + _ok(b"Content-Length: 2", body=b"hi"), 1),
        (_ok(b"Connection: close", b"Content-Length: 2", body=b"hi"), 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 2),
        (_ok(b"Content-Length: 2", body=b"hi") + _ok(b"Content-Length: 8", body=b"not yours"), 2),
        (_ok(b"Content-Length: 2", body=b"hi") + b"\x00", 2),
    ],
)
def test_a_connection_is_used_again_only_after_an_answer_that_is_over(
    answer: bytes, connections: int, post: Post
) -> None:
    with saying(answer, answer, connections=connections) as server:
        assert [each.content for each in post(server.url, 2)] == [b"hi", b"hi"]
    assert server.connections == connections


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Key": "sk-1\r\nX-Other: 2"},
        {"X-Key": "sk-1\n"},
        {"X-Key": " sk-1"},
        {"X-Key": "sk\x00"},
        {"X Key": "sk-1"},
        {"": "sk-1"},
        {"Content-Length": "3"},
        {"Content-Length": "7"},
        {"Content-Length": "many"},
    ],
)
def test_a_request_that_would_not_be_one_is_not_sent(headers: dict[str, str], post: Post) -> None:
    with saying(_ok(b"Content-Length: 2", body=b"hi")) as server:
        with pytest.raises(httpx.LocalProtocolError):
            post(server.url, **headers)
        assert server.requests == []


def test_a_request_of_unknown_length_goes_in_chunks(post: Post) -> None:
    with saying(_ok(b"Content-Length: 2", body=b"hi")) as server:
        (answer,) = post(server.url, content=lambda: iter([b"trout, ", b"pike!"]))

    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert answer.status_code == 200
    assert b"transfer-encoding: chunked" in head.lower()
    assert body == b"7\r\ntrout, \r\n5\r\npike!\r\n0\r\n\r\n"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_answer_that_came_before_the_request_was_read_is_heard_and_ends_the_connection(
    colour: str, run: Run
) -> None:
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url, gone = f"http://127.0.0.1:{listening.getsockname()[1]}/", threading.Event()

        def serve() -> None:
            for _ in range(2):
                with listening.accept()[0] as connection:
                    connection.recv(10)
                    connection.sendall(refused)
                    connection.shutdown(socket.SHUT_WR)
                    # An event loop hears the end of the answer while it is sending; a thread only that nobody listens.
                    while colour == "async" and connection.recv(65_536):
                        pass
            gone.set()

        threading.Thread(target=serve, daemon=True).start()

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65_536
                await asyncio.sleep(0)

        async def post() -> list[int]:
            async with wire.new_async_client() as client:
                return [(await client.post(url, content=endless())).status_code for _ in range(2)]

        def blocking_post() -> list[int]:
            with wire.new_client() as client:
                return [client.post(url, content=itertools.repeat(b"x" * 65_536)).status_code for _ in range(2)]

        assert (run(post()) if colour == "async" else blocking_post()) == [413, 413]
        assert gone.wait(10)
