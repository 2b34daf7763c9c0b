"""LiteLLM's price table: the line of a model, and what a token can cost at most by it. Knows where a request goes."""

from __future__ import annotations

import functools
import importlib.metadata
import ipaddress
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any
from urllib.parse import urlsplit

from llmbridge.provider.loading import litellm, loaded
from llmbridge.provider.table import LOCAL, bundled, find
from llmbridge.request import Request


# Prices are whole numbers of 1e-30 US dollar, so that a bound is exact.
QUANTA_A_NANOUSD = 10**21
QUANTA_A_USD = Decimal(10**30)
# A search whose price is not in the table: the dearest that is.
DEAREST_SEARCH_USD = Decimal("0.035")
SERVED = frozenset(
    {"hosted_vllm", "vllm", "xinference", "oobabooga"}
)  # often at home, but with no address of their own
# LiteLLM's names of the tiers in the table, by those in a request; "auto" can be any.
TIERS = {"priority": "priority", "fast": "priority", "flex": "flex", "balanced": "balanced", "ultrafast": "ultrafast"}
STANDARD = ("", "default", "standard", "standard_only", "batch")
SEARCHES = ("web_search", "google_search", "googlesearch", "enterprisewebsearch", "google_maps", "googlemaps")
SEARCH_PARAMS = ("web_search_options", "search_parameters", "plugins", "enable_search")  # {} is a wish too
_SEARCHING = frozenset({*SEARCH_PARAMS, "tools"})
_PRICE = re.compile(
    r"(?P<side>(?:cache_read_|cache_creation_)?input|output)_(?:cost_per_)?(?P<part>[a-z]+_)?token(?P<rest>_\w+)?"
)
_ABOVE = re.compile(r"_above_(\d+)(k?)_tokens")


@dataclass(frozen=True, slots=True)
class Price:
    """One line of the table: a token's price, and when it can apply."""

    output: bool
    quanta: int
    above_tokens: int  # of input
    tier: str
    media: bool
    hour: bool  # of a cache that is kept for an hour


@dataclass(frozen=True, slots=True)
class Entry:
    """What LiteLLM's table says about a model. `fields` is a copy: register_model() changes the table in place.

    `limits` are the numbers of input tokens from which on other prices apply. `token_usd` holds what LiteLLM says that
    a token of input and one of output cost, by how it was asked.
    """

    key: str
    provider: str
    fields: Mapping[str, Any]
    prices: tuple[Price, ...]
    limits: tuple[int, ...]
    dearest: dict[tuple[Any, ...], tuple[int, int]] = field(default_factory=dict)
    token_usd: dict[tuple[Any, ...], tuple[Decimal, Decimal]] = field(default_factory=dict)

    def is_flat(self) -> bool:
        """Whether a token costs the same however many there are, and at any hour."""
        return not (self.limits or "tiered_pricing" in self.fields or "off_peak_pricing" in self.fields)


_entries: dict[str, Entry] = {}


@functools.cache
def version() -> str:
    """LiteLLM's, as it is installed: that of the table."""
    return importlib.metadata.version("litellm")


def named(request: Request) -> tuple[str, str]:
    """LiteLLM's name of the model and of its provider. Raises what LiteLLM raises for a name that it does not know."""
    own, _, rest = request.model.partition("/")
    if own in ("github_copilot", "chatgpt") and rest:
        return rest, own  # LiteLLM would log in to tell
    return _named(request.model, request.transport.get("custom_llm_provider"), len(litellm().model_cost))


@functools.lru_cache(maxsize=1024)
def _named(model: str, custom: str | None, table: int) -> tuple[str, str]:
    """*table* is its size: an application may add models. What raises is not kept."""
    name, provider, _, _ = litellm().get_llm_provider(model=model, custom_llm_provider=custom)
    return str(name), str(provider)


@functools.lru_cache(maxsize=1024)
def _key(name: str, provider: str, table: int) -> str:
    return str(litellm().get_model_info(model=name, custom_llm_provider=provider)["key"])


