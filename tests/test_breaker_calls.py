"""The breaker in whole calls: whom a call asks, and what counts against a provider."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import llmbridge
from llmbridge import (
    AuthenticationFailed,
    BadRequest,
    Bridge,
    Completion,
    ContentFiltered,
    DeadlineExceeded,
    Fallback,
    Model,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    default,
)
from llmbridge.fallback import Endpoint
from tests.conftest import Ask, Run, asking
from tests.simulator import Fault, Reply, Simulator
from tests.test_faults import FISH, at, embedded


ONCE = Fallback(retries=0)


@pytest.fixture(autouse=True)
def bridge(monkeypatch: pytest.MonkeyPatch) -> Bridge:
    bridge = Bridge(fallback=ONCE)
    monkeypatch.setattr(default, "_bridge", bridge)
    return bridge


@pytest.fixture
def primary(sim: Simulator) -> Model:
    return at(sim, "openai")


@pytest.fixture
def spare(sim: Simulator) -> Model:
    return at(sim, "anthropic")


def endpoint_of(bridge: Bridge, model: Model) -> Endpoint:
    (found,) = [each for key, each in bridge._endpoints._known.items() if key[0] == model.model]
    return found


def time_passes(bridge: Bridge, seconds: float) -> None:
    """For all breakers of *bridge*."""
    for endpoint in bridge._endpoints._known.values():
        shift(endpoint, seconds)


def shift(endpoint: Endpoint, seconds: float) -> None:
    clock = endpoint.breaker._clock
    endpoint.breaker._clock = lambda: clock() + seconds


def asked(sim: Simulator) -> list[str]:
    return ["spare" if seen.path.endswith("messages") else "primary" for seen in sim.requests]


def test_a_dead_primary_costs_a_warm_process_no_request(ask: Ask, sim: Simulator, primary: Model, spare: Model) -> None:
    sim.script(Fault.status(401), Reply())
    for _ in range(5):
        reply = ask(FISH, model=[primary, spare])

        assert (reply.text, reply.model) == ("Trout.", spare.model)

    assert asked(sim) == ["primary", *["spare"] * 5]
    assert [each.partition(" is open")[0] for each in reply.record.dropped] == [f"{primary.model}: its breaker"]


def test_a_primary_that_fails_five_times_is_left_alone_and_so_it_is_by_a_bridge_of_its_own(
    ask: Ask, sim: Simulator, primary: Model, spare: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.script(*[Fault.status(500), Reply()] * 5, Reply())
    for _ in range(6):
        ask(FISH, model=[primary, spare])
    monkeypatch.setattr(default, "_bridge", Bridge(fallback=ONCE))  # what a fresh process knows: the file
    ask(FISH, model=[primary, spare])

    assert asked(sim) == [*["primary", "spare"] * 5, "spare", "spare"]


def test_who_is_alone_and_left_alone_fails_at_once_with_the_kind_that_it_was(
    ask: Ask, sim: Simulator, primary: Model
) -> None:
    sim.script(Fault.status(403))
    with pytest.raises(AuthenticationFailed):
        ask(FISH, model=primary)

    with pytest.raises(AuthenticationFailed, match="was not asked: its breaker is open for") as caught:
        ask(FISH, model=primary)

    assert (caught.value.sent, len(sim.requests)) == (False, 1)
    assert 0 < (caught.value.retry_after_s or 0) <= 30


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param(Fault.status(429), ProviderRateLimited, id="429"),
        pytest.param(Fault.status(400), BadRequest, id="400"),
        pytest.param(Fault.content_filter(), ContentFiltered, id="refusal"),
        pytest.param(Fault.status(422), BadRequest, id="422"),
    ],
)
def test_what_says_that_somebody_is_there_opens_nothing(
    ask: Ask, sim: Simulator, primary: Model, fault: Fault, error: type[Exception]
) -> None:
    sim.script(fault)
    for _ in range(8):
        with pytest.raises(error):
            ask(FISH, model=primary)

    assert len(sim.requests) == 8


def test_a_call_whose_own_time_was_short_opens_nothing(
    verb: str, run: Run, sim: Simulator, primary: Model, bridge: Bridge
) -> None:
    sim.script(Fault.hang())
    ask = asking(verb, run)
    for _ in range(6):
        with pytest.raises(DeadlineExceeded):
            ask(FISH, model=primary, deadline_s=0.05)

    assert endpoint_of(bridge, primary).breaker.opening() is None


def test_silence_that_was_not_the_callers_hurry_opens_it(sim: Simulator, primary: Model, bridge: Bridge) -> None:
    sim.script(Fault.status(504))
    for _ in range(5):
        with pytest.raises(ProviderTimeout):
            bridge.complete(FISH, model=primary)

    assert endpoint_of(bridge, primary).breaker.opening() is not None


def test_cancelled_calls_open_nothing_and_a_cancelled_probe_lets_the_next_one_probe(
    run: Run, sim: Simulator, primary: Model, bridge: Bridge
) -> None:
    async def cancelled() -> None:
        before = len(sim.requests)
        task = asyncio.create_task(bridge.acomplete(FISH, model=primary))
        assert await asyncio.to_thread(sim.wait_for_requests, before + 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    sim.script(Fault.hang())
    for _ in range(6):
        run(cancelled())
    breaker = endpoint_of(bridge, primary).breaker
    assert breaker.opening() is None

    sim.script(Fault.status(401), Fault.hang(), Reply())
    with pytest.raises(AuthenticationFailed):
        bridge.complete(FISH, model=primary)
    time_passes(bridge, 31)
    run(cancelled())

    assert bridge.complete(FISH, model=primary).text == "Trout."
    assert breaker.opening() is None


def test_of_fifty_tasks_one_probes_and_the_others_are_answered_by_the_spare(
    run: Run, sim: Simulator, primary: Model, spare: Model, bridge: Bridge
) -> None:
    sim.script(Fault.status(401), Reply(delay_s=0.3))
    bridge.complete(FISH, model=[primary, spare])
    time_passes(bridge, 31)

    async def together() -> list[Completion]:
        return await asyncio.gather(*(bridge.acomplete(FISH, model=[primary, spare]) for _ in range(50)))

    replies = run(together())

    assert asked(sim)[2:].count("primary") == 1
    assert sorted({reply.model for reply in replies}) == sorted([primary.model, spare.model])


def test_of_sixteen_threads_one_probes_and_the_others_fail_at_once_if_there_is_nobody_else(
    sim: Simulator, primary: Model, bridge: Bridge
) -> None:
    sim.script(Fault.status(401), Reply(delay_s=0.3))
    with pytest.raises(AuthenticationFailed):
        bridge.complete(FISH, model=primary)
    time_passes(bridge, 31)

    def one(_: int) -> str:
        try:
            return bridge.complete(FISH, model=primary).text
        except AuthenticationFailed as error:
            return "not asked" if not error.sent else "asked"

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(one, range(16)))

    assert (said.count("Trout."), said.count("not asked"), len(sim.requests)) == (1, 15, 2)


def test_breaker_false_asks_whoever_is_next_whatever_is_known_of_it(ask: Ask, sim: Simulator, primary: Model) -> None:
    sim.script(Fault.status(401))
    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            ask(FISH, model=Fallback(primary, retries=0, breaker=False))

    assert len(sim.requests) == 3


@pytest.mark.parametrize("embed", ["embed", "aembed"])
def test_a_dead_key_stops_embeddings_too(embed: str, run: Run, sim: Simulator) -> None:
    small = Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")
    sim.script(Fault.status(401))
    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            embedded(embed, run, small)

    assert len(sim.requests) == 1


def test_the_health_of_one_key_says_nothing_of_anothers(sim: Simulator, primary: Model, bridge: Bridge) -> None:
    sim.script(Fault.status(401), Reply())
    with pytest.raises(AuthenticationFailed):
        bridge.complete(FISH, model=primary)

    other = Model(primary.model, api_base=primary.api_base, api_key="sk-of-another-tenant")

    assert bridge.complete(FISH, model=other).text == "Trout."


def test_a_timeout_or_a_trace_header_of_a_calls_own_makes_no_other_endpoint(
    sim: Simulator, primary: Model, bridge: Bridge
) -> None:
    sim.script(Fault.status(500))
    for number in range(8):
        with pytest.raises(ProviderUnavailable):
            bridge.complete(FISH, model=primary, timeout=10.0 + number, extra_headers={"x-request-id": f"{number}"})

    assert len(sim.requests) == 5


def test_the_module_functions_share_what_the_default_bridge_knows(sim: Simulator, primary: Model) -> None:
    sim.script(Fault.status(401))
    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            llmbridge.complete(FISH, model=primary)

    assert len(sim.requests) == 1


# A key that is put right


def test_a_key_that_is_corrected_in_the_environment_is_asked_at_once(
    ask: Ask, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "_bridge", Bridge())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    monkeypatch.setenv("OPENAI_API_BASE", sim.api_base("openai"))
    sim.script(Fault.status(401), Reply())
    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            ask(FISH, model="openai/gpt-4o-mini")
    assert len(sim.requests) == 1

    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")

    assert ask(FISH, model="openai/gpt-4o-mini").text == "Trout."
    assert [seen.key for seen in sim.requests] == ["sk-wrong", "sk-right"]


def test_a_key_that_is_given_to_the_model_instead_is_asked_at_once(
    ask: Ask, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "_bridge", Bridge())
    sim.script(Fault.status(401), Reply())
    with pytest.raises(AuthenticationFailed):
        ask(FISH, model=at(sim, "openai"))

    right = Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-right-key")

    assert ask(FISH, model=right).text == "Trout."
