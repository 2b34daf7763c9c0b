"""What the simulator promises below any provider's format: order, pace, faults, and a clean end."""

from __future__ import annotations

import gc
import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulator import Fault, Reply, Simulator


OPENAI = "/v1/chat/completions"
STREAMS = [OPENAI, "/v1/messages", "/v1beta/models/any:streamGenerateContent", "/api/chat", "/api/generate"]


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator() as sim:
        yield sim


@pytest.fixture
def client(sim: Simulator) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection(sim.url.removeprefix("http://"), timeout=5)
    yield client
    client.close()


def ask(client: http.client.HTTPConnection, path: str = OPENAI, **body: Any) -> http.client.HTTPResponse:
    client.request("POST", path, json.dumps({"model": "any", **body}), {"Authorization": "Bearer sk-any"})
    return client.getresponse()


def said(client: http.client.HTTPConnection) -> str:
    return str(json.loads(ask(client).read())["choices"][0]["message"]["content"])


def test_steps_are_taken_in_order_and_the_last_repeats(sim: Simulator, client: http.client.HTTPConnection) -> None:
    assert said(client) == "Trout."

    sim.script(Reply(text="Perch."), Reply(text="Pike."))
    assert [said(client) for _ in range(3)] == ["Perch.", "Pike.", "Pike."]

    sim.reset()
    assert said(client) == "Trout."


def test_requests_are_kept_as_they_arrived(sim: Simulator, client: http.client.HTTPConnection) -> None:
    ask(client, OPENAI + "?a=1").read()
    client.request("GET", "/elsewhere")
    assert client.getresponse().read() and client.sock

    first, second = sim.requests
    assert (first.method, first.path, first.query, first.key) == ("POST", OPENAI, {"a": "1"}, "sk-any")
    assert first.body == json.loads(first.raw) == {"model": "any"}
    assert (second.method, second.path, second.body) == ("GET", "/elsewhere", None)


def test_looking_up_a_model_takes_no_step(sim: Simulator, client: http.client.HTTPConnection) -> None:
    sim.script(Fault.status(500), Reply())
    known = json.loads(ask(client, "/api/show").read())

    assert "tools" in known["capabilities"]
    assert ask(client).status == 500
    assert (len(sim.lookups), len(sim.requests)) == (1, 1)


def test_the_same_request_gets_the_same_bytes(sim: Simulator, client: http.client.HTTPConnection) -> None:
    for path in STREAMS:
        first, second = (ask(client, path, stream=True).read() for _ in range(2))
        assert first == second


def test_openai_streams_usage_only_if_asked_for(sim: Simulator, client: http.client.HTTPConnection) -> None:
    wanted: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    assert b"usage" not in ask(client, stream=True).read()
    assert b"usage" in ask(client, **wanted).read()

    sim.script(Reply(usage=False))
    assert b"usage" not in ask(client, **wanted).read()


def test_base64_vectors_hold_the_same_numbers(sim: Simulator, client: http.client.HTTPConnection) -> None:
    sim.script(Reply(vectors=[(-0.5, 0.25)]))
    answers = [ask(client, "/v1/embeddings", encoding_format=form).read() for form in ("base64", "float")]

    assert [json.loads(answer)["data"][0]["embedding"] for answer in answers] == ["AAAAvwAAgD4=", [-0.5, 0.25]]


@pytest.mark.parametrize("path", STREAMS)
def test_a_dripped_answer_is_a_right_one(sim: Simulator, client: http.client.HTTPConnection, path: str) -> None:
    right = ask(client, path, stream=True).read()
    sim.script(Fault.drip())

    assert ask(client, path, stream=True).read() == right


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_is_cut_after_so_many_events(sim: Simulator, client: http.client.HTTPConnection, path: str) -> None:
    right = ask(client, path, stream=True).read()
    sim.script(Fault.cut(2), Fault.cut(2, clean=False), Fault.stream_error(2))
    clean = ask(client, path, stream=True).read()
    with pytest.raises(http.client.IncompleteRead) as broken:
        ask(client, path, stream=True).read()
    client.close()
    wrong = ask(client, path, stream=True).read()

    assert right.startswith(clean) and len(clean) < len(right)
    assert broken.value.partial == clean
    assert wrong.startswith(clean) and b"error" in wrong.removeprefix(clean)


