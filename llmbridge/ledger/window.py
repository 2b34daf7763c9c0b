"""The windows that budgets count in, as instants: which one is now, when it ends, what a rolling one still counts.

All times are integer microseconds since the epoch (`*_us`). Windows of one kind and zone follow each other without gap
or overlap, whatever the zone does to its clocks: days of 22 to 26 hours, midnights that happen twice or never, a day
that a country skipped. That is because each is known by the instant it starts at, and not by its date.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


Kind = Literal["call", "rolling", "hour", "day", "week", "month", "total"]
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
STEPS = 60
_LENGTHS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Span:
    """From `starts_us` until `ends_us`, which is None for ever."""

    starts_us: int
    ends_us: int | None


_ALWAYS = Span(0, None)


@dataclass(frozen=True, slots=True)
class Window:
    """How a budget's time is cut.

    Attributes:
        kind: "day", "week" (from Monday) and "month" follow the clocks of `zone`. An "hour" is a clock hour of UTC. A
            "rolling" window looks back over `length_us`, in steps of a sixtieth of it: what was reserved counts for
            the whole length and at most one step longer. "call" is one use of a verb, "total" all time.
        length_us: of a rolling window; else 0.
    """

    kind: Kind
    length_us: int = 0
    zone: str = "UTC"
    _latest: list[Span] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def text(self) -> str:
        """As it is written in a budget: "day", "5h"."""
        if self.kind != "rolling":
            return self.kind
        length_s = self.length_us // SECOND_US
        unit = next(unit for unit in ("d", "h", "m", "s") if length_s % _LENGTHS_S[unit] == 0)
        return f"{length_s // _LENGTHS_S[unit]}{unit}"

    @property
    def step_us(self) -> int:
        """How long one counter of a rolling window lasts."""
        return self.length_us // STEPS

    def span(self, at_us: int) -> Span:
        """The window that *at_us* lies in; of a rolling one, the step."""
        if self.kind in ("call", "total"):
            return _ALWAYS
        if self.kind == "rolling":
            return _multiple(at_us, self.step_us)
        if self.kind == "hour":
            return _multiple(at_us, HOUR_US)
        for known in self._latest:  # one at most: its arithmetic takes 10 microseconds
            if known.ends_us is not None and known.starts_us <= at_us < known.ends_us:
                return known
        span = self._calendar(at_us)
        self._latest[:] = [span]
        return span

    def _calendar(self, at_us: int) -> Span:
        zone = ZoneInfo(self.zone)
        local = datetime.fromtimestamp(at_us // SECOND_US, zone).date()
        first = self._first_day(local)
        while (ends_us := _starts_us(self._next(first), zone)) <= at_us:
            first = self._next(first)
        while (starts_us := _starts_us(first, zone)) > at_us:
            first, ends_us = self._first_day(first - timedelta(days=1)), starts_us
        return Span(starts_us, ends_us)

    def counted_from_us(self, at_us: int) -> int:
        """The earliest start of a counter that counts at *at_us*."""
        if self.kind != "rolling":
            return self.span(at_us).starts_us
        return at_us - self.length_us - self.step_us + 1

    def _first_day(self, day: date) -> date:
        if self.kind == "week":
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self.kind == "month" else day

    def _next(self, first: date) -> date:
        if self.kind == "month":
            return (first + timedelta(days=32)).replace(day=1)
        return first + timedelta(days=7 if self.kind == "week" else 1)


def window(text: str, zone: str) -> Window:
    """The window that *text* names: call, hour, day, week, month, total, or a length such as "5h".

    Raises ValueError for anything else.
    """
    clocks(zone)
    return _window(text, zone)


@functools.lru_cache  # one object for equal ones, so that they remember their span together
def _window(text: str, zone: str) -> Window:
    if text in ("call", "hour", "day", "week", "month", "total"):
        return Window(text, zone=zone)  # type: ignore[arg-type]
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz ").strip()
    unit = text[len(digits) :].strip()
    if not digits.isdecimal() or unit not in _LENGTHS_S or not 0 < int(digits) <= 10_000:
        raise ValueError(f"{text!r} is no window; it is call, hour, day, week, month, total or a length such as 5h")
    return Window("rolling", int(digits) * _LENGTHS_S[unit] * SECOND_US, zone)


def clocks(zone: str) -> ZoneInfo:
    """The time zone of that name. Raises ValueError if there is none."""
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise ValueError(f"there is no time zone {zone!r}; write it as 'Europe/Berlin'") from None


def at(time_us: int, zone: str = "UTC") -> datetime:
    """*time_us* on the clocks of *zone*."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)).astimezone(ZoneInfo(zone))


def _multiple(at_us: int, length_us: int) -> Span:
    starts_us = at_us - at_us % length_us
    return Span(starts_us, starts_us + length_us)


def _starts_us(day: date, zone: ZoneInfo) -> int:
    # fold=0: of two midnights the first; of one that was skipped, the instant of the jump
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * SECOND_US
