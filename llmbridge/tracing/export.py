"""What goes to the collector: the SDK's providers with OTLP exporters below, and what these may say."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmbridge import redaction
from llmbridge.errors import ConfigError
from llmbridge.tracing.harmless import once


if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

PROTOCOLS = {"http/protobuf": "http", "grpc": "grpc"}
EXTRAS = {"http": "otlp", "grpc": "otlp-grpc"}
PACKAGE = "opentelemetry.exporter.otlp.proto"
_EXPORTERS = {"otlp": None, "otlp_proto_http": "http/protobuf", "otlp_proto_grpc": "grpc"}
_SPEAKERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.metric_exporter",
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.sdk._shared_internal",
)


@dataclass(frozen=True)
class Options:
    """Where to, how and with what. None: as the standard variables say."""

    endpoint: str | None = None
    protocol: str | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)


class _Hush(threading.local):
    """While one of our exporters works in a thread, what OpenTelemetry logs there is kept here instead."""

    active = False
    said = ""


_hush = _Hush()


def _kept_back(record: logging.LogRecord) -> bool:
    if _hush.active:
        _hush.said = _hush.said or record.getMessage()  # the first is the reason, the last that time is over
    return not _hush.active


def resource(service_name: str | None) -> Resource:
    """Who sends: the application."""
    try:
        from opentelemetry.sdk.resources import Resource
    except ImportError:
        raise ConfigError("tracing needs OpenTelemetry's SDK: pip install opentelemetry-sdk") from None
    return Resource.create({"service.name": service_name} if service_name else {})


def tracer_provider(options: Options, resource: Resource) -> TracerProvider | None:
    """A provider that sends spans in batches; None if the environment wants none sent."""
    exporter = _exporter("traces", "OTLPSpanExporter", options)
    if exporter is None:
        return None
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class Spans(BatchSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            _hush.active = True  # "Queue full, dropping Span": once every 20 s, as long as there is no collector
            try:
                super().on_end(span)
            finally:
                _hush.active = False

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(Spans(exporter))
    return provider


def meter_provider(options: Options, resource: Resource) -> MeterProvider | None:
    """A provider that sends metrics once a minute (OTEL_METRIC_EXPORT_INTERVAL) and at the end."""
    exporter = _exporter("metrics", "OTLPMetricExporter", options)
    if exporter is None:
        return None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(exporter)
    return MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)


def _exporter(signal: str, name: str, options: Options) -> Any:
    """The exporter for *signal*; None if the environment names none."""
    wanted = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() or "otlp"
    if wanted == "none":
        return None
    if wanted == "console":
        return _console(signal)
    if wanted not in _EXPORTERS:
        raise ConfigError(f"OTEL_{signal.upper()}_EXPORTER is otlp, console or none, not {wanted!r}")
    transport = PROTOCOLS[_protocol(signal, options.protocol or _EXPORTERS[wanted])]
    try:
        module = importlib.import_module(f"{PACKAGE}.{transport}.{signal.removesuffix('s')}_exporter")
    except ImportError:
        raise _needed(signal, transport) from None
    given = {"headers": dict(options.headers)} if options.headers else {}
    exporter = getattr(module, name)(endpoint=_address(signal, transport, options.endpoint), **given)
    # In the place of its method: a class around it would have to know what else the SDK asks of metrics' exporters.
    exporter.export = _quietly(exporter.export, signal, str(getattr(exporter, "_endpoint", "the collector")))
    return exporter


def check(options: Options) -> None:
    """Raise ConfigError if spans cannot be sent so, as far as can be told without importing an exporter."""
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if wanted in _EXPORTERS:
        transport = PROTOCOLS[_protocol("traces", options.protocol or _EXPORTERS[wanted])]
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(f"{PACKAGE}.{transport}") is not None:
                return
        raise _needed("traces", transport)


def _needed(signal: str, transport: str) -> ConfigError:
    return ConfigError(f"sending {signal} needs an exporter: pip install 'llmbridge[{EXTRAS[transport]}]'")


def _protocol(signal: str, given: str | None) -> str:
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    asked = given or next((value for name in names if (value := os.environ.get(name, "").strip())), "http/protobuf")
    if asked not in PROTOCOLS:
        raise ConfigError(f"the protocol is one of {', '.join(PROTOCOLS)}, not {asked!r}")
    return asked


def _address(signal: str, transport: str, endpoint: str | None) -> str | None:
    """OTLP/HTTP has a path for each signal, which its exporter adds to what the environment says, but not to this."""
    if endpoint is None or transport == "grpc":
        return endpoint
    return f"{endpoint.rstrip('/').removesuffix('/v1/traces')}/v1/{signal}"


def _console(signal: str) -> Any:
    if signal == "traces":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stdout)
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

    return ConsoleMetricExporter(out=sys.stdout)


def _quietly(export: Callable[..., Any], signal: str, endpoint: str) -> Callable[..., Any]:
    """*export*, of whose failures the first is said, once, and nothing else."""
    redaction.remember(urlsplit(endpoint).password)
    for name in _SPEAKERS:
        logging.getLogger(name).addFilter(_kept_back)

    def complain(reason: str) -> None:
        once(
            f"export {signal}",
            "%s are not exported: the collector at %s cannot be used (%s). Calls go on; this is said once, "
            "and OTEL_%s_EXPORTER=none stops trying.",
            signal,
            redaction.redact(endpoint),
            redaction.redact(reason),
            signal.upper(),
        )

    @functools.wraps(export)
    def exported(*args: Any, **kwargs: Any) -> Any:
        _hush.active, _hush.said = True, ""
        try:
            result = export(*args, **kwargs)
        except Exception as error:
            complain(f"{type(error).__name__}: {error}")
            return None  # which no caller looks at
        finally:
            _hush.active = False
        if result.name != "SUCCESS":
            complain(_hush.said)
        return result

    return exported
