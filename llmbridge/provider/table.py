"""LiteLLM's price table, read from the installed package without importing it: 20 ms instead of 3 s."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # alone: what reads the table for a catalogue needs nothing of a request
    from llmbridge.request import Request

# Of these LiteLLM finds every model in the table under the name that it has there (tests/test_pricing.py).
PLAIN = frozenset({"anthropic", "deepseek", "gemini", "groq", "mistral", "openai", "openrouter", "together_ai", "xai"})
LOCAL = frozenset({"ollama", "ollama_chat", "lm_studio", "llamafile", "docker_model_runner", "lemonade", "mock"})
_ABOVE = re.compile(r"input_cost_per_token(_above_(\d+)k_tokens)")
FILE = "model_prices_and_context_window_backup.json"

# What a model can do, by the name in the catalogue: the flag in the table, and the words for people. An absent flag
# means no: the table names what a model can.
CAPABILITIES = {
    "vision": ("supports_vision", "images"),
    "audio": ("supports_audio_input", "sound"),
    "pdf": ("supports_pdf_input", "documents"),
    "tools": ("supports_function_calling", "tools"),
    "json_schema": ("supports_response_schema", "JSON schemas"),
    "reasoning": ("supports_reasoning", "reasoning"),
    "prompt_caching": ("supports_prompt_caching", "prompt caching"),
}
# In the table, and not to be called by that name: LiteLLM 1.106 knows no such provider, or wants somebody to log in
# (tests/test_catalog.py).
NOT_CALLED = frozenset(
    {
        *("anyscale", "coralbricks", "inferenceapis", "microsoft_365_copilot", "openinfer", "scaledown"),
        *("chatgpt", "github_copilot"),
    }
)


@functools.cache
def bundled() -> Mapping[str, dict[str, Any]]:
    """The table by model; empty if it is not where this LiteLLM has it."""
    spec = importlib.util.find_spec("litellm")
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        with contextlib.suppress(FileNotFoundError), open(f"{place}/{FILE}", "rb") as file:  # noqa: PTH123  pathlib: 4 ms
            table: dict[str, dict[str, Any]] = json.loads(file.read())
            return table
    return {}


def spelled(key: str, fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """The provider of the table's line *key*, and the model as "provider/name"; None if LiteLLM calls no such one."""
    provider: str = fields.get("litellm_provider") or ""
    if provider.startswith(("vertex_ai-", "fireworks_ai-")):  # by maker, and by kind
        provider = provider.partition("-")[0]
    provider = "bedrock" if provider == "bedrock_converse" else provider
    if not provider or provider in NOT_CALLED:
        return None
    return provider, key if key.startswith(f"{provider}/") else f"{provider}/{key}"


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


def plain_cost_usd(
    model: str,
    input_tokens: int,
    output_tokens: int,
    *,
    cached_tokens: int = 0,
    cache_write_tokens: int = 0,
    reasoning_tokens: int = 0,
) -> Decimal | None:
    """What so many tokens cost by the table, in the standard tier; None if it has no such model or no price.

    *model* may be the name that stands in a provider's own JSON. Tokens read from or written to the provider's cache
    are part of the input, reasoning is part of the output; where they have no price of their own they cost what the
    others do. A length of the input from which on all is dearer counts; media, searches and regions do not.
    """
    fields = _fields(model)
    plain, output = fields.get("input_cost_per_token"), fields.get("output_cost_per_token")
    if plain is None or (output is None and output_tokens) or "tiered_pricing" in fields:
        return None
    rest, above = "", 0
    for name in fields:  # "input_cost_per_token_above_200k_tokens"
        found = _ABOVE.fullmatch(name)
        if found is not None and above <= (limit := int(found[2]) * 1000) < input_tokens:
            rest, above = found[1], limit

    def price(name: str, instead: Decimal) -> Decimal:
        said = fields.get(f"{name}{rest}", fields.get(name))
        return instead if said is None else Decimal(str(said))

    read = min(cached_tokens, input_tokens)
    written = min(cache_write_tokens, input_tokens - read)
    thought = min(reasoning_tokens, output_tokens)
    input_usd = price("input_cost_per_token", Decimal(0))
    output_usd = price("output_cost_per_token", Decimal(0))
    return (
        (input_tokens - read - written) * input_usd
        + read * price("cache_read_input_token_cost", input_usd)
        + written * price("cache_creation_input_token_cost", input_usd)
        + (output_tokens - thought) * output_usd
        + thought * price("output_cost_per_reasoning_token", output_usd)
    )


def _fields(model: str) -> Mapping[str, Any]:
    """The table's line of *model*; of "provider/name", that of the name, if it is the provider's."""
    table = bundled()
    provider, _, name = model.partition("/")
    if model in table:
        return table[model]
    if str(table.get(name, {}).get("litellm_provider", "")).startswith(provider):
        return table[name] if name else {}
    return next((table[key] for each in sorted(PLAIN) if (key := f"{each}/{model}") in table), {})
