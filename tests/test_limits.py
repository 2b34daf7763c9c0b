"""Limits of our own, in parts: buckets, slots, and the counters of a Limit. Whole calls: test_limits_calls.py."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmbridge import Limit
from llmbridge.fallback import limiter as limiter_module
from llmbridge.fallback.bucket import BURST_S, Bucket
from llmbridge.fallback.limiter import Counter, Entry, Limiter, enter
from llmbridge.fallback.slots import MOST_SLOTS, START_SLOTS, Full, Slots
from tests.test_breaker import Clock


some = settings(max_examples=80, deadline=None)
rates = st.sampled_from([1.0, 10.0, 60.0, 500.0, 100_000.0])


@pytest.fixture
def clock() -> Clock:
    return Clock()


def finished(pauses: Any, clock: Clock) -> Any:
    """What *pauses* return, each spent on the fake clock."""
    while True:
        try:
            clock.now += next(pauses)
        except StopIteration as end:
            return end.value


# Buckets


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "wait", "cancel", "less", "more"]), st.floats(0.1, 1), st.integers(0, 9)
    ),
    max_size=60,
)


class Uses:
    """A Bucket in use: who is to go when, and how much of what was taken was used."""

    def __init__(self, per_minute: float) -> None:
        self.clock = Clock()
        self.bucket = Bucket(per_minute, self.clock)
        self.size = max(1.0, per_minute / 60 * BURST_S)
        self.rate = per_minute / 60
        self.granted: list[list[float]] = []  # [time, amount], in the order of asking

    def step(self, does: str, share: float, which: int) -> None:
        now = self.clock.now
        if does == "take":
            amount = share * self.size
            self.granted.append([self.bucket.take(amount), amount])
        elif does == "wait":
            self.clock.now += share * 2 * self.size / self.rate
        elif does == "cancel" and (waiting := [each for each in self.granted if each[0] > now]):
            cancelled = waiting[which % len(waiting)]
            self.granted.remove(cancelled)
            self.bucket.give_back(cancelled[1], cancelled[0])
        elif does == "less" and (gone := [each for each in self.granted if each[0] <= now]):
            used = gone[which % len(gone)]
            self.bucket.give_back(used[1] * share, used[0])
            used[1] *= 1 - share


@some
@given(rates, steps.map(lambda steps: [step for step in steps if step[0] != "less"]))
def test_no_window_lets_through_more_than_the_burst_and_the_rate(per_minute: float, steps: list[Any]) -> None:
    uses = Uses(per_minute)
    for step in steps:
        uses.step(*step)

    admitted = sorted((at, amount) for at, amount in uses.granted)
    for first, (begin, _) in enumerate(admitted):
        total = 0.0
        for end, amount in admitted[first:]:
            total += amount
            assert total <= (uses.size + uses.rate * (end - begin)) * (1 + 1e-9) + 1e-6


@some
@given(rates, steps)
def test_nobody_is_told_a_time_before_that_of_who_asked_earlier(per_minute: float, steps: list[Any]) -> None:
    uses = Uses(per_minute)
    for step in steps:
        uses.step(*step)
        waiting = [at for at, _ in uses.granted if at > uses.clock.now]
        assert waiting == sorted(waiting)


@some
@given(rates, st.lists(st.floats(0.1, 1), max_size=20))
def test_who_cancels_leaves_the_bucket_as_it_was(per_minute: float, shares: list[float]) -> None:
    uses = Uses(per_minute)
    uses.bucket.take(uses.size)
    before = uses.bucket.wait_s(uses.size)
    taken = [(share * uses.size, uses.bucket.take(share * uses.size)) for share in shares]

    for amount, at in taken:
        uses.bucket.give_back(amount, at)

    assert uses.bucket.wait_s(uses.size) == pytest.approx(before)


def test_a_tenth_of_a_minute_goes_at_once_and_then_one_after_the_other(clock: Clock) -> None:
    bucket = Bucket(60, clock)

    assert [bucket.take(1) - clock.now for _ in range(9)] == [0, 0, 0, 0, 0, 0, 1, 2, 3]


def test_what_was_told_is_what_is_waited_and_a_correction_shortens_it_for_who_comes_next(clock: Clock) -> None:
    bucket = Bucket(6000, clock)  # 100 a second, 600 at once
    first = bucket.take(600)
    assert bucket.wait_s(300) == pytest.approx(3)

    bucket.give_back(500, first)

    assert bucket.take(300) == clock.now
    bucket.give_back(-1000, clock.now)  # it was more than was thought
    assert bucket.wait_s(1) == pytest.approx(8.01)


def test_more_than_fits_goes_when_the_bucket_is_full_and_leaves_a_debt(clock: Clock) -> None:
    bucket = Bucket(600, clock)  # 10 a second, 60 at once
    assert bucket.take(300) == clock.now

    assert bucket.wait_s(60) == pytest.approx(30)


def test_a_clock_that_goes_back_gives_and_takes_nothing(clock: Clock) -> None:
    bucket = Bucket(60, clock)
    for _ in range(6):
        bucket.take(1)
    clock.now -= 500
    assert bucket.wait_s(1) == pytest.approx(1)
    clock.now += 500

    assert bucket.wait_s(1) == pytest.approx(1)


# Slots


def test_slots_are_given_out_in_the_order_of_asking_and_never_more_than_there_are(clock: Clock) -> None:
    slots = Slots(2, clock)
    seats = [object() for _ in range(5)]
    waiting = [slots.enter(seat, 100) for seat in seats]
    inside: list[int] = []

    def look(numbers: list[int]) -> None:
        for number in numbers:
            try:
                next(waiting[number])
            except StopIteration:
                inside.append(number)
                assert len(slots._taken) <= 2

    look([0, 1, 2, 3, 4])
    slots.leave(seats[0])
    look([4, 3, 2])
    waiting[3].close()  # cancelled
    slots.leave(seats[1])
    look([4])

    assert inside == [0, 1, 2, 4]


def test_who_has_waited_long_enough_gives_up_and_is_forgotten(clock: Clock) -> None:
    slots = Slots(1, clock)
    finished(slots.enter("one", 1), clock)

    with pytest.raises(Full, match="1 calls are under way"):
        finished(slots.enter("two", 1), clock)

    slots.leave("one")
    assert slots.is_idle


def test_adaptive_slots_grow_with_each_round_and_halve_at_a_429_once_a_second(clock: Clock) -> None:
    slots = Slots("adaptive", clock)
    assert slots.most == START_SLOTS
    for _ in range(2):
        seats = list(range(slots.most))
        for seat in seats:
            finished(slots.enter(seat, 1), clock)
        for seat in seats:
            slots.leave(seat, well=True)
            finished(slots.enter(seat, 1), clock)
        for seat in seats:
            slots.leave(seat)
    assert slots.most == START_SLOTS + 1 or slots.most == START_SLOTS + 2

    grown = slots.most
    for _ in range(10):
        slots.leave("any", throttled=True)
    assert slots.most == int(grown / 2) or slots.most == round(grown / 2)
    for _ in range(20):
        clock.now += 1
        slots.leave("any", throttled=True)
    assert slots.most == 1


def test_adaptive_slots_do_not_grow_while_they_are_not_used_up_nor_without_end(clock: Clock) -> None:
    slots = Slots("adaptive", clock)
    for _ in range(100):
        finished(slots.enter("one", 1), clock)
        slots.leave("one", well=True)
    assert slots.most == START_SLOTS

    slots._most = float(MOST_SLOTS)
    seats = list(range(MOST_SLOTS))
    for seat in seats:
        finished(slots.enter(seat, 1), clock)
    slots.leave(0, well=True)
    assert slots.most == MOST_SLOTS


# What an attempt takes of several limits


def test_a_call_takes_of_every_limit_or_of_none(clock: Clock) -> None:
    wide, narrow = Counter(Limit(rpm=600), clock), Counter(Limit(rpm=60, concurrency=1), clock)
    assert narrow.requests is not None
    assert wide.requests is not None
    for _ in range(6):
        narrow.requests.take(1)

    with pytest.raises(Full) as caught:
        finished(enter([wide, narrow], 0, 0.5, clock), clock)

    assert caught.value.wait_s == pytest.approx(1)
    assert wide.is_idle
    assert narrow.slots is not None
    assert narrow.slots.is_idle


def test_who_is_cancelled_while_it_waits_gives_everything_back(clock: Clock) -> None:
    counter = Counter(Limit(rpm=60, tpm=6000, concurrency=2), clock)
    entry = finished(enter([counter], 600, 10, clock), clock)
    waiting = enter([counter], 600, 10, clock)
    assert next(waiting) == pytest.approx(6)

    waiting.close()

    assert counter.tokens is not None
    assert counter.tokens.wait_s(600) == pytest.approx(6)
    entry.leave(used=0, sent=False)
    assert counter.is_idle


def test_an_entry_that_is_dropped_gives_everything_back(clock: Clock) -> None:
    counter = Counter(Limit(rpm=60, tpm=6000, concurrency=2), clock)
    finished(enter([counter], 600, 10, clock), clock)
    gc.collect()

    assert counter.is_idle


def test_tokens_are_taken_by_the_estimate_and_corrected_by_what_was_used(clock: Clock) -> None:
    counter = Counter(Limit(tpm=60_000), clock)  # 1,000 a second, 6,000 at once
    assert counter.tokens is not None
    for used, sent, left in [(1000, True, 5000), (None, True, 1000), (0, False, 1000), (6000, True, -5000)]:
        entry = finished(enter([counter], 4000, 100, Clock()), Clock())
        entry.leave(used=used, sent=sent)
        entry.leave(used=0, sent=False)  # only the first time counts
        counter.tokens.wait_s(0)
        assert counter.tokens._level == pytest.approx(left)


def test_what_can_never_pass_is_told_at_once(clock: Clock) -> None:
    counter = Counter(Limit(tpm=1000), clock)

    with pytest.raises(Full, match="1,001 tokens, and 1,000 a minute are allowed") as caught:
        finished(enter([counter], 1001, 600, clock), clock)

    assert caught.value.wait_s is None
    assert finished(enter([counter], 1000, 600, clock), clock)


def test_threads_that_ask_at_once_do_not_make_each_other_wait_longer_than_they_have(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(Limit(rpm=60), clock)
    assert counter.requests is not None
    bucket, wait_s = counter.requests, counter.requests.wait_s

    def overtaken(amount: float) -> float:
        found = wait_s(amount)
        for _ in range(20):
            bucket.take(1)
        return found

    monkeypatch.setattr(bucket, "wait_s", overtaken)

    with pytest.raises(Full):
        finished(enter([counter], 0, 2.0, clock), clock)


# Limits


def test_each_value_of_a_tag_has_a_counter_of_its_own(clock: Clock) -> None:
    limiter = Limiter(Limit(rpm=6, per=("user", "purpose")), clock)

    ours = limiter.counter({"user": "alice", "purpose": "chat", "other": "1"})
    assert limiter.counter({"user": "alice", "purpose": "chat", "other": "2"}) is ours
    assert limiter.counter({"user": "alice"}) is not ours
    assert limiter.counter({}) is not limiter.counter({"user": "alice"})


def test_a_million_users_leave_no_more_counters_than_the_bound(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "MOST_COUNTERS", 100)
    limiter = Limiter(Limit(rpm=6, concurrency=1, per=("user",)), clock)
    busy = limiter.counter({"user": "busy"})
    finished(enter([busy], 0, 1, clock), clock)
    entry = finished(enter([busy], 0, 60, clock), clock)
    for number in range(2000):
        limiter.counter({"user": str(number)})

    assert len(limiter._counters) <= 101
    assert limiter.counter({"user": "busy"}) is busy
    entry.leave(used=0, sent=False)


@pytest.mark.parametrize(
    ("patterns", "model", "covered"),
    [
        ((), "openai/gpt-4o", True),
        (("openai/*",), "openai/gpt-4o", True),
        (("openai/*", "ollama/*"), "anthropic/claude", False),
        (("openai/gpt-4o",), "openai/gpt-4o-mini", False),
    ],
)
def test_a_limit_counts_the_models_that_its_patterns_name(patterns: Any, model: str, covered: bool) -> None:
    assert Limit(rpm=1, models=patterns).covers(model) == covered


@pytest.mark.parametrize(
    "wrong",
    [{}, {"rpm": 0}, {"rpm": -1}, {"rpm": float("nan")}, {"tpm": float("inf")}, {"concurrency": 0}, {"rpm": True},
     {"concurrency": 1.5}, {"concurrency": "elastic"}],
)  # fmt: skip
def test_a_limit_that_nothing_or_everything_could_pass_is_a_value_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rpm|tpm|concurrency"):
        Limit(**wrong)


def test_a_forked_child_starts_without_its_parents_calls_and_locks(clock: Clock) -> None:
    limiter = Limiter(Limit(rpm=600, concurrency=1), clock)
    counter = limiter.counter({})
    entry = finished(enter([counter], 0, 1, clock), clock)
    assert counter.requests is not None
    held = threading.Lock()
    limiter._lock = counter.requests._lock = counter.slots._lock = held  # type: ignore[union-attr]
    with held:
        child = os.fork()
        if child == 0:
            entered = finished(enter([limiter.counter({})], 0, 0, clock), clock)
            os._exit(0 if isinstance(entered, Entry) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    entry.leave(used=0, sent=False)
