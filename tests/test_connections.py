"""The connections of both colours: opened, kept, used again, given back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from llmbridge import Bridge, LLMBridgeError, Model, connections, wire
from tests.conftest import Run
from tests.simulator import Fault, Reply, Simulator
from tests.simulator.connection import Connection
from tests.test_complete import FISH
from tests.test_http11 import saying


Together = Callable[..., None]
QUESTION = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": FISH}]}


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Each connection that the simulator has seen."""
    seen: list[Connection] = []
    made = Connection.connection_made
    monkeypatch.setattr(Connection, "connection_made", lambda self, on: (seen.append(self), made(self, on)))
    return seen


def asked(bridge: Bridge, model: Model, *waves: int) -> None:
    """So many calls at the same time, one wave after the other, in one event loop."""

    async def ask() -> None:
        for calls in waves:
            await asyncio.gather(*(bridge.acomplete(FISH, model=model, cache="off") for _ in range(calls)))
        await wire.async_client().aclose()

    asyncio.run(ask())


def held(bridge: Bridge, model: Model, *waves: int) -> None:
    """So many blocking streams, opened before the first one is read, one wave after the other."""
    wire.forget_client()
    for streams in waves:
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(bridge.stream(FISH, model=model, cache="off")) for _ in range(streams)]
            firsts = [next(chunks) for chunks in opened]
            for first, chunks in zip(firsts, opened, strict=True):
                assert first.text + "".join(chunk.text for chunk in chunks) == "Trout."


def room(client: httpx.Client | httpx.AsyncClient) -> int:
    """How many more requests may be under way."""
    pool: Any = client._transport._pool  # type: ignore[attr-defined]
    return int(pool._room.qsize() if isinstance(client, httpx.Client) else pool._room._value)


def read(bridge: Bridge, verb: str, model: Model, times: int) -> list[str]:
    """The text of so many streams, one after the other, each read to its end."""

    async def all_of_them() -> list[str]:
        texts = []
        for _ in range(times):
            async with bridge.astream(FISH, model=model, cache="off") as chunks:
                texts.append("".join([chunk.text async for chunk in chunks]))
        await wire.async_client().aclose()
        return texts

    if verb == "astream":
        return asyncio.run(all_of_them())
    wire.forget_client()
    texts = []
    for _ in range(times):
        with bridge.stream(FISH, model=model, cache="off") as chunks:
            texts.append("".join(chunk.text for chunk in chunks))
    return texts


@pytest.mark.parametrize("together", [asked, held])
def test_what_is_asked_at_the_same_time_opens_a_connection_each_and_uses_it_again(
    sim: Simulator, gpt: Model, fresh_default: Bridge, opened: list[Connection], together: Together
) -> None:
    together(fresh_default, gpt, 40, 40, 40)

    assert (len(sim.requests), len(opened)) == (120, 40)


def test_no_more_requests_than_there_is_room_for_are_under_way(
    sim: Simulator, gpt: Model, fresh_default: Bridge, opened: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST", 3)

    asked(fresh_default, gpt, 12)

    assert (len(sim.requests), len(opened)) == (12, 3)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_who_finds_no_room_waits_no_longer_than_may_be_waited(
    sim: Simulator, gpt: Model, run: Run, monkeypatch: pytest.MonkeyPatch, colour: str
) -> None:
    monkeypatch.setattr(connections, "MOST", 1)
    url, waits = f"{gpt.api_base}/chat/completions", httpx.Timeout(10, pool=0.01)

    async def ask() -> None:
        async with wire.new_async_client() as client, client.stream("POST", url, json=QUESTION):
            await client.post(url, json=QUESTION, timeout=waits)

    def blocking() -> None:
        with wire.new_client() as client, client.stream("POST", url, json=QUESTION):
            client.post(url, json=QUESTION, timeout=waits)

    with pytest.raises(httpx.PoolTimeout, match="1 requests are under way already"):
        run(ask()) if colour == "async" else blocking()
    assert len(sim.requests) == 1


@pytest.mark.parametrize("together", [asked, held])
def test_more_idle_connections_than_are_kept_are_closed(
    sim: Simulator,
    gpt: Model,
    fresh_default: Bridge,
    opened: list[Connection],
    monkeypatch: pytest.MonkeyPatch,
    together: Together,
) -> None:
    monkeypatch.setattr(connections, "MOST_IDLE", 2)

    together(fresh_default, gpt, 5, 5)

    assert len(opened) == 5 + 3


@pytest.mark.parametrize("together", [asked, held])
def test_a_connection_that_was_idle_for_long_is_not_used_again(
    sim: Simulator,
    gpt: Model,
    fresh_default: Bridge,
    opened: list[Connection],
    monkeypatch: pytest.MonkeyPatch,
    together: Together,
) -> None:
    monkeypatch.setattr(connections, "IDLE_S", -1)

    together(fresh_default, gpt, 1, 1)

    assert len(opened) == 2


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    opened = 0

    def setup(self) -> None:
        super().setup()
        Echo.opened += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_threads_share_connections_and_each_has_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "opened", 0)

    def ask(client: httpx.Client, number: int) -> bool:
        body = f"{number};".encode() * (1 + number % 7 * 5_000)
        with client.stream("POST", url, content=body) as response:
            if number % 10 == 9:
                return True  # left unread: its connection is nobody's any more
            return response.read() == body

    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server, wire.new_client() as client:
        url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with ThreadPoolExecutor(16) as pool:
            own = list(pool.map(lambda number: ask(client, number), range(400)))
        client.close()
        server.shutdown()
        thread.join()
        assert room(client) == connections.MOST

    assert all(own)
    assert Echo.opened <= 16 + 40


