"""Planning: the candidates of a call, in the order of the strategy, without those that cannot serve it.

A Plan is the same, as data for people: what a call would do, without doing any of it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from llmbridge import provider
from llmbridge.call.admission import need_of, worst_case
from llmbridge.fallback import STRATEGIES, Candidate, Endpoints, Fallback
from llmbridge.ledger import Budget, Ledger, Need
from llmbridge.money import show_usd, usd
from llmbridge.request import Model, Request


# A text that is shorter than this fits into the window of every model.
SHORT_CHARS = 8_000


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that is not asked, and why."""

    model: str
    why: str

    def __str__(self) -> str:
        return f"{self.model}: {self.why}"


@dataclass(frozen=True, slots=True)
class Prospect:
    """A candidate as a plan sees it: what the request can cost there at most (None: nobody knows), and whether an
    answer of its is kept, which would cost nothing."""

    model: str
    worst_usd: Decimal | None
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Headroom:
    """What is left of a budget, in its unit: nanodollars, tokens or requests; and what the first candidate may need of
    it (None: nobody knows)."""

    budget: str
    unit: str
    remaining: int
    needed: int | None
    on_exceed: str

    @property
    def fits(self) -> bool:
        """Whether the first candidate would be admitted as it is."""
        return self.needed is not None and self.needed <= self.remaining


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call would do now. Nothing was sent or reserved to make it.

    `candidates` are in the order in which they would be asked, `dropped` those that would not be, each with the reason.
    """

    candidates: tuple[Prospect, ...]
    dropped: tuple[Dropped, ...]
    headroom: tuple[Headroom, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Whom it would ask, in order."""
        return tuple(each.model for each in self.candidates)

    @property
    def is_kept(self) -> bool:
        """Whether the answer would come from the cache."""
        return any(each.is_kept for each in self.candidates)

    def explain(self) -> str:
        """The plan, one line a candidate and a budget."""
        lines = ["the answer is kept: nothing would be sent" if self.is_kept else "nothing is kept of this request"]
        for number, each in enumerate(self.candidates, 1):
            cost = "nobody knows what it can cost" if each.worst_usd is None else f"up to {show_usd(each.worst_usd)}"
            lines.append(f"{number}. {each.model}: {'kept' if each.is_kept else cost}")
        lines += [f"passed over: {each}" for each in self.dropped]
        for room in self.headroom:
            left = show_usd(usd(room.remaining)) if room.unit == "nanousd" else f"{room.remaining:,} {room.unit}"
            lines.append(f"budget {room.budget!r}: {left} left, {'enough' if room.fits else room.on_exceed}")
        return "\n".join(lines)


def plan_of(
    candidates: Sequence[Candidate],
    policy: Fallback,
    is_kept: Callable[[Request], bool],
    ledger: Ledger | None,
    budgets: Sequence[Budget],
    tags: Mapping[str, str],
) -> Plan:
    """The Plan of a call. Raises what ordered() raises, and LedgerError."""
    chosen, dropped = ordered(candidates, policy)
    prospects = []
    for each in chosen:
        cost = worst_case(each.request).nanousd
        prospects.append(Prospect(each.model.model, None if cost is None else usd(cost), is_kept(each.request)))
    first = chosen[0].request
    applying = [budget for budget in budgets if budget.covers(first.model)] if ledger is not None else []
    need = need_of(worst_case(first))
    rooms = [_headroom(ledger, budget, need, tags) for budget in applying if ledger is not None]
    return Plan(tuple(prospects), tuple(dropped), tuple(rooms))


def _headroom(ledger: Ledger, budget: Budget, need: Need, tags: Mapping[str, str]) -> Headroom:
    mine = {name: tags.get(name) for name in budget.per}
    counters = [each for each in ledger.balance(budget) if {name: each.tags.get(name) for name in budget.per} == mine]
    remaining = counters[0].remaining if counters and budget.window.kind != "call" else budget.amount
    needed: int | None = getattr(need, budget.unit)
    return Headroom(budget.name, budget.unit, remaining, needed, budget.on_exceed)


