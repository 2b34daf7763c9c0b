"""The ledger against a model of it: whatever is done, in whatever order, both say the same. Seeded bugs are found."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llmbridge.errors import AlreadyResolved, LedgerError
from llmbridge.ledger import (
    Asked,
    Budget,
    Charge,
    Ledger,
    Need,
    Refusal,
    Reservation,
    booking,
    check,
    ledger as ledger_module,
    need as need_module,
    retention,
)
from llmbridge.ledger.booking import Counter
from llmbridge.ledger.window import Window


LONG = bool(os.environ.get("LLMBRIDGE_LONG"))
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
STEP = 5 * 60 * SECOND  # a sixtieth of five hours
# Small enough that a few calls fill them. Every unit, every kind of window, every wish.
BUDGETS = (
    Budget("$0.00000002/day", name="day"),
    Budget("$0.00000003", name="user", per=("user",)),
    Budget("40 tokens/hour", name="hour", on_exceed="clamp"),
    Budget("5 requests/5h", name="rolling", on_exceed="downgrade"),
    Budget("$0.000000012/call", name="call"),
    Budget("25 tokens/week", name="trial", on_exceed="warn"),
)
STRICTNESS = ("refuse", "downgrade", "clamp")
# The 4th of January 1970 was a Sunday.
STARTS: dict[str, Callable[[int], int]] = {
    "day": lambda at: at - at % DAY,
    "user": lambda at: 0,
    "hour": lambda at: at - at % HOUR,
    "rolling": lambda at: at - at % STEP,
    "call": lambda at: 0,
    "trial": lambda at: at - (at - 4 * DAY) % (7 * DAY),
}
NOTHING = {"nanousd": 0, "tokens": 0, "requests": 0}
WHICH = st.integers(0, 40)
USERS = st.sampled_from([None, "a", "é,b"])
LEASES = st.sampled_from([20, 600, 7200])


class Clock:
    """Whole seconds, each set to once: to within a second of a time before, two handles may not agree on the time."""

    def __init__(self) -> None:
        self.now = 1_790_000_000
        self._used = {self.now}

    def __call__(self) -> float:
        return float(self.now)

    @property
    def us(self) -> int:
        return self.now * SECOND

    def set(self, now: int) -> None:
        while now in self._used:
            now += 1
        self._used.add(now)
        self.now = now


@dataclass(frozen=True)
class Place:
    """Which counter: of a budget, for a scope, a call and a window."""

    budget: str
    scope: str
    call: str
    starts_us: int


@dataclass
class Held:
    """A reservation, as the model knows it."""

    attempt: str
    call: str
    need: Need
    made_us: int
    lease_us: int
    takes: dict[Place, str]
    reservation: Reservation
    state: str = "reserved"
    charged: dict[Place, int] = field(default_factory=dict)
    cost: int | None = None
    uncertain: bool = False
    overrun: bool = False
    resolved_us: int = 0
    gone: bool = False

    @property
    def open(self) -> bool:
        return self.state == "reserved"

    @property
    def resolvable(self) -> bool:
        return self.open or (self.state == "expired" and self.uncertain)

    def charge(self, charge: Charge, state: str, at_us: int) -> None:
        for place, unit in self.takes.items():
            amount = getattr(charge, unit)
            self.charged[place] = getattr(self.need, unit) if amount is None else amount
        self.cost = self.need.nanousd if charge.nanousd is None else charge.nanousd
        self.uncertain = charge.uncertain or charge.nanousd is None
        self.overrun = any(
            (getattr(charge, unit) or 0) > getattr(self.need, unit) for unit in ("nanousd", "tokens")
        )  # fmt: skip
        self.state, self.resolved_us = state, at_us


class Model:
    """What a ledger is, without a file: every reservation ever made, and sums over them."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.limits: list[tuple[str, int | None, int | None]] = []
        self.highest = {budget.name: budget.amount for budget in BUDGETS}
        self.time_us = 0  # of the last transaction that was committed

    def limit(self, budget: Budget, at_us: int) -> int:
        for name, amount, until_us in reversed(self.limits):
            if name == budget.name and (until_us is None or until_us > at_us):
                return budget.amount if amount is None else amount
        return budget.amount

    def sums(self, place: Place) -> tuple[int, int]:
        """Reserved and settled in one counter."""
        takers = [held for held in self.held if place in held.takes]
        reserved = sum(getattr(held.need, held.takes[place]) for held in takers if held.open)
        return reserved, sum(held.charged[place] for held in takers if not held.open)

    def places(self) -> set[Place]:
        return {place for held in self.held for place in held.takes}

    def counting(self, place: Place, at_us: int) -> set[Place]:
        """The counters that count at *at_us* besides *place*, and it."""
        if place.budget != "rolling":
            return {place}
        alike = {each for each in self.places() if (each.budget, each.scope) == (place.budget, place.scope)}
        return {each for each in alike if each.starts_us + 5 * HOUR + STEP > at_us} | {place}

    def standing(self, place: Place, at_us: int) -> tuple[int, int]:
        sums = [self.sums(each) for each in self.counting(place, at_us)]
        return sum(reserved for reserved, _ in sums), sum(settled for _, settled in sums)

    def overrun(self, places: set[Place]) -> int:
        """What was settled above its reservation."""
        return sum(
            max(0, held.charged.get(place, 0) - getattr(held.need, held.takes[place]))
            for place in places
            for held in self.held
            if place in held.takes
        )

    def expire(self, at_us: int) -> int:
        due = [held for held in self.held if held.open and held.lease_us <= at_us]
        for held in due:
            held.charge(Charge(None, None, held.need.requests), "expired", at_us)
        if due:
            self.time_us = at_us
        return len(due)


