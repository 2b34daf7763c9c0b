"""A call that nobody has asked before: sync and async, one and many at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from tests.benchmarks.clients import EVERYONE, LITELLM, OURS
from tests.benchmarks.contender import Stage
from tests.benchmarks.paired import Table, Took, in_turn, more


ROUNDS = 12
CASTS = 6  # of processes: what one gets of the processor's caches by chance stays with it, up to a tenth of a call
HOW = {"complete": "threads", "acomplete": "tasks"}
# And how many in a round: so many that what each needs is in the processor's caches again, which the others emptied; of
# 64, where it counts, also so many that a full collection of garbage, a fifth of a second, is no surprise in one.
AT_A_TIME = {1: 100, 16: 160, 64: 768, 256: 512}
SHORT = (("complete", 1, 10), ("acomplete", 1, 10), ("acomplete", 64, 64))


def tables(_: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """One for each number at a time, of threads and of tasks; the rounds are divided among casts of fresh processes."""
    who, casts = ((LITELLM, OURS), 1) if short else (EVERYONE, min(CASTS, rounds))
    for verb, concurrent, calls in SHORT if short else ((verb, *size) for verb in HOW for size in AT_A_TIME.items()):
        found: dict[str, list[Took]] = {each: [] for each in who}
        for _ in range(casts):
            with Stage() as stage:
                for each, took in _found(stage, who, rounds // casts, verb, concurrent, calls).items():
                    found[each] += took
        at_once = f"{concurrent} {HOW[verb]}" if concurrent > 1 else "one at a time"
        yield Table(f"{verb}, {at_once}", "ms", found, LITELLM, more(found, OURS, LITELLM))


def _found(
    stage: Stage, who: tuple[str, ...], rounds: int, verb: str, concurrent: int, calls: int
) -> dict[str, list[Took]]:
    all_, before = stage.contenders(who), stage.server.requests()
    job = {"job": "calls", "verb": verb, "calls": calls, "concurrent": concurrent}
    found = in_turn({each: functools.partial(one.took, **job) for each, one in all_.items()}, rounds)
    sent = stage.server.requests() - before
    assert sent == (rounds + 1) * calls * len(all_), f"{sent} requests: somebody retried, or did not ask"
    return found
