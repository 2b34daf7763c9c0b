"""llmbridge config: what is configured, what is wrong with it, and what may be."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer


if TYPE_CHECKING:
    from llmbridge.config import Configuration, Source
    from llmbridge.errors import ConfigError

app = typer.Typer(help="Check the configuration, show it, print its JSON Schema.", no_args_is_help=True)
Place = Annotated[Path | None, typer.Argument(help="The file; by default the one that a call would use.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(path: Place = None, as_json: AsJson = False) -> None:
    """Say all that is wrong with the file and the environment, with its line. Exit code 2 if something is."""
    from llmbridge import config
    from llmbridge.errors import ConfigError

    try:
        found = config.load(path)
    except ConfigError as error:
        if not as_json:
            raise
        typer.echo(json.dumps(_problems(error), indent=2))
        raise typer.Exit(2) from None
    typer.echo("[]" if as_json else f"{_where(found)}: {_summary(found)}")


@app.command()
def show(path: Place = None, as_json: AsJson = False) -> None:
    """Print every value, with where it is from; credentials are masked."""
    from llmbridge import config

    found = config.load(path)
    if as_json:
        rows = {"path": str(found.path) if found.path else None, "values": [asdict(each) for each in found.sources]}
        typer.echo(json.dumps(rows, indent=2, default=str))
        return
    typer.echo(f"# {_where(found)}")
    lines = [
        (f"{each.key} = {json.dumps(each.value, ensure_ascii=False, default=str)}", each) for each in found.sources
    ]
    width = min(max((len(line) for line, _ in lines), default=0), 60)
    for line, each in lines:
        typer.echo(f"{line:<{width}}  # {_from(each)}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the file, for editors."""
    from llmbridge import config

    typer.echo(json.dumps(config.schema(), indent=2))


def _where(found: Configuration) -> str:
    return str(found.path) if found.path else "no file, the environment alone"


def _from(source: Source) -> str:
    return source.variable or (f"line {source.line}" if source.line else "by its name")


def _summary(found: Configuration) -> str:
    """How much of each there is."""
    from llmbridge.request import Model

    names, default = found.arguments["names"].values(), found.arguments["models"]
    models = sum(isinstance(each, Model) for each in names)
    counts = {
        "model": models,
        "fallback": len(names) - models,
        "budget": len(found.arguments["budgets"]),
        "limit": len(found.arguments["limits"]),
    }
    said = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count)
    asked = default if isinstance(default, str) else ", ".join(default)
    return f"{said or 'nothing is set'}; " + (f"asks {asked} by default" if asked else "no default model")


def _problems(error: ConfigError) -> list[dict[str, Any]]:
    if not error.mistakes:
        return [{"path": error.path, "line": error.line, "variable": None, "key": "", "what": str(error)}]
    return [{"path": error.path, **asdict(each)} for each in error.mistakes]
