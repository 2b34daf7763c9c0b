"""Pauses, and the two ways to spend them.

Whatever has to wait (a locked ledger, a back-off, a rate limit, another caller's flight) is written once, as a
generator that yields pauses in seconds; the sync verbs spend them asleep, the async verbs on the event loop. So a
cancellation can only land in a pause, between two steps of work and never inside one. Worker threads were tried
instead for the ledger: a cancelled task cannot stop its thread, and 13 to 26 of 60 reservations leaked per run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable


def wait(pauses: Iterable[float]) -> None:
    """Spend *pauses* (seconds) asleep."""
    for pause_s in pauses:
        time.sleep(pause_s)


async def wait_async(pauses: Iterable[float]) -> None:
    """Spend *pauses* (seconds) without blocking the event loop."""
    for pause_s in pauses:
        await asyncio.sleep(pause_s)
