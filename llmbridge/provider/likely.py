"""What a request will likely use and cost: a guess, for people. What holds at most is in bounds.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from llmbridge.money import nanousd, usd
from llmbridge.provider.abilities import BYTES_A_TOKEN, PARTS, estimated_tokens
from llmbridge.provider.caps import choices, output_cap
from llmbridge.provider.counting import beside
from llmbridge.provider.rates import entry_of, is_local, is_priced
from llmbridge.request import Request


OUTPUT_TOKENS = 400  # of an answer by a model of which nothing is recorded: some 300 words
MESSAGE_TOKENS = 4
MEDIA_TOKENS = 1_000  # of an image, a sound, a file: a middling image for most providers


@dataclass(frozen=True, slots=True)
class Likely:
    """A guess. `usd` is None if the price is unknown."""

    input_tokens: int
    output_tokens: int
    usd: Decimal | None


def likely(request: Request, output_tokens: int | None = None) -> Likely:
    """What *request* will likely take, at plain prices. *output_tokens*: what answers of this model typically have."""
    inputs = estimated_tokens(request) + _besides(request)
    outputs = 0
    if request.verb == "chat":
        cap = output_cap(request)
        each = OUTPUT_TOKENS if output_tokens is None else output_tokens
        outputs = choices(request) * (each if cap is None else min(each, cap))
    prices = _prices(request)
    if prices is None:
        return Likely(inputs, outputs, None)
    return Likely(inputs, outputs, usd(nanousd(inputs * prices[0] + outputs * prices[1])))


def _besides(request: Request) -> int:
    """The tokens of what is no text of a message."""
    if request.verb == "embeddings":
        return 0
    parts = [
        part for message in request.content if isinstance(message.get("content"), list) for part in message["content"]
    ]
    media = sum(isinstance(part, Mapping) and part.get("type") in PARTS for part in parts)
    schema = len(beside(request)) // BYTES_A_TOKEN
    return MESSAGE_TOKENS * len(request.content) + MEDIA_TOKENS * media + schema


def _prices(request: Request) -> tuple[Decimal, Decimal] | None:
    """US dollars for a token of input and one of output."""
    if request.input_usd_per_mtok is not None and request.output_usd_per_mtok is not None:
        return request.input_usd_per_mtok / 10**6, request.output_usd_per_mtok / 10**6
    if is_local(request):
        return Decimal(0), Decimal(0)
    entry = entry_of(request)
    if entry is None or not is_priced(entry, request) or entry.fields.get("input_cost_per_token") is None:
        return None
    costs = (entry.fields.get(f"{side}_cost_per_token") or 0 for side in ("input", "output"))
    return Decimal(str(next(costs))), Decimal(str(next(costs)))
