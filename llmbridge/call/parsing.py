"""An answer's text as the pydantic class that was asked for."""

from __future__ import annotations

from typing import Any


def parsed(wanted: Any, text: str) -> Any:
    """An instance of *wanted*. Raises ValueError (pydantic's ValidationError is one) if *text* does not fit it."""
    return wanted.model_validate_json(_without_fence(text))


def _without_fence(text: str) -> str:
    """JSON out of the Markdown fence that models like to put around it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        return text[3:-3].removeprefix("json").strip()
    return text
