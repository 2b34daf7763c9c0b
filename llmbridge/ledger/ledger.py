"""Ledger: a hard cap in a file. Reserve before sending, resolve once afterwards, whatever happens in between."""

from __future__ import annotations

import functools
import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypeVar

from llmbridge.errors import AlreadyResolved, LedgerBusy, LedgerError
from llmbridge.home import ledger_path
from llmbridge.ledger import booking, retention, rows
from llmbridge.ledger.booking import Reservation
from llmbridge.ledger.budget import Budget, known_as, parse_amount
from llmbridge.ledger.ending import ledgers
from llmbridge.ledger.need import Asked, Charge, Need
from llmbridge.ledger.questions import Questions
from llmbridge.ledger.refusal import Refusal, announce, refusal_of, say
from llmbridge.ledger.sqlite import File
from llmbridge.ledger.transaction import Connection
from llmbridge.ledger.upkeep import Upkeep, expire
from llmbridge.money import checked_nanousd
from llmbridge.record import AttemptRecord, BudgetAlert, CallRecord
from llmbridge.waiting import Pauses, patiently, wait


log = logging.getLogger("llmbridge")
T = TypeVar("T")
Durability = Literal["second", "power"]
CLOCK_US = 1_000_000
AHEAD_US = 60 * CLOCK_US


