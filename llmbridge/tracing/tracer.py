"""Which tracer, if any: the application's as soon as it has one, else the one that `setup` has started.

Importing OpenTelemetry's API takes 25 ms. As long as nobody in the process has imported `opentelemetry.trace` there can
be no provider of the application's, so it is not imported here either, unless the environment asks for tracing (which
`Own.look` finds out). The application may set its provider at any time: each call looks anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmbridge import semconv
from llmbridge.tracing.harmless import harmless


if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider


class Own:
    """What `setup` has started, for a process whose application has not: never OpenTelemetry's global providers, which
    can be set once and are the application's to set."""

    tracer_provider: TracerProvider | None = None
    meter_provider: Any = None
    look: Callable[[], object] | None = None  # into the environment, at the first call


_cached: tuple[TracerProvider, Tracer] | None = None


@harmless(None)
def tracer() -> Tracer | None:
    """The tracer to use now; None if nobody traces."""
    if Own.look is not None:
        look, Own.look = Own.look, None
        look()
    if "opentelemetry.trace" not in sys.modules and Own.tracer_provider is None:
        return None
    from opentelemetry import trace

    provider: TracerProvider | None = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        provider = Own.tracer_provider
    if provider is None or isinstance(provider, trace.NoOpTracerProvider):
        return None
    return _tracer_of(provider)


def _tracer_of(provider: TracerProvider) -> Tracer:
    global _cached
    if _cached is None or _cached[0] is not provider:
        from llmbridge import __version__

        _cached = provider, provider.get_tracer(semconv.SCOPE, __version__)
    return _cached[1]
