"""Limits of our own: requests and tokens a minute, and how many calls at a time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from llmbridge.fallback.bucket import Bucket
from llmbridge.fallback.forking import renew_after_fork
from llmbridge.fallback.slots import Full, Slots
from llmbridge.request import check_limits
from llmbridge.waiting import Pauses


MOST_COUNTERS = 10_000  # of one limit, for as many values of its tags


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may be asked of the models that it is for.

    Args:
        rpm: requests a minute.
        tpm: tokens a minute, in and out: taken by the worst case, and corrected by what was used.
        concurrency: calls at a time, in this process. "adaptive": as many as go well: one more after each round of
            answers, half as many after a 429; a 5xx lets it grow no further.
        per: names of tags; each combination of their values has a limit of its own: ("user",).
        models: patterns of the models that it counts, together: ("openai/*",). Empty: all.

    rpm and tpm are token buckets: up to a tenth of a minute's worth at once, then evenly. Counted in this process.
    """

    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | Literal["adaptive"] | None = None
    per: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("per", "models"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is a list, such as ({getattr(self, name)!r},)")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_limits(self.rpm, self.tpm, self.concurrency)
        if self.rpm is None and self.tpm is None and self.concurrency is None:
            raise ValueError("a Limit has rpm=, tpm= or concurrency=")

    def covers(self, model: str) -> bool:
        """Whether *model* counts."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


class Counter:
    """The state of one Limit, for one combination of its tags' values."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self.requests = None if limit.rpm is None else Bucket(limit.rpm, clock)
        self.tokens = None if limit.tpm is None else Bucket(limit.tpm, clock)
        self.slots = None if limit.concurrency is None else Slots(limit.concurrency, clock)

    def after_fork(self) -> None:
        """In a child."""
        for each in (self.requests, self.tokens, self.slots):
            if each is not None:
                each.after_fork()

    @property
    def is_idle(self) -> bool:
        """Whether it says the same as a new one."""
        buckets = all(bucket is None or bucket.is_full for bucket in (self.requests, self.tokens))
        return buckets and (self.slots is None or self.slots.is_idle)


class Limiter:
    """One Limit, with a Counter for each combination of its tags' values."""

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._counters: OrderedDict[tuple[str | None, ...], Counter] = OrderedDict()
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """In a child."""
        self._lock = threading.Lock()
        for counter in self._counters.values():
            counter.after_fork()

    def counter(self, tags: Mapping[str, str]) -> Counter:
        """That of *tags*; made if there is none."""
        values = tuple(tags.get(name) for name in self.limit.per)
        counter = self._counters.get(values)
        if counter is None:
            with self._lock:
                counter = self._counters.setdefault(values, Counter(self.limit, self._clock))
                self._forget()
        return counter

    def _forget(self) -> None:
        """Drop what says nothing any more, oldest first, if there are very many."""
        while len(self._counters) > MOST_COUNTERS:
            values, counter = self._counters.popitem(last=False)
            if not counter.is_idle:
                self._counters[values] = counter
                return


class Entry:
    """What one attempt has taken of its limits; given back, or corrected, at its end."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._slots: list[tuple[Slots, object]] = []
        self._buckets: list[tuple[Bucket, bool, float]] = []  # whether it counts tokens, and for which time

    def enter(self, counters: list[Counter], patience_s: float, clock: Callable[[], float]) -> Pauses[None]:
        """Pauses until every one of *counters* has room. Raises Full."""
        give_up = clock() + patience_s
        for counter in counters:
            if counter.slots is not None:
                slot = object()
                self._slots.append((counter.slots, slot))  # first: what interrupts the next line gives it back
                yield from counter.slots.enter(slot, give_up - clock())
        wait_s = self._take(counters, give_up, clock)
        if wait_s > 0:
            yield wait_s

    def leave(self, *, used: int | None, sent: bool, throttled: bool = False, well: bool = False) -> None:
        """The attempt is over: *used* tokens if they are known. What was not sent takes nothing. Only once."""
        slots, self._slots = self._slots, []
        buckets, self._buckets = self._buckets, []
        for each, slot in slots:
            each.leave(slot, throttled=throttled, well=well)
        spent = (self._tokens if used is None else used) if sent else 0
        for bucket, of_tokens, at in buckets:
            if of_tokens:
                bucket.give_back(self._tokens - spent, at)
            elif not sent:
                bucket.give_back(1, at)

    def __del__(self) -> None:
        self.leave(used=None, sent=False)

    def _take(self, counters: list[Counter], give_up: float, clock: Callable[[], float]) -> float:
        """Take from every bucket or from none; returns how long to wait for it."""
        wants = [(bucket, False) for each in counters if (bucket := each.requests) is not None]
        wants += [(bucket, True) for each in counters if (bucket := each.tokens) is not None]
        for bucket, of_tokens in wants:
            if of_tokens and self._tokens > bucket.per_minute:
                allowed = f"{bucket.per_minute:,.0f} a minute are allowed"
                raise Full(f"it may take {self._tokens:,} tokens, and {allowed}", None)
        amounts = [(bucket, self._tokens if of_tokens else 1) for bucket, of_tokens in wants]
        _check_wait(max((bucket.wait_s(amount) for bucket, amount in amounts), default=0.0), give_up - clock())
        for (bucket, of_tokens), (_, amount) in zip(wants, amounts, strict=True):
            self._buckets.append((bucket, of_tokens, bucket.take(amount)))
        wait_s = max([at - clock() for _, _, at in self._buckets], default=0.0)
        _check_wait(wait_s, give_up - clock())  # other threads may have taken theirs in between
        return wait_s


def _check_wait(wait_s: float, patience_s: float) -> None:
    if wait_s > max(patience_s, 0.0):
        raise Full(f"its limit a minute has room again in {wait_s:.1f} s", wait_s)


def enter(counters: list[Counter], tokens: int, patience_s: float, clock: Callable[[], float]) -> Pauses[Entry]:
    """Pauses until every one of *counters* has room for one more call, of so many *tokens* at most.

    Raises Full if that takes longer than *patience_s* seconds, or for ever.
    """
    entry = Entry(tokens)
    done = False
    try:
        yield from entry.enter(counters, patience_s, clock)
        done = True
        return entry
    finally:
        if not done:
            entry.leave(used=0, sent=False)
