"""llmbridge budget: where the counters stand, and what their limits are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import printing
from llmbridge.cli.options import AsJson, LedgerPath, asked, moment, written


if TYPE_CHECKING:
    from rich.text import Text

    from llmbridge.ledger import Balance, Budget, ReadOnlyLedger

app = typer.Typer(help="See where budgets stand, and set their limits.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="As the program names it, or its text, such as '$5/day'.")]
Limit = Annotated[
    str, typer.Argument(help="Such as '$10' (in quotes), '500k tokens', or 'default': the program's own.")
]
Reason = Annotated[str, typer.Option(help="Kept in the trail, which `budget show` prints.")]
BAR = 12


@app.command("list")
def list_(as_json: AsJson = False, ledger: LedgerPath = None) -> None:
    """Where every counter stands now: spent, held by calls under way, left.

    Example: llmbridge budget list --json

    Exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    with asked(ledger) as book:
        balances = book.balance()
    if as_json:
        printing.as_json([_data(each) for each in balances])
    elif balances:
        _counters(balances)
    else:
        typer.echo("No budget has counted a call yet.", err=True)


@app.command()
def show(name: Name, as_json: AsJson = False, ledger: LedgerPath = None) -> None:
    """One budget in full: its counters now, and every change of its limit.

    Example: llmbridge budget show '$5/day'

    Exit code: 0, 1 if the ledger knows no such budget, 2 for wrong usage.
    """
    with asked(ledger) as book:
        budgets = _named(book, name)
        balances = [balance for each in budgets for balance in book.balance(each)]
        changes = [each for each in book.changes() if each["budget"] == budgets[0].name]
    if as_json:
        declared = [
            {name: getattr(each, name) for name in ("name", "limit", "unit", "per", "zone")}
            | {"window": each.window.text}
            for each in budgets
        ]
        printing.as_json({"budgets": declared, "balances": [_data(each) for each in balances], "changes": changes})
        return
    for each in budgets:
        typer.echo(f"{each.name}: {_amount(each.unit, each.amount)} {_window(each)}, as the program says")
    if balances:
        _counters(balances)
    for change in changes:
        typer.echo(_change(change))


@app.command("set")
def set_(name: Name, limit: Limit, reason: Reason = "", as_json: AsJson = False, ledger: LedgerPath = None) -> None:
    """Change a budget's limit for good, for every process from its next call on.

    Example: llmbridge budget set '$5/day' '$10' --reason "launch week"

    Exit code: 0, 1 if the ledger knows no such budget, 2 for wrong usage.
    """
    _set(name, limit, None, reason, as_json, ledger)


@app.command()
def override(
    name: Name,
    limit: Limit,
    until: Annotated[str, typer.Option(metavar="WHEN", help="2026-11-01, 2026-11-01T12:00, or 2h, 7d from now.")],
    reason: Reason = "",
    as_json: AsJson = False,
    ledger: LedgerPath = None,
) -> None:
    """Change a budget's limit for a time; what holds now holds again afterwards.

    Example: llmbridge budget override '$5/day' '$50' --until 2h --reason "the big import"

    Exit code: 0, 1 if the ledger knows no such budget, 2 for wrong usage.
    """
    _set(name, limit, until, reason, as_json, ledger)


