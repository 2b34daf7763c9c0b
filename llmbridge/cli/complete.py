"""llmbridge complete: ask, and print the answer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import printing


if TYPE_CHECKING:
    from llmbridge.completion import Completion


def complete(
    prompt: Annotated[str, typer.Argument(help="What to ask; '-' reads it from standard input.")],
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", help="provider/name, or a name from the configuration; repeat it for fallbacks."),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer and its record as JSON.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Randomness, 0 to 2.")] = None,
    deadline_s: Annotated[float | None, typer.Option(help="The bound on the whole call, in seconds.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show the call as a tree, also when it fails.")] = False,
) -> None:
    """Ask a model, by default the configured one; the answer goes to stdout, what it took to stderr.

    Example: llmbridge complete "Name a fish." -m openai/gpt-4o-mini -m anthropic/claude-haiku-4-5 --stream
    """
    from llmbridge.default import default
    from llmbridge.record import CallRecord

    text = sys.stdin.read() if prompt == "-" else prompt
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    named = model[0] if model and len(model) == 1 else model or None
    arguments: dict[str, Any] = {"model": named, "deadline_s": deadline_s}
    arguments |= {
        name: value
        for name, value in {"max_tokens": max_tokens, "temperature": temperature}.items()
        if value is not None
    }
    bridge, ended = default(), list[CallRecord]()
    bridge.subscribe(ended.append)
    try:
        if stream and not as_json:
            with bridge.stream(messages, **arguments) as chunks:
                completion = printing.chunks(chunks)
        else:
            completion = bridge.complete(messages, **arguments)
            typer.echo(json.dumps(_as_data(completion), indent=2, default=str) if as_json else completion.text)
        printing.footer(completion)
    finally:
        for record in ended if trace else ():
            printing.trace(record)


def _as_data(completion: Completion) -> dict[str, Any]:
    import dataclasses

    return {"text": completion.text, **completion.model_dump(), "record": dataclasses.asdict(completion.record)}
