"""What a batch can cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

from llmbridge.cli import printing
from llmbridge.money import show_usd, usd


if TYPE_CHECKING:
    from llmbridge.batch import Arguments, Line
    from llmbridge.bridge import Bridge
    from llmbridge.call.planning import Headroom, Plan


@dataclass(slots=True)
class Price:
    """What the lines cost that ask one model first: typically and at most, in US dollars. `kept` are answered by the
    cache; `unknown` have no price, and are in no sum."""

    model: str
    lines: int = 0
    kept: int = 0
    typical_usd: Decimal = Decimal(0)
    worst_usd: Decimal = Decimal(0)
    unknown: int = 0

    def add(self, plan: Plan) -> None:
        """Add a line."""
        first = plan.candidates[0]
        self.lines += 1
        if plan.is_kept:
            self.kept += 1
        elif first.worst_usd is None:
            self.unknown += 1
        else:
            self.worst_usd += first.worst_usd
            self.typical_usd += first.worst_usd if first.typical_usd is None else first.typical_usd


@dataclass(slots=True)
class Quote:
    """What a batch costs, by model; and of each budget, what is left of it."""

    before: int
    prices: dict[str, Price] = field(default_factory=dict)
    rooms: dict[str, Headroom] = field(default_factory=dict)

    @property
    def total(self) -> Price:
        """Of all models together."""
        found = Price("total")
        for each in self.prices.values():
            for name in ("lines", "kept", "typical_usd", "worst_usd", "unknown"):
                setattr(found, name, getattr(found, name) + getattr(each, name))
        return found


def quote(bridge: Bridge, lines: Iterable[Line], answered: set[str], arguments: Arguments) -> Quote:
    """Plan every line that is not *answered*; nothing is sent."""
    found = Quote(0)
    for line in lines:
        if line.key in answered:
            found.before += 1
            continue
        plan = bridge.plan(line.messages, **planned(arguments(line)))
        model = plan.models[0]
        found.prices.setdefault(model, Price(model)).add(plan)
        found.rooms.update({room.budget: room for room in plan.headroom})
    return found


def planned(arguments: dict[str, Any]) -> dict[str, Any]:
    """*arguments* of a verb without what a plan has no use for."""
    return {name: value for name, value in arguments.items() if name != "deadline_s"}


def show(found: Quote, *, as_json: bool) -> None:
    """Print it."""
    total = found.total
    if as_json:
        models, budgets = (
            [asdict(each) for each in found.prices.values()],
            [asdict(each) for each in found.rooms.values()],
        )
        printing.as_json(
            {"answered_before": found.before, "models": models, "total": asdict(total), "budgets": budgets}
        )
        return
    rows = [*found.prices.values(), *([total] if len(found.prices) > 1 else [])]
    if rows:
        printing.table([*map(_row, rows)], right=("lines", "cached", "typically", "at most"), total=len(rows) > 1)
    for room in found.rooms.values():
        if room.unit == "nanousd":
            left = usd(room.remaining)
            enough = "enough at most" if total.worst_usd <= left else "enough typically"
            enough = enough if total.typical_usd <= left else "not enough typically"
            typer.echo(f"Budget {room.budget!r}: {show_usd(left)} left, {enough}.")
    before = f"{found.before} lines are answered already. " if found.before else ""
    typer.echo(f"{before}Nothing was sent.")


def _row(price: Price) -> dict[str, Any]:
    from rich.text import Text

    more = f" and {price.unknown} of unknown price" if price.unknown else ""
    return {
        "model": Text(price.model),
        "lines": f"{price.lines:,}",
        "cached": f"{price.kept:,}",
        "typically": show_usd(price.typical_usd),
        "at most": f"{show_usd(price.worst_usd)}{more}",
    }
