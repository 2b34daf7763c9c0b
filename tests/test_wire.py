"""Real traffic of 27 providers, answered on loopback, through all verbs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import llmbridge
from llmbridge.errors import LLMBridgeError, ProviderError
from llmbridge.params import EmbedParams, Params
from llmbridge.provider import litellm
from tests import wire_records
from tests.conftest import Run


RECORDS = wire_records.records()
pytestmark = wire_records.needed

# What LiteLLM 1.106 does not let us read right, by reason. Each ends in an error of the tree or in this difference.
KNOWN = {
    id: reason
    for reason, ids in {
        "tools that the provider runs itself are reported as calls for the caller": (
            "anthropic-chat-3f07c569f2 anthropic-chat-e69cc4c8c7 anthropic-chat_stream-1cfca05d68 "
            "anthropic-chat_stream-d1c787bfb9 bedrock-chat-33eb07bf79 bedrock-chat_stream-2d96dc1968"
        ),
        "LiteLLM cannot read the event lines of Cohere's v2 streams: an error": (
            "cohere-chat_stream-350ef05b10 cohere-chat_stream-61f94985b1 cohere-chat_stream-6e7ac8e226 "
            "cohere-chat_stream-99c5bbae7e cohere-chat_stream-d67c51098d"
        ),
        "no token counts reach us: LiteLLM's estimate, and marked as one": (
            "cohere-chat_stream-ea5bc334e4 cohere-chat_stream-ea6b11aaf7 groq-chat_stream-9c7d53db03 "
            "bedrock-chat_stream-5c66801021 bedrock-chat_stream-83a5febcd6 snowflake-chat_stream-8fab40e52f"
        ),
        "LiteLLM calls another endpoint of this provider, or a fixed host: an error": (
            "cohere-embedding-ec872ee01d snowflake-chat-ab7053d66c replicate-chat-b88737649b"
        ),
        "LiteLLM fails on this request before anything is sent: an error": (
            "anthropic-error-ce1e56d308 bedrock-chat-e2728648c7 bedrock-chat-fe3c25b162 bedrock-chat_stream-6ecb4bd40a "
            "vertex_ai-error-efffc31609"
        ),
        "LiteLLM fetches the image itself, which a suite without network refuses: an error": (
            "bedrock-error-7ec4e3ba02"
        ),
        "LiteLLM cannot read an answer of this shape: an error": (
            "bedrock-chat-06e1c9644b groq-chat-012a1d59e4 groq-chat-df86f3701c openai_like-chat-2786fe8e03 "
            "openai_like-chat-cf9877d80c azure-chat_stream-b91731016a"
        ),
        "LiteLLM never says whether a Titan stream is complete: an error": "bedrock-chat_stream-c29bdf5237",
        "LiteLLM says stop for every bedrock/invoke answer of Llama": "bedrock-chat-6885a928d4",
        "LiteLLM gives Ollama's tool calls ids of its own": (
            "ollama-chat_stream-ac44fd6a68 ollama-chat_stream-fe1f3cacf0"
        ),
    }.items()
    for id in ids.split()
}


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with wire_records.module("serve").Server(RECORDS) as running:
        yield running


@pytest.fixture(autouse=True)
def a_google_token(monkeypatch: pytest.MonkeyPatch) -> None:
    litellm()
    from litellm.llms.vertex_ai.vertex_llm_base import VertexBase

    async def token(*_: Any, **__: Any) -> tuple[str, str]:
        return "dummy-token", "proj"

    monkeypatch.setattr(VertexBase, "_ensure_access_token", lambda *_, **__: ("dummy-token", "proj"))
    monkeypatch.setattr(VertexBase, "_ensure_access_token_async", token)


def arguments(record: dict[str, Any], base: str) -> dict[str, Any]:
    """The record's call, with what no provider but its own knows moved to provider_params."""
    asked = {
        name: value.replace("{base}", base) if isinstance(value, str) else value
        for name, value in record["call"]["arguments"].items()
    }
    known = EmbedParams if record["call"]["verb"] == "embed" else Params
    first = {"model", "messages", "input"}
    special = {name: asked.pop(name) for name in list(asked) if name not in known.__annotations__ and name not in first}
    if special:
        asked["provider_params"] = special
    if record["call"]["verb"] != "embed":
        asked["drop_params"] = True  # some callers sent parameters that LiteLLM's table denies the model
    return asked


def ask(record: dict[str, Any], base: str) -> Any:
    asked = arguments(record, base)
    match record["call"]["verb"]:
        case "embed":
            return llmbridge.embed(asked.pop("input"), **asked)
        case "complete":
            return llmbridge.complete(asked.pop("messages"), **asked)
        case _:
            with llmbridge.stream(asked.pop("messages"), **asked) as chunks:
                for _chunk in chunks:
                    pass
            return chunks.completion


async def aask(record: dict[str, Any], base: str) -> Any:
    asked = arguments(record, base)
    match record["call"]["verb"]:
        case "embed":
            return await llmbridge.aembed(asked.pop("input"), **asked)
        case "complete":
            return await llmbridge.acomplete(asked.pop("messages"), **asked)
        case _:
            async with llmbridge.astream(asked.pop("messages"), **asked) as chunks:
                async for _chunk in chunks:
                    pass
            return chunks.completion


