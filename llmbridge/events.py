"""What happens during a call, told to whoever listens, and to the `llmbridge` logger with its facts as fields.

The event of a call that is over is its CallRecord.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

from llmbridge.record import AttemptRecord, BudgetAlert, CallRecord


log = logging.getLogger("llmbridge")
SLOW_S = 0.5
MOST_WAITING = 10_000  # events, for a listener that is slow; later ones are not told to it


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call begins: by its models in the order given, before anything is looked up or sent."""

    call_id: str
    verb: str
    models: tuple[str, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CacheHit:
    """A kept answer is served, or that of an equal call under way. `saved_usd`: what it cost once; None: unknown."""

    call_id: str
    model: str | None
    age_s: float | None
    stale: bool
    saved_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class CacheMissed:
    """The cache was asked, and has no answer of any of these models."""

    call_id: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A model was asked, or was to be, and said no; the call may go on. `attempt` has its error and what it cost."""

    call_id: str
    attempt: AttemptRecord


@dataclass(frozen=True, slots=True)
class BudgetAlerted:
    """A budget's counter has passed a mark of its `alert_at`, by this call."""

    call_id: str
    alert: BudgetAlert


@dataclass(frozen=True, slots=True)
class BreakerOpened:
    """A model is left alone for `for_s` seconds, since this call's attempt failed as others did. `kind` is "sick
    upstream" or "dead key"."""

    call_id: str
    model: str
    kind: str
    why: str
    for_s: float


Event = CallStarted | CacheHit | CacheMissed | AttemptFailed | BudgetAlerted | BreakerOpened | CallRecord
KINDS = (CallStarted, CacheHit, CacheMissed, AttemptFailed, BudgetAlerted, BreakerOpened, CallRecord)
_LEVELS: Mapping[object, int] = {
    CallStarted: logging.DEBUG,
    CacheHit: logging.DEBUG,
    CacheMissed: logging.DEBUG,
    AttemptFailed: logging.INFO,
    BreakerOpened: logging.INFO,
    CallRecord: logging.INFO,
}  # a budget's alert is said by the ledger, which also gives it without a call


class Listeners:
    """Who is told what: those that were added here, and those of *also*."""

    def __init__(self, also: Listeners | None = None) -> None:
        self._also = also
        self._all: tuple[_Listener, ...] = ()
        self._kinds: frozenset[type] = frozenset()
        self._lock = threading.Lock()

    def add(self, told: Callable[[Any], object], kinds: tuple[type, ...]) -> Callable[[], None]:
        """Tell it what is of these *kinds*; returns what ends that. Raises TypeError."""
        for kind in kinds:
            if kind not in KINDS:
                names = ", ".join(each.__name__ for each in KINDS)
                raise TypeError(f"kinds are classes of events: {names}; not {kind!r}")
        listener = _Listener(told, frozenset(kinds))
        self._set(lambda: (*self._all, listener))
        return lambda: self._set(lambda: tuple(each for each in self._all if each is not listener))

    def _set(self, changed: Callable[[], tuple[_Listener, ...]]) -> None:
        with self._lock:
            self._all = changed()
            self._kinds = frozenset(kind for each in self._all for kind in each.kinds)

    def wants(self, kind: object) -> bool:
        """Whether anybody would hear of an event of this *kind*. Costs 0.1 microseconds."""
        if self._also is not None and kind in self._also._kinds:  # noqa: SLF001
            return True
        return kind in self._kinds or (kind in _LEVELS and log.isEnabledFor(_LEVELS[kind]))

    def tell(self, event: Event) -> None:
        """Tell all who want to know. Raises nothing, and waits for nobody who was slow before."""
        kind = type(event)
        if kind in _LEVELS and log.isEnabledFor(_LEVELS[kind]):
            log.log(_LEVELS[kind], "%s", _text(event), extra={"llmbridge": facts(event)})
        self._hand_round(event, kind)
        if self._also is not None:
            self._also._hand_round(event, kind)  # noqa: SLF001

    def _hand_round(self, event: Event, kind: type) -> None:
        for listener in self._all:
            if kind in listener.kinds:
                listener.tell(event)


class _Listener:
    """One of them. It is called where the event happens, and by a thread of its own once it has taken too long: the
    event loop that it held up would hold up all other calls."""

    def __init__(self, told: Callable[[Any], object], kinds: frozenset[type]) -> None:
        self.kinds = kinds
        self._told = told
        self._failed = False
        self._slow = False
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._thread: tuple[int, threading.Thread] | None = None

    def tell(self, event: Event) -> None:
        if self._slow:
            self._hand_on(event)
            return
        started = time.monotonic()
        self._call(event)
        took_s = time.monotonic() - started
        if took_s > SLOW_S:
            self._slow = True
            log.warning(
                "a subscriber (%s) took %.1f s, and held up a call for so long; a thread tells it from now on",
                _name(self._told),
                took_s,
            )

    def _call(self, event: Event) -> None:
        try:
            self._told(event)
        except Exception:
            level = logging.DEBUG if self._failed else logging.WARNING
            self._failed = True
            log.log(level, "a subscriber (%s) failed on %s", _name(self._told), type(event).__name__, exc_info=True)

    def _hand_on(self, event: Event) -> None:
        if self._thread is None or self._thread[0] != os.getpid():  # a fork copies no thread
            self._queue = queue.SimpleQueue()
            self._thread = os.getpid(), threading.Thread(target=self._run, args=(self._queue,), daemon=True)
            self._thread[1].start()
        if self._queue.qsize() < MOST_WAITING:
            self._queue.put(event)

    def _run(self, events: queue.SimpleQueue[Event]) -> None:
        while True:
            self._call(events.get())


def facts(event: Event | BudgetAlert) -> dict[str, Any]:
    """What *event* says, for a log: plain values under names that stay, money as a number of dollars."""
    found: dict[str, Any] = {"event": _NAMES[type(event)]}
    if isinstance(event, CallRecord):
        found |= {"call_id": event.id, "attempt_count": len(event.attempts)}
        found |= {name: getattr(event, name) for name in _OF_CALL}
    elif isinstance(event, AttemptFailed):
        found |= {"call_id": event.call_id, **{name: getattr(event.attempt, name) for name in _OF_ATTEMPT}}
    else:
        found |= {each.name: getattr(event, each.name) for each in fields(event)}
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in found.items()}


