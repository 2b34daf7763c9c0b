"""What the stream verbs return: context manager and iterator at once, in two colours.

    with llmbridge.stream("Name a fish.", model="openai/gpt-4o-mini") as chunks:
        for chunk in chunks:
            print(chunk.text, end="")
    print(chunks.completion.usage)

Leaving early closes the connection. Whatever ends the stream (its end, `close()`, leaving the block, an error, a
cancellation, the garbage collector), the call's record is closed once.
"""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Self

from llmbridge import provider
from llmbridge.call import Attempt, Call
from llmbridge.call.memory import Recalled
from llmbridge.completion import Chunk, Completion
from llmbridge.errors import ProviderError


class _Stream:
    """What both colours share: the call, the attempt that is being read, and the end."""

    def __init__(self, call: Call, guards: tuple[float | None, float | None]) -> None:
        self._call = call
        call.joins = False
        self._guards = guards
        self._attempt: Attempt | None = None
        self._source: provider.Source | Recalled | None = None
        self._opening = False
        self._closed = False

    @property
    def completion(self) -> Completion:
        """The whole answer, as `complete` would have returned it. Raises RuntimeError before the stream's end."""
        if not isinstance(self._call.answer, Completion):
            raise RuntimeError("the stream has not come to its end, so there is no completion; read all chunks first")
        return self._call.answer

    @property
    def text(self) -> str:
        """What has come so far of the first choice's text."""
        return self._attempt.text if self._attempt is not None else ""

    def _begin(self) -> None:
        """Raise RuntimeError rather than send a second time: a stream is opened once, whatever came of it."""
        if self._closed or self._opening:
            raise RuntimeError("the stream was closed, or could not be opened; ask for a new one")
        self._opening = True
        # On the call, not on self: a finalizer must not keep alive what it waits for. A finished call needs none, and
        # its error's traceback leads back to self.
        self._call.when_finished = weakref.finalize(self, _abandon, self._call).detach

    def _opened(self, source: provider.Source | Recalled) -> Attempt:
        self._source, self._attempt = source, self._call.current
        assert self._attempt is not None
        return self._attempt

    def _finished(self, attempt: Attempt) -> bool:
        """Whether there is nothing more to read. Raises RuntimeError if that is not the answer's end."""
        if self._closed and not self._call.answer:
            raise RuntimeError("the stream was closed before its end; ask for a new one")
        return attempt.done

    def _leave(self, error: BaseException | None) -> None:
        self._closed = True
        if self._attempt is not None:
            cancelled = error is not None and not isinstance(error, Exception)
            self._attempt.leave("cancelled" if cancelled else "left", error)


def _abandon(call: Call) -> None:
    # Not closed in earnest: the garbage collector may run inside the connection pool's lock, and closing would wait
    # for it.
    if call.current is not None and not call.current.done and call.is_mine:
        call.current.leave()
        call.current.exchange.hang_up()


class CompletionStream(_Stream):
    """Chunks of an answer. Use it in a `with` block; iterate it once."""

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._leave(error)
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        attempt = self._attempt or self._open()
        while not attempt.ready:
            if self._finished(attempt):
                raise StopIteration
            self._read(attempt)
        return attempt.ready.popleft()

    def close(self) -> None:
        """Stop reading and close the connection. Safe to call twice."""
        self._leave(None)
        if self._attempt is not None:
            self._attempt.exchange.close()

    def _open(self) -> Attempt:
        """Up to the first content: until then a failure goes to the next model."""
        if self._attempt is not None:
            return self._attempt
        self._begin()
        for attempt in self._call.attempts():
            with attempt:
                source = attempt.open(
                    attempt.recalled or provider.stream(attempt.request, attempt.exchange, self._guards)
                )
                while attempt.held_back:
                    attempt.feed(next(source, None))
        return self._opened(source)

    def _read(self, attempt: Attempt) -> None:
        assert self._source is not None
        try:
            attempt.feed(next(self._source, None))
            if attempt.done:
                attempt.exchange.close()  # for a reader without a `with` block; else the collector would
        except ProviderError as error:
            attempt.exchange.close()
            raise attempt.interrupted(error) from None
        except BaseException as error:
            self._leave(error)
            attempt.exchange.close()
            raise


class AsyncCompletionStream(_Stream):
    """Same as CompletionStream, for `async with` and `async for`."""

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._leave(error)
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        attempt = self._attempt or await self._open()
        while not attempt.ready:
            if self._finished(attempt):
                raise StopAsyncIteration
            await self._read(attempt)
        return attempt.ready.popleft()

    async def aclose(self) -> None:
        """Stop reading and close the connection. Safe to call twice."""
        self._leave(None)
        if self._attempt is not None:
            await self._attempt.exchange.aclose()

    async def _open(self) -> Attempt:
        if self._attempt is not None:
            return self._attempt
        self._begin()
        for attempt in self._call.attempts():
            async with attempt:
                source = attempt.open(
                    attempt.recalled or await provider.astream(attempt.request, attempt.exchange, self._guards)
                )
                while attempt.held_back:
                    attempt.feed(await anext(source, None))
        return self._opened(source)

    async def _read(self, attempt: Attempt) -> None:
        assert self._source is not None
        try:
            attempt.feed(await anext(self._source, None))
            if attempt.done:
                await attempt.exchange.aclose()
        except ProviderError as error:
            broken = attempt.interrupted(error)
            await attempt.exchange.aclose()
            raise broken from None
        except BaseException as error:
            self._leave(error)
            await attempt.exchange.aclose()
            raise
