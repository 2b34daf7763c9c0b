"""Endpoint: what this process knows of one model at one place, to decide who is asked next."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from llmbridge.fallback.backoff import RetryBudget
from llmbridge.fallback.breaker import Breaker
from llmbridge.fallback.forking import renew_after_fork
from llmbridge.fallback.limiter import Limit, Limiter
from llmbridge.redaction import is_credential
from llmbridge.request import Model, Request


NEWEST = 0.3  # the weight of the newest answer in the moving average
LATENCIES = 100  # of which "p95" is taken, from
FEWEST_LATENCIES = 20
MOST_ENDPOINTS = 2_000  # of one Bridge: each tenant may bring a key of its own
MOST_LISTS = 1_000  # of models, of which is known whose turn it is
_encode = json.JSONEncoder(sort_keys=True, default=repr).encode


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
        failed_at: the clock's time of its last failure; None: none yet.
    """

    def __init__(self, model: Model, path: Path | None, clock: Callable[[], float]) -> None:
        self.breaker = Breaker(path, clock)
        self.retries = RetryBudget(clock)
        limits = _limits(model)
        self.limiter = Limiter(Limit(*limits), clock) if any(limits) else None
        self.whole, self.first = Latency(), Latency()
        self.paused_until = 0.0
        self.failed_at: float | None = None
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

    @property
    def is_idle(self) -> bool:
        """Whether no call of this process would miss it."""
        limits = self.limiter is None or self.limiter.counter({}).is_idle
        return limits and not self._asking and self.paused_s() <= 0

    def after_fork(self) -> None:
        """In a child: the calls that are under way are the parent's."""
        self.retries.after_fork()
        self._asking.clear()

    def measured_at(self) -> float | None:
        """The clock's time at which was last seen how it is: of an answer or, before there is one, of a failure."""
        if self.whole.average_s is None and self.first.average_s is None:
            return self.failed_at
        return max(self.whole.measured_at, self.first.measured_at)

    def pause(self, seconds: float) -> None:
        """Somebody was told to come back after so many *seconds*."""
        self.paused_until = max(self.paused_until, self.clock() + seconds)

    def paused_s(self) -> float:
        """For how many seconds more it asks to be left alone."""
        return max(0.0, self.paused_until - self.clock())


class Turns:
    """How often a list of models was put in order."""

    def __init__(self) -> None:
        self.made = 0

    def next(self) -> int:
        """Count one more; returns how many there were before."""
        self.made += 1
        return self.made - 1


class Endpoints:
    """The Endpoints of one Bridge, by model, place and credentials. The oldest are forgotten if there are very many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._known: OrderedDict[tuple[object, ...], Endpoint] = OrderedDict()
        self._turns: OrderedDict[tuple[str, ...], Turns] = OrderedDict()
        self._lock = threading.Lock()
        renew_after_fork(self)

    def of(self, model: Model, request: Request, directory: Path | None) -> Endpoint:
        """That of *request*, made from *model*; what its breaker shares with other processes is in *directory*."""
        where = _identity(request.transport) if request.transport else ""
        key = (request.model, where, directory, _limits(model))
        endpoint = self._known.get(key)
        if endpoint is None:
            path = None if directory is None else directory / f"{_digest([request.model, where, _addresses()])}.json"
            with self._lock:
                endpoint = self._known.setdefault(key, Endpoint(model, path, self.clock))
                self._forget()
        return endpoint

    def turns(self, models: Sequence[Model]) -> Turns:
        """How often this list was put in order: each has turns of its own, or two lists that are asked alternately
        would each begin with the same model for ever."""
        names = tuple(model.model for model in models)
        turns = self._turns.get(names)
        if turns is None:
            with self._lock:
                turns = self._turns.setdefault(names, Turns())
                while len(self._turns) > MOST_LISTS:
                    self._turns.popitem(last=False)
        return turns

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have had the lock."""
        self._lock = threading.Lock()
        for endpoint in self._known.values():
            endpoint.after_fork()

    def _forget(self) -> None:
        while len(self._known) > MOST_ENDPOINTS:
            key, endpoint = self._known.popitem(last=False)
            if not endpoint.is_idle:
                self._known[key] = endpoint
                return


def _addresses() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.endswith(("_API_BASE", "_BASE_URL", "_HOST"))}


def _identity(transport: Mapping[str, object]) -> str:
    """Where it goes, with whose credentials. How long it may take, and headers that name no credential (a request's
    id, a trace's), make no other place."""
    found = {name: value for name, value in transport.items() if name not in ("timeout", "extra_headers")}
    headers = transport.get("extra_headers")
    if isinstance(headers, Mapping):
        found["headers"] = {name: value for name, value in headers.items() if is_credential(str(name))}
    return _digest(found)


def _limits(model: Model) -> tuple[float | None, float | None, int | Literal["adaptive"] | None]:
    return model.rpm, model.tpm, model.concurrency


def _digest(value: object) -> str:
    return hashlib.sha256(_encode(value).encode()).hexdigest()[:32]
