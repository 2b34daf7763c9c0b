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
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmbridge import provider
from llmbridge.call import Attempt, Call
from llmbridge.call.race import arun, run
from llmbridge.call.recalled import Followed, Recalled
from llmbridge.call.shared import LEADER, Shared, interruption
from llmbridge.completion import Chunk, Completion
from llmbridge.errors import ProviderError
from llmbridge.exchange import Guards
from llmbridge.waiting import Pauses, wait, wait_async


if TYPE_CHECKING:
    import asyncio


class _Stream:
    """What both colours share: the call, the attempt that is being read, and the end."""

    def __init__(self, call: Call, guards: Guards) -> None:
        self._call = call
        call.guards = guards
        self._guards = guards
        self._attempt: Attempt | None = None
        self._source: provider.Source | Recalled | None = None
        self._shared: Shared | None = None  # with those who may follow it
        self._opening = False
        self._closed = False
        self._restarting = False
        self._detached = False  # left, while others read on

    @property
    def completion(self) -> Completion:
        """The whole answer, as `complete` would have returned it. Raises RuntimeError before the stream's end."""
        if not isinstance(self._call.answer, Completion) or self._detached:
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

    def _opened(self, loop: asyncio.AbstractEventLoop | None = None) -> Attempt:
        self._attempt = self._call.current
        assert self._attempt is not None
        source = self._source = self._attempt.source
        assert source is not None
        call = self._call
        if call.memory is not None and not self._attempt.done:
            self._shared = call.memory.share(call, self._attempt, source, loop)
            if self._shared is not None:
                alone, call.when_finished = (
                    call.when_finished,
                    weakref.finalize(self, _abandon, call, self._shared).detach,
                )
                alone()
        return self._attempt

    def _restarts(self, attempt: Attempt, error: ProviderError) -> bool:
        """Whether the answer begins anew after *error*. Not while others read along, who have seen of it, too."""
        if not self._read_by_others and self._call.restarts(attempt, error):
            self._restarting, self._shared = True, None
        return self._restarting

    def _restarted(self, attempt: Attempt) -> None:
        attempt.ready.appendleft(Chunk(restarted=True))

    def _finished(self, attempt: Attempt) -> bool:
        """Whether there is nothing more to read. Raises RuntimeError if that is not the answer's end."""
        if self._closed and (not self._call.answer or self._detached):
            raise RuntimeError("the stream was closed before its end; ask for a new one")
        if self._shared is None or not self._shared.pumped:
            return attempt.done
        broken, self._shared.broken = self._shared.broken, None
        if broken is not None:
            raise broken
        return self._shared.over

    def _leave(self, error: BaseException | None) -> None:
        self._closed = True
        if self._attempt is None:
            return
        cancelled = error is not None and not isinstance(error, Exception)
        outcome = "cancelled" if cancelled else "left"
        if self._shared is not None and self._shared.leave(LEADER, outcome, error):
            if not self._shared.over:
                self._detached = True
                self._attempt.ready = deque(maxlen=0)  # which others go on to fill
            return
        self._attempt.leave(outcome, error)

    @property
    def _read_by_others(self) -> bool:
        """Whether the connection is not this reader's to close."""
        return self._shared is not None and self._shared.pumped

    def _together(self, attempt: Attempt) -> Pauses[None]:
        """Pauses until more has come, where it is read for others too. Raises when this reader's own time is over."""
        assert self._shared is not None
        try:
            yield from self._shared.until(
                lambda: bool(attempt.ready), lambda: self._call.remaining_s(), self._guards.chunk_gap_s
            )
        except ProviderError as error:
            broken = interruption(error, attempt.text)
            self._leave(error)
            raise broken from None

    def _ended(self) -> Pauses[None]:
        """Pauses until the call that others took part in has ended, if this one was the last to leave."""
        if self._shared is not None:
            yield from self._shared.ended()
        elif isinstance(self._source, Followed):
            yield from self._source.ended()


