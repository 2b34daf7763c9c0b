"""What an answer cost, through LiteLLM's price table."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

from llmbridge.completion import Usage
from llmbridge.money import nanousd, usd
from llmbridge.provider.loading import litellm
from llmbridge.request import Request


log = logging.getLogger("llmbridge")
# LiteLLM multiplies floats: 3 x $5e-6 is 1.5000000000000002e-05, which must not round up to another nanodollar.
FLOAT_DIGITS = 15


def cost_usd(request: Request, usage: Usage | None) -> Decimal | None:
    """US dollars for *usage* of the request's model, rounded up to a nanodollar; None if anything is unknown.

    Never what the answer itself claims to have cost: LiteLLM believes a stream's `usage.cost` to the letter. Nor zero
    for a model without a price: LiteLLM answers 0.0 for some of them.
    """
    if usage is None:
        return None
    module = litellm()
    try:
        name, provider, _, _ = module.get_llm_provider(
            model=request.model, custom_llm_provider=request.transport.get("custom_llm_provider")
        )
        if not _has_price(module.model_cost, name, provider):
            return None
        counted = module.Usage(**usage.model_dump(exclude={"estimated"}, exclude_none=True))
        parts = module.cost_per_token(model=name, custom_llm_provider=provider, usage_object=counted)
    except Exception as exc:
        log.debug("no price for %s: %s", request.model, type(exc).__name__)
        return None
    return usd(nanousd(sum((round(Decimal(str(part)), FLOAT_DIGITS) for part in parts), Decimal(0))))


def _has_price(prices: dict[str, Any], name: str, provider: str) -> bool:
    entry = prices.get(f"{provider}/{name}") or prices.get(name) or {}
    return any(field.startswith(("input_cost", "output_cost")) or field == "tiered_pricing" for field in entry)
