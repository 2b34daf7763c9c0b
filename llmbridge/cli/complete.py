"""llmbridge complete: ask, and print the answer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import asking, printing


if TYPE_CHECKING:
    from llmbridge.bridge import Bridge
    from llmbridge.completion import Completion


def complete(
    prompt: asking.Prompt,
    model: asking.Models = None,
    fallback: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Whom to ask when the ones before fail; may be repeated.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    system: asking.System = None,
    image: asking.Images = None,
    schema: asking.Schema = None,
    max_tokens: asking.MaxTokens = None,
    temperature: asking.Temperature = None,
    budget: asking.Budgets = None,
    cache: asking.Cache = "on",
    tag: asking.Tags = None,
    deadline_s: asking.Deadline = None,
    cassette: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="FILE", help="Play the HTTP from this file; without the file, record it."),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show the call as a tree, also when it fails.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer and its record as JSON.")] = False,
) -> None:
    """Ask a model, by default the configured one; the answer goes to stdout, what it took to stderr.

    Example: git diff | llmbridge complete - --system "Write a commit message." -m openai/gpt-4o-mini --stream
    """
    from llmbridge.default import default
    from llmbridge.record import CallRecord

    asked = asking.messages(prompt, system, image)
    others: Any = {"max_tokens": max_tokens, "temperature": temperature, "deadline_s": deadline_s, "cache": cache}
    arguments = asking.arguments(model, fallback=fallback, schema=schema, budget=budget, tag=tag, **others)
    bridge, ended = default(), list[CallRecord]()
    unsubscribe = bridge.subscribe(ended.append)
    try:
        with _playing(cassette):
            completion = _ask(bridge, asked, arguments, stream=stream and not as_json, as_json=as_json)
        printing.footer(completion)
    finally:
        unsubscribe()
        for record in ended if trace else ():
            printing.trace(record)


def _ask(bridge: Bridge, asked: Any, arguments: dict[str, Any], *, stream: bool, as_json: bool) -> Completion:
    """Print the answer, and return it."""
    if stream:
        with bridge.stream(asked, **arguments) as chunks:
            return printing.chunks(chunks)
    completion = bridge.complete(asked, **arguments)
    printing.as_json(_as_data(completion)) if as_json else typer.echo(completion.text)
    return completion


def _playing(cassette: Path | None) -> AbstractContextManager[object]:
    if cassette is None:
        return nullcontext()
    from llmbridge.cassette import replay

    return replay(cassette, record="once")


def _as_data(completion: Completion) -> dict[str, Any]:
    import dataclasses

    return {"text": completion.text, **completion.model_dump(), "record": dataclasses.asdict(completion.record)}
