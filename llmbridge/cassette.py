"""Record and replay HTTP (vcrpy)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal


@contextmanager
def replay(path: str | Path, record: Literal["none", "once", "new", "all"] = "none") -> Iterator[None]:
    """HTTP from a cassette."""
    raise NotImplementedError
    yield
