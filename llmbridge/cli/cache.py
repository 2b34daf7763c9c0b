"""llmbridge cache: what is kept, what it saved, and how to be rid of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import printing
from llmbridge.cli.options import AsJson


if TYPE_CHECKING:
    from llmbridge.cache import Cache, Entry

app = typer.Typer(help="See what answers are kept, check them, remove them.", no_args_is_help=True)
CacheDir = Annotated[Path | None, typer.Option("--cache", metavar="DIR", help="Another cache than the default.")]
OfModel = Annotated[str | None, typer.Option("-m", "--model", help="Of that model alone, or of 'openai/*'.")]
OfTag = Annotated[str | None, typer.Option("--tag", metavar="NAME=VALUE", help="Of calls with that tag alone.")]
SHORT = 12  # of a key


@app.command()
def stats(as_json: AsJson = False, directory: CacheDir = None) -> None:
    """How often the cache answered, and how much is in it.

    Example: llmbridge cache stats --json

    Exit code: 0, 1 if there is no cache or it cannot be read, 2 for wrong usage.
    """
    cache = _asked(directory)
    found = cache.stats()
    if as_json:
        printing.as_json(asdict(found))
        return
    asked = found.hits + found.misses
    typer.echo(f"{cache.directory}: {found.entries:,} answers, {found.size_bytes / 2**20:.1f} MiB")
    typer.echo(f"{found.hits:,} of {asked:,} answered from it{f' ({found.hits / asked:.0%})' if asked else ''}")
    if found.errors:
        typer.echo(f"{found.errors:,} times it did not work, or an entry in it was broken")


@app.command("list")
def list_(
    model: OfModel = None,
    tag: OfTag = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="The latest so many.")] = 20,
    as_json: AsJson = False,
    directory: CacheDir = None,
) -> None:
    """The latest answers that are kept. The question is not: an answer is found by its key.

    Example: llmbridge cache list -m 'openai/*' --tag user=alice

    Exit code: 0, 1 if there is no cache or it cannot be read, 2 for wrong usage.
    """
    found = _asked(directory).entries(model=model, tag=tag, limit=limit)
    if as_json:
        printing.as_json([_facts(key, entry) for key, entry in found])
    elif found:
        printing.table(
            [_row(key, entry) for key, entry in found],
            right=("age", "tokens", "saves"),
            spare=("tags", "tokens", "answer"),
        )
    else:
        typer.echo("No answer is kept.", err=True)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="An answer's key, or how it begins.")],
    as_json: AsJson = False,
    directory: CacheDir = None,
) -> None:
    """One answer in full. It counts as no hit.

    Example: llmbridge cache show 3f2a

    Exit code: 0, 1 if there is no such answer, or several, 2 for wrong usage.
    """
    found = _asked(directory).entries(key, limit=10)
    if len(found) != 1:
        typer.echo(f"{'Several' if found else 'No'} keys begin with {key}.", err=True)
        for each, _ in found:
            typer.echo(each, err=True)
        raise typer.Exit(1)
    ((whole, entry),) = found
    if as_json:
        printing.as_json({**_facts(whole, entry), "answer": _answer(entry)})
        return
    for name, value in _facts(whole, entry).items():
        if value not in (None, {}):
            typer.echo(f"{name:<15}{_said(value)}")
    typer.echo()
    answer = _answer(entry)
    typer.echo(entry.completion.text if isinstance(answer, dict) else str(answer))


@app.command()
def clear(
    model: OfModel = None,
    tag: OfTag = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every answer.")] = False,
    as_json: AsJson = False,
    directory: CacheDir = None,
) -> None:
    """Remove answers: of a model, of a tag, or all. Programs that use the cache go on.

    Example: llmbridge cache clear --tag user=alice

    Exit code: 0, 1 if there is no cache or it cannot be changed, 2 for wrong usage.
    """
    from llmbridge.cache import Cache

    if everything == bool(model or tag):
        raise ValueError("say what to remove: --model, --tag, or --all")
    _asked(directory).close()
    cache = Cache(directory)
    errors = cache.stats().errors
    count = cache.clear(model, tag)
    if as_json:
        printing.as_json({"entries": count})
    else:
        typer.echo(f"{count:,} answers are removed.")
    if cache.stats().errors > errors:  # which the log has named
        raise typer.Exit(1)


@app.command()
def verify(as_json: AsJson = False, directory: CacheDir = None) -> None:
    """Read every answer and say which are broken. Changes nothing.

    Example: llmbridge cache verify || llmbridge cache clear --all

    Exit code: 0 if all are whole, 1 if one is broken or there is no cache, 2 for wrong usage.
    """
    cache = _asked(directory)
    found = cache.verify()
    if as_json:
        printing.as_json(found)
    else:
        for each in found:
            typer.echo(each)
        typer.echo(f"{cache.directory}: {f'{len(found)} are wrong' if found else 'nothing is wrong'}", err=True)
    if found:
        raise typer.Exit(1)


def _asked(directory: Path | None) -> Cache:
    """The cache to look into, in which nothing is changed; ends the command if there is none that works."""
    from llmbridge.cache import Cache

    cache = Cache(directory, read_only=True)
    if not cache.directory.is_dir():
        typer.echo(f"there is no cache in {cache.directory}; the first answer that is kept makes it", err=True)
        raise typer.Exit(1)
    cache.entries(limit=0)  # which opens it, and says what is wrong
    if not cache.is_open:
        raise typer.Exit(1)
    return cache


def _row(key: str, entry: Entry) -> dict[str, str]:
    from llmbridge.money import show_usd, usd

    answer = _answer(entry)
    return {
        "key": key[:SHORT],
        "model": entry.model,
        "age": _age(entry.age_s),
        "tokens": "" if entry.input_tokens is None else f"{entry.input_tokens:,}+{entry.output_tokens or 0:,}",
        "saves": show_usd(None if entry.cost_nanousd is None else usd(entry.cost_nanousd)),
        "tags": " ".join(f"{name}={value}" for name, value in entry.tags.items()),
        "answer": " ".join(entry.completion.text.split())[:40] if isinstance(answer, dict) else "(a vector)",
    }


def _facts(key: str, entry: Entry) -> dict[str, Any]:
    from llmbridge.money import usd

    return {
        "key": key,
        "model": entry.model,
        "response_model": entry.response_model,
        "provider": entry.provider,
        "created_at": datetime.fromtimestamp(entry.created_at, UTC),
        "age_s": round(entry.age_s, 1),
        "ttl_s": entry.ttl_s,
        "input_tokens": entry.input_tokens,
        "output_tokens": entry.output_tokens,
        "cost_usd": None if entry.cost_nanousd is None else usd(entry.cost_nanousd),
        "tags": dict(entry.tags),
    }


def _answer(entry: Entry) -> Any:
    from llmbridge.completion import Completion

    return entry.answer.model_dump(exclude_unset=True) if isinstance(entry.answer, Completion) else entry.answer


def _said(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={each}" for name, each in value.items())
    return f"{value:%Y-%m-%d %H:%M:%S %Z}" if isinstance(value, datetime) else str(value)


def _age(age_s: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if age_s >= length_s:
            return f"{age_s / length_s:.0f}{unit}"
    return f"{age_s:.0f}s"
