"""Metrics, out of the records of calls that have ended."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from llmbridge import metrics
from llmbridge.record import CallRecord
from llmbridge.tracing import harmless
from llmbridge.tracing.tracer import Own
from tests.tracing_scene import MODEL, attempt, call


SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
LABELS = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.response.model": "gpt-4o-mini-2024",
    "server.address": "api.openai.com",
    "server.port": 443,
}


class Measured:
    """What was measured: data points by the metric's name."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def __call__(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else ()
        return {
            metric.name: list(metric.data.data_points)
            for resource in resources
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def units(self) -> dict[str, str]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {metric.name: metric.unit for metric in data.resource_metrics[0].scope_metrics[0].metrics}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Measured]:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    monkeypatch.setattr(Own, "meter_provider", provider)
    monkeypatch.setattr(harmless, "_said", set())
    yield Measured(reader)
    provider.shutdown()


def answered(**fields: Any) -> CallRecord:
    only = attempt(
        host="api.openai.com", port=443, response_model="gpt-4o-mini-2024", duration_s=0.5, cost_usd=Decimal("0.002")
    )
    given: dict[str, Any] = {
        "model": MODEL, "provider": "openai", "duration_s": 0.502, "waited_s": 0.5, "input_tokens": 10,
        "output_tokens": 3, "cost_usd": Decimal("0.002"), "tags": {"user": "alice"}, **fields,
    }  # fmt: skip
    return call(only, **given)


def test_a_call_is_measured_once_with_the_conventions_names_units_and_labels(measured: Measured) -> None:
    metrics.record(answered())

    found = measured()
    (duration,) = found["gen_ai.client.operation.duration"]
    assert (duration.count, duration.sum, dict(duration.attributes)) == (1, 0.502, LABELS)
    tokens = {point.attributes["gen_ai.token.type"]: point.sum for point in found["gen_ai.client.token.usage"]}
    assert tokens == {"input": 10, "output": 3}
    assert measured.units() == {
        "gen_ai.client.operation.duration": "s",
        "gen_ai.client.token.usage": "{token}",
        "llmbridge.overhead": "s",
        "llmbridge.attempts": "{attempt}",
        "llmbridge.cost": "USD",
    }


def test_the_boundaries_are_the_conventions(measured: Measured) -> None:
    metrics.record(answered(first_chunk_s=0.1, chunk_count=5))

    bounds = {name: points[0].explicit_bounds for name, points in measured().items() if name.startswith("gen_ai")}
    assert bounds == {
        "gen_ai.client.operation.duration": SECONDS,
        "gen_ai.client.operation.time_to_first_chunk": SECONDS,
        "gen_ai.client.operation.time_per_output_chunk": SECONDS,
        "gen_ai.client.token.usage": TOKENS,
    }


def test_a_call_of_many_attempts_is_one_measurement_and_each_attempt_is_counted(measured: Measured) -> None:
    record = answered()
    failed = attempt(outcome="failed", error_type="ProviderRateLimited", cost_usd=Decimal(0))
    record.attempts = (failed, failed, *record.attempts)

    metrics.record(record)

    found = measured()
    assert [point.count for point in found["gen_ai.client.operation.duration"]] == [1]
    assert [(point.value, dict(point.attributes)) for point in found["llmbridge.attempts"]] == [
        (
            2,
            {
                "llmbridge.attempt.provider": "openai",
                "llmbridge.attempt.model": MODEL,
                "llmbridge.attempt.outcome": "failed",
                "error.type": "llmbridge.errors.ProviderRateLimited",
            },
        ),
        (
            1,
            {
                "llmbridge.attempt.provider": "openai",
                "llmbridge.attempt.model": MODEL,
                "llmbridge.attempt.outcome": "answered",
            },
        ),
    ]
    assert [point.value for point in found["llmbridge.cost"]] == [0.002]


