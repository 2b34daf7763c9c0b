"""Memory: what one call recalls from the response cache, and what it has it remember."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from llmbridge.cache import Cache, Entry, key, record_chunks, why_not, why_not_vectors
from llmbridge.cache.flight import Flight, join
from llmbridge.call.parsing import parsed
from llmbridge.completion import Chunk, Completion, Embedding, Usage, Vector
from llmbridge.money import nanousd
from llmbridge.record import AttemptRecord
from llmbridge.request import Request
from llmbridge.waiting import Pauses


if TYPE_CHECKING:
    from llmbridge.call.attempt import Attempt

Mode = Literal["on", "off", "refresh", "only"]
MODES: tuple[Mode, ...] = ("on", "off", "refresh", "only")


@dataclass(frozen=True, slots=True)
class Wish:
    """How a call wants the cache used; see Bridge.complete."""

    mode: Mode = "on"
    ttl_s: float | None = None
    max_age_s: float | None = None
    sample: int = 0


class Recalled:
    """A kept answer in the place of a provider's: a source of chunks, in both colours, or an answer as a whole."""

    def __init__(self, request: Request, entry: Entry, answer: Completion | Embedding) -> None:
        self.entry, self.answer = entry, answer
        self.request = request
        self._chunks: list[Chunk] | None = None

    @property
    def response_model(self) -> str | None:
        return self.entry.response_model

    def usage(self) -> Usage | None:
        return self.answer.usage

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


