"""Prompts and answers on the trace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmbridge import redaction, semconv, tracing
from llmbridge.tracing import content
from llmbridge.tracing.content import VARIABLE
from tests.trace_contract import CONTENT, attributes, violations
from tests.tracing_scene import attempt, call, completion, request
from tests.tracing_spans import Spans


def captured(spans: Spans, messages: Any = "Name a fish.", **params: Any) -> dict[str, Any]:
    record = call()
    traced = tracing.begin(record, request(messages=messages, **params))
    record.attempts = (attempt(),)
    traced.attempt(record.attempts[0]).end()
    traced.end(answer=completion(**params.pop("answer", {})))
    has = attributes(spans.one("chat"))
    return {name: json.loads(has[name]) for name in CONTENT if name in has}


@pytest.mark.parametrize("asked", [None, "", "NO_CONTENT", "EVENT_ONLY", "true", "yes"])
def test_the_span_has_no_content_unless_it_is_asked_for(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    if asked is not None:
        monkeypatch.setenv(VARIABLE, asked)

    assert captured(spans) == {}
    assert violations(spans()) == []


def test_a_value_that_nobody_knows_captures_nothing_and_is_said(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "everything")

    captured(spans)

    assert "is one of NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, not 'everything'" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("asked", ["SPAN_ONLY", "span_and_event"])
def test_messages_are_captured_in_the_conventions_shape(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv(VARIABLE, asked)
    called = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "fish"}'}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "a pike"},
    ]
    tool = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}

    found = captured(spans, messages, tools=[tool])

    assert found == {
        semconv.SYSTEM_INSTRUCTIONS: [{"type": "text", "content": "Be brief."}],
        semconv.INPUT_MESSAGES: [
            {
                "role": "user",
                "parts": [{"type": "text", "content": "What is it?"}, {"type": "blob", "modality": "image"}],
            },
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "c1", "name": "look", "arguments": {"at": "fish"}}],
            },
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "a pike"}]},
        ],
        semconv.OUTPUT_MESSAGES: [
            {"role": "assistant", "parts": [{"type": "text", "content": "A pike."}], "finish_reason": "stop"}
        ],
        semconv.TOOL_DEFINITIONS: [
            {"type": "function", "name": "look", "description": "Look.", "parameters": {"type": "object"}}
        ],
    }
    assert violations(spans(), content=True) == []


def test_what_is_captured_is_what_was_asked_and_not_what_the_caller_made_of_it(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    message = {"role": "user", "content": "before"}
    traced = tracing.begin(call(), request(messages=[message]))
    message["content"] = "after"
    traced.end()

    assert "before" in attributes(spans.one("chat"))[semconv.INPUT_MESSAGES]


def test_content_is_redacted_by_value_and_by_pattern(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    redaction.remember("0a1b2c3d4e5f")

    found = captured(spans, "0a1b2c3d4e5f and sk-abcdefghijklmnop1234")

    assert found[semconv.INPUT_MESSAGES][0]["parts"] == [{"type": "text", "content": "[redacted] and [redacted]"}]
    assert violations(spans(), content=True) == []


def test_long_texts_are_cut_before_they_become_json(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    arguments = json.dumps({"text": '"' * 9_000})
    message = {
        "role": "assistant",
        "content": 'é"' * 9_000,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}],
    }

    (said,) = captured(spans, [message])[semconv.INPUT_MESSAGES]

    text, called = said["parts"]
    assert text["content"] == 'é"' * 4_000 + "... (18,000 characters)"
    assert called["arguments"].endswith(f"... ({len(arguments):,} characters)")


def test_a_long_conversation_leaves_out_its_middle(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    messages = [{"role": "user", "content": f"{number:04d}" + "x" * 7_000} for number in range(500)]

    found = captured(spans, messages)[semconv.INPUT_MESSAGES]

    texts = [message["parts"][0]["content"] for message in found]
    assert (texts[0][:4], texts[-1][:4]) == ("0000", "0499")
    assert f"({501 - len(found)} messages are left out here)" in texts
    assert sum(map(len, texts)) < content.MOST_CHARACTERS


def test_of_a_message_in_very_many_parts_the_first_are_kept(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    message = {"role": "user", "content": [{"type": "text", "text": str(number)} for number in range(60)]}

    (said,) = captured(spans, [message])[semconv.INPUT_MESSAGES]

    assert [part["content"] for part in said["parts"]][-2:] == ["49", "(10 parts are left out here)"]


def test_a_lone_surrogate_in_an_answer_is_replaced(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")

    traced = tracing.begin(call(), request())
    traced.end(answer=completion("fish \ud83d"))

    attributes(spans.one("chat"))[semconv.OUTPUT_MESSAGES].encode()


@pytest.mark.parametrize("asked", ["EVENT_ONLY", "SPAN_AND_EVENT"])
def test_content_goes_into_a_log_event_of_the_same_trace(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    from opentelemetry import _logs
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    monkeypatch.setattr(_logs, "get_logger", lambda name: provider.get_logger(name))
    monkeypatch.setenv(VARIABLE, asked)

    captured(spans)

    (event,) = (each.log_record for each in exporter.get_finished_logs())
    context = spans.one("chat").context
    assert context is not None
    assert (event.event_name, event.trace_id, event.span_id) == (
        "gen_ai.client.inference.operation.details",
        context.trace_id,
        context.span_id,
    )
    assert event.attributes is not None
    assert "Name a fish." in str(event.attributes[semconv.INPUT_MESSAGES])
    assert "A pike." in str(event.attributes[semconv.OUTPUT_MESSAGES])