_NAMES = {
    CallStarted: "call_started",
    CacheHit: "cache_hit",
    CacheMissed: "cache_missed",
    AttemptFailed: "attempt_failed",
    BudgetAlert: "budget_alerted",
    BreakerOpened: "breaker_opened",
    CallRecord: "call_completed",
}
_OF_CALL = (
    *("verb", "models", "model", "provider", "outcome", "error_type", "duration_s", "first_chunk_s"),
    *("input_tokens", "output_tokens", "cost_usd", "saved_usd", "uncertain", "cached", "stale", "refused_by", "tags"),
    "trace_id",
)
_OF_ATTEMPT = (
    *("number", "model", "provider", "reason", "error_type", "error", "kind", "status", "duration_s", "cost_usd"),
    *("uncertain", "request_id"),
)


def _text(event: Event) -> str:
    if isinstance(event, CallRecord):
        return event.explain()
    if isinstance(event, AttemptFailed):
        return f"call {event.call_id}: attempt {event.attempt.line()}: {event.attempt.error}"
    said = ", ".join(f"{name}={value}" for name, value in asdict(event).items() if name != "call_id" and value)
    return f"call {event.call_id}: {_NAMES[type(event)].replace('_', ' ')}: {said}"


def _name(told: Callable[[Any], object]) -> str:
    return str(getattr(told, "__qualname__", None) or type(told).__qualname__)
