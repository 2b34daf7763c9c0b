"""What an answer cost: by the user's own price, or LiteLLM's table."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from llmbridge.completion import Usage
from llmbridge.money import nanousd, usd
from llmbridge.provider.loading import litellm
from llmbridge.provider.rates import (
    STANDARD,
    Entry,
    asked_tier,
    asks_search,
    entry_of,
    is_local,
    is_priced,
    named,
    region,
    request_usd,
    residency,
    search_size,
    search_usd,
    version,
    vertex_location,
)
from llmbridge.provider.reading import REPORTING
from llmbridge.request import Request


log = logging.getLogger("llmbridge")
# LiteLLM multiplies floats: 3 x $5e-6 is 1.5000000000000002e-05, which must not round up to another nanodollar. A float
# holds 15 digits and a sum of a few of them 14, which is the coarser limit from ten cents on.
FLOAT_DIGITS, SUM_DIGITS = 15, 14
_MILLION = 10**6
_TOTALS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
# A count above it is no count.
ABSURD_TOKENS = 100_000_000
ABSURD_QUERIES = 10_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What an answer cost.

    Attributes:
        usd: US dollars, a whole number of nanodollars, rounded up once.
        source: whose price: "litellm 1.106.2", "model" (the user's own), "local" ($0) or "provider" (reported by it).
    """

    usd: Decimal
    source: str


def cost(
    request: Request, usage: Usage | None, *, counts: Counts | None = None, service_tier: str | None = None
) -> Cost | None:
    """What *usage* of the request's model cost; None if anything is unknown.

    `counts` are its checked_counts(), if somebody has them. `service_tier` is the one that the answer names. What an
    answer claims to have cost is not believed, but for OpenRouter's: LiteLLM believes a stream's `usage.cost` to the
    letter, whoever sends it. Nor is a model without a price free, for which LiteLLM answers 0.0.
    """
    counts = counts or checked_counts(usage)
    if usage is None or counts is None:
        return None
    if request.input_usd_per_mtok is not None and request.output_usd_per_mtok is not None:
        own = counts.input * request.input_usd_per_mtok + counts.output * request.output_usd_per_mtok
        return _cost(own / _MILLION, "model")
    if (reported := _reported_usd(request, usage)) is not None:
        return _cost(reported, "provider")
    if is_local(request):
        return Cost(Decimal(0), "local")
    entry = entry_of(request)
    if entry is None or not is_priced(entry, request):
        return None
    try:
        tokens_usd = _tokens_usd(request, entry, counts.fields, _billed_tier(request, service_tier))
    except Exception as exc:
        log.debug("no price for %s: %s", request.model, type(exc).__name__)
        return None
    if not tokens_usd and min(price.quanta for price in entry.prices) > 0:
        return None  # no price found, for all that there is one
    return _cost(tokens_usd + _search_usd(request, entry, counts.queries) + request_usd(entry), source())


def source() -> str:
    """The table's name: LiteLLM, in the version that is installed."""
    return f"litellm {version()}"


def _billed_tier(request: Request, answered: str | None) -> str | None:
    """The tier to charge. A cheap one that was asked for and not confirmed may not have been given."""
    tier = (answered or "").lower()
    if tier in ("", "auto"):
        tier = asked_tier(request)
        if tier in ("flex", "balanced"):
            return None
    return None if tier in STANDARD else tier


def _cost(amount_usd: Decimal, source: str) -> Cost:
    return Cost(usd(nanousd(amount_usd)), source)


def _decimal(amount_usd: float) -> Decimal:
    exact = Decimal(str(amount_usd))
    if not exact.is_finite() or exact < 0:
        raise ValueError(f"a cost of {amount_usd}")
    return round(exact, min(FLOAT_DIGITS, SUM_DIGITS - 1 - exact.adjusted())) if exact else exact


def _search_usd(request: Request, entry: Entry, queries: int | None) -> Decimal:
    """LiteLLM's token prices hold no search, but for Perplexity's, whose count they are not given."""
    if queries is None:
        queries = 1 if asks_search(request) else 0
    if entry.fields.get("web_search_billing_unit") != "per_query" and entry.provider in ("gemini", "vertex_ai"):
        queries = min(queries, 1)  # Google bills an answer with searches, not each of them
    return queries * search_usd(entry, search_size(request)) if queries else Decimal(0)


def _tokens_usd(request: Request, entry: Entry, counts: dict[str, Any], tier: str | None) -> Decimal:
    """What LiteLLM says that the tokens cost. It takes 30 microseconds to, so where a token costs the same however many
    there are, and nobody has named a part of them, it is asked once, for one of each kind."""
    name, provider = named(request)
    where = {
        # It takes a segment off the names of Vertex's partners, and then does not find them.
        "model": f"{provider}/{name}" if provider == "vertex_ai" else name,
        "custom_llm_provider": provider,
        "region_name": region(request) if provider == "bedrock" else None,
        "data_residency": residency(request, provider),
        "vertex_location": vertex_location(request) if provider.startswith("vertex_ai") else None,
    }
    if tier is not None or not _TOTALS.issuperset(counts) or not entry.is_flat():
        return sum(_costs_usd(counts, service_tier=tier, **where), Decimal(0))
    asked = tuple(where.values())
    if (known := entry.token_usd.get(asked)) is None:
        one = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        known = entry.token_usd[asked] = _costs_usd(one, **where)
    into_usd, out_usd = known
    return int(counts.get("prompt_tokens", 0)) * into_usd + int(counts.get("completion_tokens", 0)) * out_usd


