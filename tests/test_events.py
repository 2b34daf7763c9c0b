"""Events: what happens during a call is told to whoever subscribed, and to the log."""

from __future__ import annotations

import logging
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmbridge import (
    Bridge,
    Budget,
    BudgetExceeded,
    Cache,
    CallRecord,
    Fallback,
    LLMBridgeError,
    Model,
    default,
    events,
)
from llmbridge.errors import AuthenticationFailed
from llmbridge.events import (
    KINDS,
    AttemptFailed,
    BreakerOpened,
    BudgetAlerted,
    CacheHit,
    CacheMissed,
    CallStarted,
)
from tests.conftest import Ask
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture
def claude(sim: Simulator) -> Model:
    return Model("anthropic/claude-haiku-4-5", api_base=sim.api_base("anthropic"), api_key="sk-test-key")


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_default: Bridge) -> Bridge:
    made = Bridge(cache=Cache(tmp_path / "cache"), fallback=Fallback(retries=0))
    monkeypatch.setattr(default, "_bridge", made)
    return made


@pytest.fixture
def heard(bridge: Bridge) -> list[Any]:
    """Every event of the Bridge, in its order."""
    told: list[Any] = []
    bridge.subscribe(told.append, *KINDS)
    return told


def names(told: list[Any]) -> list[str]:
    return [type(event).__name__ for event in told]


def test_a_fallback_tells_its_start_its_miss_its_failed_attempt_and_its_end(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, heard: list[Any]
) -> None:
    sim.script(Fault.status(503), Reply())

    reply = ask(FISH, model=[gpt, claude], tags={"user": "alice"})

    assert names(heard) == ["CallStarted", "CacheMissed", "AttemptFailed", "CallRecord"]
    started, missed, failed, record = heard
    assert started == CallStarted(record.id, "chat", (gpt.model, claude.model), {"user": "alice"})
    assert missed == CacheMissed(record.id, (gpt.model, claude.model))
    assert failed == AttemptFailed(record.id, reply.attempts[0])
    assert (failed.attempt.status, failed.attempt.cost_usd) == (503, 0)
    assert record is reply.record


def test_a_kept_answer_is_a_hit_that_says_what_it_saved(ask: Ask, sim: Simulator, gpt: Model, heard: list[Any]) -> None:
    paid = ask(FISH, model=gpt)
    heard.clear()

    ask(FISH, model=gpt)

    assert names(heard) == ["CallStarted", "CacheHit", "CallRecord"]
    hit = heard[1]
    assert (hit.call_id, hit.model, hit.stale, hit.saved_usd) == (heard[2].id, gpt.model, False, paid.cost_usd)
    assert 0 <= hit.age_s < 60


def test_an_open_breaker_is_told_once_by_the_call_that_opened_it(
    ask: Ask, sim: Simulator, gpt: Model, heard: list[Any]
) -> None:
    sim.script(Fault.status(401))

    for _ in range(2):
        with pytest.raises(AuthenticationFailed):
            ask(FISH, model=gpt)

    (opened,) = [event for event in heard if isinstance(event, BreakerOpened)]
    first = next(event for event in heard if isinstance(event, CallRecord))
    assert opened == BreakerOpened(first.id, gpt.model, "dead key", "HTTP 401", 30.0)
    assert len(sim.requests) == 1


def test_a_budget_tells_that_it_is_nearly_spent_and_that_it_has_refused(
    ask: Ask, sim: Simulator, gpt: Model, heard: list[Any]
) -> None:
    budget = Budget("2 requests/day", alert_at=(0.5, 1.0))
    ask(FISH, model=gpt, budget=budget)
    ask("Name a bird.", model=gpt, budget=budget)

    with pytest.raises(BudgetExceeded):
        ask("Name a tree.", model=gpt, budget=budget)

    alerts = [event for event in heard if isinstance(event, BudgetAlerted)]
    ids = [event.id for event in heard if isinstance(event, CallRecord)]
    assert [(event.alert.budget, event.alert.share) for event in alerts][:2] == [
        ("2 requests/day", 0.5),
        ("2 requests/day", 1.0),
    ]
    assert [event.call_id for event in alerts][:2] == ids[:2]
    assert [list(event.alerts) for event in heard if isinstance(event, CallRecord)] == [
        [alert.alert for alert in alerts if alert.call_id == id] for id in ids
    ]


def test_without_kinds_a_subscriber_hears_records_alone(ask: Ask, bridge: Bridge, sim: Simulator, gpt: Model) -> None:
    told: list[Any] = []
    unsubscribe = bridge.subscribe(told.append)

    reply = ask(FISH, model=gpt)
    unsubscribe()
    unsubscribe()
    ask("Name a bird.", model=gpt)

    assert told == [reply.record]