def _abandon(call: Call, shared: Shared | None = None) -> None:
    if shared is not None and shared.leave(LEADER):
        return
    if call.current is not None and not call.current.done and call.is_mine:
        call.record.abandoned = True
        call.current.leave()
        call.current.exchange.hang_up()  # all that can be done here to an async one
        call.current.exchange.close()


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
            attempt = self._attempt or attempt  # another one, after a restart
        return attempt.ready.popleft()

    def close(self) -> None:
        """Stop reading and close the connection. Safe to call twice."""
        self._leave(None)
        wait(self._ended())
        if self._attempt is not None and not self._read_by_others:
            self._attempt.exchange.close()

    def _open(self) -> Attempt:
        """Up to the first content: until then a failure goes to the next model."""
        if self._attempt is not None:
            return self._attempt
        self._begin()
        for attempt in self._call.attempts():
            run(self._call, attempt, self._ask)
        return self._opened()

    def _ask(self, attempt: Attempt) -> None:
        with attempt:
            source = attempt.open(attempt.recalled or provider.stream(attempt.request, attempt.exchange, self._guards))
            while attempt.held_back:
                attempt.feed(next(source, None))
            attempt.win()

    def _read(self, attempt: Attempt) -> None:
        assert self._source is not None
        if self._shared is not None and not self._shared.begin():
            self._read_along(attempt)
            return
        try:
            with attempt.trace.current():
                chunk = next(self._source, None)
            attempt.feed(chunk)
            if attempt.done:
                attempt.exchange.close()  # for a reader without a `with` block; else the collector would
        except ProviderError as error:
            attempt.exchange.close()
            if not self._restarts(attempt, error):
                raise attempt.interrupted(error) from None
        except BaseException as error:
            self._leave(error)
            attempt.exchange.close()
            raise
        finally:
            if self._shared is not None:
                self._shared.end()
        if self._restarting:
            self._restart()

    def _restart(self) -> None:
        self._restarting = False
        for attempt in self._call.attempts():
            run(self._call, attempt, self._ask)
        self._restarted(self._opened())

    def _read_along(self, attempt: Attempt) -> None:
        try:
            wait(self._together(attempt))
        except BaseException as error:
            self._leave(error)
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
            attempt = self._attempt or attempt
        return attempt.ready.popleft()

    async def aclose(self) -> None:
        """Stop reading and close the connection. Safe to call twice."""
        self._leave(None)
        await wait_async(self._ended())
        if self._attempt is not None and not self._read_by_others:
            await self._attempt.exchange.aclose()

    async def _open(self) -> Attempt:
        if self._attempt is not None:
            return self._attempt
        self._begin()
        for attempt in self._call.attempts():
            await arun(self._call, attempt, self._ask)
        return self._opened_here()

    def _opened_here(self) -> Attempt:
        import asyncio

        return self._opened(asyncio.get_running_loop())

    async def _ask(self, attempt: Attempt) -> None:
        async with attempt:
            recalled = attempt.recalled
            source = attempt.open(recalled or await provider.astream(attempt.request, attempt.exchange, self._guards))
            while attempt.held_back:
                attempt.feed(await anext(source, None))
            attempt.win()

    async def _read(self, attempt: Attempt) -> None:
        assert self._source is not None
        if self._shared is not None and not self._shared.begin():
            await self._read_along(attempt)
            return
        try:
            with attempt.trace.current():
                chunk = await anext(self._source, None)
            attempt.feed(chunk)
            if attempt.done:
                await attempt.exchange.aclose()
        except ProviderError as error:
            restarts = self._restarts(attempt, error)
            broken = None if restarts else attempt.interrupted(error)
            await attempt.exchange.aclose()
            if broken is not None:
                raise broken from None
        except BaseException as error:
            self._leave(error)
            await attempt.exchange.aclose()
            raise
        finally:
            if self._shared is not None:
                self._shared.end()
        if self._restarting:
            await self._restart()

    async def _restart(self) -> None:
        self._restarting = False
        for attempt in self._call.attempts():
            await arun(self._call, attempt, self._ask)
        self._restarted(self._opened_here())

    async def _read_along(self, attempt: Attempt) -> None:
        try:
            await wait_async(self._together(attempt))
        except BaseException as error:
            self._leave(error)
            raise
