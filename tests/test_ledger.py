"""One process and its ledger: reserving and resolving, what is said about it, reports, retention, and check()."""

from __future__ import annotations

import csv
import io
import json
import logging
import pickle
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmbridge.errors import AlreadyResolved, LedgerError
from llmbridge.ledger import Asked, Balance, Budget, Charge, Ledger, Need, Refusal, Reservation, check
from llmbridge.record import AttemptRecord, CallRecord


NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
CENT = 10**7
DAY = Budget("$1/day", name="day")
MODEL = "openai/gpt-4o-mini"
FLOUNDER = "anthropic/claude-haiku-4-5"


@dataclass
class Clock:
    now: datetime = NOON

    def __call__(self) -> float:
        return self.now.timestamp()

    def passes(self, **time: float) -> None:
        self.now += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_ledger(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Ledger]]:
    """Handles on one file, whose background expiry does not read the clock while a test sets it."""
    handles: list[Ledger] = []

    def make(name: str = "ledger.db", **settings: Any) -> Ledger:
        ledger = Ledger(tmp_path / name, clock=clock, **settings)
        ledger._upkeep._expire = lambda: 0
        handles.append(ledger)
        return ledger

    yield make
    for ledger in handles:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    return open_ledger()


@pytest.fixture
def second(ledger: Ledger, open_ledger: Callable[..., Ledger]) -> Ledger:
    return open_ledger()


def held(made: Reservation | Refusal) -> Reservation:
    assert isinstance(made, Reservation), made
    return made


def refused(made: Reservation | Refusal) -> Refusal:
    assert isinstance(made, Refusal), made
    return made


def cents(amount: float) -> Need:
    return Need(int(amount * CENT), int(amount * 10))


def only(balances: list[Balance]) -> Balance:
    (balance,) = balances
    return balance


def spend_cents(ledger: Ledger, attempt: str, amount: float, budget: Budget = DAY, **tags: str) -> None:
    need = cents(amount)
    ledger.settle(held(ledger.reserve(Asked(attempt, tags=tags), need, [budget])), Charge(need.nanousd, need.tokens))


def record(
    ledger: Ledger,
    call: str,
    amount: float,
    *,
    model: str = MODEL,
    budgets: tuple[Budget, ...] = (),
    outcome: Any = "answered",
    charge: Charge | None = None,
    saved_usd: Decimal = Decimal(0),
    **tags: str,
) -> CallRecord:
    """A call of one attempt, from its reservation to its record, as a Bridge does it."""
    provider, need = model.partition("/")[0], cents(amount)
    asked = Asked(f"{call}.1", model, provider, tags=tags)
    reservation = held(ledger.reserve(asked, need, budgets))
    attempt = AttemptRecord(
        number=1, model=model, provider=provider, reason="initial", outcome=outcome, status=200, sent=True,
        input_tokens=7, output_tokens=3, cost_usd=Decimal(need.nanousd or 0).scaleb(-9), price_source="litellm",
        reserved_usd=Decimal(need.nanousd or 0).scaleb(-9), duration_s=0.5, request_id="req_1",
    )  # fmt: skip
    whole = CallRecord(
        id=call, verb="chat", models=(model,), tags=tags, started_at=ledger._clock(), duration_s=0.5, outcome=outcome,
        model=model, provider=provider, attempts=(attempt,), input_tokens=7, output_tokens=3,
        cost_usd=attempt.cost_usd, saved_usd=saved_usd, trace_id="0af7651916cd43dd8448eb211c80319c",
    )  # fmt: skip
    ledger.book(whole, (reservation, attempt, charge or Charge(need.nanousd, 10)))
    return whole


def hit(ledger: Ledger, call: str, saved_usd: str, **tags: str) -> None:
    """A call that the cache answered."""
    ledger.book(
        CallRecord(
            id=call, verb="chat", models=(MODEL,), tags=tags, started_at=ledger._clock(), outcome="answered",
            model=MODEL, provider="openai", cost_usd=Decimal(0), saved_usd=Decimal(saved_usd),
        )
    )  # fmt: skip


def test_what_is_reserved_is_held_until_it_is_settled_and_the_rest_comes_back(ledger: Ledger) -> None:
    reservation = held(ledger.reserve("c1.1", cents(60), [DAY]))
    before = only(ledger.balance(DAY))
    ledger.settle(reservation, Charge(25 * CENT, 10))
    after = only(ledger.balance(DAY))

    assert (before.settled, before.reserved, before.remaining) == (0, 60 * CENT, 40 * CENT)
    assert (after.settled_usd, after.reserved_usd, after.remaining_usd) == (Decimal("0.25"), 0, Decimal("0.75"))


def test_what_is_released_comes_back_whole(ledger: Ledger) -> None:
    ledger.release(held(ledger.reserve("c1.1", cents(60), [DAY])))

    assert only(ledger.balance(DAY)).remaining_usd == 1


def test_the_last_nanodollar_fits_and_one_more_does_not(ledger: Ledger) -> None:
    assert isinstance(ledger.reserve("c1.1", Need(10**9 + 1, 0), [DAY]), Refusal)
    assert isinstance(ledger.reserve("c1.2", Need(10**9, 0), [DAY]), Reservation)
    assert isinstance(ledger.reserve("c1.3", Need(1, 0), [DAY]), Refusal)
    assert isinstance(ledger.reserve("c1.4", Need(0, 0), [DAY]), Reservation)


def test_a_limit_of_nothing_lets_only_what_is_free_through(ledger: Ledger) -> None:
    none = Budget("$0/day")

    assert isinstance(ledger.reserve("c1.1", Need(1, 0), [none]), Refusal)
    assert isinstance(ledger.reserve("c1.2", Need(0, 100), [none]), Reservation)


def test_several_budgets_take_it_all_or_none_does(ledger: Ledger) -> None:
    tight = Budget("3 tokens/day", name="tight")

    refused(ledger.reserve("c1.1", cents(10), [DAY, tight]))

    assert [(balance.settled, balance.reserved) for balance in ledger.balance()] == [(0, 0), (0, 0)]
    assert ledger.records() == []


def test_a_budget_for_other_models_neither_counts_nor_caps(ledger: Ledger) -> None:
    anthropic = Budget("$0.01/day", name="anthropic", models=("anthropic/*",))

    held(ledger.reserve(Asked("c1.1", MODEL), cents(50), [anthropic]))

    assert only(ledger.balance(anthropic)).reserved == 0
    refused(ledger.reserve(Asked("c1.2", FLOUNDER), cents(50), [anthropic]))


def test_an_attempt_is_reserved_once(ledger: Ledger) -> None:
    held(ledger.reserve("c1.1", cents(10), [DAY]))

    with pytest.raises(LedgerError):
        ledger.reserve("c1.1", cents(20), [DAY])

    assert only(ledger.balance(DAY)).reserved == 10 * CENT


@pytest.mark.parametrize("attempt", ["", ".", "c1", "c1.", ".1", "c1.x", "c1.1.1", "c1.-1", "c.1.1"])
def test_an_attempt_is_named_by_its_call_and_its_number(ledger: Ledger, attempt: str) -> None:
    with pytest.raises(ValueError, match="an attempt's id is its call's, a point and its number"):
        ledger.reserve(attempt, cents(10), [DAY])


