"""Memory after each so many calls, every one another question: does it level off?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.clients import LITELLM, OURS
from tests.benchmarks.contender import Stage


ROUNDS = 5
CALLS, AT_ONCE = 10_000, 500  # in a round; in a turn
MEBI = 2**20


@dataclass(frozen=True)
class Memory:
    """What each had in use, in MiB, after a turn that warmed it up and after each round."""

    calls: int
    found: dict[str, list[float]]

    def data(self) -> dict[str, Any]:
        """For JSON."""
        rows = {name: {"mib": each, "more": each[-1] - each[0]} for name, each in self.found.items()}
        return {"title": "memory", "unit": "MiB", "calls": self.calls, "rows": rows}

    def __str__(self) -> str:
        rounds = len(next(iter(self.found.values()))) - 1
        heads = " | ".join(f"{self.calls * number:,}" for number in range(rounds + 1))
        lines = [f"| MiB in use after so many calls | {heads} | growth |", "|---" + "|--:" * (rounds + 2) + "|"]
        for name, each in self.found.items():
            said = " | ".join(f"{value:.1f}" for value in each)
            lines.append(f"| {name} | {said} | {each[-1] - each[0]:+.1f} |")
        return "\n".join(lines)


def tables(stage: Stage, rounds: int, *, short: bool = False) -> Iterator[Memory]:
    """One of calls that are sent, sixteen at a time, and one of hits; on a stage of its own each."""
    calls = CALLS // 20 if short else CALLS
    who = (OURS,) if short else (LITELLM, OURS)
    sent: dict[str, Any] = {"job": "calls", "verb": "acomplete", "calls": min(AT_ONCE, calls), "concurrent": 16}
    for names, job in ((who, sent), ((OURS,), {"job": "hits", "hits": min(AT_ONCE, calls)})):
        with Stage() as fresh:  # whose processes have done nothing yet
            all_ = fresh.contenders(names)
            found: dict[str, list[float]] = {each: [] for each in names}
            for number in range(rounds + 1):
                for each in names:
                    for _ in range(calls // min(AT_ONCE, calls) if number else 1):
                        all_[each].do(**job)
                    found[each].append(all_[each].do(job="memory") / MEBI)
        yield Memory(calls, {f"{each}, {job['job']}": values for each, values in found.items()})
