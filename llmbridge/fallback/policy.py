"""Fallback: what is asked next after a failure, within one bound for the whole call."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from llmbridge.errors import InvalidOutput, ProviderError, ProviderTimeout
from llmbridge.exchange import Guards
from llmbridge.fallback.backoff import backoff_s
from llmbridge.fallback.strategies import STRATEGIES, Strategy
from llmbridge.money import checked_nanousd
from llmbridge.request import Models, check_seconds, models_of


Does = Literal["retry", "next", "later", "repair", "stop"]
OnStreamBreak = Literal["raise", "restart"]
ATTEMPTS = 6  # over all candidates, unless there are more of them
LONGEST_WAIT_S = 60.0  # for one provider that asks for patience; who asks for more will not answer within this call

# kind -> (the same model again, another model). A request that is wrong for one provider is wrong for all, a refusal is
# an answer, and what the reader has already seen cannot be unseen.
KINDS: dict[str, tuple[bool, bool]] = {
    "dead key": (False, True),
    "throttled": (True, True),
    "sick upstream": (True, True),
    "too long": (False, True),
    "not found": (False, True),
    "bad answer": (False, True),
    "refused": (False, False),
    "bad request": (False, False),
    "interrupted": (False, False),
}


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after a failure: *pause_s* before the same model is asked again. *final*: it is stopped because
    nobody would do better, and not because nobody is left."""

    does: Does
    pause_s: float = 0.0
    final: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a call stands when an attempt has failed.

    Attributes:
        made: attempts so far, over all candidates.
        here: those of this candidate.
        most: how many there may be in all.
        others: whether another candidate is left.
        remaining_s: until the call's deadline.
        repaired: this attempt was shown a wrong answer.
        draw: a random number from 0 to 1.
        spend_retry: takes one from the candidate's retry budget; False if there is none.
    """

    made: int
    here: int
    most: int
    others: bool
    remaining_s: float
    repaired: bool
    draw: float
    spend_retry: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Fallback:
    """Which models may be asked, in which order, and how far a call goes to get an answer.

    Args:
        models: the candidates: names, Models, or a list of them. Empty: those of the call, or of the Bridge.
        strategy: how they are ordered: "priority" (as they are given), "round_robin", "weighted", "least_cost",
            "least_latency", "least_busy", "quality", "balanced", "local_first", "capability"; or a function that takes
            a list of Candidates and returns those to ask, in order.
        retries: how often the same model may be asked again after a failure that may pass (429, 5xx, no connection,
            silence), within its retry budget. After silence another model is asked first, if there is one.
        attempts: the bound over all candidates and retries together; None: 6, or one for each candidate if there are
            more.
        deadline_s: the bound on the whole call in seconds; None: the call's, or the Bridge's.
        max_usd: the bound on what all attempts together may cost, in US dollars; None: none but the budgets.
        backoff_s: the first pause before the same model is asked again is up to so many seconds; it doubles each time
            (with full jitter, as in AWS's "Exponential Backoff and Jitter"), up to 20 s. A provider's own word
            (Retry-After) goes before it.
        patience_s: how long to wait for one model, in seconds, while another one could be asked instead.
        on: after which failures to go on: kinds ("throttled", "refused", ...), or a function that takes the error and
            returns whether. None: after those of the table in this module.
        accept: takes a Completion and returns whether it will do; if not, the next candidate is asked. What the
            rejected one cost stays booked.
        hedge_after_s: ask the next candidate, too, when the first one has not answered after so many seconds, or after
            "p95" of its recent answers; the first good answer wins. Both are reserved, and what the other one may have
            cost is charged.
        on_stream_break: what a reader gets when a stream breaks off after content: "raise" StreamInterrupted, or
            "restart": a chunk with `restarted`, then the next candidate's answer from its start.
        first_chunk_s: how long to wait for a stream's first content, in seconds.
        chunk_gap_s: how long to wait between two chunks, in seconds.
        commit_chunks, min_chunks_per_s: hold back a stream's first chunks with content until so many have come, at that
            pace or faster; else the next candidate is asked.
        breaker: leave out, for a while, models that fail. False: ask whoever is next, whatever is known of it.
        local_only: never send anything to another machine. A candidate that could go elsewhere (a provider that does
            not run here, an address that is not loopback, a proxy) or an image that would have to be fetched is a
            ValueError before anything is sent.

    Raises TypeError or ValueError for what can never apply.
    """

    models: Models = ()
    strategy: str | Strategy = "priority"
    retries: int = 2
    attempts: int | None = None
    deadline_s: float | None = None
    max_usd: Decimal | float | str | None = None
    backoff_s: float = 0.5
    patience_s: float = 2.0
    on: Collection[str] | Callable[[ProviderError], bool] | None = None
    accept: Callable[[Any], bool] | None = None
    hedge_after_s: float | Literal["p95"] | None = None
    on_stream_break: OnStreamBreak = "raise"
    first_chunk_s: float | None = None
    chunk_gap_s: float | None = None
    commit_chunks: int = 1
    min_chunks_per_s: float | None = None
    breaker: bool = True
    local_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", models_of(self.models))
        if not callable(self.strategy) and self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is one of {', '.join(STRATEGIES)}, or a function, not {self.strategy!r}")
        if self.on_stream_break not in get_args(OnStreamBreak):
            raise ValueError(f"on_stream_break is 'raise' or 'restart', not {self.on_stream_break!r}")
        _check_counts(self)
        for name in ("deadline_s", "backoff_s", "patience_s", "first_chunk_s", "chunk_gap_s", "min_chunks_per_s"):
            if getattr(self, name) != 0 or name != "patience_s":
                check_seconds(name, getattr(self, name))
        if self.hedge_after_s != "p95":
            check_seconds("hedge_after_s", self.hedge_after_s)
        if self.max_usd is not None:
            checked_nanousd(self.max_usd)
        object.__setattr__(self, "on", _checked_kinds(self.on))

    def most(self, candidates: int) -> int:
        """How many attempts a call with so many candidates may make."""
        return self.attempts if self.attempts is not None else max(ATTEMPTS, candidates)

    def guards(self, first_chunk_s: float | None, chunk_gap_s: float | None) -> Guards:
        """What is asked of a stream's pace, by a call or else by this policy."""
        check_seconds("first_chunk_s", first_chunk_s)
        check_seconds("chunk_gap_s", chunk_gap_s)
        return Guards(
            first_chunk_s or self.first_chunk_s,
            chunk_gap_s or self.chunk_gap_s,
            self.commit_chunks,
            self.min_chunks_per_s,
        )

    def after(self, error: ProviderError, now: Situation) -> Step:
        """What to do after *error*. Pure, but for the retry that it may take from the budget."""
        again, another = self._table(error)
        if not (again or another):
            return Step("stop", final=True)
        if now.made >= now.most or now.remaining_s <= 0:
            return Step("stop")
        if isinstance(error, InvalidOutput) and error.repairable and not now.repaired:
            return Step("repair")
        silent = isinstance(error, ProviderTimeout) and now.others  # which has taken its time already
        if again and not silent and now.here <= self.retries:
            pause_s = self._pause_s(error, now)
            enough_s = self.patience_s if now.others else min(LONGEST_WAIT_S, now.remaining_s)
            longest_s = min(LONGEST_WAIT_S, now.remaining_s)
            if pause_s <= longest_s and (now.others or pause_s <= enough_s) and now.spend_retry():
                return Step("retry" if pause_s <= enough_s else "later", pause_s)
        return Step("next" if another and now.others else "stop")

    def _table(self, error: ProviderError) -> tuple[bool, bool]:
        again, another = KINDS[error.kind]
        if self.on is None:
            return again, another
        wanted = self.on(error) if callable(self.on) else error.kind in self.on
        return (again, True) if wanted else (False, False)

    def _pause_s(self, error: ProviderError, now: Situation) -> float:
        word_s = error.retry_after_s
        if word_s:  # 0 says nothing: the provider has just refused
            # a little later than it says: everybody else comes back at that very moment
            return max(word_s, min(word_s + now.draw * min(0.1 * word_s, 1.0), LONGEST_WAIT_S))
        return backoff_s(self.backoff_s, now.here, now.draw, throttled=error.kind == "throttled")


def _checked_kinds(on: Any) -> tuple[str, ...] | Callable[[ProviderError], bool] | None:
    if on is None or callable(on):
        return on  # type: ignore[no-any-return]
    if isinstance(on, str):
        raise TypeError(f"on is a list of kinds, such as ({on!r},), or a function")
    kinds = tuple(on)
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"on names kinds of failure: {', '.join(KINDS)}; not {kind!r}")
    return kinds


def _check_counts(policy: Fallback) -> None:
    for name, least in (("retries", 0), ("attempts", 1), ("commit_chunks", 1)):
        value = getattr(policy, name)
        if value is None and name == "attempts":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is a whole number, {least} or more, not {value!r}")
    pace = policy.min_chunks_per_s
    if pace is not None and (policy.commit_chunks < 2 or not math.isfinite(pace)):
        raise ValueError("min_chunks_per_s needs commit_chunks=2 or more: the chunks whose pace is looked at")