def _costs_usd(counts: dict[str, Any], **asked: Any) -> tuple[Decimal, Decimal]:
    """Of input and of output."""
    module = litellm()
    into, out = module.cost_per_token(usage_object=module.Usage(**counts), **asked)
    return _decimal(into), _decimal(out)


def _reported_usd(request: Request, usage: Usage) -> Decimal | None:
    if request.provider not in REPORTING:
        return None
    claim = getattr(usage, "cost", None)
    if isinstance(claim, bool) or not isinstance(claim, (int, float)):
        return None
    # With the user's own key at the provider behind it, the cost is OpenRouter's fee alone.
    if getattr(usage, "is_byok", False) or not math.isfinite(claim) or not 0 <= claim < _MILLION:
        return None
    return Decimal(str(claim))


@dataclass(frozen=True, slots=True)
class Counts:
    """Token counts that can be believed: `fields` are those of LiteLLM's Usage."""

    input: int
    output: int
    queries: int | None  # searches on the web, if the provider said how many
    fields: dict[str, Any]


INPUT_PARTS = ("cached_tokens", "cache_write_tokens", "cache_creation_tokens", "audio_tokens", "image_tokens")
INPUT_UNITS = ("video_tokens", "image_count", "character_count", "query_count")
INPUT_SECONDS = ("video_length_seconds", "audio_length_seconds")
OUTPUT_PARTS = ("reasoning_tokens", "audio_tokens", "image_tokens", "video_tokens")
_KEPT = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
CACHE_COUNTS = ("cache_read_input_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens")


def checked_counts(usage: Usage | None) -> Counts | None:
    """The counts that LiteLLM prices by, or None if there are none or one of them makes no sense.

    Left out are the text counts: they are the rest, and a text count that is too low would be billed as it is.
    """
    if usage is None:
        return None
    said = usage.model_dump(exclude_none=True)
    try:
        heard, spoken = _part(said, "prompt_tokens_details"), _part(said, "completion_tokens_details")
        totals = _counts(said, ("prompt_tokens", "completion_tokens", *CACHE_COUNTS, "citation_tokens"))
        inputs = {**_counts(heard, (*INPUT_PARTS, *INPUT_UNITS)), **_seconds(heard)}
        outputs = _counts(spoken, OUTPUT_PARTS)
        written = _counts(_part(heard, "cache_creation_token_details"), _KEPT)
        cached = _counts(_part(heard, "cached_tokens_details"), ("audio_tokens", "image_tokens", "text_tokens"))
        queries = _queries(said, heard)
    except (TypeError, ValueError):
        return None
    prompt, completion = totals.get("prompt_tokens", 0), totals.get("completion_tokens", 0)
    if not prompt and not completion:
        return None
    if written:
        # LiteLLM bills the split alone: what it leaves out was written too.
        total = inputs.get("cache_write_tokens") or inputs.get("cache_creation_tokens") or 0
        written[_KEPT[0]] = written.get(_KEPT[0], 0) + max(total - sum(written.values()), 0)
        inputs["cache_creation_token_details"] = written
    if cached:
        inputs["cached_tokens_details"] = cached
    if inputs.get("image_count"):  # or LiteLLM takes it that there was no text
        parts = sum(inputs.get(name, 0) for name in (*INPUT_PARTS, "video_tokens"))
        inputs["text_tokens"] = max(prompt - parts, 0)
    # Without parts LiteLLM needs half the time, so zeros are left out; but beside other parts, for there they count: a
    # `cache_read_input_tokens` of 0 goes before `cached_tokens`.
    if any(inputs.values()):
        fields: dict[str, Any] = {**totals, "prompt_tokens_details": inputs}
    else:
        fields = {name: count for name, count in totals.items() if count}
    fields["total_tokens"] = prompt + completion
    fields |= {"completion_tokens_details": outputs} if any(outputs.values()) else {}
    fields |= {name: said[name] for name in ("inference_geo", "speed") if isinstance(said.get(name), str)}
    return Counts(max(prompt, _spent(inputs)), max(completion, sum(outputs.values())), queries, fields)


def _spent(inputs: Mapping[str, Any]) -> int:
    return int(sum(inputs.get(name, 0) for name in ("cached_tokens", "cache_write_tokens")))


def _part(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = said.get(name) or {}
    if not isinstance(part, Mapping):
        raise TypeError(f"{name} is no object")
    return part


def _counts(said: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, int]:
    if not said:  # as mostly
        return {}
    counts = {name: said[name] for name in names if said.get(name) is not None}
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count <= ABSURD_TOKENS:
            raise ValueError(f"{name} is {count!r}")
    return counts


def _seconds(said: Mapping[str, Any]) -> dict[str, Any]:
    spans = {name: said[name] for name in INPUT_SECONDS if said.get(name) is not None}
    for name, span in spans.items():
        if type(span) not in (int, float) or not 0 <= span <= ABSURD_TOKENS:
            raise ValueError(f"{name} is {span!r}")
    return spans


def _queries(said: Mapping[str, Any], heard: Mapping[str, Any]) -> int | None:
    """Searches on the web, wherever LiteLLM or the provider wrote their number."""
    counts = [
        *_counts(_part(said, "server_tool_use"), ("web_search_requests",)).values(),
        *_counts(heard, ("web_search_requests", "google_maps_grounding_requests")).values(),
        *_counts(_part(said, "server_side_tool_usage_details"), ("web_search_calls",)).values(),
        *_counts(said, ("num_search_queries",)).values(),
    ]
    if any(count > ABSURD_QUERIES for count in counts):
        raise ValueError("so many searches")
    return max(counts) if counts else None
