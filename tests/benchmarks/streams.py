"""A stream of 500 chunks: until the first is there, and for each later one."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from tests.benchmarks.clients import BARE, HTTPX, LITELLM, OURS, SDK, TRACED
from tests.benchmarks.contender import Stage
from tests.benchmarks.paired import Table, Took, in_turn, more
from tests.benchmarks.server import CHUNKS


ROUNDS = 7
STREAMS = 3  # in a round


def tables(stage: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """Two for each colour. A round is paired, as everywhere; what it takes is taken by who reads the stream."""
    who = (LITELLM, OURS) if short else (HTTPX, SDK, LITELLM, BARE, OURS, TRACED)
    all_ = stage.contenders(who)
    for verb in ("stream", "astream"):
        firsts: dict[str, list[Took]] = {each: [] for each in who}

        def read(each: str, verb: str = verb, firsts: dict[str, list[Took]] = firsts) -> Took:
            first_s, chunk_s, chunk_cpu_s = all_[each].do(job="streams", verb=verb, streams=1 if short else STREAMS)
            firsts[each].append(Took(first_s, None))
            return Took(chunk_s, chunk_cpu_s)

        found = in_turn({each: functools.partial(read, each) for each in who}, rounds)
        yield Table(f"{verb}, its first chunk", "ms", {each: took[1:] for each, took in firsts.items()}, LITELLM)
        note = "  \n".join(more(found, each, LITELLM) for each in (OURS, BARE) if each in who)
        yield Table(f"{verb}, each chunk of {CHUNKS}", "µs", found, LITELLM, note)