def entry_of(request: Request) -> Entry | None:
    """The line of LiteLLM's table that it prices the request's model by; None if there is none."""
    if loaded() is None and (found := find(request)) is not None:
        key, provider = found
        return _entry(key, provider, bundled()[key]) if key else None
    module = litellm()
    try:
        name, provider = named(request)
        if provider in ("ollama", "ollama_chat"):  # LiteLLM would ask the server
            key = next((key for key in (request.model, name) if key in module.model_cost), "")
        elif provider == "bedrock" and f"bedrock/{region(request)}/{name}" in module.model_cost:
            key = f"bedrock/{region(request)}/{name}"
        else:
            key = _key(name, provider, len(module.model_cost))
    except Exception:
        return None
    fields = module.model_cost.get(key)
    return _entry(key, provider, fields) if fields else None


def _entry(key: str, provider: str, fields: Mapping[str, Any]) -> Entry:
    known = _entries.get(key)
    if known is None or known.fields != fields or known.provider != provider:
        prices = tuple(_prices(fields))
        limits = {price.above_tokens for price in prices} - {0}
        known = _entries[key] = Entry(key, provider, dict(fields), prices, tuple(limits))
    return known


def asked_in(request: Request) -> list[dict[str, Any]]:
    """The parameters, and those inside them that go to the provider as they are."""
    params = request.params
    if "extra_body" not in params and "provider_params" not in params:
        return [params]
    special = params.get("provider_params") or {}
    inner = (params.get("extra_body"), special, special.get("extra_body"))
    return [params, *(asked for asked in inner if isinstance(asked, dict))]


def asked_tier(request: Request) -> str:
    """The service tier that the request asks for; empty for the standard one."""
    tiers = [str(asked["service_tier"]).lower() for asked in asked_in(request) if asked.get("service_tier")]
    return next((tier for tier in tiers if tier not in STANDARD), "")


def search_usd(entry: Entry | None, size: str = "") -> Decimal:
    """What one search on the web costs, in US dollars; at the dearest size, unless *size* is named."""
    prices = (entry.fields if entry else {}).get("search_context_cost_per_query") or {}
    if not isinstance(prices, Mapping):
        return Decimal(str(prices))
    known = [value for name, value in prices.items() if name.endswith(size) and isinstance(value, (int, float))]
    return Decimal(str(max(known))) if known else DEAREST_SEARCH_USD


def search_size(request: Request) -> str:
    """The size of search context that the request asks for; empty if it names none."""
    return str((request.params.get("web_search_options") or {}).get("search_context_size") or "")


def asks_search(request: Request) -> bool:
    """Whether the provider may search the web for the request: by its parameters, or by what the model is."""
    if request.verb != "chat":
        return False
    model = request.model.lower()
    if request.provider == "perplexity" or "-search-" in model or model.endswith((":online", "-search")):
        return True
    return any(
        any(asked.get(name, False) not in (None, False) for name in SEARCH_PARAMS)
        or any(_is_search(tool) for tool in asked.get("tools") or ())
        for asked in asked_in(request)
        if not _SEARCHING.isdisjoint(asked)
    )


def _is_search(tool: Any) -> bool:
    names = [str(tool.get("type") or ""), *tool] if isinstance(tool, dict) else []
    return any(name.lower().startswith(SEARCHES) for name in names)


def request_usd(entry: Entry) -> Decimal:
    """What a request costs besides its tokens, in US dollars."""
    return Decimal(str(entry.fields.get("input_cost_per_request") or 0))


def is_priced(entry: Entry, request: Request) -> bool:
    """Whether every token has a price, be it 0. LiteLLM answers 0.0 for a model without one."""
    sides = {price.output for price in entry.prices if not price.media and not price.tier}
    return False in sides and (True in sides or request.verb == "embeddings")


def _prices(fields: Mapping[str, Any], above: int = 0) -> Iterator[Price]:
    for name, value in fields.items():
        if name == "tiered_pricing" and isinstance(value, list):
            for tier in value:
                yield from _prices(tier, int((tier.get("range") or [0])[0]))
        elif name == "off_peak_pricing" and isinstance(value, Mapping):
            yield from _prices(value)
        elif (price := _price(name, value, above)) is not None:
            yield price