def test_an_answer_that_several_threads_close_gives_back_its_place_once() -> None:
    switching = sys.getswitchinterval()
    # Who keeps a connection and closes it all the same may do so in the middle of the next request.
    last = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with saying(last, connections=200) as server, wire.new_client() as client, ThreadPoolExecutor(4) as pool:
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(200):
                with client.stream("POST", server.url, content=b"fish!") as response:
                    list(pool.map(lambda _: response.stream.close(), range(4)))
        finally:
            sys.setswitchinterval(switching)

        assert room(client) == connections.MOST


@pytest.mark.parametrize("provider", ["openai", "groq", "anthropic", "gemini", "ollama"])
@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_stream_that_came_to_its_end_leaves_its_connection_to_the_next_one(
    sim: Simulator, fresh_default: Bridge, opened: list[Connection], verb: str, provider: str
) -> None:
    model = Model(f"{provider}/fish-1", api_base=sim.api_base(provider), api_key="sk-test-key")

    read(fresh_default, verb, model, 3)

    assert (len(sim.requests), len(opened)) == (3, 1)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_stream_whose_body_has_no_end_is_over_all_the_same(
    sim: Simulator, gpt: Model, fresh_default: Bridge, opened: list[Connection], verb: str
) -> None:
    sim.script(Fault.hang(after_events=99))

    assert read(fresh_default, verb, gpt, 2) == ["Trout."] * 2
    assert (len(sim.requests), len(opened)) == (2, 2)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_connection_that_the_other_side_has_closed_is_not_used_again(colour: str, run: Run) -> None:
    gone = threading.Event()

    async def ask(url: str) -> list[int]:
        async with wire.new_async_client() as client:
            statuses = [(await client.post(url)).status_code]
            gone.wait(10)  # the event loop sees nothing of it
            return [*statuses, (await client.post(url)).status_code]

    def blocking(url: str) -> list[int]:
        with wire.new_client() as client:
            statuses = [client.post(url).status_code]
            gone.wait(10)
            return [*statuses, client.post(url).status_code]

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                with server.accept()[0] as connection:
                    connection.recv(65_536)
                    connection.sendall(OK)
                gone.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        statuses = run(ask(url)) if colour == "async" else blocking(url)
        thread.join()

    assert statuses == [200, 200]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "//127.0.0.1/", "http:///x"])
def test_an_address_that_is_none_is_the_same_error_in_both_colours(url: str) -> None:
    async def ask() -> None:
        async with wire.new_async_client() as client:
            await client.post(url)

    with wire.new_client() as client, pytest.raises(httpx.UnsupportedProtocol):
        client.post(url)
    with pytest.raises(httpx.UnsupportedProtocol):
        asyncio.run(ask())


@pytest.mark.parametrize("how", ["read", "left", "failed", "cancelled", "refused", "dropped"])
def test_a_request_takes_room_until_it_is_over(how: str, sim: Simulator, gpt: Model, fresh_default: Bridge) -> None:
    steps = {"failed": Fault.cut(after_events=2), "cancelled": Fault.hang(), "refused": Fault.status(500)}
    sim.script(steps.get(how, Reply(pieces=["a", "b", "c"])))

    async def read() -> None:
        if how == "dropped":
            await anext(fresh_default.astream(FISH, model=gpt))
            return
        async with fresh_default.astream(FISH, model=gpt) as chunks:
            async for _ in chunks:
                if how == "left":
                    break

    async def ask() -> int:
        task = asyncio.create_task(read())
        if how == "cancelled":
            await asyncio.to_thread(sim.wait_for_requests, 1)
            task.cancel()
        await asyncio.wait([task])
        assert (task.cancelled() or task.exception() is not None) == (how not in ("read", "left", "dropped"))
        del task
        gc.collect()
        for _ in range(5):  # the event loop closes what was dropped
            await asyncio.sleep(0)
        return room(wire.async_client())

    assert asyncio.run(ask()) == connections.MOST


@pytest.mark.parametrize("how", ["read", "left", "failed", "refused", "dropped"])
def test_a_blocking_request_takes_room_until_it_is_over(
    how: str, sim: Simulator, gpt: Model, fresh_default: Bridge
) -> None:
    steps = {"failed": Fault.cut(after_events=2), "refused": Fault.status(500)}
    sim.script(steps.get(how, Reply(pieces=["a", "b", "c"])))
    wire.forget_client()

    def read() -> None:
        if how == "dropped":
            next(fresh_default.stream(FISH, model=gpt))
            return
        with fresh_default.stream(FISH, model=gpt) as chunks:
            for _ in chunks:
                if how == "left":
                    break
                assert room(wire.client()) < connections.MOST

    with pytest.raises(LLMBridgeError) if how in ("failed", "refused") else contextlib.nullcontext():
        read()
    gc.collect()

    assert room(wire.client()) == connections.MOST
