"""A call that nobody has asked before: sync and async, one and many at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from tests.benchmarks.clients import EVERYONE, LITELLM, OURS
from tests.benchmarks.contender import Stage
from tests.benchmarks.paired import Table, in_turn, more


ROUNDS = 7
HOW = {"complete": "threads", "acomplete": "tasks"}
# And how many in a round: so many that what each needs is in the processor's caches again, which the others emptied.
AT_A_TIME = {1: 100, 16: 160, 64: 384, 256: 512}
SHORT = (("complete", 1, 10), ("acomplete", 1, 10), ("acomplete", 64, 64))


def tables(stage: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """One for each number at a time, of threads and of tasks."""
    all_ = stage.contenders((LITELLM, OURS) if short else EVERYONE)
    for verb, concurrent, calls in SHORT if short else ((verb, *size) for verb in HOW for size in AT_A_TIME.items()):
        before = stage.server.requests()
        job = {"job": "calls", "verb": verb, "calls": calls, "concurrent": concurrent}
        found = in_turn({who: functools.partial(each.took, **job) for who, each in all_.items()}, rounds)
        sent = stage.server.requests() - before
        assert sent == (rounds + 1) * calls * len(all_), f"{sent} requests: somebody retried, or did not ask"
        at_once = f"{concurrent} {HOW[verb]}" if concurrent > 1 else "one at a time"
        yield Table(f"{verb}, {at_once}", "ms", found, LITELLM, more(found, OURS, LITELLM))
