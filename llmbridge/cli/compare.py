"""llmbridge compare: one question to several models, side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import asking, pricing, printing
from llmbridge.money import show_usd


if TYPE_CHECKING:
    from rich.panel import Panel

    from llmbridge.bridge import Bridge
    from llmbridge.completion import Completion

NARROWEST = 36  # a column of text that can be read


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one model: a completion, or the error."""

    model: str
    completion: Completion | None
    error: Exception | None
    duration_s: float

    @property
    def text(self) -> str:
        if self.completion is None:
            return f"{type(self.error).__name__}: {self.error}"
        return self.completion.text

    @property
    def footer(self) -> str:
        """Who answered, if not the one that was named; cost, time and tokens."""
        if self.completion is None:
            return f"{self.duration_s:.2f} s"
        cached = f", cached, saved {show_usd(self.completion.saved_usd)}" if self.completion.cached else ""
        cost = show_usd(self.completion.cost_usd)
        who = f"{self.completion.model}, " if self.completion.model != self.model else ""
        return f"{who}{cost}{cached}, {self.duration_s:.2f} s, {printing.tokens(self.completion)}"

    def as_data(self) -> dict[str, Any]:
        """For --json."""
        found: dict[str, Any] = {"model": self.model, "duration_s": round(self.duration_s, 6)}
        if self.completion is None:
            return {**found, "error": {"type": type(self.error).__name__, "message": str(self.error)}}
        usage = self.completion.usage
        return {
            **found,
            "text": self.completion.text,
            "answered_by": self.completion.model,
            "finish_reason": self.completion.finish_reason,
            "cost_usd": self.completion.cost_usd,
            "saved_usd": self.completion.saved_usd,
            "cached": self.completion.cached,
            "usage": None if usage is None else usage.model_dump(),
            "call": self.completion.record.id,
        }


def compare(
    prompt: asking.Prompt,
    model: Annotated[
        list[str], typer.Option("-m", "--model", metavar="MODEL", help="A model to ask; repeat it for each.")
    ],
    system: asking.System = None,
    image: asking.Images = None,
    schema: asking.Schema = None,
    max_tokens: asking.MaxTokens = None,
    temperature: asking.Temperature = None,
    budget: asking.Budgets = None,
    cache: asking.Cache = "on",
    tag: asking.Tags = None,
    deadline_s: asking.Deadline = None,
    as_json: asking.AsJson = False,
) -> None:
    """Ask several models the same at the same time, and show the answers side by side.

    Each with its cost and time. A model that fails says so in its place. Exit code 1 if one did.

    Example: llmbridge compare "Name a fish." -m openai/gpt-4o-mini -m anthropic/claude-haiku-4-5
    """
    from llmbridge.default import default

    asked = asking.messages(prompt, system, image)
    others: Any = {"max_tokens": max_tokens, "temperature": temperature, "deadline_s": deadline_s, "cache": cache}
    arguments = asking.arguments(None, schema=schema, budget=budget, tag=tag, **others)
    bridge = default()
    for each in model:  # what is wrong with the question is wrong for all, and said once
        bridge.plan(asked, model=each, **pricing.planned(arguments))
    answers = asking.run(_ask_all(bridge, asked, model, arguments))
    if as_json:
        printing.as_json([each.as_data() for each in answers])
    else:
        _print(answers)
    if any(each.error for each in answers):
        raise typer.Exit(1)


async def _ask_all(bridge: Bridge, asked: Any, models: list[str], arguments: dict[str, Any]) -> list[Answer]:
    import asyncio

    return await asyncio.gather(*(_ask(bridge, asked, model, arguments) for model in models))


async def _ask(bridge: Bridge, asked: Any, model: str, arguments: dict[str, Any]) -> Answer:
    started = time.monotonic()
    completion, error = None, None
    try:
        completion = await bridge.acomplete(asked, model=model, **arguments)
    except Exception as exc:  # one that fails does not spoil the others
        error = exc
    return Answer(model, completion, error, time.monotonic() - started)


def _print(answers: list[Answer]) -> None:
    """Columns where there is room for them, else one below the other; without frames for another program."""
    from rich.table import Table

    screen = printing.screen()
    if not screen.is_terminal:
        typer.echo("\n".join(f"--- {each.model}  {each.footer}\n{each.text}\n" for each in answers), nl=False)
    elif screen.width // len(answers) < NARROWEST:
        screen.print(*map(_panel, answers), sep="\n")
    else:
        table = Table.grid(expand=True)
        for _ in answers:
            table.add_column(ratio=1)
        table.add_row(*map(_panel, answers))
        screen.print(table)


def _panel(answer: Answer) -> Panel:
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    colour = "red" if answer.error else ""
    said = Group(Text(answer.text, style=colour), Text(f"\n{answer.footer}", style="dim"))
    return Panel(said, title=Text(answer.model, style="bold"), title_align="left", border_style=colour)
