"""The response cache: the key of a request, what may be kept, and the directory that it is kept in."""

from __future__ import annotations

from llmbridge.cache.cache import Cache, CacheStats
from llmbridge.cache.entry import Entry, record_chunks
from llmbridge.cache.keep import why_not, why_not_vectors
from llmbridge.cache.key import key, keys


__all__ = ["Cache", "CacheStats", "Entry", "key", "keys", "record_chunks", "why_not", "why_not_vectors"]
