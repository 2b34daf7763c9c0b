"""The cache key, in both directions: what may be answered differently never shares one, what is sent the same does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Literal

import litellm
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel, create_model

from llmbridge import request
from llmbridge.cache import key as key_of
from llmbridge.cache.key import ADDRESSES, FLAGS, KEYED, SETTINGS, UNKEYED, UNKEYED_HEADERS, VARIABLES, _places
from llmbridge.params import EmbedParams, Params, Transport
from llmbridge.request import Model, Request


MODEL = "openai/gpt-4o-mini"
HOUSE = "http://localhost:4000/v1"


def ask(messages: Any = "Name a fish.", *, model: str = MODEL, response_model: Any = None, **params: Any) -> Request:
    return request.chat(messages, params, response_model).for_model(Model(model))


def key(asked: Request, **more: Any) -> str:
    made = key_of(asked, **more)
    assert made is not None
    return made


class Fish(BaseModel):
    name: str


def other_fish() -> type[BaseModel]:
    return create_model("Fish", name=(str, ...), legs=(int, 0))


def tool(name: str = "look", **schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **schema}}}


def called(call_id: str) -> list[dict[str, Any]]:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call, call | {"id": "b"}]},
        {"role": "tool", "tool_call_id": call_id, "content": "a pike"},
    ]


# Axes along which two requests may differ in their answer; the values of one axis never share a key, nor do two axes.
# Many are bugs of other caches (RELIABILITY 2.2).
AXES: dict[str, list[Request]] = {
    "the plain question": [ask()],
    "model": [ask(model="openai/gpt-4o"), ask(model="azure/gpt-4o-mini"), ask(model="gpt-4o-mini")],
    "text": [
        ask("Name a fish"),
        ask("Name a fish. "),
        ask("name a fish."),
        ask("Name a fi\u017fh."),
        ask("Name a\0fish."),
    ],
    "unicode form": [ask("caf\u00e9"), ask("cafe\u0301")],
    "role": [
        ask([{"role": "system", "content": "Name a fish."}]),
        ask([{"role": "developer", "content": "Name a fish."}]),
    ],
    "two messages or one": [
        ask([{"role": "user", "content": "Name"}, {"role": "user", "content": "a fish."}]),
        ask([{"role": "user", "content": "a fish."}, {"role": "user", "content": "Name"}]),
        ask([{"role": "user", "content": ["Name", "a fish."]}]),
        ask([{"role": "user", "content": "Name a fish.", "name": "bob"}]),
    ],
    "image": [
        ask([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, "detail": detail}}]}])
        for url, detail in [("https://x/1.png", "low"), ("https://x/2.png", "low"), ("https://x/1.png", "high")]
    ],
    "tool_call_id": [ask(called("a")), ask(called("b"))],
    "delimiters": [
        ask(user="bob", stop="x"),
        ask(user="bobstop: x"),
        ask(user="bob", stop=["x", "y"]),
        ask(stop="bobx"),
    ],
    "temperature": [ask(temperature=value) for value in (0, 1, 0.7, 0.1 + 0.2, 0.3)],
    "top_p": [ask(top_p=value) for value in (0, 1, 0.5)],
    "max_tokens": [ask(max_tokens=10), ask(max_tokens=11), ask(max_completion_tokens=10)],
    "seed": [ask(seed=0), ask(seed=1)],
    "n": [ask(n=1), ask(n=2)],
    "penalties": [ask(presence_penalty=1), ask(frequency_penalty=1), ask(repetition_penalty=1)],
    "logit_bias": [ask(logit_bias={"1": 5}), ask(logit_bias={"1": -5}), ask(logit_bias={"2": 5})],
    "logprobs": [ask(logprobs=True), ask(logprobs=False), ask(logprobs=True, top_logprobs=2)],
    "tools": [ask(tools=[tool()]), ask(tools=[tool("peek")]), ask(tools=[tool(), tool("peek")]), ask(tools=[])],
    "a tool's schema": [ask(tools=[tool(properties={"a": {"type": kind}})]) for kind in ("string", "integer")],
    "tool_choice": [ask(tools=[tool()], tool_choice=value) for value in ("auto", "none", "required")],
    "parallel_tool_calls": [ask(parallel_tool_calls=True), ask(parallel_tool_calls=False)],
    "functions": [ask(functions=[{"name": "look"}]), ask(functions=[{"name": "look"}], function_call="none")],
    "response_format": [ask(response_format={"type": "json_object"}), ask(response_format={"type": "text"})],
    "response_model": [ask(response_model=Fish), ask(response_model=other_fish())],
    "its name": [ask(response_model=create_model("Bird", name=(str, ...)))],
    "prediction": [ask(prediction={"type": "content", "content": text}) for text in ("a", "b")],
    "reasoning": [ask(reasoning_effort="low"), ask(reasoning_effort="high"), ask(thinking={"budget_tokens": 1024})],
    "verbosity": [ask(verbosity="low"), ask(verbosity="high")],
    "modalities": [ask(modalities=["text"]), ask(modalities=["text", "audio"], audio={"voice": "ash"})],
    "web search": [ask(web_search_options={}), ask(web_search_options={"search_context_size": "low"})],
    "what one provider knows": [
        ask(num_ctx=2048),
        ask(num_ctx=4096),
        ask(top_k=5),
        ask(min_p=0.1),
        ask(top_a=0.1),
        ask(safety_settings=[{"category": "x", "threshold": "y"}]),
        ask(cached_content="c/1"),
    ],
    "extra_body": [ask(extra_body={"guided_json": {}}), ask(extra_body={"guided_json": {"a": 1}})],
    "provider_params": [ask(provider_params={"num_beams": 1}), ask(provider_params={"num_beams": 2})],
    "how LiteLLM treats what is not supported": [
        ask(drop_params=True),
        ask(drop_params=False),
        ask(additional_drop_params=["seed"]),
        ask(allowed_openai_params=["tools"]),
    ],
    "user": [ask(user="bob"), ask(user="alice")],
    "metadata": [ask(metadata={"a": "1"}), ask(metadata={"a": "2"})],
    "the server": [
        ask(api_base=base)
        for base in (
            HOUSE,
            "http://localhost:4001/v1",
            "https://localhost:4000/v1",
            "http://localhost:4000/V1",
            "http://localhost:4000",
            "http://127.0.0.1:4000/v1",
            HOUSE + "?pool=2",
        )
    ],
    "api_version": [ask(api_version="2024-10-21"), ask(api_version="2025-01-01")],
    "custom_llm_provider": [ask(custom_llm_provider="azure"), ask(custom_llm_provider="groq")],
    "organization": [ask(organization="org-1"), ask(organization="org-2"), ask(deployment_id="org-1")],
    "region": [ask(aws_region_name="us-east-1"), ask(aws_region_name="eu-west-1"), ask(aws_profile_name="eu-west-1")],
    "project": [ask(vertex_project="a"), ask(vertex_project="b"), ask(vertex_location="a")],
    "a header": [ask(extra_headers={"anthropic-beta": "x"}), ask(extra_headers={"anthropic-beta": "y"})],
    "an embedding": [
        request.embeddings(inputs, dict(params)).for_model(Model(MODEL))
        for inputs, params in [
            ("Name a fish.", {}),
            ("Name a fish.", {"dimensions": 8}),
            ([[1, 2]], {}),
            ("Name a fish.", {"encoding_format": "base64"}),
            ("Name a fish.", {"input_type": "query"}),
        ]
    ],
}


def test_no_two_points_of_any_axes_share_a_key() -> None:
    points = [(f"{axis} {number}", asked) for axis, many in AXES.items() for number, asked in enumerate(many)]

    shared: dict[str, list[str]] = {}
    for name, asked in points:
        shared.setdefault(key(asked), []).append(name)

    assert len(AXES) >= 29
    assert [names for names in shared.values() if len(names) > 1] == []


SAME = {
    "a number's spelling": (ask(temperature=1, top_p=0), ask(temperature=1.0, top_p=-0.0)),
    "a list's": (ask(stop=["x", "y"]), ask(stop=("x", "y"))),
    "the order of a dict": (
        ask(tools=[{"type": "function", "function": {"name": "f"}}], seed=1, n=2),
        ask(n=2, seed=1, tools=[{"function": {"name": "f"}, "type": "function"}]),
    ),
    "a token id": (ask(logit_bias={50256: -100}), ask(logit_bias={"50256": -100.0})),
    "a text and its one message": (ask(), ask([{"role": "user", "content": "Name a fish."}])),
    "None and absent": (ask(), ask(temperature=None, api_base=None)),
    "an address": (ask(api_base=HOUSE), ask(api_base=" HTTP://LocalHost:4000/v1/ ")),
    "a default port": (ask(api_base="https://x/v1"), ask(api_base="https://X:443/v1/")),
    "a user in an address": (ask(api_base="https://x/v1"), ask(api_base="https://bob:secret@x/v1")),
    "a header's case": (ask(extra_headers={"X-A": "1"}), ask(extra_headers={"x-a": "1"})),
    "a header that is a credential": (ask(extra_headers={}), ask(extra_headers={"Authorization": "Bearer abcdefgh"})),
    "a header that names one request": (ask(extra_headers={}), ask(extra_headers={"traceparent": "00-1-2-00"})),
    "one class made twice": (ask(response_model=other_fish()), ask(response_model=other_fish())),
}


@pytest.mark.parametrize("what", SAME)
def test_what_is_sent_the_same_has_one_key(what: str) -> None:
    one, other = SAME[what]
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (0, False), (0, "0"), (0, None), (1, "1"), (0.1, "0.1"), ([], {})]
)
def test_values_that_python_or_a_text_would_mix_up_stay_apart(one: Any, other: Any) -> None:
    assert key(ask(extra_body={"x": one})) != key(ask(extra_body={"x": other}))
    assert key(ask(extra_body={"x": one})) != key(ask(extra_body={}))


@pytest.mark.parametrize("name", UNKEYED)
def test_a_name_on_the_deny_list_changes_no_key(name: str) -> None:
    value = {"timeout": 5.0, "stream_options": {"include_obfuscation": False}}.get(name, "something")
    assert key(ask(**{name: value})) == key(ask())


def test_every_parameter_is_classified() -> None:
    known = {*Params.__annotations__, *EmbedParams.__annotations__, *Transport.__annotations__}
    assert known == KEYED | set(UNKEYED)
    assert not KEYED & set(UNKEYED)
    assert {name.lower() for name in UNKEYED_HEADERS} == UNKEYED_HEADERS


def test_what_a_model_costs_changes_no_key() -> None:
    dear = Model(MODEL, input_usd_per_mtok=1, output_usd_per_mtok=2, max_output_tokens=9)
    assert key(request.chat("Name a fish.", {}, None).for_model(dear)) == key(ask())


def test_tenants_and_samples_never_share() -> None:
    spaces: list[tuple[str, ...]] = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",), ("",), ("a,b",), ('a","b',)]
    keys = {
        key(asked, namespace=space, sample=sample)
        for space in spaces
        for sample in (0, 1)
        for asked in (ask(), ask("?"))
    }
    assert len(keys) == len(spaces) * 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x", "\ud800", {("a",): 1}])
def test_what_is_not_json_has_no_key(value: Any) -> None:
    asked = ask()
    asked.params["extra_body"] = {"x": value}  # past the validation
    assert key_of(asked) is None


def test_neither_do_endless_depth_two_equal_names_or_a_model_without_a_schema() -> None:
    deep: Any = []
    deep.append(deep)
    unwritable = create_model(
        "Unwritable", call=(types.FunctionType, ...), __config__={"arbitrary_types_allowed": True}
    )
    for value in (deep, {1: "a", "1": "b"}):
        asked = ask()
        asked.params["extra_body"] = {"x": value}
        assert key_of(asked) is None
    assert key_of(ask(response_model=unwritable)) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def marked(value: Any) -> Any:
    """*value* so that Python's == is equality in JSON: True is not 1."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, (list, tuple)):
        return [marked(item) for item in value]
    if isinstance(value, dict):
        return {name: marked(item) for name, item in value.items()}
    return value


