"""LiteLLM's edge: load it, ask it, read its answers, translate its errors. Nothing outside this package imports it."""

from __future__ import annotations

from llmbridge.provider.bounds import WorstCase, affordable, floor_tokens, seen_nanousd, worst_case
from llmbridge.provider.caps import capped, has_cap
from llmbridge.provider.loading import litellm
from llmbridge.provider.pricing import Cost, checked_counts, cost
from llmbridge.provider.sending import acomplete, aembed, astream, complete, embed, stream
from llmbridge.provider.source import Source
from llmbridge.provider.translation import request_id


__all__ = [
    "Cost",
    "Source",
    "WorstCase",
    "acomplete",
    "aembed",
    "affordable",
    "astream",
    "capped",
    "checked_counts",
    "complete",
    "cost",
    "embed",
    "floor_tokens",
    "has_cap",
    "litellm",
    "request_id",
    "seen_nanousd",
    "stream",
    "worst_case",
]
