"""What is true of all four chat verbs."""

from __future__ import annotations

import asyncio
import json
import os
import platform
from decimal import ROUND_CEILING, Decimal
from typing import Any

import openai.types.chat
import pytest
from pydantic import BaseModel

import llmbridge
from llmbridge import CallRecord, Model, wire
from tests.conftest import Ask
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501
PROVIDERS = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "ollama_chat": "ollama_chat/llama3.2",
}


@pytest.fixture(params=PROVIDERS)
def model(request: pytest.FixtureRequest, sim: Simulator) -> Model:
    provider = request.param
    return Model(PROVIDERS[provider], api_base=sim.api_base(provider), api_key="sk-test-key")


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


@pytest.fixture
def claude(sim: Simulator) -> Model:
    return Model("anthropic/claude-haiku-4-5", api_base=sim.api_base("anthropic"), api_key="sk-test-key")


class Fish(BaseModel):
    name: str
    length_cm: int


def test_the_answer_carries_text_finish_reason_and_token_counts(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Reply(text="Trout, of course.", input_tokens=11, output_tokens=5))

    reply = ask(FISH, model=model)

    assert (reply.text, reply.finish_reason, reply.model) == ("Trout, of course.", "stop", model.model)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.estimated) == (11, 5, False)


def test_the_answer_validates_as_the_openai_sdks_type(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Reply(text="Trout.", tool_calls=[("weather", {"city": "Ulm"})]))

    dumped = ask(FISH, model=model, tools=[TOOL]).model_dump()

    checked = openai.types.chat.ChatCompletion.model_validate(dumped)
    call: Any = (checked.choices[0].message.tool_calls or [])[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Ulm"})


def test_a_call_costs_its_tokens_at_the_models_price(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(input_tokens=1003, output_tokens=107))

    reply = ask(FISH, model=gpt)

    exact = 1003 * Decimal("0.15e-6") + 107 * Decimal("0.6e-6")
    assert reply.cost_usd == exact.quantize(Decimal("1e-9"), ROUND_CEILING)


def test_a_model_without_a_price_costs_an_unknown_amount_and_not_nothing(ask: Ask, sim: Simulator) -> None:
    reply = ask(FISH, model=Model("openai/nobody-knows-me", api_base=sim.api_base("openai"), api_key="sk-test-key"))

    assert reply.cost_usd is None
    assert reply.record.uncertain


def test_messages_go_out_as_they_are_and_unchanged(ask: Ask, sim: Simulator, gpt: Model) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, _image("https://example.org/a.png")]},
    ]
    before = json.dumps(messages)

    ask(messages, model=gpt, temperature=0.2, stop=["\n"], seed=7, top_p=0.9, user="u1")

    body = sim.requests[0].body
    assert body is not None
    assert body["messages"] == messages
    assert (body["temperature"], body["stop"], body["seed"], body["top_p"], body["user"]) == (0.2, ["\n"], 7, 0.9, "u1")
    assert json.dumps(messages) == before


def test_an_image_in_a_data_uri_reaches_the_provider(ask: Ask, sim: Simulator, model: Model) -> None:
    ask([{"role": "user", "content": [{"type": "text", "text": "What is this?"}, _image(PIXEL)]}], model=model)

    assert PIXEL.partition(",")[2][:40] in sim.requests[0].raw.decode()


def test_tool_calls_are_read_with_their_arguments(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Reply(tool_calls=[("weather", {"city": "Ulm"}), ("weather", {"city": "Köln"})]))

    reply = ask("Weather?", model=model, tools=[TOOL])

    assert [(c.function.name, json.loads(c.function.arguments)) for c in reply.tool_calls] == [
        ("weather", {"city": "Ulm"}),
        ("weather", {"city": "Köln"}),
    ]
    assert len({call.id for call in reply.tool_calls}) == 2


def test_a_tool_choice_and_json_mode_are_passed_on(ask: Ask, sim: Simulator, gpt: Model) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}

    ask("Weather?", model=gpt, tools=[TOOL], tool_choice=choice, response_format={"type": "json_object"})

    body = sim.requests[0].body
    assert body is not None
    assert (body["tool_choice"], body["response_format"]) == (choice, {"type": "json_object"})


def test_reasoning_text_is_kept_apart_from_the_answer(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Reply(text="Trout.", reasoning="Fish swim. Trout swim."))

    reply = ask(FISH, model=model)

    assert (reply.text, reply.reasoning) == ("Trout.", "Fish swim. Trout swim.")


def test_several_choices_are_kept_in_order(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(texts=["Trout.", "Carp.", "Eel."]))

    reply = ask(FISH, model=gpt, n=3)

    assert [choice.message.content for choice in reply.choices] == ["Trout.", "Carp.", "Eel."]


