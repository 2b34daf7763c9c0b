"""The spans of calls and attempts, out of their records."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import get_value
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from llmbridge import redaction, semconv, tracing
from llmbridge.errors import BudgetExceeded, ProviderRateLimited
from llmbridge.record import AttemptRecord, BudgetAlert, CallRecord
from llmbridge.request import Model, embeddings
from llmbridge.tracing import calls, harmless
from llmbridge.tracing.tracer import Own
from tests.trace_contract import attributes, violations
from tests.tracing_scene import MODEL, attempt, call, completion, request
from tests.tracing_spans import Spans


def ended(record: CallRecord, *attempts: AttemptRecord, error: BaseException | None = None, **more: Any) -> None:
    """Live through a call whose attempts and end are known."""
    trace_of = tracing.begin(record, more.pop("request", request()), stream=more.pop("stream", False))
    for each in attempts:
        trace_of.attempt(each).end()
    record.attempts = attempts
    trace_of.end(error, **more)


def test_a_call_and_its_attempts_are_one_tree(spans: Spans) -> None:
    first = attempt(outcome="failed", error_type="ProviderRateLimited", error="too many", status=429)
    second = attempt(number=2, model="anthropic/claude-haiku-4-5", provider="anthropic", reason="fallback", status=200)

    ended(call(), first, second)

    (failed, answered), chat = spans("attempt"), spans.one("chat")
    assert [failed.name, answered.name] == ["attempt openai/gpt-4o-mini", "attempt anthropic/claude-haiku-4-5"]
    assert chat.name == "chat gpt-4o-mini"
    assert (chat.kind, failed.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL)
    assert failed.parent == answered.parent == chat.context
    assert attributes(failed) == {
        semconv.ATTEMPT_NUMBER: 1,
        semconv.ATTEMPT_REASON: "initial",
        semconv.ATTEMPT_PROVIDER: "openai",
        semconv.ATTEMPT_MODEL: MODEL,
        semconv.ATTEMPT_OUTCOME: "failed",
        semconv.HTTP_STATUS: 429,
        semconv.ERROR_TYPE: "llmbridge.errors.ProviderRateLimited",
    }
    assert violations(spans()) == []


def test_a_recovered_error_does_not_mark_the_call(spans: Spans) -> None:
    first = attempt(outcome="failed", error_type="ProviderUnavailable", error="down", status=503)

    ended(call(model=MODEL, provider="openai"), first, attempt(number=2, reason="retry"))

    assert spans("attempt")[0].status.status_code is StatusCode.ERROR
    assert spans("attempt")[0].status.description == "down"
    assert spans.one("chat").status.status_code is StatusCode.UNSET
    assert violations(spans()) == []


def test_the_answer_is_described_with_the_conventions_names_and_types(spans: Spans) -> None:
    asked = request("bedrock/anthropic.claude", temperature=1, top_k=5, max_tokens=9, stop="END", n=2, seed=3)
    only = attempt(
        provider="bedrock", host="bedrock.aws", port=443, response_model="claude-3", cached_tokens=4,
        cache_write_tokens=2, reasoning_tokens=1, cost_usd=Decimal("0.002"), price_source="litellm 1.106.2",
    )  # fmt: skip
    record = call(
        model="bedrock/anthropic.claude", provider="bedrock", input_tokens=10, output_tokens=3,
        cost_usd=Decimal("0.002"), tags={"user": "alice", "conversation_id": "c-1"},
    )  # fmt: skip

    ended(record, only, answer=completion(), request=asked)

    assert attributes(spans.one("chat")) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "aws.bedrock",
        "gen_ai.request.model": "anthropic.claude",
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_k": 5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.seed": 3,
        "gen_ai.conversation.id": "c-1",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "claude-3",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_write.input_tokens": 2,
        "gen_ai.usage.reasoning.output_tokens": 1,
        "server.address": "bedrock.aws",
        "server.port": 443,
        "llmbridge.call.id": record.id,
        "llmbridge.attempt.count": 1,
        "llmbridge.fallback.used": False,
        "llmbridge.cache.hit": False,
        "llmbridge.cost.usd": 0.002,
        "llmbridge.cost.source": "litellm 1.106.2",
        "llmbridge.tag.user": "alice",
        "llmbridge.tag.conversation_id": "c-1",
    }
    assert violations(spans()) == []


def test_after_a_fallback_the_request_is_as_asked_and_the_response_as_answered(spans: Spans) -> None:
    second = attempt(number=2, model="anthropic/claude-haiku-4-5", provider="anthropic", reason="fallback")
    record = call(model="anthropic/claude-haiku-4-5", provider="anthropic")

    ended(record, attempt(outcome="failed", error_type="NotFound", error="no"), second)

    chat = attributes(spans.one("chat"))
    assert chat[semconv.REQUEST_MODEL] == "gpt-4o-mini"
    assert (chat[semconv.RESPONSE_MODEL], chat[semconv.PROVIDER]) == ("claude-haiku-4-5", "anthropic")
    assert chat[semconv.FALLBACK_USED] is True
    assert violations(spans()) == []


def test_embeddings_have_the_same_span_without_output_tokens(spans: Spans) -> None:
    asked = embeddings(["a"], {}).for_model(Model("openai/text-embedding-3-small"))
    record = call(attempt(), verb="embeddings", models=(asked.model,), model=asked.model, provider="openai")
    record.input_tokens, record.output_tokens = 1, 0

    ended(record, attempt(), request=asked)

    chat = attributes(spans.one("embeddings"))
    assert spans.one("embeddings").name == "embeddings text-embedding-3-small"
    assert (chat[semconv.INPUT_TOKENS], semconv.OUTPUT_TOKENS in chat) == (1, False)
    assert violations(spans()) == []


def test_samplers_see_what_the_convention_wants_them_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class Looking(Sampler):
        def should_sample(self, *args: Any, attributes: Any = None, **kwargs: Any) -> SamplingResult:
            seen.append(dict(attributes or args[4]))
            return ALWAYS_OFF.should_sample(None, 1, "")

        def get_description(self) -> str:
            return ""

    monkeypatch.setattr(Own, "tracer_provider", TracerProvider(sampler=Looking(), shutdown_on_exit=False))

    tracing.begin(call(), request(Model(MODEL, api_base="https://gate.example:8443/v1")))

    names = (semconv.OPERATION, semconv.PROVIDER, semconv.REQUEST_MODEL, semconv.SERVER_ADDRESS, semconv.SERVER_PORT)
    assert [seen[0][name] for name in names] == ["chat", "openai", "gpt-4o-mini", "gate.example", 8443]


def test_a_cached_answer_has_no_attempt_and_no_usage_and_says_what_it_saved(spans: Spans) -> None:
    record = call(
        cached=True, cache_age_s=12.5, saved_usd=Decimal("0.01"), cost_usd=Decimal(0), input_tokens=10,
        output_tokens=2, model=MODEL, provider="openai",
    )  # fmt: skip

    ended(record, answer=completion())

    chat = attributes(spans.one("chat"))
    assert (chat[semconv.CACHE_HIT], chat[semconv.CACHE_AGE_S], chat[semconv.SAVED_USD]) == (True, 12.5, 0.01)
    assert chat[semconv.COST_USD] == 0.0
    assert not [name for name in chat if "usage" in name]
    assert violations(spans()) == []


def test_a_stale_answer_after_failures_has_their_attempts_and_no_usage(spans: Spans) -> None:
    record = call(cached=True, stale=True, cache_age_s=1.0, input_tokens=10, model=MODEL, provider="openai")

    ended(record, attempt(outcome="failed", error_type="ProviderUnavailable", error="down"), answer=completion())

    chat = attributes(spans.one("chat"))
    assert (chat[semconv.CACHE_STALE], chat[semconv.ATTEMPT_COUNT]) == (True, 1)
    assert semconv.INPUT_TOKENS not in chat
    assert spans.one("chat").status.status_code is StatusCode.UNSET
    assert violations(spans()) == []


def test_a_failed_call_has_the_class_that_the_caller_catches_and_one_exception_event(spans: Spans) -> None:
    error = ProviderRateLimited("too many", model=MODEL, provider="openai", status=429)

    ended(call(outcome="failed", error_type="ProviderRateLimited"), attempt(outcome="failed"), error=error)

    chat = spans.one("chat")
    assert chat.status.status_code is StatusCode.ERROR
    assert attributes(chat)[semconv.ERROR_TYPE] == "llmbridge.errors.ProviderRateLimited"
    (event,) = chat.events
    assert (event.name, event.attributes) == (
        "exception",
        {"exception.type": "llmbridge.errors.ProviderRateLimited", "exception.message": "too many"},
    )
    assert violations(spans()) == []


def test_a_cancelled_call_has_failed_with_asyncios_error(spans: Spans) -> None:
    ended(call(outcome="cancelled", error_type="CancelledError"), error=asyncio.CancelledError())

    assert attributes(spans.one("chat"))[semconv.ERROR_TYPE] == "asyncio.CancelledError"
    assert violations(spans()) == []


def test_a_refusal_names_the_budget_and_has_no_attempt(spans: Spans) -> None:
    amounts = {"limit": 1, "settled": 1, "reserved": 0, "needed": 1}
    error = BudgetExceeded("no", budget="team-a", unit="nanousd", resets_at=None, **amounts)

    ended(call(outcome="failed", error_type="BudgetExceeded"), error=error)

    chat = attributes(spans.one("chat"))
    assert (chat[semconv.BUDGET], chat[semconv.ATTEMPT_COUNT]) == ("team-a", 0)
    assert violations(spans()) == []


@pytest.mark.parametrize(
    ("outcome", "abandoned", "said"),
    [
        ("answered", False, "completed"),
        ("left", False, "closed"),
        ("left", True, "abandoned"),
        ("cancelled", False, "cancelled"),
        ("failed", False, "error"),
    ],
)
def test_a_stream_says_how_it_ended(spans: Spans, outcome: str, abandoned: bool, said: str) -> None:
    record = call(outcome=outcome, abandoned=abandoned, chunk_count=3, first_chunk_s=0.25)

    ended(record, attempt(), stream=True)

    chat = attributes(spans.one("chat"))
    assert (chat[semconv.STREAM], chat[semconv.STREAM_OUTCOME], chat[semconv.CHUNK_COUNT]) == (True, said, 3)
    assert chat[semconv.FIRST_CHUNK_S] == 0.25


def test_a_stream_that_its_reader_left_has_not_failed_whatever_the_reader_raised(spans: Spans) -> None:
    ended(call(outcome="left", error_type="KeyError"), attempt(outcome="left"), stream=True, error=KeyError("mine"))

    assert [span.status.status_code for span in spans()] == [StatusCode.UNSET] * 2
    assert violations(spans()) == []


def test_events_carry_their_arguments_under_the_names_of_the_table(spans: Spans) -> None:
    record = call()
    traced = tracing.begin(record, request())

    traced.event("llmbridge.cache.miss")
    traced.event(
        "llmbridge.budget.reserved", budget="$5/day", reserved_usd=Decimal("0.5"), remaining_usd=None, wait_s=0
    )
    traced.event("llmbridge.retry", number=2, error_type="llmbridge.errors.ProviderTimeout", delay_s=1.5)
    traced.event("llmbridge.hedge", number=3, after_s=0.5)
    traced.event("llmbridge.fallback", source="a/b", target="c/d", reason="sick upstream")
    only = traced.attempt(attempt(reserved_usd=Decimal("0.5")))
    only.event("llmbridge.first_chunk")
    only.end()
    record.attempts = (attempt(reserved_usd=Decimal("0.5")),)
    record.cost_usd = Decimal("0.1")
    record.alerts = (BudgetAlert("$5/day", 0.8, "80 % of it"),)
    traced.end()

    assert [(event.name, dict(event.attributes or {})) for event in spans.one("chat").events] == [
        ("llmbridge.cache.miss", {}),
        (
            "llmbridge.budget.reserved",
            {"llmbridge.budget.name": "$5/day", "llmbridge.budget.reserved_usd": 0.5, "llmbridge.budget.wait_s": 0},
        ),
        (
            "llmbridge.retry",
            {
                "llmbridge.attempt.number": 2,
                "error.type": "llmbridge.errors.ProviderTimeout",
                "llmbridge.retry.delay_s": 1.5,
            },
        ),
        ("llmbridge.hedge", {"llmbridge.attempt.number": 3, "llmbridge.hedge.after_s": 0.5}),
        (
            "llmbridge.fallback",
            {
                "llmbridge.fallback.from": "a/b",
                "llmbridge.fallback.to": "c/d",
                "llmbridge.fallback.reason": "sick upstream",
            },
        ),
        (
            "llmbridge.budget.alert",
            {
                "llmbridge.budget.name": "$5/day",
                "llmbridge.budget.share": 0.8,
                "llmbridge.budget.message": "80 % of it",
            },
        ),
        ("llmbridge.budget.settled", {"llmbridge.budget.actual_usd": 0.1}),
    ]
    assert [event.name for event in spans.one("attempt").events] == ["llmbridge.first_chunk"]
    assert attributes(spans.one("chat"))[semconv.BUDGET] == "$5/day"
    assert violations(spans()) == []


def test_a_follower_links_to_its_leader(spans: Spans) -> None:
    leader, follower = (tracing.begin(call(), request()) for _ in range(2))

    follower.link(leader.traceparent)
    follower.link(None)
    follower.link("no traceparent at all")
    follower.end()
    leader.end()

    following, leading = spans("chat")
    assert leading.context is not None
    assert [(link.context.trace_id, link.context.span_id) for link in following.links] == [
        (leading.context.trace_id, leading.context.span_id)
    ]


def test_the_record_knows_the_trace(spans: Spans) -> None:
    record = call()
    tracing.begin(record, request()).end()

    context = spans.one("chat").context
    assert context is not None
    assert record.trace_id == f"{context.trace_id:032x}"


def test_a_call_stands_below_what_is_current_where_it_begins(spans: Spans) -> None:
    assert Own.tracer_provider is not None
    with Own.tracer_provider.get_tracer("app").start_as_current_span("page") as page:
        ended(call(), attempt())

    assert spans.one("chat").parent == page.get_span_context()


def test_a_span_is_current_only_while_a_step_runs(spans: Spans) -> None:
    traced = tracing.begin(call(), request())
    only = traced.attempt(attempt())
    before = get_current_span()

    with only.current():
        inside = get_current_span()
        with traced.current():
            around = get_current_span()

    assert get_current_span() is before
    only.end()
    traced.end()
    assert [inside.get_span_context(), around.get_span_context()] == [span.context for span in spans()]


def test_attempts_at_the_same_time_do_not_mix(spans: Spans) -> None:
    traced = tracing.begin(call(), request())

    async def step(number: int) -> tuple[Any, Any]:
        mine = traced.attempt(attempt(number=number))
        with mine.current():
            await asyncio.sleep(0)
            seen = get_current_span().get_span_context()
        mine.end()
        return seen, get_current_span().get_span_context()

    async def race() -> list[tuple[Any, Any]]:
        return await asyncio.gather(*(step(number) for number in range(5)))

    steps = asyncio.run(race())

    assert [seen for seen, _ in steps] == [span.context for span in spans("attempt")]
    assert {after.is_valid for _, after in steps} == {False}


def test_a_coroutine_that_is_collected_in_a_step_leaves_no_trace_of_it(
    spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    class Never:
        def __await__(self) -> Iterator[None]:
            yield

    async def step() -> None:
        with tracing.begin(call(), request()).current():
            await Never()

    import contextvars

    coroutine = step()
    contextvars.copy_context().run(coroutine.send, None)
    coroutine.close()

    assert not get_current_span().get_span_context().is_valid
    assert "Failed to detach" not in caplog.text


def test_a_coroutine_that_is_closed_elsewhere_leaves_what_is_current_there(spans: Spans) -> None:
    import contextvars

    class Never:
        def __await__(self) -> Iterator[None]:
            yield

    async def step() -> None:
        with tracing.begin(call(), request()).current():
            await Never()

    coroutine = step()
    contextvars.copy_context().run(coroutine.send, None)
    assert Own.tracer_provider is not None
    with Own.tracer_provider.get_tracer("app").start_as_current_span("page") as page:
        coroutine.close()
        assert get_current_span() is page


def test_only_the_first_end_counts(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    traced = tracing.begin(call(), request())
    only = traced.attempt(attempt())
    for _ in range(2):
        only.end()
        traced.end()

    assert len(spans()) == 2
    assert caplog.text == ""


def test_headers_carry_the_attempt_to_the_provider(spans: Spans) -> None:
    only = tracing.begin(call(), request()).attempt(attempt())
    headers = only.headers()
    only.end()

    context = spans.one("attempt").context
    assert context is not None
    assert headers["traceparent"] == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_instrumentations_below_are_told_that_the_request_has_its_span(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InferenceData:
        pass

    key = "opentelemetry.genai.client.inference.context"
    module = SimpleNamespace(CLIENT_INFERENCE_CONTEXT_KEY=key, InferenceData=InferenceData)
    monkeypatch.setitem(sys.modules, "opentelemetry.util.genai.invocation", module)

    with tracing.begin(call(), request()).attempt(attempt()).current():
        assert isinstance(get_value(key), InferenceData)
    assert get_value(key) is None


def test_what_is_not_sampled_costs_no_attributes_and_hides_what_is_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "tracer_provider", TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    record = call()
    traced = tracing.begin(record, request())
    with traced.attempt(attempt()).current():
        assert not get_current_span().get_span_context().trace_flags.sampled
        assert get_current_span().get_span_context().is_valid
    traced.end()

    assert record.trace_id is None


def test_no_secret_reaches_a_span(spans: Spans) -> None:
    secret = "9f8e7d6c5b4a39281706"
    redaction.remember(secret)
    error = ProviderRateLimited(f"key {secret} is out", model=MODEL, provider="openai")
    only = attempt(outcome="failed", error_type="ProviderRateLimited", error=f"key {secret}", request_id=secret)

    ended(
        call(outcome="failed", error_type="ProviderRateLimited", tags={"key": secret}, model=MODEL, provider="openai"),
        only,
        error=error,
    )

    assert secret not in "".join(span.to_json() for span in spans())
    assert violations(spans()) == []


def test_a_lone_surrogate_from_a_provider_is_replaced_for_an_exporter_would_drop_the_batch(spans: Spans) -> None:
    ended(call(model=MODEL, provider="openai"), attempt(response_model="gpt\ud800", request_id="\udfff"))

    assert attributes(spans.one("chat"))[semconv.RESPONSE_MODEL] == "gpt?"
    json.dumps([span.to_json() for span in spans()]).encode()


def test_many_tags_crowd_nothing_else_out(spans: Spans) -> None:
    ended(call(tags={f"tag{number}": "x" * 5_000 for number in range(300)}), attempt())

    chat = attributes(spans.one("chat"))
    assert chat[semconv.OPERATION] == "chat"
    assert len([name for name in chat if name.startswith(semconv.TAG)]) == 32
    assert max(len(str(value)) for value in chat.values()) < 1_100


@pytest.mark.parametrize("broken", ["start_span", "set_attributes", "add_event", "end"])
def test_a_broken_tracer_breaks_no_call_and_is_said_once(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no room")

    from opentelemetry.sdk.trace import Span, Tracer

    monkeypatch.setattr(Tracer if broken == "start_span" else Span, broken, fail)

    for _ in range(2):
        traced = tracing.begin(call(), request())
        traced.event("llmbridge.cache.miss")
        only = traced.attempt(attempt())
        with traced.current(), only.current():
            pass
        only.end()
        traced.end()

    messages = [record.getMessage() for record in caplog.records]
    assert messages
    assert set(messages) == {"tracing failed and goes on without"}
    assert len(messages) <= 2


def test_an_event_that_nobody_knows_breaks_no_call(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    traced = tracing.begin(call(), request())
    traced.event("llmbridge.typo")
    traced.event("llmbridge.retry", delay=1)
    traced.end()

    assert spans.one("chat").events == ()
    assert "llmbridge.typo" in caplog.text


def test_without_a_provider_nothing_is_traced() -> None:
    record = call()

    traced = tracing.begin(record, request())

    assert traced is calls.OFF
    only = traced.attempt(attempt())
    with traced.current(), only.current():
        assert not get_current_span().get_span_context().is_valid
    assert (only.headers(), traced.traceparent, record.trace_id) == ({}, None, None)
    traced.event("llmbridge.cache.miss")
    traced.link("x")
    only.end()
    traced.end()


def test_a_provider_that_the_application_sets_later_is_used_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tracing.begin(call(), request())
    exporter, provider = Spans(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    ended(call())

    assert before is calls.OFF
    assert exporter.one("chat")


def test_the_applications_provider_comes_before_our_own(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = Spans(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    ended(call())

    assert (len(exporter()), len(spans())) == (1, 0)


def test_a_process_that_never_heard_of_opentelemetry_does_not_load_it() -> None:
    script = """
