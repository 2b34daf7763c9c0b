"""What a request can cost at most: bounds, never estimates that can be exceeded."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from llmbridge.provider.caps import capped_by, choices, is_cap, may_drop, output_cap
from llmbridge.provider.rates import (
    QUANTA_A_NANOUSD,
    QUANTA_A_USD,
    Entry,
    asked_in,
    asks_search,
    dearest_quanta,
    entry_of,
    is_local,
    is_priced,
    request_usd,
    search_usd,
    version,
)
from llmbridge.provider.sizes import Size, count, measure, predicted
from llmbridge.request import Request


FLOOR_TOKENS = 64
# What ends a choice or frames a tool call is billed and not seen.
UNSEEN_TOKENS = 64
SEARCHES = 10
NO_END = 2**31 - 1  # more than any model answers


@dataclass(frozen=True, slots=True)
class WorstCase:
    """What one request can use and cost at most.

    Attributes:
        input_tokens: None if it cannot be bounded.
        output_tokens: over all n choices, reasoning included; 0 for embeddings; None if it cannot be bounded. Where the
            caller gave no cap, it holds for the request that is `capped` at its n-th part: of a context window that
            input and output share, it is what the input leaves.
        nanousd: at the dearest prices that can apply, rounded up; None if unknown. Searches on the web are ten, unless
            a tool says `max_uses`.
        lacking: for people: what is missing and the line that would supply it; empty if nothing is.
    """

    input_tokens: int | None
    output_tokens: int | None
    nanousd: int | None
    lacking: str = ""


@dataclass(frozen=True, slots=True)
class _Rates:
    """Prices in 1e-30 US dollars: of a token of input, one of output, and of the request."""

    input: int
    output: int
    request: int

    def nanousd(self, input_tokens: int, output_tokens: int) -> int:
        quanta = input_tokens * self.input + output_tokens * self.output + self.request
        return -(-quanta // QUANTA_A_NANOUSD)


def worst_case(request: Request, *, counted: bool = False) -> WorstCase:
    """The worst case of *request*. `counted`: with LiteLLM's tokenizer, which takes longer and tells more closely."""
    entry, size = entry_of(request), measure(request)
    if counted:
        size = count(request, size)
    inputs = _input_tokens(request, entry, size)
    outputs = _output_tokens(request, entry, inputs, size)
    rates = _rates(request, entry, inputs, size)
    if rates is None:
        return WorstCase(inputs, outputs, None, _lacks_price(request, entry))
    if (inputs is None and rates.input) or (outputs is None and rates.output):
        return WorstCase(inputs, outputs, None, _lacks_size(request, inputs, size))
    return WorstCase(inputs, outputs, rates.nanousd(inputs or 0, outputs or 0))


def _input_tokens(request: Request, entry: Entry | None, size: Size) -> int | None:
    # The table's context window is no bound for text whose bytes are known: many entries are wrong, and some models
    # read more than theirs says, for a header. It is all there is where a file or the provider decides the size.
    # What a search finds is billed as input, but for Perplexity's.
    if not size.unknown and (request.provider == "perplexity" or not asks_search(request)):
        return size.tokens
    if request.verb == "embeddings":
        return None
    window = entry.fields.get("max_input_tokens") if entry else None
    return max(int(window), size.tokens) if isinstance(window, int) and window > 0 else None


def _output_tokens(request: Request, entry: Entry | None, inputs: int | None, size: Size) -> int | None:
    if request.verb == "embeddings":
        return 0
    most, given = _model_limit(request, entry), output_cap(request)
    if given is None and most is not None:
        window = (entry.fields.get("max_input_tokens") if entry else None) or 0
        if most >= window > 0 and request.max_output_tokens is None and inputs == size.tokens and capped_by(request):
            most = max(min(most, window - inputs), 1)
    if given is not None and may_drop(request):
        most = given = None if most is None else max(given, most)
    # A cap above the model's own limit stays: where the table is wrong about the model, the cap is what holds.
    choice = most if given is None else given
    return None if choice is None else choice * choices(request) + size.prediction


def _model_limit(request: Request, entry: Entry | None) -> int | None:
    if request.max_output_tokens is not None:
        return request.max_output_tokens
    fields = entry.fields if entry else {}
    limits = (fields.get("max_output_tokens"), fields.get("max_tokens"))
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)


def _rates(request: Request, entry: Entry | None, inputs: int | None, size: Size) -> _Rates | None:
    if request.input_usd_per_mtok is not None and request.output_usd_per_mtok is not None:
        return _Rates(_quanta(request.input_usd_per_mtok / 10**6), _quanta(request.output_usd_per_mtok / 10**6), 0)
    if is_local(request):
        return _Rates(0, 0, 0)
    if entry is None or not is_priced(entry, request) or entry.fields.get("citation_cost_per_token"):
        return None
    most = NO_END if inputs is None else inputs
    dearest = dearest_quanta(entry, request, most, media=size.media, hour=size.hour, fast=size.fast)
    fees = request_usd(entry) + (_searches(request) * search_usd(entry) if asks_search(request) else 0)
    return _Rates(*dearest, _quanta(fees + _inputs_usd(request, entry)))