def test_it_resolves_once_by_whatever_name(ledger: Ledger) -> None:
    reservation = held(ledger.reserve("c1.1", cents(10), [DAY]))
    ledger.settle("c1.1", Charge(5 * CENT, 5))

    for again in (reservation, "c1.1"):
        with pytest.raises(AlreadyResolved, match=r"reservation 'c1.1' is settled already; nothing was changed"):
            ledger.settle(again, Charge(0, 0))
        with pytest.raises(AlreadyResolved):
            ledger.release(again)
    assert only(ledger.balance(DAY)).settled == 5 * CENT


def test_settling_what_was_never_reserved_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"the ledger knows no reservation 'c9\.1'"):
        ledger.settle("c9.1", Charge(0, 0))


def test_what_costs_more_than_it_reserved_is_charged_in_full_and_flagged(ledger: Ledger) -> None:
    ledger.settle(held(ledger.reserve("c1.1", cents(10), [DAY])), Charge(150 * CENT, 5))

    balance = only(ledger.balance(DAY))
    assert (balance.settled_usd, balance.remaining_usd) == (Decimal("1.5"), Decimal("-0.5"))
    assert exported(ledger)[0]["overrun"] is True
    refused(ledger.reserve("c2.1", Need(1, 0), [DAY]))
    assert ledger.check() == []


def test_what_costs_an_unknown_amount_is_charged_as_it_was_reserved_and_marked(ledger: Ledger) -> None:
    ledger.settle(held(ledger.reserve("c1.1", cents(10), [DAY])), Charge(None, None))

    assert only(ledger.balance(DAY)).settled == 10 * CENT
    (row,) = exported(ledger)
    assert (Decimal(row["cost_usd"]), row["uncertain"], row["state"]) == (Decimal("0.1"), True, "settled")


def test_a_reservation_stays_in_the_day_it_was_made_in(ledger: Ledger, clock: Clock) -> None:
    clock.now = NOON.replace(hour=23, minute=59)
    reservation = held(ledger.reserve("c1.1", cents(60), [DAY]))
    clock.passes(minutes=2)

    held(ledger.reserve("c2.1", cents(100), [DAY]))
    ledger.settle(reservation, Charge(60 * CENT, 0))

    assert (only(ledger.balance(DAY)).settled, only(ledger.balance(DAY)).reserved) == (0, 100 * CENT)


def test_a_budget_for_a_call_counts_all_attempts_of_it_and_no_other_calls(ledger: Ledger) -> None:
    per_call = Budget("$0.10/call", name="call")
    spend_cents(ledger, "c1.1", 6, per_call)

    refused(ledger.reserve("c1.2", cents(6), [per_call]))
    held(ledger.reserve("c2.1", cents(10), [per_call]))


def test_setting_the_clock_back_opens_no_window_again(ledger: Ledger, second: Ledger, clock: Clock) -> None:
    spend_cents(ledger, "c1.1", 100)
    clock.passes(days=1)
    spend_cents(ledger, "c2.1", 100)
    clock.passes(days=-1)

    for handle in (ledger, second):
        refused(handle.reserve(f"c3.{handle is ledger:d}", Need(1, 0), [DAY]))


def test_a_second_handle_sees_what_the_first_did_and_the_other_way_round(ledger: Ledger, second: Ledger) -> None:
    reservation = held(ledger.reserve("c1.1", cents(100), [DAY]))

    refused(second.reserve("c2.1", Need(1, 0), [DAY]))
    second.settle(reservation.attempt, Charge(0, 0))

    held(ledger.reserve("c3.1", cents(100), [DAY]))
    assert ledger.balance(DAY) == second.balance(DAY)


VALUES = ["", "a,b", "'; drop table balance; --", "🐟" * 3000, "café", "cafe\u0301", '"', "\0"]


def test_tag_values_of_any_shape_have_counters_of_their_own(ledger: Ledger) -> None:
    each = Budget("$0.10/day", name="each", per=("user",))
    for number, value in enumerate(VALUES):
        held(ledger.reserve(Asked(f"c{number}.1", tags={"user": value}), cents(10), [each]))
        refused(ledger.reserve(Asked(f"c{number}.2", tags={"user": value}), Need(1, 0), [each]))

    held(ledger.reserve("c99.1", cents(10), [each]))
    refused(ledger.reserve(Asked("c99.2", tags={"team": "x"}), Need(1, 0), [each]))

    counters = ledger.balance(each)
    assert {balance.tags["user"] for balance in counters} == {*VALUES, None}
    assert {balance.reserved for balance in counters} == {10 * CENT}


def test_a_refusal_says_what_is_left_what_is_held_and_what_to_do(ledger: Ledger) -> None:
    spend_cents(ledger, "c1.1", 30)
    held(ledger.reserve("c2.1", cents(20), [DAY]))

    error = refused(ledger.reserve("c3.1", cents(60), [DAY])).error(f"{MODEL}, max_tokens=4096")

    assert str(error) == (
        "budget 'day' has $0.5000 left of $1.00, $0.2000 of it held by calls under way, and this call may take up to"
        " $0.6000 (openai/gpt-4o-mini, max_tokens=4096); raise the limit, lower max_tokens or wait until"
        " 2026-07-02 00:00 UTC"
    )
    assert (error.budget, error.unit) == ("day", "nanousd")
    assert (error.limit_usd, error.settled_usd, error.reserved_usd, error.needed_usd) == (
        1, Decimal("0.3"), Decimal("0.2"), Decimal("0.6"),
    )  # fmt: skip
    assert error.resets_at == datetime(2026, 7, 2, tzinfo=UTC)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_refusal_names_whose_counter_it_is(ledger: Ledger) -> None:
    each = Budget("3 requests/hour", name="each", per=("user", "team"))
    tags = {"user": "ann", "team": "red"}
    for number in range(3):
        held(ledger.reserve(Asked(f"c{number}.1", tags=tags), Need(0, 0), [each]))

    error = refused(ledger.reserve(Asked("c9.1", tags=tags), Need(0, 0), [each])).error(MODEL)

    assert str(error) == (
        "budget 'each' (user=ann, team=red) has 0 requests left of 3 requests, 3 requests of it held by calls under"
        " way, and this call may take up to 1 requests (openai/gpt-4o-mini); raise the limit or wait until 13:00 UTC"
    )
    assert (error.limit, error.settled, error.reserved, error.needed) == (3, 0, 3, 1)
    assert error.limit_usd is error.settled_usd is error.reserved_usd is error.needed_usd is None


def test_a_refusal_speaks_in_the_budgets_own_time_zone(ledger: Ledger) -> None:
    berlin = Budget("$1/day", zone="Europe/Berlin")
    spend_cents(ledger, "c1.1", 100, berlin)

    error = refused(ledger.reserve("c2.1", cents(1), [berlin])).error(MODEL)

    assert str(error).endswith("wait until 2026-07-02 00:00 Europe/Berlin")
    assert error.resets_at == datetime(2026, 7, 1, 22, tzinfo=UTC)


