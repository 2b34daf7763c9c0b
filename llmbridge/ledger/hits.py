"""Calls that a kept answer has ended: they cost nothing, so their rows need not be written one by one.

A row a hit takes a commit of some 50 microseconds, half as much as the hit, and the lock that everybody's reservations
wait for. Together they take 10 microseconds each, in the thread that looks after the file, once a second; a report and
the end of the process write what is left. A killed process takes its last second's hits along: nothing was charged.
"""

from __future__ import annotations

from collections import deque

from llmbridge.ledger import rows
from llmbridge.ledger.sqlite import File
from llmbridge.record import CallRecord


AT_ONCE = 500  # in a transaction: others wait for it, some 5 ms
MOST = 100_000  # of a ledger that cannot be written; then the oldest are forgotten


class Hits:
    """Records that are still to be written. Adding one takes no lock: the garbage collector may end a stream."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._waiting: deque[CallRecord] = deque(maxlen=MOST)

    def add(self, record: CallRecord) -> None:
        """Have *record* written soon."""
        self._waiting.append(record)

    def write(self) -> None:
        """Write those that wait. Raises LedgerError, and then they wait on."""
        while self._waiting:
            taken: list[CallRecord] = []
            try:
                with self._file.transaction() as db:
                    taken += [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                    for record in taken:
                        rows.write_call(db, record)
            except BaseException:  # of Ctrl-C after the commit, which writes them once more, nothing is to be seen
                self._waiting.extendleft(reversed(taken))
                raise

    def after_fork(self) -> None:
        """In a child: they are the parent's to write."""
        self._waiting.clear()
