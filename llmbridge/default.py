"""The default Bridge, and the verbs as functions over it."""

from __future__ import annotations

import threading
from typing import Any

from llmbridge import provider
from llmbridge.bridge import Bridge
from llmbridge.cache import Cache
from llmbridge.call.planning import Prospect
from llmbridge.completion import Completion, Embedding
from llmbridge.request import Inputs, Messages
from llmbridge.streams import AsyncCompletionStream, CompletionStream


_bridge: Bridge | None = None
_lock = threading.Lock()


def configure(bridge: Bridge) -> None:
    """Make *bridge* the default: the one behind `llmbridge.complete` and the other verbs."""
    global _bridge
    with _lock:
        _bridge = bridge


def default() -> Bridge:
    """The default Bridge; made at the first use unless `configure` was called."""
    global _bridge
    with _lock:
        if _bridge is None:
            _bridge = Bridge(cache=Cache())
        return _bridge


def warm() -> None:
    """Import LiteLLM now (2 to 3 seconds, 160 MB), so that the first call does not have to."""
    provider.litellm()


def estimate(messages: Messages, **arguments: Any) -> Prospect:
    """What a call with these arguments would take of the model that it asks first: about how many tokens, what they
    typically cost and what they cost at most. Takes what Bridge.plan() of the default Bridge takes, and raises as that
    does; nothing is sent, and for most models LiteLLM stays unloaded."""
    try:
        return default().plan(messages, **arguments).candidates[0]
    finally:
        arguments.clear()


# In each: `arguments` is cleared before an error passes, so that no frame in its traceback shows a key.


def complete(messages: Messages, **arguments: Any) -> Completion:
    """Bridge.complete() of the default Bridge."""
    try:
        return default().complete(messages, **arguments)
    finally:
        arguments.clear()


async def acomplete(messages: Messages, **arguments: Any) -> Completion:
    """Bridge.acomplete() of the default Bridge."""
    try:
        return await default().acomplete(messages, **arguments)
    finally:
        arguments.clear()


def stream(messages: Messages, **arguments: Any) -> CompletionStream:
    """Bridge.stream() of the default Bridge."""
    try:
        return default().stream(messages, **arguments)
    finally:
        arguments.clear()


def astream(messages: Messages, **arguments: Any) -> AsyncCompletionStream:
    """Bridge.astream() of the default Bridge."""
    try:
        return default().astream(messages, **arguments)
    finally:
        arguments.clear()


def embed(inputs: Inputs, **arguments: Any) -> Embedding:
    """Bridge.embed() of the default Bridge."""
    try:
        return default().embed(inputs, **arguments)
    finally:
        arguments.clear()


async def aembed(inputs: Inputs, **arguments: Any) -> Embedding:
    """Bridge.aembed() of the default Bridge."""
    try:
        return await default().aembed(inputs, **arguments)
    finally:
        arguments.clear()
