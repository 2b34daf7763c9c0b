"""llmbridge ledger: trust it, take it elsewhere, keep it small, watch it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmbridge.cli import printing
from llmbridge.cli.calls import SHORT, data, tags, tokens, what
from llmbridge.cli.options import AsJson, LedgerPath, Since, asked, length, moment, written
from llmbridge.money import show_usd


if TYPE_CHECKING:
    from llmbridge.ledger import ReadOnlyLedger
    from llmbridge.record import CallRecord

app = typer.Typer(help="Check the ledger, export it, keep it small, watch it.", no_args_is_help=True)
EVERY_S = 0.5
LONGEST = timedelta(hours=1)  # of a call that tail is to see
LATE = timedelta(seconds=10)  # how long after its end a call may be written, while others write
MOST = 100_000


@app.command()
def check(as_json: AsJson = False, ledger: LedgerPath = None) -> None:
    """Recompute every balance from what was reserved and charged, and say where the ledger differs. Reads all of it.

    Example: llmbridge ledger check || mail -s "ledger" me@example.com

    Exit code: 0 if it is whole, 1 if a difference is found or it cannot be read, 2 for wrong usage.
    """
    with asked(ledger) as book:
        found, path = book.check(), book.path
    if as_json:
        printing.as_json(found)
    else:
        for each in found:
            typer.echo(each)
        typer.echo(f"{path}: {f'{len(found)} differences' if found else 'no difference'}", err=True)
    if found:
        raise typer.Exit(1)


@app.command()
def export(
    format: Annotated[Literal["json", "csv"], typer.Option(help="json is a line an attempt.")] = "json",
    since: Since = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A new file, instead of the screen.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    ledger: LedgerPath = None,
) -> None:
    """Write every recorded attempt as JSON lines or CSV. There is no prompt and no answer in them.

    Example: llmbridge ledger export --format csv --since 30d -o november.csv

    Exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    start = moment(since)
    if as_json and format != "json":
        raise ValueError("--json and --format csv exclude each other")
    with asked(ledger) as book:
        if output is None:
            book.export(sys.stdout, format, since=start)
            return
        try:
            with output.open("x", encoding="utf-8", newline="") as file:
                count = book.export(file, format, since=start)
        except OSError as error:
            raise ValueError(f"{output} cannot be made: {error.strerror}") from None
    typer.echo(f"{output}: {count:,} attempts", err=True)


@app.command()
def compact(
    older_than: Annotated[str, typer.Option(metavar="LENGTH", help="Such as 90d or 12w.")],
    as_json: AsJson = False,
    ledger: LedgerPath = None,
) -> None:
    """Fold calls older than that into totals by day: spend and balances stay, the calls' details go.

    Example: llmbridge ledger compact --older-than 90d

    Exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    age = length(older_than)
    if age is None:
        raise ValueError(f"--older-than {older_than} is no length of time; write it as 90d or 12w")
    with written(ledger) as book:
        count = book.compact(age / timedelta(days=1))
    if as_json:
        printing.as_json({"attempts": count})
    else:
        typer.echo(f"{count:,} attempts are folded into totals by day.")


@app.command()
def tail(
    limit: Annotated[int, typer.Option("-n", "--limit", min=0, help="Begin with the latest so many.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line a call.")] = False,
    ledger: LedgerPath = None,
) -> None:
    """Print each call as it ends, until Ctrl-C. Looks twice a second, and holds nobody up.

    Example: llmbridge ledger tail --json | jq .cost_usd

    Exit code: 0 after Ctrl-C, 1 for a failure, 2 for wrong usage.
    """
    with asked(ledger) as book:
        try:
            for record in _ending(book, limit):
                if as_json:
                    printing.as_json(data(record), indent=None)
                else:
                    typer.echo(_line(record))
        except KeyboardInterrupt:
            return


def _ending(book: ReadOnlyLedger, limit: int) -> Iterator[CallRecord]:
    """The latest *limit* calls, and then each that ends, once."""
    looked = datetime.now(UTC)
    known = book.records(since=looked - LONGEST, ended_since=looked - LATE, limit=MOST)
    yield from (latest := book.records(limit=limit))
    seen = {each.id: looked for each in (*known, *latest)}
    while True:
        before, looked = looked, datetime.now(UTC)
        ended = book.records(since=looked - LONGEST, ended_since=before - LATE, limit=MOST)
        yield from (each for each in ended if each.id not in seen)
        seen = {id: at for id, at in seen.items() if at > looked - 3 * LATE} | {each.id: looked for each in ended}
        time.sleep(EVERY_S)


def _line(record: CallRecord) -> str:
    ended = datetime.fromtimestamp(record.started_at + record.duration_s).astimezone()
    attempts = f"{len(record.attempts)} attempt{'s' * (len(record.attempts) != 1)}"
    said = (
        f"{ended:%H:%M:%S}", record.id[:SHORT], record.model or ", ".join(record.models), what(record), attempts,
        tokens(record), show_usd(record.cost_usd), f"{record.duration_s:.2f} s", tags(record),
    )  # fmt: skip
    return printing.plain("  ".join(filter(None, said)))