def test_log_probabilities_are_kept(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(text="Trout.", logprobs=True))

    reply = ask(FISH, model=gpt, logprobs=True, top_logprobs=2)

    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert "".join(token.token for token in logprobs.content or []) == "Trout."


def test_an_answer_cut_at_the_limit_says_so(ask: Ask, sim: Simulator, model: Model) -> None:
    sim.script(Reply(text="Trout and", finish="length"))

    assert ask(FISH, model=model, max_tokens=2).finish_reason == "length"


def test_a_response_model_is_parsed(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(text='{"name": "trout", "length_cm": 40}'))

    reply = ask("Describe a fish.", model=gpt, response_model=Fish)

    assert reply.parsed == Fish(name="trout", length_cm=40)
    body = sim.requests[0].body
    assert body is not None
    assert body["response_format"]["json_schema"]["name"] == "Fish"


def test_json_in_a_markdown_fence_is_parsed(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(text='```json\n{"name": "eel", "length_cm": 80}\n```'))

    assert ask("Describe a fish.", model=gpt, response_model=Fish).parsed == Fish(name="eel", length_cm=80)


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_a_wrong_answer_is_shown_to_the_model_once(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    sim.script(Reply(text='{"name": "trout"}'), Reply(text='{"name": "trout", "length_cm": 40}'))

    reply = ask("Describe a fish.", model=gpt, response_model=Fish)

    assert reply.parsed.length_cm == 40
    shown = sim.requests[1].body
    assert shown is not None
    assert shown["messages"][1] == {"role": "assistant", "content": '{"name": "trout"}'}
    assert "length_cm" in shown["messages"][2]["content"]
    assert [(a.reason, a.error_type) for a in records[0].attempts] == [("initial", "InvalidOutput"), ("repair", None)]
    assert records[0].cost_usd == sum(a.cost_usd for a in records[0].attempts if a.cost_usd is not None)


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_an_answer_that_stays_wrong_ends_after_one_repair(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(text="no JSON"))

    with pytest.raises(llmbridge.AllAttemptsFailed) as caught:
        ask("Describe a fish.", model=gpt, response_model=Fish)

    assert [type(error) for error in caught.value.errors] == [llmbridge.InvalidOutput] * 2
    assert len(sim.requests) == 2


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_a_streamed_answer_that_does_not_fit_is_an_error_at_its_end(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    sim.script(Reply(text="no JSON at all"))

    with pytest.raises(llmbridge.InvalidOutput) as caught:
        ask("Describe a fish.", model=gpt, response_model=Fish)

    assert caught.value.output == "no JSON at all"
    assert [(r.outcome, r.error_type) for r in records] == [("failed", "InvalidOutput")]
    assert records[0].cost_usd is not None
    assert records[0].cost_usd > 0


def test_a_failing_model_is_followed_by_the_next(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.status(503), Reply(text="Carp."))

    reply = ask(FISH, model=[gpt, claude])

    assert (reply.text, reply.model) == ("Carp.", "anthropic/claude-haiku-4-5")
    assert [(a.model, a.reason, a.outcome, a.status) for a in reply.attempts] == [
        ("openai/gpt-4o-mini", "initial", "failed", 503),
        ("anthropic/claude-haiku-4-5", "fallback", "answered", 200),
    ]
    assert records == [reply.record]


def test_when_all_models_fail_every_error_is_there(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model, records: list[CallRecord]
) -> None:
    sim.script(Fault.status(503), Fault.status(401))

    with pytest.raises(llmbridge.AllAttemptsFailed) as caught:
        ask(FISH, model=[gpt, claude])

    assert [type(error) for error in caught.value.errors] == [
        llmbridge.ProviderUnavailable,
        llmbridge.AuthenticationFailed,
    ]
    assert len(caught.value.group.exceptions) == 2
    assert [record.outcome for record in records] == ["failed"]
    assert caught.value.call_id == records[0].id


def test_a_request_that_is_wrong_is_not_sent_to_the_next_model(
    ask: Ask, sim: Simulator, gpt: Model, claude: Model
) -> None:
    sim.script(Fault.status(400))

    with pytest.raises(llmbridge.BadRequest):
        ask(FISH, model=[gpt, claude])

    assert len(sim.requests) == 1


def test_every_call_is_recorded_once_with_its_tags(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    with llmbridge.tagged(user="alice", purpose="test"):
        reply = ask(FISH, model=gpt, tags={"purpose": "fish"})

    record = records[0]
    assert records == [reply.record]
    assert record.tags == {"user": "alice", "purpose": "fish"}
    assert (record.outcome, record.model, record.input_tokens, record.output_tokens) == ("answered", gpt.model, 9, 3)
    assert record.id in reply.explain()


def test_a_subscriber_that_fails_harms_no_call(ask: Ask, sim: Simulator, gpt: Model, fresh_default: Any) -> None:
    def broken(record: CallRecord) -> None:
        raise RuntimeError("subscriber")

    fresh_default.subscribe(broken)

    assert ask(FISH, model=gpt).text == "Trout."


def test_a_deadline_bounds_the_whole_call(ask: Ask, sim: Simulator, gpt: Model, claude: Model) -> None:
    sim.script(Fault.hang())

    with pytest.raises(llmbridge.DeadlineExceeded) as caught:
        ask(FISH, model=[gpt, claude], deadline_s=1)

    assert [attempt.error_type for attempt in caught.value.attempts] == ["ProviderTimeout"]
    assert len(sim.requests) == 1


def test_the_models_of_the_bridge_are_asked_when_the_call_names_none(sim: Simulator, gpt: Model) -> None:
    assert llmbridge.Bridge(models=gpt).complete(FISH).text == "Trout."


def test_a_plan_names_the_models_and_sends_nothing(sim: Simulator, gpt: Model, claude: Model) -> None:
    plan = llmbridge.Bridge(models=[gpt]).plan(FISH, model=[claude, gpt])

    assert plan.models == (claude.model, gpt.model)
    assert sim.requests == []


def test_sync_and_async_send_the_same_bytes(sim: Simulator, model: Model, run: Any) -> None:
    bridge = llmbridge.Bridge(models=model)
    arguments: Any = {"temperature": 0.5, "max_tokens": 50, "tools": [TOOL]}

    bridge.complete(FISH, **arguments)
    run(bridge.acomplete(FISH, **arguments))

    first, second = sim.requests
    assert first.raw == second.raw
    assert first.path == second.path


def test_a_message_of_an_answer_can_be_sent_back_as_it_is(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(tool_calls=[("weather", {"city": "Ulm"})]), Reply(text="Sunny."))
    first = ask("Weather?", model=gpt, tools=[TOOL])
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}

    second = ask([{"role": "user", "content": "Weather?"}, first.choices[0].message, result], model=gpt, tools=[TOOL])

    assert second.text == "Sunny."
    body = sim.requests[1].body
    assert body is not None
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"


def test_token_details_have_the_attributes_of_openais(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(input_tokens=2000, cached_tokens=1024))

    usage = ask(FISH, model=gpt).usage

    assert usage is not None
    assert getattr(usage.prompt_tokens_details, "cached_tokens", None) == 1024


def test_an_event_loop_that_has_ended_keeps_no_client(sim: Simulator, gpt: Model) -> None:
    before = len(wire._async_clients)

    for _ in range(5):
        asyncio.run(llmbridge.acomplete(FISH, model=gpt))

    assert len(wire._async_clients) <= before + 1


def test_a_forked_child_does_not_share_its_parents_connections(sim: Simulator, gpt: Model) -> None:
    llmbridge.complete(FISH, model=gpt)
    read, write = os.pipe()

    child = os.fork()
    if child == 0:
        os.write(write, b"new" if wire._client is None else b"shared")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)

    with os.fdopen(read) as answer:
        assert answer.read() == "new"
    assert wire._client is not None


def test_a_call_whose_time_is_over_before_it_starts_made_no_attempt_and_cost_nothing(
    ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord]
) -> None:
    with pytest.raises(llmbridge.DeadlineExceeded, match="nothing was sent"):
        ask(FISH, model=gpt, deadline_s=1e-9)

    assert [(r.outcome, r.attempts, r.cost_usd, r.uncertain) for r in records] == [("failed", (), Decimal(0), False)]
    assert sim.requests == []


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_an_organization_that_the_environment_names_later_is_sent(
    ask: Ask, sim: Simulator, gpt: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("org-one", "org-two"):
        monkeypatch.setenv("OPENAI_ORG_ID", name)
        ask(FISH, model=gpt)

    assert [seen.headers.get("openai-organization") for seen in sim.requests] == ["org-one", "org-two"]


@pytest.mark.parametrize("provider", ["openai", "azure", "groq", "anthropic", "gemini", "ollama"])
def test_no_provider_is_told_what_machine_asks(ask: Ask, sim: Simulator, provider: str) -> None:
    ask(FISH, model=Model(f"{provider}/fish-1", api_base=sim.api_base(provider), api_key="sk-test-key"))

    told = " ".join(f"{name}: {value}" for name, value in sim.requests[-1].headers.items()).lower()
    machine = ("linux", "macos", "windows", platform.machine().lower(), platform.python_version())
    assert not [word for word in machine if word in told]
