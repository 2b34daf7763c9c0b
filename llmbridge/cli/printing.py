"""How answers and records look in a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import typer

from llmbridge.money import show_usd


if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from llmbridge.completion import Completion
    from llmbridge.record import CallRecord
    from llmbridge.streams import CompletionStream


WIDE = 160
NARROW = 100


def screen() -> Console:
    """Standard output: as wide as the terminal; a file or a pipe has room for everything, whatever COLUMNS says."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)


def table(
    rows: Sequence[Mapping[str, str | Text]],
    *,
    right: Collection[str] = (),
    spare: Sequence[str] = (),
    total: bool = False,
) -> None:
    """Print *rows*, which have the same names, as a table.

    Those in *right* are figures; those in *spare* give way on a narrow screen, the first one first. With *total* the
    last row is one.
    """
    from rich.measure import Measurement

    console, given_up = screen(), 0
    while True:
        shown = _table(rows, [name for name in rows[0] if name not in spare[:given_up]], right, total=total)
        wanted = Measurement.get(console, console.options.update(max_width=100_000), shown).maximum
        if wanted <= console.width or given_up == len(spare):
            break
        given_up += 1
    console.print(shown)


def _table(
    rows: Sequence[Mapping[str, str | Text]], names: Sequence[str], right: Collection[str], *, total: bool
) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        made.add_column(name, overflow="fold", justify="right" if name in right else "left", no_wrap=name in right)
    for number, row in enumerate(rows, 1):
        last = total and number == len(rows)
        made.add_row(
            *(_cell(row[name]) for name in names),
            style="bold" if last else None,
            end_section=total and number == len(rows) - 1,
        )
    return made


def plain(text: str) -> str:
    """*text* without commands to the terminal: a caller's tag may hold anything."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _cell(value: str | Text) -> Text:
    from rich.text import Text

    return value if isinstance(value, Text) else Text(plain(value))  # not a str, in which rich sees markup


def chunks(stream: CompletionStream) -> Completion:
    """Print a stream's text as it comes."""
    try:
        for chunk in stream:
            # what stands there cannot be taken back from a pipe; in a terminal it is as well to see it
            sys.stdout.write(f"\n--- begun anew ---\n{chunk.text}" if chunk.restarted else chunk.text)
            sys.stdout.flush()
    finally:
        if stream.text:
            sys.stdout.write("\n")
            sys.stdout.flush()
    return stream.completion


def footer(completion: Completion) -> None:
    """Model, tokens, cost, what was saved, and time, on stderr."""
    record = completion.record
    parts = [
        completion.model,
        tokens(completion),
        show_usd(completion.cost_usd) + (" at most" if record.uncertain else ""),
        f"cached, saved {show_usd(completion.saved_usd)}" if completion.cached else "",
        f"{record.duration_s:.2f} s",
        "cut short: more --max-tokens would let it end" if completion.finish_reason == "length" else "",
    ]
    typer.secho("  ".join(filter(None, parts)), err=True, dim=True)


def tokens(completion: Completion) -> str:
    """How many there were, for people."""
    usage = completion.usage
    if usage is None:
        return "tokens unknown"
    return f"{usage.prompt_tokens}+{usage.completion_tokens} tokens{' (estimated)' if usage.estimated else ''}"


def trace(record: CallRecord) -> None:
    """The call as a tree with bars for time and cost, on stderr."""
    from rich.console import Console

    from llmbridge.cli.tree import rows, tree

    # Where nobody looks at a screen there is no width to keep to.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDE)
    console.print(tree(rows(record), width=24 if console.width > NARROW else 9), highlight=False)


def attempts(completion: Completion) -> None:
    """A table of the call's attempts."""
    table(
        [
            {
                "": str(each.number),
                "model": each.model,
                "why": each.reason,
                "outcome": each.error_type or each.outcome,
                "HTTP": str(each.status or ""),
                "tokens": "" if each.input_tokens is None else f"{each.input_tokens}+{each.output_tokens}",
                "cost": show_usd(each.cost_usd),
                "s": f"{each.duration_s:.2f}",
            }
            for each in completion.attempts
        ],
        right=("tokens", "cost", "s"),
    )
    typer.echo(f"call {completion.record.id}: {show_usd(completion.cost_usd)}, {completion.record.duration_s:.2f} s")


def money(amount_usd: Decimal, most: Decimal) -> str:
    """*amount_usd* in a column whose greatest amount is *most*: all have the same digits, and what is there is seen."""
    digits = 2 if most >= 100 else 4 if most >= 1 else 6
    least = Decimal(1).scaleb(-digits)
    if 0 < amount_usd < least:
        return f"<${least}"
    return f"${amount_usd:,.{digits}f}"


def as_json(data: object, *, indent: int | None = 2, err: bool = False) -> None:
    """Print *data*: amounts and times as texts."""
    typer.echo(json.dumps(data, indent=indent, default=_text, ensure_ascii=False), err=err)


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, datetime) else str(value)
