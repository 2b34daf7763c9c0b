"""What the trace costs a call, in microseconds: a call, an attempt below it, four events, an answer, the metrics.

    python -m tests.benchmarks.tracing

In pairs: each round measures every way in turn, so that a busy machine is busy for all of them; the median over the
rounds. "nobody" is a process that has not imported OpenTelemetry, the others have it; nothing is asked of a provider.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from decimal import Decimal

from llmbridge import metrics, tracing
from llmbridge.tracing.tracer import Own
from tests.tracing_scene import MODEL, attempt, call, completion, request


ROUNDS, CALLS = 30, 100
ASKED = request(temperature=0.5, max_tokens=100)
ANSWER = completion()


def one() -> None:
    only = attempt(host="api.openai.com", port=443, response_model="gpt-4o-mini-2024", cost_usd=Decimal("0.002"))
    record = call(model=MODEL, provider="openai", input_tokens=10, output_tokens=3, tags={"user": "alice"})
    began = time.perf_counter_ns()
    traced = tracing.begin(record, ASKED)
    traced.event("llmbridge.cache.miss")
    traced.event("llmbridge.budget.reserved", budget="$5/day", reserved_usd=Decimal("0.01"), wait_s=0.0)
    below = traced.attempt(only)
    with below.current():
        below.event("llmbridge.first_chunk")
    below.end()
    record.attempts = (only,)
    traced.end(answer=ANSWER)
    metrics.record(record)
    SPENT.append(time.perf_counter_ns() - began)


SPENT: list[int] = []


def microseconds() -> float:
    SPENT.clear()
    for _ in range(CALLS):
        one()
    return statistics.median(SPENT) / 1_000


def main() -> None:
    assert "opentelemetry" not in sys.modules
    one()
    nobody = [microseconds() for _ in range(ROUNDS)]
    assert "opentelemetry" not in sys.modules

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    class Nowhere(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    batching = TracerProvider(shutdown_on_exit=False)
    batching.add_span_processor(BatchSpanProcessor(Nowhere()))
    meters = MeterProvider(metric_readers=[InMemoryMetricReader()], shutdown_on_exit=False)
    ways = {
        "API without a provider": (None, None),
        "SDK, not sampled": (TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False), None),
        "SDK, spans in batches": (batching, None),
        "SDK, spans and metrics": (batching, meters),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        gc.collect()
        for name, (Own.tracer_provider, Own.meter_provider) in ways.items():
            spent[name].append(microseconds())
    for name, values in {"nobody": nobody, **spent}.items():
        deciles = statistics.quantiles(values, n=10)
        print(f"{name:24} {statistics.median(values):7.1f} us   (10 % {deciles[0]:.1f}, 90 % {deciles[-1]:.1f})")
    wrapped()


def wrapped() -> None:
    """What traced() adds to a function that does nothing."""

    def plain() -> None: ...

    decorated = tracing.traced("work")(plain)
    provider = Own.tracer_provider
    for name, using in {"traced() without a provider": None, "traced() in batches": provider}.items():
        Own.tracer_provider, Own.meter_provider = using, None
        print(f"{name:28} {_each_us(decorated) - _each_us(plain):7.1f} us")
    chunk()


def chunk() -> None:
    """What each chunk of a stream takes: its attempt is current while it is read."""
    traced = tracing.begin(call(), ASKED).attempt(attempt())

    def read() -> None:
        with traced.current():
            pass

    print(f"{'a chunk, in batches':28} {_each_us(read):7.1f} us")


def _each_us(function: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(CALLS):
            function()
        times.append((time.perf_counter_ns() - began) / CALLS / 1_000)
    return statistics.median(times)


if __name__ == "__main__":
    main()
