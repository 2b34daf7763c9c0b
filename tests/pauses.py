"""Pauses that are told and not slept: the calls of a test go at once, by a clock that has moved on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from llmbridge import Bridge, default, waiting
from llmbridge.call import Call
from llmbridge.fallback import Endpoints


LOOK_S = 0.05  # a shorter pause waits for somebody else, who needs the time


class Pauses(list[float]):
    """What whole calls have waited, in seconds."""

    now_s = 1000.0

    def clock(self) -> float:
        return self.now_s

    def spent(self, seconds: float) -> bool:
        if seconds >= LOOK_S:
            self.append(seconds)
            self.now_s += seconds
        return seconds >= LOOK_S

    def sleep(self, seconds: float) -> None:
        if not self.spent(seconds):
            time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(0 if self.spent(seconds) else seconds)

    def bridge(self, **arguments: object) -> Bridge:
        """A Bridge whose endpoints go by this clock."""
        bridge = Bridge(**arguments)  # type: ignore[arg-type]
        bridge._endpoints = Endpoints(self.clock)
        for limiter in bridge._limiters:
            limiter._clock = self.clock
        return bridge


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pauses]:
    """Every pause of a back-off or a limit, of calls of the default Bridge, which is one with the default Fallback."""
    told = Pauses()
    monkeypatch.setattr(waiting, "time", SimpleNamespace(sleep=told.sleep, monotonic=time.monotonic))
    monkeypatch.setattr(waiting, "_asleep", told.asleep)
    monkeypatch.setitem(Call.__init__.__kwdefaults__, "clock", told.clock)
    monkeypatch.setattr(default, "_bridge", told.bridge())
    yield told
