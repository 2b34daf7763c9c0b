"""llmbridge calls: what was asked lately, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import printing
from llmbridge.cli.options import AsJson, LedgerPath, Since, Until, asked, moment
from llmbridge.money import show_usd


if TYPE_CHECKING:
    from llmbridge.record import CallRecord

SHORT = 12  # of an id: its time, to the millisecond
NARROW = 100  # a screen of so many columns has less room for bars


def calls(
    id: Annotated[str | None, typer.Argument(help="One call in full; how its id begins will do.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="The latest so many.")] = 20,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
    ledger: LedgerPath = None,
) -> None:
    """List the latest calls, or show one in full. No prompt and no answer is kept, so none is shown.

    Example: llmbridge calls -n 50 --since 24h

    Exit code: 0, 1 if there is no such call, or for another failure, 2 for wrong usage.
    """
    start, end = moment(since), moment(until)
    with asked(ledger) as book:
        found = book.records(since=start, until=end, id=id, limit=limit)
    if id is not None and len(found) != 1:
        if found:
            _table(found)
        typer.echo(f"{len(found) or 'No'} calls begin with {id}.", err=True)
        raise typer.Exit(1)
    if as_json:
        printing.as_json(data(found[0]) if id is not None else [data(each) for each in found])
    elif id is not None:
        _whole(found[0])
    elif found:
        _table(found)
    else:
        typer.echo("No calls are recorded.", err=True)


def data(record: CallRecord) -> dict[str, Any]:
    """*record* for JSON."""
    return {**asdict(record), "started_at": datetime.fromtimestamp(record.started_at, UTC)}


def what(record: CallRecord) -> str:
    """What became of it, in a word."""
    said = "cached" if record.cached else record.error_type or record.outcome
    return f"{said}, uncertain" if record.uncertain else said


def tags(record: CallRecord) -> str:
    """Its tags on a line."""
    return " ".join(f"{name}={value}" for name, value in record.tags.items())


def tokens(record: CallRecord) -> str:
    """Its tokens, in and out."""
    return "" if record.input_tokens is None else f"{record.input_tokens:,}+{record.output_tokens or 0:,}"


def _table(found: Sequence[CallRecord]) -> None:
    from rich.text import Text

    short = SHORT
    while len({each.id[:short] for each in found}) < len(found):
        short += 4
    lines: list[dict[str, str | Text]] = [
        {
            "call": each.id[:short],
            "started": f"{datetime.fromtimestamp(each.started_at).astimezone():%m-%d %H:%M}",
            "model": each.model or (each.models[0] if each.models else ""),
            "outcome": Text(what(each), style="red" if each.outcome in ("failed", "cancelled") else ""),
            "attempts": str(len(each.attempts)),
            "cost": show_usd(each.cost_usd),
            "s": f"{each.duration_s:.2f}",
            "tokens": tokens(each),
            "tags": tags(each),
            "trace": each.trace_id or "",
        }
        for each in found
    ]
    printing.table(
        lines, right=("attempts", "cost", "s", "tokens"), spare=("trace", "tags", "tokens", "attempts", "started")
    )


def _whole(record: CallRecord) -> None:
    from llmbridge.cli.tree import rows, tree

    started = datetime.fromtimestamp(record.started_at).astimezone()
    about = {
        "call": record.id,
        "started": f"{started:%Y-%m-%d %H:%M:%S %Z}",
        "outcome": what(record),
        "models": ", ".join(record.models),
        "tokens": tokens(record) + (" (estimated)" if record.estimated else ""),
        "cost": show_usd(record.cost_usd),
        "saved": show_usd(record.saved_usd) if record.cached else "",
        "tags": tags(record),
        "trace": record.trace_id or "",
    }
    console = printing.screen()
    for name, value in about.items():
        if value:
            console.print(f"{name:<9}{printing.plain(value)}", markup=False, soft_wrap=True)
    console.print()
    console.print(tree(rows(record), width=24 if console.width > NARROW else 9))
