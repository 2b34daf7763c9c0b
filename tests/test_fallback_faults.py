"""Each fault on each verb, alone and with somebody healthy behind: requests, waits, the last error, the money."""

from __future__ import annotations

import email.utils
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from llmbridge import (
    AllAttemptsFailed,
    AuthenticationFailed,
    BadRequest,
    Bridge,
    Fallback,
    Model,
    NotFound,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    StreamInterrupted,
    default,
    wire,
)
from tests.conftest import Ask, Run
from tests.pauses import Pauses, pauses
from tests.simulator import Fault, Reply, Simulator
from tests.test_faults import FISH, at, embedded


__all__ = ["pauses"]
BACKOFFS = [(0.0, 0.5), (0.0, 1.0)]
FLOORED = [(0.25, 0.5), (0.5, 1.0)]
TRICKLE = Reply(pieces=["Tr", "out", ",", " of", " course"])
STREAMS = ("stream", "astream")


@dataclass(frozen=True)
class Row:
    """What a *fault* that stays makes of a call with two retries."""

    fault: Any
    error: type[ProviderError]
    tries: int = 1  # of the one candidate that there is
    first: int = 1  # of the first one, if there is another
    waits: Any = ()
    goes_on: bool = True
    free: bool = False  # nothing can have been billed
    verbs: tuple[str, ...] = ("complete", "acomplete", "stream", "astream")


def sick(fault: Any, error: type[ProviderError] = ProviderUnavailable, **fields: Any) -> Row:
    return Row(fault, error, tries=3, first=3, waits=BACKOFFS, **fields)


def silent(fault: Any) -> Row:
    return Row(fault, ProviderTimeout, tries=3, waits=BACKOFFS)


def throttled(after: dict[str, str] | None = None, **fields: Any) -> Row:
    told = {"tries": 3, "first": 3, "waits": FLOORED, "free": True, **fields}
    return Row(Fault.status(429, headers=after), ProviderRateLimited, **told)


def wrong(status: int) -> Row:
    return Row(Fault.status(status), BadRequest, goes_on=False, free=True)


SOON = {"retry-after": "a date 40 s ahead"}
EMPTY = b'{"id": "1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": []}'
ROWS = {
    "401": Row(Fault.status(401), AuthenticationFailed, free=True),
    "403": Row(Fault.status(403), AuthenticationFailed, free=True),
    "404": Row(Fault.status(404), NotFound, free=True),
    "408": silent(Fault.status(408)),
    "409": wrong(409),
    "422": wrong(422),
    "429": throttled(),
    "429-seconds": throttled({"retry-after": "1"}, waits=[(1, 1.1)] * 2),
    "429-milliseconds": throttled({"retry-after-ms": "1500"}, waits=[(1.5, 1.65)] * 2),
    "429-zero": throttled({"retry-after": "0"}),
    "429-negative": throttled({"retry-after": "-5"}),
    "429-longer-than-patience": throttled({"retry-after": "8"}, first=1, waits=[(8, 8.8)] * 2),
    "429-date": throttled(SOON, first=1, waits=[(1, 41)] * 2),
    "429-absurd": throttled({"retry-after": "1000000000"}, tries=1, first=1, waits=()),
    "500": sick(Fault.status(500), free=True),
    "502": sick(Fault.status(502), free=True),
    "503": sick(Fault.status(503), free=True),
    "504": silent(Fault.status(504)),
    "529": Row(Fault.status(529), ProviderRateLimited, tries=3, first=3, waits=FLOORED),
    "reset": sick(Fault.reset()),
    "slow-headers": silent(Fault.hang()),
    "slow-body": silent(Fault.hang(0)),
    "cut-before-content": sick(Fault.cut(0)),
    "cut-after-content": Row(Fault.cut(4, TRICKLE), StreamInterrupted, goes_on=False, verbs=STREAMS),
    "error-event-before-content": sick(Fault.stream_error(0)),
    "error-event-after-content": Row(Fault.stream_error(4, TRICKLE), StreamInterrupted, goes_on=False, verbs=STREAMS),
    "error-in-200": sick(Fault.error_in_200()),
    "wrong-json": sick(Fault.body(b'{"choices": ')),
    "html": sick(Fault.body(b"<html>", "text/html")),
    "endless": sick(Fault.body(b" " * 400_000)),
    "empty-choices": sick(Fault.body(EMPTY), verbs=("complete", "acomplete")),
}
# one verb of each pair will do where the other one differs by an await alone
SOME = [
    pytest.param(verb, row, id=f"{name}-{verb}") for name, row in ROWS.items() for verb in row.verbs[::3] or row.verbs
]
CASES = [pytest.param(verb, row, id=f"{name}-{verb}") for name, row in ROWS.items() for verb in row.verbs]