def _price(name: str, value: Any, above: int) -> Price | None:
    found = _PRICE.fullmatch(name)
    if found is None or value is None or isinstance(value, bool) or name.endswith(("_batches", "_decisions")):
        return None
    rest, part = found["rest"] or "", found["part"] or ""
    if (limit := _ABOVE.search(rest)) is not None:
        above = int(limit[1]) * (1000 if limit[2] else 1)
    tier = next((tier for tier in TIERS if rest.endswith(f"_{tier}")), "")
    output = found["side"] == "output"
    media = not output and part in ("audio_", "image_", "video_")
    amount_usd = Decimal(str(value))
    if not amount_usd.is_finite() or amount_usd < 0:  # some tables write -1 for "it depends"
        return None
    quanta = int((amount_usd * QUANTA_A_USD).to_integral_value(ROUND_CEILING))
    return Price(output, quanta, above, tier, media, "_above_1hr" in rest)


def dearest_quanta(
    entry: Entry, request: Request, input_tokens: int, *, media: bool, hour: bool, fast: bool
) -> tuple[int, int]:
    """The dearest that one token of input and of output can be, in 1e-30 US dollars, for up to *input_tokens*.

    Output is text, reasoning, sound or image: whatever is dearest. `media`, `hour` and `fast` say whether the request
    has media, wants a cache for an hour, and asks for Anthropic's fast mode.
    """
    asked = asked_tier(request)
    tiers = ("",) if asked in STANDARD else ("", TIERS[asked]) if asked in TIERS else ("", *TIERS.values())
    key = (sum(limit <= input_tokens for limit in entry.limits), tiers, media, hour)
    if (rates := entry.dearest.get(key)) is None:
        applicable = [
            price
            for price in entry.prices
            if price.above_tokens <= input_tokens
            and price.tier in tiers
            and (media or not price.media)
            and (hour or not price.hour)
        ]
        sides = [[price.quanta for price in applicable if price.output is output] for output in (False, True)]
        rates = entry.dearest[key] = (max(sides[0], default=0), max(sides[1], default=0))
    if (uplift := _uplift(entry, request, fast)) != 1:
        return math.ceil(rates[0] * uplift), math.ceil(rates[1] * uplift)
    return rates


def _uplift(entry: Entry, request: Request, fast: bool) -> Decimal:
    special = entry.fields.get("provider_specific_entry") or {}
    regions = [value for name, value in special.items() if name != "fast" and isinstance(value, (int, float))]
    factors = [max(regions, default=1), special.get("fast", 1) if fast else 1]
    if served_from := residency(request, entry.provider):
        factors.append(entry.fields.get(f"regional_processing_uplift_multiplier_{served_from}") or 1)
    if entry.provider.startswith("vertex_ai") and vertex_location(request) != "global":
        factors.append(entry.fields.get("regional_endpoint_uplift_multiplier") or 1)
    return math.prod((Decimal(str(factor)) for factor in factors if factor > 1), start=Decimal(1))


def residency(request: Request, provider: str) -> str | None:
    """The region of an OpenAI host that serves from one region, at a higher price."""
    if provider != "openai":
        return None
    host = urlsplit(_api_base(request, "OPENAI") or "").hostname or ""
    return {"eu.api.openai.com": "eu", "us.api.openai.com": "us"}.get(host)


def vertex_location(request: Request) -> str:
    location = request.transport.get("vertex_location") or getattr(loaded(), "vertex_location", None)
    return str(location or os.environ.get("VERTEXAI_LOCATION") or os.environ.get("VERTEX_LOCATION") or "us-central1")


def region(request: Request) -> str | None:
    region = request.transport.get("aws_region_name")
    return region or os.environ.get("AWS_REGION_NAME") or os.environ.get("AWS_REGION")


def _api_base(request: Request, name: str) -> str | None:
    given = request.transport.get("api_base") or getattr(loaded(), "api_base", None)
    return given or os.environ.get(f"{name}_API_BASE") or os.environ.get(f"{name}_BASE_URL")


def is_local(request: Request) -> bool:
    """Whether the model runs on this machine or in this network, and so costs nothing."""
    if request.provider not in LOCAL | SERVED:
        return False
    base = _api_base(request, request.provider.removesuffix("_chat").upper())
    if not base:
        return request.provider in LOCAL
    host = urlsplit(base if "//" in base else f"//{base}").hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".lan", ".home.arpa"))
    return address.is_loopback or address.is_private
