"""What does not fit, said for people and for the policy; and the announcements of a budget's thresholds."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from llmbridge.errors import BudgetExceeded
from llmbridge.events import facts
from llmbridge.ledger.booking import Counter
from llmbridge.ledger.budget import OnExceed, show_amount
from llmbridge.ledger.need import Need
from llmbridge.ledger.transaction import Connection
from llmbridge.ledger.window import at
from llmbridge.record import BudgetAlert


log = logging.getLogger("llmbridge")
# The strictest of the budgets that refuse has the word.
_STRICTNESS: tuple[OnExceed, ...] = ("refuse", "downgrade", "clamp")


@dataclass(slots=True)
class Refusal:
    """Why nothing was reserved. `counter` is the tightest of those that refuse, `on_exceed` the strictest of their
    wishes, `headroom_*` what all budgets together still allow (None: no budget counts that)."""

    counter: Counter
    need: Need
    on_exceed: OnExceed
    headroom_nanousd: int | None
    headroom_tokens: int | None
    at_us: int

    @property
    def resets_at(self) -> datetime | None:
        """When there is room for it, if nothing else is spent until then; None for never."""
        counter, budget = self.counter, self.counter.budget
        needed = self.need.of(budget.unit)
        if needed > counter.limit or (counter.ends_us is None and budget.window.kind != "rolling"):
            return None
        if budget.window.kind != "rolling":
            return at(counter.ends_us or 0, budget.zone)
        missing = needed - counter.headroom
        for starts_us, amount in counter.steps:
            missing -= amount
            if missing <= 0:
                return at(starts_us + budget.window.length_us + budget.window.step_us, budget.zone)
        return None

    def error(self, asked: str) -> BudgetExceeded:
        """The exception, for a request described by *asked*, such as "openai/gpt-4o-mini, max_tokens=4096"."""
        counter, budget = self.counter, self.counter.budget
        needed = self.need.of(budget.unit)
        left = show_amount(budget.unit, max(counter.headroom, 0))
        held = (
            f", {show_amount(budget.unit, counter.reserved)} of it held by calls under way" if counter.reserved else ""
        )
        message = (
            f"budget {budget.name!r}{_whose(counter)} has {left} left of {show_amount(budget.unit, counter.limit)}"
            f"{held}, and this call may take up to {show_amount(budget.unit, needed)} ({asked}); {self._advice()}"
        )
        return BudgetExceeded(
            message,
            budget=budget.name,
            unit=budget.unit,
            limit=counter.limit,
            settled=counter.settled,
            reserved=counter.reserved,
            needed=needed,
            resets_at=self.resets_at,
        )

    def _advice(self) -> str:
        options = ["raise the limit"]
        if self.counter.budget.unit != "requests":
            options.append("lower max_tokens")
        if (when := self.resets_at) is not None:
            now = at(self.at_us, self.counter.budget.zone)
            clock = f"{when:%H:%M}" if when.date() == now.date() else f"{when:%Y-%m-%d %H:%M}"
            options.append(f"wait until {clock} {self.counter.budget.zone}")
        return f"{', '.join(options[:-1])} or {options[-1]}" if len(options) > 1 else options[0]


def refusal_of(counters: Sequence[Counter], need: Need, at_us: int) -> Refusal | None:
    """A Refusal if *need* does not fit into every counter; budgets that only warn take anything."""
    over = [each for each in counters if need.of(each.budget.unit) > each.headroom and each.budget.on_exceed != "warn"]
    if not over:
        return None
    strictest = min((each.budget.on_exceed for each in over), key=_STRICTNESS.index)
    tightest = min(
        (each for each in over if each.budget.on_exceed == strictest),
        key=lambda each: each.headroom / max(need.of(each.budget.unit), 1),
    )
    return Refusal(tightest, need, strictest, _headroom(counters, "nanousd"), _headroom(counters, "tokens"), at_us)


def alert_for(counter: Counter, need: Need | None, *, refused: bool = False) -> BudgetAlert | None:
    """What is to be announced about *counter*: the highest share it has reached and nobody was told of.

    *need* is what an attempt asks for (None when one is being settled); a refusal counts as the whole limit.
    """
    budget = counter.budget
    warns = budget.on_exceed == "warn"
    if not (warns or refused) and counter.settled < budget.first_alert * counter.limit:
        return None  # so it is for almost every call
    passes = need is not None and (warns or refused) and need.of(budget.unit) > counter.headroom
    share = counter.settled / (counter.limit or 1)
    if passes and share < 1.0:
        share = 1.0
    highest, passed = 0.0, passes and warns
    for each in budget.alert_at:
        if highest < each <= share and int(each * 1000) > counter.alerted:
            highest = each
    if not highest:
        return None
    spent, total = show_amount(budget.unit, counter.settled), show_amount(budget.unit, counter.limit)
    what = f"{spent} of {total} is spent" + (
        f", {show_amount(budget.unit, counter.reserved)} held" if counter.reserved else ""
    )
    needed = show_amount(budget.unit, need.of(budget.unit)) if need is not None else ""
    if passed:
        event = f"would have refused a call of up to {needed}, and only warns"
    elif refused and passes:
        event = f"has refused a call of up to {needed}"
    else:
        event = f"has reached {highest:.0%}"
    message = f"budget {budget.name!r}{_whose(counter)} {event}: {what}"
    tags = dict(zip(budget.per, json.loads(counter.scope), strict=True))
    return BudgetAlert(budget.name, highest, message, tags, passed)


def _headroom(counters: Sequence[Counter], unit: str) -> int | None:
    rooms = [each.headroom for each in counters if each.budget.unit == unit and each.budget.on_exceed != "warn"]
    return min(rooms, default=None)


def _whose(counter: Counter) -> str:
    values = json.loads(counter.scope)
    if not values:
        return ""
    return f" ({', '.join(f'{name}={value}' for name, value in zip(counter.budget.per, values, strict=True))})"


def announce(
    db: Connection, counters: Iterable[Counter], need: Need | None = None, *, refused: bool = False
) -> tuple[BudgetAlert, ...]:
    """The alerts that *counters* give rise to, noted in them so that each is given once."""
    found = []
    for each in counters:
        if alert := alert_for(each, need, refused=refused):
            found.append(alert)
            db.execute("UPDATE balance SET alerted = max(alerted, ?) WHERE id = ?", (int(alert.share * 1000), each.id))
    return tuple(found)


def say(alerts: Iterable[BudgetAlert]) -> None:
    """Into the log, once they are committed."""
    for alert in alerts:
        log.warning("%s", alert.message, extra={"llmbridge": facts(alert)})
