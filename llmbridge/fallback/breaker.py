"""Breaker: leave a failing endpoint alone, and let one call find out whether it is well again.

    closed -> open       half of the last minute's attempts failed, and five at least; at once for a dead key
    open -> half-open    its time is over: 5 s, doubled with each opening in a row, up to 5 min
    half-open            one call goes through, the probe; the others are refused as before
    half-open -> closed  the probe was answered;  -> open if it failed;  as before if it was cancelled

What counts is the upstream's health: 5xx, no connection, silence. A 429, a refusal and a wrong request say that
somebody is there. The count is each process's own. That a breaker is open is written to a small file, for all processes
that share the directory, so that a new one does not learn it the hard way; who probes is a lock on it, which the kernel
gives back when its holder dies. Those of four Python libraries were tried: half-open, each let 50 of 50 calls through.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from llmbridge.fallback.opening import LONGEST_OPEN_S, Opening, key_of, shared_at


WINDOW_S = 60.0
FEWEST = 5
RATE = 0.5
OPEN_S, DEAD_KEY_S = 5.0, 30.0
Verdict = Literal["well", "sick", "dead key", "unknown"]


class Breaker:
    """Of one model at one endpoint. Safe for threads; what is called at the end of a call takes no lock that another
    part of the same thread may hold, since the garbage collector can be what ends it."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared_at(path)
        self._clock = clock
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=1000)

    def opening(self) -> Opening | None:
        """Why calls are refused now, or None. Costs a look at a file, 2 microseconds.

        In the half-open state that depends on whether somebody probes; enter() decides.
        """
        opening = self._current()
        if opening is None or (opening.left_s(self._clock()) <= 0 and not self._shared.is_probed()):
            return None
        return opening

    def enter(self) -> Passage | None:
        """Let a call through, or not. Its end is told to the Passage, once."""
        opening = self._current()
        if opening is None:
            return Passage(self)
        if opening.left_s(self._clock()) > 0:
            return None
        probe = Passage(self, opening)  # first: what it holds is given back, whatever interrupts the next lines
        if not self._shared.probe():
            probe.void()
            return None
        latest = self._current()  # another probe may have ended since
        if latest == opening:
            return probe
        probe.end("unknown")
        return Passage(self) if latest is None else None

    def told(self, verdict: Verdict, why: str, before: Opening | None) -> Opening | None:
        """What became of a call that went through; as the probe of *before*, if that is given. Returns the opening, if
        this has opened it."""
        try:
            if verdict == "dead key":
                return self._dead(why, before)
            if verdict == "sick" and before is not None:
                return self._open("sick upstream", f"it was asked again, and failed: {why}", before)
            if verdict == "sick":
                return self._sick(why)
            if verdict == "well":
                self._outcomes.append((self._clock(), True))
                if before is not None:
                    self._shared.write(None)
            return None
        finally:
            if before is not None:
                self._shared.end_probe()

    def _current(self) -> Opening | None:
        opening = self._shared.read()
        return None if opening is None or opening.is_of_another_key else opening

    def _dead(self, why: str, before: Opening | None) -> Opening | None:
        now = self._current()
        if before is not None or now is None or now.kind != "dead key":
            return self._open("dead key", why, before)
        return None  # it was sent before the opening

    def _sick(self, why: str) -> Opening | None:
        if self._current() is not None:
            return None  # it was sent before the opening
        now = self._clock()
        self._outcomes.append((now, False))
        recent = [well for at, well in list(self._outcomes) if now - at <= WINDOW_S]
        failed = recent.count(False)
        if failed >= FEWEST and failed >= RATE * len(recent):
            return self._open("sick upstream", f"{failed} of the last {len(recent)} attempts failed: {why}", None)
        return None

    def _open(self, kind: str, why: str, before: Opening | None) -> Opening:
        times = 1 if before is None else before.times + 1
        first_s = DEAD_KEY_S if kind == "dead key" else OPEN_S
        for_s = min(first_s * 2 ** min(times - 1, 10), LONGEST_OPEN_S)
        self._outcomes.clear()
        key = key_of() if kind == "dead key" else ""
        opening = Opening(self._clock(), for_s, times, kind, why, key)
        self._shared.write(opening)
        return opening


class Passage:
    """One call on its way through a breaker; as the probe, if it was *half_open*."""

    __slots__ = ("_breaker", "_done", "_half_open")

    def __init__(self, breaker: Breaker, half_open: Opening | None = None) -> None:
        self._breaker, self._half_open = breaker, half_open
        self._done = False

    @property
    def is_probe(self) -> bool:
        return self._half_open is not None

    def void(self) -> None:
        """It was not let through: nothing is to be told."""
        self._done = True

    def end(self, verdict: Verdict, why: str = "") -> Opening | None:
        """Tell what became of it; only the first time counts. "unknown" (cancelled, left) changes nothing. Returns the
        opening, if this has opened the breaker."""
        if self._done:
            return None
        self._done = True
        return self._breaker.told(verdict, why, self._half_open)

    def __del__(self) -> None:
        self.end("unknown")
