"""The caller's labels for the calls inside a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from llmbridge.request import check_tags


_tags: ContextVar[Mapping[str, str]] = ContextVar("llmbridge_tags", default=MappingProxyType({}))


@contextmanager
def tagged(**tags: str) -> Iterator[None]:
    """Tags for every call inside the block, in this thread or task; a call's own tags win."""
    token = _tags.set({**_tags.get(), **check_tags(tags)})
    try:
        yield
    finally:
        _tags.reset(token)


def current() -> Mapping[str, str]:
    """Those of the blocks that this thread or task is in."""
    return _tags.get()