def _quanta(amount_usd: Decimal) -> int:
    return int((amount_usd * QUANTA_A_USD).to_integral_value(ROUND_CEILING))


def _inputs_usd(request: Request, entry: Entry) -> Decimal:
    """Embeddings of images and questions that are billed by the piece."""
    if request.verb == "chat":
        return Decimal(0)
    names = ("input_cost_per_image", "input_cost_per_query")
    return len(request.content) * max(Decimal(str(entry.fields.get(name) or 0)) for name in names)


def _searches(request: Request) -> int:
    tools = [tool for asked in asked_in(request) for tool in asked.get("tools") or () if isinstance(tool, dict)]
    uses = [use for tool in tools if isinstance(use := tool.get("max_uses"), int) and use > 0]
    return max(uses, default=SEARCHES)


def _lacks_price(request: Request, entry: Entry | None) -> str:
    if entry is not None and is_priced(entry, request):
        return f"{request.model} bills citations that nothing bounds: {_own_price(request)}"
    return f"{request.model} has no price in LiteLLM {version()}: {_own_price(request)}"


def _own_price(request: Request) -> str:
    return f"write Model({request.model!r}, input_usd_per_mtok=..., output_usd_per_mtok=...)"


def _lacks_size(request: Request, inputs: int | None, size: Size) -> str:
    if inputs is None:
        what = size.unknown or "what a search brings"
        return f"the tokens of {what} are not known before {request.model} has read it, nor is its context window"
    return (
        f"no output limit is known for {request.model}: "
        f"give max_tokens=, or Model({request.model!r}, max_output_tokens=...)"
    )


def affordable(request: Request, worst: WorstCase, *, nanousd: int | None = None, tokens: int | None = None) -> int:
    """The largest output cap per choice with which the worst case stays within *nanousd* and *tokens*.

    It is never above that of *worst*; 0 or less if not even the input fits, or if what it costs is unknown. *tokens*
    counts input and output. *worst* is that of *request*.
    """
    if worst.input_tokens is None:
        return 0
    wanted, spent = choices(request), predicted(request)
    most = NO_END if worst.output_tokens is None else (worst.output_tokens - spent) // wanted
    limits = [most]
    if tokens is not None:
        limits.append((tokens - worst.input_tokens - spent) // wanted)
    if nanousd is not None:
        rates = _rates(request, entry_of(request), worst.input_tokens, measure(request))
        if rates is None:
            return 0
        left = nanousd * QUANTA_A_NANOUSD - rates.request - worst.input_tokens * rates.input - spent * rates.output
        if left < 0:
            return 0
        limits.append(left // (wanted * rates.output) if rates.output else NO_END)
    fits = min(limits)
    return fits if fits >= most or capped_by(request) else 0


def floor_tokens(request: Request) -> int:
    """Below this an answer that was cut to fit a budget is useless: a few sentences, after what it may think."""
    thinking = [asked["thinking"] for asked in asked_in(request) if isinstance(asked.get("thinking"), dict)]
    budgets: list[int] = [each["budget_tokens"] for each in thinking if is_cap(each.get("budget_tokens"))]
    return FLOOR_TOKENS + max(budgets, default=0)


def seen_nanousd(request: Request, worst: WorstCase, seen_bytes: int) -> int | None:
    """What a stream that was cut or left can have cost, after *seen_bytes* of answer (UTF-8); None if unknown.

    A token is at least a byte. The whole worst case for models that may reason out of sight, and for those of which
    that is not known: what nobody saw is billed.
    """
    entry = entry_of(request)
    if worst.input_tokens is None or _may_reason(request, entry):
        return worst.nanousd
    size = measure(request)
    rates = _rates(request, entry, worst.input_tokens, size)
    if rates is None:
        return worst.nanousd
    seen = seen_bytes + UNSEEN_TOKENS * choices(request) + size.prediction
    most = seen if worst.output_tokens is None else min(seen, worst.output_tokens)
    return rates.nanousd(worst.input_tokens, most)


def _may_reason(request: Request, entry: Entry | None) -> bool:
    if any(asked.get(name) for asked in asked_in(request) for name in ("reasoning_effort", "thinking", "reasoning")):
        return True
    if entry is None:
        return not is_local(request)
    fields = entry.fields
    return bool(fields.get("supports_reasoning")) or any("reasoning_token" in name for name in fields)
