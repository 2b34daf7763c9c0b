"""Budget: what may be spent, by whom, in which time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Literal

from llmbridge.ledger.window import Window, window
from llmbridge.money import checked_nanousd, usd


Unit = Literal["nanousd", "tokens", "requests"]
OnExceed = Literal["refuse", "downgrade", "clamp", "warn"]
LARGEST = 2**62  # an SQLite integer, with room for a sum
_AMOUNT = re.compile(
    r"\s*(?P<dollar>\$)?\s*(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|[\d_]*\.?\d+)\s*(?P<scale>[kM])?\s*"
    r"(?P<unit>tokens?|requests?)?\s*"
)
_SCALE = {None: 1, "k": 1000, "M": 1_000_000}
_NANO = 10**9
_LONGEST = 100
_EXAMPLES = "write it as '$5/day', '200k tokens/hour', '1000 requests/month', '$0.10/call', '$2/5h' or '$50'"


@dataclass(frozen=True, slots=True)
class Budget:
    """A cap: "$5/day", "200k tokens/hour", "1000 requests/month", "$0.10/call", "$2/5h" (rolling), "$50" (for good).

    Attributes:
        limit: dollars, tokens (input and output together, as the provider counts them) or requests (sent, answered or
            not), with a window: call, hour, day, week, month, total, or a length such as 5h, which rolls.
        name: by which it is known in the ledger, in errors and in Ledger.balance(). An unnamed budget is known by its
            own text: the same words mean the same counter in every process.
        per: names of tags; each combination of their values has a counter of its own. Calls without such a tag share
            one.
        models: globs over "provider/name", as asked; only those models are counted and capped. Empty: all.
        on_exceed: what happens to a request whose worst case does not fit. "refuse": BudgetExceeded. "downgrade": the
            next candidate that is cheaper and fits, else BudgetExceeded. "clamp": `max_tokens` is lowered to what is
            affordable, else BudgetExceeded. "warn": it is counted, logged and let through: a limit on trial.
        alert_at: shares of the limit; each is announced once a window, in the log and on the call's record, when what
            was settled reaches it. The first refusal in a window announces 1.0.
        zone: whose midnights end a day, a week, a month.

    Raises ValueError for a limit, a window, a zone or a share that is none.
    """

    limit: str = field(compare=False)  # as written: "$5 / day" is "$5/day"
    name: str = ""
    per: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    on_exceed: OnExceed = "refuse"
    alert_at: tuple[float, ...] = (0.8, 1.0)
    zone: str = "UTC"
    unit: Unit = field(init=False)
    amount: int = field(init=False)
    window: Window = field(init=False)
    first_alert: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.limit, str):
            raise TypeError(f"a budget is a text, not {self.limit!r}; {_EXAMPLES}")
        head, slash, tail = self.limit.replace(" per ", "/", 1).partition("/")
        unit, amount = parse_amount(head)
        put = object.__setattr__
        put(self, "unit", unit)
        put(self, "amount", amount)
        put(self, "window", window(tail.strip() if slash else "total", self.zone))
        for name in ("per", "models", "alert_at"):
            value = getattr(self, name)
            put(self, name, (value,) if isinstance(value, (str, float, int)) else tuple(value))
        if not all(isinstance(tag, str) and tag for tag in (*self.per, *self.models)):
            raise ValueError(f"per= and models= are names, not {self.per + self.models!r}")
        if self.on_exceed not in ("refuse", "downgrade", "clamp", "warn"):
            raise ValueError(f"on_exceed is refuse, downgrade, clamp or warn, not {self.on_exceed!r}")
        if any(
            isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1000
            for share in self.alert_at
        ):
            raise ValueError(f"alert_at is shares of the limit such as (0.8, 1.0), not {self.alert_at!r}")
        if not isinstance(self.name, str):
            raise TypeError(f"a budget's name is a text, not {self.name!r}")
        put(self, "first_alert", min(self.alert_at, default=math.inf))
        put(self, "name", self.name or self._text())

    def __hash__(self) -> int:
        return hash(self.name)  # every reservation looks budgets up

    def _text(self) -> str:
        text = show_amount(self.unit, self.amount, short=True)
        text += "" if self.window.kind == "total" else f"/{self.window.text}"
        text += f" per {', '.join(self.per)}" if self.per else ""
        text += f" for {', '.join(self.models)}" if self.models else ""
        return text + (f" in {self.zone}" if self.zone != "UTC" else "")

    def covers(self, model: str) -> bool:
        """Whether it counts requests to *model*."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)

    def scope(self, tags: Mapping[str, str]) -> str:
        """Which of its counters *tags* belong to, as JSON: the values themselves, never joined as text."""
        return json.dumps([tags.get(name) for name in self.per], ensure_ascii=False) if self.per else "[]"


