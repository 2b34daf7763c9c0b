"""What a request can cost at most is never less than what it costs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel

import llmbridge
from llmbridge import Model
from llmbridge.money import nanousd
from llmbridge.provider import (
    affordable,
    capped,
    cost,
    floor_tokens,
    has_cap,
    litellm,
    seen_nanousd,
    worst_case,
)
from llmbridge.provider.rates import entry_of
from llmbridge.request import Request, chat, embeddings
from tests.simulator import Simulator
from tests.test_pricing import used


FISH = "Name a fish."
GPT, CLAUDE = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
# A prompt that asks for caches of an hour, past the thresholds of long prompts or short of them.
LONG, SHORT = 300_000, 20


def asked(model: str | Model, messages: Any = FISH, **params: Any) -> Request:
    return chat(messages, params, None).for_model(model if isinstance(model, Model) else Model(model))


def full(name: str) -> str:
    """A model of the table as one writes it."""
    provider = litellm().model_cost[name]["litellm_provider"]
    known = name.partition("/")[0] in litellm().provider_list
    return name if known or provider not in litellm().provider_list else f"{provider}/{name}"


def priced() -> list[str]:
    """The chat models that have a price, as one writes them."""
    modes = ("chat", "responses", "completion")
    names = [full(name) for name, fields in list(litellm().model_cost.items()) if fields.get("mode") in modes]
    return [name for name in dict.fromkeys(names) if worst_case(asked(name, max_tokens=9)).nanousd is not None]


PRICED = priced()
TIERS = ("", "default", "priority", "flex", "auto", "ultrafast")


def hourly(model: str, size: int, **params: Any) -> Request:
    return asked(model, [{"role": "user", "content": "x" * size, "cache_control": {"ttl": "1h"}}], **params)


def test_most_of_the_tables_chat_models_can_be_priced() -> None:
    assert len(PRICED) > 2500


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_no_model_of_the_table_costs_more_than_its_worst_case(size: int) -> None:
    dearer, unknown = [], []
    any_model = hourly("x", size, max_tokens=1000)
    for model in PRICED:
        request = any_model.for_model(Model(model))
        worst = worst_case(request)
        assert worst.input_tokens is not None
        assert worst.output_tokens is not None
        assert worst.nanousd is not None
        prompt, completion = worst.input_tokens, worst.output_tokens
        for heard, spoken in (
            ({"cached_tokens": prompt // 2}, {"reasoning_tokens": completion}),
            (
                {
                    "cache_creation_tokens": prompt,
                    "cache_creation_token_details": {"ephemeral_1h_input_tokens": prompt},
                },
                {"audio_tokens": completion // 2, "image_tokens": completion // 2},
            ),
        ):
            known = cost(request, used(prompt, completion, heard, spoken))
            if known is None:
                unknown.append(model)
            elif nanousd(known.usd) > worst.nanousd:
                dearer.append((model, known, worst))

    assert (dearer, unknown) == ([], [])


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_split_of_the_tokens_costs_more_than_the_worst_case(data: st.DataObject) -> None:
    model, tier = data.draw(st.sampled_from(PRICED)), data.draw(st.sampled_from(TIERS))
    content = [{"type": "image_url", "image_url": "https://example.com/a.png"}, {"type": "text", "text": '"1h"'}]
    media = data.draw(st.booleans())
    text = "x" * data.draw(st.integers(1, 300_000))
    message: dict[str, Any] = {"role": "user", "content": [*content, {"type": "text", "text": text}] if media else text}
    message["cache_control"] = {"type": "ephemeral", "ttl": "1h"}
    request = asked(model, [message], max_tokens=data.draw(st.integers(1, 9999)), n=data.draw(st.integers(1, 3)))
    if tier:
        request.params["service_tier"] = tier
    worst = worst_case(request)
    assert worst.input_tokens is not None
    assert worst.output_tokens is not None
    assert worst.nanousd is not None
    prompt, completion = data.draw(st.integers(0, worst.input_tokens)), data.draw(st.integers(1, worst.output_tokens))
    read, write, image = _split(data, prompt, 3)
    reasoning, sound, picture = _split(data, completion, 3)
    usage = used(
        prompt,
        completion,
        {
            "cached_tokens": read,
            "cache_creation_tokens": write,
            "image_tokens": image if media else 0,
            "cache_creation_token_details": {"ephemeral_1h_input_tokens": write // 2},
        },
        {"reasoning_tokens": reasoning, "audio_tokens": sound, "image_tokens": picture},
    )

    known = cost(request, usage, service_tier=data.draw(st.sampled_from([None, tier or None, "default"])))

    assert known is None or nanousd(known.usd) <= worst.nanousd


def _split(data: st.DataObject, total: int, parts: int) -> list[int]:
    cuts = sorted(data.draw(st.integers(0, total)) for _ in range(parts))
    return [high - low for low, high in zip([0, *cuts], cuts, strict=False)]


litellm().token_counter(model="gpt-4o", text="")  # points tiktoken to the tables that come with LiteLLM
ENCODINGS = {name: tiktoken.get_encoding(name) for name in ("o200k_base", "cl100k_base")}


@settings(max_examples=200, deadline=None)
@given(text=st.text(min_size=1, max_size=300), encoding=st.sampled_from(sorted(ENCODINGS)))
def test_a_text_has_no_more_tokens_than_its_bound(text: str, encoding: str) -> None:
    worst = worst_case(asked(GPT, text, max_tokens=1))

    assert worst.input_tokens is not None
    assert worst.input_tokens - 256 >= len(ENCODINGS[encoding].encode(text, disallowed_special=()))


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=300), model=st.sampled_from([GPT, CLAUDE, "gemini/gemini-2.5-pro"]))
def test_a_counted_bound_is_never_above_that_of_the_bytes(text: str, model: str) -> None:
    request = asked(model, text, max_tokens=1)

    fast, close = worst_case(request), worst_case(request, counted=True)

    assert fast.input_tokens is not None
    assert close.input_tokens is not None
    assert len(ENCODINGS["o200k_base"].encode(text, disallowed_special=())) <= close.input_tokens <= fast.input_tokens


def test_counting_is_closer_by_far_on_ordinary_text() -> None:
    request = asked(GPT, "The trout is a fish of cold and clear rivers. " * 400, max_tokens=1)

    assert (worst_case(request, counted=True).input_tokens or 0) < (worst_case(request).input_tokens or 0) / 3


@settings(max_examples=200, deadline=None)
@given(
    model=st.sampled_from([GPT, CLAUDE, "gemini/gemini-2.5-pro", "dashscope/qwen-flash"]),
    budget=st.integers(1, 10**8),
    n=st.integers(1, 4),
    tokens=st.none() | st.integers(1, 20_000),
    inside=st.sampled_from([{}, {"extra_body": {"max_tokens": None}}, {"prediction": {"content": "trout" * 99}}]),
)
def test_an_affordable_cap_fits_and_one_token_more_does_not(
    model: str, budget: int, n: int, tokens: int | None, inside: dict[str, Any]
) -> None:
    request = asked(model, n=n, **inside)
    worst = worst_case(request)
    assert worst.output_tokens is not None

    cap = affordable(request, worst, nanousd=budget, tokens=tokens)

    if cap > 0:
        fits = worst_case(capped(request, cap))
        assert fits.nanousd is not None
        assert fits.nanousd <= budget
        assert tokens is None or (fits.input_tokens or 0) + (fits.output_tokens or 0) <= tokens
    predicted = (worst_case(capped(request, 1)).output_tokens or 0) - n
    if 0 <= cap < (worst.output_tokens - predicted) // n:
        over = worst_case(capped(request, cap + 1))
        assert over.nanousd is not None
        spent = (over.input_tokens or 0) + (over.output_tokens or 0)
        assert over.nanousd > budget or (tokens is not None and spent > tokens)


def test_nothing_is_affordable_where_the_price_is_unknown() -> None:
    request = asked("acme/x")

    assert affordable(request, worst_case(request), nanousd=10**12) == 0


def test_an_unknown_price_says_the_line_that_would_supply_it() -> None:
    worst = worst_case(asked("acme/x", max_tokens=5))

    assert worst.nanousd is None
    assert worst.lacking == (
        "acme/x has no price in LiteLLM 1.106.2: write Model('acme/x', input_usd_per_mtok=..., output_usd_per_mtok=...)"
    )


def test_an_unknown_output_limit_says_the_line_that_would_supply_it() -> None:
    own = Model("acme/x", input_usd_per_mtok=1, output_usd_per_mtok=2)

    worst = worst_case(asked(own))

    assert (worst.output_tokens, worst.nanousd) == (None, None)
    assert "give max_tokens=, or Model('acme/x', max_output_tokens=...)" in worst.lacking


def test_an_own_price_and_an_own_limit_are_enough() -> None:
    own = Model("acme/x", input_usd_per_mtok=1, output_usd_per_mtok=2, max_output_tokens=100)

    worst = worst_case(asked(own))

    assert worst.input_tokens is not None
    assert (worst.output_tokens, worst.lacking) == (100, "")
    assert worst.nanousd == worst.input_tokens * 1000 + 100 * 2000


def test_a_cap_counts_for_each_of_n_answers() -> None:
    assert worst_case(asked(GPT, max_tokens=50, n=4)).output_tokens == 200


def test_of_two_caps_the_larger_counts() -> None:
    assert worst_case(asked(GPT, max_tokens=50, max_completion_tokens=70)).output_tokens == 70


@pytest.mark.parametrize(
    "inside",
    [
        {"extra_body": {"max_tokens": 9000}},
        {"extra_body": {"options": {"num_predict": 9000}}},
        {"extra_body": {"generationConfig": {"maxOutputTokens": 9000}}},
        {"provider_params": {"max_output_tokens": 9000}},
        {"provider_params": {"extra_body": {"max_completion_tokens": 9000}}},
    ],
)
def test_no_cap_inside_gets_round_the_one_outside(inside: dict[str, Any]) -> None:
    request = asked(GPT, max_tokens=50, **inside)

    assert worst_case(request).output_tokens == 9000
    assert worst_case(capped(request, 60)).output_tokens == 60
    assert worst_case(capped(request, 10)).output_tokens == 10


@pytest.mark.parametrize("lifted", [None, -1])
def test_a_cap_that_is_lifted_inside_is_none(lifted: int | None) -> None:
    request = asked(GPT, max_tokens=50, extra_body={"max_tokens": lifted})

    assert (has_cap(request), worst_case(request).output_tokens) == (False, 16384)
    assert worst_case(capped(request, 10)).output_tokens == 10


def test_a_field_of_a_schema_that_is_called_max_tokens_is_no_cap() -> None:
    schema = {"type": "object", "properties": {"max_tokens": {"type": "integer"}, "n": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = asked(GPT, extra_body={"response_format": wanted}, max_tokens=5)

    assert capped(request, 3).params["extra_body"] == {"response_format": wanted}
    assert worst_case(request).output_tokens == 5


def test_a_cap_that_litellm_may_drop_is_none() -> None:
    assert worst_case(asked(GPT, max_tokens=5, additional_drop_params=["max_tokens"])).output_tokens == 16384


def test_embeddings_have_no_output_and_no_cap() -> None:
    request = embeddings(["a", "b"], {}).for_model(Model("openai/text-embedding-3-small"))

    worst = worst_case(request)

    assert worst.output_tokens == 0
    assert worst.nanousd == -(-(worst.input_tokens or 0) * 20 // 1)
    assert capped(request, 5) is request


def test_the_cap_is_what_is_sent(sim: Simulator) -> None:
    gpt = Model(GPT, api_base=sim.api_base("openai"), api_key="sk-test-key")
    request = capped(asked(gpt, extra_body={"max_completion_tokens": 99, "top_k": 1}, max_tokens=80), 33)

    llmbridge.complete(FISH, model=gpt, **request.params)

    body = sim.requests[0].body
    assert (body["max_tokens"], body["max_completion_tokens"], body["top_k"]) == (33, 33, 1)


def test_a_cap_of_ours_reaches_a_provider_that_calls_it_otherwise(sim: Simulator) -> None:
    gemini = Model("gemini/gemini-2.5-flash", api_base=sim.api_base("gemini"), api_key="sk-test-key")

    llmbridge.complete(FISH, model=gemini, **capped(asked(gemini), 33).params)

    assert '"max_output_tokens": 33' in json.dumps(sim.requests[0].body)


def test_a_capped_request_leaves_the_callers_objects_alone() -> None:
    extra = {"max_tokens": 99}
    request = asked(GPT, extra_body=extra)

    capped(request, 5)

    assert (extra, dict(request.params)) == ({"max_tokens": 99}, {"extra_body": {"max_tokens": 99}})


def content(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": FISH}, *parts]}]


@pytest.mark.parametrize(("model", "tokens"), [(GPT, 48_169), ("openai/gpt-4o", 5_000), ("acme/x", 16_384)])
def test_an_image_counts_as_the_dearest_that_the_provider_makes_of_one(model: str, tokens: int) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}

    with_image = worst_case(asked(model, content(image), max_tokens=1)).input_tokens or 0

    assert tokens <= with_image - (worst_case(asked(model, content(), max_tokens=1)).input_tokens or 0) < tokens + 100


def test_sound_counts_by_its_length() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 160_000, "format": "wav"}}

    heard = worst_case(asked("openai/gpt-audio", content(sound), max_tokens=1)).input_tokens or 0

    assert 10_000 < heard < 10_600


UNKNOWN: list[dict[str, Any]] = [
    {"type": "file", "file": {"file_id": "file-1"}},
    {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
    {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AAAA"}},
    {"type": "image_url", "image_url": "gs://bucket/film.mp4"},
    {"type": "input_audio", "input_audio": {"data": "https://example.com/a.wav"}},
    {"type": "something_new"},
]


@pytest.mark.parametrize("part", UNKNOWN)
def test_what_has_no_known_size_counts_as_the_whole_context_window(part: dict[str, Any]) -> None:
    assert worst_case(asked("openai/gpt-4o", content(part), max_tokens=1)).input_tokens == 128_000


@pytest.mark.parametrize(
    "params",
    [
        {"cached_content": "cachedContents/1"},
        {"extra_body": {"previous_response_id": "resp_1"}},
        {"tools": [{"type": "code_interpreter"}]},
        {"web_search_options": {}},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ],
)
def test_what_the_provider_fetches_counts_as_the_whole_context_window(params: dict[str, Any]) -> None:
    assert worst_case(asked("openai/gpt-4o", max_tokens=1, **params)).input_tokens == 128_000


def test_what_cannot_be_bounded_is_unknown_and_says_why() -> None:
    own = Model("acme/x", input_usd_per_mtok=1, output_usd_per_mtok=1)

    worst = worst_case(asked(own, content(UNKNOWN[0]), max_tokens=1))

    assert (worst.input_tokens, worst.nanousd) == (None, None)
    assert "a content part of type 'file'" in worst.lacking


class Fish(BaseModel):
    name: str


def test_tools_and_schemas_are_input_too() -> None:
    plain = worst_case(asked(GPT, max_tokens=1)).input_tokens or 0

    assert (worst_case(asked(GPT, max_tokens=1, tools=[TOOL])).input_tokens or 0) > plain + 600
    typed = chat(FISH, {"max_tokens": 1}, Fish).for_model(Model(GPT))
    assert (worst_case(typed).input_tokens or 0) > plain + 600


def test_a_prediction_that_may_be_rejected_is_output() -> None:
    prediction = {"type": "content", "content": "x" * 1000}

    assert (worst_case(asked(GPT, max_tokens=5, prediction=prediction)).output_tokens or 0) > 1000


def test_searches_are_in_the_worst_case() -> None:
    tool = {"type": "web_search_20250305", "name": "web_search"}
    claude = "anthropic/claude-sonnet-4-5"
    ten = worst_case(asked(claude, max_tokens=1, tools=[{**tool, "max_uses": 10}])).nanousd or 0
    two = worst_case(asked(claude, max_tokens=1, tools=[{**tool, "max_uses": 2}])).nanousd or 0

    assert ten - two == 8 * 10_000_000


def test_a_local_model_costs_nothing_at_worst() -> None:
    assert worst_case(asked("ollama/llama3.2")).nanousd == 0


def test_the_answer_shares_the_window_with_the_question() -> None:
    shared = next(name for name in PRICED if _shares(name))
    window = (entry_of(asked(shared)) or pytest.fail("no entry")).fields["max_input_tokens"]

    worst = worst_case(asked(shared))

    assert (worst.input_tokens or 0) + (worst.output_tokens or 0) == window


def _shares(name: str) -> bool:
    fields = (entry_of(asked(name)) or pytest.fail("no entry")).fields
    return bool(fields.get("max_output_tokens") == fields.get("max_input_tokens")) and fields["max_input_tokens"] > 9000


@pytest.mark.parametrize(
    ("params", "floor"), [({}, 64), ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, 1088)]
)
def test_a_useful_answer_has_a_floor(params: dict[str, Any], floor: int) -> None:
    assert floor_tokens(asked(CLAUDE, **params)) == floor


def test_a_stream_that_was_cut_costs_its_input_and_what_was_seen() -> None:
    request = asked(GPT, max_tokens=5000)
    worst = worst_case(request)

    nothing, some, all_of_it = (seen_nanousd(request, worst, seen) for seen in (0, 100, 10**9))

    assert nothing is not None
    assert some == nothing + 100 * 600
    assert all_of_it == worst.nanousd


@pytest.mark.parametrize(
    ("model", "params"), [("openai/o3", {}), (GPT, {"reasoning_effort": "low"}), ("gemini/gemini-2.5-flash", {})]
)
def test_a_stream_of_a_model_that_thinks_unseen_costs_the_worst_case(model: str, params: dict[str, Any]) -> None:
    request = asked(model, max_tokens=500, **params)
    worst = worst_case(request)

    assert seen_nanousd(request, worst, 3) == worst.nanousd
