"""What OpenAI's SDK sends for us is what it sends for anybody."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
from typing import Any

import httpx
import openai
import pytest
from openai.resources.chat import AsyncCompletions, Completions
from openai.resources.embeddings import AsyncEmbeddings, Embeddings

from llmbridge.provider import sdk
from tests import wire_records
from tests.conftest import Run


KNOWN = set(inspect.signature(Completions.create).parameters)
TALK = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": [{"type": "text", "text": "Größe?"}, {"type": "image_url", "image_url": {"url": "u"}}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_7", "type": "function", "function": {"name": "size", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "call_7", "content": "40 cm"},
    {"role": "user", "content": "And?", "name": "alice", "cache_control": {"type": "ephemeral"}},
]
TOOLS = [{"type": "function", "function": {"name": "size", "parameters": {"type": "object", "properties": {}}}}]
CHATS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "Name a fish."}]},
    "of many kinds": {"messages": TALK, "tools": TOOLS, "tool_choice": "auto", "temperature": 0.5, "max_tokens": 7},
    "with more than the SDK knows": {"messages": TALK[:1], "tools": None, "extra_body": {"top_k": 3, "tools": TOOLS}},
    "streamed": {"messages": TALK[:1], "stream": True, "stream_options": {"include_usage": True}},
    "in a shape": {"messages": TALK[:1], "response_format": {"type": "json_object"}, "extra_headers": {"X-Fish": "1"}},
}
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "one": {"input": "a trout"},
    "many": {"input": ["a trout", "a pike"], "dimensions": 64},
    "of tokens": {"input": [[1, 2], [3]], "encoding_format": "float"},
}
CLIENTS = {
    "openai": (openai.OpenAI, openai.AsyncOpenAI, sdk.OpenAI, sdk.AsyncOpenAI, {"base_url": "http://fish/v1"}),
    "azure": (
        *(openai.AzureOpenAI, openai.AsyncAzureOpenAI, sdk.AzureOpenAI, sdk.AsyncAzureOpenAI),
        {"azure_endpoint": "http://fish", "api_version": "2024-10-21"},
    ),
}


class Sent(httpx.MockTransport):
    """Notes what was sent, and answers nothing."""

    def __init__(self) -> None:
        super().__init__(self.refuse)
        self.requests: list[Any] = []

    def refuse(self, request: httpx.Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if not name.startswith("x-stainless")}
        self.requests.append((str(request.url), headers, json.loads(request.content)))
        return httpx.Response(400)


def sent(client: Any, way: str, arguments: dict[str, Any], run: Run) -> list[Any]:
    """What *client* sends, in either colour."""
    transport = Sent()
    is_async = issubclass(client[0], openai.AsyncOpenAI)
    http = (httpx.AsyncClient if is_async else httpx.Client)(transport=transport)
    made = client[0](api_key="sk-test-key", http_client=http, max_retries=0, **client[1])
    create = (made.chat.completions if way == "chat" else made.embeddings).with_raw_response.create
    with contextlib.suppress(openai.APIStatusError):
        answer = create(model="fish-1", **arguments)
        run(answer) if is_async else None
    return transport.requests


def assert_same(way: str, arguments: dict[str, Any], name: str, run: Run) -> None:
    *classes, where = CLIENTS[name]
    theirs, theirs_async, ours, ours_async = [sent((each, where), way, arguments, run) for each in classes]
    assert (ours, ours_async) == (theirs, theirs_async)
    assert len(ours) == len(ours_async) == 1


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("kind", CHATS)
def test_a_chat_is_sent_as_the_sdk_sends_it(kind: str, name: str, run: Run) -> None:
    assert_same("chat", CHATS[kind], name, run)


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_embeddings_are_asked_for_as_the_sdk_does(kind: str, name: str, run: Run) -> None:
    assert_same("embeddings", EMBEDDINGS[kind], name, run)


@wire_records.needed
def test_recorded_chats_are_sent_as_the_sdk_sends_them(run: Run) -> None:
    chats = [
        body
        for each in wire_records.records().values()
        if each["family"] == "openai_chat" and isinstance(body := each["request"]["body"], dict) and "messages" in body
    ]
    for body in chats:
        known = {name: value for name, value in body.items() if name in KNOWN - {"model"}}
        assert_same("chat", {**known, "extra_body": {key: body[key] for key in body.keys() - KNOWN}}, "openai", run)
    assert len(chats) > 100


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(
    ("way", "arguments", "left"),
    [
        ("chat", CHATS["of many kinds"], ["model"]),
        ("embeddings", EMBEDDINGS["many"], ["dimensions", "encoding_format", "model"]),
    ],
)
def test_the_sdk_goes_through_no_message_tool_or_input_of_ours(
    way: str, arguments: dict[str, Any], left: list[str], colour: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_through: list[dict[str, Any]] = []
    for resource in (openai.resources.chat.completions.completions, openai.resources.embeddings):
        for name in ("maybe_transform", "async_maybe_transform"):
            monkeypatch.setattr(resource, name, lambda data, *_: gone_through.append(data), raising=False)

    with contextlib.suppress(TypeError):  # the async one is awaited
        sent((sdk.OpenAI if colour == "sync" else sdk.AsyncOpenAI, CLIENTS["openai"][-1]), way, arguments, run)

    (data,) = gone_through
    assert sorted(name for name, value in data.items() if not isinstance(value, openai.Omit)) == left


@pytest.mark.parametrize("kind", [Completions, AsyncCompletions, Embeddings, AsyncEmbeddings])
def test_who_has_put_something_around_the_sdk_sees_what_is_asked(
    kind: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    create = kind.create

    @functools.wraps(create)
    def watched(self: Any, **arguments: Any) -> Any:
        seen.append(arguments)
        return create(self, **arguments)

    monkeypatch.setattr(kind, "create", watched)
    is_async, is_chat = kind.__name__.startswith("Async"), kind.__name__.endswith("Completions")
    made = (sdk.AsyncOpenAI if is_async else sdk.OpenAI, CLIENTS["openai"][-1])
    arguments = CHATS["of many kinds"] if is_chat else EMBEDDINGS["many"]

    assert len(sent(made, "chat" if is_chat else "embeddings", arguments, run)) == 1
    assert [arguments.items() <= each.items() for each in seen] == [True]