class Handle:
    """A Ledger, and the latest time that it has seen."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.ledger = Ledger(path, clock=clock)
        self.ledger._upkeep._expire = lambda: 0  # it would read the clock when it likes
        self.latest_us = 0


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="llmbridge-"))
        self.clock = Clock()
        self.model = Model()
        self.dropped: list[Handle] = []
        self.folded: set[Place] = set()  # by compaction
        self.calls, self.attempts = 1, 0
        self.handles = [self.open(), self.open()]

    def open(self) -> Handle:
        return Handle(self.directory / "ledger.db", self.clock)

    def teardown(self) -> None:
        for handle in (*self.handles, *self.dropped):
            handle.ledger.close()
        shutil.rmtree(self.directory)

    def now_us(self, second: bool) -> int:
        """The ledger's time for a transaction of that handle."""
        handle = self.handles[second]
        handle.latest_us = max(self.clock.us, self.model.time_us, handle.latest_us)
        return handle.latest_us

    def commit(self, second: bool) -> int:
        self.model.time_us = self.now_us(second)
        return self.model.time_us

    def place(self, budget: Budget, user: str | None, at_us: int) -> Place:
        call = f"c{self.calls}" if budget.window.kind == "call" else ""
        scope = json.dumps([user], ensure_ascii=False) if budget.per else "[]"
        return Place(budget.name, scope, call, STARTS[budget.name](at_us))

    def one(self, which: int, *, of: Callable[[Held], bool]) -> Held | None:
        """One of those, counted from the one that was resolved last."""
        found = sorted((held for held in self.model.held if of(held)), key=lambda held: -held.resolved_us)
        return found[which % len(found)] if found else None

    @rule(
        second=st.booleans(),
        budgets=st.lists(st.sampled_from(BUDGETS), max_size=4, unique_by=lambda budget: budget.name),
        nanousd=st.integers(0, 13),
        tokens=st.integers(0, 20),
        user=USERS,
        new_call=st.booleans(),
        lease_s=LEASES,
    )
    def reserve(
        self,
        second: bool,
        budgets: list[Budget],
        nanousd: int,
        tokens: int,
        user: str | None,
        new_call: bool,
        lease_s: int,
    ) -> None:
        self.calls += new_call
        self.attempt(second, budgets, Need(nanousd, tokens), user, lease_s)

    @rule(
        second=st.booleans(),
        budgets=st.lists(st.sampled_from(BUDGETS), max_size=3, unique_by=lambda budget: budget.name),
        amounts=st.lists(st.integers(0, 3), min_size=2, max_size=5),
        user=USERS,
        lease_s=LEASES,
    )
    def reserve_several(
        self, second: bool, budgets: list[Budget], amounts: list[int], user: str | None, lease_s: int
    ) -> None:
        for number, amount in enumerate(amounts):
            self.calls += 1
            self.attempt(second, budgets, Need(amount, 2 * amount), user, lease_s + number)

    @rule(
        second=st.booleans(),
        budget=st.sampled_from(BUDGETS),
        user=USERS,
        lease_s=LEASES,
        keep=st.booleans(),
    )
    def reserve_what_is_left(self, second: bool, budget: Budget, user: str | None, lease_s: int, keep: bool) -> None:
        """To the last nanodollar, and not one more."""
        at_us = self.now_us(second)
        left = self.left(budget, self.place(budget, user, at_us), at_us)
        for amount in (max(left + 1, 0), max(left, 0)):
            held = self.attempt(second, [budget], Need(**{**NOTHING, budget.unit: amount}), user, lease_s)
            if held is not None and not keep:
                self.handles[second].ledger.release(held.reservation)
                held.charge(Charge(0, 0, 0), "released", self.commit(second))

    @rule(
        second=st.booleans(),
        budget=st.sampled_from(BUDGETS),
        user=USERS,
        by_s=st.sampled_from([5 * 3600 - 1, 5 * 3600, 5 * 3600 + 299, 5 * 3600 + 301, -7200, 3600]),
    )
    def a_full_budget_waits(self, second: bool, budget: Budget, user: str | None, by_s: int) -> None:
        self.reserve_what_is_left(second, budget, user, 7200, keep=True)
        self.clock.set(self.clock.now + by_s)
        self.reserve_what_is_left(not second, budget, user, 7200, keep=False)

    def attempt(self, second: bool, budgets: list[Budget], need: Need, user: str | None, lease_s: int) -> Held | None:
        self.attempts += 1
        call = f"c{self.calls}"
        attempt, tags = f"{call}.{self.attempts}", {"user": user} if user is not None else {}

        made = self.handles[second].ledger.reserve(Asked(attempt, tags=tags), need, budgets, lease_s=lease_s)

        at_us = self.commit(second)
        places = {budget.name: self.place(budget, user, at_us) for budget in budgets}
        over = [
            budget
            for budget in budgets
            if budget.on_exceed != "warn" and need.of(budget.unit) > self.left(budget, places[budget.name], at_us)
        ]
        if over:
            assert isinstance(made, Refusal), "it does not fit, and was let through"
            self.judge(made, need, over, places, at_us)
            return None
        assert isinstance(made, Reservation), "it fits, and was refused"
        takes: dict[Place, str] = {places[budget.name]: budget.unit for budget in budgets}
        self.model.held.append(Held(attempt, call, need, at_us, at_us + lease_s * SECOND, takes, made))
        return self.model.held[-1]

    def left(self, budget: Budget, place: Place, at_us: int) -> int:
        return self.model.limit(budget, at_us) - sum(self.model.standing(place, at_us))

    def judge(self, refusal: Refusal, need: Need, over: list[Budget], places: dict[str, Place], at_us: int) -> None:
        """A refusal is the strictest and tightest one, its numbers are the model's, and its moment is the first."""
        strictest = min((budget.on_exceed for budget in over), key=STRICTNESS.index)
        room = {
            budget: self.left(budget, places[budget.name], at_us) / max(need.of(budget.unit), 1)
            for budget in over
            if budget.on_exceed == strictest
        }
        counter, budget = refusal.counter, refusal.counter.budget
        assert room[budget] == min(room.values())
        assert refusal.on_exceed == strictest
        limit = self.model.limit(budget, at_us)
        standing = self.model.standing(places[budget.name], at_us)
        assert (counter.limit, (counter.reserved, counter.settled)) == (limit, standing)
        needed = need.of(budget.unit)
        if refusal.resets_at is None:
            assert needed > limit or budget.window.kind in ("total", "call")
            return
        resets_us = int(refusal.resets_at.timestamp()) * SECOND
        fits = [
            limit - sum(self.alone(budget, places[budget.name], each)) >= needed for each in (resets_us, resets_us - 1)
        ]
        assert fits == [True, False]

    def alone(self, budget: Budget, place: Place, at_us: int) -> tuple[int, int]:
        """How a counter will stand at *at_us* if nothing happens until then."""
        later = Place(place.budget, place.scope, place.call, STARTS[budget.name](at_us))
        return self.model.standing(later, at_us)

    @precondition(lambda self: any(held.resolvable for held in self.model.held))
    @rule(
        second=st.booleans(),
        which=WHICH,
        nanousd=st.one_of(st.none(), st.integers(0, 20)),
        tokens=st.one_of(st.none(), st.integers(0, 30)),
        equal=st.booleans(),
        uncertain=st.booleans(),
        by_name=st.booleans(),
    )
    def settle(
        self,
        second: bool,
        which: int,
        nanousd: int | None,
        tokens: int | None,
        equal: bool,
        uncertain: bool,
        by_name: bool,
    ) -> None:
        held = self.one(which, of=lambda held: held.resolvable)
        assert held is not None
        charge = Charge(nanousd, tokens, uncertain=uncertain)
        if equal:
            charge = Charge(held.need.nanousd, held.need.tokens, uncertain=uncertain)

        self.handles[second].ledger.settle(held.attempt if by_name else held.reservation, charge)

        held.charge(charge, "settled", self.commit(second))

    @precondition(lambda self: any(held.resolvable for held in self.model.held))
    @rule(second=st.booleans(), which=WHICH)
    def release(self, second: bool, which: int) -> None:
        held = self.one(which, of=lambda held: held.resolvable)
        assert held is not None

        self.handles[second].ledger.release(held.reservation)

        held.charge(Charge(0, 0, 0), "released", self.commit(second))

    @precondition(lambda self: any(held.state == "expired" and held.uncertain for held in self.model.held))
    @rule(second=st.booleans(), which=WHICH, nanousd=st.integers(0, 20), tokens=st.integers(0, 30))
    def settle_late(self, second: bool, which: int, nanousd: int, tokens: int) -> None:
        held = self.one(which, of=lambda held: held.state == "expired" and held.uncertain)
        assert held is not None
        charge = Charge(nanousd, tokens)

        self.handles[second].ledger.settle(held.reservation, charge)

        held.charge(charge, "settled", self.commit(second))

    @precondition(lambda self: any(not held.resolvable for held in self.model.held))
    @rule(second=st.booleans(), which=WHICH, nanousd=st.integers(0, 20), release=st.booleans())
    def resolve_again(self, second: bool, which: int, nanousd: int, release: bool) -> None:
        held = self.one(which, of=lambda held: not held.resolvable)
        assert held is not None
        self.fail_to_resolve(second, held, nanousd, release)

    def fail_to_resolve(self, second: bool, held: Held, nanousd: int, release: bool) -> None:
        ledger = self.handles[second].ledger

        with pytest.raises(AlreadyResolved):
            if release:
                ledger.release(held.reservation)
            else:
                ledger.settle(held.reservation, Charge(nanousd, 0))

        self.now_us(second)

    @precondition(lambda self: any(held.resolvable for held in self.model.held))
    @rule(which=WHICH, unit=st.sampled_from(["nanousd", "tokens", "requests"]), amount=st.integers(-9, -1))
    def settle_less_than_nothing(self, which: int, unit: str, amount: int) -> None:
        held = self.one(which, of=lambda held: held.resolvable)
        assert held is not None

        with pytest.raises(ValueError, match="no amount"):
            self.handles[0].ledger.settle(held.reservation, Charge(**{**NOTHING, unit: amount}))

    @precondition(lambda self: self.model.held)
    @rule(second=st.booleans(), which=WHICH, nanousd=st.integers(0, 15), uncertain=st.booleans())
    def reconcile(self, second: bool, which: int, nanousd: int, uncertain: bool) -> None:
        held = self.one(which, of=lambda held: held.uncertain or not uncertain)
        if held is not None:
            self.correct(second, held, nanousd)

    def correct(self, second: bool, held: Held, nanousd: int) -> None:
        ledger, actual_usd = self.handles[second].ledger, Decimal(nanousd).scaleb(-9)
        if held.uncertain and held.cost is not None and nanousd <= held.cost:
            ledger.reconcile(held.attempt, actual_usd)

            self.commit(second)
            held.charged |= {place: nanousd for place, unit in held.takes.items() if unit == "nanousd"}
            held.cost, held.uncertain = nanousd, False
            return
        wrong = ValueError if held.uncertain else LedgerError if held.gone or held.open else AlreadyResolved
        with pytest.raises(wrong) as caught:
            ledger.reconcile(held.attempt, actual_usd)

        assert type(caught.value) is wrong
        self.now_us(second)

    @precondition(lambda self: any(held.open and held.takes for held in self.model.held))
    @rule(second=st.booleans(), which=WHICH)
    def expire_and_reconcile(self, second: bool, which: int) -> None:
        """And what was reconciled is settled late by nobody: resolve_again() sees to that."""
        held = self.one(which, of=lambda held: held.open and bool(held.takes))
        assert held is not None
        self.clock.set(held.lease_us // SECOND)
        self.expire(second)
        self.correct(second, held, (held.cost or 0) // 2)
        self.fail_to_resolve(second, held, 0, release=False)

    @rule(second=st.booleans())
    def expire(self, second: bool) -> None:
        count = self.handles[second].ledger.expire()

        assert count == self.model.expire(max(self.clock.us, self.model.time_us))

    @precondition(lambda self: any(held.open for held in self.model.held))
    @rule(second=st.booleans(), which=WHICH, early_s=st.sampled_from([0, 0, 1]))
    def a_lease_ends(self, second: bool, which: int, early_s: int) -> None:
        """Left to chance, a reservation rarely lives long enough to expire."""
        held = self.one(which, of=lambda held: held.open)
        assert held is not None
        self.clock.set(held.lease_us // SECOND - early_s)

        self.expire(second)

    @rule(
        by_s=st.sampled_from(
            [2, 61, 301, 3600, 5 * 3600, 5 * 3600 + 299, 86_400, 7 * 86_400, 365 * 86_400, -2, -3601, -86_400]
        )
    )
    def the_clock_is_set(self, by_s: int) -> None:
        self.clock.set(self.clock.now + by_s)

    @rule(before_s=st.sampled_from([0, 1]))
    def midnight_comes(self, before_s: int) -> None:
        self.clock.set((self.clock.now // 86_400 + 1) * 86_400 - before_s)

    @rule(
        second=st.booleans(),
        budget=st.sampled_from(BUDGETS),
        amount=st.one_of(st.none(), st.integers(0, 60)),
        for_s=st.sampled_from([None, 60, 7200]),
        user=USERS,
        ends=st.booleans(),
    )
    def set_limit(
        self, second: bool, budget: Budget, amount: int | None, for_s: int | None, user: str | None, ends: bool
    ) -> None:
        limit = None
        if amount is not None:
            limit = f"${Decimal(amount).scaleb(-9):f}" if budget.unit == "nanousd" else f"{amount} {budget.unit}"
        until = None if for_s is None else datetime.fromtimestamp(self.clock.now + for_s, UTC)

        self.handles[second].ledger.set_limit(budget, limit, until=until)

        self.commit(second)
        until_us = None if until is None else int(until.timestamp()) * SECOND
        self.model.limits.append((budget.name, amount, until_us))
        self.model.highest[budget.name] = max(self.model.highest[budget.name], amount or 0)
        if ends and for_s is not None:
            self.clock.set(self.clock.now + for_s)
        self.reserve_what_is_left(not second, budget, user, 600, keep=False)

    @rule(second=st.booleans(), cleanly=st.booleans())
    def the_program_ends_and_starts(self, second: bool, cleanly: bool) -> None:
        handle = self.handles[second]
        if cleanly:
            handle.ledger.close()
        else:
            self.dropped.append(handle)

        self.handles[second] = self.open()

        self.model.expire(max(self.clock.us, self.model.time_us))

    @rule(second=st.booleans(), days=st.sampled_from([0, 1]))
    def compact(self, second: bool, days: int) -> None:
        removed = self.handles[second].ledger.compact(days)

        before_us = self.commit(second) - days * DAY
        kept = {
            held.call
            for held in self.model.held
            if held.open or held.uncertain or held.resolved_us >= before_us or held is self.model.held[-1]
        }
        gone = [held for held in self.model.held if not held.gone and held.call not in kept]
        assert removed == len(gone)
        for held in gone:
            held.gone = True
        self.calls += 1  # a budget for one call counts while its call goes on
        self.fold()

    def fold(self) -> None:
        """A counter may vanish when nothing counts in it any more and nobody can still be charged there."""
        stored = self.stored()
        for place in self.model.places() - set(stored) - self.folded:
            counts = place in self.model.counting(place, self.model.time_us) and place.budget != "call"
            if place.budget != "rolling":
                counts = counts and place.starts_us == STARTS[place.budget](self.model.time_us)
            else:
                counts = place.starts_us + 5 * HOUR + STEP > self.model.time_us
            assert not counts, f"{place} still counts"
            assert all(held.gone for held in self.model.held if place in held.takes)
            self.folded.add(place)

    @rule(second=st.booleans())
    def look(self, second: bool) -> None:
        """Balances and spend, by their public names."""
        ledger = self.handles[second].ledger
        for budget in BUDGETS:
            shown = ledger.balance(budget)
            at_us = max(self.clock.us, self.model.time_us)
            self.model.expire(at_us)
            counted = [each for each in self.current(budget) if budget.window.kind != "call" or each[1]]
            assert sorted(self.shown(each) for each in shown if each.settled or each.reserved) == counted
            assert {each.limit for each in shown} <= {self.model.limit(budget, max(self.clock.us, self.model.time_us))}
            assert shown == self.handles[not second].ledger.balance(budget)
        ended = [held for held in self.model.held if not held.open]
        (total,) = ledger.spend() or [None]
        if total is None:
            assert not ended
            return
        assert total.attempts == len(ended)
        assert total.calls == len({held.call for held in ended})
        assert total.cost_usd == Decimal(sum(held.cost or 0 for held in ended)).scaleb(-9)
        assert total.uncertain_usd == Decimal(sum(held.cost or 0 for held in ended if held.uncertain)).scaleb(-9)

    @staticmethod
    def shown(balance: Any) -> tuple[str, int, int]:
        return json.dumps(list(balance.tags.values()), ensure_ascii=False), balance.reserved, balance.settled

    def current(self, budget: Budget) -> list[tuple[str, int, int]]:
        """What balance() says of *budget*, but for counters that hold nothing."""
        now_us = max(self.clock.us, self.model.time_us)
        mine = {place for place in self.model.places() - self.folded if place.budget == budget.name}
        if budget.window.kind == "rolling":
            latest = self.place(budget, None, now_us)
            found = [(latest.scope, *self.model.standing(latest, now_us))]
        else:
            found = [
                (place.scope, *self.model.sums(place))
                for place in mine
                if place.starts_us == STARTS[budget.name](now_us)
            ]
        return sorted(each for each in found if each[1] or each[2])

    def stored(self) -> dict[Place, tuple[int, int]]:
        query = (
            "SELECT b.name, w.scope, w.call, w.starts_us, w.reserved, w.settled,"
            " coalesce(sum(e.reserved), 0), coalesce(sum(e.settled), 0)"
            " FROM balance w JOIN budget b ON b.id = w.budget LEFT JOIN trail e ON e.balance = w.id GROUP BY w.id"
        )
        rows = self.handles[1].ledger._read(lambda db: db.execute(query).fetchall())
        assert all(row[4:6] == row[6:] for row in rows), "a counter is not the sum of its trail"
        return {Place(*row[:4]): (row[4], row[5]) for row in rows}

    @invariant()
    def counters_are_the_sums(self) -> None:
        stored = self.stored()
        for place in self.model.places() - self.folded:
            assert stored.pop(place) == self.model.sums(place), place
        assert set(stored.values()) <= {(0, 0)}, "a counter that nothing was reserved in holds something"

    @invariant()
    def no_cap_was_passed(self) -> None:
        stored, capped = self.stored(), {budget.name for budget in BUDGETS if budget.on_exceed != "warn"}
        for place in stored:
            if place.budget not in capped:
                continue
            counting = self.model.counting(place, place.starts_us) & set(stored)
            held = sum(sum(stored[each]) for each in counting if each.starts_us <= place.starts_us)
            assert held <= self.model.highest[place.budget] + self.model.overrun(counting)

    @invariant()
    def reservations_are_in_the_state_they_should_be_in(self) -> None:
        query = "SELECT attempt, state, cost_nanousd, uncertain, overrun FROM reservation ORDER BY id"
        rows = self.handles[0].ledger._read(lambda db: db.execute(query).fetchall())
        expected = [
            (held.attempt, held.state, held.cost, held.uncertain, held.overrun)
            for held in self.model.held
            if not held.gone
        ]
        assert rows == expected

    @invariant()
    def the_ledger_finds_no_difference(self) -> None:
        assert self.handles[1].ledger.check() == []


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=2000 if LONG else 60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def nobody_reads_the_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("llmbridge"), "disabled", True)


Bug = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, Bug] = {}


def bug(seed: Bug) -> Bug:
    BUGS[seed.__name__] = seed
    return seed


def _room(monkeypatch: pytest.MonkeyPatch, room: Callable[[Counter], int]) -> None:
    monkeypatch.setattr(Counter, "headroom", property(room))


@bug
def no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "refusal_of", lambda *_: None)


@bug
def one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    _room(monkeypatch, lambda self: self.limit - self.reserved - self.settled + 1)


@bug
def one_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    _room(monkeypatch, lambda self: self.limit - self.reserved - self.settled - 1)


@bug
def what_is_settled_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    _room(monkeypatch, lambda self: self.limit - self.reserved)


@bug
def what_is_reserved_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    _room(monkeypatch, lambda self: self.limit - self.settled)


@bug
def the_first_budget_alone_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ledger_module.refusal_of
    monkeypatch.setattr(ledger_module, "refusal_of", lambda counters, *rest: right(counters[:1], *rest))


@bug
def the_first_budget_alone_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking.insert
    monkeypatch.setattr(
        booking, "insert", lambda db, asked, need, counters, *rest: right(db, asked, need, counters[:1], *rest)
    )


@bug
def a_refusal_keeps_what_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ledger_module.Ledger._reserve

    def reserve(self: Ledger, asked: Any, need: Need, *rest: Any) -> Any:
        made = right(self, asked, need, *rest)
        if isinstance(made, Refusal):
            taken = (need.of(made.counter.budget.unit), made.counter.id)
            with self._file.transaction() as db:
                db.execute("UPDATE balance SET reserved = reserved + ? WHERE id = ?", taken)
        return made

    monkeypatch.setattr(ledger_module.Ledger, "_reserve", reserve)


@bug
def it_settles_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking.resolve

    def resolve(db: Any, row: int, *rest: Any) -> Any:
        db.execute("DELETE FROM entry WHERE reservation = ?", (row,))
        db.execute("DELETE FROM resolved WHERE id = ?", (row,))
        return right(db, row, *rest)

    monkeypatch.setattr(booking, "resolve", resolve)


@bug
def what_was_reconciled_settles_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking, "_LATE", booking._LATE.replace("AND uncertain", ""))


@bug
def a_late_settlement_gives_all_back(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking._correct

    def correct(db: Any, row: int, charged: Any, at_us: int) -> None:
        right(db, row, [(balance, reserved, 0) for balance, reserved, _ in charged], at_us)

    monkeypatch.setattr(booking, "_correct", correct)


@bug
def a_settlement_is_clamped_to_its_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking._charged

    def charged(parts: Any, charge: Charge) -> list[booking.Charged]:
        return [(balance, reserved, min(reserved, settled)) for balance, reserved, settled in right(parts, charge)]

    monkeypatch.setattr(booking, "_charged", charged)


@bug
def expiry_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    right, right_change = booking.expire, booking._change

    def change(db: Any, balance: int, reserved: int, settled: int) -> None:
        right_change(db, balance, reserved, 0)

    def expire(*given: Any) -> int:
        with patch.object(booking, "_change", change):
            return right(*given)

    monkeypatch.setattr(booking, "expire", expire)


@bug
def it_settles_in_todays_window(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking._change
    latest = (
        "SELECT id FROM balance WHERE (budget, scope, call) = (SELECT budget, scope, call FROM balance WHERE id = ?)"
        " ORDER BY starts_us DESC LIMIT 1"
    )

    def change(db: Any, balance: int, reserved: int, settled: int) -> None:
        (today,) = db.execute(latest, (balance,)).fetchone()
        right(db, balance, reserved, 0)
        right(db, today, 0, settled)

    monkeypatch.setattr(booking, "_change", change)


@bug
def expiry_is_early(monkeypatch: pytest.MonkeyPatch) -> None:
    right, right_due = booking.expire, booking.is_due
    monkeypatch.setattr(booking, "expire", lambda db, at_us, *rest: right(db, at_us + SECOND, *rest))
    monkeypatch.setattr(booking, "is_due", lambda db, at_us: right_due(db, at_us + SECOND))


@bug
def expiry_forgets_some(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking._move_on

    def move_on(db: Any) -> None:
        right(db)
        db.execute("UPDATE clock SET open_from = coalesce((SELECT max(id) FROM reservation), 0)")

    monkeypatch.setattr(booking, "_move_on", move_on)


@bug
def time_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking, "now_us", lambda db, clock_us: clock_us)
    monkeypatch.setattr(Ledger, "_now", lambda self, db: int(self._clock() * 1e6))


@bug
def time_goes_back_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking, "now_us", lambda db, clock_us: clock_us)


@bug
def a_negative_charge_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(need_module, "_require_amounts", lambda *_: None)


@bug
def changes_of_a_limit_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking.counter

    def counter(db: Any, budget: Budget, *rest: Any) -> Counter:
        found = right(db, budget, *rest)
        found.limit = budget.amount
        return found

    monkeypatch.setattr(booking, "counter", counter)


@bug
def an_override_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking, "_COUNTER", booking._COUNTER.replace("until_us > ?", "? > 0"))


@bug
def the_first_change_of_a_limit_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking, "_COUNTER", booking._COUNTER.replace("ORDER BY id DESC", "ORDER BY id"))