def respelled(value: Any, data: st.DataObject) -> Any:
    """*value* in other words of Python: floats for integers, tuples for lists, dicts in another order."""
    if isinstance(value, list):
        items = [respelled(item, data) for item in value]
        return tuple(items) if data.draw(st.booleans()) else items
    if isinstance(value, dict):
        names = data.draw(st.permutations(list(value)))
        return {name: respelled(value[name], data) for name in names}
    if type(value) is int and abs(value) < 2**53 and data.draw(st.booleans()):
        return float(value)
    return value


@settings(max_examples=150, deadline=None, database=None)
@given(JSON, JSON)
def test_two_values_share_a_key_if_and_only_if_they_are_equal_in_json(one: Any, other: Any) -> None:
    same = marked(one) == marked(other)
    assert (key(ask(extra_body={"x": one})) == key(ask(extra_body={"x": other}))) == same


@settings(max_examples=100, deadline=None, database=None)
@given(JSON, st.data())
def test_other_spellings_of_a_value_share_its_key(value: Any, data: st.DataObject) -> None:
    assert key(ask(extra_body={"x": value})) == key(ask(extra_body={"x": respelled(value, data)}))


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.text(max_size=4), min_size=1, max_size=3), st.lists(st.text(max_size=4), min_size=1, max_size=3))
def test_two_conversations_share_a_key_if_and_only_if_they_are_the_same(one: list[str], other: list[str]) -> None:
    first, second = ([{"role": "user", "content": text} for text in texts] for texts in (one, other))
    assert (key(ask(first)) == key(ask(second))) == (one == other)


