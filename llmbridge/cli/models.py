"""llmbridge models: which models there are, what they can do and what they cost."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import printing


if TYPE_CHECKING:
    from llmbridge.catalog import Listing

SHOWN = 40  # where nobody says how many
FIGURES = ("context", "output", "$ in", "$ out", "s")


def models(
    query: Annotated[str, typer.Argument(help="A part of the name.")] = "",
    capability: Annotated[
        list[str] | None,
        typer.Option(
            help="vision, audio, pdf, tools, json_schema, reasoning, prompt_caching, long_context or code (by the name "
            "alone); repeat it for several, all of which are needed."
        ),
    ] = None,
    provider: Annotated[str | None, typer.Option(help="LiteLLM's name of the provider.")] = None,
    max_input_usd_per_mtok: Annotated[
        str | None, typer.Option(help="The most that a million tokens of input may cost, in US dollars.")
    ] = None,
    min_context: Annotated[int | None, typer.Option(help="The smallest context window, in tokens.")] = None,
    mode: Annotated[str, typer.Option(help="chat or embedding.")] = "chat",
    sort: Annotated[str, typer.Option(help="model, cost, context or latency (by your ledger).")] = "model",
    deprecated: Annotated[bool, typer.Option("--deprecated", help="Also what its provider has taken away.")] = False,
    limit: Annotated[int | None, typer.Option(help="How many to show; 0 for all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, of all that fit.")] = False,
) -> None:
    """Which models there are: LiteLLM's table, and your own models. Prices are US dollars per million tokens.

    Example: llmbridge models --capability vision --max-input-usd-per-mtok 0.5 --sort cost
    """
    from llmbridge.default import default

    found = default().models.find(
        query=query,
        capability=capability or (),
        provider=provider,
        max_input_usd_per_mtok=max_input_usd_per_mtok,
        min_context=min_context,
        mode=mode,  # type: ignore[arg-type]  # what it may be is checked there
        sort=sort,  # type: ignore[arg-type]
        deprecated=deprecated,
    )
    shown = found[: limit if limit is not None else None if as_json else SHOWN] if limit != 0 else found
    if as_json:
        typer.echo(json.dumps([as_data(each) for each in shown], indent=2))
    elif shown:
        printing.table([_row(each, sort) for each in shown], right=FIGURES, spare=("can", "output", "until"))
    if not found:
        typer.echo("no model fits", err=True)
        raise typer.Exit(1)
    if len(shown) < len(found):
        typer.echo(f"{len(shown)} of {len(found):,}; --limit 0 shows all", err=True)


def as_data(listing: Listing) -> dict[str, Any]:
    """A Listing as JSON has it; prices as text, so that they stay exact."""
    data = listing._asdict()
    prices = {
        name: None if value is None else f"{value:f}" for name, value in data.items() if name.endswith("per_mtok")
    }
    until = listing.deprecates_on
    return {
        **data,
        **prices,
        "capabilities": sorted(listing.capabilities),
        "deprecates_on": None if until is None else until.isoformat(),
        "own": listing.own is not None,
    }


def _row(each: Listing, sort: str) -> dict[str, str]:
    row = {
        "model": each.model,
        "context": _count(each.context_window),
        "output": _count(each.max_output_tokens),
        "$ in": _price(each.input_usd_per_mtok),
        "$ out": _price(each.output_usd_per_mtok),
        "can": " ".join(sorted(each.capabilities)),
        "until": "" if each.deprecates_on is None else each.deprecates_on.isoformat(),
    }
    return {**row, "s": "" if each.latency_s is None else f"{each.latency_s:.2f}"} if sort == "latency" else row


def _count(tokens: int | None) -> str:
    return "" if tokens is None else f"{tokens:,}"


def _price(usd: Decimal | None) -> str:
    return "" if usd is None else f"{usd:f}"
