"""What happened: one record a call, one a model asked. The ledger, the trace and the caller read the same one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from llmbridge.money import show_usd


Reason = Literal["initial", "retry", "fallback", "repair", "downgrade", "hedge", "restart"]
Outcome = Literal["answered", "failed", "left", "cancelled", "lost"]


def new_id() -> str:
    """An id that sorts by time: 48 bits of Unix milliseconds, as in UUIDv7 (RFC 9562), then 80 random bits, as hex.

    Ids in random order would make each insert touch another page of the ledger's indexes.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def sum_usd(costs: Iterable[Decimal | None]) -> Decimal | None:
    """The sum of *costs*; None if one of them is unknown."""
    known = list(costs)
    return (
        None if any(cost is None for cost in known) else sum((cost for cost in known if cost is not None), Decimal(0))
    )


@dataclass(frozen=True, slots=True)
class BudgetAlert:
    """A budget's counter has reached a share of its limit, for the first time in this window; or a cap on trial
    (`on_exceed="warn"`) has let something through, which `passed` says. `tags` are those that the counter is for."""

    budget: str
    share: float
    message: str
    tags: dict[str, str | None] = field(default_factory=dict)
    passed: bool = False


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """One model asked once.

    Attributes:
        number: 1 for the call's first attempt.
        model: the candidate, as it was asked; `response_model` is the name in the answer, where LiteLLM keeps it.
        reason: why this attempt was made.
        outcome: "left" is a stream that its reader closed early; "lost" is one whose process died.
        status: the HTTP status that came back, or None.
        host, port: where it was sent.
        started_s: when it started, in seconds after its call did.
        sent: False if surely nothing reached the provider.
        waited_s: how long it waited before it was sent, for a back-off or a limit.
        cost_usd: what is charged for it; None if unknown. `uncertain`: the provider may have billed less (or, without
            a price, anything), and nobody reported it. `Ledger.reconcile` corrects it.
        reserved_usd: the worst case that was reserved before sending.
        price_source: whose price it is: "litellm 1.106.2", "model" (the caller's own), "provider" or "local".
        estimated: the token counts are LiteLLM's estimate and not the provider's.
    """

    number: int
    model: str
    provider: str
    reason: Reason
    outcome: Outcome = "failed"
    error_type: str | None = None
    error: str | None = None
    kind: str | None = None
    status: int | None = None
    sent: bool = False
    host: str | None = None
    port: int | None = None
    request_id: str | None = None
    response_model: str | None = None
    retry_after_s: float | None = None
    waited_s: float = 0.0
    started_s: float | None = None
    duration_s: float = 0.0
    first_chunk_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: bool = False
    cost_usd: Decimal | None = None
    reserved_usd: Decimal | None = None
    price_source: str | None = None
    uncertain: bool = False

    def line(self) -> str:
        """One line for people."""
        what = (
            self.outcome if self.error_type is None else f"{self.error_type}{f' {self.status}' if self.status else ''}"
        )
        waited = f" after {self.waited_s:.2f} s" if self.waited_s >= 0.01 or self.reason == "retry" else ""
        took = f"{self.duration_s:.2f} s, {show_usd(self.cost_usd)}"
        return f"{self.number}. {self.model} ({self.reason}{waited}): {what}, {took}"


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One use of a verb, from its start (`started_at`, seconds since the epoch) to its end.

    `cost_usd` is the sum over all attempts, None if any part of it is unknown. `error_type` is the class that the
    caller caught. A call that was answered from the cache is `cached`: nothing was sent, `saved_usd` is what the answer
    cost once (None if nobody knows), `cache_age_s` how old it is, and `stale` whether its time was over. One that was
    not, though the cache was asked, is `missed`. `dropped` are candidates that were not asked, each with the reason.
    `refused_by` names the budget that refused the call. `abandoned` is a stream that was left to the garbage collector.
    `waited_s` is how much of `duration_s` went by waiting, for providers and in pauses; the rest is this package's own.
    """

    id: str
    verb: str
    models: tuple[str, ...]
    tags: dict[str, str] = field(default_factory=dict)
    started_at: float
    duration_s: float = 0.0
    outcome: Outcome = "failed"
    error_type: str | None = None
    model: str | None = None
    provider: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    dropped: tuple[str, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    estimated: bool = False
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = Decimal(0)
    cached: bool = False
    missed: bool = False
    cache_age_s: float | None = None
    stale: bool = False
    uncertain: bool = False
    alerts: tuple[BudgetAlert, ...] = ()
    refused_by: str | None = None
    abandoned: bool = False
    chunk_count: int | None = None
    first_chunk_s: float | None = None
    waited_s: float | None = None
    trace_id: str | None = None

    def explain(self) -> str:
        """What happened, one line an attempt."""
        head = f"call {self.id}: {self.outcome} in {self.duration_s:.2f} s for {show_usd(self.cost_usd)}"
        head += " (uncertain)" if self.uncertain else ""
        if self.cached:
            head += f", from the cache ({self.cache_age_s or 0:.0f} s old{', stale' if self.stale else ''})"
            head += f", which saved {show_usd(self.saved_usd)}"
        dropped = [f"passed over: {each}" for each in self.dropped]
        return "\n".join([head, *(attempt.line() for attempt in self.attempts), *dropped])
