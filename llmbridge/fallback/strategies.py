"""In which order candidates are asked: small pure functions over what is known of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from llmbridge.fallback.endpoint import Endpoint, Endpoints
from llmbridge.request import Model, Request


EXPLORE = 0.05  # the share of calls in which "least_latency" asks somebody who has not been measured lately
BALANCE = {"cost": 0.4, "latency": 0.3, "quality": 0.2, "load": 0.1}


@dataclass(eq=False)
class Candidate:
    """A model that may be asked, and what is known of it at this moment.

    Attributes:
        model: as it was given, with its `weight` and `quality`.
        request: the question, as it would be put to it.
        endpoints, directory: where `endpoint` is looked up when it is first needed.
        position: its place in the list that was given, from 0.
        lacks: what this request needs and the model is known not to have, in words.
        is_local: whether it runs on this machine.
        latency_s: the moving average of its answers (of a stream: to its first content); None: not known.
        measured_s: how long ago that was last measured or, if it never answered, it last failed; None: never.
        under_way: how many of this process's calls are asking it now.
        turn: how many calls with this list of models were ordered before this one.
        draw: a random number from 0 to 1, for each candidate another.
        tries: how often this call has asked it.
        count: counts the call, and returns what `turn` is; a plan does not call it.
        price: tells `worst_usd`, which is looked up only if a strategy asks.
        context_window: tells `window`.
    """

    model: Model
    request: Request = field(repr=False)
    endpoints: Endpoints = field(repr=False)
    directory: Path | None = field(default=None, repr=False)
    position: int = 0
    lacks: tuple[str, ...] = ()
    is_local: bool = False
    latency_s: float | None = None
    measured_s: float | None = None
    under_way: int = 0
    turn: int = 0
    draw: float = 0.0
    tries: int = 0
    count: Callable[[], int] = field(default=lambda: 0, repr=False)
    price: Callable[[Request], float | None] = field(default=lambda request: None, repr=False)
    context_window: Callable[[Request], int | None] = field(default=lambda request: None, repr=False)

    @cached_property
    def endpoint(self) -> Endpoint:
        """Where it is asked, and how that went of late."""
        return self.endpoints.of(self.model, self.request, self.directory)

    @cached_property
    def worst_usd(self) -> float | None:
        """What this request can cost at most there, in US dollars; None if nobody knows."""
        return self.price(self.request)

    @cached_property
    def window(self) -> int | None:
        """How many tokens of input it takes; None if nobody knows."""
        return self.context_window(self.request)


Candidates = Sequence[Candidate]
Strategy = Callable[[list[Candidate]], Sequence[Candidate]]


def priority(candidates: Candidates) -> list[Candidate]:
    """As they were given."""
    return list(candidates)


def round_robin(candidates: Candidates) -> list[Candidate]:
    """Each call begins with the next one."""
    start = candidates[0].turn % len(candidates)
    return [*candidates[start:], *candidates[:start]]


def weighted(candidates: Candidates) -> list[Candidate]:
    """By lot, in proportion to `Model.weight`; one of weight 0 comes last.

    A draw to the power of 1/weight, highest first (Efraimidis and Spirakis, 2006), is the same as drawing without
    replacement; by its logarithm, since a draw to the power of 1,000 is 0 half the time.
    """
    return sorted(candidates, key=_lot, reverse=True)


def least_cost(candidates: Candidates) -> list[Candidate]:
    """By what this request can cost at most; those without a price last."""
    return sorted(candidates, key=lambda each: _known_first(each.worst_usd))


def least_latency(candidates: Candidates) -> list[Candidate]:
    """By the moving average of their answers: first those never asked, last those that only ever failed; and now and
    then, before them, one of which was heard long ago."""
    ordered = sorted(candidates, key=_latency)
    if ordered[0].draw < EXPLORE:
        stale = max(ordered, key=lambda each: each.measured_s or 0.0)
        return [stale, *(each for each in ordered if each is not stale)]
    return ordered


def least_busy(candidates: Candidates) -> list[Candidate]:
    """By how many calls of this process are asking them now."""
    return sorted(candidates, key=lambda each: each.under_way)


def quality(candidates: Candidates) -> list[Candidate]:
    """By `Model.quality`, best first; those without one last."""
    return sorted(candidates, key=lambda each: -1.0 if each.model.quality is None else each.model.quality, reverse=True)


def balanced(candidates: Candidates) -> list[Candidate]:
    """By cost (0.4), latency (0.3), quality (0.2) and load (0.1), each between the best candidate's (0) and the worst
    one's (1); what is not known counts as the middle."""
    scores = dict.fromkeys(range(len(candidates)), 0.0)
    for name, facts in (
        ("cost", [each.worst_usd for each in candidates]),
        ("latency", [each.latency_s for each in candidates]),
        ("quality", [None if each.model.quality is None else -each.model.quality for each in candidates]),
        ("load", [float(each.under_way) for each in candidates]),
    ):
        for index, share in enumerate(_shares(facts)):
            scores[index] += BALANCE[name] * share
    return [candidates[index] for index in sorted(scores, key=lambda index: scores[index])]


def local_first(candidates: Candidates) -> list[Candidate]:
    """Those on this machine first."""
    return sorted(candidates, key=lambda each: not each.is_local)


def capability(candidates: Candidates) -> list[Candidate]:
    """As they were given, without those that lack something which the request needs."""
    return [each for each in candidates if not each.lacks]


STRATEGIES: dict[str, Strategy] = {
    each.__name__: each
    for each in (
        priority, round_robin, weighted, least_cost, least_latency, least_busy, quality, balanced, local_first,
        capability,
    )
}  # fmt: skip


def _lot(candidate: Candidate) -> tuple[bool, float]:
    weight = candidate.model.weight
    return (weight > 0, math.log(candidate.draw) / weight if weight > 0 and candidate.draw > 0 else -math.inf)


def _latency(candidate: Candidate) -> float:
    if candidate.latency_s is not None:
        return candidate.latency_s
    return -1.0 if candidate.measured_s is None else math.inf


def _known_first(value: float | None) -> tuple[bool, float]:
    return (value is None, value or 0.0)


def _shares(facts: Sequence[float | None]) -> list[float]:
    """Each between the least (0) and the most (1) of those known."""
    known = [fact for fact in facts if fact is not None]
    least, most = (min(known), max(known)) if known else (0.0, 0.0)
    return [0.5 if fact is None or most == least else (fact - least) / (most - least) for fact in facts]
