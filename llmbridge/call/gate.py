"""The gate before an attempt: its back-off, the model's breaker, and the limits of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llmbridge import provider
from llmbridge.call.course import Ask
from llmbridge.call.planning import broken
from llmbridge.errors import (
    AuthenticationFailed,
    LLMBridgeError,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from llmbridge.fallback import Endpoint
from llmbridge.fallback.breaker import Passage, Verdict
from llmbridge.fallback.limiter import Counter, Entry, Limiter, enter as enter_limits
from llmbridge.fallback.opening import Opening
from llmbridge.fallback.policy import LONGEST_WAIT_S
from llmbridge.fallback.slots import Full
from llmbridge.record import AttemptRecord
from llmbridge.waiting import Pauses


ANSWER_TOKENS = 500  # what an answer without a cap is taken for, until its usage is known


class Closed(Exception):
    """This candidate cannot be asked now; `error` says so to the caller if there is no other. `reason` is what keeps
    it, in a word: breaker, throttled or limit."""

    def __init__(self, reason: str, why: str, error: LLMBridgeError) -> None:
        super().__init__(why)
        self.reason = reason
        self.why = why
        self.error = error


@dataclass(frozen=True, slots=True)
class Terms:
    """How an attempt may pass: how long it may wait, and by which limits besides the model's own."""

    remaining_s: float
    patience_s: float  # while another candidate could be asked instead
    breaker: bool
    limiters: Sequence[Limiter]
    tags: Mapping[str, str]
    clock: Callable[[], float]


class Entrance:
    """An attempt that passed the gate: what it took of the limits, and where its end is told."""

    def __init__(self, endpoint: Endpoint, entry: Entry | None, passage: Passage | None) -> None:
        self._endpoint, self._entry, self._passage = endpoint, entry, passage
        endpoint.begin(self)

    def end(
        self,
        record: AttemptRecord,
        error: ProviderError | None = None,
        *,
        in_time: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Opening | None:
        """The attempt is over: by an answer, with these *headers*, by *error*, or in a way that says nothing of the
        provider (then *record* has neither). Returns the opening of the breaker, if this has opened it. May run in the
        garbage collector."""
        endpoint = self._endpoint
        answered = record.outcome == "answered"
        alive = answered or (error is None and record.first_chunk_s is not None)  # left early, but it spoke
        endpoint.end(self)
        throttled = isinstance(error, ProviderRateLimited)
        opened = None
        if self._passage is not None:
            opened = self._passage.end(
                _verdict(alive, error, in_time=in_time), "" if error is None else _in_short(error)
            )
        if self._entry is not None:
            known = record.input_tokens is not None and record.output_tokens is not None
            used = (record.input_tokens or 0) + (record.output_tokens or 0) if known else None
            self._entry.leave(used=used, sent=record.sent, throttled=throttled, well=answered)
        pause_s = error.retry_after_s if throttled and error else provider.exhausted_s(headers) if headers else None
        if pause_s:
            endpoint.pause(min(pause_s, LONGEST_WAIT_S))
        if error is not None:
            endpoint.failed_at = endpoint.clock()
        if answered:
            latency = endpoint.whole if record.first_chunk_s is None else endpoint.first
            latency.add(record.duration_s if record.first_chunk_s is None else record.first_chunk_s, endpoint.clock())
        return opened


def enter(ask: Ask, terms: Terms, *, others: bool) -> Pauses[Entrance]:
    """Pauses until *ask* may be sent, as far as it is not a matter of money. Raises Closed."""
    endpoint = ask.candidate.endpoint
    longest_s = min(LONGEST_WAIT_S, terms.remaining_s)
    patience_s = min(terms.patience_s, longest_s) if others else longest_s
    if (pause_s := ask.not_before - terms.clock()) > 0:
        yield pause_s
    if terms.breaker and endpoint.breaker.opening() is not None:
        raise _open(ask)
    if (paused_s := endpoint.paused_s()) > 0:
        if paused_s > patience_s:
            raise _paused(ask, paused_s)
        yield paused_s
    entry = yield from _limits(ask, terms, patience_s if others else terms.remaining_s)
    passage = endpoint.breaker.enter() if terms.breaker else None
    if terms.breaker and passage is None:
        if entry is not None:
            entry.leave(used=0, sent=False)
        raise _open(ask)
    return Entrance(endpoint, entry, passage)


def _limits(ask: Ask, terms: Terms, patience_s: float) -> Pauses[Entry | None]:
    own = ask.candidate.endpoint.limiter
    counters = [] if own is None else [own.counter({})]
    counters += [each.counter(terms.tags) for each in terms.limiters if each.limit.covers(ask.request.model)]
    if not counters:
        return None
    try:
        return (yield from enter_limits(counters, _tokens(ask, counters), patience_s, terms.clock))
    except Full as full:
        why = str(full)
        wait_s = full.wait_s
    message = f"{ask.request.model} was not asked: {why}; wait, raise the limit or deadline_s, or name another model"
    raise Closed("limit", why, RateLimited(message, retry_after_s=wait_s))


def _tokens(ask: Ask, counters: Sequence[Counter]) -> int:
    if all(counter.tokens is None for counter in counters):
        return 0
    asked = provider.estimated_tokens(ask.request)
    return asked if ask.request.verb == "embeddings" else asked + (provider.output_cap(ask.request) or ANSWER_TOKENS)


def _open(ask: Ask) -> Closed:
    """The error that a call gets which could only have asked this candidate: of the kind that opened the breaker."""
    opening = ask.candidate.endpoint.breaker.opening()
    why = broken(ask.candidate) or "its breaker is open: another call finds out whether it is well again"
    dead = opening is not None and opening.kind == "dead key"
    left_s = None if opening is None else max(opening.left_s(ask.candidate.endpoint.clock()), 0.0)
    return _closed("breaker", ask, why, AuthenticationFailed if dead else ProviderUnavailable, left_s)


def _paused(ask: Ask, paused_s: float) -> Closed:
    why = f"it asked to be left alone for {paused_s:.1f} s more"
    return _closed("throttled", ask, why, ProviderRateLimited, paused_s)


def _closed(reason: str, ask: Ask, why: str, kind: type[ProviderError], retry_after_s: float | None) -> Closed:
    error = kind(
        f"{ask.request.model} was not asked: {why}",
        model=ask.request.model,
        provider=ask.request.provider,
        retry_after_s=retry_after_s,
        sent=False,
    )
    return Closed(reason, why, error)


def _verdict(alive: bool, error: ProviderError | None, *, in_time: bool) -> Verdict:
    if alive:
        return "well"
    if error is None or (isinstance(error, ProviderTimeout) and not in_time):
        return "unknown"  # it may have been the call's deadline that was short
    if error.kind == "dead key":
        return "dead key"
    return "sick" if error.kind in ("sick upstream", "interrupted") else "well"


def _in_short(error: ProviderError) -> str:
    return f"HTTP {error.status}" if error.status else type(error).__name__
