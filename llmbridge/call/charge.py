"""What an attempt is charged, by how it ended.

    answered, with token counts                        what they cost
    answered, counted by LiteLLM or not at all         the input's bound and every byte of the answer as a token
    refused (4xx, 429), or never sent                  nothing
    5xx with a body                                    nothing, or the worst case if the ledger is told so
    cut, left, or dropped in the middle of a stream    the input's bound and every byte that came as a token
    anything else after sending                        the worst case

All but the first and the nothings are marked as uncertain. Nothing is charged above the worst case but what the
provider itself has counted.
"""

from __future__ import annotations

import logging
from decimal import Decimal

from llmbridge import provider
from llmbridge.completion import Completion, Embedding, Usage
from llmbridge.errors import ProviderError, ProviderTimeout
from llmbridge.ledger import Charge
from llmbridge.money import nanousd, usd
from llmbridge.provider import WorstCase
from llmbridge.record import AttemptRecord
from llmbridge.request import Request


log = logging.getLogger("llmbridge")


def answered(record: AttemptRecord, request: Request, worst: WorstCase, answer: Completion | Embedding) -> Charge:
    """For an answer; writes what is known of it into *record*."""
    usage = answer.usage
    if usage is not None:
        _write_counts(record, usage)
    counts = provider.checked_counts(usage)
    tier = answer.service_tier if isinstance(answer, Completion) else None
    cost = provider.cost(request, usage, counts=counts, service_tier=tier)
    record.price_source = cost.source if cost is not None else None
    if usage is not None and counts is not None and not usage.estimated:
        amount = None if cost is None else nanousd(cost.usd)
        return _charge(record, amount, counts.input + counts.output, certain=cost is not None)
    bound = _bound(request, worst, answer)
    estimate = 0 if cost is None else nanousd(cost.usd)
    return _charge(record, None if bound is None else max(bound, estimate), None, certain=False)


def failed(record: AttemptRecord, worst: WorstCase, error: ProviderError, *, charge_5xx: bool) -> Charge:
    """For a failure before any of the answer came. A gateway that gave up waiting (408, 504) may have been billed."""
    status = record.status
    refused = status is not None and status >= 300 and not isinstance(error, ProviderTimeout)
    if refused and charge_5xx and status is not None and status >= 500:
        refused = False
    return nothing(record) if refused or not error.sent else unknown(record, worst)


def nothing(record: AttemptRecord) -> Charge:
    """Surely nothing was billed; a request that was sent is one."""
    record.cost_usd, record.uncertain = Decimal(0), False
    return Charge(0, 0, requests=int(record.sent))


def unknown(record: AttemptRecord, worst: WorstCase) -> Charge:
    """Anything may have been billed."""
    return _charge(record, worst.nanousd, None, certain=False)


def seen(record: AttemptRecord, request: Request, worst: WorstCase, part: Completion) -> Charge:
    """For a stream of which *part* has come."""
    return _charge(record, _bound(request, worst, part), None, certain=False)


def _bound(request: Request, worst: WorstCase, answer: Completion | Embedding) -> int | None:
    try:
        return provider.seen_nanousd(request, worst, _size_bytes(answer))
    except Exception:  # bookkeeping breaks no call
        log.warning("what a part of an answer cost could not be computed", exc_info=True)
        return worst.nanousd


def _charge(record: AttemptRecord, amount: int | None, tokens: int | None, *, certain: bool) -> Charge:
    record.cost_usd = None if amount is None else usd(amount)
    record.uncertain = not certain
    return Charge(amount, tokens, requests=1, uncertain=not certain)


def _write_counts(record: AttemptRecord, usage: Usage) -> None:
    record.input_tokens, record.output_tokens = usage.prompt_tokens, usage.completion_tokens
    record.estimated = usage.estimated
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    record.cached_tokens = _count(prompt, "cached_tokens")
    record.cache_write_tokens = _count(prompt, "cache_creation_tokens")
    record.reasoning_tokens = _count(completion, "reasoning_tokens")


def _count(details: object, name: str) -> int | None:
    count = getattr(details, name, None)
    return count if isinstance(count, int) else None


def _size_bytes(answer: Completion | Embedding) -> int:
    """Whatever was said, in whatever field, as JSON in UTF-8."""
    if isinstance(answer, Embedding):
        return 0
    return sum(len(choice.message.model_dump_json(exclude_none=True).encode()) for choice in answer.choices)