def test_a_subscriber_hears_the_kinds_that_it_named(ask: Ask, bridge: Bridge, sim: Simulator, gpt: Model) -> None:
    told: list[Any] = []
    bridge.subscribe(told.append, CacheHit, CacheMissed)

    ask(FISH, model=gpt)
    ask(FISH, model=gpt)

    assert names(told) == ["CacheMissed", "CacheHit"]


def test_a_kind_that_is_none_is_a_type_error(bridge: Bridge) -> None:
    with pytest.raises(TypeError, match=r"kinds are classes of events: CallStarted, .* not <class 'int'>"):
        bridge.subscribe(print, int)  # type: ignore[arg-type]


def test_a_subscriber_that_raises_harms_no_call_and_is_complained_of_once(
    ask: Ask, bridge: Bridge, sim: Simulator, gpt: Model, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: object) -> None:
        raise RuntimeError("subscriber")

    told: list[Any] = []
    bridge.subscribe(broken, *KINDS)
    bridge.subscribe(told.append, *KINDS)
    caplog.set_level(logging.DEBUG, "llmbridge")

    assert ask(FISH, model=gpt).text == "Trout."

    assert names(told) == ["CallStarted", "CacheMissed", "CallRecord"]
    said = [record.levelname for record in caplog.records if "a subscriber" in record.getMessage()]
    assert said == ["WARNING", "DEBUG", "DEBUG"]


def test_a_slow_subscriber_holds_up_one_event_and_is_told_by_a_thread_from_then_on(
    ask: Ask, bridge: Bridge, sim: Simulator, gpt: Model, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(events, "SLOW_S", 0.01)
    told: list[tuple[str, str]] = []
    go_on, done = threading.Event(), threading.Event()

    def slow(event: object) -> None:
        if told:
            go_on.wait(20)
        else:
            time.sleep(0.05)
        told.append((type(event).__name__, threading.current_thread().name))
        if isinstance(event, CallRecord):
            done.set()

    bridge.subscribe(slow, *KINDS)

    reply = ask(FISH, model=gpt)  # to its end, while its second event is not told yet

    assert (reply.text, [name for name, _ in told]) == ("Trout.", ["CallStarted"])
    go_on.set()
    assert done.wait(20)
    assert [name for name, _ in told] == ["CallStarted", "CacheMissed", "CallRecord"]
    assert len({thread for _, thread in told}) == 2
    assert [record.getMessage() for record in caplog.records if "held up a call" in record.getMessage()] != []


def test_events_of_a_failed_call_end_with_its_record(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, heard: list[Any]
) -> None:
    sim.script(Fault.status(400))

    with pytest.raises(LLMBridgeError):
        ask(FISH, model=[gpt, claude])

    assert names(heard) == ["CallStarted", "CacheMissed", "AttemptFailed", "CallRecord"]
    assert heard[-1].outcome == "failed"


def test_embeddings_tell_the_same(bridge: Bridge, heard: list[Any]) -> None:
    bridge.embed("fish", model="mock/echo")

    assert names(heard) == ["CallStarted", "CacheMissed", "CallRecord"]
    assert heard[0].verb == "embeddings"


def test_every_event_has_a_level_and_facts_that_are_plain(
    ask: Ask, bridge: Bridge, sim: Simulator, gpt: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "llmbridge")
    sim.script(Fault.status(401), Reply())

    with pytest.raises(AuthenticationFailed):
        ask(FISH, model=gpt, tags={"user": "alice"})

    logged = [(record.levelname, record.llmbridge) for record in caplog.records if hasattr(record, "llmbridge")]
    assert [(level, facts["event"]) for level, facts in logged] == [
        ("DEBUG", "call_started"),
        ("DEBUG", "cache_missed"),
        ("INFO", "attempt_failed"),
        ("INFO", "breaker_opened"),
        ("INFO", "call_completed"),
    ]
    assert len({facts["call_id"] for _, facts in logged}) == 1
    failed, completed = logged[2][1], logged[4][1]
    assert (failed["model"], failed["status"], failed["number"]) == (gpt.model, 401, 1)
    assert (completed["outcome"], completed["error_type"], completed["cost_usd"]) == (
        "failed",
        "AuthenticationFailed",
        0.0,
    )
    assert completed["tags"] == {"user": "alice"}
    assert not [value for _, facts in logged for value in facts.values() if isinstance(value, Decimal)]