@bug
def all_users_share_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "scope", lambda self, _: json.dumps([None] * len(self.per)))


@bug
def a_rolling_window_forgets_early(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Window.counted_from_us
    monkeypatch.setattr(Window, "counted_from_us", lambda self, at_us: right(self, at_us) + self.step_us)


@bug
def a_rolling_window_counts_its_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking, "_sum_steps", lambda *_: None)


@bug
def calls_share_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module.Asked, "call", property(lambda _: "c"))


@bug
def a_cap_on_trial_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ledger_module.refusal_of

    def refusal_of(counters: Any, need: Need, at_us: int) -> Refusal | None:
        over = [each for each in counters if need.of(each.budget.unit) > each.headroom]
        return right(counters, need, at_us) or (Refusal(over[0], need, "refuse", None, None, at_us) if over else None)

    monkeypatch.setattr(ledger_module, "refusal_of", refusal_of)


@bug
def reconciling_raises_a_charge(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking.reconcile

    def reconcile(db: Any, attempt: str, cost: int, at_us: int) -> None:
        of = "id = (SELECT id FROM reserved WHERE attempt = ?)"
        db.execute(f"UPDATE resolved SET cost_nanousd = max(cost_nanousd, ?) WHERE {of}", (cost, attempt))
        right(db, attempt, cost, at_us)

    monkeypatch.setattr(booking, "reconcile", reconcile)


@bug
def it_reconciles_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    right = booking.reconcile

    def reconcile(db: Any, attempt: str, *rest: Any) -> None:
        db.execute(
            "UPDATE resolved SET uncertain = 1 WHERE id = (SELECT id FROM reserved WHERE attempt = ?)", (attempt,)
        )
        right(db, attempt, *rest)

    monkeypatch.setattr(booking, "reconcile", reconcile)


@bug
def compaction_loses_what_is_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_OLD", retention._OLD.replace("AND uncertain = 0", ""))


@bug
def compaction_lets_numbers_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_OLD", retention._OLD.partition("AND id <")[0])


@bug
def compaction_loses_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_CARRY", retention._CARRY.replace("sum(settled)", "0"))


# pytest.fail.Exception: what should have raised did not
FOUND = (AssertionError, LedgerError, ValueError, KeyError, pytest.fail.Exception)


@contextmanager
def no_check_of_the_ledgers_own() -> Iterator[None]:
    """The state machine must find a bug by itself; check() is part of what is tested."""
    with patch.object(check, "differences", lambda _: []):
        yield


@pytest.mark.parametrize("seed", BUGS.values(), ids=BUGS)
def test_a_seeded_bug_is_found(seed: Bug, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seed(monkeypatch)
    bounded = settings(
        max_examples=1000,  # only a bug that is not found takes as many
        stateful_step_count=40,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )

    with no_check_of_the_ledgers_own(), pytest.raises(FOUND):
        run_state_machine_as_test(LedgerMachine, settings=bounded)
