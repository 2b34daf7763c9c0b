"""Pauses, and how long a call has waited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator

from llmbridge.waiting import Waited, wait, wait_async


def clock(*times: float) -> Callable[[], float]:
    at = iter(times)
    return lambda: next(at)


def pauses() -> Generator[float, None, str]:
    yield 0.0
    yield 0.0
    return "done"


def test_waits_add_up() -> None:
    waited = Waited(clock(1.0, 1.5, 4.0, 4.25))
    for _ in range(2):
        with waited:
            pass

    assert waited.total_s == 0.75


def test_waits_at_the_same_time_count_once() -> None:
    waited = Waited(clock(1.0, 3.0))
    with waited, waited:
        pass

    assert waited.total_s == 2.0


def test_pauses_are_waited_for_and_the_work_between_them_is_not() -> None:
    both = [Waited(clock(1.0, 1.5, 4.0, 4.25)) for _ in range(2)]

    assert wait(pauses(), both[0]) == "done"
    assert asyncio.run(wait_async(pauses(), both[1])) == "done"
    assert [waited.total_s for waited in both] == [0.75, 0.75]
