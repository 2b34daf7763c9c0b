"""The file: read safely, written whole or not at all, and never with a secret in it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import yaml

from llmbridge.cassette.entry import Entry, Recording
from llmbridge.cassette.scrubbing import UNFIT, echoed
from llmbridge.errors import ConfigError
from llmbridge.redaction import redact


WRONG_SHAPE = (LookupError, TypeError, AttributeError, ValueError, RecursionError, httpx.InvalidURL)
DEEPEST = 50  # a cassette's own nesting is seven


class _Times(list[float]):
    """Numbers that stand on one line."""


class _Dumper(yaml.SafeDumper):
    """YAML with text of several lines as a block."""

    def represent_text(self, text: str) -> yaml.Node:
        style = '"' if UNFIT.search(text) else "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def represent_times(self, times: _Times) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", times, flow_style=True)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(_Times, _Dumper.represent_times)


def read(path: Path) -> tuple[str, list[Recording]]:
    """The comment at the top of the file, and its recordings. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
        document = _loaded(text)
        if document["version"] != 1:
            raise ValueError(f"version {document['version']!r} is not 1")
        recordings = [recording for entry in document["interactions"] if (recording := Recording(entry)).answer]
    except FileNotFoundError:
        why = f"there is no cassette at {path}; to record it: replay({str(path)!r}, record='once')"
        raise ConfigError(why, path=str(path)) from None
    except (OSError, yaml.YAMLError, *WRONG_SHAPE) as exc:
        mark = getattr(exc, "problem_mark", None)
        why = redact(f"{path} is not a cassette: {type(exc).__name__}: {' '.join(str(exc).split())}")
        raise ConfigError(why, path=str(path), line=mark.line + 1 if mark else None) from None
    return "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))), recordings


def _loaded(text: str) -> Any:
    """*text* as plain data: a tag of Python's, or any other that is not YAML's own, is refused."""
    fast = getattr(yaml, "CSafeLoader", None)
    if fast is not None:  # ten times as fast; but deep nesting would crash the process in C, so that is looked at first
        with suppress(yaml.YAMLError, ValueError):
            if _depth(yaml.parse(text, Loader=fast)) <= DEEPEST:
                return yaml.load(text, Loader=fast)
    return yaml.safe_load(text)


def _depth(events: Iterator[Any]) -> int:
    depth = deepest = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        deepest = max(deepest, depth)
        if deepest > DEEPEST:
            break
    return deepest


def write(path: Path, comment: str, entries: Sequence[Entry]) -> None:
    """Replace the file by one with *entries*, at once. Raises ConfigError if it would hold a secret."""
    document = {"version": 1, "interactions": [_shown(entry) for entry in entries]}
    text = comment + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
    where = [str(number) for number, entry in enumerate(entries, 1) if leaks(entry)]
    if where or redact(text, limit=None) != text:
        which = f" (interaction {', '.join(where)} of {len(entries)})" if where else ""
        why = "change what is asked or answered there, so that it does not say the key"
        raise ConfigError(f"{path} was not written: it would hold a secret{which}; {why}", path=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the new name on an empty file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def leaks(entry: Entry) -> bool:
    """Whether *entry* holds a secret: one that is known, in any writing, or what looks like one."""
    text = yaml.dump(entry, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
    bodies = (entry["request"]["body"], entry["response"]["body"].get("string"))
    return redact(text, limit=None) != text or any(map(echoed, bodies))


def _shown(entry: Entry) -> Entry:
    body = entry["response"]["body"]
    if "times_s" not in body:
        return entry
    timed = {**body, "times_s": _Times(body["times_s"])}
    return {**entry, "response": {**entry["response"], "body": timed}}
