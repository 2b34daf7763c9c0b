"""One complete() over LiteLLM: a hard cap, typed answers, one error tree, fallback, replay offline.

    import llmbridge

    models = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
    reply = llmbridge.complete("Name a fish.", model=models, budget="$5/day")
    print(reply.text, reply.model, reply.cost_usd)

Importing this is tens of milliseconds: names are looked up when they are first used (PEP 562), LiteLLM when the first
request is sent.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"


def _redacted(record: logging.LogRecord) -> bool:
    return bool(importlib.import_module("llmbridge.redaction").RedactingFilter().filter(record))


logging.getLogger("llmbridge").addHandler(logging.NullHandler())  # quiet, until the application wants to hear it
logging.getLogger("llmbridge").addFilter(_redacted)

if TYPE_CHECKING:
    from llmbridge import tracing as tracing
    from llmbridge.bridge import Bridge as Bridge
    from llmbridge.cache import Cache as Cache, CacheStats as CacheStats
    from llmbridge.call.planning import Plan as Plan, Prospect as Prospect
    from llmbridge.cassette import replay as replay
    from llmbridge.catalog import Catalog as Catalog, Listing as Listing
    from llmbridge.completion import Chunk as Chunk, Completion as Completion, Embedding as Embedding, Usage as Usage
    from llmbridge.default import configure as configure, estimate as estimate, warm as warm
    from llmbridge.errors import (
        AllAttemptsFailed as AllAttemptsFailed,
        AlreadyResolved as AlreadyResolved,
        AuthenticationFailed as AuthenticationFailed,
        BadRequest as BadRequest,
        BudgetExceeded as BudgetExceeded,
        CacheMiss as CacheMiss,
        CassetteMiss as CassetteMiss,
        ConfigError as ConfigError,
        ContentFiltered as ContentFiltered,
        ContextWindowExceeded as ContextWindowExceeded,
        DeadlineExceeded as DeadlineExceeded,
        InvalidOutput as InvalidOutput,
        LedgerBusy as LedgerBusy,
        LedgerCorrupt as LedgerCorrupt,
        LedgerError as LedgerError,
        LLMBridgeError as LLMBridgeError,
        NotFound as NotFound,
        ProviderError as ProviderError,
        ProviderRateLimited as ProviderRateLimited,
        ProviderTimeout as ProviderTimeout,
        ProviderUnavailable as ProviderUnavailable,
        RateLimited as RateLimited,
        StreamInterrupted as StreamInterrupted,
        UnknownPrice as UnknownPrice,
    )
    from llmbridge.fallback import Candidate as Candidate, Fallback as Fallback, Limit as Limit
    from llmbridge.health import Health as Health
    from llmbridge.ledger import Balance as Balance, Budget as Budget, Ledger as Ledger, Spend as Spend
    from llmbridge.params import EmbedParams as EmbedParams, Params as Params
    from llmbridge.provider import count_tokens as count_tokens
    from llmbridge.record import AttemptRecord as AttemptRecord, BudgetAlert as BudgetAlert, CallRecord as CallRecord
    from llmbridge.request import Model as Model
    from llmbridge.streams import AsyncCompletionStream as AsyncCompletionStream, CompletionStream as CompletionStream
    from llmbridge.tags import tagged as tagged

    # The functions in `default` take whatever their Bridge's verb takes, and say so here once.
    _bridge = Bridge()
    complete, acomplete, stream, astream = _bridge.complete, _bridge.acomplete, _bridge.stream, _bridge.astream
    embed, aembed = _bridge.embed, _bridge.aembed
    models = _bridge.models

_HOME = {
    "llmbridge.bridge": ("Bridge",),
    "llmbridge.cache": ("Cache", "CacheStats"),
    "llmbridge.call.planning": ("Plan", "Prospect"),
    "llmbridge.cassette": ("replay",),
    "llmbridge.catalog": ("Catalog", "Listing"),
    "llmbridge.completion": ("Chunk", "Completion", "Embedding", "Usage"),
    "llmbridge.default": (
        "acomplete",
        "aembed",
        "astream",
        "complete",
        "configure",
        "embed",
        "estimate",
        "stream",
        "warm",
    ),
    "llmbridge.errors": (
        "AllAttemptsFailed",
        "AlreadyResolved",
        "AuthenticationFailed",
        "BadRequest",
        "BudgetExceeded",
        "CacheMiss",
        "CassetteMiss",
        "ConfigError",
        "ContentFiltered",
        "ContextWindowExceeded",
        "DeadlineExceeded",
        "InvalidOutput",
        "LedgerBusy",
        "LedgerCorrupt",
        "LedgerError",
        "LLMBridgeError",
        "NotFound",
        "ProviderError",
        "ProviderRateLimited",
        "ProviderTimeout",
        "ProviderUnavailable",
        "RateLimited",
        "StreamInterrupted",
        "UnknownPrice",
    ),
    "llmbridge.fallback": ("Candidate", "Fallback", "Limit"),
    "llmbridge.health": ("Health",),
    "llmbridge.ledger": ("Balance", "Budget", "Ledger", "Spend"),
    "llmbridge.params": ("EmbedParams", "Params"),
    "llmbridge.provider": ("count_tokens",),
    "llmbridge.record": ("AttemptRecord", "BudgetAlert", "CallRecord"),
    "llmbridge.request": ("Model",),
    "llmbridge.streams": ("AsyncCompletionStream", "CompletionStream"),
    "llmbridge.tags": ("tagged",),
    "llmbridge.tracing": ("traced",),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_WHERE, "models", "tracing"])


def __getattr__(name: str) -> Any:
    if name == "tracing":
        return importlib.import_module("llmbridge.tracing")
    if name == "models":
        return _models()
    if name not in _WHERE:
        raise AttributeError(f"module 'llmbridge' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def _models() -> Any:
    """The default Bridge's catalogue, once there is one; until then the table's, for which nobody waits for a Bridge to
    be imported."""
    made = getattr(sys.modules.get("llmbridge.default"), "_bridge", None)
    if made is not None:
        return made.models
    return __getattr__("Catalog")(
        typical=lambda: importlib.import_module("llmbridge.default").default().ledger.typical()
    )


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
