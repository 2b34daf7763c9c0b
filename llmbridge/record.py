"""What happened: one record a call, one a model asked. The ledger, the trace and the caller read the same one."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from llmbridge.money import show_usd


Reason = Literal["initial", "retry", "fallback", "repair"]
Outcome = Literal["answered", "failed", "left", "cancelled"]


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """One model asked once.

    Attributes:
        number: 1 for the call's first attempt.
        model: the candidate, as it was asked; `response_model` is the name in the answer, where LiteLLM keeps it.
        reason: why this attempt was made.
        outcome: "left" is a stream that its reader closed early.
        status: the HTTP status that came back, or None.
        sent: False if surely nothing reached the provider.
        cost_usd: None if unknown; `uncertain` if the provider may have billed what nobody reported.
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
    request_id: str | None = None
    response_model: str | None = None
    retry_after_s: float | None = None
    duration_s: float = 0.0
    first_chunk_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    estimated: bool = False
    cost_usd: Decimal | None = None
    uncertain: bool = False

    def line(self) -> str:
        """One line for people."""
        what = (
            self.outcome if self.error_type is None else f"{self.error_type}{f' {self.status}' if self.status else ''}"
        )
        return (
            f"{self.number}. {self.model} ({self.reason}): {what}, {self.duration_s:.2f} s, {show_usd(self.cost_usd)}"
        )


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One use of a verb, from its start (`started_at`, seconds since the epoch) to its end.

    `cost_usd` is the sum over all attempts, None if any part of it is unknown. `error_type` is the class that the
    caller caught.
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
    input_tokens: int | None = None
    output_tokens: int | None = None
    estimated: bool = False
    cost_usd: Decimal | None = None
    uncertain: bool = False
    chunk_count: int | None = None
    first_chunk_s: float | None = None
    trace_id: str | None = None

    def explain(self) -> str:
        """What happened, one line an attempt."""
        head = f"call {self.id}: {self.outcome} in {self.duration_s:.2f} s for {show_usd(self.cost_usd)}"
        head += " (uncertain)" if self.uncertain else ""
        return "\n".join([head, *(attempt.line() for attempt in self.attempts)])
