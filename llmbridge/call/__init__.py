"""Call and Attempt: what one call decides, in order. `call.py` is the page to read first."""

from __future__ import annotations

from llmbridge.call.attempt import Attempt
from llmbridge.call.call import Call


__all__ = ["Attempt", "Call"]