def budgets_of(given: Budget | str | Sequence[Budget | str] | None) -> tuple[Budget, ...]:
    """One budget or several, as Budgets. Raises TypeError or ValueError for what is none, and for a name used twice."""
    if given is None:
        return ()
    if not isinstance(given, (str, Budget, list, tuple)):
        raise TypeError(f"a budget is a text, a Budget, or a list of them, not {given!r}; {_EXAMPLES}")
    listed = [given] if isinstance(given, (str, Budget)) else list(given)
    budgets = [entry if isinstance(entry, Budget) else Budget(entry) for entry in listed]
    return distinct(budgets)


def distinct(budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    """*budgets* without repetition. Raises ValueError if two different ones have one name."""
    by_name: dict[str, Budget] = {}
    for budget in budgets:
        if by_name.setdefault(budget.name, budget) != budget:
            raise ValueError(f"two different budgets are named {budget.name!r}; give one of them another name=")
    return tuple(by_name.values())


def one_call(most_usd: Decimal | float | str | None) -> tuple[Budget, ...]:
    """The budget of a call that may cost so much; none if it may cost anything."""
    return () if most_usd is None else (Budget(f"${usd(checked_nanousd(most_usd)):f}/call"),)


def known_as(budget: Budget | str) -> str:
    """The name of *budget*, which is given as itself, by its name, or by its text in any spelling."""
    if isinstance(budget, Budget):
        return budget.name
    try:
        return Budget(budget).name
    except ValueError:
        return budget


def parse_amount(text: str) -> tuple[Unit, int]:
    """Unit and amount of "$5", "200k tokens", "1000 requests". Raises ValueError."""
    found = _AMOUNT.fullmatch(text) if isinstance(text, str) and len(text) <= _LONGEST else None
    if found is None or bool(found["dollar"]) == bool(found["unit"]):
        raise ValueError(f"{text!r} is no amount of dollars, tokens or requests; {_EXAMPLES}")
    unit: Unit = "nanousd" if found["dollar"] else "tokens" if found["unit"].startswith("token") else "requests"
    # a Fraction, since a Decimal's product is rounded to 28 digits
    exact = Fraction(found["number"].replace(",", "").replace("_", "")) * _SCALE[found["scale"]]
    exact *= _NANO if unit == "nanousd" else 1
    if exact.denominator != 1:
        raise ValueError(f"{text!r} is finer than a {'nanodollar' if unit == 'nanousd' else unit[:-1]}")
    if exact > LARGEST:
        raise ValueError(f"{text!r} is more than the ledger can hold ({show_amount(unit, LARGEST)})")
    return unit, int(exact)


def show_amount(unit: str, amount: int, *, short: bool = False) -> str:
    """*amount* for people: "$5.00", "200,000 tokens"; short: as in a budget's text."""
    if unit != "nanousd":
        return f"{amount} {unit}" if short else f"{amount:,} {unit}"
    dollars = usd(amount)
    if short:
        return f"${dollars.normalize():f}"
    size = abs(dollars)
    digits = 2 if size == 0 or size >= 1 else 4 if size >= Decimal("0.01") else 6 if size >= Decimal("1e-6") else 9
    shown = f"{dollars:,.{digits}f}"
    return f"-${shown[1:]}" if shown.startswith("-") else f"${shown}"
