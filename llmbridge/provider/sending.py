"""The six ways to ask LiteLLM once. They take a Request and an Exchange, and raise nothing but errors of our tree.

What is switched off on every call, so that an application's own use of LiteLLM stays as it set it: retries (LiteLLM's
and the SDK's), caches, logging and callbacks (unlogged.py, `no-log`), and the MCP gateway (which wants a package that a
plain install lacks).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from llmbridge import wire
from llmbridge.completion import Completion, Embedding
from llmbridge.exchange import Exchange, Guards, current
from llmbridge.provider.clients import REFUSED, is_sdk, route
from llmbridge.provider.reading import completion_from, embedding_from
from llmbridge.provider.source import Source
from llmbridge.provider.translation import Translated, translate
from llmbridge.provider.undecorated import ask, ask_async
from llmbridge.provider.unlogged import logging_object
from llmbridge.request import Hidden, Request, copied


def complete(request: Request, exchange: Exchange) -> Completion:
    """Ask once and wait for the whole answer."""
    completion: Completion = _read(completion_from, _send("completion", request, exchange), request, exchange)
    return completion


async def acomplete(request: Request, exchange: Exchange) -> Completion:
    """Same as complete(), without blocking the event loop."""
    completion: Completion = _read(completion_from, await _asend("acompletion", request, exchange), request, exchange)
    return completion


def stream(request: Request, exchange: Exchange, guards: Guards) -> Source:
    """Ask once for a stream; the Source gives its chunks."""
    source = Source(request, exchange, guards)
    return source.attach(_raised(_send("completion", request, exchange, stream=True)))


async def astream(request: Request, exchange: Exchange, guards: Guards) -> Source:
    """Same as stream(), without blocking the event loop."""
    source = Source(request, exchange, guards)
    return source.attach(_raised(await _asend("acompletion", request, exchange, stream=True)))


def embed(request: Request, exchange: Exchange) -> Embedding:
    """Ask once for embeddings."""
    embedding: Embedding = _read(embedding_from, _send("embedding", request, exchange), request, exchange)
    return embedding


async def aembed(request: Request, exchange: Exchange) -> Embedding:
    """Same as embed(), without blocking the event loop."""
    embedding: Embedding = _read(embedding_from, await _asend("aembedding", request, exchange), request, exchange)
    return embedding


def _send(verb: str, request: Request, exchange: Exchange, *, stream: bool = False) -> Any:
    """LiteLLM's answer, or the error: returned, so that it is raised where no `except` is under way."""
    token = current.set(exchange)
    try:
        return ask(verb, _arguments(verb, request, exchange, wire.client(), stream))
    except Exception as exc:
        return _error(exc, request, exchange)
    except KeyboardInterrupt:
        wire.forget_client()
        raise
    finally:
        current.reset(token)


async def _asend(verb: str, request: Request, exchange: Exchange, *, stream: bool = False) -> Any:
    token = current.set(exchange)
    try:
        async with asyncio.timeout(exchange.left_s()):
            arguments = _arguments(verb, request, exchange, wire.async_client(), stream)
            return await ask_async(verb, arguments, exchange.provider)
    except Exception as exc:
        return _error(exc, request, exchange)
    finally:
        current.reset(token)


def _error(exc: Exception, request: Request, exchange: Exchange) -> Translated:
    return translate(exc, exchange, model=request.model)


def _raised(answer: Any) -> Any:
    # `raise ... from None` inside the except block would still keep LiteLLM's exception as __context__, and with it
    # the key in its request's headers.
    if isinstance(answer, Translated):
        raise answer
    return answer


def _read(read: Callable[[Any, str], Any], answer: Any, request: Request, exchange: Exchange) -> Any:
    _raised(answer)
    try:
        return read(answer, request.model)
    except Exception as exc:
        error = _error(exc, request, exchange)
    raise error


def _arguments(
    verb: str, request: Request, exchange: Exchange, http: httpx.Client | httpx.AsyncClient, stream: bool
) -> Hidden:
    """What LiteLLM's function is called with. Containers are copied: LiteLLM changes what it is given."""
    asked = {**request.params, **request.params.get("provider_params", {})}
    asked.pop("provider_params", None)
    arguments = Hidden(copied({**asked, **request.transport}))
    client, exchange.watched, exchange.provider = route(request.model, request.verb, request.transport, http)
    if exchange.local_only and not exchange.watched:
        exchange.watched = True  # as nothing is sent
        raise wire.LeavesMachine(f"local_only: LiteLLM reaches {request.model} by a client of its own")
    exchange.streaming, exchange.timeout_s = stream, request.transport.get("timeout")
    if stream:
        arguments["stream"] = True
        arguments["stream_options"] = {**arguments.get("stream_options", {}), "include_usage": True}
    else:
        arguments.pop("stream_options", None)
    arguments.update(
        {
            "model": request.model,
            "input" if request.verb == "embeddings" else "messages": copied(request.content),
            "timeout": exchange.left_s(600.0, guarded=False),
            "client": client,
            "num_retries": 0,
            "caching": False,
            "cache": {"no-cache": True, "no-store": True},
            "no-log": True,
            "litellm_call_id": str(uuid.uuid4()),
        }
    )
    if is_sdk(client):
        arguments["max_retries"] = 0  # the SDK's; LiteLLM writes it into the body of what it sends itself
    if request.verb == "chat":
        arguments["_skip_mcp_handler"] = True
    if request.response_model is not None:
        arguments["response_format"] = request.response_model
    for provider, name in REFUSED:
        if provider == exchange.provider:
            arguments.pop(name, None)
    if (logging := logging_object(verb, arguments)) is not None:
        arguments["litellm_logging_obj"] = logging
    return arguments
