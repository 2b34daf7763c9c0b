"""The breaker: who is left alone, for how long, and who finds out whether it is over."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmbridge.fallback.breaker import Breaker, Passage
from llmbridge.fallback.opening import LONGEST_OPEN_S


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["alone", "shared"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "breakers" / "one.json" if request.param == "shared" else None


@pytest.fixture
def breaker(path: Path | None, clock: Clock) -> Breaker:
    return Breaker(path, clock)


def ask_once(breaker: Breaker, verdict: Any) -> bool:
    """Whether a call got through; its end is *verdict*."""
    passage = breaker.enter()
    if passage is not None:
        passage.end(verdict, "HTTP 500")
    return passage is not None


def broken(breaker: Breaker) -> Breaker:
    for _ in range(5):
        assert ask_once(breaker, "sick")
    return breaker


def test_five_failures_open_it_and_four_do_not(breaker: Breaker) -> None:
    for _ in range(4):
        ask_once(breaker, "sick")
    assert breaker.opening() is None

    ask_once(breaker, "sick")

    opening = breaker.opening()
    assert opening is not None
    assert (opening.kind, opening.why) == ("sick upstream", "5 of the last 5 attempts failed: HTTP 500")
    assert breaker.enter() is None


@pytest.mark.parametrize(("well", "opens"), [(5, True), (6, False), (50, False)])
def test_it_opens_if_half_of_the_attempts_failed_and_not_if_fewer_did(breaker: Breaker, well: int, opens: bool) -> None:
    for _ in range(well):
        ask_once(breaker, "well")
    for _ in range(5):
        ask_once(breaker, "sick")

    assert (breaker.opening() is not None) == opens


def test_only_the_last_minute_counts(breaker: Breaker, clock: Clock) -> None:
    for _ in range(20):
        ask_once(breaker, "sick")
        clock.now += 16

    assert breaker.opening() is None


@pytest.mark.parametrize("verdict", ["well", "unknown"])
def test_what_says_nothing_against_the_upstream_never_opens_it(breaker: Breaker, verdict: str) -> None:
    for _ in range(100):
        assert ask_once(breaker, verdict)


def test_a_dead_key_opens_it_at_once_for_half_a_minute(breaker: Breaker, clock: Clock) -> None:
    ask_once(breaker, "dead key")

    opening = breaker.opening()
    assert opening is not None
    assert (opening.kind, opening.left_s(clock())) == ("dead key", 30)


def test_each_opening_in_a_row_is_twice_as_long_up_to_five_minutes(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    seen = []
    for _ in range(9):
        opening = breaker.opening()
        assert opening is not None
        seen.append(opening.for_s)
        clock.now += opening.for_s
        assert ask_once(breaker, "sick")

    assert seen == [5, 10, 20, 40, 80, 160, LONGEST_OPEN_S, LONGEST_OPEN_S, LONGEST_OPEN_S]


def test_a_probe_that_is_answered_closes_it_and_the_next_opening_is_short_again(breaker: Breaker, clock: Clock) -> None:
    for _ in range(2):
        broken(breaker)
        clock.now += 5
        assert ask_once(breaker, "well")
        assert breaker.opening() is None

    broken(breaker)
    opening = breaker.opening()
    assert opening is not None
    assert (opening.for_s, opening.times) == (5, 1)


def test_what_was_sent_before_the_opening_neither_closes_nor_prolongs_it(breaker: Breaker, clock: Clock) -> None:
    late: list[Passage] = [passage for _ in range(3) if (passage := breaker.enter()) is not None]
    broken(breaker)
    clock.now += 5
    assert ask_once(breaker, "sick")
    opening = breaker.opening()

    for passage, verdict in zip(late, ("sick", "well", "unknown"), strict=True):
        passage.end(verdict)  # type: ignore[arg-type]

    assert breaker.opening() == opening


def test_a_late_401_does_not_shorten_what_the_last_probe_found(breaker: Breaker, clock: Clock) -> None:
    late = breaker.enter()
    ask_once(breaker, "dead key")
    clock.now += 30
    ask_once(breaker, "dead key")
    opening = breaker.opening()
    assert late is not None
    assert opening is not None

    late.end("dead key")

    assert (breaker.opening(), opening.for_s) == (opening, 60)


def test_a_probe_that_was_cancelled_leaves_it_as_it_was_and_lets_the_next_one_probe(
    breaker: Breaker, clock: Clock
) -> None:
    broken(breaker)
    clock.now += 5
    for _ in range(100):
        probe = breaker.enter()
        assert probe is not None
        assert breaker.enter() is None
        probe.end("unknown")

    assert ask_once(breaker, "well")
    assert breaker.opening() is None


def test_a_probe_that_was_simply_dropped_lets_the_next_one_probe(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now += 5
    probe = breaker.enter()
    assert breaker.enter() is None

    del probe
    gc.collect()

    assert ask_once(breaker, "well")


def test_a_probe_ends_once(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now += 5
    first = breaker.enter()
    assert first is not None
    first.end("unknown")
    second = breaker.enter()

    first.end("well")

    assert second is not None
    assert (second.is_probe, breaker.enter()) == (True, None)


def test_of_fifty_threads_one_probes(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now += 5
    gate, through = threading.Barrier(50), []

    def enter() -> None:
        gate.wait()
        if (passage := breaker.enter()) is not None:
            through.append(passage)

    threads = [threading.Thread(target=enter) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(through) == 1


def test_who_looked_before_another_probe_failed_does_not_probe_again(
    breaker: Breaker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(breaker)
    clock.now += 5
    probe = breaker._shared.probe
    failing = breaker.enter()
    assert failing is not None

    def overtaken() -> bool:
        failing.end("sick")
        return probe()

    monkeypatch.setattr(breaker._shared, "probe", overtaken)

    assert breaker.enter() is None
    assert not breaker._shared.is_probed()


# The state machine


class BreakerMachine(RuleBasedStateMachine):
    """Against a model that is as plain as the module's own docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(None, self.clock)
        self.outcomes: list[tuple[float, bool]] = []
        self.open_until: float | None = None
        self.times = 0
        self.probe: Passage | None = None

    def opens(self, first_s: float) -> None:
        self.times += 1
        self.open_until = self.clock.now + min(first_s * 2 ** (self.times - 1), 300)
        self.outcomes = []

    def closes(self) -> None:
        self.open_until, self.times = None, 0

    @rule(seconds=st.floats(0, 400))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.open_until is None)
    @rule(verdict=st.sampled_from(["well", "sick", "sick", "dead key", "unknown"]))
    def call(self, verdict: Any) -> None:
        assert ask_once(self.breaker, verdict)
        if verdict == "dead key":
            self.opens(30)
        elif verdict in ("well", "sick"):
            self.outcomes.append((self.clock.now, verdict == "well"))
            recent = [well for at, well in self.outcomes if self.clock.now - at <= 60]
            if verdict == "sick" and recent.count(False) >= 5 and recent.count(False) * 2 >= len(recent):
                self.opens(5)

    @precondition(lambda self: self.open_until is not None and self.probe is None)
    @rule()
    def begin_probe(self) -> None:
        assert self.open_until is not None
        self.probe = self.breaker.enter()
        assert (self.probe is not None) == (self.clock.now >= self.open_until)

    @precondition(lambda self: self.probe is not None)
    @rule(verdict=st.sampled_from(["well", "sick", "dead key", "unknown"]))
    def end_probe(self, verdict: Any) -> None:
        assert self.probe is not None
        assert self.breaker.enter() is None
        self.probe.end(verdict)
        self.probe = None
        if verdict == "well":
            self.outcomes.append((self.clock.now, True))
            self.closes()
        elif verdict != "unknown":
            self.opens(30 if verdict == "dead key" else 5)

    @invariant()
    def it_says_whether_calls_are_refused(self) -> None:
        refuses = self.open_until is not None and (self.clock.now < self.open_until or self.probe is not None)
        assert (self.breaker.opening() is not None) == refuses


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
