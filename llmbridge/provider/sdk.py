"""OpenAI's SDK as LiteLLM is handed it: it sends once, what it is given, and with UNTOLD as its headers says nothing of
this machine.

The SDK goes through each parameter, and each message, tool and input once for each kind that there is, to rename
fields; on the wire none of theirs is called otherwise. For one message that is a third of what the SDK takes, for 20
messages it is 2 ms and for 100 it is 10. What stands in `extra_body` the SDK sends as it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import openai
from openai.resources.chat import AsyncChat, AsyncCompletions, Chat, Completions
from openai.resources.embeddings import AsyncEmbeddings, Embeddings

from llmbridge.provider.layers import innermost


# Seven headers in each request, which took a fiftieth of a call.
_TOLD = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
UNTOLD = {f"X-Stainless-{name}": openai.Omit() for name in _TOLD}
_LOOKED_AT = frozenset({"self", "model", "stream", "extra_headers", "extra_query", "extra_body", "timeout"})
_AS_THEY_ARE = {"input", *inspect.signature(Completions.create).parameters} - _LOOKED_AT


def _untransformed(create: Callable[..., Any], arguments: dict[str, Any], required: str) -> dict[str, Any]:
    """*arguments* of the SDK's *create*, with what is JSON already moved into `extra_body`; for what is *required*,
    something has to be given. As they are, if somebody has put something around *create*, which looks at them."""
    if innermost(create, "openai") is None:
        return arguments
    moved = {name: value for name, value in arguments.items() if name in _AS_THEY_ARE}
    kept = {name: value for name, value in arguments.items() if name not in moved}
    return {**kept, required: openai.omit, "extra_body": {**moved, **(arguments.get("extra_body") or {})}}


class _Completions(Completions):
    def create(self, **arguments: Any) -> Any:
        create = super().create
        return create(**_untransformed(create, arguments, "messages"))


class _AsyncCompletions(AsyncCompletions):
    async def create(self, **arguments: Any) -> Any:
        create = super().create
        return await create(**_untransformed(create, arguments, "messages"))


class _Embeddings(Embeddings):
    def create(self, **arguments: Any) -> Any:
        create = super().create
        return create(**_untransformed(create, arguments, "input"))


class _AsyncEmbeddings(AsyncEmbeddings):
    async def create(self, **arguments: Any) -> Any:
        create = super().create
        return await create(**_untransformed(create, arguments, "input"))


class _Once:
    """LiteLLM sets `max_retries` on the client, 2 for some providers whatever the call says. It stays 0."""

    @property
    def max_retries(self) -> int:
        return 0

    @max_retries.setter
    def max_retries(self, _: int) -> None: ...


class _Blocking(_Once):
    @functools.cached_property
    def chat(self) -> Chat:
        chat = Chat(self)  # type: ignore[arg-type]
        chat.completions = _Completions(self)  # type: ignore[arg-type,misc]
        return chat

    @functools.cached_property
    def embeddings(self) -> Embeddings:
        return _Embeddings(self)  # type: ignore[arg-type]


class _Async(_Once):
    @functools.cached_property
    def chat(self) -> AsyncChat:
        chat = AsyncChat(self)  # type: ignore[arg-type]
        chat.completions = _AsyncCompletions(self)  # type: ignore[arg-type,misc]
        return chat

    @functools.cached_property
    def embeddings(self) -> AsyncEmbeddings:
        return _AsyncEmbeddings(self)  # type: ignore[arg-type]


# Called as theirs are: their name is the User-Agent.
class OpenAI(_Blocking, openai.OpenAI): ...


class AsyncOpenAI(_Async, openai.AsyncOpenAI): ...


class AzureOpenAI(_Blocking, openai.AzureOpenAI): ...


class AsyncAzureOpenAI(_Async, openai.AsyncAzureOpenAI): ...
