"""Listing: a model as the catalogue lists it, made of a line of LiteLLM's table."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from llmbridge.provider.table import CAPABILITIES, LOCAL


if TYPE_CHECKING:
    from llmbridge.request import Model

LONG_CONTEXT = 200_000  # tokens
# LiteLLM's table has no flag for it: what its makers call a model for code.
_CODE = re.compile(r"(?:^|[-_/.])(?:code|coder|codex|codestral|devstral|codegemma|codellama|starcoder)(?![a-z])")


class Listing(NamedTuple):  # of which a frozen dataclass takes five times as long to make
    """A model as the catalogue lists it. None: nobody knows.

    Attributes:
        model: "provider/name", as LiteLLM spells it.
        context_window, max_output_tokens: in tokens.
        input_usd_per_mtok, output_usd_per_mtok: US dollars per million tokens, at the plain price, without tiers and
            caches. The table's 0 is free only for what runs here; elsewhere it is a preview's, or nobody filled it in.
        capabilities: some of "vision", "audio", "pdf", "tools", "json_schema", "reasoning", "prompt_caching",
            "long_context" (200,000 tokens or more) and "code", which goes by the name alone.
        deprecates_on: when its provider takes it away.
        latency_s: the median of its answers in the ledger; only of a query by latency.
        own: the Model that adds it or gives it other prices.
    """

    model: str
    provider: str
    mode: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None
    capabilities: frozenset[str] = frozenset()
    deprecates_on: date | None = None
    latency_s: float | None = None
    own: Model | None = None

    @property
    def usd_per_mtok(self) -> Decimal | None:
        """One price to compare by: three tokens of input to one of output. None if unknown, or a 0 that is no fact."""
        output = Decimal(0) if self.mode == "embedding" else self.output_usd_per_mtok
        if self.input_usd_per_mtok is None or output is None:
            return None
        price = (3 * self.input_usd_per_mtok + output) / 4
        free = self.provider in LOCAL or (self.own is not None and self.own.input_usd_per_mtok is not None)
        return price if price or free else None

    def measured(self, latency_s: float | None) -> Listing:
        """The same, with what the ledger says of it."""
        return self if latency_s is None else self._replace(latency_s=latency_s)


def listing_of(
    provider: str, model: str, fields: Mapping[str, Any], own: Model | None, wanted: Mapping[str, Any], today: date
) -> Listing | None:
    """The line of one model, or None if it is not *wanted*: most are not, and a price is dear to make."""
    window = _tokens(fields.get("max_input_tokens"))
    if (
        provider != wanted.get("provider", provider)
        or wanted["query"] not in model.lower()
        or (window or 0) < wanted.get("min_context", 0)
    ):
        return None
    gone = _day(fields["deprecation_date"]) if "deprecation_date" in fields else None
    if gone is not None and gone <= today and not wanted["deprecated"]:
        return None
    can = frozenset(_capabilities(model, fields, window))
    if not wanted["capability"] <= can:
        return None
    prices = _prices(provider, fields, own)
    most = wanted.get("max_input_usd_per_mtok")
    if most is not None and (prices[0] is None or prices[0] > most):
        return None
    output = _tokens(fields.get("max_output_tokens")) or _tokens(fields.get("max_tokens"))
    output = (own.max_output_tokens if own is not None else None) or output
    return Listing(model, provider, wanted["mode"], window, output, *prices, can, gone, own=own)


def _prices(provider: str, fields: Mapping[str, Any], own: Model | None) -> tuple[Decimal | None, Decimal | None]:
    if own is not None and own.input_usd_per_mtok is not None:
        return cast(Decimal, own.input_usd_per_mtok), cast(Decimal, own.output_usd_per_mtok)
    if provider in LOCAL:
        return Decimal(0), Decimal(0)
    return _per_mtok(fields.get("input_cost_per_token")), _per_mtok(fields.get("output_cost_per_token"))


def _per_mtok(usd_per_token: Any) -> Decimal | None:
    if isinstance(usd_per_token, bool) or not isinstance(usd_per_token, (int, float)) or usd_per_token < 0:
        return None  # some tables write -1 for "it depends"
    return _million(usd_per_token)


@functools.lru_cache(maxsize=4096)  # a few hundred prices for some thousand models
def _million(usd_per_token: float) -> Decimal:
    # a float's shortest text, and of it what ten digits say: a table of products has 6.000000000000001e-07
    return Decimal(f"{Decimal(str(usd_per_token)) * 1_000_000:.10g}").normalize() + 0


def _capabilities(model: str, fields: Mapping[str, Any], window: int | None) -> list[str]:
    can = [name for name, (flag, _) in CAPABILITIES.items() if fields.get(flag)]
    if window is not None and window >= LONG_CONTEXT:
        can.append("long_context")
    if _CODE.search(model.lower()):
        can.append("code")
    return can


def _tokens(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _day(text: Any) -> date | None:
    try:
        return date.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
