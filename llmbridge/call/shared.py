"""A stream that several read.

As long as nobody follows it, a stream is read by whoever opened it, chunk by chunk as it wants them. From the first
follower on it is read for all of them, as fast as it comes: by a thread, or by a task of the event loop that its
connection belongs to. Every reader then goes over the chunks that came at its own pace, waits with its own patience,
and leaves when it likes; the call ends when the answer does, or with the last reader. So nobody who is slow, cancelled
or collected harms the others, and only the one that reads ever touches the Attempt.

Readers taking turns at the connection were rejected: whoever's turn it is has the others' answer on its own deadline,
its own cancellation and its own event loop.
"""

from __future__ import annotations

import contextvars
import copy
import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmbridge.completion import Chunk
from llmbridge.errors import InvalidOutput, ProviderError, ProviderTimeout, ProviderUnavailable, StreamInterrupted
from llmbridge.waiting import Pauses


if TYPE_CHECKING:
    import asyncio

    from llmbridge.cache import Entry
    from llmbridge.call.attempt import Attempt
    from llmbridge.call.call import Call

LOOK_S = 0.002  # between two looks for the next chunk
END_S = 5.0  # how long the last reader waits for the end of the call
LEADER, ABROAD = 0, -1  # among the readers
_numbers = itertools.count(1)


class Shared:
    """The chunks of one attempt, for whoever opened it and for those who follow.

    `over`: nothing more comes, and the call has ended. Then `error` is what broke it, or `entry` the answer; `broken`
    is the error for whoever opened it.
    """

    def __init__(
        self,
        call: Call,
        attempt: Attempt,
        source: Any,
        loop: asyncio.AbstractEventLoop | None,
        entry: Callable[[], Entry | None],
    ) -> None:
        self.chunks = attempt.shown
        self.attempt = attempt
        self.over = False
        self.pumped = False
        self.error: ProviderError | None = None
        self.broken: ProviderError | None = None
        self.entry: Entry | None = None
        self._make_entry = entry
        self._call, self._source = call, source
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.get_ident()
        self._context = contextvars.copy_context()
        # Reentrant: the garbage collector may have a reader leave inside it.
        self._lock = threading.RLock()
        self._readers = {LEADER}
        self._pulling = self._wanted = self._closing = False
        self._ending: tuple[str, BaseException | None] = ("left", None)

    def can_be_read(self, *, blocking: bool) -> bool:
        """Whether it goes on while this caller waits."""
        if self._loop is None:
            return True
        return self._loop.is_running() and not (blocking and self._thread == threading.get_ident())

    # Whoever opened it

    def begin(self) -> bool:
        """Whether the opener is to read its next chunk itself; it says end() afterwards."""
        with self._lock:
            self._pulling = not self.pumped
            return self._pulling

    def end(self) -> None:
        """The opener has read, or failed to."""
        with self._lock:
            self._pulling = False
            starts = self._is_to_start()
        if starts:
            self._start()

    def leave(self, number: int, outcome: str = "left", error: BaseException | None = None) -> bool:
        """One reader less; the last one ends the call. False if the opener still reads alone: then it ends it."""
        if not self._call.is_mine:
            return self.pumped
        with self._lock:
            self._readers.discard(number)
            if not self.pumped:
                self._closing = self._closing or number == LEADER
                return False
            if not self._readers and not self._closing:
                self._closing, self._ending = True, (outcome, error)
                self._interrupt()
            return True

    def until(self, come: Callable[[], bool], remaining_s: Callable[[], float], gap_s: float | None) -> Pauses[None]:
        """Pauses until *come* or `over`, or until the opener is to read alone. Raises a ProviderError when no time
        remains, when nothing came for *gap_s*, or when it cannot go on."""
        started = time.monotonic()
        while self.pumped and not (self.over or come()):
            request = self.attempt.request
            late = "the call's time was over" if remaining_s() <= 0 else None
            if gap_s is not None and time.monotonic() - started > gap_s:
                late = f"nothing came for {gap_s:g} s"
            if late is not None:
                message = f"{late} while the answer was coming"
                raise ProviderTimeout(message, model=request.model, provider=request.provider)
            if self._loop is not None and not self._loop.is_running():
                import asyncio

                raise self.unavailable(asyncio.CancelledError())
            yield LOOK_S * max(1.0, len(self._readers) / 50)

    def ended(self) -> Pauses[None]:
        """Pauses until the call has ended, if its last reader has left it."""
        give_up = time.monotonic() + END_S
        while self.pumped and self._closing and not self.over and time.monotonic() < give_up:
            yield LOOK_S

    # Those who follow

    def enter(self, remaining_s: Callable[[], float], gap_s: float | None, *, wants_chunks: bool) -> Reader | None:
        """One reader more, for whom it is read from now on; None if it is about to end."""
        reader = Reader(self, next(_numbers), remaining_s, gap_s, wants_chunks=wants_chunks)
        with self._lock:
            self._readers.add(reader.number)
            if self._closing or self.attempt.done:
                self._readers.discard(reader.number)
                return None
            self._extend(remaining_s())
            self._wanted = True
            starts = self._is_to_start()
        if starts:
            self._start()
        return reader

    def read_abroad(self, waits: bool) -> None:
        """Another process waits for the whole answer, or no longer does."""
        if not waits:
            if ABROAD in self._readers:
                self.leave(ABROAD)
            return
        with self._lock:
            if self._closing or self.attempt.done or not self.can_be_read(blocking=False):
                return
            self._readers.add(ABROAD)
            self._wanted = True
            starts = self._is_to_start()
        if starts:
            self._start()

    def _is_to_start(self) -> bool:
        """Whether it is to be read for all from now on, and this caller sees to it: once, and outside the lock, which
        the collector may want in the new thread."""
        starts = self._wanted and not (self.pumped or self._pulling or self.attempt.done)
        self.pumped = self.pumped or starts
        return starts

    def _extend(self, remaining_s: float) -> None:
        """Read on for as long as any of the readers may wait."""
        exchange = self.attempt.exchange
        if exchange.deadline is not None:
            exchange.deadline = max(exchange.deadline, time.monotonic() + remaining_s)

    def _start(self) -> None:
        try:
            if self._loop is None:
                pump = threading.Thread(
                    target=self._context.run, args=(self._pump,), name="llmbridge-stream", daemon=True
                )
                pump.start()
            else:
                self._loop.call_soon_threadsafe(self._start_task)
        except RuntimeError:  # no more threads, or no event loop: the opener reads on alone
            self.pumped = False

    def _start_task(self) -> None:
        assert self._loop is not None
        self._task = self._loop.create_task(self._apump(), context=self._context)
        self._task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not self.over:  # cancelled before it began
            import asyncio

            self._break(asyncio.CancelledError())
            self._end()

    def _interrupt(self) -> None:
        """Have the pump end soon; end the call here if there is none to do it."""
        if self._loop is None:
            self.attempt.exchange.hang_up()
        elif self._loop.is_closed():
            self._end()
        elif self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _pump(self) -> None:
        try:
            self._source.unguard()  # each reader has its own
            while not (self.attempt.done or self._closing):
                self.attempt.feed(next(self._source, None))
        except BaseException as error:
            self._break(error)
        finally:
            self._end()
            self.attempt.exchange.close()

    async def _apump(self) -> None:
        try:
            self._source.unguard()
            while not (self.attempt.done or self._closing):
                self.attempt.feed(await anext(self._source, None))
        except BaseException as error:  # a cancellation too: by the last reader, or because the event loop ends
            self._break(error)
        finally:
            self._end()
            await self.attempt.exchange.aclose()

    def _break(self, error: BaseException) -> None:
        """It broke off, unless that is what the last reader's leaving has done."""
        with self._lock:
            if self._closing and not self._readers:
                return
            self._closing = True
        attempt, unread = self.attempt, list(self.attempt.ready)
        if isinstance(error, ProviderError):
            self.error = error
            self.broken = attempt.interrupted(error)
        else:
            self.error = self.unavailable(error)
            self.broken = interruption(self.error, attempt.text)
            attempt.leave("failed" if isinstance(error, Exception) else "cancelled", self.broken)
        attempt.ready.extend(unread)

    def unavailable(self, error: BaseException) -> ProviderError:
        why = "the event loop that it was read on has ended" if self._loop is not None else type(error).__name__
        request = self.attempt.request
        return ProviderUnavailable(f"nobody reads it any more: {why}", model=request.model, provider=request.provider)

    def _end(self) -> None:
        outcome, error = self._ending
        try:
            if not self.attempt.done and isinstance(error, ProviderError):
                self.attempt.interrupted(error)
            elif not self.attempt.done:
                self.attempt.leave(outcome, error)
            self.entry = self._make_entry()
        finally:
            self._call.finish("failed")  # which it is already, unless that failed
            self.over = True


