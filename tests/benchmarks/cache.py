"""A warm hit: the same question again, answered from a directory."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from tests.benchmarks.clients import CACHED, FLOOR, OURS, why_not
from tests.benchmarks.contender import Stage
from tests.benchmarks.paired import Table, in_turn


ROUNDS = 25
HITS = 200  # in a round


def tables(stage: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """One. The floor is a SQLite read of 2 KB by the SHA-256 of the question."""
    all_ = stage.contenders((FLOOR, OURS) if short else CACHED)
    before = stage.server.requests()
    found = in_turn({who: functools.partial(each.took, job="hits", hits=HITS) for who, each in all_.items()}, rounds)
    assert stage.server.requests() - before < len(all_), "what should have been a hit was sent"
    absent = [reason for who in CACHED if not short and (reason := why_not(who))]
    yield Table("a warm hit", "µs", found, FLOOR, "  \n".join(absent))
