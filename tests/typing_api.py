"""Checked by mypy, never run: what a caller's type checker sees."""

from __future__ import annotations

from decimal import Decimal
from typing import assert_type

from pydantic import BaseModel

import llmbridge


class Fish(BaseModel):
    name: str


def sync() -> None:
    reply = llmbridge.complete("Name a fish.", model="openai/gpt-4o-mini", temperature=0.2, response_model=Fish)
    assert_type(reply, llmbridge.Completion)
    assert_type(reply.cost_usd, Decimal | None)
    assert_type(reply.choices[0].message.content, str | None)
    with llmbridge.stream("Name a fish.", model=["openai/gpt-4o-mini", llmbridge.Model("ollama/llama3.2")]) as chunks:
        for chunk in chunks:
            assert_type(chunk, llmbridge.Chunk)
            assert_type(chunk.text, str)
    assert_type(chunks.completion, llmbridge.Completion)
    llmbridge.complete("Name a fish.", budget=["$5/day", llmbridge.Budget("200k tokens/hour", per=("user",))])
    llmbridge.complete(
        "Name a fish.", max_input_tokens=100, truncate="oldest", model=llmbridge.models.chain("balanced")
    )
    llmbridge.complete("Name a fish.", truncate="newest")  # type: ignore[arg-type]
    assert_type(llmbridge.models.find(capability="vision", min_context=8_000), list[llmbridge.Listing])
    assert_type(llmbridge.models.cheapest().input_usd_per_mtok, Decimal | None)
    llmbridge.models.find(min_contxt=8_000)  # type: ignore[call-arg]
    assert_type(llmbridge.estimate("Name a fish.").typical_usd, Decimal | None)
    llmbridge.complete("Name a fish.", budget=5)  # type: ignore[arg-type]
    llmbridge.complete("Name a fish.", bugdet="$5")  # type: ignore[call-arg]
    llmbridge.complete("Name a fish.", temperature="hot")  # type: ignore[arg-type]


def configured() -> None:
    assert_type(llmbridge.Bridge.from_config("llmbridge.toml", name="batch"), llmbridge.Bridge)
    llmbridge.configure("llmbridge.toml")
    llmbridge.configure(llmbridge.Bridge(names={"main": llmbridge.Model("openai/gpt-4o-mini")}))
    llmbridge.configure(5)  # type: ignore[arg-type]


async def asynchronous() -> None:
    assert_type(await llmbridge.acomplete([{"role": "user", "content": "Name a fish."}]), llmbridge.Completion)
    async with llmbridge.astream("Name a fish.") as chunks:
        async for chunk in chunks:
            assert_type(chunk, llmbridge.Chunk)
    assert_type((await llmbridge.aembed(["trout"])).vectors, list[list[float] | str])
