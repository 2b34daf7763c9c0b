"""Hugging Face's feature extraction. Its chats are OpenAI's."""

from __future__ import annotations

from typing import Any

from .steps import Cause, Reply
from .wire import Asked, vector


HEADERS = {"x-request-id": "simulated"}


def embedding(asked: Asked, reply: Reply) -> list[list[float]]:
    """One vector per input, and nothing around them."""
    inputs = asked.body.get("inputs") or []
    return [list(row) for row in reply.vectors or [vector(row, 8) for row in range(len(inputs))]]


def error(code: int, cause: Cause = "status", key: str = "") -> tuple[int, dict[str, Any]]:
    """The status and body of an error."""
    return code, {"error": f"invalid token: {key}" if cause == "echo_key" else f"the request failed with {code}"}
