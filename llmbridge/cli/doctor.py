"""llmbridge doctor: is everything there that a call needs?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from llmbridge.cli import printing
from llmbridge.cli.options import AsJson


if TYPE_CHECKING:
    from llmbridge.health import Health


def doctor(
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask each model for one token, within the budgets, which costs.")
    ] = False,
    timeout_s: Annotated[float, typer.Option(help="How long each check may take, in seconds.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Look at versions, configuration, keys, models, breakers, limits, ledger, cache and the trace's collector.

    Costs nothing: providers are asked which models they have. No key is shown.

    Example: llmbridge doctor --ask

    Exit code: 0 if nothing is wrong, 1 if something is, 2 for wrong usage.
    """
    health = _health(ask, timeout_s)
    if as_json:
        printing.as_json({"ok": health.ok, "checks": [asdict(each) for each in health.checks]})
    else:
        typer.echo(str(health))
    if not health.ok:
        raise typer.Exit(1)


def _health(ask: bool, timeout_s: float) -> Health:
    from llmbridge.bridge import Bridge
    from llmbridge.cache import Cache
    from llmbridge.default import default
    from llmbridge.errors import ConfigError
    from llmbridge.health import Check, Health

    try:
        return default().health(ask=ask, timeout_s=timeout_s)
    except ConfigError as error:  # what does not depend on it is looked at all the same
        wrong = Check("configuration", False, str(error), 0.0)
        others = Bridge(cache=Cache()).health(timeout_s=timeout_s)
        return Health(tuple(wrong if each.name == wrong.name else each for each in others.checks))
