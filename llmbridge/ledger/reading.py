"""A ledger that is only asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from llmbridge.home import ledger_path
from llmbridge.ledger.questions import Questions
from llmbridge.ledger.sqlite import File
from llmbridge.ledger.upkeep import Upkeep
from llmbridge.waiting import patiently, wait


class ReadOnlyLedger(Questions):
    """The questions of a Ledger to a file in which nothing is changed, beside programs that write or alone.

    What a lapsed lease has reserved stays reserved: the next program that writes charges it.

    Raises LedgerError as Ledger does, and if there is no file at *path*, by default that of a Ledger without a path.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        patience_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path) if path is not None else ledger_path()
        self._patience_s = patience_s
        self._clock = clock
        self._file = wait(patiently(lambda: File(self.path, read_only=True), patience_s))
        self._upkeep = Upkeep(self._file, self.expire, at_once=False)  # which sleeps: nothing is written

    def expire(self) -> int:
        """Nothing, which is 0: charging is writing."""
        return 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ReadOnlyLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
