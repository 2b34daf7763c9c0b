"""Pairs: what is compared runs in turn, round by round, and each round is compared with itself.

So a machine that others use is as busy for the one as for the other. CPU time stands beside the wall's: it does not
count what others do, but for the caches that they empty.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Took(NamedTuple):
    """What one took, in seconds; CPU of all threads, None if nobody can tell."""

    wall_s: float
    cpu_s: float | None


Way = Callable[[], Took]
UNITS = {"s": 1.0, "ms": 1e3, "µs": 1e6}


def cpu_s() -> float:
    """What this process has taken in all its threads, and its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def way(work: Callable[[], object], count: int = 1) -> Way:
    """What *work* takes, on average over *count*."""

    def run() -> Took:
        started, cpu = time.perf_counter(), cpu_s()
        for _ in range(count):
            work()
        return Took((time.perf_counter() - started) / count, (cpu_s() - cpu) / count)

    return run


def in_turn(ways: Mapping[str, Way], rounds: int) -> dict[str, list[Took]]:
    """What each took, round by round, after one that does not count. Every other round runs backwards."""
    found: dict[str, list[Took]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        gc.collect()
        for name in list(ways) if number % 2 else reversed(ways):
            found[name].append(ways[name]())
    return {name: each[1:] for name, each in found.items()}


@dataclass(frozen=True)
class Table:
    """What was found, as people and programs read it. Ratios are those of *reference*, round by round."""

    title: str
    unit: str
    found: Mapping[str, Sequence[Took]]
    reference: str
    note: str = ""

    def rows(self) -> dict[str, dict[str, Any]]:
        """Of each way: wall and CPU time in the unit, and their ratios; median, least and greatest, or None."""
        factor = UNITS[self.unit]
        wall, cpu = ({name: [took[at] for took in each] for name, each in self.found.items()} for at in (0, 1))
        return {
            name: {
                "wall": _spread([value * factor for value in wall[name]]),
                "cpu": _spread([None if value is None else value * factor for value in cpu[name]]),
                "ratio": _spread(list(map(_ratio, wall[name], wall[self.reference]))),
                "cpu_ratio": _spread(list(map(_ratio, cpu[name], cpu[self.reference]))),
            }
            for name in self.found
        }

    def data(self) -> dict[str, Any]:
        """For JSON."""
        rounds = len(self.found[self.reference])
        about = {"title": self.title, "unit": self.unit, "reference": self.reference, "rounds": rounds}
        return {**about, "note": self.note, "rows": self.rows()}

    def __str__(self) -> str:
        lines = [
            f"| {self.title} | {self.unit} | from, to | ratio | from, to | CPU, {self.unit} | ratio |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for name, row in self.rows().items():
            parts = [*_said(row["wall"]), *_said(row["ratio"]), _said(row["cpu"])[0], _said(row["cpu_ratio"])[0]]
            lines.append(f"| {' | '.join([name, *parts])} |")
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


def more(found: Mapping[str, Sequence[Took]], name: str, reference: str) -> str:
    """How much more than *reference* it took, in microseconds: the median over the rounds."""
    pairs = list(zip(found[name], found[reference], strict=True))
    wall = statistics.median(a.wall_s - b.wall_s for a, b in pairs) * 1e6
    cpu = statistics.median((a.cpu_s or 0) - (b.cpu_s or 0) for a, b in pairs) * 1e6
    return f"{name}: {wall:+,.1f} µs, {cpu:+,.1f} µs of CPU, against {reference}."


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine is not None and theirs else None


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {"median": statistics.median(known), "min": min(known), "max": max(known)} if known else None


def _said(spread: dict[str, float] | None) -> tuple[str, str]:
    if spread is None:
        return "", ""
    middle, least, most = (_number(spread[name]) for name in ("median", "min", "max"))
    return middle, f"{least} to {most}"


def _number(value: float) -> str:
    """Three digits that count, and no more of a large one's than its whole ones."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