def wrong(record: dict[str, Any], outcome: Any) -> list[str]:
    compare = wire_records.module("compare")
    if isinstance(outcome, LLMBridgeError):
        if record["expect"].get("error") and record["kind"] != "error":
            return []
        if record["kind"] != "error":
            return [f"{type(outcome).__name__}: {outcome}"]
        kinds = {cls.__name__ for cls in type(outcome).__mro__}
        return list(compare.error_differences(record, getattr(outcome, "status", None), kinds)[0])
    if record["kind"] == "error":
        return ["no error was raised"]
    read = compare.embeddings if record["kind"] == "embedding" else compare.completion
    return list(compare.differences(record, read(outcome))[0])


def outcome_of(record: dict[str, Any], base: str, run: Run | None) -> Any:
    """What the sync verb gives, or with *run* the async one; an error of the tree is an outcome."""
    try:
        return ask(record, base) if run is None else run(aask(record, base))
    except ProviderError as error:
        return error


@pytest.mark.parametrize(
    ("colour", "options"),
    [
        pytest.param("sync", {}, id="sync-whole"),
        pytest.param("async", {"chunk": 7}, id="async-in_sevens"),
        pytest.param("async", {}, id="async-whole", marks=pytest.mark.long),
        pytest.param("sync", {"chunk": 7}, id="sync-in_sevens", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("id", sorted(RECORDS))
def test_a_recorded_exchange_is_read_right(id: str, colour: str, options: Any, server: Any, run: Run) -> None:
    outcome = outcome_of(RECORDS[id], server.base(id, **options), run if colour == "async" else None)

    differences = wrong(RECORDS[id], outcome)
    assert bool(differences) == (id in KNOWN), differences


ESTIMATED = [id for id, reason in KNOWN.items() if "LiteLLM's estimate" in reason]


@pytest.mark.parametrize("id", ESTIMATED)
def test_counts_that_are_not_the_providers_say_so(id: str, server: Any) -> None:
    usage = outcome_of(RECORDS[id], server.base(id), None).usage

    assert usage.estimated


# LiteLLM sends these with a client of its own, whatever it is given
UNSEEN = {
    ("cohere", "complete"),
    ("cohere", "stream"),
    ("gemini", "embed"),
    ("vertex_ai", "embed"),
    ("ollama", "embed"),
}
BOTH_SEEN = [id for id, r in sorted(RECORDS.items()) if (r["provider"], r["call"]["verb"]) not in UNSEEN]


@pytest.mark.parametrize("id", BOTH_SEEN)
def test_both_colours_send_the_same_bytes(id: str, server: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, bytes]] = []

    def listen(request: httpx.Request) -> None:
        sent.append((str(request.url), request.read()))

    send, asend = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    def heard(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        listen(request)
        return send(transport, request)

    async def aheard(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        await request.aread()
        listen(request)
        return await asend(transport, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", heard)
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", aheard)

    outcome_of(RECORDS[id], server.base(id), None)
    sync = [request for request in sent if asked_for(request, id)]
    sent.clear()
    outcome_of(RECORDS[id], server.base(id), run)

    assert [request for request in sent if asked_for(request, id)] == sync


def asked_for(request: tuple[str, bytes], id: str) -> bool:
    """Not what LiteLLM looks up besides: Ollama's /api/show, a model hub's files."""
    return f"/r/{id}" in request[0] and not request[0].endswith("/api/show")


def test_at_least_316_of_the_353_recorded_exchanges_are_read_right() -> None:
    assert len(RECORDS) - len(KNOWN) >= 316


STREAMS = sorted(
    id for id, record in RECORDS.items() if record["kind"] == "chat_stream" and not record["expect"].get("error")
)
REASON = re.compile(rb'"(?:finish_reason|finishReason|stop_reason|stopReason|done_reason)"\s*:\s*"')


def cut_before_its_end(record: dict[str, Any], cut: dict[str, Any]) -> bool:
    """Whether half of this stream lacks the provider's word that the answer is over; some say it in the first event."""
    serve = wire_records.module("serve")
    body = serve.body_of(record["response"])
    if "cut" in cut:
        return REASON.search(body[: len(body) // 2]) is None and record["id"] != "bedrock-chat_stream-b966df1d24"
    events = serve.pieces(body, "eventstream" if record["provider"] == "bedrock" else "", "event", True)
    return REASON.search(b"".join(events[: max(1, len(events) // 2)])) is None


CUTS = [
    pytest.param(id, cut, colour, id=f"{id}-{name}-{colour}", marks=() if colour == short else pytest.mark.long)
    for name, cut, short in (("clean_end", {"keep": 50}, "sync"), ("broken_connection", {"cut": "50p"}, "async"))
    for colour in ("sync", "async")
    for id in STREAMS
    if cut_before_its_end(RECORDS[id], cut)
]


@pytest.mark.parametrize(("id", "cut", "colour"), CUTS)
def test_a_stream_that_stops_half_way_is_told_from_a_finished_one(
    id: str, cut: Any, colour: str, server: Any, run: Run
) -> None:
    outcome = outcome_of(RECORDS[id], server.base(id, **cut), run if colour == "async" else None)

    assert isinstance(outcome, ProviderError), outcome.finish_reason


def test_nearly_all_recorded_streams_are_cut_before_their_end() -> None:
    assert len(CUTS) >= 460
