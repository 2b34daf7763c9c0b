"""A stream, as it comes from LiteLLM, read as our chunks."""

from __future__ import annotations

import time
from typing import Any

import openai

from llmbridge import wire
from llmbridge.completion import Chunk, Usage
from llmbridge.exchange import Exchange, Guards, current
from llmbridge.provider.reading import chunk_from, fields_of, is_complete, response_model_of, usage_from
from llmbridge.provider.translation import Translated, translate
from llmbridge.request import Request


class BrokenOff(Exception):
    """A stream ended without its end."""


class Source:
    """Chunks of one attempt, in either colour; ends if and only if the provider said that the answer is complete.

    LiteLLM invents a finish reason and token counts for a stream that broke off cleanly. Here that is an error, before
    the invented finish reason is shown. Raises only ProviderErrors.

    The guards bound the time to the first chunk with content and the gap between chunks, in seconds, in both colours.
    """

    def __init__(self, request: Request, exchange: Exchange, guards: Guards) -> None:
        self._wrapper: Any = None
        self._request = request
        self._exchange = exchange
        self._guards = guards
        self._seen = 0  # chunks with content
        self._pace_at: float | None = None
        self._usage: Any = None
        self._response_model: str | None = None
        self._guard()

    def attach(self, wrapper: Any) -> Source:
        """Read from LiteLLM's *wrapper*."""
        self._wrapper = wrapper
        stream = getattr(wrapper, "completion_stream", None)
        if isinstance(stream, openai.AsyncStream):
            # LiteLLM begins to iterate anew with each chunk. The SDK's stream makes a generator each time, which is
            # dropped, and has the event loop woken and a task made to close it: a tenth of a chunk's time.
            wrapper.completion_stream = aiter(stream)
        if not self._exchange.watched:
            self._exchange.reads(wrapper)
        return self

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Chunk:
        token = current.set(self._exchange)
        try:
            if self._is_over():
                raise StopIteration
            return self._read(next(self._wrapper))
        except StopIteration:
            error = self._at_end()
        except Exception as exc:
            error = self._translated(exc)
        except KeyboardInterrupt:
            wire.forget_client()
            raise
        finally:
            current.reset(token)
        if error is None:
            raise StopIteration
        raise error

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Chunk:
        token = current.set(self._exchange)
        try:
            if self._is_over():
                raise StopAsyncIteration
            return self._read(await anext(self._wrapper))
        except StopAsyncIteration:
            error = self._at_end()
        except Exception as exc:
            error = self._translated(exc)
        finally:
            current.reset(token)
        if error is None:
            raise StopAsyncIteration
        raise error

    def _is_over(self) -> bool:
        # After the counts comes nothing: asked once more, LiteLLM puts the whole answer together again, for its log.
        return getattr(self._wrapper, "sent_stream_usage", False)

    def _read(self, said: Any) -> Chunk:
        chunk = chunk_from(said)
        if chunk.finish_reason and not is_complete(self._wrapper, self._exchange):
            raise BrokenOff("the stream ended before the provider said that the answer is complete")
        self._usage = fields_of(said).get("usage") or self._usage
        if self._response_model is None:
            self._response_model = response_model_of(said)
        if self._seen or chunk.has_content:
            self._seen += chunk.has_content
            self._guard()
        return chunk

    def unguard(self) -> None:
        """Wait for the next chunk as long as the exchange does."""
        self._guards = Guards()
        self._guard()

    def _guard(self) -> None:
        guards, now = self._guards, time.monotonic()
        limit_s = guards.chunk_gap_s if self._seen else guards.first_chunk_s
        at = None if limit_s is None else now + limit_s
        if guards.min_chunks_per_s is not None and 0 < self._seen < guards.commit_chunks:
            if self._pace_at is None:
                self._pace_at = now + (guards.commit_chunks - 1) / guards.min_chunks_per_s
            at = self._pace_at if at is None else min(at, self._pace_at)
        self._exchange.guard_at = at

    def _at_end(self) -> Translated | None:
        if is_complete(self._wrapper, self._exchange):
            self._exchange.complete = True
            return None
        return self._translated(BrokenOff("the stream ended before the provider said that the answer is complete"))

    def _translated(self, exc: Exception) -> Translated:
        return translate(exc, self._exchange, model=self._request.model)

    @property
    def response_model(self) -> str | None:
        """The model's name in the answer, as far as LiteLLM keeps it."""
        return self._response_model

    def usage(self) -> Usage | None:
        """The token counts, once the chunks are over; `estimated` if no chunk from the provider had any."""
        return usage_from(self._wrapper, self._usage)
