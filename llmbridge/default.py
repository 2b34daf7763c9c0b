"""The default Bridge, and the verbs as functions over it."""

from __future__ import annotations

import os
import threading
from typing import Any

from llmbridge import config, provider, tracing
from llmbridge.bridge import Bridge
from llmbridge.call.planning import Prospect
from llmbridge.completion import Completion, Embedding
from llmbridge.request import Inputs, Messages
from llmbridge.streams import AsyncCompletionStream, CompletionStream


_bridge: Bridge | None = None
_lock = threading.Lock()


def configure(bridge: Bridge | str | os.PathLike[str] | None = None, *, name: str | None = None) -> None:
    """Set the default Bridge, the one behind `llmbridge.complete` and the other verbs: *bridge*, or one made from the
    configuration at that path, or, without an argument, from the one that is found.

    May be called at any time, to read a changed file: calls under way end on the Bridge that they began on, later ones
    use the new one. That one made from a configuration knows what the old one knew of each endpoint (breaker, pauses,
    latencies, rate limits that are the same), and has its subscribers. `[tracing]` is started, or what another one has
    started is replaced.

    Args:
        bridge: see above.
        name: with what `[bridges.NAME]` says otherwise.

    Raises:
        ConfigError: the configuration is wrong; the default Bridge stays as it is.
    """
    global _bridge
    if isinstance(bridge, Bridge):
        with _lock:
            _bridge = bridge
        return
    with _lock:
        _bridge = _configured(bridge, name)


def default() -> Bridge:
    """The default Bridge; made at the first use, from the configuration that is found, unless `configure` was called.
    Raises ConfigError."""
    global _bridge
    bridge = _bridge
    if bridge is None:
        with _lock:
            if _bridge is None:
                _bridge = _configured(None, None)
            bridge = _bridge
    return bridge


def _configured(path: str | os.PathLike[str] | None, name: str | None) -> Bridge:
    found = config.load(path, name)
    bridge = Bridge.configured(found)
    if _bridge is not None:
        bridge.succeed(_bridge)
    tracing.follow(found.tracing)
    return bridge


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
