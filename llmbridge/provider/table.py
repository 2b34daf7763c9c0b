"""LiteLLM's price table, read from the installed package without importing it: 20 ms instead of 3 s."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from llmbridge.request import Request


# Of these LiteLLM finds every model in the table under the name that it has there (tests/test_pricing.py).
PLAIN = frozenset({"anthropic", "deepseek", "gemini", "groq", "mistral", "openai", "openrouter", "together_ai", "xai"})
FILE = "model_prices_and_context_window_backup.json"


@functools.cache
def bundled() -> Mapping[str, dict[str, Any]]:
    """The table by model; empty if it is not where this LiteLLM has it."""
    spec = importlib.util.find_spec("litellm")
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        path = Path(place, FILE)
        if path.is_file():
            table: dict[str, dict[str, Any]] = json.loads(path.read_text())
            return table
    return {}


def find(request: Request) -> tuple[str, str] | None:
    """The key and the provider of *request*'s model, where its own words leave no doubt: "provider/name", under that
    name, of that provider. Else LiteLLM has to be asked."""
    provider, _, name = request.model.partition("/")
    if not name or "custom_llm_provider" in request.transport:
        return None
    table = bundled()
    key = next((key for key in (request.model, name) if key in table), None)
    if provider in ("ollama", "ollama_chat"):  # LiteLLM would ask the server
        return key or "", provider
    if key is None or provider not in PLAIN or table[key].get("litellm_provider") != provider:
        return None
    return key, provider


def is_embedder(model: str) -> bool:
    """Whether *model* ("provider/name") answers with vectors, as far as the table knows."""
    table = bundled()
    name = next((each for each in (model, model.partition("/")[2]) if each in table), "")
    return bool(table.get(name, {}).get("mode") == "embedding")


def plain_cost_usd(model: str, input_tokens: int, output_tokens: int) -> Decimal | None:
    """What so many tokens cost by the table's plain prices, without tiers and caches; None if it has no such model.
    *model* may be the name that stands in a provider's own JSON."""
    table = bundled()
    keys = [model, *(f"{provider}/{model}" for provider in PLAIN)]
    fields = next((table[key] for key in keys if key in table), {})
    prices = [fields.get(f"{side}_cost_per_token") for side in ("input", "output")]
    if prices[0] is None:
        return None
    return input_tokens * Decimal(str(prices[0])) + output_tokens * Decimal(str(prices[1] or 0))
