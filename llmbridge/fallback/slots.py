"""Slots: so many calls at a time."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from llmbridge.waiting import Pauses


LOOK_S = 0.002
START_SLOTS, FEWEST_SLOTS, MOST_SLOTS = 8, 1, 1024


class Full(Exception):
    """There is no room within the time that the caller has. `wait_s`: when there may be, None if nobody can tell."""

    def __init__(self, message: str, wait_s: float | None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


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

    def enter(self, slot: object, patience_s: float) -> Pauses[None]:
        """Pauses until *slot* is among those given out, until leave(). Raises Full after *patience_s* seconds."""
        give_up = self._clock() + patience_s
        self._queue.append(slot)
        try:
            while not self._sits(slot):
                if self._clock() >= give_up:
                    raise Full(f"{self.most} calls are under way, which is as many as there may be", None)
                yield LOOK_S * max(1.0, len(self._queue) / 50)
        finally:
            self._gone(slot)

    def leave(self, slot: object, *, throttled: bool = False, well: bool = False) -> None:
        """Give *slot* back, and say how it went; also if it was never given out. Takes no lock: the garbage collector
        may call it."""
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

    def after_fork(self) -> None:
        """In a child: the calls that are under way are the parent's."""
        self._lock = threading.Lock()
        self._taken.clear()
        self._queue.clear()

    def _sits(self, slot: object) -> bool:
        with self._lock:
            if self._queue and self._queue[0] is slot and len(self._taken) < self.most:
                self._taken[slot] = None
                return True
            return False

    def _gone(self, slot: object) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(slot)
