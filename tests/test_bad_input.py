"""What nobody should send and no provider should answer: every verb ends in a clear error, or in a right answer."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import socket
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

import llmbridge
from llmbridge import (
    AuthenticationFailed,
    BadRequest,
    CallRecord,
    LLMBridgeError,
    Model,
    ProviderUnavailable,
    StreamInterrupted,
)
from tests.conftest import Ask, Run, assert_charged
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
KEY = "sk-test-key"
PROVIDERS = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "ollama_chat": "ollama_chat/llama3.2",
}
# How many events of its stream each provider spends before, and with, the first two pieces of text.
BEFORE_CONTENT = {"openai": 1, "anthropic": 2, "gemini": 0, "ollama_chat": 0}
AFTER_CONTENT = {"openai": 3, "anthropic": 4, "gemini": 2, "ollama_chat": 2}


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(provider: str, sim: Simulator) -> Model:
    return Model(PROVIDERS[provider], api_base=sim.api_base(provider), api_key=KEY)


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key=KEY)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def the_one(records: list[CallRecord]) -> CallRecord:
    """The only record, found to agree with itself."""
    (record,) = records
    assert (record.error_type is None) == (record.outcome == "answered")
    assert [attempt.number for attempt in record.attempts] == [*range(1, len(record.attempts) + 1)]
    assert record.uncertain == any(attempt.uncertain for attempt in record.attempts)
    assert 0 <= sum(attempt.duration_s for attempt in record.attempts) <= record.duration_s
    for attempt in record.attempts:
        assert (attempt.error_type, attempt.error) == (None, None) or (attempt.error_type and attempt.error)
        assert attempt.sent or (attempt.cost_usd, attempt.uncertain, attempt.status) == (0, False, None)
        assert attempt.uncertain or attempt.cost_usd is not None
    return record


# What the caller does wrong


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        pytest.param([], ValueError, "messages is empty", id="none"),
        pytest.param([{"role": "wizard", "content": "x"}], ValueError, "role 'wizard'; it is one of", id="role"),
        pytest.param([{"content": "x"}], ValueError, "messages.0. has role None", id="no-role"),
        pytest.param([{"role": ["user"], "content": "x"}], ValueError, "has role", id="unhashable-role"),
        pytest.param({"role": "user", "content": "x"}, TypeError, "list of dicts, not dict", id="one-dict"),
        pytest.param(42, TypeError, "a str or a list of dicts, not int", id="number"),
        pytest.param(None, TypeError, "a str or a list of dicts, not NoneType", id="nothing"),
        pytest.param(b"hello", TypeError, "a str or a list of dicts, not bytes", id="bytes"),
        pytest.param(iter([{"role": "user", "content": "x"}]), TypeError, "not list_iterator", id="iterator"),
        pytest.param(["hello"], TypeError, "messages.0. is str, not a dict", id="list-of-texts"),
        pytest.param([{"role": "user", "content": 3}], TypeError, "is int, not str or a list of parts", id="content"),
        pytest.param([{"role": "user", "content": [3]}], TypeError, "is int, not a dict with 'type'", id="part"),
        pytest.param([{"role": "user"}], ValueError, "messages.0. .user. has no content", id="no-content"),
        pytest.param([{"role": "user", "content": "a\ud800"}], ValueError, "lone surrogate.*encode", id="surrogate"),
    ],
)
def test_messages_that_nobody_could_answer_are_refused_before_anything_is_sent(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord], messages: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ask(messages, model=gpt)

    assert (sim.requests, records) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        pytest.param({"tools": [{"function": object()}]}, TypeError, "tools cannot be written as JSON", id="tool"),
        pytest.param({"tools": [{"enum": {1, 2}}]}, TypeError, "tools cannot be written as JSON.*set", id="tool-set"),
        pytest.param({"metadata": {"at": datetime.date(2026, 1, 1)}}, TypeError, "metadata cannot.*date", id="date"),
        pytest.param({"temperature": math.nan}, ValueError, "temperature cannot be written as JSON", id="nan"),
        pytest.param({"logit_bias": {"1": math.inf}}, ValueError, "logit_bias cannot be written", id="infinity"),
        pytest.param({"user": "a\udfff"}, ValueError, "user holds a lone surrogate", id="surrogate"),
        pytest.param({"temprature": 1}, TypeError, "unknown parameter 'temprature': did you mean 'tempe", id="typo"),
        pytest.param({"max_token": 1}, TypeError, "did you mean 'max_tokens'", id="typo-of-max-tokens"),
        pytest.param({"modle": "x"}, TypeError, "did you mean 'model'", id="typo-of-model"),
        pytest.param({"deadline": 1}, TypeError, "did you mean 'deadline_s'", id="typo-of-deadline"),
        pytest.param({"zzzz": 1}, TypeError, "unknown parameter 'zzzz'; .*provider_params=", id="unknown"),
        pytest.param({"stream": True}, TypeError, r"call stream\(\) or astream\(\)", id="stream"),
        pytest.param({"base_url": "http://x"}, TypeError, "write api_base=", id="base_url"),
        pytest.param({"num_retries": 2}, TypeError, "retries belong to the fallback policy", id="num_retries"),
        pytest.param({"max_retries": 2}, TypeError, "retries belong to the fallback policy", id="max_retries"),
        pytest.param({"fallbacks": ["x"]}, TypeError, "give model= a list", id="fallbacks"),
        pytest.param({"mock_response": "x"}, TypeError, "replay a cassette", id="mock"),
        pytest.param({"deadline_s": 0}, ValueError, "deadline_s is a number of seconds above 0, not 0", id="deadline"),
        pytest.param({"deadline_s": math.nan}, ValueError, "deadline_s is a number of seconds", id="deadline-nan"),
        pytest.param({"deadline_s": True}, ValueError, "deadline_s is a number of seconds", id="deadline-bool"),
        pytest.param({"timeout": -1}, ValueError, "timeout is a number of seconds above 0", id="timeout"),
        pytest.param({"tags": {"user": 7}}, TypeError, "tags are strings by name", id="tags"),
        pytest.param({"response_model": dict}, TypeError, "response_model is a pydantic model class", id="schema"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_sent(
    ask: Ask,
    sim: Simulator,
    gpt: Model,
    records: list[CallRecord],
    arguments: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        ask(FISH, model=gpt, **arguments)

    assert (sim.requests, records) == ([], [])


@pytest.mark.parametrize("verb", ["embed", "aembed"])
@pytest.mark.parametrize(
    ("inputs", "arguments", "error", "words"),
    [
        pytest.param([], {}, ValueError, "inputs is empty", id="none"),
        pytest.param([""], {}, ValueError, "inputs.0. is empty", id="empty-text"),
        pytest.param([3], {}, TypeError, "inputs.0. is int", id="number"),
        pytest.param(["a\ud800"], {}, ValueError, "inputs holds a lone surrogate", id="surrogate"),
        pytest.param(["a"], {"dimension": 3}, TypeError, "did you mean 'dimensions'", id="typo"),
        pytest.param(["a"], {"temperature": 1}, TypeError, "unknown parameter 'temperature'", id="chat-parameter"),
        pytest.param(["a"], {"num_retries": 1}, TypeError, "retries belong to the fallback policy", id="num_retries"),
    ],
)
def test_wrong_embedding_arguments_are_refused_before_anything_is_sent(
    verb: str,
    run: Run,
    sim: Simulator,
    gpt: Model,
    records: list[CallRecord],
    inputs: Any,
    arguments: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        if verb == "embed":
            llmbridge.embed(inputs, model=gpt, **arguments)
        else:
            run(llmbridge.aembed(inputs, model=gpt, **arguments))

    assert (sim.requests, records) == ([], [])


class Fishes(BaseModel):
    name: str


def test_a_schema_given_twice_is_refused(ask: Ask, gpt: Model) -> None:
    with pytest.raises(TypeError, match="response_model= or response_format=, not both"):
        ask(FISH, model=gpt, response_model=Fishes, response_format={"type": "json_object"})


@pytest.mark.parametrize("models", [pytest.param([], id="no-model"), pytest.param(None, id="none-configured")])
def test_a_call_without_a_model_is_refused(ask: Ask, models: Any) -> None:
    with pytest.raises(ValueError, match="no model: write model="):
        ask(FISH, model=models)


@pytest.mark.parametrize("name", ["", "  ", 3])
def test_a_model_without_a_name_is_refused(ask: Ask, name: Any) -> None:
    with pytest.raises(TypeError, match="a model is a name such as"):
        ask(FISH, model=[name])


@pytest.mark.parametrize("name", ["api_key", "api_base", "extra_headers"])
def test_what_belongs_to_one_provider_is_never_sent_to_two(
    ask: Ask, sim: Simulator, records: list[CallRecord], name: str
) -> None:
    value: Any = {"x-api-key": KEY} if name == "extra_headers" else sim.url
    with pytest.raises(ValueError, match=f"{name} would go to 2 providers .anthropic, openai.*give each model its own"):
        ask(FISH, model=["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"], **{name: value})

    assert (sim.requests, records) == ([], [])


def test_one_key_for_several_models_of_one_provider_is_fine(ask: Ask, sim: Simulator) -> None:
    models = ["openai/gpt-4o-mini", "openai/gpt-4o"]

    reply = ask(FISH, model=models, api_key=KEY, api_base=sim.api_base("openai"))

    assert reply.text == "Trout."


# What is wrong with the way to the provider


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing", "openai"])
def test_a_model_that_litellm_does_not_know_is_a_bad_request_and_costs_nothing(
    ask: Ask, records: list[CallRecord], name: str
) -> None:
    with pytest.raises(BadRequest, match=name) as caught:
        ask(FISH, model=name, api_key=KEY)

    (attempt,) = the_one(records).attempts
    assert (caught.value.sent, caught.value.status) == (False, None)
    assert (attempt.sent, attempt.cost_usd, attempt.uncertain) == (False, Decimal(0), False)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "azure", "mistral", "groq", "openrouter"])
def test_a_missing_key_is_an_authentication_failure_and_costs_nothing(
    ask: Ask, records: list[CallRecord], provider: str, closed_port: int
) -> None:
    # An api_base of nobody, so that a library which sent anything would be seen to fail otherwise.
    nobody = Model(f"{provider}/some-model", api_base=f"http://127.0.0.1:{closed_port}/v1", api_version="2024-10-21")

    with pytest.raises(AuthenticationFailed) as caught:
        ask(FISH, model=nobody)

    (attempt,) = the_one(records).attempts
    assert (caught.value.sent, caught.value.kind) == (False, "dead key")
    assert (attempt.sent, attempt.cost_usd, attempt.uncertain) == (False, Decimal(0), False)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_a_missing_key_of_one_provider_goes_to_the_next_model(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord], provider: str
) -> None:
    reply = ask(FISH, model=[Model(PROVIDERS[provider], api_base=sim.api_base(provider)), gpt])

    assert reply.text == "Trout."
    assert [attempt.outcome for attempt in the_one(records).attempts] == ["failed", "answered"]


def test_an_address_that_nobody_listens_at_is_unavailable_and_nothing_was_sent(
    ask: Ask, provider: str, closed_port: int, records: list[CallRecord]
) -> None:
    nobody = Model(PROVIDERS[provider], api_base=f"http://127.0.0.1:{closed_port}", api_key=KEY)

    with pytest.raises(ProviderUnavailable, match=r"could not be reached at 127\.0\.0\.1, nothing was sent") as caught:
        ask(FISH, model=nobody)

    (attempt,) = the_one(records).attempts
    assert caught.value.sent is False
    assert (attempt.sent, attempt.cost_usd, attempt.uncertain) == (False, Decimal(0), False)


def test_the_message_of_an_unreachable_provider_says_what_failed_and_not_what_was_prevented(
    ask: Ask, provider: str, closed_port: int
) -> None:
    nobody = Model(PROVIDERS[provider], api_base=f"http://127.0.0.1:{closed_port}", api_key=KEY)

    with pytest.raises(ProviderUnavailable) as caught:
        ask(FISH, model=nobody)

    assert "second POST" not in str(caught.value)


@pytest.mark.parametrize("base", ["not a url", "ftp://127.0.0.1/v1", "http://a..b/v1"])
def test_an_address_that_is_none_is_an_error_and_nothing_was_sent(
    ask: Ask, provider: str, base: str, records: list[CallRecord]
) -> None:
    with pytest.raises(LLMBridgeError):
        ask(FISH, model=Model(PROVIDERS[provider], api_base=base, api_key=KEY))

    (attempt,) = the_one(records).attempts
    assert (attempt.sent, attempt.cost_usd) == (False, Decimal(0))


# What is wrong with the answer


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.body(b"<html><body>Welcome</body></html>", "text/html"), id="html"),
        pytest.param(Fault.body(b""), id="empty"),
        pytest.param(Fault.body(b'{"id": "x", "choices": [{"mess'), id="truncated-json"),
        pytest.param(Fault.body(b"null"), id="null"),
        pytest.param(Fault.body(b"[]"), id="list"),
        pytest.param(Fault.body(b"{}"), id="empty-object"),
        pytest.param(Fault.body(b'"Trout."'), id="text"),
        pytest.param(Fault.body(b"\xff\xfe\x00garbage"), id="not-utf-8"),
        pytest.param(Fault.body(b"data: {not json\n\n", "text/event-stream"), id="event-of-no-json"),
        pytest.param(Fault.body(b": ping\n\n" * 50, "text/event-stream"), id="comments-alone"),
        pytest.param(Fault.error_in_200(), id="error-in-a-200"),
        pytest.param(Fault.cut(0), id="cut-before-content"),
        pytest.param(Fault.cut(0, clean=False), id="broken-before-content"),
    ],
)
def test_a_200_that_is_no_answer_is_unavailable_and_charged_at_its_bound(
    ask: Ask, sim: Simulator, model: Model, records: list[CallRecord], fault: Fault
) -> None:
    sim.script(fault)

    with pytest.raises(ProviderUnavailable) as caught:
        ask(FISH, model=model)

    (attempt,) = the_one(records).attempts
    assert (caught.value.status, caught.value.kind, len(sim.requests)) == (200, "sick upstream", 1)
    assert (attempt.outcome, attempt.sent) == ("failed", True)
    assert_charged(records[0])


NO_CHOICES = {
    "openai": {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": []},
    "gemini": {"candidates": [], "modelVersion": "m"},
}


@pytest.mark.parametrize("provider", NO_CHOICES, indirect=True)
def test_an_answer_without_choices_is_unavailable(
    ask: Ask, sim: Simulator, model: Model, provider: str, records: list[CallRecord]
) -> None:
    sim.script(Fault.body(json.dumps(NO_CHOICES[provider]).encode()))

    with pytest.raises(ProviderUnavailable, match=r"not an answer|broke off"):
        ask(FISH, model=model)

    assert_charged(the_one(records))


def test_an_event_stream_without_choices_is_unavailable(ask: Ask, sim: Simulator, gpt: Model, verb: str) -> None:
    event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
    sim.script(Fault.body(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode(), "text/event-stream"))

    with pytest.raises(ProviderUnavailable):
        ask(FISH, model=gpt)


NULL_CONTENT = {
    "openai": {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    },
    "anthropic": {
        "id": "x",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 9, "output_tokens": 1},
    },
    "gemini": {
        "candidates": [{"content": {"role": "model", "parts": []}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1, "totalTokenCount": 10},
    },
    "ollama_chat": {
        "model": "m",
        "created_at": "2026-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 9,
        "eval_count": 1,
    },
}


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_an_answer_without_text_is_an_empty_answer(
    ask: Ask, sim: Simulator, model: Model, provider: str, records: list[CallRecord], verb: str
) -> None:
    sim.script(Fault.body(json.dumps(NULL_CONTENT[provider]).encode()))

    reply = ask(FISH, model=model)

    assert (reply.text, reply.finish_reason) == ("", "stop")
    assert (the_one(records).input_tokens, the_one(records).output_tokens) == (9, 1)


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_stream_without_text_is_an_empty_answer(ask: Ask, sim: Simulator, model: Model, finish: Any) -> None:
    sim.script(Reply(text="", finish=finish))

    reply = ask(FISH, model=model)

    assert (reply.text, reply.finish_reason) == ("", finish)


def test_an_answer_of_ten_megabytes_is_read_whole(ask: Ask, sim: Simulator, gpt: Model) -> None:
    text = "".join(f"Trout {number:08}. " for number in range(640_000))
    sim.script(Reply(text=text, finish="length"))

    read = ask(FISH, model=gpt).text

    # Lengths first: nobody wants to see the difference of ten megabytes.
    assert len(read) == len(text)
    assert hash(read) == hash(text)


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_stream_that_says_one_word_five_hundred_times_is_read_whole(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Reply(pieces=["Trout "] * 500))

    reply = ask(FISH, model=model)

    assert reply.text == "Trout " * 500


def test_a_lone_surrogate_in_an_answer_reaches_the_caller(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Reply(text="a\ud800b"))

    reply = ask(FISH, model=model)

    assert reply.text == "a\ud800b"


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_a_byte_that_is_no_utf_8_spoils_one_character_or_is_an_error(
    ask: Ask, sim: Simulator, model: Model, provider: str, records: list[CallRecord], verb: str
) -> None:
    body = json.dumps(NULL_CONTENT[provider]).replace("null", '"Tr?ut"').replace('"content": ""', '"content": "Tr?ut"')
    sim.script(Fault.body(body.encode().replace(b"?", b"\xff")))

    answer = _outcome(ask, model)

    assert isinstance(answer, LLMBridgeError) or answer.text in ("", "Tr\ufffdut")
    assert the_one(records).outcome in ("answered", "failed")


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_byte_that_is_no_utf_8_in_a_stream_spoils_one_character_or_is_an_error(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord], verb: str
) -> None:
    delta = {"index": 0, "delta": {"content": "Tr?ut"}, "finish_reason": "stop"}
    event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [delta]}
    events = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode().replace(b"?", b"\xff")
    sim.script(Fault.body(events, "text/event-stream"))

    answer = _outcome(ask, gpt)

    assert isinstance(answer, LLMBridgeError) or answer.text == "Tr\ufffdut"
    assert the_one(records).outcome in ("answered", "failed")


def _outcome(ask: Ask, model: Model) -> Any:
    try:
        return ask(FISH, model=model)
    except LLMBridgeError as error:
        return error


# Streams that do not come to their end


@pytest.mark.parametrize("verb", ["stream", "astream"])
@pytest.mark.parametrize("clean", [True, False], ids=["clean-end", "broken-connection"])
def test_a_stream_cut_before_its_content_is_unavailable(
    ask: Ask, sim: Simulator, model: Model, provider: str, records: list[CallRecord], verb: str, clean: bool
) -> None:
    sim.script(Fault.cut(BEFORE_CONTENT[provider], clean=clean))

    with pytest.raises(ProviderUnavailable):
        ask(FISH, model=model)

    assert the_one(records).outcome == "failed"
    assert_charged(records[0])


@pytest.mark.parametrize("verb", ["stream", "astream"])
@pytest.mark.parametrize("clean", [True, False], ids=["clean-end", "broken-connection"])
def test_a_stream_cut_after_its_first_content_is_interrupted_with_the_text_so_far(
    ask: Ask, sim: Simulator, model: Model, provider: str, records: list[CallRecord], verb: str, clean: bool
) -> None:
    reply = Reply(pieces=["Tr", "out", ", of", " course."])
    sim.script(Fault.cut(AFTER_CONTENT[provider], reply, clean=clean))

    with pytest.raises(StreamInterrupted) as caught:
        ask(FISH, model=model)

    assert caught.value.partial in ("Tr", "Trout")
    assert (the_one(records).outcome, the_one(records).error_type) == ("failed", "StreamInterrupted")
    assert_charged(records[0])


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_an_error_event_before_the_content_is_unavailable(
    ask: Ask, sim: Simulator, model: Model, provider: str, records: list[CallRecord], verb: str
) -> None:
    sim.script(Fault.stream_error(BEFORE_CONTENT[provider]))

    with pytest.raises(ProviderUnavailable):
        ask(FISH, model=model)

    assert_charged(the_one(records))


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_an_error_event_after_the_content_interrupts_the_stream(
    ask: Ask, sim: Simulator, model: Model, provider: str, records: list[CallRecord], verb: str
) -> None:
    reply = Reply(pieces=["Tr", "out", ", of", " course."])
    sim.script(Fault.stream_error(AFTER_CONTENT[provider], reply))

    with pytest.raises(StreamInterrupted) as caught:
        ask(FISH, model=model)

    assert caught.value.partial in ("Tr", "Trout")
    assert the_one(records).error_type == "StreamInterrupted"
    assert_charged(records[0])


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_stream_that_only_lacks_its_done_line_is_whole(ask: Ask, sim: Simulator, gpt: Model, verb: str) -> None:
    sim.script(Fault.cut(-1))

    reply = ask(FISH, model=gpt)

    assert (reply.text, reply.finish_reason) == ("Trout.", "stop")


def test_an_answer_cut_in_its_middle_never_hangs(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Fault.cut(1, clean=False))
    started = time.monotonic()

    with pytest.raises(LLMBridgeError):
        ask(FISH, model=model, deadline_s=5)

    assert time.monotonic() - started < 10


def test_a_stream_is_no_completion_before_its_end(sim: Simulator, gpt: Model) -> None:
    with llmbridge.stream(FISH, model=gpt) as chunks:
        next(chunks)

        with pytest.raises(RuntimeError, match="read all chunks first"):
            chunks.completion


def test_an_async_verb_called_where_no_loop_runs_sends_nothing(sim: Simulator, gpt: Model) -> None:
    asking = llmbridge.acomplete(FISH, model=gpt)
    assert asyncio.iscoroutine(asking)
    asking.close()

    assert sim.requests == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"api_key": "sk-other"}, "'api_key' does not go into provider_params"),
        ({"mock_response": "hi"}, "'mock_response' does not go into provider_params: replay a cassette"),
        ({"stream": True}, "call stream"),
        ("abc", "provider_params is a dict, not str"),
    ],
    ids=["key", "mock", "stream", "text"],
)
def test_provider_params_are_no_back_door(ask: Ask, sim: Simulator, gpt: Model, params: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ask(FISH, model=gpt, provider_params=params)

    assert sim.requests == []


def test_a_models_own_parameters_are_checked_too() -> None:
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        Model("openai/gpt-4o-mini", params={"temprature": 0})


@pytest.mark.parametrize("model", [5, {"openai/gpt-4o-mini"}], ids=["int", "set"])
def test_a_model_of_another_type_is_refused(ask: Ask, model: Any) -> None:
    with pytest.raises(TypeError, match="model is 'provider/name', a Model, or a list of them"):
        ask(FISH, model=model)


def test_a_misspelled_budget_is_no_call_without_one(ask: Ask, gpt: Model) -> None:
    with pytest.raises(TypeError, match="did you mean 'budget'"):
        ask(FISH, model=gpt, bugdet="$5/day")
