"""The trace: one span a call, one below it for each attempt, and `traced()` for the caller's own functions.

For applications: `start()` and `stop()`, where the OTEL_* variables do not do, and `traced()`. The rest is what a call
says to the trace.

    answer_ticket                    INTERNAL  traced("answer_ticket")
    `- chat gpt-4o                   CLIENT    from the call's first step to the end of its answer
       |- attempt openai/gpt-4o      INTERNAL  ERROR, error.type, http.response.status_code
       `- attempt anthropic/...      INTERNAL

Everything on a span comes from the call's records (record.py); every name is in semconv.py. OpenTelemetry is imported
by nobody here before somebody in the process has, or asks for it (tracer.py): a process without it pays a look into
`sys.modules` a call. Nothing here raises into a call.
"""

from __future__ import annotations

from llmbridge.tracing.attempts import AttemptTrace
from llmbridge.tracing.calls import CallTrace, begin
from llmbridge.tracing.decorator import traced
from llmbridge.tracing.setup import check, follow, start, stop


__all__ = ["AttemptTrace", "CallTrace", "begin", "check", "follow", "start", "stop", "traced"]
