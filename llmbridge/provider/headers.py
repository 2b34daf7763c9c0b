"""What a provider's headers say: when to come back, and which request it was."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime


# OpenAI's, which most follow: "x-ratelimit-remaining-requests: 0" with "x-ratelimit-reset-requests: 1m30s"; Anthropic's
# with an RFC 3339 time; and the IETF's draft, "ratelimit-remaining" with "ratelimit-reset" in seconds.
_LIMITS = (
    *(
        (f"x-ratelimit-remaining{what}", f"x-ratelimit-reset{what}")
        for what in ("-requests", "-tokens", "-input-tokens", "-output-tokens", "")
    ),
    *(
        (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
    ("ratelimit-remaining", "ratelimit-reset"),
)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SINCE_EPOCH_S = 1_000_000_000.0  # a number above this is a time and no span
_REQUEST_ID = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "x-goog-request-id", "cf-ray")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the provider asks to wait, in seconds: `retry-after-ms`, `x-ms-retry-after-ms`, then `retry-after` as
    seconds or as an HTTP date (RFC 9110, 10.2.3). None if absent, unreadable or negative."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (seconds := _number(headers.get(name), 1000)) is not None:
            return seconds
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _number(value, 1)) is not None:
        return seconds
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(at.timestamp() - time.time(), 0.0)


def exhausted_s(headers: Mapping[str, str]) -> float | None:
    """For how many seconds nothing is left of one of the provider's limits; None if something is, or nobody says."""
    said = {name.lower(): value for name, value in headers.items() if "ratelimit" in name.lower()}
    spans = [span for span in _exhausted(said) if span is not None]
    return max(spans) if spans else None


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's id of the request, from the header that it uses."""
    return next((value[:200] for name in _REQUEST_ID if (value := headers.get(name))), None)


def _exhausted(headers: Mapping[str, str]) -> Iterator[float | None]:
    for remaining, reset in _LIMITS:
        left = headers.get(remaining)
        if left is not None and _number(left, 1) == 0:
            yield _span_s(headers.get(reset) or "")


def _span_s(text: str) -> float | None:
    """Seconds from now: "1.5", "6m0s", "20ms", "2026-11-21T12:00:00Z", or seconds since the epoch."""
    if (seconds := _number(text, 1)) is not None:
        return seconds if seconds < _SINCE_EPOCH_S else max(seconds - time.time(), 0.0)
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text.strip():
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(at.timestamp() - time.time(), 0.0) if at.tzinfo is not None else None


def _number(value: str | None, divisor: float) -> float | None:
    try:
        seconds = float(value or "") / divisor
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
