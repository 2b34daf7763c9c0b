"""llmbridge simulate: what the recorded calls would have cost otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import printing
from llmbridge.cli.options import AsJson, LedgerPath, Since, Until, asked, moment
from llmbridge.money import show_usd


if TYPE_CHECKING:
    from llmbridge.simulation import Cap, Line, Simulation

FIGURES = ("attempts", "tokens", "recorded", "simulated", "change", "refused", "unpriced")


def simulate(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Another configuration: its models, prices, budgets."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="A=B", help="B instead of A, which may be a pattern; repeat it for more."
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
    ledger: LedgerPath = None,
) -> None:
    """Say what the recorded calls would have cost under another policy, with other models or at other prices.

    Nothing is sent and nothing is changed. What is assumed is said below the figures.

    Example: llmbridge simulate --model openai/gpt-4o=openai/gpt-4o-mini --since 7d

    Exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    if config is None and not models:
        raise ValueError("say what is to be different: --config FILE, --model A=B, or both")
    simulation, assumed = _simulation(config, models or [])
    start, end = moment(since), moment(until)
    with asked(ledger) as book:
        book.attempts(simulation.take, since=start, until=end)
        cached = book.endings(since=start, until=end).get("cached", 0)
        spent = sum((each.cost_usd for each in book.spend(since=start, until=end)), Decimal(0))
    total = simulation.total()
    assumed.append(f"cache hits stay hits, for $0: {cached:,} of them")
    if folded := spent - total.recorded_usd:
        assumed.append(f"{show_usd(folded)} of old calls is left out: compaction has folded their details")
    for each in models or []:
        if each.rpartition("=")[0] not in simulation.matched:
            typer.echo(f"--model {each}: no recorded answer is of such a model", err=True)
    if as_json:
        printing.as_json(_data(simulation, total, cached, assumed))
    elif not total.attempts:
        typer.echo("Nothing that was billed is recorded.", err=True)
    else:
        _table(simulation.lines(), total)
        _notes([_cap(each) for each in simulation.caps], assumed)


def _simulation(config: Path | None, models: Sequence[str]) -> tuple[Simulation, list[str]]:
    """What is to be simulated, and what it takes for granted."""
    from llmbridge.fallback import Fallback
    from llmbridge.names import Names
    from llmbridge.request import Hidden, Model, Request
    from llmbridge.simulation import ASSUMED, Simulation

    arguments: dict[str, Any] = {"models": (), "names": {}, "budgets": ()}
    if config is not None:
        from llmbridge.config import load

        arguments = dict(load(config).arguments)
    names: dict[str, Model | Fallback] = arguments["names"]
    policy = Fallback()
    chain: tuple[Model, ...] = ()
    if arguments["models"]:
        known = Names(arguments["models"], None, names)
        policy, chain = known.of(Request("chat", "", (), Hidden()), None)
    priced = [each for each in names.values() if isinstance(each, Model) and each.input_usd_per_mtok is not None]
    simulation = Simulation(
        chain,
        cheapest=policy.strategy == "least_cost",
        known={each.model: each for each in priced},
        instead=[_pair(each, names) for each in models],
        budgets=arguments["budgets"],
    )
    return simulation, [*_chain_said(policy.strategy, chain, arguments["budgets"]), *ASSUMED]


def _pair(text: str, names: Any) -> tuple[str, Any]:
    from llmbridge.fallback import Fallback
    from llmbridge.request import Model

    pattern, _, name = text.rpartition("=")
    if not pattern.strip() or not name.strip():
        raise ValueError(f"--model {text!r} is not of the form A=B, as in openai/gpt-4o=openai/gpt-4o-mini")
    meant = names.get(name, name)
    if isinstance(meant, Fallback):
        raise ValueError(f"--model {text}: {name!r} is a fallback; name a model")
    return pattern, meant if isinstance(meant, Model) else Model(meant)


def _chain_said(strategy: object, chain: Sequence[Any], budgets: Sequence[Any]) -> list[str]:
    said = []
    if chain and strategy == "least_cost":
        said = ["whoever of the new chain is cheapest answers every chat: " + ", ".join(each.model for each in chain)]
    elif chain:
        said = [f"{chain[0].model}, the first of the new chain, answers every chat, also one that named its model"]
        if strategy != "priority" and len(chain) > 1:
            said.append(f"the strategy {strategy!r} may order the chain otherwise")
    if budgets:
        said.append("budgets begin empty, count what calls cost and not the worst case that is reserved meanwhile")
    return said


def _table(lines: Sequence[Line], total: Line) -> None:
    both = [*lines, total] if len(lines) > 1 else list(lines)
    most = max(max(each.recorded_usd, each.simulated_usd) for each in both)
    rows = [
        {
            "model": "total" if each is total else each.model,
            "instead": "" if each.instead == each.model else each.instead,
            "attempts": f"{each.attempts:,}",
            "tokens": f"{each.input_tokens:,}+{each.output_tokens:,}",
            "recorded": _money(each.recorded_usd, most, each.unknown, each.attempts),
            "simulated": _money(each.simulated_usd, most, each.unpriced, each.attempts - each.refused),
            "change": _change(each),
            "refused": f"{each.refused:,}",
            "unpriced": f"{each.unpriced:,}",
        }
        for each in both
    ]
    empty = [name for name in ("refused", "unpriced") if not getattr(total, name)]
    printing.table(
        [{name: value for name, value in row.items() if name not in empty} for row in rows],
        right=FIGURES,
        spare=("tokens", "attempts", "unpriced"),
        total=len(both) > 1,
    )


def _money(amount_usd: Decimal, most: Decimal, unknown: int, of: int) -> str:
    """An amount; what is unknown is not zero."""
    if unknown:
        return "unknown" if unknown == of else f"{printing.money(amount_usd, most)} and more"
    return printing.money(amount_usd, most)


def _change(line: Line) -> str:
    if line.unknown or line.unpriced or not line.recorded_usd:
        return ""
    share = (line.simulated_usd - line.recorded_usd) / line.recorded_usd
    return f"{share:+,.1%}" if share else "none"


def _cap(cap: Cap) -> str:
    budget = cap.budget
    verb, of = ("warned of", "requests") if budget.on_exceed == "warn" else ("refused", "calls")
    if not cap.refused:
        return f"Budget {budget.name!r} would have {verb} nothing."
    return f"Budget {budget.name!r} would have {verb} {cap.refused:,} {of}, of {show_usd(cap.refused_usd)}."


def _notes(caps: Sequence[str], assumed: Sequence[str]) -> None:
    for each in (*caps, "Assumed:", *(f"  * {each}" for each in assumed)):
        typer.echo(each)


def _data(simulation: Simulation, total: Line, cached: int, assumed: Sequence[str]) -> dict[str, Any]:
    sums = {name: value for name, value in asdict(total).items() if name not in ("model", "instead")}
    return {
        "by_model": [asdict(each) for each in simulation.lines()],
        "total": sums,
        "budgets": [
            {
                "budget": each.budget.name,
                "on_exceed": each.budget.on_exceed,
                "refused": each.refused,
                "refused_usd": each.refused_usd,
            }
            for each in simulation.caps
        ],
        "cached_calls": cached,
        "assumed": list(assumed),
    }
