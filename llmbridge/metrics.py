"""Metrics, out of the record of a call that has ended: one measurement a call, and attempts counted.

Labels are bounded: models, providers, outcomes, budgets; never a user, a request or a conversation.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from llmbridge import semconv
from llmbridge.tracing.failure import qualified
from llmbridge.tracing.harmless import harmless
from llmbridge.tracing.tracer import Own


if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider

    from llmbridge.record import AttemptRecord, CallRecord

Labels = dict[str, Any]


class Instruments:
    """What is measured. The boundaries are the convention's; an SDK's own would put every call into two buckets."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, unit: str, text: str, boundaries: tuple[float, ...] = semconv.SECONDS) -> Any:
            return meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=boundaries)

        self.duration = histogram(semconv.DURATION, "s", "Duration of a call, over all its attempts")
        self.tokens = histogram(semconv.TOKEN_USAGE, "{token}", "Tokens of a call, by type", semconv.TOKENS)
        self.first_chunk = histogram(semconv.TIME_TO_FIRST_CHUNK, "s", "Time to a stream's first content")
        self.chunk_gap = histogram(semconv.TIME_PER_CHUNK, "s", "Time between a stream's chunks, its mean")
        text = "Duration of a call less the time it waited for providers and in pauses"
        self.overhead = histogram(semconv.OVERHEAD, "s", text, semconv.OVERHEAD_SECONDS)
        self.attempts = meter.create_counter(semconv.ATTEMPTS, "{attempt}", "Attempts, by how they ended")
        self.lookups = meter.create_counter(semconv.LOOKUPS, "{lookup}", "Questions to the response cache")
        self.cost = meter.create_counter(semconv.COST, "USD", "What attempts were charged")
        self.rejections = meter.create_counter(semconv.REJECTIONS, "{call}", "Calls that a budget refused")


_cached: tuple[MeterProvider, Instruments] | None = None


def record(record: CallRecord) -> None:
    """Measure a call that has ended. Raises nothing.

    A stream that the garbage collector has ended is measured with the next call: the collector may run inside one of
    the SDK's locks, in the thread that holds it.
    """
    if record.abandoned:
        _abandoned.append(record)
        return
    if "opentelemetry.metrics" in sys.modules or Own.meter_provider is not None:
        while _abandoned:
            _record(_abandoned.popleft())
        _record(record)


_abandoned: deque[CallRecord] = deque(maxlen=1_000)


@harmless(None)
def _record(record: CallRecord) -> None:
    instruments = _instruments()
    if instruments is None:
        return
    labels = _labels(record)
    failed = record.error_type if record.outcome in ("failed", "cancelled") else None
    errors = {semconv.ERROR_TYPE: qualified(failed)} if failed else {}
    instruments.duration.record(record.duration_s, {**labels, **errors})
    if record.waited_s is not None:
        instruments.overhead.record(max(record.duration_s - record.waited_s, 0.0), labels)
    if not record.cached:
        _tokens(instruments, record, labels)
        _chunks(instruments, record, labels)
    if record.cached or record.missed:
        instruments.lookups.add(1, {semconv.CACHE_RESULT: "hit" if record.cached else "miss"})
    if record.refused_by is not None:
        instruments.rejections.add(1, {semconv.BUDGET: record.refused_by})
    for attempt in record.attempts:
        _attempt(instruments, attempt)


def _instruments() -> Instruments | None:
    """Those of the application's provider, else of the one that `tracing.start` has made; None without either."""
    global _cached
    from opentelemetry import metrics

    provider: MeterProvider | None = metrics.get_meter_provider()
    if type(provider).__name__ == "_ProxyMeterProvider":  # the API's own word for none; it has no public name
        provider = Own.meter_provider
    if provider is None or isinstance(provider, metrics.NoOpMeterProvider):
        return None
    if _cached is None or _cached[0] is not provider:
        from llmbridge import __version__

        _cached = provider, Instruments(provider.get_meter(semconv.SCOPE, __version__))
    return _cached[1]


def _labels(record: CallRecord) -> Labels:
    last = record.attempts[-1] if record.attempts else None
    asked = record.models[0]
    first = record.attempts[0].provider if record.attempts else ""
    provider = record.provider or (last.provider if last is not None else "")
    labels = {
        semconv.OPERATION: record.verb,
        semconv.PROVIDER: semconv.provider_name(provider) or None,
        semconv.REQUEST_MODEL: semconv.model_name(asked, first or asked.partition("/")[0]),
        semconv.RESPONSE_MODEL: _answering(record),
        semconv.SERVER_ADDRESS: last.host if last is not None else None,
        semconv.SERVER_PORT: last.port if last is not None else None,
    }
    return {name: value for name, value in labels.items() if value is not None}


def _answering(record: CallRecord) -> str | None:
    if record.model is None:
        return None
    answered = record.attempts[-1].response_model if record.attempts and not record.cached else None
    return answered or semconv.model_name(record.model, record.model.partition("/")[0])


def _tokens(instruments: Instruments, record: CallRecord, labels: Labels) -> None:
    if record.input_tokens is not None:
        instruments.tokens.record(record.input_tokens, {**labels, semconv.TOKEN_TYPE: "input"})
    if record.output_tokens is not None and record.verb != "embeddings":
        instruments.tokens.record(record.output_tokens, {**labels, semconv.TOKEN_TYPE: "output"})


def _chunks(instruments: Instruments, record: CallRecord, labels: Labels) -> None:
    if record.first_chunk_s is None:
        return
    instruments.first_chunk.record(record.first_chunk_s, labels)
    if record.chunk_count is not None and record.chunk_count > 1 and record.attempts:
        rest_s = record.attempts[-1].duration_s - record.first_chunk_s
        instruments.chunk_gap.record(max(rest_s, 0.0) / (record.chunk_count - 1), labels)


def _attempt(instruments: Instruments, attempt: AttemptRecord) -> None:
    provider = semconv.provider_name(attempt.provider)
    labels: Labels = {semconv.ATTEMPT_PROVIDER: provider, semconv.ATTEMPT_MODEL: attempt.model}
    ended: Labels = {semconv.ATTEMPT_OUTCOME: attempt.outcome}
    if attempt.error_type is not None:
        ended[semconv.ERROR_TYPE] = qualified(attempt.error_type)
    instruments.attempts.add(1, {**labels, **ended})
    if attempt.cost_usd:
        instruments.cost.add(float(attempt.cost_usd), labels)
