"""What recorded attempts would have cost under another policy, or at other prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase

from llmbridge.ledger import Budget, PastAttempt
from llmbridge.money import nanousd, usd
from llmbridge.provider import is_local, plain_cost_usd
from llmbridge.request import Hidden, Model, Request


MILLION = 10**6
ASSUMED = (
    "the same calls with the same tokens by kind, another model's tokenizer and length of answer left aside",
    "list prices of the standard tier; fees of searches and discounts by the hour do not count",
    "a charge without token counts (a timeout, a lost process) stays as it was",
)


@dataclass(slots=True)
class Line:
    """The attempts that asked `model` and would ask `instead`.

    Attributes:
        recorded_usd, unknown: what they did cost, but for so many whose cost nobody knows.
        simulated_usd, unpriced: what they would, but for so many of which there is no price.
        refused: how many a cap would not have let through; they are in neither of the two above.
    """

    model: str
    instead: str
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    recorded_usd: Decimal = Decimal(0)
    unknown: int = 0
    simulated_usd: Decimal = Decimal(0)
    unpriced: int = 0
    refused: int = 0

    def add(self, other: Line) -> None:
        """Add what *other* counted."""
        for name in Line.__slots__[2:]:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Cap:
    """A budget, and how many calls it would have refused, or warned of, that would have cost `refused_usd`."""

    budget: Budget
    refused: int = 0
    refused_usd: Decimal = Decimal(0)
    _settled: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)

    def fits(self, past: PastAttempt, cost_usd: Decimal | None) -> bool:
        """Whether the limit has room for the attempt, at its time."""
        return sum(self._counted(past).values()) + self._amount(past, cost_usd) <= self.budget.amount

    def settle(self, past: PastAttempt, cost_usd: Decimal | None) -> None:
        """Count the attempt."""
        counted = self._counted(past)
        starts_us = self.budget.window.span(past.made_us).starts_us
        counted[starts_us] = counted.get(starts_us, 0) + self._amount(past, cost_usd)

    def _amount(self, past: PastAttempt, cost_usd: Decimal | None) -> int:
        if self.budget.unit == "nanousd":
            return nanousd(cost_usd or 0)
        return 1 if self.budget.unit == "requests" else (past.input_tokens or 0) + (past.output_tokens or 0)

    def _counted(self, past: PastAttempt) -> dict[int, int]:
        """By the start of a window, or of a step of a rolling one, what still counts at that time."""
        call = past.call if self.budget.window.kind == "call" else ""
        counted = self._settled.setdefault((self.budget.scope(past.tags), call), {})
        first_us = self.budget.window.counted_from_us(past.made_us)
        for starts_us in [each for each in counted if each < first_us]:
            del counted[starts_us]
        return counted


class Simulation:
    """Takes attempts in the order in which they were made.

    Args:
        chain: who answers what was asked by chat; empty: whoever did.
        cheapest: of the chain not the first one answers but the one for which those tokens cost least.
        known: Models by "provider/name", with prices of their own.
        instead: pairs of a glob and the Model that is asked for what fits it; they go before the chain.
        budgets: their counters begin at 0.
    """

    def __init__(
        self,
        chain: Sequence[Model] = (),
        *,
        cheapest: bool = False,
        known: Mapping[str, Model] | None = None,
        instead: Sequence[tuple[str, Model]] = (),
        budgets: Sequence[Budget] = (),
    ) -> None:
        self.caps = [Cap(budget) for budget in budgets]
        self.matched: set[str] = set()
        self._chain = chain
        self._cheapest = cheapest
        self._known = known or {}
        self._instead = instead
        self._lines: dict[tuple[str, str], Line] = {}
        self._ended: set[str] = set()  # calls that a cap has refused

    def lines(self) -> list[Line]:
        """The dearest of the recorded ones first."""
        return sorted(self._lines.values(), key=lambda each: (-each.recorded_usd, each.model, each.instead))

    def total(self) -> Line:
        """The sum of all lines."""
        total = Line("", "")
        for each in self._lines.values():
            total.add(each)
        return total

    def take(self, past: PastAttempt) -> None:
        """Simulate one attempt."""
        if past.input_tokens is None and past.cost_usd == 0:
            return  # nothing was billed, nor would be
        options = self._options(past)
        asked, cost_usd = options[0]
        if past.call not in self._ended:
            for model, price_usd in options:
                if (model, price_usd) != options[0] and not _is_cheaper(price_usd, cost_usd):
                    continue
                over = [cap for cap in self.caps if cap.budget.covers(model) and not cap.fits(past, price_usd)]
                if all(cap.budget.on_exceed == "warn" for cap in over):
                    self._pass(past, model, price_usd, over)
                    return
                if model == asked:
                    _refuse(over, price_usd)
                if any(cap.budget.on_exceed in ("refuse", "clamp") for cap in over):
                    break
            self._ended.add(past.call)
        self._line(past, asked).refused += 1

    def _pass(self, past: PastAttempt, model: str, cost_usd: Decimal | None, over: Sequence[Cap]) -> None:
        _refuse(over, cost_usd)
        for cap in self.caps:
            if cap.budget.covers(model):
                cap.settle(past, cost_usd)
        line = self._line(past, model)
        line.simulated_usd += cost_usd or 0
        line.unpriced += cost_usd is None

    def _line(self, past: PastAttempt, model: str) -> Line:
        """Where the attempt counts, with what is recorded of it."""
        line = self._lines.setdefault((past.model, model), Line(past.model, model))
        line.add(
            Line(
                past.model,
                model,
                attempts=1,
                input_tokens=past.input_tokens or 0,
                output_tokens=past.output_tokens or 0,
                recorded_usd=past.cost_usd or Decimal(0),
                unknown=past.cost_usd is None,
            )
        )
        return line

    def _options(self, past: PastAttempt) -> list[tuple[str, Decimal | None]]:
        """Who may be asked, in order, for how much."""
        if past.input_tokens is None:
            return [(past.model, past.cost_usd)]
        for pattern, model in self._instead:
            if fnmatchcase(past.model, pattern):
                self.matched.add(pattern)
                return [(model.model, _cost_usd(model, past))]
        if self._chain and past.verb == "chat":
            options = [(model.model, _cost_usd(model, past)) for model in self._chain]
            return sorted(options, key=lambda each: (each[1] is None, each[1])) if self._cheapest else options
        own = self._known.get(past.model)
        return [(past.model, past.cost_usd if own is None else _cost_usd(own, past))]


def _refuse(caps: Sequence[Cap], cost_usd: Decimal | None) -> None:
    for cap in caps:
        cap.refused += 1
        cap.refused_usd += cost_usd or 0


def _is_cheaper(cost_usd: Decimal | None, than_usd: Decimal | None) -> bool:
    return cost_usd is not None and (than_usd is None or cost_usd < than_usd)


def _cost_usd(model: Model, past: PastAttempt) -> Decimal | None:
    """What the tokens of *past* cost there; None if nobody knows the price."""
    counts = (past.input_tokens or 0, past.output_tokens or 0)
    if model.input_usd_per_mtok is not None and model.output_usd_per_mtok is not None:
        prices = (Decimal(model.input_usd_per_mtok), Decimal(model.output_usd_per_mtok))
        return usd(
            nanousd(sum((count * price for count, price in zip(counts, prices, strict=True)), Decimal(0)) / MILLION)
        )
    if is_local(Request("chat", "", (), Hidden()).for_model(model)):
        return Decimal(0)
    cost_usd = plain_cost_usd(
        model.model,
        *counts,
        cached_tokens=past.cached_tokens or 0,
        cache_write_tokens=past.cache_write_tokens or 0,
        reasoning_tokens=past.reasoning_tokens or 0,
    )
    return None if cost_usd is None else usd(nanousd(cost_usd))