def test_a_failure_is_measured_with_its_class(measured: Measured) -> None:
    metrics.record(call(outcome="failed", error_type="DeadlineExceeded", duration_s=1.0))
    metrics.record(call(outcome="cancelled", error_type="CancelledError", duration_s=1.0))
    metrics.record(call(outcome="left", error_type="KeyError", duration_s=1.0))

    points = measured()["gen_ai.client.operation.duration"]
    assert [point.attributes.get("error.type") for point in points] == [
        "llmbridge.errors.DeadlineExceeded",
        "asyncio.CancelledError",
        None,
    ]


def test_a_stream_is_measured_by_its_first_chunk_and_the_mean_gap(measured: Measured) -> None:
    metrics.record(answered(first_chunk_s=0.1, chunk_count=5))

    found = measured()
    assert found["gen_ai.client.operation.time_to_first_chunk"][0].sum == 0.1
    assert found["gen_ai.client.operation.time_per_output_chunk"][0].sum == pytest.approx(0.1)


def test_a_cached_answer_used_no_tokens_and_is_a_hit(measured: Measured) -> None:
    record = call(cached=True, model=MODEL, provider="openai", input_tokens=10, output_tokens=3, first_chunk_s=0.0)
    metrics.record(record)
    metrics.record(answered(missed=True))
    metrics.record(answered())

    found = measured()
    assert [
        (point.attributes["llmbridge.cache.result"], point.value) for point in found["llmbridge.cache.lookups"]
    ] == [
        ("hit", 1),
        ("miss", 1),
    ]
    assert sum(point.count for point in found["gen_ai.client.token.usage"]) == 4
    assert "gen_ai.client.operation.time_to_first_chunk" not in found


def test_a_stream_that_the_collector_ended_is_measured_with_the_next_call(measured: Measured) -> None:
    metrics.record(answered(abandoned=True, outcome="left"))
    assert measured() == {}

    metrics.record(answered())

    assert measured()["gen_ai.client.operation.duration"][0].count == 2


def test_overhead_is_what_the_call_did_not_wait_for(measured: Measured) -> None:
    metrics.record(answered())
    metrics.record(answered(waited_s=None))
    metrics.record(answered(waited_s=9.0))

    (overhead,) = measured()["llmbridge.overhead"]
    assert (overhead.count, overhead.sum) == (2, pytest.approx(0.002))


def test_refusals_are_counted_by_budget(measured: Measured) -> None:
    metrics.record(call(outcome="failed", error_type="BudgetExceeded", refused_by="team-a"))

    (point,) = measured()["llmbridge.budget.rejections"]
    assert (point.value, dict(point.attributes)) == (1, {"llmbridge.budget.name": "team-a"})


def test_no_label_names_a_user_a_request_or_a_conversation(measured: Measured) -> None:
    record = answered(tags={"user": "alice", "conversation_id": "c-1"})
    record.attempts[0].request_id = "req-1"
    metrics.record(record)

    text = str([dict(point.attributes) for points in measured().values() for point in points])
    assert not [word for word in ("alice", "c-1", "req-1", record.id) if word in text]


def test_embeddings_have_input_tokens_alone(measured: Measured) -> None:
    metrics.record(answered(verb="embeddings", output_tokens=0))

    (point,) = measured()["gen_ai.client.token.usage"]
    assert (point.attributes["gen_ai.operation.name"], point.attributes["gen_ai.token.type"]) == ("embeddings", "input")


def test_without_a_provider_nothing_is_measured() -> None:
    metrics.record(answered())


def test_a_provider_that_the_application_sets_later_is_used_from_then_on(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.record(answered())
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    monkeypatch.setattr(api._internal, "_METER_PROVIDER", provider)
    metrics.record(answered())
    metrics.record(answered())

    counts = [found()["gen_ai.client.operation.duration"][0].count for found in (measured, Measured(reader))]
    assert counts == [1, 2]
    provider.shutdown()


def test_a_broken_instrument_breaks_no_call_and_is_said_once(
    measured: Measured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(metrics, "_instruments", fail)
    for _ in range(2):
        metrics.record(answered())

    assert [record.getMessage() for record in caplog.records] == ["tracing failed and goes on without"]
