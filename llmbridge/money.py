"""Dollars at the edge (Decimal), integer nanodollars inside.

A nanodollar is 1e-9 US dollar: the cheapest token price on the market is some ten of them, and an int64 of them still
holds nine billion dollars. Conversion rounds up, once per call: a ledger may overstate, never understate.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal


NANO = Decimal(1_000_000_000)


def nanousd(amount_usd: Decimal | float | str) -> int:
    """*amount_usd* in nanodollars, rounded up. A float is taken as its shortest decimal text, not its binary value."""
    exact = amount_usd if isinstance(amount_usd, Decimal) else Decimal(str(amount_usd))
    return int((exact * NANO).to_integral_value(ROUND_CEILING))


def checked_nanousd(actual_usd: Decimal | float | str) -> int:
    """As nanousd(), for what a caller gave. Raises ValueError for what is no amount, or a negative one."""
    try:
        amount = nanousd(actual_usd)
    except (ArithmeticError, ValueError, TypeError):
        raise ValueError(f"{actual_usd!r} is no amount of dollars") from None
    if isinstance(actual_usd, bool) or amount < 0:
        raise ValueError(f"{actual_usd!r} is no amount of dollars")
    return amount


def usd(amount_nanousd: int) -> Decimal:
    """*amount_nanousd* in dollars, exactly."""
    return Decimal(amount_nanousd) / NANO


def show_usd(amount_usd: Decimal | None) -> str:
    """For people: four digits below a dollar, two above, "unknown" for None."""
    if amount_usd is None:
        return "unknown"
    if amount_usd == 0:
        return "$0"
    return f"${amount_usd:.2f}" if amount_usd >= 1 else f"${amount_usd:.6f}".rstrip("0")
