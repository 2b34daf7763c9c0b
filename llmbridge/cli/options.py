"""Options that several verbs have, and what they mean."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from llmbridge.ledger import Ledger, ReadOnlyLedger

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LedgerPath = Annotated[Path | None, typer.Option("--ledger", metavar="FILE", help="Another ledger than the default.")]
Since = Annotated[
    str | None, typer.Option(metavar="WHEN", help="From then on: 2026-11-01, 2026-11-01T12:00, or 7d, 24h, 30m ago.")
]
Until = Annotated[str | None, typer.Option(metavar="WHEN", help="Up to then, which is not in it; as --since.")]

_LENGTH = re.compile(r"(?P<number>\d{1,6})(?P<unit>m|h|d|w)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def length(text: str) -> timedelta | None:
    """What "30m", "24h", "7d" or "2w" is; None for any other text."""
    found = _LENGTH.fullmatch(text)
    return None if found is None else timedelta(**{_UNITS[found["unit"]]: int(found["number"])})


def moment(text: str | None, zone: str = "UTC", *, ahead: bool = False) -> datetime | None:
    """When *text* is: an ISO date or time, on the clocks of *zone* if it does not say itself, or a length of time ago,
    or *ahead*. Raises ValueError."""
    from llmbridge.ledger.window import clocks

    if text is None:
        return None
    try:
        if (away := length(text)) is not None:
            return datetime.now(UTC) + (away if ahead else -away)
        said = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time; write it as 2026-11-01, 2026-11-01T12:00, or a length as 7d") from None
    return said if said.tzinfo is not None else said.replace(tzinfo=clocks(zone))


def asked(path: Path | None) -> ReadOnlyLedger:
    """The ledger to look into, in which nothing is changed. Raises LedgerError if there is none."""
    from llmbridge.ledger import ReadOnlyLedger

    return ReadOnlyLedger(path)


def written(path: Path | None) -> Ledger:
    """The ledger to change. Raises LedgerError if there is none."""
    from llmbridge.ledger import Ledger

    asked(path).close()
    return Ledger(path)