import sys
from llmbridge import metrics, tracing
from tests.tracing_scene import attempt, call, request
@tracing.traced("work")
def work():
    record = call(attempt())
    traced = tracing.begin(record, request())
    traced.attempt(record.attempts[0]).end()
    traced.end()
    metrics.record(record)
work()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_contract_notices_what_it_is_for(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Own.tracer_provider is not None
    tracer = Own.tracer_provider.get_tracer(semconv.SCOPE)
    secret = "0123456789abcdef"
    wrong = tracer.start_span("chat x", attributes={semconv.OPERATION: "chat", semconv.INPUT_TOKENS: 1.0, "odd": 1})
    wrong.set_attribute(semconv.INPUT_MESSAGES, secret)
    wrong.set_status(trace.Status(StatusCode.OK))
    wrong.add_event("odd")
    wrong.end()
    lonely = tracer.start_span("attempt x", attributes={semconv.ATTEMPT_NUMBER: 1, semconv.PROVIDER: "openai"})
    lonely.set_status(trace.Status(StatusCode.ERROR))
    lonely.end()

    found = "\n".join(violations(spans(), secrets=[secret]))

    for line in (
        "chat x: unknown attribute odd", "gen_ai.usage.input_tokens is float, not int", "kind INTERNAL",
        "success leaves the status unset", "though nobody asked for content", "a secret", "unknown event odd",
        "its name is no 'operation model'", "lacks llmbridge.call.id", "attempt x: unknown attribute gen_ai.provider",
        "status ERROR with error.type None", "it is not below a call",
    ):  # fmt: skip
        assert line in found


def test_the_contract_leaves_other_peoples_spans_alone(spans: Spans) -> None:
    assert Own.tracer_provider is not None
    Own.tracer_provider.get_tracer("app").start_span("page", attributes={"odd": 1}).end()

    assert violations(spans()) == []


def test_tracing_logs_to_our_logger_alone(caplog: pytest.LogCaptureFixture) -> None:
    harmless.once("test", "said %s", "once")
    harmless.once("test", "said %s", "once")

    assert [(record.name, record.levelno) for record in caplog.records] == [("llmbridge", logging.WARNING)]
