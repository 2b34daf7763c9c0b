"""One call, from its candidates to its record. The page to read first.

A verb in `bridge` is a loop over `Call.attempts()`; each Attempt is a context manager in both colours that admits the
request, watches the exchange, books what it cost and swallows the error when the loop is to go on. The order, of which
this file is the one place:

    1. validate    request.py, before a Call exists
    2. plan        the candidates, in the order given
    3. recall      the first candidate's answer that is kept ends the call; an equal request under way is waited for
                   (memory.py)
    4. admit       is there time left? then the worst case is reserved in the ledger, in every budget (admission.py)
    5. send        provider, once, through an Exchange
    6. resolve     what was it, what is it charged (charge.py); the reservation is settled or released
    7. decide      done, the same model shown its wrong answer, the next one, or stop (fallback.policy)
    8. remember    the answer, unless it must not be kept
    9. record      one CallRecord, to the ledger and to everyone who listens

Whatever ends the call (an answer, an error, a cancellation, a stream left early or dropped), `finish` runs once. If the
process dies instead, the reservation's lease ends, and it is charged.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmbridge.cache import Entry
from llmbridge.call import admission
from llmbridge.call.admission import Admitted, Applicant, Refused
from llmbridge.call.attempt import Answer, Attempt
from llmbridge.call.memory import Memory
from llmbridge.call.recalled import Recalled
from llmbridge.errors import (
    AllAttemptsFailed,
    BudgetExceeded,
    CacheMiss,
    DeadlineExceeded,
    InvalidOutput,
    LedgerError,
    LLMBridgeError,
    ProviderError,
    UnknownPrice,
)
from llmbridge.fallback import after
from llmbridge.ledger import Budget, Charge, Ledger, Reservation
from llmbridge.money import usd
from llmbridge.record import AttemptRecord, CallRecord, Reason, new_id, sum_usd
from llmbridge.request import Model, Request
from llmbridge.waiting import Pauses


log = logging.getLogger("llmbridge")


class Call:
    """One use of a verb. Iterate `attempts()`, then read `answer`."""

    def __init__(
        self,
        request: Request,
        candidates: Sequence[Model],
        *,
        tags: dict[str, str],
        deadline_s: float,
        publish: Callable[[CallRecord], None],
        ledger: Ledger | None = None,
        budgets: Sequence[Budget] = (),
        memory: Memory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answer: Answer | None = None
        self.deadline_s = deadline_s
        self.record = CallRecord(
            id=new_id(),
            verb=request.verb,
            models=tuple(candidate.model for candidate in candidates),
            tags=tags,
            started_at=time.time(),
        )
        self._requests = [request.for_model(candidate) for candidate in candidates]
        # What to ask, why, and which of the questions it is.
        self._upcoming: deque[tuple[Request, Reason, Request]] = deque(
            (each, "fallback", each) for each in self._requests
        )
        self._upcoming[0] = (self._requests[0], "initial", self._requests[0])
        self._publish = publish
        self.ledger = ledger
        self.memory = memory
        self.guards: tuple[float | None, float | None] | None = None  # of a stream
        self._budgets = budgets
        self._unbooked: tuple[Reservation, AttemptRecord, Charge] | None = None
        self._clock = clock
        self._started = clock()
        self._records: list[AttemptRecord] = []
        self._errors: list[ProviderError] = []
        self._finished = False
        self._process = os.getpid()
        self.current: Attempt | None = None
        self.when_finished: Callable[[], object] = lambda: None

    def attempts(self) -> Iterator[Attempt]:
        """The attempts, one after the other, as each outcome demands. Raises the call's error when none is left."""
        answered = False
        try:
            yield from self._attempts()
            answered = True
        finally:
            if not answered:  # an error has finished the call already; this is for a loop that was left
                self.finish("cancelled")

    def _attempts(self) -> Iterator[Attempt]:
        upcoming = self._upcoming
        if (recalled := self._recall()) is not None:
            yield self._attempt(recalled)
            return
        step = "next"
        while upcoming:
            self._book()
            request, reason, question = upcoming.popleft()
            self.current = attempt = Attempt(self, request, reason)
            attempt.question = question
            self._leave_out_known(attempt)
            yield attempt
            if attempt.error is None:
                return
            step = after(attempt.error, repaired=attempt.record.reason == "repair")
            if step == "stop":
                break
            if step == "repair" and isinstance(attempt.error, InvalidOutput):
                repaired = attempt.asked.repaired(attempt.error.output, str(attempt.error))
                upcoming.appendleft((repaired, "repair", attempt.question))
            elif self.memory is not None:
                self.memory.land()  # whoever waits for this model's answer need not wait for another's
            if self.remaining_s() <= 0:
                break
        error = self._failure()
        if step != "stop" and (recalled := self._recall(stale=True)) is not None:
            log.warning("an answer whose time is over is served, since nobody else answers: %s", error)
            yield self._attempt(recalled)
            return
        self.finish("failed", error)
        raise error

    def _recall(self, *, stale: bool = False) -> Recalled | None:
        """The first candidate's answer that is kept. Raises CacheMiss if nothing else is wanted."""
        if self.memory is None:
            return None
        found = (self.memory.recall(request, stale=stale) for request in self._requests)
        recalled = next((each for each in found if each is not None), None)
        if recalled is None and self.memory.only:
            error = CacheMiss(f"no answer of {', '.join(self.record.models)} is kept, and cache='only' sends nothing")
            self.finish("failed", error)
            raise error
        return recalled

    def _leave_out_known(self, attempt: Attempt) -> None:
        if self.memory is not None:
            attempt.asked, attempt.known = self.memory.missing(attempt)
            attempt.request = attempt.asked

    def _attempt(self, recalled: Recalled) -> Attempt:
        self.current = attempt = Attempt(self, recalled.request, "initial")
        attempt.recalled = recalled
        return attempt

    def remaining_s(self) -> float:
        """Seconds until the call's deadline; negative after it."""
        return self._started + self.deadline_s - self._clock()

    def admit(self, attempt: Attempt, *, blocking: bool = False) -> Pauses[None]:
        """Pauses until *attempt* may be sent, maybe with another request than it came with. Raises, with the call
        finished, if it never may: DeadlineExceeded, BudgetExceeded, UnknownPrice, LedgerError."""
        self._check_time()
        if self.memory is not None and not self._records:
            attempt.recalled = yield from self._join(self.memory, attempt, blocking)
            if attempt.recalled is not None:
                return
            self._leave_out_known(attempt)
        while True:
            failure: LLMBridgeError | None
            try:
                admitted = yield from self._admission(attempt)
                break
            except Refused as refused:
                failure = self._refused(attempt, refused)
            except (UnknownPrice, LedgerError) as error:
                failure = error
            if failure is not None:
                self.finish("failed", failure)
                raise failure
        attempt.admitted(admitted)
        self._check_time()

    def _join(self, memory: Memory, attempt: Attempt, blocking: bool) -> Pauses[Recalled | None]:
        """The answer of an equal call under way; None if this call is to ask for itself, also because the other one
        takes longer than its own request may."""
        pauses = memory.join(self, attempt, blocking=blocking, guards=self.guards)
        limits = attempt.question.transport.get("timeout"), self.guards and self.guards[0], self.deadline_s
        give_up = self._clock() + min(limit for limit in limits if limit)
        try:
            while self._clock() < give_up:
                try:
                    pause_s = next(pauses)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                self._check_time()
                yield pause_s
        finally:
            pauses.close()
        return None

    def _admission(self, attempt: Attempt) -> Pauses[Admitted]:
        attempt.id = f"{self.record.id}.{len(self._records) + 1}"
        applicant = Applicant(
            attempt=attempt.id,
            reason=attempt.record.reason,
            tags=self.record.tags,
            remaining_s=max(self.remaining_s(), 0),
            last=not self._upcoming,
        )
        return admission.admit(self.ledger, attempt.asked, self._budgets, applicant)

    def _refused(self, attempt: Attempt, refused: Refused) -> BudgetExceeded | None:
        """The error, or None if *attempt* now asks the next candidate that is cheaper; dearer ones are dropped."""
        dropped = False
        while refused.downgrade and self._upcoming:
            dropped = True
            request, *_ = self._upcoming.popleft()
            cost = admission.worst_case(request).nanousd
            if cost is not None and (refused.nanousd is None or cost < refused.nanousd):
                attempt.ask(request, "downgrade")
                self._leave_out_known(attempt)
                if self.memory is not None:
                    self.memory.land()
                return None
        if dropped:  # no other candidate is left now, so a shorter answer of this one will do
            return None
        refused.error.attempts = tuple(self._records)
        if self.ledger is not None:
            self.record.alerts += self.ledger.announce(refused.refusal)
        return refused.error

    def _check_time(self) -> None:
        if self.remaining_s() <= 0:
            error = self._out_of_time()
            self.finish("failed", error)
            raise error

    @property
    def charges_5xx(self) -> bool:
        """Whether a 5xx counts as billed."""
        return self.ledger is not None and self.ledger.charge_5xx

    def forget(self, attempt: Attempt) -> None:
        """Give back what *attempt* may have reserved: it was interrupted before it was sent."""
        if self.ledger is not None and attempt.id and self.is_mine:
            self.ledger.forget(attempt.id)

    def resolved(self, attempt: Attempt, charge: Charge) -> None:
        """Take what *attempt* is charged, for the ledger; written with the call's own record if it ends with it."""
        if attempt.reservation is not None:
            self._unbooked = (attempt.reservation, attempt.record, charge)

    @property
    def is_mine(self) -> bool:
        """Whether this process began it."""
        return os.getpid() == self._process

    def _book(self, call: CallRecord | None = None) -> None:
        unbooked, self._unbooked = self._unbooked, None
        if self.ledger is not None and (unbooked is not None or call is not None):
            self.record.alerts += self.ledger.book(call, unbooked)

    def failed(self, error: ProviderError) -> None:
        """Remember *error* for the end of the call."""
        error.call_id = self.record.id
        error.__traceback__ = None  # it holds the frames of whoever reads a stream, which would then never be collected
        self._errors.append(error)

    def finish(self, outcome: Any, error: BaseException | None = None) -> None:
        """Close the record and hand it to everyone who listens; only the first time counts."""
        if self._finished or not self.is_mine:
            return  # a fork has copied a call that is under way: it is the parent's
        self._finished = True
        record = self.record
        record.outcome = outcome
        record.duration_s = self._clock() - self._started
        record.attempts = tuple(self._records)
        if error is not None:
            record.error_type = type(error).__name__
        if isinstance(error, LLMBridgeError):
            error.call_id = record.id
        record.cost_usd = sum_usd(attempt.cost_usd for attempt in self._records)
        record.uncertain = any(attempt.uncertain for attempt in self._records)
        last = self._records[-1] if self._records else None
        if last is not None and not record.cached and outcome in ("answered", "left"):
            record.model, record.provider, record.first_chunk_s = last.model, last.provider, last.first_chunk_s
            record.input_tokens, record.output_tokens = last.input_tokens, last.output_tokens
            record.estimated = last.estimated
        if self.answer is not None:
            self.answer._record = record
        self.when_finished()
        try:
            if self.memory is not None:
                self._remember(self.memory, outcome)
            self._book(record)
        finally:
            self._publish(record)

    def recalled(self, entry: Entry) -> None:
        """The answer is a kept one."""
        record = self.record
        record.cached, record.cache_age_s, record.stale = True, entry.age_s, entry.stale
        record.saved_usd = None if entry.cost_nanousd is None else usd(entry.cost_nanousd)
        record.model, record.provider = entry.model, entry.provider
        record.input_tokens, record.output_tokens = entry.input_tokens, entry.output_tokens

    def _remember(self, memory: Memory, outcome: str) -> None:
        attempt = self.current
        try:
            if outcome == "answered" and attempt is not None and attempt.fresh is not None:
                self.record.saved_usd = memory.saved_usd(attempt)
                memory.remember(attempt, attempt.record, attempt.fresh, attempt.shown)
        except Exception:  # the answer is there, whatever became of its copy
            log.warning("an answer could not be kept", exc_info=True)
        finally:
            memory.land()

    def started(self, record: AttemptRecord) -> None:
        """Count an attempt that was admitted."""
        self._records.append(record)
        record.number = len(self._records)

    def _failure(self) -> LLMBridgeError:
        last = self._errors[-1]
        if self.remaining_s() <= 0 and last.kind != "bad request":
            return self._out_of_time()
        if len(self._errors) == 1:
            return last
        tried = "; ".join(record.line() for record in self._records)
        message = f"none of {len(self._errors)} attempts was answered: {tried}. The last said: {last}"
        return AllAttemptsFailed(message, errors=self._errors, attempts=self._records)

    def _out_of_time(self) -> DeadlineExceeded:
        tried = "; ".join(record.line() for record in self._records if record.error_type) or "nothing was sent"
        message = f"the call's {self.deadline_s:g} s are over: {tried}; raise deadline_s or ask a quicker model"
        return DeadlineExceeded(message, deadline_s=self.deadline_s, attempts=self._records)
