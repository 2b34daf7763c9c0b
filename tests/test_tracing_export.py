"""Spans and metrics on their way to a collector, and collectors that are of no use."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics as api_metrics, trace
from opentelemetry.sdk.trace import TracerProvider

from llmbridge import metrics, tracing
from llmbridge.errors import ConfigError
from llmbridge.tracing import harmless, setup
from llmbridge.tracing.tracer import Own
from tests.collector import Collector, GrpcCollector
from tests.tracing_scene import attempt, call, request


SCRIPT = """
import sys
from llmbridge import tracing
from tests.tracing_scene import attempt, call, request
def ask():
    record = call(attempt())
    traced = tracing.begin(record, request())
    traced.attempt(record.attempts[0]).end()
    traced.end()
"""


@pytest.fixture(autouse=True)
def a_fresh_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    monkeypatch.setattr(harmless, "_said", set())
    monkeypatch.setattr(Own, "look", setup.from_environment)
    yield
    setup.stop()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def ask() -> None:
    record = call(attempt(), input_tokens=3, output_tokens=1, model="openai/gpt-4o-mini", provider="openai")
    traced = tracing.begin(record, request())
    traced.attempt(record.attempts[0]).end()
    traced.end()
    metrics.record(record)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def run_script(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + text],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )


def test_spans_and_metrics_reach_a_collector_over_http(collector: Collector) -> None:
    tracing.start(endpoint=collector.endpoint, service_name="shop", headers={"x-key": "k-1"})
    ask()
    tracing.stop()

    below, above = collector.spans
    assert [below.name, above.name] == ["attempt openai/gpt-4o-mini", "chat gpt-4o-mini"]
    assert (below.parent_span_id, below.trace_id) == (above.span_id, above.trace_id)
    assert collector.services == {"shop"}
    assert "gen_ai.client.operation.duration" in collector.metric_names
    assert {headers["x-key"] for headers in collector.headers} == {"k-1"}


def test_spans_reach_a_collector_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    with GrpcCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        ask()
        tracing.stop()

        assert [span.name for span in collector.spans] == ["attempt openai/gpt-4o-mini", "chat gpt-4o-mini"]
        assert collector.services == {"shop"}


def test_the_first_call_starts_what_the_environment_asks_for(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    ask()
    setup.stop()

    assert len(collector.spans) == 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SERVICE_NAME": "shop"},
    ],
    ids=repr,
)
def test_nothing_is_started_unless_the_environment_asks_for_it(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ask()

    assert (Own.tracer_provider, Own.meter_provider) == (None, None)


def test_a_signal_that_the_environment_wants_none_of_is_not_sent(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    ask()

    assert Own.tracer_provider is not None
    assert Own.meter_provider is None


def test_the_environment_has_the_last_word_on_what_is_not_sent(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    tracing.start(endpoint=collector.endpoint)
    assert (Own.tracer_provider is None, Own.meter_provider is None) == (False, True)

    tracing.stop()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing.start(endpoint=collector.endpoint)
    assert Own.tracer_provider is None


def test_the_global_providers_stay_the_applications_to_set(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing.start(endpoint=collector.endpoint)
    ask()
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert type(api_metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider"
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    ask()
    setup.stop()

    assert len(collector.spans) == 2  # of the first call alone


def test_an_application_that_has_set_a_provider_gets_no_other(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    ask()

    assert Own.tracer_provider is None


@pytest.mark.parametrize(("protocol", "extra"), [("http/protobuf", "otlp"), ("grpc", "otlp-grpc")])
def test_a_missing_exporter_is_an_error_that_names_the_extra(
    protocol: str, extra: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for transport in ("http", "grpc"):
        monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.{transport}.trace_exporter", None)
    with pytest.raises(ConfigError, match=rf"pip install 'llmbridge\[{extra}\]'"):
        tracing.start(endpoint="http://127.0.0.1:1", protocol=protocol)

    monkeypatch.setattr(Own, "look", setup.from_environment)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    ask()
    ask()

    assert said(caplog) == [f"nothing is traced: sending traces needs an exporter: pip install 'llmbridge[{extra}]'"]


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_TRACES_EXPORTER", "zipkin")]
)
def test_what_nobody_can_do_is_said_with_what_can_be_done(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    ask()

    (message,) = said(caplog)
    assert f"not {value!r}" in message


def test_the_console_is_an_exporter_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    ask()
    assert Own.meter_provider is None  # nobody has asked for metrics
    tracing.stop()

    assert '"name": "chat gpt-4o-mini"' in capsys.readouterr().out


def test_a_call_is_over_while_the_collector_still_holds_its_spans(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")
    collector.hold()
    tracing.start(endpoint=collector.endpoint, flush_s=0.05)
    ask()
    assert collector.arrived.wait(20)
    ask()
    setup.stop()

    assert not collector.release.is_set()
    assert "OtelBatchSpanRecordProcessor" in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("status", [0, 400, 404, 500, 503], ids=lambda status: str(status or "down"))
def test_a_collector_of_no_use_is_said_once_for_each_signal_and_by_nobody_else(
    status: int, collector: Collector, nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = status
    for _ in range(3):
        tracing.start(endpoint=collector.endpoint if status else nobody)
        ask()
        tracing.stop()

    traces, measured = sorted(said(caplog), reverse=True)
    assert traces.startswith(f"traces are not exported: the collector at {collector.endpoint if status else nobody}/v1")
    assert measured.startswith("metrics are not exported")
    assert {record.name for record in caplog.records if record.levelno >= logging.INFO} == {"llmbridge"}


def test_a_full_queue_is_not_said_again_and_again(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    collector.hold()
    tracing.start(endpoint=collector.endpoint, flush_s=0.05)
    for _ in range(50):
        ask()
    setup.stop()

    assert "Queue full" not in caplog.text


def test_the_applications_own_exporters_keep_their_voice(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    tracing.start(endpoint=collector.endpoint)

    logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter").error("Failed to export")

    assert "Failed to export" in caplog.text


def test_a_key_for_the_collector_stands_in_no_log(nobody: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    address = nobody.replace("http://", "http://me:s3cr3t-w0rd@")
    tracing.start(endpoint=address, headers={"authorization": "k-0a1b2c3d4e"})
    ask()
    tracing.stop()

    ours = "".join(record.getMessage() for record in caplog.records if record.name == "llmbridge")
    assert "not exported" in ours
    assert "s3cr3t" not in ours
    assert "k-0a1b2c3d4e" not in ours


def test_the_end_of_the_process_sends_what_is_left(collector: Collector) -> None:
    run_script("ask()", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)

    assert len(collector.spans) == 2


def test_a_process_ends_while_the_collector_holds_its_spans(collector: Collector) -> None:
    collector.hold()

    run_script(f"tracing.start(endpoint={collector.endpoint!r}, flush_s=0.2); ask()", OTEL_EXPORTER_OTLP_TIMEOUT="40")

    assert collector.arrived.is_set()
    assert not collector.release.is_set()


def test_forked_processes_send_their_own_spans(collector: Collector) -> None:
    done = run_script(
        """