@pytest.mark.parametrize("limit", ["$1", "$1/call"])
def test_what_never_resets_does_not_advise_to_wait(ledger: Ledger, limit: str) -> None:
    budget = Budget(limit)
    spend_cents(ledger, "c1.1", 100, budget)

    error = refused(ledger.reserve("c1.2", cents(1), [budget])).error(MODEL)

    assert error.resets_at is None
    assert str(error).endswith("; raise the limit or lower max_tokens")


def test_what_is_dearer_than_the_whole_limit_does_not_advise_to_wait(ledger: Ledger) -> None:
    error = refused(ledger.reserve("c1.1", cents(101), [DAY])).error(MODEL)

    assert error.resets_at is None
    assert "wait" not in str(error)


def test_a_rolling_window_resets_when_enough_of_it_has_rolled_out(ledger: Ledger, clock: Clock) -> None:
    rolling = Budget("$1/5h", name="rolling")
    for attempt in ("c1.1", "c2.1", "c3.1"):
        spend_cents(ledger, attempt, 30, rolling)
        clock.passes(hours=1)

    error = refused(ledger.reserve("c4.1", cents(50), [rolling])).error(MODEL)

    # Two of the three have to go; the second was at 13:00, and steps last five minutes.
    assert error.resets_at == datetime(2026, 7, 1, 18, 5, tzinfo=UTC)
    clock.now = datetime(2026, 7, 1, 18, 4, 59, tzinfo=UTC)
    refused(ledger.reserve("c5.1", cents(50), [rolling]))
    clock.now = error.resets_at
    held(ledger.reserve("c6.1", cents(50), [rolling]))


def test_the_strictest_wish_wins_and_of_those_the_tightest_budget_speaks(ledger: Ledger) -> None:
    budgets = [
        Budget("$0.05/day", name="clamped", on_exceed="clamp"),
        Budget("$0.40/day", name="loose"),
        Budget("$0.20/day", name="tight"),
        Budget("$0.01/day", name="trial", on_exceed="warn"),
        Budget("300 tokens/day", name="tokens"),
    ]

    refusal = refused(ledger.reserve("c1.1", cents(50), budgets))

    assert (refusal.on_exceed, refusal.counter.budget.name) == ("refuse", "tight")
    assert (refusal.headroom_nanousd, refusal.headroom_tokens) == (5 * CENT, 300)


def test_a_limit_set_at_run_time_holds_for_every_handle_from_the_next_reservation_on(
    ledger: Ledger, second: Ledger
) -> None:
    refused(second.reserve("c1.1", cents(150), [DAY]))

    ledger.set_limit("day", "$2", reason="launch")

    held(second.reserve("c2.1", cents(150), [DAY]))
    assert only(second.balance(DAY)).limit_usd == 2
    ledger.set_limit(DAY, None)
    refused(second.reserve("c3.1", Need(1, 0), [DAY]))


def test_a_limit_set_at_run_time_holds_in_another_process(tmp_path: Path) -> None:
    script = """
import sys
from llmbridge.ledger import Budget, Ledger, Need
with Ledger(sys.argv[1]) as ledger:
    print(type(ledger.reserve("c1.1", Need(1_500_000_000, 0), [Budget("$1/day", name="day")])).__name__)
"""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.set_limit(DAY, "$2")

        told = subprocess.run(
            [sys.executable, "-c", script, str(ledger.path)], capture_output=True, text=True, check=True
        ).stdout.strip()

        assert told == "Reservation"
        assert only(ledger.balance(DAY)).remaining_usd == Decimal("0.5")


def test_a_lowered_limit_admits_nothing_new_and_lets_what_is_under_way_go_on(ledger: Ledger) -> None:
    reservation = held(ledger.reserve("c1.1", cents(60), [DAY]))
    ledger.set_limit(DAY, "$0.10")

    refused(ledger.reserve("c2.1", Need(1, 0), [DAY]))
    ledger.settle(reservation, Charge(60 * CENT, 0))

    assert only(ledger.balance(DAY)).remaining_usd == Decimal("-0.5")


def test_an_override_ends_by_itself_and_what_held_before_holds_again(ledger: Ledger, clock: Clock) -> None:
    ledger.set_limit(DAY, "$2")
    ledger.set_limit(DAY, "$3", until=NOON + timedelta(hours=1), reason="batch")

    limits = [only(ledger.balance(DAY)).limit_usd]
    clock.passes(hours=1)
    limits.append(only(ledger.balance(DAY)).limit_usd)

    assert limits == [3, 2]
    assert refused(ledger.reserve("c1.1", cents(201), [DAY])).counter.limit == 2 * 10**9


def test_every_change_is_in_the_trail(ledger: Ledger, second: Ledger, clock: Clock) -> None:
    ledger.set_limit(DAY, "$2", reason="launch")
    clock.passes(minutes=1)
    second.set_limit(DAY, None, until=NOON + timedelta(hours=1))

    assert ledger.changes() == [
        {"at": NOON, "budget": "day", "limit": "$2.00", "until": None, "reason": "launch"},
        {
            "at": NOON + timedelta(minutes=1), "budget": "day", "limit": None, "until": NOON + timedelta(hours=1),
            "reason": "",
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "limit", "until", "wrong"),
    [
        (DAY, "5 tokens", None, "budget 'day' counts nanousd, not tokens"),
        (DAY, "$-1", None, "is no amount"),
        (DAY, "$5/day", None, "is no amount"),
        (DAY, "", None, "is no amount"),
        (DAY, "$2", datetime(2026, 7, 2), "until= needs a time zone"),  # noqa: DTZ001
    ],
)
def test_what_is_no_limit_changes_nothing(
    ledger: Ledger, budget: Budget, limit: str, until: datetime | None, wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong):
        ledger.set_limit(budget, limit, until=until)

    assert ledger.changes() == []


def test_an_unknown_budget_has_no_limit_to_go_back_to(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="the ledger knows no budget 'dya'"):
        ledger.set_limit("dya", None)


