"""The `llmbridge` command: one file a verb."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmbridge import __version__
from llmbridge.cli import cassette, config
from llmbridge.cli.batch import batch
from llmbridge.cli.chains import chains
from llmbridge.cli.compare import compare
from llmbridge.cli.complete import complete
from llmbridge.cli.demo import demo
from llmbridge.cli.explain import explain
from llmbridge.cli.models import models
from llmbridge.cli.run import run
from llmbridge.errors import BudgetExceeded, ConfigError, LLMBridgeError


app = typer.Typer(
    name="llmbridge",
    help="One complete() over LiteLLM: typed answers, one error tree, fallback, replay offline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(complete)
app.command()(compare)
app.command()(batch)
app.command()(explain)
app.command(context_settings={"ignore_unknown_options": True})(run)
app.command()(demo)
app.command()(models)
app.command()(chains)
app.add_typer(cassette.app, name="cassette")
app.add_typer(config.app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmbridge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None: ...


def main() -> None:
    """Run the command. A user's mistake ends in a message on stderr: exit code 1, 2 for wrong usage and files, 3 for
    what a budget refused."""
    try:
        app()
    except ConfigError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except LLMBridgeError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(3 if isinstance(error, BudgetExceeded) else 1)
    except (TypeError, ValueError) as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
