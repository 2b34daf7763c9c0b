"""Limits of our own: requests and tokens a minute, and how many calls at a time.

A bucket hands out times, in the order of asking: whoever asks takes its share at once, of what will be there, and is
told when it may go. So waiting is fair without a queue, and how long it would be is known before it begins, which is
when another candidate can still be asked instead.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from llmbridge.request import check_limits
from llmbridge.waiting import Pauses


BURST_S = 6.0  # so much of a minute may go at once; then evenly. A whole minute's at once would be two in the first
LOOK_S = 0.002
START_SLOTS, FEWEST_SLOTS, MOST_SLOTS = 8, 1, 1024
MOST_COUNTERS = 10_000  # of one limit, for as many values of its tags


class Full(Exception):
    """There is no room within the time that the caller has. `wait_s`: when there may be, None if nobody can tell."""

    def __init__(self, message: str, wait_s: float | None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


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


class Bucket:
    """*per_minute* of something, as times at which it may be used."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._size = max(1.0, self._rate * BURST_S)
        self._clock = clock
        self._level = self._size
        self._at = clock()
        self._lock = threading.Lock()
        self._returned: deque[float] = deque()

    def wait_s(self, amount: float) -> float:
        """How long *amount* would have to wait now."""
        with self._lock:
            self._fill()
            return self._wait_s(amount)

    def take(self, amount: float) -> float:
        """Take *amount*, in turn; returns after how many seconds it may be used.

        More than fits into the bucket is used when that is full, and leaves a debt.
        """
        with self._lock:
            self._fill()
            wait_s = self._wait_s(amount)
            self._level -= amount
            return wait_s

    def give_back(self, amount: float) -> None:
        """Return *amount*, or take so much more if it is negative. Takes no lock: the garbage collector may call it."""
        self._returned.append(amount)

    @property
    def is_full(self) -> bool:
        return self.wait_s(self._size) <= 0

    def _wait_s(self, amount: float) -> float:
        return max(0.0, (min(amount, self._size) - self._level) / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._level += max(0.0, now - self._at) * self._rate
        self._at = max(now, self._at)
        while self._returned:
            self._level += self._returned.popleft()
        self._level = min(self._level, self._size)


class Slots:
    """So many calls at a time, given out in the order of asking."""

    def __init__(self, most: int | Literal["adaptive"], clock: Callable[[], float]) -> None:
        self._adaptive = most == "adaptive"
        self._most = float(START_SLOTS if most == "adaptive" else most)
        self._clock = clock
        self._taken: dict[object, None] = {}
        self._queue: deque[object] = deque()
        self._lock = threading.Lock()
        self._cut_at = -math.inf

    @property
    def most(self) -> int:
        """How many there are."""
        return int(self._most)

    def enter(self, patience_s: float) -> Pauses[object]:
        """Pauses until there is a slot; returns what leave() takes. Raises Full after *patience_s* seconds."""
        me = object()
        give_up = self._clock() + patience_s
        self._queue.append(me)
        try:
            while not self._sits(me):
                if self._clock() >= give_up:
                    raise Full(f"{self.most} calls are under way, which is as many as there may be", None)
                yield LOOK_S * max(1.0, len(self._queue) / 50)
        except BaseException:
            self._taken.pop(me, None)
            raise
        finally:
            self._gone(me)
        return me

    def leave(self, slot: object, *, throttled: bool = False, well: bool = False) -> None:
        """Give *slot* back, and say how it went. Takes no lock: the garbage collector may call it."""
        if self._adaptive and throttled:
            if self._clock() - self._cut_at >= 1.0:  # once for all that were refused together
                self._cut_at = self._clock()
                self._most = max(self._most / 2, FEWEST_SLOTS)
        elif self._adaptive and well and len(self._taken) >= self.most:
            self._most = min(self._most + 1 / self._most, MOST_SLOTS)
        self._taken.pop(slot, None)

    @property
    def is_idle(self) -> bool:
        return not self._taken and not self._queue

    def _sits(self, me: object) -> bool:
        with self._lock:
            if self._queue and self._queue[0] is me and len(self._taken) < self.most:
                self._taken[me] = None
                return True
            return False

    def _gone(self, me: object) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(me)


class Counter:
    """The state of one Limit, for one combination of its tags' values."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self.requests = None if limit.rpm is None else Bucket(limit.rpm, clock)
        self.tokens = None if limit.tpm is None else Bucket(limit.tpm, clock)
        self.slots = None if limit.concurrency is None else Slots(limit.concurrency, clock)

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
        self._buckets: list[tuple[Bucket, bool]] = []  # and whether it counts tokens

    def enter(self, counters: list[Counter], patience_s: float, clock: Callable[[], float]) -> Pauses[None]:
        """Pauses until every one of *counters* has room. Raises Full."""
        give_up = clock() + patience_s
        for counter in counters:
            if counter.slots is not None:
                slot = yield from counter.slots.enter(give_up - clock())
                self._slots.append((counter.slots, slot))
        wait_s = self._take(counters, give_up - clock())
        if wait_s > 0:
            yield wait_s

    def leave(self, *, used: int | None, sent: bool, throttled: bool = False, well: bool = False) -> None:
        """The attempt is over: *used* tokens if they are known. What was not sent takes nothing. Only once."""
        slots, self._slots = self._slots, []
        buckets, self._buckets = self._buckets, []
        for each, slot in slots:
            each.leave(slot, throttled=throttled, well=well)
        spent = (self._tokens if used is None else used) if sent else 0
        for bucket, of_tokens in buckets:
            if of_tokens:
                bucket.give_back(self._tokens - spent)
            elif not sent:
                bucket.give_back(1)

    def _take(self, counters: list[Counter], patience_s: float) -> float:
        """Take from every bucket or from none; returns how long to wait for it."""
        wants = [(bucket, False) for each in counters if (bucket := each.requests) is not None]
        wants += [(bucket, True) for each in counters if (bucket := each.tokens) is not None]
        longest_s = 0.0
        for bucket, of_tokens in wants:
            amount = self._tokens if of_tokens else 1
            if of_tokens and amount > bucket.per_minute:
                allowed = f"{bucket.per_minute:,.0f} a minute are allowed"
                raise Full(f"it may take {amount:,} tokens, and {allowed}", None)
            longest_s = max(longest_s, bucket.wait_s(amount))
        if longest_s > patience_s:
            raise Full(f"its limit a minute has room again in {longest_s:.1f} s", longest_s)
        for bucket, of_tokens in wants:
            longest_s = max(longest_s, bucket.take(self._tokens if of_tokens else 1))
            self._buckets.append((bucket, of_tokens))
        return longest_s


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
