"""The trace of one call: the call, an attempt below it, four events, an answer, the metrics. Nobody is asked anything.

Each way to listen has a process of its own; that of "nobody" has not imported OpenTelemetry.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from llmbridge import metrics, tracing
from llmbridge.tracing.tracer import Own
from tests.benchmarks.contender import Contender, Stage, answer
from tests.benchmarks.paired import Table, Took, in_turn, way
from tests.ledger_worker import main
from tests.tracing_scene import MODEL, attempt, call, completion, request


ROUNDS = 30
CALLS = 100  # in a round
NOBODY, API, BATCHES = "nobody", "API without a provider", "SDK, spans in batches"
LISTENERS = (NOBODY, API, "SDK, not sampled", BATCHES, "SDK, spans and metrics")


class Jobs:
    """What a process is asked to do."""

    def __init__(self) -> None:
        self.asked, self.answer = request(temperature=0.5, max_tokens=100), completion()
        self.below = tracing.begin(call(), self.asked).attempt(attempt())
        self.decorated = tracing.traced("work")(self.nothing)

    def nothing(self) -> None: ...

    def records(self) -> Took:
        """A record with its attempt, made and used, and its trace."""
        return way(self._record, CALLS)()

    def chunks(self) -> Took:
        """What each chunk of a stream takes: its attempt is current while it is read."""
        return way(self._chunk, CALLS)()

    def functions(self) -> Took:
        """A function that does nothing, traced()."""
        return way(self.decorated, CALLS)()

    def _chunk(self) -> None:
        with self.below.current():
            pass

    def _record(self) -> None:
        only = attempt(host="api.openai.com", port=443, response_model="gpt-4o-mini-2024", cost_usd=Decimal("0.002"))
        record = call(model=MODEL, provider="openai", input_tokens=10, output_tokens=3, tags={"user": "alice"})
        traced = tracing.begin(record, self.asked)
        traced.event("llmbridge.cache.miss")
        traced.event("llmbridge.budget.reserved", budget="$5/day", reserved_usd=Decimal("0.01"), wait_s=0.0)
        below = traced.attempt(only)
        with below.current():
            below.event("llmbridge.first_chunk")
        below.end()
        record.attempts = (only,)
        traced.end(answer=self.answer)
        metrics.record(record)


def batching() -> Any:
    """A provider of the SDK that batches its spans, and sends them nowhere."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return provider


def listen(who: str) -> None:
    """Set this process up."""
    if who == NOBODY:
        assert "opentelemetry" not in sys.modules
        return
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401

    if who == API:
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    sampled = who != "SDK, not sampled"
    Own.tracer_provider = batching() if sampled else TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    if who == "SDK, spans and metrics":
        Own.meter_provider = MeterProvider(metric_readers=[InMemoryMetricReader()], shutdown_on_exit=False)


def serve(who: str) -> None:
    """The process of a listener."""
    listen(who)
    answer(Jobs())


def tables(_: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """Three."""
    with contextlib.ExitStack() as stack:
        names = (NOBODY, BATCHES) if short else LISTENERS
        every = {who: stack.enter_context(Contender(__name__, who=who)) for who in names}
        assert all(process.hear() == "ready" for process in every.values())
        jobs = {"records": "a record and its trace", "chunks": "a chunk's context", "functions": "traced(), of nothing"}
        for job, title in list(jobs.items())[: 1 if short else None]:
            ways = {who: functools.partial(process.took, job=job) for who, process in every.items()}
            yield Table(f"{title}, listened to by", "µs", in_turn(ways, rounds), NOBODY)


if __name__ == "__main__":
    main(globals())
