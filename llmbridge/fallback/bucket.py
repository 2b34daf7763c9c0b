"""Bucket: so much of something a minute, as times at which it may be used.

A bucket hands out times, in the order of asking: whoever asks takes its share at once, of what will be there, and is
told when it may go. So waiting is fair without a queue, and how long it would be is known before it begins, which is
when another candidate can still be asked instead.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable


BURST_S = 6.0  # so much of a minute may go at once; then evenly. A whole minute's at once would be two in the first


class Bucket:
    """*per_minute* of something, as times at which it may be used.

    In every window of T seconds no more is handed out than a burst, T seconds' worth, and what is given back in it of
    takings that were not used up.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._size = max(1.0, self._rate * BURST_S)
        self._clock = clock
        self._level = self._size
        self._at = clock()
        self._ahead: deque[tuple[float, float]] = deque()  # what was given out for times that have not come, in order
        self._returned: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()

    def wait_s(self, amount: float) -> float:
        """How long *amount* would have to wait now."""
        with self._lock:
            self._fill()
            return self._time(amount) - self._at

    def take(self, amount: float) -> float:
        """Take *amount*, in turn; returns the clock's time from which it may be used.

        More than fits into the bucket is used when that is full, and leaves a debt.
        """
        with self._lock:
            self._fill()
            at = self._time(amount)
            self._level -= amount
            if at > self._at:
                self._ahead.append((at, amount))
            return at

    def give_back(self, amount: float, at: float) -> None:
        """Return *amount* of what was taken for the time *at*, or take so much more if it is negative.

        What was not used after all counts as not used from now on: for as long as nobody knew, the bucket filled less
        than it could have. Who waits already is told no earlier time; who comes next is, though none before theirs.
        Takes no lock: the garbage collector may call it.
        """
        self._returned.append((at, amount))

    @property
    def is_full(self) -> bool:
        return self.wait_s(self._size) <= 0

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have had the lock."""
        self._lock = threading.Lock()

    def _time(self, amount: float) -> float:
        at = self._at + max(0.0, (min(amount, self._size) - self._level) / self._rate)
        return max(at, self._ahead[-1][0]) if self._ahead else at

    def _fill(self) -> None:
        now = max(self._clock(), self._at)
        self._level += (now - self._at) * self._rate
        self._at = now
        while self._ahead and self._ahead[0][0] <= now:
            self._ahead.popleft()
        if self._returned:
            self._take_back()
        if not self._ahead:
            self._level = min(self._level, self._size)

    def _take_back(self) -> None:
        returned = Counter(self._returned.popleft() for _ in range(len(self._returned)))
        self._level += sum(amount * count for (_, amount), count in returned.items())
        waiting, self._ahead = self._ahead, deque()
        for each in waiting:
            if returned[each] > 0:
                returned[each] -= 1
            else:
                self._ahead.append(each)
        self._spill()

    def _spill(self) -> None:
        """What does not fit into the bucket until those who wait use it is lost: who comes next would have it besides
        theirs, all at once."""
        at, level = self._at, self._level + sum(amount for _, amount in self._ahead)
        for next_at, amount in self._ahead:
            level = min(level + (next_at - at) * self._rate, self._size) - amount
            at = next_at
        self._level = level - (at - self._at) * self._rate
