"""What is asked of the ledger, and what is told it: Asked, Need, Charge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmbridge.ledger.budget import LARGEST, Unit


_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Need:
    """What an attempt may take at most. `nanousd` is None if no price is known, `tokens` if no bound is.

    Raises ValueError for a negative or impossible amount, as Charge does.
    """

    nanousd: int | None
    tokens: int | None
    requests: int = 1

    def __post_init__(self) -> None:
        _require_amounts(self.nanousd, self.tokens, self.requests)

    def of(self, unit: Unit) -> int:
        """In a budget's unit. Raises ValueError for what is unknown: a cap cannot be held against it."""
        amount: int | None = getattr(self, unit)
        if amount is None:
            raise ValueError(f"the worst case in {unit} is unknown")
        return amount


@dataclass(frozen=True, slots=True)
class Charge:
    """What an attempt took. `nanousd` is None if unknown: then the reserved worst case is charged, as uncertain."""

    nanousd: int | None
    tokens: int | None
    requests: int = 1
    uncertain: bool = False

    def __post_init__(self) -> None:
        _require_amounts(self.nanousd, self.tokens, self.requests)


@dataclass(slots=True)
class Asked:
    """Who reserves: the attempt's id ("<call>.<number>"), and what its row says besides.

    Raises ValueError for another id: records and reports find a call's attempts by it.
    """

    attempt: str
    model: str = ""
    provider: str = ""
    verb: str = "chat"
    tags: Mapping[str, str] = field(default_factory=dict)
    reason: str = "initial"

    def __post_init__(self) -> None:
        call, _, number = self.attempt.partition(".")
        if not call or not number.isdecimal():
            raise ValueError(f"an attempt's id is its call's, a point and its number, not {self.attempt!r}")

    @property
    def call(self) -> str:
        return self.attempt.partition(".")[0]


def tags_text(tags: Mapping[str, str]) -> str:
    """As a row holds them: JSON."""
    return _encode(dict(tags)) if tags else "{}"


def _require_amounts(*amounts: int | None) -> None:
    for amount in amounts:
        # exactly int: True, 1.5 and NaN are no amounts
        if amount is not None and (type(amount) is not int or not 0 <= amount <= LARGEST):
            raise ValueError(f"{amount!r} is no amount: whole nanodollars, tokens or requests, not negative")
