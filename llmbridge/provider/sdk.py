"""OpenAI's SDK as LiteLLM is handed it: it sends once, what it is given, and says nothing of this machine.

The SDK goes through each message, tool and input once for each kind that there is, to rename fields; on the wire none
of theirs is called otherwise. That is a tenth of a millisecond a message: a fourth of what the SDK takes for one, and
20 times what all else takes for 100. What stands in `extra_body` it sends as it is.
"""

from __future__ import annotations

import functools
from typing import Any

import openai
from openai.resources.chat import AsyncChat, AsyncCompletions, Chat, Completions
from openai.resources.embeddings import AsyncEmbeddings, Embeddings


# Seven headers in each request, which took a fiftieth of a call.
_TOLD = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
UNTOLD = {f"X-Stainless-{name}": openai.Omit() for name in _TOLD}
_AS_THEY_ARE = ("messages", "tools", "input")


def _plain(arguments: dict[str, Any], needed: str) -> dict[str, Any]:
    """*arguments* of `create`, which has to be given *needed*, with what is JSON already in `extra_body`."""
    plain = {name: arguments.pop(name) for name in _AS_THEY_ARE if name in arguments}
    return {**arguments, needed: (), "extra_body": {**plain, **(arguments.get("extra_body") or {})}}


class _Completions(Completions):
    def create(self, **arguments: Any) -> Any:
        return super().create(**_plain(arguments, "messages"))


class _AsyncCompletions(AsyncCompletions):
    async def create(self, **arguments: Any) -> Any:
        return await super().create(**_plain(arguments, "messages"))


class _Embeddings(Embeddings):
    def create(self, **arguments: Any) -> Any:
        return super().create(**_plain(arguments, "input"))


class _AsyncEmbeddings(AsyncEmbeddings):
    async def create(self, **arguments: Any) -> Any:
        return await super().create(**_plain(arguments, "input"))


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
