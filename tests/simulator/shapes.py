"""The shape of wire traffic: which keys occur where, in what we send and in what was recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


# What is below these names is the user's own and has no shape.
FREE = {"args", "input", "arguments"}


def places(value: Any, at: str = "") -> set[str]:
    """Every key in *value* as a path, "choices[].message.content"; events with a type start with it."""
    if isinstance(value, list):
        return set().union(*(places(each, f"{at}[]") for each in value))
    if not isinstance(value, dict):
        return set()
    at = at or (f"{value['type']}:" if isinstance(value.get("type"), str) else "")
    found = set()
    for name, below in value.items():
        place = f"{at}.{name}"
        found |= {place} if name in FREE and isinstance(below, dict) else {place, *places(below, place)}
    return found


def documents(body: str) -> Iterator[Any]:
    """The JSON documents of a body: the only one, one per line, or one per event."""
    try:
        yield json.loads(body)
        return
    except ValueError:
        pass
    for line in body.splitlines():
        text = line.removeprefix("data:").strip()
        if text.startswith("{"):
            # Real Anthropic pads its events with spaces; json doesn't mind.
            yield json.loads(text)


def shape(bodies: Iterable[str]) -> set[str]:
    """Every key that occurs anywhere in *bodies*."""
    return set().union(*(places(each) for body in bodies for each in documents(body)))


def recorded(records: Path, names: Iterable[str], family: str, kind: str) -> set[str]:
    """Every key in the real traffic of one wire format and kind of exchange."""
    found = [record for name in names for record in json.loads((records / f"{name}.json").read_text())]
    return shape(
        record["response"]["body"]
        for record in found
        if (record["family"], record["kind"]) == (family, kind) and record["response"].get("body")
    )
