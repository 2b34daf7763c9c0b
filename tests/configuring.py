"""Configurations for tests: in a directory of their own, without those of whoever runs them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbridge import ConfigError, config, home
from llmbridge.config import OTHERS


Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("LLMBRIDGE_") and name not in OTHERS:
            monkeypatch.delenv(name)
    monkeypatch.delenv("LLMBRIDGE_CONFIG", raising=False)
    monkeypatch.setattr(home, "config_directory", lambda: tmp_path / "user")
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