@app.command()
def tree(as_json: AsJson = False, ledger: LedgerPath = None) -> None:
    """Every budget with what is below it, tag by tag: teams, and the users of each.

    Example: llmbridge budget tree

    Exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    with asked(ledger) as book:
        grown = [(budget, book.balance(budget)) for budget in book.budgets()]
    if as_json:
        printing.as_json([_branch(budget.name, list(budget.per), balances) for budget, balances in grown])
        return
    rows = [row for budget, balances in grown for row in _lines(_branch(budget.name, list(budget.per), balances))]
    if rows:
        printing.table(rows, right=("spent", "held", "limit", "used"), spare=("held", " "))
    else:
        typer.echo("No budget has counted a call yet.", err=True)


def _set(name: str, limit: str, until: str | None, reason: str, as_json: bool, ledger: Any) -> None:
    from llmbridge.ledger.budget import parse_amount

    amount = None if limit == "default" else limit
    unit = None if amount is None else parse_amount(amount)[0]
    with asked(ledger) as book:
        budgets = _named(book, name)
        budget = next((each for each in budgets if each.unit == unit), budgets[0])
    ends = moment(until, budget.zone, ahead=True)
    if ends is not None and ends <= datetime.now(ends.tzinfo):
        raise ValueError(f"--until {until} is over; give a time to come, or a length such as 2h")
    with written(ledger) as book:
        book.set_limit(budget, amount, until=ends, reason=reason)
        change = book.changes()[-1]
    if as_json:
        printing.as_json(change)
    else:
        typer.echo(_change(change))


def _named(book: ReadOnlyLedger, name: str) -> list[Budget]:
    """The budgets of that name. Raises LedgerError if there is none."""
    from llmbridge.errors import LedgerError
    from llmbridge.ledger.budget import known_as

    known = book.budgets()
    found = [each for each in known if each.name == known_as(name)]
    if not found:
        names = ", ".join(dict.fromkeys(repr(each.name) for each in known)) or "none"
        raise LedgerError(f"the ledger knows no budget {name!r}; it knows {names}")
    return found


def _counters(balances: Sequence[Balance]) -> None:
    from rich.text import Text

    rows = []
    for each in balances:
        whose = ", ".join(f"{name}={'(none)' if value is None else value}" for name, value in each.tags.items())
        rows.append(
            {
                "budget": each.budget,
                "for": whose,
                "spent": _amount(each.unit, each.settled),
                "held": _amount(each.unit, each.reserved),
                "limit": _amount(each.unit, each.limit),
                "left": _amount(each.unit, each.remaining),
                **_used(each.settled + each.reserved, each.limit),
                "window": each.window,
                "resets": Text("" if each.resets_at is None else f"{each.resets_at:%Y-%m-%d %H:%M %Z}"),
            }
        )
    if not any(row["for"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "for"} for row in rows]
    printing.table(
        rows, right=("spent", "held", "limit", "left", "used"), spare=("window", " ", "held", "left", "resets")
    )


def _used(taken: int, limit: int) -> dict[str, str | Text]:
    from rich.text import Text

    from llmbridge.cli.tree import bar

    share = taken / limit if limit else float(taken > 0)
    style = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
    return {"used": Text(f"{share:.0%}", style=style), " ": Text(bar(0.0, min(share, 1.0), 1.0, BAR), style=style)}


def _branch(name: str, per: list[str], balances: Sequence[Balance], depth: int = 0) -> dict[str, Any]:
    """A node of the tree: its sums, and below it a node for each value of the next tag."""
    below: list[dict[str, Any]] = []
    if per[depth:]:
        tag = per[depth]
        for value in sorted({each.tags[tag] for each in balances}, key=str):
            own = [each for each in balances if each.tags[tag] == value]
            below.append(_branch(f"{tag}={'(none)' if value is None else value}", per, own, depth + 1))
    unit = balances[0].unit if balances else None
    return {
        "name": name,
        "unit": unit,
        "window": balances[0].window if balances else None,
        # the limit is each counter's own, and of no sum over them
        "limit": balances[0].limit if balances and not below else None,
        "settled": sum(each.settled for each in balances),
        "reserved": sum(each.reserved for each in balances),
        "below": below,
    }


def _lines(node: dict[str, Any], before: str = "", mark: str = "") -> Iterator[dict[str, str | Text]]:
    unit, limit = node["unit"] or "nanousd", node["limit"]
    yield {
        "budget": f"{before}{mark}{node['name']}",
        "spent": _amount(unit, node["settled"]),
        "held": _amount(unit, node["reserved"]),
        "limit": "" if limit is None else _amount(unit, limit),
        **({"used": "", " ": ""} if limit is None else _used(node["settled"] + node["reserved"], limit)),
    }
    inner = before + {"": "", "├─ ": "│  ", "└─ ": "   "}[mark]
    for each in node["below"]:
        yield from _lines(each, inner, "└─ " if each is node["below"][-1] else "├─ ")


def _amount(unit: str, amount: int) -> str:
    from llmbridge.ledger.budget import show_amount

    return show_amount(unit, amount)


def _window(budget: Budget) -> str:
    text = {"total": "in all", "call": "a call"}.get(budget.window.text, f"a {budget.window.text}")
    whose = f", for each {' and '.join(budget.per)}" if budget.per else ""
    return f"{text}{whose}{'' if budget.zone == 'UTC' else f' in {budget.zone}'}"


def _change(change: dict[str, Any]) -> str:
    limit = "back to what the program says" if change["limit"] is None else f"limit {change['limit']}"
    until = "" if change["until"] is None else f" until {change['until']:%Y-%m-%d %H:%M %Z}"
    reason = f" ({change['reason']})" if change["reason"] else ""
    return f"{change['at']:%Y-%m-%d %H:%M %Z}  {change['budget']}: {limit}{until}{reason}"


def _data(each: Balance) -> dict[str, Any]:
    usd = {name: getattr(each, name) for name in ("limit_usd", "settled_usd", "reserved_usd", "remaining_usd")}
    return {**asdict(each), "remaining": each.remaining, **usd}
