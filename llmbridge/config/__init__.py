"""Configuration: llmbridge.toml and the environment, as what a Bridge is made of.

A file is looked for as LLMBRIDGE_CONFIG, then as llmbridge.toml, .yaml or .yml in the working directory, then in the
user's configuration directory. What LLMBRIDGE_* variables say goes before it, and does without one. All that is wrong
is one ConfigError at load, with file, line and key, and nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmbridge import home
from llmbridge.cache import Cache
from llmbridge.errors import ConfigError
from llmbridge.request import Hidden


SUFFIXES = (".toml", ".yaml", ".yml")
PREFIX = "LLMBRIDGE_"
OTHERS = ("LLMBRIDGE_CONFIG", "LLMBRIDGE_HOME", "LLMBRIDGE_LONG")  # of this package, but no part of a configuration


@dataclass(frozen=True)
class Source:
    """What was said, and where: `line` of the file, or `variable` of the environment. Credentials are masked."""

    key: str
    value: Any
    line: int | None
    variable: str | None


@dataclass(frozen=True)
class Configuration:
    """What a Bridge is made of.

    Attributes:
        path: the file; None: the environment alone.
        arguments: of Bridge().
        ledger_options: of Ledger(), besides its path.
        tracing: the arguments of llmbridge.tracing.start(); None: as the OTEL_* variables say; False: not at all.
        sources: each value as it was said.
    """

    path: Path | None
    arguments: Mapping[str, Any] = field(repr=False)
    ledger_options: Mapping[str, Any]
    tracing: Mapping[str, Any] | Literal[False] | None = field(repr=False)
    sources: tuple[Source, ...]


def find() -> Path | None:
    """The file that is to be used; None if there is none. Raises ConfigError if there are two in one place."""
    named = os.environ.get("LLMBRIDGE_CONFIG")
    if named:
        return Path(named).expanduser()
    for directory in (Path(), home.config_directory()):
        found = [path for suffix in SUFFIXES if (path := directory / f"llmbridge{suffix}").is_file()]
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise ConfigError(f"{directory.absolute()} has {names}; keep one of them", path=str(found[0].absolute()))
        if found:
            return found[0]
    return None


def load(path: str | os.PathLike[str] | None = None, name: str | None = None) -> Configuration:
    """What the file at *path* says, else the one that is found, and the environment; *name*: with what
    `[bridges.NAME]` says otherwise.

    Raises ConfigError. Costs some 0.1 s the first time, and a few milliseconds after it; nothing, if nothing is said.
    """
    where = find() if path is None else Path(path)
    if where is None and name is None and not variables():
        nothing = {"models": (), "names": {}, "cache": Cache(), "budgets": (), "limits": ()}
        return Configuration(None, Hidden(nothing), {}, None, ())
    from llmbridge.config.building import build
    from llmbridge.config.reading import Document, read

    return build(Document() if where is None else read(where.absolute()), name)


def variables() -> dict[str, str]:
    """What the environment says of a configuration, by name, in their order."""
    found = sorted(os.environ.items())
    return {name: value for name, value in found if name.startswith(PREFIX) and name not in OTHERS}


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration, for editors."""
    from llmbridge.config.tables import schema

    return schema()
