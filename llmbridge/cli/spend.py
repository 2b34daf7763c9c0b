"""llmbridge spend: what went where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from llmbridge.cli import printing
from llmbridge.cli.options import AsJson, LedgerPath, Since, Until, asked, moment


if TYPE_CHECKING:
    from llmbridge.ledger import Spend

GROUPS = ("model", "provider", "verb", "call", "hour", "day", "week", "month")
FIGURES = ("calls", "attempts", "cost", "uncertain", "unpriced", "saved", "tokens")
BAR = 50


def spend(
    by: Annotated[
        list[str] | None, typer.Option("--by", help=f"{', '.join(GROUPS)} or tag:NAME; repeat it for both.")
    ] = None,
    since: Since = None,
    until: Until = None,
    zone: Annotated[str, typer.Option(help="Whose days, weeks and months.")] = "UTC",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw a bar for each day.")] = False,
    ledger: LedgerPath = None,
) -> None:
    """Say what was spent, in groups, dearest first. The ledger is only read.

    Example: llmbridge spend --by model --by tag:user --since 7d

    Exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    groups = _groups(by or [], plot=plot)
    if as_json + as_csv + plot > 1:
        raise ValueError("--json, --csv and --plot exclude each other")
    start, end = moment(since, zone), moment(until, zone)
    with asked(ledger) as book:
        found = book.spend(groups, since=start, until=end, zone=zone)
        # Not the sum of the groups: a call of two models is in both of theirs.
        total = book.spend(since=start, until=end) if len(found) > 1 and not (as_json or as_csv) else []
    if as_json:
        printing.as_json([asdict(each) for each in found])
    elif as_csv:
        _csv(found, groups)
    elif not found:
        typer.echo("Nothing was spent.", err=True)
    elif plot:
        _plot(found, total)
    else:
        _table(found, total)


def _groups(by: Sequence[str], *, plot: bool) -> list[str]:
    """*by*, in which a misspelt name is not taken for a tag."""
    for name in by:
        if name not in GROUPS and not name.removeprefix("tag:") != name:
            raise ValueError(f"--by {name} is none of {', '.join(GROUPS)}; a tag is --by tag:{name}")
    if plot and list(by) not in ([], ["day"]):
        raise ValueError("--plot draws days: leave --by out")
    return ["day"] if plot else list(dict.fromkeys(by))


def _csv(found: Sequence[Spend], groups: Sequence[str]) -> None:
    import csv

    from llmbridge.ledger import Spend

    names = [field.name for field in fields(Spend) if field.name != "of"]
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow([*groups, *names])
    for each in found:
        lines.writerow([*each.of.values(), *(_plain(getattr(each, name)) for name in names)])


def _plain(value: object) -> object:
    return f"{value:f}" if isinstance(value, Decimal) else value


def _table(found: Sequence[Spend], total: Sequence[Spend]) -> None:
    everything = [*found, *total]
    most = max(each.cost_usd for each in everything)
    names = list(found[0].of)
    rows = []
    for each in everything:
        values = ["total", *[""] * (len(names) - 1)] if each in total else [_said(value) for value in each.of.values()]
        rows.append(dict(zip(names, values, strict=True)) | _figures(each, most))
    empty = [
        name for name in ("uncertain", "unpriced") if not any(each.uncertain_usd or each.unknown for each in everything)
    ]
    rows = [{name: value for name, value in row.items() if name not in empty} for row in rows]
    spare = ("attempts", "unpriced", "uncertain", "tokens", "saved")
    printing.table(rows, right=FIGURES, spare=spare, total=bool(total))


def _figures(each: Spend, most: Decimal) -> dict[str, str]:
    return {
        "calls": f"{each.calls:,}",
        "attempts": f"{each.attempts:,}",
        "cost": printing.money(each.cost_usd, most),
        "uncertain": printing.money(each.uncertain_usd, most),
        "unpriced": f"{each.unknown:,}",
        "saved": printing.money(each.saved_usd, most),
        "tokens": f"{each.input_tokens:,}+{each.output_tokens:,}",
    }


def _said(value: str | None) -> str:
    return "(none)" if value in (None, "") else str(value)


def _plot(found: Sequence[Spend], total: Sequence[Spend]) -> None:
    """A line for each day from the first to the last, also for those on which nothing was spent."""
    from rich.text import Text

    from llmbridge.cli.tree import bar

    cost = {date.fromisoformat(str(each.of["day"])): each for each in found}
    first, most = min(cost), max(each.cost_usd for each in found)
    console = printing.screen()
    width = min(BAR, max(console.width - 46, 8))
    for number in range((max(cost) - first).days + 1):
        day = first + timedelta(days=number)
        each = cost.get(day)
        share = float(each.cost_usd / most) if each and most else 0.0
        amount = printing.money(each.cost_usd if each else Decimal(0), most)
        line = Text(f"{day:%a} {day}  ")
        line.append(bar(0.0, share, 1.0, width), style="green")
        line.append(f"  {amount:>12}  {each.calls if each else 0:>6,} calls")
        console.print(line, no_wrap=True, overflow="crop")
    (whole,) = total or found
    console.print(
        f"{'':{width + 16}}  {printing.money(whole.cost_usd, most):>12}  {whole.calls:>6,} calls", style="bold"
    )
