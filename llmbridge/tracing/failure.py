"""How an error looks on a span."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from llmbridge import errors, semconv
from llmbridge.redaction import redact
from llmbridge.tracing.attributes import whole


if TYPE_CHECKING:
    from opentelemetry.trace import Span

LONGEST_STACK = 16_000


def type_name(error: BaseException) -> str:
    """The fully qualified class of *error*, as callers know it: a built-in's is its name, asyncio's are asyncio's."""
    kind = type(error)
    module = kind.__module__.removesuffix(".exceptions") if kind.__module__.startswith("asyncio.") else kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def qualified(name: str) -> str:
    """As type_name(), from a class's bare name as records have it."""
    if name == "CancelledError":
        return "asyncio.CancelledError"
    return f"{errors.__name__}.{name}" if hasattr(errors, name) else name


def fail(span: Span, name: str, message: str) -> None:
    """Mark *span* as failed with an error of this class."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute(semconv.ERROR_TYPE, name)
    span.set_status(Status(StatusCode.ERROR, whole(redact(message))))


def fail_with(span: Span, error: BaseException) -> None:
    """Mark *span* as failed with *error*, and add its one exception event."""
    name, message = type_name(error), whole(redact(str(error)))
    fail(span, name, message or name)
    event = {semconv.EXCEPTION_TYPE: name, semconv.EXCEPTION_MESSAGE: message}
    if error.__traceback__ is not None:
        stack = "".join(traceback.format_exception(error))
        event[semconv.EXCEPTION_STACKTRACE] = whole(redact(stack, limit=LONGEST_STACK))
    span.add_event(semconv.EXCEPTION, event)
