"""Tracing as users set it up: whole calls in a process of their own, and collectors that do what collectors do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import llmbridge
from llmbridge import Bridge, Model
from llmbridge.tracing import setup
from llmbridge.tracing.tracer import Own
from tests.collector import Collector, GrpcCollector
from tests.conftest import Ask
from tests.simulator import Simulator
from tests.test_tracing_export import nobody  # noqa: F401


CALL = """
import llmbridge
def ask():
    return llmbridge.complete("Name a fish.", model="openai/gpt-4o-mini", cache="off", deadline_s=30)
reply = ask()
"""
LATER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def process(script: str, sim: Simulator, endpoint: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment |= {
        "OPENAI_API_KEY": "sk-test-key",
        "OPENAI_BASE_URL": sim.api_base("openai"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_SERVICE_NAME": "shop",
    }
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("end", ["", "raise SystemError('the end')", "import sys; sys.exit(3)"])
def test_the_variables_are_all_it_takes_and_the_end_of_the_process_sends_what_is_left(
    end: str, sim: Simulator, collector: Collector
) -> None:
    done = process(f"{CALL}\nprint(reply.record.trace_id)\n{end}", sim, collector.endpoint)

    assert done.returncode == (0 if not end else 1 if "raise" in end else 3), done.stderr
    assert [span.name for span in collector.spans] == ["attempt openai/gpt-4o-mini", "chat gpt-4o-mini"]
    assert {span.trace_id.hex() for span in collector.spans} == {done.stdout.strip()}
    assert collector.services == {"shop"}
    assert "gen_ai.client.operation.duration" in collector.metric_names


def test_grpc_is_a_variable_away(sim: Simulator) -> None:
    with GrpcCollector() as collector:
        done = process(
            CALL,
            sim,
            collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_INSECURE="true",
            OTEL_METRICS_EXPORTER="none",
        )

        assert done.returncode == 0, done.stderr
        assert [span.name for span in collector.spans] == ["attempt openai/gpt-4o-mini", "chat gpt-4o-mini"]


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_an_application_that_has_a_provider_of_its_own_keeps_it(
    first: str, sim: Simulator, collector: Collector
) -> None:
    script = LATER + CALL if first == "theirs" else CALL + LATER + "ask()\n"
    script += "print(trace.get_tracer_provider() is provider, len(exporter.get_finished_spans()))"

    done = process(script, sim, collector.endpoint)

    assert done.stdout.strip() == "True 2", done.stderr
    assert len(collector.spans) == (0 if first == "theirs" else 2)


def test_starting_it_is_one_line(sim: Simulator, collector: Collector) -> None:
    line = f"import llmbridge; llmbridge.tracing.start(endpoint={collector.endpoint!r}, service_name='tool')\n"

    done = process(line + CALL, sim, "")

    assert done.returncode == 0, done.stderr
    assert len(collector.spans) == 2
    assert collector.services == {"tool"}


@pytest.fixture
def started(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Spans go to the collector every few milliseconds."""
    monkeypatch.setattr(Own, "look", None)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")
    yield collector
    collector.release.set()
    setup.stop()


@pytest.fixture
def model(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


def test_calls_return_while_the_collector_holds_what_it_was_sent(started: Collector, ask: Ask, model: Model) -> None:
    started.hold()
    llmbridge.tracing.start(endpoint=started.endpoint)

    first = ask("Name a fish.", model=model)
    assert started.arrived.wait(20)
    second = ask("Name another.", model=model)

    assert not started.release.is_set()  # it waits still
    assert (first.text, second.text) == ("Trout.", "Trout.")
    started.release.set()
    llmbridge.tracing.stop()
    assert len(started.spans) == 4


@pytest.mark.parametrize("status", [0, 500], ids=["down", "500"])
def test_calls_go_on_without_a_collector(
    status: int,
    started: Collector,
    ask: Ask,
    model: Model,
    fresh_default: Bridge,
    nobody: str,  # noqa: F811
) -> None:
    started.status = status
    llmbridge.tracing.start(endpoint=started.endpoint if status else nobody, flush_s=0.05)

    replies = [ask("Name a fish.", model=model) for _ in range(3)]
    if status:
        assert started.arrived.wait(20)

    assert {reply.text for reply in replies} == {"Trout."}
    assert fresh_default.ledger.check() == []
