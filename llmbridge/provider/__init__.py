"""LiteLLM's edge: load it, ask it, read its answers, translate its errors. Nothing outside this package imports it.

Names are looked up when they are first used, so that what needs no provider imports no HTTP library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from llmbridge.provider.abilities import context_window, estimated_tokens, lacks, needs
    from llmbridge.provider.bounds import WorstCase, affordable, floor_tokens, seen_nanousd, worst_case
    from llmbridge.provider.caps import capped, has_cap, output_cap
    from llmbridge.provider.counting import beside_tokens, count_tokens, message_tokens, surely_fits
    from llmbridge.provider.headers import exhausted_s, request_id
    from llmbridge.provider.here import check_stays_here, leaves_machine
    from llmbridge.provider.likely import likely
    from llmbridge.provider.listing import key_of, listed
    from llmbridge.provider.loading import litellm
    from llmbridge.provider.pricing import Cost, checked_counts, cost
    from llmbridge.provider.rates import is_local
    from llmbridge.provider.sending import acomplete, aembed, astream, complete, embed, stream
    from llmbridge.provider.source import Source
    from llmbridge.provider.table import is_embedder, plain_cost_usd

_HOME = {
    "abilities": ("context_window", "estimated_tokens", "lacks", "needs"),
    "bounds": ("WorstCase", "affordable", "floor_tokens", "seen_nanousd", "worst_case"),
    "caps": ("capped", "has_cap", "output_cap"),
    "counting": ("beside_tokens", "count_tokens", "message_tokens", "surely_fits"),
    "headers": ("exhausted_s", "request_id"),
    "here": ("check_stays_here", "leaves_machine"),
    "likely": ("likely",),
    "listing": ("key_of", "listed"),
    "loading": ("litellm",),
    "pricing": ("Cost", "checked_counts", "cost"),
    "rates": ("is_local",),
    "sending": ("acomplete", "aembed", "astream", "complete", "embed", "stream"),
    "source": ("Source",),
    "table": ("is_embedder", "plain_cost_usd"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Cost",
    "Source",
    "WorstCase",
    "acomplete",
    "aembed",
    "affordable",
    "astream",
    "beside_tokens",
    "capped",
    "check_stays_here",
    "checked_counts",
    "complete",
    "context_window",
    "cost",
    "count_tokens",
    "embed",
    "estimated_tokens",
    "exhausted_s",
    "floor_tokens",
    "has_cap",
    "is_embedder",
    "is_local",
    "key_of",
    "lacks",
    "leaves_machine",
    "likely",
    "listed",
    "litellm",
    "message_tokens",
    "needs",
    "output_cap",
    "plain_cost_usd",
    "request_id",
    "seen_nanousd",
    "stream",
    "surely_fits",
    "worst_case",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
