"""What stands in the place of a provider's answer: one that is kept, or one that another call is getting."""

from __future__ import annotations

import copy
from collections.abc import Callable

from llmbridge.cache import Entry
from llmbridge.call.shared import Reader, separate
from llmbridge.completion import Chunk, Completion, Embedding, Usage
from llmbridge.request import Request
from llmbridge.waiting import Pauses, wait, wait_async


class Recalled:
    """A kept answer: a source of chunks, in both colours, or an answer as a whole."""

    answer: Completion | Embedding | None

    def __init__(self, request: Request, entry: Entry, answer: Completion | Embedding | None) -> None:
        self.entry, self.answer = entry, answer
        self.request = request
        self._chunks: list[Chunk] | None = None

    @property
    def response_model(self) -> str | None:
        return self.entry.response_model

    def usage(self) -> Usage | None:
        return self.answer.usage if self.answer is not None else None

    def __next__(self) -> Chunk:
        if self._chunks is None:
            self._chunks = self.entry.chunks()[::-1]
        if not self._chunks:
            raise StopIteration
        return self._chunks.pop()

    async def __anext__(self) -> Chunk:
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None


class Followed(Recalled):
    """The answer of another call that is under way in this process, chunk by chunk as it comes.

    Its `entry` says nothing of the costs and its `answer` is None until the end.
    """

    def __init__(self, request: Request, reader: Reader, answer: Callable[[Entry], Completion]) -> None:
        super().__init__(
            request,
            Entry(answer="", created_at=0.0, model=request.model, provider=request.provider, cost_nanousd=0),
            None,
        )
        self.reader = reader
        self._answer = answer
        self._cursor = 0

    def __next__(self) -> Chunk:
        return _raised(self._ready() or wait(self._next()), StopIteration)

    async def __anext__(self) -> Chunk:
        return _raised(self._ready() or await wait_async(self._next()), StopAsyncIteration)

    def ended(self) -> Pauses[None]:
        """Pauses until the other call has ended, if this was its last reader, which has left."""
        return self.reader.shared.ended()

    def _ready(self) -> Chunk | None:
        chunks = self.reader.shared.chunks
        if self._cursor == len(chunks):
            return None
        self._cursor += 1
        return separate(chunks[self._cursor - 1])

    def _next(self) -> Pauses[Chunk | None]:
        """Pauses until the next chunk has come; None at the end. Raises what broke the answer off."""
        shared = self.reader.shared
        yield from self.reader.until(lambda: self._cursor < len(shared.chunks))
        if (chunk := self._ready()) is not None:
            return chunk
        if shared.error is not None:
            raise copy.copy(shared.error)  # each reader writes into its own
        if shared.entry is None:
            raise shared.unavailable(RuntimeError())
        self.entry, self.answer = shared.entry, self._answer(shared.entry)
        return None


def _raised(chunk: Chunk | None, end: type[Exception]) -> Chunk:
    if chunk is None:
        raise end
    return chunk
