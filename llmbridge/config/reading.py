"""A configuration's file as plain data, with the line of each key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmbridge.config import SUFFIXES
from llmbridge.errors import ConfigError
from llmbridge.redaction import redact


Key = tuple[str | int, ...]
MOST_KEYS = 10_000  # of YAML, in which a few lines of aliases can mean billions


@dataclass
class Document:
    """What stands in a file, and in which line. Without a file: nothing."""

    path: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=dict)

    def line(self, key: Key) -> int | None:
        """Of *key*, or of the nearest that it is in."""
        return next((self.lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.lines), None)


def read(path: Path) -> Document:
    """The file at *path*, TOML or YAML by its suffix. Raises ConfigError."""
    if path.suffix not in SUFFIXES:
        raise _wrong(path, f"a configuration is a file with the suffix {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _wrong(path, "there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _wrong(path, f"it cannot be read: {why}") from None
    return _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)


def _wrong(path: Path, what: str, line: int | None = None) -> ConfigError:
    where = f"{path}, line {line}" if line else str(path)
    return ConfigError(redact(f"{where}: {what}"), path=str(path), line=line)


def _toml(path: Path, text: str) -> Document:
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r"(.*?) \(at (?:line (\d+)|end of document)", str(error))
        line = int(found[2]) if found and found[2] else text.count("\n") + 1
        raise _wrong(path, f"it is not TOML: {found[1] if found else 'nested too deep'}", line) from None
    return Document(path, data, _toml_lines(text))


def _toml_lines(text: str) -> dict[Key, int]:
    """The line of each key in *text*, which is TOML.

    tomllib tells no positions. But a statement ends with its line as soon as it is a whole one, so tomllib also tells
    where each ends, and what it sets; a second parser, only for positions, would have to agree with the first in all.
    """
    lines: dict[Key, int] = {}
    latest: dict[Key, int] = {}  # of each array of tables, the table that headers and keys now belong to
    table: Key = ()
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        start = start if statement else number
        statement += line + "\n"
        try:
            found = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = _header(found, latest)
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], start)
        else:
            _note(found, table, start, statement, lines)
        statement = ""
    return lines


def _header(found: Any, latest: dict[Key, int]) -> Key:
    """Where a header leads: [a.b] is {"a": {"b": {}}}, [[a]] is {"a": [{}]}."""
    key: Key = ()
    while isinstance(found, Mapping) and found:
        ((name, found),) = found.items()
        key += (name,)
        if isinstance(found, list):
            latest[key] = latest.get(key, -1) + 1
        if key in latest:
            key += (latest[key],)
    return key


def _note(value: Any, key: Key, line: int, statement: str, lines: dict[Key, int]) -> None:
    """The lines of *value*, which begins in *line*, and of what is in it: a text in a list of several lines is looked
    for in the *statement*."""
    if key:
        lines.setdefault(key, line)
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        within = statement.find(each) if isinstance(value, list) and isinstance(each, str) else 0
        _note(each, (*key, name), line + statement.count("\n", 0, max(within, 0)), statement, lines)


def _yaml(path: Path, text: str) -> Document:
    document = Document(path)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        data = {} if node is None else _Plain(path, loader, document.lines).value(node, ())
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = mark.line + 1 if mark else None
        raise _wrong(path, f"it is not plain YAML: {problem or type(error).__name__}", line) from None
    except (RecursionError, ValueError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise _wrong(path, why) from None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise _wrong(path, "a configuration is keys with values, such as 'default: openai/gpt-4o-mini'", 1)
    document.data = data
    return document


class _Plain:
    """YAML's nodes as plain data. Keys are text as it is written, also where YAML 1.1 means a truth value by it
    (`on:`); a key that stands there twice, and a tag that is not YAML's own, are mistakes."""

    def __init__(self, path: Path, loader: yaml.SafeLoader, lines: dict[Key, int]) -> None:
        self._path, self._loader, self._lines = path, loader, lines
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, key: Key) -> Any:
        if key:
            self._lines[key] = node.start_mark.line + 1
        if len(self._lines) > MOST_KEYS:
            raise _wrong(self._path, f"it has more than {MOST_KEYS:,} keys", node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._loader.construct_object(node)
        plain = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != f"tag:yaml.org,2002:{plain}":
            raise _wrong(self._path, f"the tag {node.tag!r} is not plain YAML", node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, (*key, index)) for index, each in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        return self._mapping(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        if id(node) not in self._seen:  # an alias leads here again, when what is merged stands beside its own
            self._seen.add(id(node))
            self._check_keys(node)
            self._loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for name, value in node.value:
            found[name.value] = self.value(value, (*key, name.value))
            self._lines[*key, name.value] = name.start_mark.line + 1
        return found

    def _check_keys(self, node: yaml.MappingNode) -> None:
        names: set[str] = set()
        for name, _ in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise _wrong(self._path, "a key is a text", line)
            if name.value in names:
                raise _wrong(self._path, f"{name.value!r} stands there twice", line)
            names.add(name.value)
