"""A call that nobody has asked before: sync and async, one and many at a time."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.contender import EVERYONE, LITELLM, OURS, contenders
from tests.benchmarks.paired import Table, in_turn, more
from tests.benchmarks.server import Server


ROUNDS = 15
AT_A_TIME = {1: 20, 16: 48, 64: 128, 256: 256}  # and how many in a round
SHORT = {1: 15, 64: 64}


def tables(rounds: int, *, short: bool = False) -> Iterator[Table]:
    """One for each number at a time, of threads and of tasks."""
    sizes, who = (SHORT, (LITELLM, OURS)) if short else (AT_A_TIME, EVERYONE)
    with (
        tempfile.TemporaryDirectory() as name,
        Server() as server,
        contenders(who, server.api_base, Path(name)) as all_,
    ):
        for verb, how in (("complete", "threads"), ("acomplete", "tasks")):
            for concurrent, calls in sizes.items():
                if short and (verb, concurrent) == ("complete", 64):
                    continue
                before = server.requests()
                job = {"job": "calls", "verb": verb, "calls": calls, "concurrent": concurrent}
                found = in_turn({each: functools.partial(all_[each].took, **job) for each in who}, rounds)
                sent = server.requests() - before
                assert sent == (rounds + 1) * calls * len(who), f"{sent} requests: somebody retried, or did not ask"
                at_once = f"{concurrent} {how}" if concurrent > 1 else "one at a time"
                yield Table(f"{verb}, {at_once}", "ms", found, LITELLM, more(found, OURS, LITELLM))
