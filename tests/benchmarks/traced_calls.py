"""What the trace adds to whole calls of a Bridge, in microseconds: a recalled answer, one of a simulator on loopback,
and each chunk of a stream.

    python -m tests.benchmarks.traced_calls

In pairs with a Bridge whose trace is taken out: call by call in turn, so that a busy machine is busy for both; the
median of the differences, and how far that is from certain (its 95 % interval).
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmbridge import Bridge, Cache, Model, metrics, tracing
from llmbridge.tracing.calls import OFF
from llmbridge.tracing.tracer import Own
from tests.simulator import Reply, Simulator


PAIRS = {"recalled": 1_000, "answered": 200, "a chunk": 16}
CHUNKS = 200
begin, record = tracing.begin, metrics.record


def off() -> None:
    tracing.begin = lambda *args, **kwargs: OFF  # type: ignore[assignment]
    metrics.record = lambda record: None


def on() -> None:
    tracing.begin, metrics.record = begin, record


def added_us(work: Callable[[], None], pairs: int) -> tuple[list[float], float]:
    """What *work* takes longer with the trace, pair by pair; who comes first changes. And what it takes without."""
    for switch in (off, on):
        switch()
        work()
    gc.collect()
    gc.disable()
    found, without = [], []
    for number in range(pairs):
        took = {}
        for switch in (off, on) if number % 2 else (on, off):
            switch()
            began = time.perf_counter_ns()
            work()
            took[switch] = time.perf_counter_ns() - began
        found.append((took[on] - took[off]) / 1_000)
        without.append(took[off] / 1_000)
        if number % 100 == 0:
            gc.collect()
    gc.enable()
    on()
    return found, statistics.median(without)


def works(bridge: Bridge, model: Model) -> dict[str, Callable[[], None]]:
    asked: dict[str, Any] = {"model": model, "tags": {"user": "alice"}, "max_tokens": 100}

    def streamed() -> None:
        with bridge.stream("Count.", cache="off", **asked) as chunks:
            for _ in chunks:
                pass

    return {
        "recalled": lambda: bridge.complete("Name a fish.", **asked) and None,
        "answered": lambda: bridge.complete("Name a fish.", cache="off", budget="$5/day", **asked) and None,
        "a chunk": streamed,
    }


def show(way: str, bridge: Bridge, model: Model, sim: Simulator) -> None:
    for name, work in works(bridge, model).items():
        sim.script(Reply(pieces=["Trout. "] * CHUNKS) if name == "a chunk" else Reply())
        each = CHUNKS if name == "a chunk" else 1
        found, whole = added_us(work, PAIRS[name])
        values = sorted(value / each for value in found)
        rank = int(0.98 * len(values) ** 0.5)
        low, high = values[len(values) // 2 - rank], values[len(values) // 2 + rank]
        print(
            f"{way:22} {name:9} {statistics.median(values):8.1f} us   ({low:.1f} to {high:.1f}) of {whole / each:.0f}",
            flush=True,
        )


def batching() -> Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return provider


def main() -> None:
    from llmbridge.ledger import close_ledgers

    with tempfile.TemporaryDirectory() as place, Simulator() as sim:
        bridge = Bridge(ledger=Path(place) / "ledger.db", cache=Cache(Path(place) / "cache"))
        model = Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-bench-key")
        assert "opentelemetry.trace" not in sys.modules
        show("nobody", bridge, model, sim)
        import opentelemetry.metrics
        import opentelemetry.trace  # noqa: F401

        show("API without a provider", bridge, model, sim)
        Own.tracer_provider = batching()
        show("SDK, spans in batches", bridge, model, sim)
        close_ledgers()


if __name__ == "__main__":
    main()
