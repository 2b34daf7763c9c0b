"""Replicate's predictions: one is started, then looked at until it has succeeded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from .steps import Cause, Reply
from .wire import Asked


HEADERS: dict[str, str] = {"ratelimit-remaining": "599", "ratelimit-reset": "1"}

_ID = "simulated"
_ERRORS = {
    400: "Prediction input failed validation",
    401: "You did not pass a valid authentication token",
    404: "The requested resource could not be found.",
    429: "Request was throttled. Expected available in 1 second.",
    500: "An internal error has occurred.",
    503: "Service unavailable",
}


def plain(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The prediction: just started as the answer to a POST, done when it is looked at."""
    body = {
        "id": _ID,
        "model": reply.model or asked.model,
        "version": "hidden",
        "input": asked.body.get("input", {}),
        "logs": "",
        "output": None,
        "data_removed": False,
        "error": None,
        "status": "starting",
        "created_at": datetime.fromtimestamp(reply.created, UTC).isoformat(),
        "urls": {name: f"{asked.home}/v1/predictions/{_ID}{end}" for name, end in (("get", ""), ("cancel", "/cancel"))},
    }
    if asked.verb == "poll":
        text = reply.choices(1)[0] or reply.refusal or ""
        body |= {"status": "succeeded", "output": list(reply.chunks(text))}
    return body


def error(code: int, cause: Cause = "status", key: str = "") -> tuple[int, dict[str, Any]]:
    """The status and body of an error."""
    detail = _ERRORS.get(code, _ERRORS[500])
    if cause == "context_window":
        detail = "input: prompt is longer than the model's context window"
    elif cause == "content_filter":
        detail = "input: prompt was flagged as sensitive"
    elif cause == "echo_key":
        detail = f"invalid token: {key}"
    return code, {"title": "Error", "detail": detail, "status": code}
