"""llmbridge cassette: look into recordings, check them, take secrets out of them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer


if TYPE_CHECKING:
    from llmbridge.cassette import Recording

app = typer.Typer(help="Look into recorded HTTP, check it, take secrets out of it.", no_args_is_help=True)
Paths = Annotated[list[Path], typer.Argument(help="Cassettes, or folders of them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Row:
    """What one recording is, as far as its JSON says it under the usual names."""

    path: str
    number: int
    method: str
    url: str
    status: int
    model: str | None
    prompt: str
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: str | None


@app.command("list")
def list_(paths: Paths, as_json: AsJson = False) -> None:
    """What each cassette holds: model, how the prompt starts, tokens, cost."""
    from llmbridge.cassette import read

    found = [_row(path, number, each) for path in _files(paths) for number, each in enumerate(read(path)[1], 1)]
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in found], indent=2))
        return
    _print(found)


@app.command()
def check(
    paths: Paths,
    as_json: AsJson = False,
    max_age_days: Annotated[int | None, typer.Option(help="Files older than this are found too.")] = None,
) -> None:
    """Find what is wrong: a file that is no cassette, a tag that is not YAML's own, a secret, old age. Exit code 1 if
    something is."""
    found = [
        {"path": str(path), "problem": problem} for path in _files(paths) for problem in _wrong(path, max_age_days)
    ]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    for each in () if as_json else found:
        typer.echo(f"{each['path']}: {each['problem']}")
    if found:
        raise typer.Exit(1)


@app.command()
def scrub(paths: Paths, as_json: AsJson = False) -> None:
    """Write each cassette anew without secrets and without headers that are not needed; whole or not at all."""
    from llmbridge.cassette import read, scrubbed, write

    changed: list[str] = []
    for path in _files(paths):
        comment, recordings = read(path)
        before = [each.entry for each in recordings]
        after = [scrubbed(_raw(each.entry["request"]), _raw_answer(each)) for each in recordings]
        if after != before:
            write(path, comment, after)
            changed.append(str(path))
    if as_json:
        typer.echo(json.dumps(changed, indent=2))
    for each in () if as_json else changed:
        typer.echo(f"{each}: written anew")


@app.command("from-cache")
def from_cache(
    path: Annotated[Path, typer.Argument(help="The cassette; a new file, or one that was made like this.")],
    prompt: Annotated[str, typer.Argument(help="What was asked.")],
    model: Annotated[str, typer.Option("-m", "--model", help="provider/name, as it was asked.")],
    system: Annotated[str | None, typer.Option(help="The system message that was sent.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="As it was asked.")] = None,
    temperature: Annotated[float | None, typer.Option(help="As it was asked.")] = None,
) -> None:
    """Make the kept answer to a question into a recording, without a request. For providers of OpenAI's format.

    The cache knows answers by a hash of all that was asked, so it has to be said again. For what has no option here:
    llmbridge.cassette.from_cache.
    """
    from llmbridge.bridge import Bridge
    from llmbridge.cache import Cache
    from llmbridge.cassette import from_cache
    from llmbridge.fallback import Fallback
    from llmbridge.request import Model

    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    asked: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    given = {name: value for name, value in asked.items() if value is not None}
    once = Fallback([Model(model, api_key="no-key-is-sent")], retries=0)
    bridge = Bridge(fallback=once, ledger=None, cache=Cache())
    kept = from_cache(path, partial(bridge.complete, messages, **given))
    typer.echo(f"{path}: {len(kept.text)} characters of {kept.model}")


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.yaml"))
        else:
            yield path


def _wrong(path: Path, max_age_days: int | None) -> Iterator[str]:
    from llmbridge.cassette import leaks, read
    from llmbridge.errors import ConfigError

    try:
        _, recordings = read(path)
    except ConfigError as error:
        yield str(error)
        return
    yield from (
        f"interaction {number} holds a secret" for number, each in enumerate(recordings, 1) if leaks(each.entry)
    )
    days = (time.time() - path.stat().st_mtime) / 86_400
    if max_age_days is not None and days > max_age_days:
        yield f"it was written {days:.0f} days ago"


def _row(path: Path, number: int, recording: Recording) -> Row:
    from llmbridge.redaction import redact

    asked = recording.asked["body"] if isinstance(recording.asked["body"], dict) else {}
    answers = list(_answers(recording))
    named = re.search(r"/models/([^:/?]+)", recording.asked["url"])  # Google's, which stands in the address
    model = asked.get("model") or (named[1] if named else None)
    tokens = _tokens(answers)
    status = recording.answer["status"]["code"]
    cost = _cost(model, *tokens) if status < 400 else None
    prompt = redact(" ".join(_prompt(asked).split()))[:60]
    method, _, url = recording.name.partition(" ")
    return Row(str(path), number, method, url, status, model, prompt, *tokens, cost)


def _answers(recording: Recording) -> Iterator[dict[str, Any]]:
    """The JSON objects of an answer: one, or those of a stream's events."""
    text = recording.answer["body"]["string"].decode("utf-8", "replace")
    for piece in (text, *text.splitlines()):
        try:
            value = json.loads(piece.removeprefix("data:"))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value
            yield from (inner for inner in value.values() if isinstance(inner, dict))


def _tokens(answers: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    names = (
        ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_eval_count"),
        ("completion_tokens", "output_tokens", "candidatesTokenCount", "eval_count"),
    )
    counts = [[each[name] for each in answers for name in side if isinstance(each.get(name), int)] for side in names]
    found = [max(side) if side else None for side in counts]
    return found[0], found[1]


def _prompt(asked: dict[str, Any]) -> str:
    said = asked.get("messages") or asked.get("contents") or asked.get("input") or asked.get("prompt") or ""
    last = said[-1] if isinstance(said, list) and said else said
    text = (last.get("content") or last.get("parts") or "") if isinstance(last, dict) else last
    if isinstance(text, list):
        text = " ".join(
            str(part.get("text") or part.get("type") or "") if isinstance(part, dict) else "" for part in text
        )
    return str(text)


def _cost(model: str | None, prompt: int | None, completion: int | None) -> str | None:
    """By the table's plain prices; None where there is none."""
    from llmbridge.provider import plain_cost_usd

    cost = None if model is None or prompt is None else plain_cost_usd(model, prompt, completion or 0)
    return None if cost is None else f"{cost.normalize():f}"


def _raw(request: dict[str, Any]) -> dict[str, Any]:
    body = request["body"] or b""
    return {
        **request,
        "headers": request.get("headers") or {},
        "body": body.encode() if isinstance(body, str) else body,
    }


def _raw_answer(recording: Recording) -> dict[str, Any]:
    answer = recording.answer
    return {**answer, "body": {**recording.entry["response"]["body"], **answer["body"]}}


def _print(found: list[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cassette", "", "HTTP", "model", "prompt", "tokens", "cost"):
        table.add_column(name, overflow="fold")
    for row in found:
        tokens = "" if row.input_tokens is None else f"{row.input_tokens}+{row.output_tokens or 0}"
        cost = "" if row.cost_usd is None else f"${row.cost_usd}"
        name = Path(row.path).name
        table.add_row(name, str(row.number), str(row.status), row.model or row.url, row.prompt, tokens, cost)
    Console().print(table)
