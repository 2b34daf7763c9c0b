"""Endpoint: what this process knows of one model at one place, to decide who is asked next."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from llmbridge.fallback.backoff import RetryBudget
from llmbridge.fallback.breaker import Breaker
from llmbridge.fallback.limiter import Limit, Limiter
from llmbridge.request import Model, Request


NEWEST = 0.3  # the weight of the newest answer in the moving average
LATENCIES = 100  # of which "p95" is taken, from
FEWEST_LATENCIES = 20


class Latency:
    """How long answers took."""

    def __init__(self) -> None:
        self.average_s: float | None = None
        self.measured_at = 0.0
        self._latest: deque[float] = deque(maxlen=LATENCIES)

    def add(self, seconds: float, now: float) -> None:
        """One more answer."""
        before = self.average_s
        self.average_s = seconds if before is None else before + NEWEST * (seconds - before)
        self.measured_at = now
        self._latest.append(seconds)

    def p95_s(self) -> float | None:
        """What 95 of 100 recent answers took at most; None before there are twenty."""
        latest = sorted(self._latest)
        return latest[int(0.95 * (len(latest) - 1))] if len(latest) >= FEWEST_LATENCIES else None


class Endpoint:
    """One model, where it is asked, with whose key.

    Attributes:
        breaker, retries, limiter: see there; the limiter is of the Model's own rpm, tpm and concurrency.
        whole, first: how long whole answers took, and a stream's first content.
        paused_until: the clock's time before which a 429 asked to be left alone.
    """

    def __init__(self, model: Model, path: Path | None, clock: Callable[[], float]) -> None:
        self.breaker = Breaker(path, clock)
        self.retries = RetryBudget(clock)
        limits = _limits(model)
        self.limiter = Limiter(Limit(*limits), clock) if any(limits) else None
        self.whole, self.first = Latency(), Latency()
        self.paused_until = 0.0
        self.clock = clock
        self._asking: dict[object, None] = {}

    @property
    def under_way(self) -> int:
        """How many calls of this process are asking it."""
        return len(self._asking)

    def p95_s(self) -> float | None:
        """What 95 of 100 recent answers took at most; None before there are twenty."""
        return self.whole.p95_s() or self.first.p95_s()

    def begin(self, who: object) -> None:
        """*who* asks it, until end()."""
        self._asking[who] = None

    def end(self, who: object) -> None:
        """*who* does not any more. Safe in the garbage collector, and twice."""
        self._asking.pop(who, None)

    def pause(self, seconds: float) -> None:
        """Somebody was told to come back after so many *seconds*."""
        self.paused_until = max(self.paused_until, self.clock() + seconds)

    def paused_s(self) -> float:
        """For how many seconds more it asks to be left alone."""
        return max(0.0, self.paused_until - self.clock())


class Endpoints:
    """The Endpoints of one Bridge, by model, place and credentials."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._known: dict[tuple[object, ...], Endpoint] = {}
        self._lock = threading.Lock()
        self._turn = 0

    def of(self, model: Model, request: Request, directory: Path | None) -> Endpoint:
        """That of *request*, made from *model*; what its breaker shares with other processes is in *directory*."""
        where = _digest(request.transport) if request.transport else ""
        key = (request.model, where, directory, _limits(model))
        endpoint = self._known.get(key)
        if endpoint is None:
            with self._lock:
                path = (
                    None if directory is None else directory / f"{_digest([request.model, where, _addresses()])}.json"
                )
                endpoint = self._known.setdefault(key, Endpoint(model, path, self.clock))
        return endpoint

    def turn(self) -> int:
        """How many calls were ordered before."""
        self._turn += 1
        return self._turn - 1


def _addresses() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.endswith(("_API_BASE", "_BASE_URL", "_HOST"))}


def _limits(model: Model) -> tuple[float | None, float | None, int | Literal["adaptive"] | None]:
    return model.rpm, model.tpm, model.concurrency


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:32]
