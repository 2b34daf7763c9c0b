"""Telemetry breaks no call: what goes wrong in it is said once and swallowed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar


log = logging.getLogger("llmbridge")
P = ParamSpec("P")
T = TypeVar("T")
_said: set[str] = set()


def once(key: str, message: str, *details: object, exc_info: bool = False) -> None:
    """Log *message* at WARNING, unless something was logged under *key* before."""
    if key not in _said:
        _said.add(key)
        log.warning(message, *details, exc_info=exc_info)


def harmless(otherwise: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a function return *otherwise* instead of raising. What it raised is logged, once a function."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except Exception:
                once(function.__qualname__, "tracing failed and goes on without", exc_info=True)
                return otherwise  # type: ignore[no-any-return]

        return guarded

    return decorate
