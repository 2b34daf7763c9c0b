"""The questions of a batch: a line each, checked before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmbridge import request
from llmbridge.params import TRANSPORT


SHOWN = 10  # mistakes of a file, in one message
URL = "/v1/chat/completions"
WHOLE = frozenset({"budget", "cache", "deadline_s"})


@dataclass(frozen=True, slots=True)
class Line:
    """One question of a file. `is_openai`: it came in the format of OpenAI's batches, and so goes its answer."""

    number: int
    id: str | int
    messages: Any
    model: str | None
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    is_openai: bool

    @property
    def key(self) -> str:
        """By which it is known among the answers."""
        return str(self.id)

    def arguments(self, model: Any, tags: Mapping[str, str], params: Mapping[str, Any]) -> dict[str, Any]:
        """What a Bridge's verb takes; *model* goes before the line's own, the line's tags and params before others."""
        return {"model": model or self.model, "tags": {**tags, **self.tags} or None, **params, **self.params}


Arguments = Callable[[Line], dict[str, Any]]


def read_lines(lines: Iterable[str], name: str) -> list[Line]:
    """The questions in *lines*, as OpenAI's batches have them ({"custom_id", "method", "url", "body"}) or plain ({"id",
    "prompt" or "messages", and parameters}). Raises ValueError, which says of each mistake on which line it is."""
    found: list[Line] = []
    seen: dict[str, int] = {}
    wrong: list[str] = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = _line(number, text)
            if (first := seen.setdefault(line.key, number)) != number:
                raise ValueError(f"the id {line.id!r} stands on line {first} already")
            found.append(line)
        except (TypeError, ValueError, RecursionError) as error:
            wrong.append(f"{name}, line {number}: {error}")
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more lines"] if len(wrong) > SHOWN else []
        raise ValueError("\n".join([*wrong[:SHOWN], *more, "Nothing was sent."]))
    if not found:
        raise ValueError(f"{name} holds no questions")
    return found


def _line(number: int, text: str) -> Line:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    is_openai = "custom_id" in said or "body" in said
    id, body = _openai(said) if is_openai else _plain(said)
    body = {name: value for name, value in body.items() if (name, value) != ("stream", False)}
    model, tags = body.pop("model", None), request.check_tags(body.pop("tags", None) or {})
    messages = body.pop("messages", None)
    if messages is None:
        raise ValueError("there are no messages")
    if model is not None:
        request.models_of(model)
    if outside := TRANSPORT & body.keys():
        # or a file from elsewhere could have a key sent to its author
        raise ValueError(f"{min(outside)!r} belongs into the configuration, not among the questions")
    if outside := WHOLE & body.keys():
        raise ValueError(f"{min(outside)!r} is for the whole batch, not for a line of it")
    request.chat(messages, dict(body), None)
    return Line(number, id, messages, model, tags, body, is_openai)


def _openai(said: dict[str, Any]) -> tuple[str | int, dict[str, Any]]:
    if said.get("method", "POST") != "POST" or said.get("url", URL) != URL:
        raise ValueError(f"only POST {URL} is known, not {said.get('method')} {said.get('url')}")
    if not isinstance(said.get("body"), dict):
        raise ValueError("there is no 'body', which is an object")
    return _id(said, "custom_id"), dict(said["body"])


def _plain(said: dict[str, Any]) -> tuple[str | int, dict[str, Any]]:
    body = {name: value for name, value in said.items() if name not in ("id", "prompt")}
    if "prompt" in said:
        if "messages" in said or not isinstance(said["prompt"], str):
            raise ValueError("'prompt' is a text, and stands instead of 'messages'")
        body["messages"] = said["prompt"]
    return _id(said, "id"), body


def _id(said: dict[str, Any], name: str) -> str | int:
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError(f"{name!r} is missing: a text or a number by which its answer is known")
    return value
