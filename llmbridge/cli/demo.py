"""llmbridge demo: the main job, offline."""

from __future__ import annotations

from pathlib import Path

import typer

from llmbridge.cli import printing


MESSAGES = "Name a fish and say why it is your favourite."
CASSETTE = Path(__file__).with_name("demo.yaml")


def demo() -> None:
    """Ask two models of which the first is down, under a budget, without network and without a key.

    The HTTP is played back from a recording, which was made against this project's own simulator; everything between
    the call and the HTTP is what a live call runs through.
    """

    from llmbridge.bridge import Bridge
    from llmbridge.cassette import replay
    from llmbridge.default import warm
    from llmbridge.fallback import Fallback
    from llmbridge.request import Model

    models = [
        Model("openai/gpt-4o-mini", api_key="sk-demo-no-key"),
        Model("anthropic/claude-haiku-4-5", api_key="sk-demo-no-key"),
    ]
    typer.echo("Loading LiteLLM, once a process ...", err=True)
    warm()
    typer.echo(f"{MESSAGES}\n")
    with replay(CASSETTE):
        bridge = Bridge(models, budgets=["$5/day"], fallback=Fallback(retries=0))  # each was recorded once
        with bridge.stream(MESSAGES, max_tokens=100) as chunks:
            completion = printing.chunks(chunks)
        (balance,) = bridge.ledger.balance()
    typer.echo()
    printing.attempts(completion)
    typer.echo(f"Budget {balance}.")
    typer.echo("A recording was played back: nothing was sent and nothing was billed.")
