"""What the verbs that ask have in common: their options, and what is made of them."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
import warnings
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer


if TYPE_CHECKING:
    from llmbridge.ledger import Budget


T = TypeVar("T")
Prompt = Annotated[str, typer.Argument(help="What to ask; '-' reads it from standard input.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="provider/name, or a name from the configuration; repeat it for fallbacks, in order.",
    ),
]
System = Annotated[str | None, typer.Option(help="A system message.")]
Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="FILE|URL", help="An image to show; may be repeated.")
]
Schema = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, metavar="FILE", help="A JSON schema that the answer has to fit."),
]
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="CAP", help="A cap, such as '$5/day' or '$0.10/call'; may be repeated."),
]
OwnBudgets = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="CAP", help="'$5' for this alone, '$5/day' with all that counts by it."),
]
Cache = Annotated[
    Literal["on", "off", "refresh", "only"],
    typer.Option(help="off: ask anew; refresh: ask anew and keep it; only: send nothing."),
]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="A label for the ledger; may be repeated.")
]
MaxTokens = Annotated[int | None, typer.Option(help="The longest answer, in tokens.")]
Temperature = Annotated[float | None, typer.Option(help="Randomness, 0 to 2.")]
Deadline = Annotated[float | None, typer.Option(help="The bound on each whole call, in seconds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def messages(prompt: str, system: str | None = None, images: list[str] | None = None) -> list[dict[str, Any]]:
    """What is asked. Raises ValueError for a prompt that is empty and an image that is none."""
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise ValueError("standard input is empty" if prompt == "-" else "the prompt is empty")
    content: Any = text
    if images:
        content = [{"type": "text", "text": text}, *map(_image, images)]
    said = [{"role": "system", "content": system}] if system else []
    return [*said, {"role": "user", "content": content}]


def arguments(
    model: list[str] | None,
    *,
    fallback: list[str] | None = None,
    schema: Path | None = None,
    budget: Sequence[str | Budget] | None = None,
    tag: list[str] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """What the verbs of a Bridge take; an option that was not given is left out. Raises ValueError."""
    if fallback and not model:
        raise ValueError("--fallback follows the model of -m: give that, too")
    given = {
        "model": named([*(model or ()), *(fallback or ())]),
        "budget": budget or None,
        "tags": tags(tag or []) or None,
        "response_format": None if schema is None else response_format(schema),
        **others,
    }
    return {name: value for name, value in given.items() if value is not None}


def own_budgets(given: list[str] | None, whose: str) -> list[Budget]:
    """*given* as Budgets. Those without a window, which else count for good, count for *whose* alone."""
    from llmbridge.ledger import Budget

    found = []
    for each in map(Budget, given or []):
        unit = "dollars" if each.unit == "nanousd" else each.unit
        found.append(Budget(each.limit, name=f"{unit} for {whose}") if each.window.kind == "total" else each)
    return found


def named(models: list[str]) -> str | list[str] | None:
    """One name by itself: the configuration may know it as a list of models."""
    return models[0] if len(models) == 1 else models or None


def tags(given: list[str]) -> dict[str, str]:
    """Labels out of NAME=VALUE. Raises ValueError."""
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise ValueError(f"--tag is written NAME=VALUE, such as user=alice, not {each!r}")
        found[name] = value
    return found


def response_format(path: Path) -> dict[str, Any]:
    """The JSON schema in the file at *path* as OpenAI's parameter, which LiteLLM translates for the others. Raises
    ValueError."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ValueError(f"{path} is no JSON schema: it is not an object")
    if schema.get("type") == "json_schema" and isinstance(schema.get("json_schema"), dict):
        return schema
    name = "".join(char if char.isalnum() and char.isascii() else "_" for char in str(schema.get("title") or path.stem))
    return {"type": "json_schema", "json_schema": {"name": name[:64], "schema": schema}}


def _image(given: str) -> dict[str, Any]:
    """An image as OpenAI-shaped content. A file goes along as data; an address is the provider's to fetch."""
    url = given
    if not given.startswith(("http://", "https://", "data:")):
        kind = mimetypes.guess_type(given)[0] or ""
        if not kind.startswith("image/"):
            raise ValueError(f"--image {given}: the name does not say that it is an image (.png, .jpg, .webp, .gif)")
        try:
            url = f"data:{kind};base64,{base64.b64encode(Path(given).read_bytes()).decode()}"
        except OSError as error:
            raise ValueError(f"--image {given}: {error.strerror}") from None
    return {"type": "image_url", "image_url": {"url": url}}


def run(work: Coroutine[Any, Any, T]) -> T:
    """What *work* returns, on an event loop of its own that is closed behind it, with our connections."""
    import asyncio

    # LiteLLM makes coroutines ahead of awaiting them, and a cancellation may come between.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    # With a factory, the Runner leaves alone which loop the thread has: LiteLLM's blocking calls look for that.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(_closing(work))


async def _closing(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    finally:
        if "llmbridge.wire" in sys.modules:
            await sys.modules["llmbridge.wire"].async_client().aclose()
