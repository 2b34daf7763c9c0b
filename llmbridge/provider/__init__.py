"""LiteLLM's edge: load it, ask it, read its answers, translate its errors. Nothing outside this package imports it."""

from __future__ import annotations

from llmbridge.provider.loading import litellm
from llmbridge.provider.pricing import cost_usd
from llmbridge.provider.sending import acomplete, aembed, astream, complete, embed, stream
from llmbridge.provider.source import Source
from llmbridge.provider.translation import request_id


__all__ = [
    "Source",
    "acomplete",
    "aembed",
    "astream",
    "complete",
    "cost_usd",
    "embed",
    "litellm",
    "request_id",
    "stream",
]
