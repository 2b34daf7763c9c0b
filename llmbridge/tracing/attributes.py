"""What the records say, as span attributes; None for what they do not say. Pure functions, and `clean()` for all."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmbridge import semconv
from llmbridge.redaction import Known, known, redact


if TYPE_CHECKING:
    from llmbridge.completion import Completion, Embedding
    from llmbridge.record import AttemptRecord, CallRecord
    from llmbridge.request import Request

Attributes = dict[str, Any]
MOST_TAGS = 32  # an SDK keeps 128 attributes and drops the oldest
LONGEST_WORD = 1_000
LONGEST_KNOWN = 100
FALLBACKS = ("fallback", "downgrade")
STREAM_OUTCOMES = {"answered": "completed", "left": "closed", "cancelled": "cancelled"}


def of_request(record: CallRecord, request: Request, *, stream: bool) -> Attributes:
    """What is known as the call starts, where samplers can see it. The request is that to the first candidate."""
    address, port = _server(request.transport)
    provider, tags = request.provider, record.tags
    found: Attributes = {
        semconv.OPERATION: request.verb,
        semconv.PROVIDER: semconv.provider_name(provider) or None,
        semconv.REQUEST_MODEL: semconv.model_name(request.model, provider),
        semconv.SERVER_ADDRESS: address,
        semconv.SERVER_PORT: port,
        semconv.STREAM: True if stream else None,
        semconv.CALL_ID: record.id,
    }
    if request.params or request.response_model is not None:
        found |= _params(request)
    if tags:
        found[semconv.CONVERSATION] = tags.get("conversation_id")
        for name in itertools.islice(tags, MOST_TAGS):
            found[semconv.TAG + name] = tags[name]
    return found


def of_call(record: CallRecord) -> Attributes:
    """What is known as the call has ended."""
    last = record.attempts[-1] if record.attempts else None
    provider = record.provider or (last.provider if last is not None else "")
    found: Attributes = {
        semconv.PROVIDER: semconv.provider_name(provider) or None,
        semconv.ATTEMPT_COUNT: len(record.attempts),
        semconv.FALLBACK_USED: any(attempt.reason in FALLBACKS for attempt in record.attempts),
        semconv.CACHE_HIT: record.cached,
        semconv.COST_USD: _dollars(record.cost_usd),
        semconv.COST_UNCERTAIN: True if record.uncertain else None,
    }
    if last is not None:
        found[semconv.SERVER_ADDRESS], found[semconv.SERVER_PORT] = last.host, last.port
        found[semconv.COST_SOURCE] = last.price_source
    if record.cached:
        found[semconv.CACHE_AGE_S] = record.cache_age_s
        found[semconv.CACHE_STALE] = True if record.stale else None
        found[semconv.SAVED_USD] = _dollars(record.saved_usd)
    elif last is not None:
        found |= _usage(record, last)
    if record.model is not None:
        kept = semconv.model_name(record.model, record.model.partition("/")[0])
        answered = None if record.cached or last is None else last.response_model
        found[semconv.RESPONSE_MODEL] = answered or kept
    return found


def of_stream(record: CallRecord) -> Attributes:
    """What a stream has besides."""
    outcome = "abandoned" if record.abandoned else STREAM_OUTCOMES.get(record.outcome, "error")
    return {
        semconv.STREAM_OUTCOME: outcome,
        semconv.CHUNK_COUNT: record.chunk_count,
        semconv.FIRST_CHUNK_S: None if record.cached else record.first_chunk_s,
    }


def of_answer(answer: Completion | Embedding) -> Attributes:
    """What the answer itself says."""
    choices = getattr(answer, "choices", ())
    reasons = tuple(choice.finish_reason for choice in choices if choice.finish_reason)
    return {semconv.RESPONSE_ID: getattr(answer, "id", None) or None, semconv.FINISH_REASONS: reasons or None}


def of_attempt(record: AttemptRecord) -> Attributes:
    """What is known as an attempt starts."""
    return {
        semconv.ATTEMPT_NUMBER: record.number,
        semconv.ATTEMPT_REASON: record.reason,
        semconv.ATTEMPT_PROVIDER: semconv.provider_name(record.provider),
        semconv.ATTEMPT_MODEL: record.model,
    }


def of_attempt_end(record: AttemptRecord) -> Attributes:
    """What is known as an attempt has ended."""
    return {
        semconv.ATTEMPT_PROVIDER: semconv.provider_name(record.provider),
        semconv.ATTEMPT_OUTCOME: record.outcome,
        semconv.ATTEMPT_COST_USD: _dollars(record.cost_usd),
        semconv.ATTEMPT_REQUEST_ID: record.request_id,
        semconv.SERVER_ADDRESS: record.host,
        semconv.SERVER_PORT: record.port,
        semconv.HTTP_STATUS: record.status,
    }


def of_event(name: str, arguments: Mapping[str, Any]) -> Attributes | None:
    """The attributes of an event. Raises KeyError for an event or an argument that semconv does not know."""
    names = semconv.EVENTS[name]
    return {names[argument]: _plain(value) for argument, value in arguments.items() if value is not None} or None


def _plain(value: Any) -> Any:
    return whole(value) if type(value) is str else float(value) if type(value) is Decimal else value


def _usage(record: CallRecord, last: AttemptRecord) -> Attributes:
    if record.input_tokens is None:
        return {}
    return {
        semconv.INPUT_TOKENS: record.input_tokens,
        semconv.OUTPUT_TOKENS: record.output_tokens if record.verb != "embeddings" else None,
        semconv.CACHE_READ_TOKENS: last.cached_tokens,
        semconv.CACHE_WRITE_TOKENS: last.cache_write_tokens,
        semconv.REASONING_TOKENS: last.reasoning_tokens,
        semconv.USAGE_ESTIMATED: True if record.estimated else None,
    }


def _params(request: Request) -> Attributes:
    params, found = request.params, Attributes()
    for name in params.keys() & semconv.REQUEST_PARAMS:
        attribute, kind = semconv.REQUEST_PARAMS[name]
        value = params[name]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[attribute] = kind(value)
    stop, count = params.get("stop"), params.get("n")
    if stop:
        found[semconv.STOP_SEQUENCES] = (stop,) if isinstance(stop, str) else tuple(map(str, stop))
    if isinstance(count, int) and count != 1:
        found[semconv.CHOICE_COUNT] = count
    wanted = params.get("response_format")
    if request.response_model is not None or (isinstance(wanted, Mapping) and "json" in str(wanted.get("type"))):
        found[semconv.OUTPUT_TYPE] = "json"
    return found


def _server(transport: Mapping[str, Any]) -> tuple[str | None, int | None]:
    base = transport.get("api_base") or transport.get("base_url")
    return (None, None) if base is None else _parts(str(base))


@functools.lru_cache(maxsize=256)
def _parts(base: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(base)
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None, None


def _dollars(amount_usd: Decimal | None) -> float | None:
    return None if amount_usd is None else float(amount_usd)


def whole(text: str) -> str:
    """*text* as UTF-8 can write it: one lone surrogate and the exporter drops all spans of a batch."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def clean(attributes: Attributes) -> Attributes:
    """Those that are not None, without secrets: a provider may send back anything under any name."""
    secrets = known()
    found = {}
    for name, value in attributes.items():
        if value is None:
            continue
        if type(value) is str and name != semconv.CALL_ID:
            value = word(value, secrets)
        elif type(value) is tuple:
            value = tuple([word(each, secrets) for each in value])
        found[name] = value
    return found


def word(text: str, secrets: Known) -> str:
    """*text* without secrets, as the exporter can write it. The same words come again and again: what is known of one
    holds until there is another secret."""
    return _word(text, secrets) if len(text) <= LONGEST_KNOWN else _word.__wrapped__(text, secrets)


@functools.lru_cache(maxsize=2_000)
def _word(text: str, _: Known) -> str:
    return redact(whole(text), limit=LONGEST_WORD)