def test_a_key_is_the_same_in_every_process_and_imports_nothing_heavy() -> None:
    script = """
import json, sys
from llmbridge import request
from llmbridge.cache import key
from llmbridge.request import Model
asked = request.chat("caf\\u00e9", {"seed": 1, "metadata": {"b": "1", "a": "2"}, "tools": [{"x": 1.0}]}, None)
print(json.dumps([key(asked.for_model(Model("openai/gpt-4o-mini"))),
    [name for name in ("litellm", "httpx", "openai", "diskcache") if name in sys.modules]]))
"""
    said = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", script],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for seed in ("0", "1")
    ]
    here = key(ask("caf\u00e9", tools=[{"x": 1}], metadata={"a": "2", "b": "1"}, seed=1))
    assert said == [[here, []]] * 2  # here, LiteLLM is loaded


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_BASE", "HOSTED_VLLM_API_BASE", "AZURE_API_VERSION"])
def test_two_servers_named_by_the_environment_never_share(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key(ask())]
    for value in ("http://localhost:4000/v1", "http://localhost:4001/v1"):
        monkeypatch.setenv(name, value)
        keys.append(key(ask()))
    monkeypatch.setenv(name, "")  # which is as good as absent

    assert len(set(keys)) == 3
    assert key(ask()) == keys[0]


