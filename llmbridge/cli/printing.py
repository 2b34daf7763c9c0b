"""How answers and records look in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from llmbridge.money import show_usd


if TYPE_CHECKING:
    from llmbridge.completion import Completion
    from llmbridge.record import CallRecord
    from llmbridge.streams import CompletionStream


WIDE = 160
NO_WIDTH = 1_000


def chunks(stream: CompletionStream) -> Completion:
    """Print a stream's text as it comes."""
    for chunk in stream:
        sys.stdout.write(chunk.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return stream.completion


def footer(completion: Completion) -> None:
    """Model, tokens, cost and time, on stderr."""
    usage = completion.usage
    tokens = f"{usage.prompt_tokens}+{usage.completion_tokens} tokens" if usage else "tokens unknown"
    about = " (estimated)" if usage and usage.estimated else ""
    cost, seconds = show_usd(completion.cost_usd), completion.record.duration_s
    typer.echo(f"{completion.model}  {tokens}{about}  {cost}  {seconds:.2f} s", err=True)


def trace(record: CallRecord) -> None:
    """The call as a tree with bars for time and cost, on stderr."""
    from rich.console import Console

    from llmbridge.cli.tree import rows, tree

    # Where nobody looks at a screen there is no width to keep to.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDE)
    console.print(tree(rows(record)), highlight=False)


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout, as wide as the terminal; without colours, and without a width, where nobody looks."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(names):
        shown.add_column(name, overflow="fold", no_wrap=number == 0 or not sys.stdout.isatty())
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else NO_WIDTH).print(shown, highlight=False, markup=False)


def attempts(completion: Completion) -> None:
    """A table of the call's attempts."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "model", "why", "outcome", "HTTP", "tokens", "cost", "s"):
        table.add_column(name, overflow="fold")
    for attempt in completion.attempts:
        tokens = "" if attempt.input_tokens is None else f"{attempt.input_tokens}+{attempt.output_tokens}"
        table.add_row(
            str(attempt.number),
            attempt.model,
            attempt.reason,
            attempt.error_type or attempt.outcome,
            str(attempt.status or ""),
            tokens,
            show_usd(attempt.cost_usd),
            f"{attempt.duration_s:.2f}",
        )
    Console().print(table)
    typer.echo(f"call {completion.record.id}: {show_usd(completion.cost_usd)}, {completion.record.duration_s:.2f} s")