class Ledger(Questions):
    """Budgets, reservations and what every call cost, in one SQLite file that any number of processes share.

    Args:
        path: the file; made, with its directory, for the owner alone if there is none. By default `ledger.db` under
            `LLMBRIDGE_HOME` or the platform's state directory.
        durability: what a power cut may take. "second": commits are synced to disk once a second, and at close; a power
            cut loses at most the last second, kill -9 nothing but records of hits of that second, which cost nothing.
            "power": a reservation is on the disk before anything is sent, so nothing is ever understated; a settlement
            that a power cut takes leaves the reservation. Costs one sync a call: some 0.3 to 4 ms, shared by all who
            wait for one at that moment, and never on the event loop; a commit without sync costs some 20 microseconds.
        patience_s: how long to wait while others write, in seconds; then LedgerBusy.
        fail_open: let calls through, with a warning each, when the ledger cannot be used. By default a call to which
            a budget applies is refused then.
        charge_5xx: charge a 5xx at the worst case, as uncertain. By default it counts as refused, at nothing.
        retention_days: details of calls older than this are folded into totals by day when the ledger is opened.
        clock: seconds since the epoch.

    Raises:
        LedgerCorrupt: the file is damaged or no ledger. It is never replaced.
        LedgerError: it cannot be made, read, or trusted (a symbolic link, a network file system).
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        durability: Durability = "second",
        *,
        patience_s: float = 10.0,
        fail_open: bool = False,
        charge_5xx: bool = False,
        retention_days: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if durability not in ("second", "power"):
            raise ValueError(f"durability is 'second' or 'power', not {durability!r}")
        if not (isinstance(patience_s, (int, float)) and math.isfinite(patience_s) and patience_s >= 0):
            raise ValueError(f"patience_s is a number of seconds, not {patience_s!r}")
        if path is not None and str(path).startswith((":memory:", "file:")):
            raise ValueError("a ledger is a file that processes share, so it cannot be in memory")
        self.path = Path(path) if path is not None else ledger_path()
        self.durability = durability
        self.fail_open = fail_open
        self.charge_5xx = charge_5xx
        self._patience_s = patience_s
        self._clock = clock
        self._rows: dict[Budget, int] = {}
        self._latest_us = 0
        self._stored = (-1, 0)
        self._said_ahead = False
        self._file = wait(patiently(lambda: File(self.path), patience_s))
        self._upkeep = Upkeep(self._file, functools.partial(expire, self._file, clock), at_once=durability == "power")
        weakref.finalize(self, self._upkeep.stop).atexit = False
        ledgers.add(self)
        self.expire()
        if retention_days is not None:
            self.compact(retention_days)

    def reserve(
        self,
        attempt: str | Asked,
        need: Need,
        budgets: Sequence[Budget] = (),
        *,
        lease_s: float = 660.0,
    ) -> Reservation | Refusal:
        """Hold *need* in every one of *budgets* that covers the model, or in none: then a Refusal says why.

        A reservation whose lease ends unresolved is charged as uncertain. Costs one transaction, some 40 microseconds.
        Raises LedgerError.
        """
        return wait(self.reserving(attempt, need, budgets, lease_s=lease_s))

    def reserving(
        self,
        attempt: str | Asked,
        need: Need,
        budgets: Sequence[Budget] = (),
        *,
        lease_s: float = 660.0,
        patience_s: float = math.inf,
    ) -> Pauses[Reservation | Refusal]:
        """Same as reserve(), as pauses; waits no longer than *patience_s*, nor than the ledger's own."""
        asked = attempt if isinstance(attempt, Asked) else Asked(attempt)
        if not (math.isfinite(lease_s) and lease_s > 0):
            raise ValueError(f"lease_s is a number of seconds above 0, not {lease_s!r}")
        applying = [budget for budget in budgets if budget.covers(asked.model)]
        step = functools.partial(self._reserve, asked, need, applying, int(lease_s * 1e6))
        made = _at_once(step) or (yield from patiently(step, min(patience_s, self._patience_s)))
        if isinstance(made, Refusal) and self._upkeep.pending:  # it may fit when what was given back is written
            yield from self._upkeep.written(0.05)
            made = yield from patiently(step, min(patience_s, self._patience_s))
        if self.durability == "power" and isinstance(made, Reservation):
            try:
                yield from self._upkeep.synced(self._file.commits)
            except LedgerError:
                self.forget(asked.attempt)
                raise
        return made

    def settle(self, attempt: Reservation | str, charge: Charge) -> None:
        """Charge what an attempt did cost and give back the rest. Raises AlreadyResolved, LedgerError."""
        self._resolve_patiently(attempt, charge, "settled")

    def release(self, attempt: Reservation | str) -> None:
        """Give back what an attempt reserved: surely nothing was billed. Raises AlreadyResolved, LedgerError."""
        self._resolve_patiently(attempt, Charge(0, 0, 0), "released")

    def book(
        self,
        call: CallRecord | None = None,
        attempt: tuple[Reservation, AttemptRecord, Charge] | None = None,
    ) -> tuple[BudgetAlert, ...]:
        """Resolve an attempt, record a call that is over, or both in one transaction; returns the alerts that follow.

        For the end of a call: it raises nothing, waits for nobody and may run in the garbage collector. What cannot be
        written now is written by a thread; if that fails too, the reservation expires.
        """
        if call is not None and call.cached and attempt is None and not call.attempts:
            self._upkeep.hits.add(call)
            self._upkeep.dirty()
            return ()
        step = functools.partial(self._book, call, attempt)
        try:
            return step()
        except LedgerBusy:
            self._upkeep.later(step)
        except LedgerError as error:
            log.warning("what a call cost could not be written; its reservation stands, and will expire: %s", error)
        except Exception:  # bookkeeping breaks no call
            log.warning("a call could not be recorded; what it reserved will expire", exc_info=True)
        except BaseException:
            self._file.recover()
            self._upkeep.later(step)  # KeyboardInterrupt, which may have struck before or after the commit
            raise
        return ()

    def forget(self, attempt: str) -> None:
        """Release *attempt* if it was reserved at all: its caller was interrupted and cannot know. Never raises."""
        step = functools.partial(self._forget, attempt)
        try:
            self._file.recover()
            step()
        except LedgerError:
            self._upkeep.later(step)

    def announce(self, refusal: Refusal) -> tuple[BudgetAlert, ...]:
        """Announce that a budget has refused a call, if nobody was told in this window. Never raises.

        Not done by reserve(): a closer look, a shorter answer or a cheaper model may still fit.
        """
        try:
            with self._file.transaction() as db:
                alerts = announce(db, [refusal.counter], refusal.need, refused=True)
        except LedgerError:
            return ()
        say(alerts)
        return alerts

    def expire(self) -> int:
        """Charge what is reserved by leases that are over, as uncertain; returns how many there were.

        Done by whoever opens the ledger, by every report, and in the background.
        """
        done = 0
        while count := wait(patiently(functools.partial(expire, self._file, self._clock), self._patience_s)):
            done += count
        return done

    def reconcile(self, id: str, actual_usd: Decimal | float | str) -> None:
        """Lower an uncertain charge to what the provider did bill, once.

        Args:
            id: of the call, if one of its attempts alone is uncertain; else of the attempt, "<call id>.<number>".
            actual_usd: in US dollars, not above what is charged.

        Raises:
            AlreadyResolved: nothing about it is uncertain any more.
            LedgerError: there is no such call or attempt.
            ValueError: not an amount, or above the charge.
        """
        amount = checked_nanousd(actual_usd)

        def step() -> None:
            with self._file.transaction() as db:
                booking.reconcile(db, rows.uncertain_attempt(db, id), amount, self._now(db))
            self._upkeep.dirty()

        wait(patiently(step, self._patience_s))

    def set_limit(
        self, budget: Budget | str, limit: str | None, *, until: datetime | None = None, reason: str = ""
    ) -> None:
        """Change a budget's limit, for every process from its next reservation on.

        Args:
            budget: the Budget, or its name.
            limit: an amount such as "$10" or "500k tokens"; None: back to what the programs say.
            until: when this ends and what held before holds again (an aware datetime); None: for good.
            reason: kept in the trail, which changes() shows.

        Lowered below what is spent, nothing is admitted any more; what is under way goes on.
        """
        name = known_as(budget)
        if until is not None and until.tzinfo is None:
            raise ValueError("until= needs a time zone: datetime(..., tzinfo=UTC)")
        until_us = None if until is None else int(until.timestamp() * 1e6)
        given = budget.unit if isinstance(budget, Budget) else None
        unit, amount = (given, None) if limit is None else parse_amount(limit)
        if given is not None and unit != given:
            raise ValueError(f"budget {name!r} counts {given}, not {unit}")

        def step() -> None:
            with self._file.transaction() as db:
                rows.write_change(db, name, unit, (self._now(db), amount, until_us, reason))
            self._upkeep.dirty()

        wait(patiently(step, self._patience_s))
        log.info("budget %r: limit set to %s", name, limit or "what the programs say")

    def compact(self, older_than_days: float) -> int:
        """Fold calls older than that into totals by day, and take their details out; returns how many attempts.

        Totals (spend, balances, check) stay as they were. What is under way, uncertain or in a window that is not over
        keeps its counters.
        """
        if not (isinstance(older_than_days, (int, float)) and math.isfinite(older_than_days) and older_than_days >= 0):
            raise ValueError(f"older_than_days is a number of days, not {older_than_days!r}")

        def step() -> int:
            with self._file.transaction() as db:
                return retention.compact(db, now := self._now(db), now - int(older_than_days * 86_400e6))

        removed = wait(patiently(step, self._patience_s))
        self._upkeep.dirty()
        return removed

    def close(self) -> None:
        """Write what is left to write, sync and close. Done at exit for every open ledger."""
        self._file.recover()
        self._upkeep.stop(wait_s=5.0)
        try:
            self._upkeep.hits.write()
            self._file.sync()
        except LedgerError as error:
            log.debug("%s", error)
        self._file.close()
        ledgers.discard(self)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now(self, db: Connection) -> int:
        """The ledger's time, which goes back for no transaction.

        Stored once a second, and the file looked after: each would cost every call a page or a system call.
        """
        clock = int(self._clock() * 1e6)
        now = max(clock, self._latest_us)
        stored = (self._file.rollbacks, clock // CLOCK_US)  # what was rolled back is not stored
        if stored != self._stored:
            self._file.check_files()
            now = booking.now_us(db, now)
            self._stored = stored
            if now - clock > AHEAD_US and not self._said_ahead:
                self._said_ahead = True
                log.warning(
                    "the time of %s is %.0f s ahead of this machine's clock, which was set back: windows and leases"
                    " end when it has caught up",
                    self.path,
                    (now - clock) / 1e6,
                )
        self._latest_us = now
        return now

    def _reserve(self, asked: Asked, need: Need, budgets: list[Budget], lease_us: int) -> Reservation | Refusal:
        fresh: dict[Budget, int] = {}
        with self._file.transaction() as db:
            now = self._now(db)
            counters = []
            for budget in budgets:
                row = self._rows.get(budget)
                if row is None:
                    row = fresh[budget] = booking.budget_id(db, budget)
                counters.append(booking.counter(db, budget, row, asked, now))
            refusal = refusal_of(counters, need, now)
            if refusal is None:
                made = booking.insert(db, asked, need, counters, now, lease_us)
                made.alerts = announce(db, counters, need)
        self._rows.update(fresh)  # not before the commit
        self._upkeep.dirty()
        if refusal is None:
            say(made.alerts)
        return refusal or made

    def _resolve_patiently(self, attempt: Reservation | str, charge: Charge, state: str) -> None:
        step = functools.partial(self._resolve, attempt, charge, state)
        if not _at_once(step):
            wait(patiently(step, self._patience_s))

    def _resolve(self, attempt: Reservation | str, charge: Charge, state: str) -> bool:
        with self._file.transaction() as db:
            row, parts = booking.find(db, attempt) if isinstance(attempt, str) else (attempt.row, attempt.parts)
            booking.resolve(db, row, parts, charge, state, self._now(db))
        self._upkeep.dirty()
        return True

    def _book(
        self, call: CallRecord | None, attempt: tuple[Reservation, AttemptRecord, Charge] | None
    ) -> tuple[BudgetAlert, ...]:
        alerts: tuple[BudgetAlert, ...] = ()
        with self._file.transaction() as db:
            now = self._now(db)
            if attempt is not None:
                reservation, record, charge = attempt
                if self._settled(db, reservation, record, charge, now):
                    alerts = announce(db, booking.standing(db, reservation.counters))
            if call is not None:
                rows.write_call(db, call)
        self._upkeep.dirty()
        say(alerts)
        return alerts

    def _settled(
        self, db: Connection, reservation: Reservation, record: AttemptRecord, charge: Charge, now: int
    ) -> bool:
        state = "settled" if record.outcome == "answered" or charge.nanousd != 0 else "released"
        facts = rows.facts_of(record)
        try:
            booking.resolve(db, reservation.row, reservation.parts, charge, state, now, facts)
        except AlreadyResolved as error:  # Ctrl-C after the commit has it done again
            log.warning("%s", error)
            return False
        return True

    def _forget(self, attempt: str) -> None:
        with self._file.transaction() as db:
            if rows.is_open(db, attempt):
                booking.resolve(db, *booking.find(db, attempt), Charge(0, 0, 0), "released", self._now(db))
        self._upkeep.dirty()


def _at_once(step: Callable[[], T]) -> T | None:
    """What *step* returns; None if the ledger is busy: only who has to wait makes a generator."""
    try:
        return step()
    except LedgerBusy:
        return None
