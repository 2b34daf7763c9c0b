"""OpenTelemetry's SDK, started for an application that has not done so itself.

`start()` does it; so does the first call where the standard variables ask for it (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_EXPORTER, ...). What is started is ours alone: OpenTelemetry's global providers stay the application's to
set, before or after, and are used as soon as they are. The name of the service is the application's too
(OTEL_SERVICE_NAME).
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llmbridge import redaction
from llmbridge.errors import ConfigError
from llmbridge.tracing import export
from llmbridge.tracing.harmless import harmless, once
from llmbridge.tracing.tracer import Own


log = logging.getLogger("llmbridge")
SIGNALS = ("traces", "metrics")
PROVIDERS = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")  # the API loads them at its first use
FLUSH_S = 5.0
_lock = threading.Lock()


class _Closing:
    """A thread that waits to shut down what was started. The SDK's own way would hold up the process's end for half a
    minute per exporter; from Python 3.12 on no thread can be started by then, so it waits from the start."""

    def __init__(self, flush_s: float) -> None:
        self.flush_s = flush_s
        self._asked, self._done = threading.Event(), threading.Event()
        threading.Thread(target=self._run, args=(Own.tracer_provider, Own.meter_provider), daemon=True).start()

    def close(self) -> None:
        self._asked.set()
        if not self._done.wait(self.flush_s):
            log.debug("the collector did not take the last spans within %g s", self.flush_s)

    @harmless(None)
    def _run(self, *providers: object) -> None:
        self._asked.wait()
        try:
            for provider in providers:
                if provider is not None:
                    provider.shutdown()  # type: ignore[attr-defined]
        finally:
            self._done.set()


_closing: _Closing | None = None
_followed: Mapping[str, Any] | Literal[False] | None = None


def start(
    *,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | None = None,
    service_name: str | None = None,
    flush_s: float = FLUSH_S,
) -> None:
    """Send spans and metrics to an OpenTelemetry collector, such as Jaeger, in batches from threads of their own.

    What is not given is what the standard OTEL_* variables say, and theirs is the last word on what is not to be sent
    (OTEL_METRICS_EXPORTER=none for Jaeger, which takes spans alone; OTEL_SDK_DISABLED=true for nothing at all). A
    collector that is slow, absent or broken is said once at WARNING and slows no call.

    Args:
        endpoint: its address, as in OTEL_EXPORTER_OTLP_ENDPOINT: "http://localhost:4318", 4317 for gRPC.
        protocol: "http/protobuf" (the default) or "grpc".
        headers: for the collector, such as its key.
        service_name: the application's name.
        flush_s: how long the end of the process may wait for the last spans, in seconds.

    Raises:
        ConfigError: the exporter is not installed, or a value is wrong.
    """
    Own.look = None
    redaction.remember(headers or {})
    if not _disabled():
        _start(export.Options(endpoint, protocol, headers), service_name, flush_s, SIGNALS)


def _start(options: export.Options, service_name: str | None, flush_s: float, signals: Sequence[str]) -> None:
    global _closing
    import multiprocessing.util

    with _lock:
        resource = export.resource(service_name)
        traces = export.tracer_provider(options, resource) if "traces" in signals else None
        metrics = export.meter_provider(options, resource) if "metrics" in signals else None
        stopped = _take()
        Own.tracer_provider, Own.meter_provider = traces, metrics
        _closing = _Closing(flush_s)
    if stopped is not None:
        stopped.close()
    # A forked child of multiprocessing ends without atexit, and forgets what was to be done at its parent's end.
    multiprocessing.util.register_after_fork(Own, _in_child)


def _in_child(_: object) -> None:
    import multiprocessing.util

    multiprocessing.util.Finalize(None, stop, exitpriority=100)


def stop() -> None:
    """Send what is left and end what `start()` has started; in `flush_s` seconds at most."""
    with _lock:
        running = _take()
    if running is not None:
        running.close()


def _take() -> _Closing | None:
    global _closing
    running, _closing = _closing, None
    Own.tracer_provider = Own.meter_provider = None
    return running


def asked() -> list[str]:
    """The signals that the environment wants sent."""
    return [] if _disabled() else [signal for signal in SIGNALS if _asks_for(signal.upper())]


def _asks_for(signal: str) -> bool:
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return exporter != "none" and bool(exporter or any(os.environ.get(name, "").strip() for name in names))


def _disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


@harmless(None)
def from_environment() -> None:
    """As start(), if the environment asks for it and the application has not been there before. Raises nothing."""
    signals = asked()
    if any(os.environ.get(name) for name in PROVIDERS):
        from opentelemetry import metrics, trace  # noqa: F401
    if not signals or _is_applications():
        return
    try:
        _start(export.Options(), None, FLUSH_S, signals)
    except ConfigError as error:
        once("setup", "nothing is traced: %s", error)


def follow(wanted: Mapping[str, Any] | Literal[False] | None) -> None:
    """Trace as a configuration says: *wanted* are the arguments of start(), and whether `metrics` are sent; False:
    nothing is; None: as the environment says. Nothing happens if it said so before, and an application that has set a
    TracerProvider is left alone. Raises ConfigError, and then all is as it was."""
    global _followed
    if wanted == _followed:
        return
    if wanted:
        _begin(**wanted)
    elif wanted is False or _followed is not None:
        stop()
        Own.look = None if wanted is False else from_environment
    _followed = wanted


def check(wanted: Mapping[str, Any]) -> None:
    """Raise ConfigError if follow() would."""
    export.check(export.Options(protocol=wanted.get("protocol")))


def _begin(
    *,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | None = None,
    service_name: str | None = None,
    flush_s: float = FLUSH_S,
    metrics: bool = True,
) -> None:
    redaction.remember(headers or {})
    if not _disabled() and not _is_applications():
        signals = SIGNALS if metrics else SIGNALS[:1]
        _start(export.Options(endpoint, protocol, headers), service_name, flush_s, signals)
    Own.look = None


def _is_applications() -> bool:
    """Whether the application has set a TracerProvider."""
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _after_fork() -> None:
    global _lock, _closing
    _lock = threading.Lock()
    if _closing is not None:
        _closing = _Closing(_closing.flush_s)  # its thread is the parent's; the SDK's own see to themselves


Own.look = from_environment
atexit.register(stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
