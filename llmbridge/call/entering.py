"""Entering: what an attempt goes through before it may be sent, and who is asked in its place.

An equal call under way is waited for; then the gate (back-off, breaker, limits), then the reservation. At each of them
the attempt may be handed to another candidate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbridge.call import admission, gate
from llmbridge.call.admission import Admitted, Applicant, Refused
from llmbridge.call.course import Ask
from llmbridge.call.memory import Memory
from llmbridge.call.recalled import Recalled
from llmbridge.errors import BudgetExceeded, LedgerError, LLMBridgeError, RateLimited, UnknownPrice
from llmbridge.ledger import Reservation
from llmbridge.money import usd
from llmbridge.waiting import Pauses


if TYPE_CHECKING:
    from llmbridge.call.attempt import Attempt
    from llmbridge.call.call import Call


def admit(call: Call, attempt: Attempt, *, blocking: bool = False) -> Pauses[None]:
    """Pauses until *attempt* may be sent, maybe with another request than it came with. Raises if it never may."""
    call.check_time()
    if call.memory is not None and not call._records:
        attempt.recalled = yield from _join(call, call.memory, attempt, blocking)
        if attempt.recalled is not None and call.accepts(attempt.recalled):
            return
        attempt.recalled = None
        call._leave_out_known(attempt)
    while True:
        refusal: LLMBridgeError | None
        try:
            yield from _enter(call, attempt)
            asked_at = call._clock()
            admitted = yield from _admission(call, attempt)
            _tell(call, admitted.reservation, call._clock() - asked_at)
            break
        except gate.Closed as closed:
            refusal = _closed(call, attempt, closed)
        except Refused as refused:
            refusal = _refused(call, attempt, refused)
            attempt.turned_away()
        except (UnknownPrice, LedgerError) as error:
            refusal = error
        if refusal is not None:
            raise refusal
        if attempt.recalled is not None:
            return
    attempt.admitted(admitted)
    call.check_time()


def _enter(call: Call, attempt: Attempt) -> Pauses[None]:
    """Pauses until *attempt* may be sent but for the money."""
    started = call._clock()
    terms = gate.Terms(
        remaining_s=max(call.remaining_s(), 0),
        patience_s=call.policy.patience_s,
        breaker=call.policy.breaker,
        limiters=call._limiters,
        tags=call.record.tags,
        clock=call._clock,
    )
    attempt.entrance = yield from gate.enter(attempt.ask, terms, others=call._course.others(attempt.ask))
    attempt.record.waited_s = call._clock() - started
    call.check_time()


def _closed(call: Call, attempt: Attempt, closed: gate.Closed) -> LLMBridgeError | None:
    """The error, or None if *attempt* now asks somebody else."""
    ask = call._course.instead(attempt.ask, closed.why)
    if ask is not None:
        _put(call, attempt, ask, closed.reason)
        return None
    error = _nobody(call, closed.error)
    attempt.recalled = call._recall_stale(error)
    return error if attempt.recalled is None else None


def _put(call: Call, attempt: Attempt, ask: Ask, reason: str) -> None:
    call.moves(attempt.request.model, ask.request.model, reason)
    attempt.put(ask)
    call._leave_out_known(attempt)
    if call.memory is not None:
        call.memory.land()


def _nobody(call: Call, error: LLMBridgeError) -> LLMBridgeError:
    """What a call gets whose last candidate cannot be asked now."""
    if call._errors:
        return call._failure()
    if isinstance(error, RateLimited):
        error.attempts = tuple(call._records)
    return error


def _join(call: Call, memory: Memory, attempt: Attempt, blocking: bool) -> Pauses[Recalled | None]:
    """The answer of an equal call under way; None if this call is to ask for itself, also because the other one
    takes longer than its own request may."""
    pauses = memory.join(call, attempt, blocking=blocking, guards=call.guards)
    limits = attempt.question.transport.get("timeout"), call.guards and call.guards.first_chunk_s, call.deadline_s
    give_up = call._clock() + min(limit for limit in limits if limit)
    try:
        while call._clock() < give_up:
            try:
                pause_s = next(pauses)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            call.check_time()
            yield pause_s
    finally:
        pauses.close()
    return None


def _admission(call: Call, attempt: Attempt) -> Pauses[Admitted]:
    attempt.id = f"{call.record.id}.{len(call._records) + 1}"
    applicant = Applicant(
        attempt=attempt.id,
        reason=attempt.record.reason,
        tags=call.record.tags,
        remaining_s=max(call.remaining_s(), 0),
        last=call._course.is_last,
    )
    return admission.admit(call.ledger, attempt.asked, call._budgets, applicant)


def _tell(call: Call, reservation: Reservation | None, wait_s: float) -> None:
    """What was reserved in each budget, to the trace; of one that counts no dollars, that it was asked."""
    if reservation is None or not call.trace.recording:
        return
    for each in reservation.counters:
        dollars, held = each.budget.unit == "nanousd", reservation.need.nanousd
        call.trace.event(
            "llmbridge.budget.reserved",
            budget=each.budget.name,
            reserved_usd=usd(held) if dollars and held is not None else None,
            remaining_usd=usd(each.headroom - held) if dollars and held is not None else None,
            wait_s=wait_s,
        )


def _refused(call: Call, attempt: Attempt, refused: Refused) -> BudgetExceeded | None:
    """The error, or None if *attempt* now asks the next candidate that is cheaper; dearer ones are dropped."""
    dropped = False
    if refused.downgrade:
        ask, dropped = call._course.cheaper(refused.nanousd)
        if ask is not None:
            ask.reason = "downgrade"
            _put(call, attempt, ask, "budget")
            return None
    if dropped:  # no other candidate is left now, so a shorter answer of this one will do
        return None
    refused.error.attempts = tuple(call._records)
    call.record.refused_by = refused.error.budget
    if call.ledger is not None:
        call.alerted(call.ledger.announce(refused.refusal))
    return refused.error