def test_each_threshold_is_announced_once_a_window_by_whichever_handle_reaches_it(
    ledger: Ledger, second: Ledger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    for day in range(2):
        for number in range(10):
            handle = (ledger, second)[number % 2]
            call = f"c{day}{number}"
            reservation = held(handle.reserve(f"{call}.1", cents(10), [DAY]))
            attempt = AttemptRecord(number=1, model=MODEL, provider="openai", reason="initial", outcome="answered")
            told += [
                (day, number, alert.budget, alert.share)
                for alert in (*reservation.alerts, *handle.book(None, (reservation, attempt, Charge(10 * CENT, 0))))
            ]
        clock.passes(days=1)

    assert told == [(0, 7, "day", 0.8), (0, 9, "day", 1.0), (1, 7, "day", 0.8), (1, 9, "day", 1.0)]
    messages = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert messages == 2 * [
        "budget 'day' has reached 80%: $0.8000 of $1.00 is spent",
        "budget 'day' has reached 100%: $1.00 of $1.00 is spent",
    ]


def test_passing_two_thresholds_at_once_announces_the_higher(ledger: Ledger) -> None:
    spend_cents(ledger, "c1.1", 100)

    made = ledger.reserve("c2.1", Need(0, 0), [DAY])

    assert [alert.share for alert in made.alerts] == [1.0]
    assert ledger.reserve("c3.1", Need(0, 0), [DAY]).alerts == ()


def test_the_first_refusal_that_stands_in_a_window_announces_the_limit(ledger: Ledger) -> None:
    held(ledger.reserve("c1.1", cents(90), [DAY]))

    first, again = (ledger.announce(refused(ledger.reserve(f"c{number}.1", cents(20), [DAY]))) for number in (2, 3))

    assert [alert.message for alert in first] == [
        "budget 'day' has refused a call of up to $0.2000: $0.00 of $1.00 is spent, $0.9000 held"
    ]
    assert again == ()


def test_each_counter_announces_for_itself_and_says_whose_it_is(ledger: Ledger) -> None:
    each = Budget("$1/day", name="each", per=("user",), alert_at=(0.5,))
    for user in ("ann", "bob"):
        spend_cents(ledger, f"{user}.1", 60, each, user=user)

    told = [
        ledger.reserve(Asked(f"{user}.2", tags={"user": user}), Need(0, 0), [each]).alerts for user in ("ann", "bob")
    ]

    assert [[(alert.share, alert.tags) for alert in alerts] for alerts in told] == [
        [(0.5, {"user": "ann"})], [(0.5, {"user": "bob"})],
    ]  # fmt: skip
    assert told[0][0].message.startswith("budget 'each' (user=ann) has reached 50%")


def test_a_rolling_window_announces_what_its_steps_reach_together(ledger: Ledger, clock: Clock) -> None:
    rolling = Budget("$1/5h", name="rolling")
    told = []
    for number in range(5):
        spend_cents(ledger, f"c{number}.1", 20, rolling)
        clock.passes(minutes=10)
        told.append([alert.share for alert in ledger.reserve(f"d{number}.1", Need(0, 0), [rolling]).alerts])

    assert told == [[], [], [], [0.8], [1.0]]


def test_a_cap_on_trial_lets_through_and_says_so_once(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    trial = Budget("$0.10/day", name="trial", on_exceed="warn")

    first, again = (held(ledger.reserve(f"c{number}.1", cents(60), [trial])) for number in (1, 2))

    assert [(alert.share, alert.passed) for alert in first.alerts] == [(1.0, True)]
    assert again.alerts == ()
    (message,) = caplog.messages
    assert message == (
        "budget 'trial' would have refused a call of up to $0.6000, and only warns: $0.00 of $0.1000 is spent"
    )
    assert only(ledger.balance(trial)).reserved == 120 * CENT


def test_a_lease_that_ends_charges_the_worst_case_as_uncertain(ledger: Ledger, clock: Clock) -> None:
    held(ledger.reserve(Asked("c1.1", MODEL, "openai", tags={"user": "ann"}), cents(10), [DAY], lease_s=60))
    clock.passes(seconds=59)
    early = ledger.expire()
    clock.passes(seconds=1)

    assert (early, ledger.expire(), ledger.expire()) == (0, 1, 0)
    assert only(ledger.balance(DAY)).settled == 10 * CENT
    (lost,) = ledger.records()
    assert (lost.id, lost.outcome, lost.tags, lost.models, lost.uncertain) == (
        "c1",
        "lost",
        {"user": "ann"},
        (MODEL,),
        True,
    )
    assert (lost.attempts[0].outcome, lost.attempts[0].uncertain, lost.cost_usd) == ("lost", True, Decimal("0.1"))


def test_whoever_opens_the_ledger_expires_what_a_dead_process_left(
    ledger: Ledger, open_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    held(ledger.reserve("c1.1", cents(10), [DAY], lease_s=60))
    clock.passes(hours=1)

    another = open_ledger()

    (row,) = another._read(lambda db: db.execute("SELECT state FROM reservation").fetchall())
    assert row == ("expired",)


@pytest.mark.parametrize("look", ["balance", "records", "spend", "export"])
def test_every_report_expires_first(ledger: Ledger, clock: Clock, look: str) -> None:
    held(ledger.reserve("c1.1", cents(10), [DAY], lease_s=60))
    clock.passes(hours=1)

    getattr(ledger, look)(*([io.StringIO()] if look == "export" else []))

    assert ledger.expire() == 0


def test_after_it_expired_it_can_be_settled_once_at_what_it_did_cost(ledger: Ledger, clock: Clock) -> None:
    reservation = held(ledger.reserve("c1.1", cents(10), [DAY], lease_s=60))
    clock.passes(hours=1)
    ledger.expire()

    ledger.settle(reservation, Charge(3 * CENT, 1))

    assert only(ledger.balance(DAY)).settled == 3 * CENT
    assert exported(ledger)[0]["uncertain"] is False
    with pytest.raises(AlreadyResolved):
        ledger.settle(reservation, Charge(0, 0))
    assert ledger.check() == []


def test_what_expired_and_was_reconciled_cannot_be_settled_late(ledger: Ledger, clock: Clock) -> None:
    spend_cents(ledger, "c0.1", 50)
    reservation = held(ledger.reserve("c1.1", cents(10), [DAY], lease_s=60))
    clock.passes(hours=1)
    ledger.expire()
    ledger.reconcile("c1", "0.02")

    with pytest.raises(AlreadyResolved):
        ledger.settle(reservation, Charge(5 * CENT, 1))

    assert only(ledger.balance(DAY)).settled == 52 * CENT
    assert ledger.check() == []


def test_setting_the_clock_back_unexpires_nothing(ledger: Ledger, clock: Clock) -> None:
    held(ledger.reserve("c1.1", cents(10), [DAY], lease_s=60))
    clock.passes(hours=1)
    ledger.expire()
    clock.passes(hours=-2)

    assert only(ledger.balance(DAY)).settled == 10 * CENT
    assert ledger.expire() == 0


def test_after_compaction_what_is_reserved_still_expires(ledger: Ledger, clock: Clock) -> None:
    for number in range(5):
        held(ledger.reserve(f"c{number}.1", cents(1), [DAY], lease_s=60))
    clock.passes(hours=1)
    ledger.expire()
    for number in range(5):
        ledger.reconcile(f"c{number}", 0)
    clock.passes(days=40)
    ledger.compact(30)

    held(ledger.reserve("d.1", cents(1), [DAY], lease_s=60))
    clock.passes(hours=1)

    assert ledger.expire() == 1


@pytest.fixture
def uncertain(ledger: Ledger) -> Ledger:
    """A ledger with a call that was charged 10 cents for want of a better number."""
    ledger.settle(held(ledger.reserve("c1.1", cents(10), [DAY])), Charge(None, None))
    return ledger


@pytest.mark.parametrize("id", ["c1", "c1.1"])
@pytest.mark.parametrize("actual", [Decimal("0.04"), 0.04, "0.04"])
def test_an_uncertain_charge_is_lowered_once(uncertain: Ledger, id: str, actual: Any) -> None:
    uncertain.reconcile(id, actual)

    assert only(uncertain.balance(DAY)).settled_usd == Decimal("0.04")
    assert uncertain.spend()[0].uncertain_usd == 0
    with pytest.raises(AlreadyResolved):
        uncertain.reconcile(id, 0)
    assert only(uncertain.balance(DAY)).settled_usd == Decimal("0.04")


@pytest.mark.parametrize("actual", ["0.11", -1, "-0.01", "nan", "inf", "", "five", None, True, [1]])
def test_reconciling_takes_amounts_up_to_what_is_charged(uncertain: Ledger, actual: Any) -> None:
    with pytest.raises(ValueError, match=r"no amount of dollars|only lowers a charge"):
        uncertain.reconcile("c1", actual)

    assert only(uncertain.balance(DAY)).settled_usd == Decimal("0.1")


def test_reconciling_a_call_with_two_uncertain_attempts_asks_which(uncertain: Ledger) -> None:
    uncertain.settle(held(uncertain.reserve("c1.2", cents(20), [DAY])), Charge(None, None))

    with pytest.raises(LedgerError, match=r"call 'c1' has 2 uncertain attempts; name one: c1.1, c1.2"):
        uncertain.reconcile("c1", 0)
    uncertain.reconcile("c1.2", 0)
    uncertain.reconcile("c1", "0.01")

    assert only(uncertain.balance(DAY)).settled == CENT


def test_only_what_is_resolved_and_uncertain_can_be_reconciled(ledger: Ledger) -> None:
    reservation = held(ledger.reserve("c1.1", cents(10), [DAY]))
    with pytest.raises(LedgerError, match="is still under way"):
        ledger.reconcile("c1.1", 0)
    ledger.settle(reservation, Charge(CENT, 0))

    for id in ("c1", "c1.1"):
        with pytest.raises(AlreadyResolved):
            ledger.reconcile(id, 0)
    for id in ("c2", "c2.1"):
        with pytest.raises(LedgerError, match="the ledger knows no"):
            ledger.reconcile(id, 0)


def exported(ledger: Ledger) -> list[dict[str, Any]]:
    file = io.StringIO()
    ledger.export(file)
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_a_call_comes_back_as_it_was_recorded(ledger: Ledger) -> None:
    whole = record(ledger, "c1", 10, user="ann", purpose="café")

    assert ledger.records() == [whole]


def test_an_error_text_is_not_kept_for_it_may_quote_the_prompt(ledger: Ledger, tmp_path: Path) -> None:
    reservation = held(ledger.reserve("c1.1", cents(1)))
    attempt = AttemptRecord(
        number=1, model=MODEL, provider="openai", reason="initial", error_type="BadRequest", error="sardine secret"
    )
    ledger.book(None, (reservation, attempt, Charge(0, 0)))
    ledger.close()

    assert b"BadRequest" in ledger.path.read_bytes()
    assert b"sardine" not in ledger.path.read_bytes()


def test_records_are_chosen_by_time_id_and_number(ledger: Ledger, clock: Clock) -> None:
    for number in range(4):
        record(ledger, f"c{number}", 1)
        clock.passes(hours=1)
    hour = timedelta(hours=1)

    def ids(**chosen: Any) -> list[str]:
        return [each.id for each in ledger.records(**chosen)]

    assert ids() == ["c0", "c1", "c2", "c3"]
    assert ids(since=NOON + hour, until=NOON + 3 * hour) == ["c1", "c2"]
    assert ids(limit=2) == ["c2", "c3"]
    assert ids(id="c1") == ["c1"]


@pytest.mark.parametrize("look", ["records", "spend"])
def test_a_moment_needs_a_time_zone(ledger: Ledger, look: str) -> None:
    with pytest.raises(ValueError, match="since= and until= need a time zone"):
        getattr(ledger, look)(since=datetime(2026, 7, 1))  # noqa: DTZ001


def test_booking_what_resolved_already_raises_nothing_and_changes_nothing(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    reservation = held(ledger.reserve("c1.1", cents(10), [DAY]))
    ledger.release(reservation)
    attempt = AttemptRecord(number=1, model=MODEL, provider="openai", reason="initial", outcome="answered")

    assert ledger.book(None, (reservation, attempt, Charge(10 * CENT, 0))) == ()

    assert only(ledger.balance(DAY)).settled == 0
    assert "reservation 'c1.1' is released already" in caplog.text


def test_a_failure_at_no_cost_is_released_and_any_other_settled(ledger: Ledger) -> None:
    for call, outcome, charge in (
        ("c1", "failed", Charge(0, 0, 0)),
        ("c2", "failed", Charge(None, None)),
        ("c3", "answered", Charge(0, 9)),
    ):
        record(ledger, call, 10, outcome=outcome, charge=charge)

    assert [row["state"] for row in exported(ledger)] == ["released", "settled", "settled"]


def test_forgetting_gives_back_what_was_reserved_and_nothing_else(ledger: Ledger) -> None:
    held(ledger.reserve("c1.1", cents(10), [DAY]))
    spend_cents(ledger, "c2.1", 20)

    for attempt in ("c1.1", "c1.1", "c2.1", "c3.1"):
        ledger.forget(attempt)

    assert (only(ledger.balance(DAY)).reserved, only(ledger.balance(DAY)).settled) == (0, 20 * CENT)


def test_balance_knows_a_budget_by_itself_by_name_and_among_all(ledger: Ledger) -> None:
    week = Budget("500 tokens/week", name="week")
    held(ledger.reserve("c1.1", cents(10), [DAY, week]))

    assert ledger.balance("day") == ledger.balance(DAY)
    assert ledger.balance() == [*ledger.balance("day"), *ledger.balance(week)]
    assert str(only(ledger.balance("week"))) == "week: 0 tokens settled, 100 tokens reserved of 500 tokens"
    assert only(ledger.balance("week")).limit_usd is None
    assert only(ledger.balance(week)).resets_at == datetime(2026, 7, 6, tzinfo=UTC)
    assert ledger.balance("dya") == []


def test_balance_of_a_window_that_nothing_happened_in_is_the_whole_limit(ledger: Ledger, clock: Clock) -> None:
    untouched = ledger.balance(DAY)
    spend_cents(ledger, "c1.1", 60)
    clock.passes(days=1)

    for shown in (untouched, ledger.balance(DAY), ledger.balance("day"), ledger.balance()):
        assert (only(shown).settled, only(shown).remaining_usd) == (0, 1)


def test_balance_of_a_rolling_window_is_the_sum_of_its_steps(ledger: Ledger, clock: Clock) -> None:
    rolling = Budget("$1/5h", name="rolling")
    for attempt in ("c1.1", "c2.1", "c3.1"):
        spend_cents(ledger, attempt, 20, rolling)
        clock.passes(hours=2)

    balance = only(ledger.balance(rolling))

    assert (balance.settled_usd, balance.resets_at) == (Decimal("0.4"), None)  # the first is six hours ago


@pytest.fixture
def lived(ledger: Ledger, clock: Clock) -> Ledger:
    """Two days of calls: 23:30 and 23:45 in UTC are the next day in Berlin."""
    clock.now = NOON.replace(hour=23, minute=30)
    record(ledger, "c1", 10, user="ann", team="red")
    record(ledger, "c2", 20, user="bob")
    clock.passes(minutes=15)
    record(ledger, "c3", 30, model=FLOUNDER, user="ann")
    clock.passes(hours=1)
    record(ledger, "c4", 5, charge=Charge(None, None))
    hit(ledger, "c5", "0.5", user="ann")
    return ledger


def groups(ledger: Ledger, by: str | list[str], **chosen: Any) -> dict[Any, Decimal]:
    spent = ledger.spend(by, **chosen)
    names = [by] if isinstance(by, str) else by
    return {
        each.of[names[0]] if len(names) == 1 else tuple(each.of[name] for name in names): each.cost_usd
        for each in spent
    }


def test_spend_is_summed_over_everything(lived: Ledger) -> None:
    (total,) = lived.spend()

    assert (total.calls, total.attempts, total.of) == (5, 4, {})
    assert (total.cost_usd, total.uncertain_usd, total.saved_usd) == (Decimal("0.65"), Decimal("0.05"), Decimal("0.5"))
    assert (total.input_tokens, total.output_tokens, total.unknown) == (28, 12, 0)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("model", {MODEL: "0.35", FLOUNDER: "0.3"}),
        ("provider", {"openai": "0.35", "anthropic": "0.3"}),
        ("verb", {"chat": "0.65"}),
        ("user", {"ann": "0.4", "bob": "0.2", None: "0.05"}),
        ("tag:user", {"ann": "0.4", "bob": "0.2", None: "0.05"}),
        ("team", {None: "0.55", "red": "0.1"}),
        ("call", {"c3": "0.3", "c2": "0.2", "c1": "0.1", "c4": "0.05", "c5": "0"}),
        ("day", {"2026-07-01": "0.6", "2026-07-02": "0.05"}),
        ("hour", {"2026-07-01 23:00": "0.6", "2026-07-02 00:00": "0.05"}),
        ("week", {"2026-W27": "0.65"}),
        ("month", {"2026-07": "0.65"}),
        (["user", "model"], {("ann", FLOUNDER): "0.3", ("bob", MODEL): "0.2", ("ann", MODEL): "0.1",
            (None, MODEL): "0.05"}),
    ],
)  # fmt: skip
def test_spend_is_grouped_dearest_first(lived: Ledger, by: Any, expected: dict[Any, str]) -> None:
    assert list(groups(lived, by).items()) == [(group, Decimal(cost)) for group, cost in expected.items()]


def test_spend_by_day_follows_the_clocks_of_a_zone(lived: Ledger) -> None:
    assert groups(lived, "day", zone="Europe/Berlin") == {"2026-07-02": Decimal("0.65")}
    assert groups(lived, "day", zone="America/New_York") == {"2026-07-01": Decimal("0.65")}


def test_spend_in_a_zone_that_is_none_is_refused(lived: Ledger) -> None:
    with pytest.raises(ValueError, match="there is no time zone 'Mars'"):
        lived.spend("day", zone="Mars")


def test_spend_since_and_until(lived: Ledger) -> None:
    midnight = datetime(2026, 7, 2, tzinfo=UTC)

    assert groups(lived, "day", since=midnight) == {"2026-07-02": Decimal("0.05")}
    assert groups(lived, "day", until=midnight) == {"2026-07-01": Decimal("0.6")}
    assert lived.spend(since=midnight + timedelta(days=1)) == []


@pytest.mark.parametrize("name", ['a"b', "größe", "a.b", "$", "tag:x", "it's", "", "model", "[0]"])
def test_spend_is_grouped_by_a_tag_of_any_name(ledger: Ledger, name: str) -> None:
    for number, amount in enumerate((10, 1)):
        asked = Asked(f"c{number}.1", tags={name: "x"})
        ledger.settle(held(ledger.reserve(asked, cents(amount))), Charge(amount * CENT, 0))

    assert groups(ledger, f"tag:{name}") == {"x": Decimal("0.11")}


def test_what_is_under_way_is_not_spent(ledger: Ledger) -> None:
    held(ledger.reserve("c1.1", cents(10), [DAY]))

    assert ledger.spend() == []


def test_an_attempt_without_a_price_is_counted_as_unknown(ledger: Ledger) -> None:
    ledger.settle(held(ledger.reserve("c1.1", Need(None, None))), Charge(None, None))

    (total,) = ledger.spend()

    assert (total.unknown, total.cost_usd, total.attempts) == (1, 0, 1)


def test_export_writes_a_line_an_attempt_as_json(lived: Ledger) -> None:
    rows = exported(lived)

    assert [(row["attempt"], row["tags"]) for row in rows[:2]] == [
        ("c1.1", {"user": "ann", "team": "red"}), ("c2.1", {"user": "bob"}),
    ]  # fmt: skip
    assert [Decimal(row["cost_usd"]) for row in rows] == [Decimal(cost) for cost in ("0.1", "0.2", "0.3", "0.05")]
    assert rows[0]["made_at"] == "2026-07-01T23:30:00+00:00"
    assert (rows[0]["uncertain"], rows[3]["uncertain"], rows[0]["status"]) == (False, True, 200)


def test_export_as_csv_says_the_same(lived: Ledger) -> None:
    file = io.StringIO()

    assert lived.export(file, "csv") == 4

    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [row["attempt"] for row in rows] == [row["attempt"] for row in exported(lived)]
    assert [Decimal(row["cost_usd"]) for row in rows] == [Decimal(row["cost_usd"]) for row in exported(lived)]
    assert json.loads(rows[0]["tags"]) == {"user": "ann", "team": "red"}


def test_export_since(lived: Ledger) -> None:
    file = io.StringIO()

    assert lived.export(file, since=datetime(2026, 7, 1, 23, 45, tzinfo=UTC)) == 2


def test_export_knows_two_formats(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="format is 'json' or 'csv', not 'xml'"):
        ledger.export(io.StringIO(), "xml")  # type: ignore[arg-type]


def everything(ledger: Ledger) -> dict[str, Any]:
    """What compaction must not change."""
    reports = {by: ledger.spend(by) for by in ("model", "provider", "verb", "user", "team", "day", "month")}
    return {"total": ledger.spend(), "balance": ledger.balance(), "check": ledger.check(), **reports}


def test_compaction_keeps_every_total_however_often_it_runs(lived: Ledger, clock: Clock) -> None:
    rolling = Budget("$3/40d", name="rolling")
    total = Budget("$9", name="total", per=("user",))
    record(lived, "d1", 10, budgets=(DAY, rolling, total), user="ann")
    record(lived, "d2", 10, budgets=(DAY, rolling, total), charge=Charge(None, None))
    open_one = held(lived.reserve("d3.1", cents(7), [DAY, rolling, total], lease_s=9e6))
    clock.passes(days=35)
    record(lived, "d4", 10, budgets=(DAY, rolling, total), user="ann")
    before = everything(lived)

    removed = [lived.compact(30), lived.compact(30)]

    assert removed == [4, 0]  # c1, c2, c3 and d1: c4 and d2 are uncertain, d3 is under way
    assert everything(lived) == before
    assert before["check"] == []
    assert [each.id for each in lived.records()] == ["c4", "d2", "d4"]
    clock.passes(days=31)
    record(lived, "d5", 10)
    before = everything(lived)
    lived.compact(30)
    assert everything(lived) == before
    lived.settle(open_one, Charge(CENT, 0))
    lived.reconcile("d2", 0)
    assert lived.check() == []
    assert only(lived.balance("rolling")).settled_usd == Decimal("0.1")
    assert sum(balance.settled for balance in lived.balance("total")) == 21 * CENT


def test_a_call_is_folded_as_a_whole_or_not_at_all(ledger: Ledger, clock: Clock) -> None:
    spend_cents(ledger, "c1.1", 10)
    ledger.settle(held(ledger.reserve("c1.2", cents(1), [DAY])), Charge(None, None))
    spend_cents(ledger, "c2.2", 10)  # its first attempt was refused
    spend_cents(ledger, "c3.1", 10)
    clock.passes(days=40)

    before = ledger.spend()
    removed = ledger.compact(30)

    assert (removed, ledger.spend()) == (1, before)
    assert [row["attempt"] for row in exported(ledger)] == ["c1.1", "c1.2", "c3.1"]


def test_what_was_folded_cannot_be_resolved_again_nor_can_its_number_be_used(ledger: Ledger, clock: Clock) -> None:
    gone = held(ledger.reserve("c1.1", cents(10), [DAY]))
    ledger.settle(gone, Charge(CENT, 0))
    latest = held(ledger.reserve("c2.1", cents(10), [DAY]))
    ledger.settle(latest, Charge(CENT, 0))
    clock.passes(days=40)
    ledger.compact(30)
    fresh = held(ledger.reserve("c3.1", cents(10), [DAY]))

    for reservation in (gone, latest):
        with pytest.raises(AlreadyResolved):
            ledger.settle(reservation, Charge(0, 0))
    ledger.settle(fresh, Charge(2 * CENT, 0))

    assert only(ledger.balance(DAY)).settled == 2 * CENT
    assert ledger.check() == []


def test_opening_a_ledger_with_retention_compacts_it(
    lived: Ledger, open_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    clock.passes(days=31)

    again = open_ledger(retention_days=30)

    assert [row["attempt"] for row in exported(again)] == ["c4.1"]


@pytest.mark.parametrize("days", [-1, float("nan"), float("inf"), "30", None])
def test_days_to_keep_are_a_number(ledger: Ledger, days: Any) -> None:
    with pytest.raises(ValueError, match="older_than_days is a number of days"):
        ledger.compact(days)


@pytest.fixture
def eventful(ledger: Ledger, clock: Clock) -> Path:
    """A closed ledger in which everything has happened that can."""
    budgets = (
        DAY,
        Budget("$9", name="user", per=("user",)),
        Budget("900 tokens/hour", name="hour"),
        Budget("90 requests/5h", name="rolling"),
        Budget("$1/call", name="call"),
        Budget("$9/month", name="month", zone="Europe/Berlin"),
    )

    def reserve(attempt: str, amount: float) -> Reservation:
        return held(ledger.reserve(Asked(attempt, tags={"user": attempt[0]}), cents(amount), budgets, lease_s=600))

    for number in range(3):
        ledger.settle(reserve(f"old{number}.1", 1), Charge(CENT // 2, 3))
    clock.passes(days=40)
    ledger.compact(30)
    ledger.settle(reserve("a.1", 5), Charge(3 * CENT, 4))
    ledger.settle(reserve("b.1", 5), Charge(7 * CENT, 400))
    ledger.release(reserve("c.1", 5))
    ledger.settle(reserve("d.1", 5), Charge(None, None))
    ledger.settle(reserve("e.1", 5), Charge(None, None))
    ledger.reconcile("e", "0.01")
    late = [reserve(f"{name}.1", 5) for name in "fgh"]
    clock.passes(hours=1)
    ledger.expire()
    clock.passes(hours=1)
    ledger.settle(late[0], Charge(2 * CENT, 1))
    ledger.reconcile("g", "0.01")
    ledger.set_limit(DAY, "$2")
    ledger.set_limit(DAY, "$3")
    reserve("i.1", 5)
    assert ledger.check() == []
    ledger.close()
    return ledger.path


def differences(path: Path, change: str, clock: Clock, *values: Any) -> list[str]:
    """What check() says of a copy of *path* after an SQL statement that no ledger would run."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as db:
        unguard(db)
        assert db.execute(change, values).rowcount == 1, change
    with Ledger(copy, clock=clock) as ledger:
        found = ledger.check()
    for each in path.parent.glob("copy.db*"):
        each.unlink()
    return found


def test_a_budget_that_is_given_twice_is_refused_and_nothing_is_reserved(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"'c1\.1' would count twice by one budget; nothing was reserved"):
        ledger.reserve("c1.1", cents(1), [DAY, DAY])

    held(ledger.reserve("c1.1", cents(1), [DAY]))
    assert only(ledger.balance(DAY)).reserved == CENT
    assert ledger.check() == []


def unguard(db: sqlite3.Connection) -> None:
    """Take away what the database itself would refuse."""
    db.execute("PRAGMA ignore_check_constraints=ON")
    for trigger in ("entry_is_append_only", "reserved_stays", "charged_stays"):
        db.execute(f"DROP TRIGGER {trigger}")


def row(attempt: str) -> str:
    return f"id = (SELECT id FROM reserved WHERE attempt = '{attempt}')"


LATEST = "SELECT max(id) FROM balance WHERE budget = 1"
TAMPERINGS = {
    "a counter's spend is lowered": f"UPDATE balance SET settled = settled - 1 WHERE id = ({LATEST})",
    "a counter holds more": "UPDATE balance SET reserved = reserved + 1 WHERE id = 3",
    "a counter is gone": f"DELETE FROM balance WHERE id = ({LATEST})",
    "a counter is another budget's": f"UPDATE balance SET budget = 4 WHERE id = ({LATEST})",
    "a counter begins a moment later": f"UPDATE balance SET starts_us = starts_us + 1 WHERE id = ({LATEST})",
    "a counter is yesterday's": (
        f"UPDATE balance SET starts_us = starts_us - 86400000000, ends_us = ends_us - 86400000000 WHERE id = ({LATEST})"
    ),
    "a counter never ends": f"UPDATE balance SET ends_us = NULL WHERE id = ({LATEST})",
    "a budget's window is another": "UPDATE budget SET window = 'week' WHERE name = 'day'",
    "a budget's window is none": "UPDATE budget SET window = 'fortnight' WHERE name = 'day'",
    "a budget's zone is another": "UPDATE budget SET zone = 'Asia/Tokyo' WHERE name = 'day'",
    "a budget's unit is another": "UPDATE budget SET unit = 'tokens' WHERE name = 'day'",
    "a budget is gone": "DELETE FROM budget WHERE name = 'day'",
    "a reservation is gone": "DELETE FROM reserved WHERE attempt = 'a.1'",
    "a reservation cost less": f"UPDATE resolved SET cost_nanousd = 1 WHERE {row('a.1')}",
    "a reservation's cost is unknown": f"UPDATE resolved SET cost_nanousd = NULL WHERE {row('d.1')}",
    "a reservation held less": "UPDATE reserved SET reserved_nanousd = 1 WHERE attempt = 'i.1'",
    "a reservation held fewer tokens": "UPDATE reserved SET reserved_tokens = 1 WHERE attempt = 'i.1'",
    "what is under way is settled": (
        "INSERT INTO resolved (id, state, resolved_us, charged, cost_nanousd, uncertain, overrun)"
        " SELECT id, 'settled', made_us, '{}', 0, 0, 0 FROM reserved WHERE attempt = 'i.1'"
    ),
    "what is settled is under way": f"DELETE FROM resolved WHERE {row('a.1')}",
    "what is settled is released": f"UPDATE resolved SET state = 'released' WHERE {row('a.1')}",
    "what is settled has expired": f"UPDATE resolved SET state = 'expired' WHERE {row('a.1')}",
    "what has expired is settled": f"UPDATE resolved SET state = 'settled' WHERE {row('h.1')}",
    "what was settled late has expired": f"UPDATE resolved SET state = 'expired' WHERE {row('f.1')}",
    "what has expired is certain": f"UPDATE resolved SET uncertain = 0 WHERE {row('h.1')}",
    "what was reconciled is uncertain": f"UPDATE resolved SET uncertain = 1 WHERE {row('e.1')}",
    "an overrun is no overrun": f"UPDATE resolved SET overrun = 0 WHERE {row('b.1')}",
    "a reservation took less": "UPDATE reserved SET held = replace(held, ':', ':-') WHERE attempt = 'i.1'",
    "what is settled took less": "UPDATE reserved SET held = replace(held, ':5', ':4') WHERE attempt = 'a.1'",
    "a reservation took nothing": "UPDATE reserved SET held = '{}' WHERE attempt = 'i.1'",
    "what is settled took nothing": "UPDATE reserved SET held = '{}' WHERE attempt = 'a.1'",
    "a reservation took from no counter": (
        "UPDATE reserved SET held = replace(held, '{\"', '{\"9') WHERE attempt = 'i.1'"
    ),
    "a reservation was made a day earlier": (
        "UPDATE reserved SET made_us = made_us - 86400000000 WHERE attempt = 'a.1'"
    ),
    "a reservation was resolved before it was made": (
        f"UPDATE resolved SET resolved_us = resolved_us - 2000000 WHERE {row('a.1')}"
    ),
    "what was settled late was not": (f"UPDATE resolved SET late_us = NULL WHERE {row('f.1')}"),
    "a reservation was charged less": (
        f"UPDATE resolved SET charged = replace(charged, ':3', ':2') WHERE {row('a.1')}"
    ),
    "a reservation was charged in another counter": (
        f"UPDATE resolved SET charged = replace(charged, '{{\"', '{{\"9') WHERE {row('c.1')}"
    ),
    "a change of a limit is gone": "DELETE FROM change WHERE id = 1",
    "the archive counts fewer attempts": "UPDATE archive SET attempts = attempts - 1",
    "the clock was set back": "UPDATE clock SET at_us = 0",
}


@pytest.mark.parametrize("change", TAMPERINGS.values(), ids=TAMPERINGS)
def test_check_notices_that(eventful: Path, clock: Clock, change: str) -> None:
    assert differences(eventful, change, clock) != []


def rows_of(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_check_notices_each_entry_that_is_gone(eventful: Path, clock: Clock) -> None:
    entries = rows_of(eventful, "SELECT reservation, kind, balance FROM entry")
    assert {kind for _, kind, _ in entries} == {"late", "reconcile", "carried"}
    delete = "DELETE FROM entry WHERE (reservation, kind, balance) = (?, ?, ?)"

    assert [entry for entry in entries if not differences(eventful, delete, clock, *entry)] == []


def test_check_notices_each_row_of_a_reservation_that_is_gone(eventful: Path, clock: Clock) -> None:
    rows = [
        (table, row) for table in ("reserved", "resolved") for (row,) in rows_of(eventful, f"SELECT id FROM {table}")
    ]
    assert len(rows) > 10

    assert [
        each for each in rows if not differences(eventful, f"DELETE FROM {each[0]} WHERE id = ?", clock, each[1])
    ] == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE reserved SET made_us = made_us - 1",
        "UPDATE reserved SET held = '{}'",
        "UPDATE resolved SET charged = '{}'",
        "UPDATE resolved SET resolved_us = resolved_us + 1",
        "UPDATE entry SET settled = 0",
    ],
)
def test_what_was_written_of_money_is_never_changed(eventful: Path, change: str) -> None:
    with closing(sqlite3.connect(eventful)) as db, pytest.raises(sqlite3.IntegrityError, match=r"stays|append-only"):
        db.execute(change)


CELLS = {
    "entry": ("reservation", "balance", "at_us", "reserved", "settled"),
    "balance": ("id", "budget", "starts_us", "ends_us", "reserved", "settled"),
    "resolved": ("id", "cost_nanousd", "state"),
}
# Kept once, so that no change of it can be told: when something was reconciled or folded; that what cost nothing was
# released, or settled.
KEPT_ONCE = "kind IN ('reconcile', 'carried')"


def test_check_notices_two_hundred_random_changes_of_a_cell(eventful: Path, clock: Clock) -> None:
    chance = random.Random(3)
    with closing(sqlite3.connect(eventful, isolation_level=None)) as db:
        unguard(db)
        noticed: list[bool] = []
        with Ledger(eventful, clock=clock) as ledger:
            while len(noticed) < 200:
                db.execute("BEGIN")
                what = change_a_cell(db, chance)
                if what is not None:
                    noticed.append(bool(check.differences(db)))
                    assert noticed[-1], what
                db.execute("ROLLBACK")
            assert ledger.check() == []


def change_a_cell(db: sqlite3.Connection, chance: random.Random) -> tuple[Any, ...] | None:
    """Which cell had which value and has which now; None if the database itself would not have it."""
    table = chance.choice(list(CELLS))
    column = chance.choice(CELLS[table])
    chosen = f"({KEPT_ONCE}) IS NOT 1" if column == "at_us" else "state != 'released'" if table == "resolved" else "1"
    key = "reservation, kind, balance" if table == "entry" else "id"
    *keys, old = chance.choice(db.execute(f"SELECT {key}, {column} FROM {table} WHERE {chosen}").fetchall())
    if column == "state":
        new: Any = chance.choice([state for state in ("settled", "released", "expired") if state != old])
    else:
        new = (old or 0) + chance.choice([-1, 1]) * chance.choice([1, 2, 7, 1000, 10**6, 86_400_000_000])
    where = " AND ".join(f"{name} = ?" for name in key.split(", "))
    try:
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (new, *keys))
    except sqlite3.IntegrityError:
        return None
    return table, column, keys, old, new
