"""The `llmbridge` command: one file a verb, imported when it is asked for."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmbridge import __version__
from llmbridge.errors import BudgetExceeded, ConfigError, LLMBridgeError


# A module of each name has either an `app` of its own, or a function of that name.
VERBS = (
    *("complete", "compare", "batch", "explain", "run", "demo", "models", "chains"),
    *("spend", "calls", "budget", "ledger", "cache", "cassette", "config", "simulate", "report", "doctor"),
)


class _Verbs(TyperGroup):
    """The verbs, each imported and built when it is run or explained: all of them together took longer than Typer."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands: Any = dict.fromkeys(VERBS)  # names alone, which help lists and a misspelt one is compared with

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"llmbridge.cli.{cmd_name}")
        if hasattr(module, "app"):
            made: Any = typer.main.get_group(module.app)
        else:
            alone = typer.Typer(add_completion=False)
            alone.command(context_settings=getattr(module, "CONTEXT", None))(getattr(module, cmd_name))
            made = typer.main.get_command(alone)
        made.name = cmd_name
        return made


app = typer.Typer(
    name="llmbridge",
    cls=_Verbs,
    help="One complete() over LiteLLM: typed answers, one error tree, fallback, replay offline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    warnings = logging.StreamHandler()  # the library itself says nothing on stderr
    warnings.setLevel(logging.WARNING)
    warnings.addFilter(lambda said: " has refused a call " not in said.getMessage())  # as the command's last line does
    logging.getLogger("llmbridge").addHandler(warnings)
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
    finally:
        logging.getLogger("llmbridge").removeHandler(warnings)
