"""Admission: the worst case of a request, held in the ledger before anything is sent.

What is reserved is a bound and no estimate. The input is bounded from its bytes, which is cheap, and by the tokenizer
if that does not fit; the output by the cap that the request carries. A request without a cap gets one when a budget
counts money or tokens: what its model can say at most, or what the tightest budget still affords.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from llmbridge import provider
from llmbridge.errors import BudgetExceeded, LedgerError, UnknownPrice
from llmbridge.ledger import LARGEST, Asked, Budget, Ledger, Need, Refusal, Reservation
from llmbridge.provider import WorstCase
from llmbridge.request import Request
from llmbridge.waiting import Pauses


log = logging.getLogger("llmbridge")
T = TypeVar("T")
# Beyond the call's deadline: what a process needs to resolve what it has reserved.
LEASE_MARGIN_S = 60.0
_UNBOUNDED = "how much the answer can be at most is not known, or more than can be counted: give max_tokens="
CLAMPS = 3  # others may take what was free a moment ago
UNCAPPED_PATIENCE_S = 1.0  # a call that no cap applies to is worth more than its row in the ledger


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who asks to be admitted: an attempt of a call."""

    attempt: str
    reason: str
    tags: Mapping[str, str]
    remaining_s: float  # until the call's deadline
    last: bool  # no other candidate is left


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request as it may be sent, with its worst case and what holds it. Without a ledger nothing does."""

    request: Request
    worst: WorstCase
    reservation: Reservation | None


class Refused(Exception):
    """Not admitted: `error` says so to the caller, unless a candidate cheaper than `nanousd` is asked instead."""

    def __init__(self, error: BudgetExceeded, refusal: Refusal, nanousd: int | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.refusal = refusal
        self.nanousd = nanousd

    @property
    def downgrade(self) -> bool:
        return self.refusal.on_exceed == "downgrade"


def admit(ledger: Ledger | None, request: Request, budgets: Sequence[Budget], applicant: Applicant) -> Pauses[Admitted]:
    """Pauses until *request* may be sent. Raises Refused, UnknownPrice, LedgerError."""
    worst = worst_case(request)
    applying = _countable([budget for budget in budgets if budget.covers(request.model)], worst)
    caps = [budget for budget in applying if budget.on_exceed != "warn"]  # the others are on trial
    if ledger is None:
        return Admitted(request, worst, None)
    capped = provider.has_cap(request)
    if not capped and any(budget.unit != "requests" for budget in caps):
        request, worst = _with_cap(request, worst)
    try:
        return (yield from _reserve(ledger, request, worst, applying, applicant, capped=capped))
    except LedgerError as error:
        if caps and not ledger.fail_open:
            raise
        log.warning("the ledger does not count attempt %s: %s", applicant.attempt, error)
        return Admitted(request, worst, None)


def worst_case(request: Request, *, counted: bool = False) -> WorstCase:
    """As provider.worst_case(), but a request that it cannot read is one of which nothing is known: without a budget
    nobody needs it."""
    try:
        return provider.worst_case(request, counted=counted)
    except Exception as error:
        log.warning("the worst case of a request to %s could not be computed", request.model, exc_info=True)
        return WorstCase(None, None, None, f"its worst case could not be computed: {type(error).__name__}")


def _reserve(
    ledger: Ledger, request: Request, worst: WorstCase, budgets: Sequence[Budget], applicant: Applicant, *, capped: bool
) -> Pauses[Admitted]:
    """Try the cheap bound, then the close one, then shorter answers where that is allowed."""
    asked = Asked(applicant.attempt, request.model, request.provider, request.verb, applicant.tags, applicant.reason)
    patience_s = applicant.remaining_s if budgets else min(applicant.remaining_s / 2, UNCAPPED_PATIENCE_S)
    give_up = time.monotonic() + patience_s

    def reserve() -> Pauses[Reservation | Refusal]:
        return ledger.reserving(
            asked,
            need_of(worst),
            budgets,
            lease_s=applicant.remaining_s + LEASE_MARGIN_S,
            patience_s=max(give_up - time.monotonic(), 0.0),
        )

    def again() -> Pauses[Reservation | Refusal | None]:
        try:
            return (yield from reserve())
        except LedgerError:  # what was refused stays so, also if the ledger fails open
            return None

    made = yield from reserve()
    at_first, clamps = worst.nanousd, 0
    if isinstance(made, Refusal) and made.counter.budget.unit != "requests":
        worst = yield from _counted(request, worst)
        made = (yield from again()) or made
    while isinstance(made, Refusal) and clamps < CLAMPS and _may_clamp(made, applicant, capped=capped):
        smaller = _clamped(request, worst, made)
        if smaller is None:
            break
        clamps += 1
        worst = yield from _counted(smaller, worst)
        tried, request = (yield from again()), smaller
        if tried is None:
            break
        made = tried
    if isinstance(made, Refusal):
        raise Refused(made.error(_described(request)), made, at_first)
    return Admitted(request, worst, made)


def _counted(request: Request, worst: WorstCase) -> Pauses[WorstCase]:
    """The close worst case; *worst* if it cannot be computed."""
    closer = yield from _in_thread(functools.partial(worst_case, request, counted=True), worst)
    return worst if None in (closer.nanousd, closer.output_tokens) and worst.nanousd is not None else closer


def _may_clamp(refusal: Refusal, applicant: Applicant, *, capped: bool) -> bool:
    """A cap that the caller gave is lowered if the budget says so, one that nobody gave always, but not while a cheaper
    candidate may give the whole answer."""
    if refusal.on_exceed == "downgrade" and not applicant.last:
        return False
    if refusal.counter.budget.unit == "requests":
        return False  # which a shorter answer does not spare
    return refusal.on_exceed == "clamp" or not capped


def _countable(budgets: Sequence[Budget], worst: WorstCase) -> list[Budget]:
    """Those of *budgets* that *worst* can be held against. Raises UnknownPrice unless the others are on trial."""
    need, counted = need_of(worst), []
    for budget in budgets:
        if getattr(need, budget.unit) is not None:
            counted.append(budget)
        elif budget.on_exceed != "warn":
            raise UnknownPrice(f"budget {budget.name!r} applies, and {worst.lacking or _UNBOUNDED}")
        else:
            log.warning("budget %r cannot count this call: %s", budget.name, worst.lacking or _UNBOUNDED)
    return counted


def _with_cap(request: Request, worst: WorstCase) -> tuple[Request, WorstCase]:
    """The request with the cap that its worst case assumes, if the caller gave none: a model's own limit is known from
    a table, and a table can be wrong."""
    if request.verb == "embeddings" or not worst.output_tokens:
        return request, worst
    per_choice = provider.affordable(request, worst)
    return (provider.capped(request, per_choice), worst) if per_choice > 0 else (request, worst)


def _clamped(request: Request, worst: WorstCase, refusal: Refusal) -> Request | None:
    """The request with as long an answer as is affordable, or None if that would be useless."""
    if request.verb == "embeddings":
        return None
    most = provider.affordable(request, worst, nanousd=refusal.headroom_nanousd, tokens=refusal.headroom_tokens)
    smaller = provider.capped(request, most) if most >= provider.floor_tokens(request) else request
    return None if smaller is request else smaller


def need_of(worst: WorstCase) -> Need:
    """A worst case, as the ledger takes it."""
    known = worst.input_tokens is not None and worst.output_tokens is not None
    tokens = (worst.input_tokens or 0) + (worst.output_tokens or 0) if known else None
    return Need(_countable_amount(worst.nanousd), _countable_amount(tokens))


def _countable_amount(amount: int | None) -> int | None:
    return amount if amount is not None and amount <= LARGEST else None


def _described(request: Request) -> str:
    caps = [
        f"{name}={request.params[name]}" for name in ("max_tokens", "max_completion_tokens") if name in request.params
    ]
    return ", ".join([request.model, *caps])


def _in_thread(work: Callable[[], T], otherwise: T) -> Pauses[T]:
    """Pauses while a thread does *work*: loading a tokenizer takes 0.4 s, which an event loop must not. It touches
    nothing but its own result, so a cancellation may leave it behind."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()), name="llmbridge-count", daemon=True)
    thread.start()
    while thread.is_alive():
        yield 0.001
    return results[0] if results else otherwise