@pytest.fixture(autouse=True)
def patience_for_300_kb(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that has no end is given up early."""
    monkeypatch.setattr(wire, "LARGEST_BYTES", 300_000)


def fault_of(row: Row) -> Any:
    """The row's fault; a date is told from the time of the test, not from when this file was read."""
    if getattr(row.fault, "headers", None) == SOON:
        return Fault.status(429, headers={"retry-after": email.utils.formatdate(time.time() + 40, usegmt=True)})
    return row.fault


def primary(sim: Simulator, row: Row) -> Model:
    return at(sim, "openai", params={"timeout": 0.1} if row.error is ProviderTimeout else {})


def assert_waited(pauses: Pauses, row: Row, tries: int) -> None:
    told = list(pauses)
    shortest = [wait for wait in row.waits[: tries - 1] if wait[0] >= 0.05]
    assert len(shortest) <= len(told) <= max(tries - 1, 0)
    if shortest:
        # a pause is what is left of the wait once the failure has been booked
        assert all(least - 0.2 <= took <= most for took, (least, most) in zip(told, row.waits, strict=False))
    assert all(took <= max(most for _, most in row.waits) for took in told)


def assert_booked(bridge: Bridge, attempts: Any, row: Row) -> None:
    """Each attempt one reservation, none of which is left; what can have been billed is charged."""
    (record,) = bridge.ledger.records()
    assert [each.cost_usd for each in record.attempts] == [each.cost_usd for each in attempts]
    (balance,) = bridge.ledger.balance("$5/day")
    assert (balance.reserved, bridge.ledger.check()) == (0, [])
    failed = [each for each in attempts if each.error_type]
    assert all((each.cost_usd == 0) == row.free or each.kind == "throttled" for each in failed)
    assert sum((each.cost_usd for each in attempts), Decimal(0)) == record.cost_usd == balance.settled_usd


@pytest.mark.parametrize(("verb", "row"), CASES)
def test_a_fault_that_stays_ends_a_call_that_has_nobody_else(
    ask: Ask, sim: Simulator, row: Row, pauses: Pauses
) -> None:
    sim.script(fault_of(row))

    with pytest.raises((ProviderError, AllAttemptsFailed)) as caught:
        ask(FISH, model=primary(sim, row), budget="$5/day", max_tokens=50, deadline_s=300)

    error = caught.value
    attempts = default.default().ledger.records()[0].attempts
    assert (len(sim.requests), len(attempts)) == (row.tries, row.tries)
    if row.tries == 1:
        assert type(error) is row.error
    else:
        assert isinstance(error, AllAttemptsFailed)
        assert [type(each) for each in error.errors] == [row.error] * row.tries
        assert [each.reason for each in attempts] == ["initial", *["retry"] * (row.tries - 1)]
    assert_waited(pauses, row, row.tries)
    assert_booked(default.default(), attempts, row)


@pytest.mark.parametrize(("verb", "row"), SOME)
def test_somebody_healthy_answers_in_the_place_of_who_fails(ask: Ask, sim: Simulator, row: Row, pauses: Pauses) -> None:
    sim.script(*[fault_of(row)] * row.first, Reply(text="Carp."))
    spare = at(sim, "anthropic")
    asked = {"model": [primary(sim, row), spare], "budget": "$5/day", "max_tokens": 50, "deadline_s": 300}

    if row.goes_on:
        reply = ask(FISH, **asked)
        assert (reply.text, reply.model) == ("Carp.", spare.model)
    else:
        with pytest.raises(row.error):
            ask(FISH, **asked)

    attempts = default.default().ledger.records()[0].attempts
    assert len(sim.requests) == len(attempts) == row.first + row.goes_on
    assert_waited(pauses, row, row.first)
    assert_booked(default.default(), attempts, row)


@pytest.mark.parametrize("verb", ["embed", "aembed"])
@pytest.mark.parametrize(
    "name", ["401", "404", "422", "429", "429-seconds", "429-absurd", "500", "reset", "wrong-json"]
)
def test_embeddings_are_asked_for_again_as_completions_are(
    verb: str, run: Run, sim: Simulator, name: str, pauses: Pauses
) -> None:
    row = ROWS[name]
    small = Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")
    large = Model("openai/text-embedding-3-large", api_base=sim.api_base("openai"), api_key="sk-test-key")
    sim.script(fault_of(row))
    with pytest.raises((ProviderError, AllAttemptsFailed)):
        embedded(verb, run, small, budget="$5/day")
    assert len(sim.requests) == row.tries
    assert_waited(pauses, row, row.tries)
    assert_booked(default.default(), default.default().ledger.records()[0].attempts, row)
    default._bridge = pauses.bridge(fallback=Fallback(breaker=False))  # type: ignore[attr-defined]

    sim.reset()
    sim.script(*[fault_of(row)] * row.first, Reply())
    if row.goes_on:
        assert embedded(verb, run, [small, large]).data
    else:
        with pytest.raises(row.error):
            embedded(verb, run, [small, large])
    assert len(sim.requests) == row.first + row.goes_on


@pytest.fixture
def no_tls() -> Iterator[int]:
    """The port of a server that speaks no TLS, and says so."""

    class Plain(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server.server_address[1]
        server.shutdown()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("place", ["refused", "dns", "tls"])
def test_what_surely_was_not_sent_is_tried_again_and_costs_nothing(
    ask: Ask, sim: Simulator, place: str, pauses: Pauses, no_tls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {
        "refused": f"http://127.0.0.1:{free_port()}/v1",
        "dns": "http://nobody.invalid/v1",
        "tls": f"https://127.0.0.1:{no_tls}/v1",
    }[place]
    if place == "dns":
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    away = Model("openai/gpt-4o-mini", api_base=base, api_key="sk-test-key")

    with pytest.raises(AllAttemptsFailed) as caught:
        ask(FISH, model=away, budget="$5/day")

    assert (sim.requests, [each.sent for each in caught.value.attempts]) == ([], [False] * 3)
    assert_booked(
        default.default(), default.default().ledger.records()[0].attempts, Row(None, ProviderError, free=True)
    )


def unknown(*arguments: Any, **named: Any) -> Any:
    raise socket.gaierror(-2, "Name or service not known")


def test_a_retry_that_would_come_after_the_deadline_is_not_waited_for(ask: Ask, sim: Simulator, pauses: Pauses) -> None:
    sim.script(Fault.status(429, headers={"retry-after": "20"}))

    with pytest.raises(ProviderRateLimited):
        ask(FISH, model=at(sim, "openai"), deadline_s=10)

    assert (len(sim.requests), list(pauses)) == (1, [])


def test_who_asked_for_patience_is_asked_again_after_everybody_else(ask: Ask, sim: Simulator, pauses: Pauses) -> None:
    sim.script(Fault.status(429, headers={"retry-after": "8"}), Fault.status(401), Reply(text="Carp."))

    reply = ask(FISH, model=[at(sim, "openai"), at(sim, "anthropic")], deadline_s=100)

    assert [each.reason for each in reply.attempts] == ["initial", "fallback", "retry"]
    assert (reply.model, len(pauses)) == ("openai/gpt-4o-mini", 1)
    assert 7.5 <= pauses[0] <= 8.8
    assert reply.attempts[-1].waited_s >= 7.5


def test_a_model_that_asked_to_be_left_alone_is_so_by_the_next_call_too(
    ask: Ask, sim: Simulator, pauses: Pauses
) -> None:
    sim.script(Fault.status(429, headers={"retry-after": "30"}), Reply())
    models = [at(sim, "openai"), at(sim, "anthropic")]
    for _ in range(3):
        assert ask(FISH, model=models).model == models[1].model
    assert len(sim.requests) == 4

    pauses.now_s += 31

    assert ask(FISH, model=models).model == models[0].model


def test_a_prompt_that_is_too_long_goes_to_a_larger_window_alone(ask: Ask, sim: Simulator, pauses: Pauses) -> None:
    sim.script(Fault.context_window(), Reply())
    small, large = at(sim, "openai"), at(sim, "gemini")
    same = Model("openai/gpt-4o", api_base=sim.api_base("openai"), api_key="sk-test-key")

    reply = ask(FISH, model=[small, same, large])

    assert (reply.model, len(sim.requests)) == (large.model, 2)
    assert [each.partition(":")[0] for each in reply.record.dropped] == [same.model]


def test_a_retry_budget_that_is_empty_lets_calls_through_once(sim: Simulator, pauses: Pauses) -> None:
    """An outage is asked at most a tenth more often than there are calls, and ten times besides."""
    sim.script(Fault.status(503))
    bridge = pauses.bridge(fallback=Fallback(breaker=False, backoff_s=0.01))
    for _ in range(60):
        with pytest.raises((ProviderUnavailable, AllAttemptsFailed)):
            bridge.complete(FISH, model=at(sim, "openai"))

    assert 60 < len(sim.requests) <= 60 * 1.1 + 11