class Reader:
    """One follower of a stream. It leaves at the latest when it is collected."""

    def __init__(
        self, shared: Shared, number: int, remaining_s: Callable[[], float], gap_s: float | None, *, wants_chunks: bool
    ) -> None:
        self.shared = shared
        self.number = number
        self.wants_chunks = wants_chunks
        self._remaining_s, self._gap_s = remaining_s, gap_s

    @property
    def begun(self) -> bool:
        """Whether it has something to read, and is independent of whoever opened it."""
        return self.shared.pumped and bool(self.shared.chunks)

    def leave(self) -> None:
        """Read no more. Safe to call twice."""
        self.shared.leave(self.number)

    def __del__(self) -> None:
        self.leave()

    def until(self, come: Callable[[], bool]) -> Pauses[None]:
        """Pauses until *come*, for as long as this reader waits. Raises ProviderTimeout."""
        return self.shared.until(come, self._remaining_s, self._gap_s)


def interruption(error: ProviderError, partial: str) -> ProviderError:
    """What the reader of a stream gets for *error*, after it had seen *partial*."""
    if isinstance(error, InvalidOutput):
        return error
    return StreamInterrupted(
        f"the answer broke off after {len(partial):,} characters, which .partial holds: {error}",
        partial=partial,
        model=error.model,
        provider=error.provider,
        status=error.status,
        retry_after_s=error.retry_after_s,
        request_id=error.request_id,
    )


def separate(chunk: Chunk) -> Chunk:
    """A copy of *chunk* that shares nothing that can be changed with it."""
    if chunk.tool_calls or chunk.function_call or chunk.logprobs or chunk.extra or chunk.usage:
        return copy.deepcopy(chunk)
    return Chunk(chunk.text, chunk.reasoning, (), chunk.finish_reason, None, chunk.index, chunk.refusal)