def test_a_whole_answer_is_cut_in_half(sim: Simulator, client: http.client.HTTPConnection) -> None:
    sim.script(Fault.cut(1), Fault.cut(1, clean=False))
    half = ask(client).read()

    with pytest.raises(ValueError, match=r"line 1 column \d+"):
        json.loads(half)
    with pytest.raises(http.client.IncompleteRead):
        ask(client).read()


def test_a_reset_comes_before_or_inside_an_answer(sim: Simulator, client: http.client.HTTPConnection) -> None:
    sim.script(Fault.reset(), Fault.reset(after_bytes=300))
    with pytest.raises(ConnectionResetError):
        ask(client)
    client.close()
    answer = ask(client)

    assert answer.status == 200
    with pytest.raises(ConnectionResetError):
        answer.read()


def test_a_body_and_its_type_are_sent_as_given(sim: Simulator, client: http.client.HTTPConnection) -> None:
    sim.script(Fault.body(b"<html>\xff", "text/html", 502), Fault.redirect("http://127.0.0.1:1/"), Fault.error_in_200())
    page = ask(client)
    assert (page.status, page.getheader("content-type"), page.read()) == (502, "text/html", b"<html>\xff")

    moved = ask(client)
    assert (moved.status, moved.getheader("location"), moved.read()) == (307, "http://127.0.0.1:1/", b"")

    wrong = ask(client)
    assert (wrong.status, "error" in json.loads(wrong.read())) == (200, True)


def test_an_error_has_the_headers_and_body_that_were_scripted(
    sim: Simulator, client: http.client.HTTPConnection
) -> None:
    sim.script(Fault.status(429, {"mine": 1}, {"retry-after": "7"}), Reply(headers={"x-mine": "2"}))
    limited = ask(client)

    assert (limited.status, limited.getheader("retry-after"), limited.read()) == (429, "7", b'{"mine":1}')
    assert ask(client).getheader("x-mine") == "2"


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.hang(0), Fault.hang(2), Fault.drip(0.2)], ids=repr)
def test_a_client_that_gives_up_is_counted(sim: Simulator, client: http.client.HTTPConnection, fault: Fault) -> None:
    sim.script(fault)
    client.request("POST", OPENAI, b'{"stream": true}')
    assert sim.wait_for_requests(1)
    assert not sim.wait_for_disconnects(1, timeout_s=0.01)
    client.close()

    assert sim.wait_for_disconnects(1)


def test_a_client_that_leaves_after_the_answer_is_not_counted(
    sim: Simulator, client: http.client.HTTPConnection
) -> None:
    ask(client, stream=True).read()
    client.close()

    assert not sim.wait_for_disconnects(1, timeout_s=0.05)


def test_events_come_with_the_gap_that_was_scripted(sim: Simulator, client: http.client.HTTPConnection) -> None:
    sim.script(Reply(gap_s=0.02, delay_s=0.05))
    start = time.perf_counter()
    answer = ask(client, stream=True)
    head_s = time.perf_counter() - start
    answer.read()

    assert head_s >= 0.05
    assert time.perf_counter() - start - head_s >= 0.08


def test_a_huge_event_arrives_whole(sim: Simulator, client: http.client.HTTPConnection) -> None:
    sim.script(Reply(pieces=("x" * 10_000_000,)))

    assert ask(client, stream=True).read().count(b"x") >= 10_000_000


def test_leaving_ends_every_answer_and_the_thread() -> None:
    threads = threading.active_count()
    with Simulator() as sim:
        sim.script(Fault.hang(1))
        clients = [http.client.HTTPConnection(sim.url.removeprefix("http://"), timeout=5) for _ in range(20)]
        for client in clients:
            client.request("POST", OPENAI, b'{"stream": true}')
        assert sim.wait_for_requests(20)
    for client in clients:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            client.getresponse().read()
        client.close()
    gc.collect()

    assert threading.active_count() == threads


def test_many_clients_at_once_are_all_answered(sim: Simulator) -> None:
    def ask_often() -> None:
        client = http.client.HTTPConnection(sim.url.removeprefix("http://"), timeout=5)
        for _ in range(20):
            ask(client, stream=True).read()
        client.close()

    threads = [threading.Thread(target=ask_often) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(sim.requests) == 320