import multiprocessing, os
ask()
child = multiprocessing.get_context("fork").Process(target=ask)
child.start()
child.join()
pid = os.fork()
if pid == 0:
    ask()
    tracing.stop()
    os._exit(0)
os.waitpid(pid, 0)
ask()
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_METRICS_EXPORTER="none",
    )

    assert done.stderr == ""
    chats = [span.trace_id for span in collector.spans if span.name.startswith("chat")]
    assert (len(chats), len(set(chats))) == (4, 4)


def test_an_unused_process_has_no_thread_of_ours() -> None:
    done = run_script("ask(); import threading; print(threading.active_count())")

    assert done.stdout.strip() == "1"


def test_starting_anew_ends_what_was_started_before(collector: Collector) -> None:
    tracing.start(endpoint=collector.endpoint)
    ask()
    with Collector() as second:
        tracing.start(endpoint=second.endpoint)
        ask()
        tracing.stop()
        tracing.stop()

        assert (len(collector.spans), len(second.spans)) == (2, 2)


def test_a_broken_environment_breaks_no_call(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*args: Any) -> None:
        raise OSError("no threads left")

    monkeypatch.setattr(setup.export, "tracer_provider", fail)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    ask()
    ask()

    assert said(caplog) == ["tracing failed and goes on without"]