def candidates_of(
    request: Request, models: Sequence[Model], endpoints: Endpoints, directory: Path | None
) -> list[Candidate]:
    """What may be asked, in the order given, with what is cheap to know of it."""
    turns = endpoints.turns(models)
    found = []
    for position, model in enumerate(models):
        found.append(
            Candidate(
                model,
                request.for_model(model),
                endpoints,
                directory,
                position=position,
                turn=turns.made,
                count=turns.next,
                price=_worst_usd,
                context_window=provider.context_window,
            )
        )
    return found


def breakers(ledger: Ledger | None) -> Path | None:
    """Where the processes that share *ledger* tell each other which models fail."""
    return None if ledger is None else _beside(ledger.path)


@functools.lru_cache(maxsize=8)
def _beside(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + "-breakers")


def ordered(
    candidates: Sequence[Candidate], policy: Fallback, draw: Callable[[], float] = random.random
) -> tuple[list[Candidate], list[Dropped]]:
    """The candidates in the order in which they are asked, and those that are not, each with the reason.

    Raises ValueError if the strategy leaves none, saying what each lacks.
    """
    chosen = list(candidates)
    dropped: list[Dropped] = []
    if len(chosen) > 1 or callable(policy.strategy) or policy.strategy == "capability":
        _learn(chosen, draw)
        chosen = _in_order(_able(chosen), policy)
        dropped = [
            Dropped(each.model.model, f"lacks {', '.join(each.lacks)}" if each.lacks else "the strategy left it out")
            for each in candidates
            if each not in chosen
        ]
    if policy.breaker:
        closed = [each for each in chosen if each.endpoint.breaker.opening() is None]
        dropped += [Dropped(each.model.model, broken(each)) for each in chosen if each not in closed]
        chosen = closed or chosen  # the gate says of each how long it is closed
    return chosen, dropped


def broken(candidate: Candidate) -> str:
    """Why its breaker refuses calls, for people; empty if it does not."""
    opening = candidate.endpoint.breaker.opening()
    if opening is None:
        return ""
    left_s = opening.left_s(candidate.endpoint.clock())
    until = f"for {left_s:.1f} s more" if left_s > 0 else "while another call finds out whether it is well again"
    return f"its breaker is open {until}: {opening.why}"


def _able(candidates: list[Candidate]) -> list[Candidate]:
    """Those that lack nothing; all, if each lacks something: the table may be wrong, and the provider will say so."""
    return [each for each in candidates if not each.lacks] or candidates


def _in_order(candidates: list[Candidate], policy: Fallback) -> list[Candidate]:
    strategy = policy.strategy if callable(policy.strategy) else STRATEGIES[policy.strategy]
    chosen = list(strategy(list(candidates)))
    if any(each not in candidates for each in chosen):
        raise ValueError("the strategy returned something that is not one of its candidates")
    if not chosen:
        lacking = "; ".join(f"{each.model.model} lacks {', '.join(each.lacks)}" for each in candidates if each.lacks)
        raise ValueError(f"no candidate can serve this request: {lacking or 'the strategy left none'}")
    return chosen


def _learn(candidates: list[Candidate], draw: Callable[[], float]) -> None:
    """Fill in what the strategies look at."""
    request = candidates[0].request
    wanted = provider.needs(request)
    looks = bool(wanted) or _length(request) > SHORT_CHARS
    for each in candidates:
        endpoint = each.endpoint
        each.draw = draw()
        each.is_local = provider.is_local(each.request)
        each.under_way = endpoint.under_way
        each.latency_s = endpoint.whole.average_s if endpoint.whole.average_s is not None else endpoint.first.average_s
        measured_at = endpoint.measured_at()
        each.measured_s = None if measured_at is None else endpoint.clock() - measured_at
        each.lacks = provider.lacks(each.request, wanted) if looks else ()


def _length(request: Request) -> int:
    if request.verb == "embeddings":
        return max((len(each) for each in request.content), default=0)
    return sum(len(str(message.get("content") or "")) for message in request.content)


def _worst_usd(request: Request) -> float | None:
    cost = worst_case(request).nanousd
    return None if cost is None else cost / 1e9
