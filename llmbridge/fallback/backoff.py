"""How long to wait before the same model is asked again, and how often that may be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


LONGEST_S = 20.0
RETRY_SHARE = 0.1
RETRY_RESERVE = 10.0


def backoff_s(first_s: float, tries: int, draw: float, *, throttled: bool = False) -> float:
    """The pause after the *tries*-th failure: up to *first_s*, doubled for each one more, with full jitter.

    *draw* is a random number from 0 to 1. After a 429 at least half of it: full jitter alone spends all retries within
    seconds of a limit by the minute.
    """
    most_s: float = min(first_s * 2 ** min(tries - 1, 64), LONGEST_S)
    return most_s * (0.5 + draw / 2 if throttled else draw)


class RetryBudget:
    """How many retries one endpoint may get: a tenth of its recent requests, and ten a minute besides.

    So that a provider which fails under load is not asked three times as often for it. As in Finagle's RetryBudget and
    gRPC's A6, as a bucket: each request adds a tenth of a retry, time adds ten a minute, up to ten in all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = RETRY_RESERVE
        self._at = clock()

    def request(self) -> None:
        """Count a request that is no retry."""
        with self._lock:
            self._tokens = min(self._tokens + RETRY_SHARE, RETRY_RESERVE)

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have had the lock."""
        self._lock = threading.Lock()

    def spend(self) -> bool:
        """Take one retry; False if there is none."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._tokens + (now - self._at) * RETRY_RESERVE / 60, RETRY_RESERVE)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
