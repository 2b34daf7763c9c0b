"""Asking: what is done inside an attempt, by verb. Streams have theirs where they are read (streams.py)."""

from __future__ import annotations

from llmbridge import provider
from llmbridge.call.attempt import Attempt


def complete(attempt: Attempt) -> None:
    """Ask for a whole answer."""
    with attempt:
        attempt.take(attempt.kept or provider.complete(attempt.request, attempt.exchange))


async def acomplete(attempt: Attempt) -> None:
    """Same as complete()."""
    async with attempt:
        attempt.take(attempt.kept or await provider.acomplete(attempt.request, attempt.exchange))


def embed(attempt: Attempt) -> None:
    """Ask for embeddings."""
    with attempt:
        attempt.take(attempt.kept or provider.embed(attempt.request, attempt.exchange))


async def aembed(attempt: Attempt) -> None:
    """Same as embed()."""
    async with attempt:
        attempt.take(attempt.kept or await provider.aembed(attempt.request, attempt.exchange))
