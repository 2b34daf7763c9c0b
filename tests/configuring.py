"""Configurations for tests: in a directory of their own, without those of whoever runs them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbridge import ConfigError, config


Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def a_directory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def write() -> Write:
    """Write a file into the working directory."""

    def write(text: str, name: str = "llmbridge.toml") -> Path:
        path = Path.cwd() / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def wrong(path: Path | None = None, name: str | None = None) -> ConfigError:
    """What loading it raises."""
    with pytest.raises(ConfigError) as raised:
        config.load(path, name)
    return raised.value
