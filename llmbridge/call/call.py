"""One call, from its candidates to its record. The page to read first.

A verb in `bridge` is a loop over `Call.attempts()`; each Attempt is a context manager in both colours that admits the
request, watches the exchange, books what it cost and swallows the error when the loop is to go on. The order, of which
this file is the one place:

    1. validate    request.py, before a Call exists
    2. plan        the candidates, in the order of the strategy, without those that cannot serve (planning.py)
    3. recall      the first candidate's answer that is kept ends the call; an equal request under way is waited for
                   (memory.py)
    4. admit       is there time left? a pause after a failure, the breaker, the limits (gate.py); then the worst case
                   is reserved in the ledger, in every budget (admission.py)
    5. send        provider, once, through an Exchange
    6. resolve     what was it, what is it charged (charge.py); the reservation is settled or released
    7. decide      done, the same model again, the same one shown its wrong answer, the next one, or stop (course.py,
                   by the table of fallback.policy)
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from llmbridge import metrics, tracing
from llmbridge.cache import Entry
from llmbridge.call import failure
from llmbridge.call.attempt import Answer, Attempt
from llmbridge.call.course import Ask, Course
from llmbridge.call.memory import Memory
from llmbridge.call.planning import Plan, plan_of
from llmbridge.call.recalled import Recalled
from llmbridge.completion import Completion
from llmbridge.errors import CacheMiss, LLMBridgeError, ProviderError
from llmbridge.events import BudgetAlerted, CacheHit, CacheMissed, CallStarted, Event, Listeners
from llmbridge.exchange import Guards
from llmbridge.fallback import Candidate, Fallback
from llmbridge.fallback.limiter import Limiter
from llmbridge.ledger import Budget, Charge, Ledger, Reservation
from llmbridge.money import usd
from llmbridge.record import AttemptRecord, BudgetAlert, CallRecord, new_id, sum_usd
from llmbridge.request import Request
from llmbridge.waiting import Pauses, Waited


log = logging.getLogger("llmbridge")


class Call:
    """One use of a verb. Iterate `attempts()`, then read `answer`."""

    def __init__(
        self,
        request: Request,
        candidates: Sequence[Candidate],
        *,
        policy: Fallback,
        tags: dict[str, str],
        deadline_s: float,
        listeners: Listeners,
        ledger: Ledger | None = None,
        budgets: Sequence[Budget] = (),
        limiters: Sequence[Limiter] = (),
        memory: Memory | None = None,
        propagate: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answer: Answer | None = None
        self.deadline_s = deadline_s
        self.policy = policy
        self.record = CallRecord(
            id=new_id(),
            verb=request.verb,
            models=tuple(candidate.request.model for candidate in candidates),
            tags=tags,
            started_at=time.time(),
        )
        self.trace: tracing.CallTrace = tracing.calls.OFF
        self.waited = Waited()
        self._candidates = candidates
        self._course = Course(candidates, policy, clock)
        self._limiters = limiters
        self._listeners = listeners
        self.ledger = ledger
        self.memory = memory
        self.guards: Guards | None = None  # of a stream
        self.propagate = propagate
        self._budgets = budgets
        self._unbooked: deque[tuple[Reservation, AttemptRecord, Charge]] = deque()
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
            if not self._records:  # not in __init__: a stream that nobody opens has no span
                self.trace = tracing.begin(self.record, self._candidates[0].request, stream=self.guards is not None)
                self.tell(CallStarted, self.record.verb, self.record.models, self.record.tags)
            if (recalled := self._recall()) is not None:
                yield self._attempt(recalled)
            else:
                yield from self._attempts()
            answered = True
        except Exception as error:
            self.finish("failed", error)
            raise
        finally:
            if not answered:  # for a loop that was left
                self.finish("cancelled")

    def restarts(self, attempt: Attempt, error: ProviderError) -> bool:
        """Whether *attempt*, a stream that broke off after content, is followed by another one: then attempts() is to
        be iterated again."""
        if self.policy.on_stream_break != "restart" or not self._course.restart(error, attempt.ask, self.remaining_s()):
            return False
        attempt.broke_off(error)
        if self.memory is not None:
            self.memory.land()
        return True

    def plan(self) -> Plan:
        """What it would do now."""
        memory = self.memory
        return plan_of(
            self._candidates,
            self.policy,
            lambda request: memory is not None and memory.recall(request) is not None,
            self.ledger,
            self._budgets,
            self.record.tags,
        )

    def _attempts(self) -> Iterator[Attempt]:
        before: Attempt | None = None
        while (ask := self._next()) is not None:
            self._book()
            if before is not None and before.error is not None and before.ask.candidate is not ask.candidate:
                self.moves(before.request.model, ask.request.model, before.error.kind)
            self.current = before = attempt = Attempt(self, ask)
            self._leave_out_known(attempt)
            yield attempt
            if attempt.error is None:
                return
            step = self._course.after(attempt.error, attempt.ask, self.remaining_s())
            if step.does in ("retry", "later"):
                self.trace.event(
                    "llmbridge.retry",
                    number=attempt.record.number,
                    error_type=attempt.record.error_type,
                    delay_s=step.pause_s,
                    retry_after_s=attempt.error.retry_after_s,
                )
            if self.memory is not None and step.does not in ("retry", "repair"):
                self.memory.land()  # whoever waits for this model's answer need not wait for another's
        error = self._failure()
        if (recalled := self._recall_stale(error)) is not None:
            yield self._attempt(recalled)
            return
        raise error

    def _recall_stale(self, error: LLMBridgeError) -> Recalled | None:
        """An answer whose time is over, since there is no other."""
        if self._course.stopped or (recalled := self._recall(stale=True)) is None:
            return None
        log.warning("an answer whose time is over is served, since nobody else answers: %s", error)
        return recalled

    def _next(self) -> Ask | None:
        known = len(self._course.dropped)
        ask = self._course.next()
        for each in self._course.dropped[known:]:
            self.trace.event("llmbridge.skipped", model=each.model, reason=each.why)
        return ask

    def _recall(self, *, stale: bool = False) -> Recalled | None:
        """The first candidate's answer that is kept. Raises CacheMiss if nothing else is wanted."""
        if self.memory is None or (self._records and not stale):
            return None
        recalled = None
        for each in self._candidates:
            recalled = self.memory.recall(each.request, stale=stale)
            if recalled is not None and self.accepts(recalled):
                break
            recalled = None
        if recalled is None and not stale:
            self.record.missed = True
            self.trace.event("llmbridge.cache.miss")
            self.tell(CacheMissed, self.record.models)
        if recalled is None and self.memory.only:
            raise CacheMiss(f"no answer of {', '.join(self.record.models)} is kept, and cache='only' sends nothing")
        return recalled

    def accepts(self, recalled: Recalled) -> bool:
        """Whether a kept answer will do: it may be kept from a call that was content with less."""
        accept, answer = self.policy.accept, recalled.answer
        return accept is None or not isinstance(answer, Completion) or bool(accept(answer))

    def _leave_out_known(self, attempt: Attempt) -> None:
        if self.memory is not None:
            attempt.asked, attempt.known = self.memory.missing(attempt)
            attempt.request = attempt.asked

    def _attempt(self, recalled: Recalled) -> Attempt:
        candidate = next(each for each in self._candidates if each.request is recalled.request)
        self.current = attempt = Attempt(self, Ask(candidate, recalled.request, recalled.request, "initial"))
        attempt.recalled = recalled
        return attempt

    def remaining_s(self) -> float:
        """Seconds until the call's deadline; negative after it."""
        return self._started + self.deadline_s - self._clock()

    def check_time(self) -> None:
        """Raise DeadlineExceeded if the call's time is over."""
        if self.remaining_s() <= 0:
            raise self._out_of_time()

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
        if attempt.reservation is None:
            return
        if self._unbooked:
            self._book()  # of two attempts at a time, one
        self._unbooked.append((attempt.reservation, attempt.record, charge))

    @property
    def is_mine(self) -> bool:
        """Whether this process began it."""
        return os.getpid() == self._process

    def _book(self, call: CallRecord | None = None) -> None:
        unbooked = self._unbooked.popleft() if self._unbooked else None
        if self.ledger is not None and (unbooked is not None or call is not None):
            self.alerted(self.ledger.book(call, unbooked))

    def tell(self, kind: Callable[..., Event], *facts: object) -> None:
        """Tell the subscribers, if one wants to know, that *kind* of event, with its facts besides the call's id."""
        if self._listeners.wants(kind):
            self._listeners.tell(kind(self.record.id, *facts))

    def alerted(self, alerts: Iterable[BudgetAlert]) -> None:
        """A budget has something to say about this call."""
        for alert in alerts:
            self.record.alerts += (alert,)
            self.tell(BudgetAlerted, alert)

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
        record.waited_s = self.waited.total_s
        if error is not None:
            record.error_type = type(error).__name__
        if isinstance(error, LLMBridgeError):
            error.call_id = record.id
        record.cost_usd = Decimal(0)
        if not record.cached or self._records:
            self._sum_up()
        last = self.current.record if self.current is not None and self.current.record.number else None
        if last is not None and not record.cached and outcome in ("answered", "left"):
            record.model, record.provider, record.first_chunk_s = last.model, last.provider, last.first_chunk_s
            record.input_tokens, record.output_tokens = last.input_tokens, last.output_tokens
            record.estimated = last.estimated
        if self.guards is not None and self.current is not None:
            record.chunk_count = self.current.shown_count
        if self.answer is not None:
            self.answer._record = record
        self.when_finished()
        try:
            if self.memory is not None:
                self._remember(self.memory, outcome)
            while len(self._unbooked) > 1:
                self._book()
            self._book(record)
        finally:
            try:
                self.trace.end(error, self.answer)
            finally:  # Ctrl-C may have struck a moment before it ended
                self.trace.end(error)
                metrics.record(record)
                self._listeners.tell(record)

    def _sum_up(self) -> None:
        record = self.record
        record.attempts = tuple(self._records)
        record.dropped = tuple(str(each) for each in self._course.dropped)
        record.cost_usd = sum_usd(attempt.cost_usd for attempt in self._records)
        record.uncertain = any(attempt.uncertain for attempt in self._records)

    def recalled(self, entry: Entry) -> None:
        """The answer is a kept one."""
        record, first = self.record, not self.record.cached
        record.cached, record.cache_age_s, record.stale = True, entry.age_s, entry.stale
        record.saved_usd = None if entry.cost_nanousd is None else usd(entry.cost_nanousd)
        record.model, record.provider = entry.model, entry.provider
        record.input_tokens, record.output_tokens = entry.input_tokens, entry.output_tokens
        if first:
            self.trace.event("llmbridge.cache.hit", age_s=entry.age_s, stale=entry.stale or None)
            self.tell(CacheHit, entry.model, entry.age_s, entry.stale, record.saved_usd)

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

    def hedge_after_s(self, attempt: Attempt) -> float | None:
        """How long to wait for *attempt* alone; None: as long as it takes."""
        after_s = self.policy.hedge_after_s
        if after_s is None or attempt.recalled is not None or not self._course.others(attempt.ask):
            return None
        return attempt.ask.candidate.endpoint.p95_s() if after_s == "p95" else after_s

    def hedge(self, attempt: Attempt) -> Attempt | None:
        """Another candidate's attempt beside *attempt*; None if there is none, or the bound on attempts is reached."""
        ask = self._course.beside(attempt.ask)
        if ask is None:
            return None
        after_s = self._clock() - self._started - (attempt.record.started_s or 0.0)
        self.trace.event("llmbridge.hedge", number=attempt.record.number, after_s=after_s)
        return Attempt(self, ask)

    def won(self, attempt: Attempt) -> None:
        """*attempt* has answered, or begun to, and no other is under way."""
        self.current = attempt
        if attempt.done:
            self.finish("answered")

    def keeping(self) -> Pauses[None]:
        """Pauses while what came is kept, where that takes longer."""
        if self.memory is not None:
            yield from self.memory.keeping()

    def moves(self, source: str, target: str, reason: str) -> None:
        """Another candidate is asked: *reason* is the failure's kind, or what kept the first one from being asked."""
        self.trace.event("llmbridge.fallback", source=source, target=target, reason=reason)

    def started(self, attempt: Attempt) -> None:
        """Count an attempt that was admitted."""
        self._course.sent(attempt.ask)
        attempt.record.started_s = self._clock() - self._started
        self._records.append(attempt.record)
        attempt.record.number = len(self._records)

    def _failure(self) -> LLMBridgeError:
        last = self._errors[-1]
        if self.remaining_s() <= 0 and last.kind != "bad request":
            return self._out_of_time()
        return failure.of(self._errors, self._records, self._course.dropped)

    def _out_of_time(self) -> LLMBridgeError:
        return failure.out_of_time(self.deadline_s, self._records)
