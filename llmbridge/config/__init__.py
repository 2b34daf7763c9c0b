"""Configuration: llmbridge.toml and the environment, as what a Bridge is made of.

A file is looked for as LLMBRIDGE_CONFIG, then as llmbridge.toml, .yaml or .yml in the working directory, then in the
user's configuration directory. What LLMBRIDGE_* variables say goes before it, and does without one. All that is wrong
is one ConfigError at load, with file, line and key, and nothing is changed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbridge import home
from llmbridge.errors import ConfigError


if TYPE_CHECKING:
    from llmbridge.config.building import Configuration


SUFFIXES = (".toml", ".yaml", ".yml")


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

    Raises ConfigError. Costs some 0.1 s the first time, and a few milliseconds after it.
    """
    from llmbridge.config.building import build
    from llmbridge.config.reading import Document, read

    where = find() if path is None else Path(path)
    document = Document() if where is None else read(where.absolute())
    return build(document, name)


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration, for editors."""
    from llmbridge.config.tables import schema

    return schema()
