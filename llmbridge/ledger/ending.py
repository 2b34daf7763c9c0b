"""What ledgers do at the end of a process."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from llmbridge.ledger import upkeep


if TYPE_CHECKING:
    from llmbridge.ledger.ledger import Ledger

ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()  # that are open


@atexit.register
def close_ledgers(under: Path | None = None) -> None:
    """Close every open ledger, or those in the directory *under*."""
    for ledger in list(ledgers):
        if under is None or ledger.path.is_relative_to(under):
            ledger.close()
    upkeep.join_stopped()


def _before_fork() -> None:
    """A forked child of multiprocessing ends without atexit, and forgets what was to be done at its parent's end."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _told:
        _told.append(util)
        util.register_after_fork(close_ledgers, lambda close: util.Finalize(None, close, exitpriority=50))


_told: list[object] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
