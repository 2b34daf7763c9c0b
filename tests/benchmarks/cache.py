"""A warm hit: the same question again, answered from a directory."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.contender import CACHED, FLOOR, RECORDED, contenders, why_not
from tests.benchmarks.paired import Table, in_turn
from tests.benchmarks.server import Server


ROUNDS = 25
HITS = 200  # in a round


def tables(rounds: int, *, short: bool = False) -> Iterator[Table]:
    """One. The floor is a SQLite read of 2 KB by the SHA-256 of the question."""
    who = (FLOOR, RECORDED) if short else CACHED
    with (
        tempfile.TemporaryDirectory() as name,
        Server() as server,
        contenders(who, server.api_base, Path(name)) as all_,
    ):
        ways = {each: functools.partial(made.took, job="hits", hits=HITS) for each, made in all_.items()}
        found = in_turn(ways, rounds)
        assert server.requests() <= len(ways), "what should have been a hit was sent"
        absent = [reason for each in who if (reason := why_not(each))]
        yield Table("a warm hit", "µs", found, FLOOR, "  \n".join(absent))
