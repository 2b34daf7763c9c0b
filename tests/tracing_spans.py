"""`spans`: what was traced in a test, through a provider of llmbridge's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmbridge.tracing import harmless
from llmbridge.tracing.tracer import Own


class Spans(InMemorySpanExporter):
    """What was exported, by name."""

    def __call__(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self.get_finished_spans() if span.name.startswith(name)]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self(name)
        return span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    exporter, provider = Spans(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(Own, "tracer_provider", provider)
    monkeypatch.setattr(harmless, "_said", set())
    yield exporter
    provider.shutdown()
