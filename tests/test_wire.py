"""Real traffic of 27 providers, answered on loopback, through all verbs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import llmbridge
from llmbridge.errors import LLMBridgeError, ProviderError
from llmbridge.params import EmbedParams, Params
from llmbridge.provider import litellm
from tests import wire_records


RECORDS = wire_records.records()
pytestmark = wire_records.needed

SERVER_TOOLS = "tools that the provider runs itself are reported as calls for the caller; LiteLLM does not tell them apart"
COHERE_STREAM = "LiteLLM cannot read the event lines of Cohere's v2 streams: an error, not an answer"
COHERE_USAGE = "LiteLLM reports billed units or its estimate instead of the tokens of Cohere's v1 streams"
GROQ_TIER = "LiteLLM cannot read a Groq answer without service_tier: an error, not an answer"
OTHER_ENDPOINT = "LiteLLM calls another endpoint of this provider than was recorded"
CLAUDE_V2 = "LiteLLM's code for bedrock/invoke/anthropic.claude-v2 fails before anything is sent"
SHAPE = "LiteLLM refuses an answer of this shape: an error, not an answer"
INVOKE = "LiteLLM ignores the token counts, or the text, of this bedrock/invoke stream"

# What LiteLLM 1.106 does not let us read right. Each ends in an error of the tree or in this difference.
KNOWN = {
    "anthropic-chat-3f07c569f2": SERVER_TOOLS,
    "anthropic-chat-e69cc4c8c7": SERVER_TOOLS,
    "anthropic-chat_stream-1cfca05d68": SERVER_TOOLS,
    "anthropic-chat_stream-d1c787bfb9": SERVER_TOOLS,
    "bedrock-chat-33eb07bf79": SERVER_TOOLS,
    "bedrock-chat_stream-2d96dc1968": SERVER_TOOLS,
    "azure-chat_stream-b91731016a": "LiteLLM asks this model without streaming and cuts the answer up itself",
    "bedrock-chat-06e1c9644b": SHAPE,
    "bedrock-chat-6885a928d4": "LiteLLM says stop for every bedrock/invoke answer of Llama",
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


def outcome_of(record: dict[str, Any], base: str, colour: str) -> Any:
    try:
        return ask(record, base) if colour == "sync" else asyncio.run(aask(record, base))
    except ProviderError as error:
        return error


@pytest.mark.parametrize("pieces", ["whole", "seven"])
@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("id", sorted(RECORDS))
def test_a_recorded_exchange_is_read_right(id: str, colour: str, pieces: str, server: Any) -> None:
    record = RECORDS[id]
    base = server.base(id, chunk=7) if pieces == "seven" else server.base(id)

    differences = wrong(record, outcome_of(record, base, colour))

    assert bool(differences) == (id in KNOWN), differences
