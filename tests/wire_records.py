"""The recorded exchanges beside the checkout, where they are: which there are, their server, and the definition of
"read right". Nothing of them is part of the project."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


HERE = Path(__file__).resolve().parents[2] / "shared" / "wire"
PRESENT = (HERE / "records").is_dir()
needed = pytest.mark.skipif(not PRESENT, reason="no recorded exchanges beside the checkout (../shared/wire)")


def module(name: str) -> ModuleType:
    """`serve` or `compare`, from beside the records."""
    spec = importlib.util.spec_from_file_location(f"wire_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def records() -> dict[str, dict[str, Any]]:
    """All records by id; empty where there are none."""
    return module("serve").load() if PRESENT else {}
