"""llmbridge report: what the ledger holds, as a page or as JSON."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmbridge.cli import printing
from llmbridge.cli.options import AsJson, LedgerPath, Since, Until, asked, moment


def report(
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Where to write the page; -: here.")
    ] = None,
    since: Since = None,
    until: Until = None,
    zone: Annotated[str, typer.Option(help="Whose hours, days, weeks and months.")] = "UTC",
    as_json: AsJson = False,
    ledger: LedgerPath = None,
) -> None:
    """Draw what was spent, on what, how long it took and what failed, as one HTML file that needs no network.

    The ledger is only read. The page names models and tags, and no prompt and no answer.

    Example: llmbridge report --html report.html --since 30d

    Exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    if html is None and not as_json:
        raise ValueError("say where to write the page: --html report.html, or --json for the figures alone")
    if as_json and str(html) == "-":
        raise ValueError("--json and --html - exclude each other")
    from llmbridge.report import gather

    if html is not None:
        _need_matplotlib()
    start, end = moment(since, zone), moment(until, zone)
    with asked(ledger) as book:
        figures = gather(book, since=start, until=end, zone=zone)
    if as_json:
        printing.as_json(asdict(figures))
    if html is None:
        return
    from llmbridge.report.page import page

    if str(html) == "-":
        sys.stdout.write(page(figures))
        return
    try:
        html.write_text(page(figures), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{html} cannot be written: {error.strerror}") from None
    typer.echo(f"{html}: {html.stat().st_size / 1024:,.0f} KB", err=as_json)


def _need_matplotlib() -> None:
    """Say so, before the ledger is read, where the charts cannot be drawn. Importing it to see takes half a second."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        typer.echo(
            "the charts are drawn by matplotlib, which is not installed: pip install 'llmbridge[report]'", err=True
        )
        raise typer.Exit(1)
