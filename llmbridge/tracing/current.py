"""A span made current while a step runs, and never longer."""

from __future__ import annotations

import contextvars
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from opentelemetry.context import Context

NOTHING: AbstractContextManager[None] = nullcontext()
_place: contextvars.ContextVar[None] = contextvars.ContextVar("llmbridge_place")


class Current:
    """`with Current(context):` makes *context* OpenTelemetry's current one. Enter it once; leaving it again, or before
    it was entered in full because of Ctrl-C, does no harm.

    OpenTelemetry's own detach() logs "Failed to detach context" where the block is left in another
    contextvars.Context than it was entered in: a coroutine or generator that the collector closes. There, ours was
    never current and nothing is to be restored; a variable of our own tells.

    `left` is what was current when the block ended: a body that has opened spans of its own goes on in it at its next
    step.
    """

    __slots__ = ("_api", "_before", "_place", "context", "left")

    def __init__(self, context: Context) -> None:
        self.context = self.left = context
        self._place: contextvars.Token[None] | None = None
        self._api = sys.modules["opentelemetry.context"]  # whoever has a context has imported it; a chunk costs one

    def __enter__(self) -> None:
        api = self._api
        self._before = api.get_current()
        self._place = _place.set(None)
        api.attach(self.context)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        api, place = self._api, self._place
        if place is None:
            return
        self._place = None
        try:
            _place.reset(place)
        except ValueError:
            return
        self.left = api.get_current()
        api.attach(self._before)


_closing: contextvars.ContextVar[bool] = contextvars.ContextVar("llmbridge_closing", default=False)


@contextmanager
def closing() -> Iterator[None]:
    """A generator's body is closed in this block, maybe by the collector and in another contextvars.Context: there, a
    `with` of the body's own around a `yield` cannot detach its span, and OpenTelemetry would log that as an error."""
    logging.getLogger("opentelemetry.context").addFilter(_quiet)  # the same one is added once
    _closing.set(True)
    try:
        yield
    finally:
        _closing.set(False)


def _quiet(record: logging.LogRecord) -> bool:
    return not (_closing.get() and record.msg == "Failed to detach context")
