"""What a function of somebody else's is decorated around."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any


def innermost(function: Callable[..., Any], package: str) -> Callable[..., Any] | None:
    """What is inside all that *function* is decorated with, as functools.wraps keeps it; *function* if it is plain.

    None if any of it is not code of *package*: then somebody, such as a tracer, has put something in its place or
    around it, and wants that to be called.
    """
    layer: Any = function.__func__ if type(function) is MethodType else function
    # No isinstance(): a proxy says that it is what it stands for.
    while type(layer) is FunctionType and layer.__globals__["__name__"].partition(".")[0] == package:
        inside = getattr(layer, "__wrapped__", None)
        if inside is None:
            return layer
        layer = inside
    return None