class Memory:
    """One call's use of one cache."""

    def __init__(self, cache: Cache, wish: Wish, tags: Mapping[str, str]) -> None:
        self._cache, self._wish, self._tags = cache, wish, tags
        self._namespace = cache.namespace_of(tags)
        self._flight: Flight | None = None
        self._flown: str | None = None
        self._keys: dict[int, str | None] = {}

    @property
    def only(self) -> bool:
        """Whether nothing may be sent."""
        return self._wish.mode == "only"

    def recall(self, request: Request, *, stale: bool = False) -> Recalled | None:
        """The answer to *request*, if it is kept. *stale*: also one whose time is over, since nobody else answers."""
        stale_s = self._cache.stale_if_error_s if stale else 0.0
        if request.verb == "embeddings":
            wanted = self._wish.mode != "refresh" if not stale else stale_s > 0
            return self._recall_all(request, stale_s) if wanted else None
        # Once, before anything is sent: the caller's messages are the caller's to change meanwhile.
        name = self._keys.setdefault(id(request), self._key(request))
        if name is None or (self._wish.mode == "refresh" and not stale) or (stale and not stale_s):
            return None
        return self._fitting(request, self._entry(name, stale_s))

    def join(self, request: Request, *, blocking: bool) -> Pauses[Recalled | None]:
        """Pauses while an equal request is under way elsewhere; then its answer, or None: this call asks.

        Not for streams: who reads one slowly would have all the others wait.
        """
        name = self._keys.get(id(request))
        if self._wish.mode != "on" or request.verb == "embeddings" or name is None:
            return None
        directory = self._cache.directory.resolve()  # one directory under two names is one
        found = yield from join(directory, name, lambda: self._entry(name, 0.0), blocking=blocking)
        if isinstance(found, Flight):
            self._flight, self._flown = found, name
            return None
        if found is None:
            return None
        # A copy: what a leader hands over, several get.
        return self._fitting(request, replace(found, answer=_copy(found.completion)))

    def remember(
        self, attempt: Attempt, record: AttemptRecord, answer: Completion | Embedding, chunks: Iterable[Chunk]
    ) -> None:
        """Keep *answer*, if it may be kept, and give it to those who wait for it."""
        if isinstance(answer, Embedding):
            self._remember_vectors(attempt.asked, record, answer)
            return
        name = self._keys.get(id(attempt.question))
        if name is None or why_not(answer) is not None:
            return
        entry = self._fresh(record, answer)
        streamed = list(chunks)
        if streamed:
            entry = replace(entry, recorded=record_chunks(streamed))
        self._cache.remember(name, entry)
        if name == self._flown:
            self.land(replace(entry, answer=_copy(answer)))

    def land(self, entry: Entry | None = None) -> None:
        """The call is over: whoever waits for its answer gets it, or goes on."""
        if self._flight is not None:
            self._flight.land(entry)

    def _entry(self, name: str, stale_s: float) -> Entry | None:
        return self._cache.recall(name, max_age_s=self._wish.max_age_s, stale_s=stale_s)

    def _single(self, request: Request, stale_s: float) -> Entry | None:
        name = self._key(request)
        return None if name is None else self._entry(name, stale_s)

    def _fitting(self, request: Request, entry: Entry | None) -> Recalled | None:
        """The answer, unless it does not fit `response_model`: a class can reject what its schema allows."""
        if entry is None:
            return None
        if request.response_model is not None:
            try:
                parsed(request.response_model, entry.completion.text)
            except ValueError:
                return None
        completion = entry.completion
        completion._response_model = entry.response_model
        return Recalled(request, entry, completion)

    def _key(self, request: Request) -> str | None:
        return key(request, namespace=self._namespace, sample=self._wish.sample)

    def _fresh(self, record: AttemptRecord, answer: Completion | Sequence[float] | str) -> Entry:
        return Entry(
            answer=answer,  # type: ignore[arg-type]
            created_at=self._cache.now(),
            model=record.model,
            provider=record.provider,
            response_model=record.response_model,
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            cost_nanousd=None if record.cost_usd is None or record.uncertain else nanousd(record.cost_usd),
            tags=self._tags,
            ttl_s=self._wish.ttl_s,
        )

    def _recall_all(self, request: Request, stale_s: float) -> Recalled | None:
        """The embedding of every input, or None if one of them is not kept."""
        entries = []
        for single in _singles(request):
            entry = self._single(single, stale_s)
            if entry is None:
                return None
            entries.append(entry)
        saved = [entry.cost_nanousd for entry in entries]
        total = None if None in saved else sum(cost for cost in saved if cost is not None)
        oldest = max(entries, key=lambda entry: entry.age_s)
        vectors = [Vector(index=index, embedding=entry.vector) for index, entry in enumerate(entries)]
        tokens = sum(entry.input_tokens or 0 for entry in entries)
        usage = Usage(prompt_tokens=tokens, total_tokens=tokens, estimated=True)  # shares of the batches they came in
        answer = Embedding(model=oldest.model, data=vectors, usage=usage)
        answer._response_model = oldest.response_model
        return Recalled(request, replace(oldest, cost_nanousd=total, input_tokens=tokens), answer)

    def missing(self, request: Request) -> tuple[Request, dict[int, Vector]]:
        """*request* with the inputs alone that are not kept, and the vectors of the others by their place."""
        if request.verb != "embeddings" or self._wish.mode != "on":
            return request, {}
        known: dict[int, Vector] = {}
        for index, single in enumerate(_singles(request)):
            entry = self._single(single, 0.0)
            if entry is not None:
                known[index] = Vector(index=index, embedding=entry.vector)
        if len(known) == len(request.content):
            return request, {}  # kept since this call looked: rare, and nothing would be left to ask
        left = [content for index, content in enumerate(request.content) if index not in known]
        return (replace(request, content=left), known) if known else (request, {})

    def _remember_vectors(self, request: Request, record: AttemptRecord, answer: Embedding) -> None:
        if why_not_vectors(answer, len(request.content)) is not None:
            return
        whole = self._fresh(record, "")
        count = len(request.content)
        share = None if whole.cost_nanousd is None else whole.cost_nanousd // count
        tokens = None if whole.input_tokens is None else whole.input_tokens // count
        for single, vector in zip(_singles(request), answer.vectors, strict=True):
            name = self._key(single)
            if name is not None:
                self._cache.remember(name, replace(whole, answer=vector, cost_nanousd=share, input_tokens=tokens))


def merged(sent: Embedding, known: Mapping[int, Vector]) -> Embedding:
    """The vectors of *sent* and those that were *known*, in the places of their inputs."""
    if not known:
        return sent
    fresh = iter([vector.embedding for vector in sorted(sent.data, key=lambda vector: vector.index)])
    total = len(sent.data) + len(known)
    data = [known.get(index) or Vector(index=index, embedding=next(fresh)) for index in range(total)]
    answer = sent.model_copy(update={"data": data})
    answer._response_model = sent._response_model
    return answer


def _singles(request: Request) -> list[Request]:
    return [replace(request, content=[content]) for content in request.content]


def _copy(completion: Completion) -> Completion:
    return Completion.model_validate(completion.model_dump(exclude_unset=True))
