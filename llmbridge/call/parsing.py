"""An answer's text as the pydantic class that was asked for, and whether the answer will do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmbridge.completion import Completion
from llmbridge.errors import InvalidOutput
from llmbridge.request import Request


def checked(answer: Completion, request: Request, accept: Callable[[Any], bool] | None, *, status: int | None) -> Any:
    """*answer* as `response_model`, or None without one. Raises InvalidOutput if it does not fit that, or if *accept*
    does not want it."""
    wanted, complaint, value = request.response_model, "", None
    if wanted is not None:
        try:
            value = parsed(wanted, answer.text)
        except ValueError as exc:  # pydantic's ValidationError is one
            complaint = f"not with a {wanted.__name__}: {exc}"
    rejected = not complaint and accept is not None and not accept(answer)
    if not (complaint or rejected):
        return value
    raise InvalidOutput(
        f"{request.model} answered, but {complaint or 'accept= does not want the answer'}",
        output=answer.text,
        repairable=not rejected,
        model=request.model,
        provider=request.provider,
        status=status,
    )


def parsed(wanted: Any, text: str) -> Any:
    """An instance of *wanted*. Raises ValueError (pydantic's ValidationError is one) if *text* does not fit it."""
    return wanted.model_validate_json(_without_fence(text))


def _without_fence(text: str) -> str:
    """JSON out of the Markdown fence that models like to put around it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        return text[3:-3].removeprefix("json").strip()
    return text
