"""llmbridge explain: the plan of a call, with money; nothing is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from llmbridge.cli import asking, printing
from llmbridge.money import show_usd, usd


if TYPE_CHECKING:
    from rich.text import Text

    from llmbridge.call.planning import Headroom, Plan


def explain(
    prompt: asking.Prompt,
    model: asking.Models = None,
    system: asking.System = None,
    image: asking.Images = None,
    schema: asking.Schema = None,
    max_tokens: asking.MaxTokens = None,
    temperature: asking.Temperature = None,
    budget: asking.Budgets = None,
    cache: asking.Cache = "on",
    tag: asking.Tags = None,
    as_json: asking.AsJson = False,
) -> None:
    """Show what `complete` would do and what it costs, and send nothing.

    Whom it would ask, in which order, who is left out and why, what that costs typically and at most, what is left of
    the budgets. Exit code 3 if a budget would refuse it.

    Example: llmbridge explain "Name a fish." -m openai/gpt-4o-mini -m anthropic/claude-haiku-4-5 --budget '$5/day'
    """
    from llmbridge.default import default

    asked = asking.messages(prompt, system, image)
    arguments = asking.arguments(
        model, schema=schema, budget=budget, tag=tag, max_tokens=max_tokens, temperature=temperature, cache=cache
    )
    plan = default().plan(asked, **arguments)
    if as_json:
        printing.as_json({"is_kept": plan.is_kept, **dataclasses.asdict(plan)})
    else:
        _print(plan)
    if not plan.is_kept and any(room.on_exceed == "refuse" and not room.fits for room in plan.headroom):
        raise typer.Exit(3)


def _print(plan: Plan) -> None:
    if plan.is_kept:
        typer.echo("The answer is kept: nothing would be sent, and it costs $0.")
    printing.table([*_candidates(plan)], right=("typically", "at most"))
    if plan.headroom:
        printing.table([*map(_budget, plan.headroom)], right=("left", "needed at most"))


def _candidates(plan: Plan) -> Iterator[dict[str, str | Text]]:
    from rich.text import Text

    for number, each in enumerate(plan.candidates, 1):
        said = Text("kept", style="green") if each.is_kept else Text("" if number > 1 else "asked first")
        costs = {"typically": show_usd(each.typical_usd), "at most": show_usd(each.worst_usd)}
        yield {"": str(number), "model": Text(each.model), **costs, " ": said}
    for dropped in plan.dropped:
        said = Text(f"passed over: {dropped.why}", style="yellow")
        yield {"": "-", "model": Text(dropped.model), "typically": "", "at most": "", " ": said}


def _budget(room: Headroom) -> dict[str, str | Text]:
    from rich.text import Text

    return {
        "budget": Text(room.budget),
        "left": _amount(room, room.remaining),
        "needed at most": _amount(room, room.needed),
        "": Text("enough", style="green")
        if room.fits
        else Text(f"not enough: {_EXCEEDED[room.on_exceed]}", style="red"),
    }


_EXCEEDED = {
    "refuse": "refused",
    "downgrade": "a cheaper model would be asked",
    "clamp": "a shorter answer would be asked for",
    "warn": "a warning, and it goes on",
}


def _amount(room: Headroom, amount: int | None) -> str:
    if amount is None:
        return "unknown"
    return show_usd(usd(amount)) if room.unit == "nanousd" else f"{amount:,} {room.unit}"
