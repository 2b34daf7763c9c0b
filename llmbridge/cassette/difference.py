"""Where a request and a recording differ, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmbridge.cassette.entry import canonical


def differences(recorded: Any, asked: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Where two values differ, such as "body.messages[0].content", and how, in words."""
    if type(recorded) is type(asked) and isinstance(recorded, (dict, list)):
        old, new = (value if isinstance(value, dict) else dict(enumerate(value)) for value in (recorded, asked))
        for name in {**old, **new}:
            where = f"{at}.{name}" if isinstance(recorded, dict) else f"{at}[{name}]"
            yield from differences(old.get(name, ...), new.get(name, ...), where)
        return
    was, now = ("nothing" if value is ... else canonical(value) for value in (recorded, asked))
    if was != now:
        same = next((index for index, pair in enumerate(zip(was, now, strict=False)) if pair[0] != pair[1]), 0)
        start = same - 20 if same > 60 else 0  # of long texts, what stands where they begin to differ
        was, now = (("..." if start else "") + text[start : start + 80] for text in (was, now))
        yield at.removeprefix("."), f"recorded {was}, now {now}"


def nearest(recorded: list[dict[str, Any]], asked: dict[str, Any]) -> tuple[int, list[tuple[str, str]]]:
    """Which of *recorded* differs least from *asked*, and its differences. Another address is further than any body."""
    found = [list(differences(each, asked)) for each in recorded]
    least = min(found, key=lambda each: (sum(not at.startswith("body") for at, _ in each), len(each)))
    return found.index(least), least