def test_an_address_in_the_environment_does_not_matter_to_a_request_that_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = key(ask(api_base=HOUSE))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:4001/v1")
    assert key(ask(api_base=HOUSE)) == before


@pytest.mark.parametrize("setting", [*SETTINGS, *FLAGS])
def test_litellms_own_settings_count_once_it_is_loaded(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(ask())
    assert not getattr(litellm, setting), "or a key would change when LiteLLM is loaded"
    monkeypatch.setattr(litellm, setting, {"x-team": "1"} if setting == "headers" else "something")
    assert key(ask()) != before


# Of the variables that look like a place: those that do not say where a prompt goes.
ELSEWHERE = Literal["files, batches", "credentials", "images", "search", "logs"]
NO_PLACE: dict[str, ELSEWHERE] = {
    "ACTIONS_ID_TOKEN_REQUEST_URL": "credentials",
    "AGENTCORE_GATEWAY_URL": "search",
    "DASHSCOPE_API_BASE_IMAGE": "images",
    "QWENCLOUD_API_BASE_IMAGE": "images",
    "QWEN_AI_PLATFORM_API_BASE_IMAGE": "images",
    "GIGACHAT_AUTH_URL": "credentials",
    "GITHUB_COPILOT_ACCESS_TOKEN_URL": "credentials",
    "GITHUB_COPILOT_API_KEY_URL": "credentials",
    "GITHUB_COPILOT_DEVICE_CODE_URL": "credentials",
    "OR_SITE_URL": "logs",
    "VERCEL_SITE_URL": "logs",
    "WATSONX_IAM_URL": "credentials",
    "AZURE_AUTHORITY_HOST": "credentials",
}
ENDINGS = "API_BASE BASE_URL _URL ENDPOINT _HOST REGION LOCATION PROJECT PROJECT_ID ORGANIZATION ACCOUNT_ID API_VERSION"
READS = r"(?:get_secret(?:_str)?|getenv|environ\.get|environ)[(\[]\s*"


def test_every_place_that_litellm_reads_from_the_environment_is_in_the_key() -> None:
    package = Path(litellm.__file__).parent
    files = [
        *(package / "llms").rglob("*.py"),
        package / "litellm_core_utils" / "get_llm_provider_logic.py",
        package / "main.py",
    ]
    reading = re.compile(READS + rf"[\"']([A-Z][A-Z0-9_]*(?:{'|'.join(ENDINGS.split())}|SPACE_ID)(?:_IMAGE)?)[\"']")
    read = {name for path in files for name in reading.findall(path.read_text())}

    assert len(read) > 100
    missing = read - set(NO_PLACE) - set(_places(tuple(name.encode() for name in read)))
    assert missing == set()
    assert not [name for name in VARIABLES if name.endswith(ADDRESSES)]
