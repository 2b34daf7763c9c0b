"""llmbridge chains: the ready chains, whom each would ask now, and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import printing
from llmbridge.cli.models import as_data


if TYPE_CHECKING:
    from llmbridge.catalog.chains import Chain


def chains(
    name: Annotated[str | None, typer.Argument(help="One of them; by default all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The ready chains: the rule of each, the models that it asks with the keys at hand, and the keys that are missing.

    In a program: model=llmbridge.models.chain("high_quality").
    """
    from llmbridge.catalog.chains import CHAINS
    from llmbridge.default import default

    catalog = default().models
    found = [catalog.explain_chain(each) for each in ([name] if name else CHAINS)]
    if as_json:
        typer.echo(json.dumps([_as_data(each) for each in found], indent=2))
        return
    rows: list[list[str]] = []
    for chain in found:
        rows.append([chain.name, f"strategy {chain.strategy}", chain.rule])
        rows += [["", f"{number}. {each.listing.model}", each.why] for number, each in enumerate(chain.members, 1)]
        if not chain.members:
            rows.append(["", "nobody", chain.advice])
        elif chain.missing:
            rows.append(["", "no key for others", ", ".join(each.keys[0] for each in chain.missing)])
    printing.table([dict(zip(("chain", "models, in order", "why"), row, strict=True)) for row in rows])


def _as_data(chain: Chain) -> dict[str, Any]:
    return {
        "chain": chain.name,
        "rule": chain.rule,
        "strategy": chain.strategy,
        "models": [{**as_data(each.listing), "why": each.why} for each in chain.members],
        "missing": [{"model": each.model, "keys": list(each.keys)} for each in chain.missing],
    }
