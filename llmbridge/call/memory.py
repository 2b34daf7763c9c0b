"""Memory: what one call recalls from the response cache, and what it has it remember."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmbridge.cache import Cache, Entry, key, keys, record_chunks, why_not, why_not_vectors
from llmbridge.call.abroad import watch
from llmbridge.call.batch import Batch, kept_apart
from llmbridge.call.flight import Lead, join
from llmbridge.call.parsing import parsed
from llmbridge.call.recalled import Followed, Recalled
from llmbridge.call.shared import Reader, Shared
from llmbridge.completion import Chunk, Completion, Embedding, Vector
from llmbridge.exchange import Guards
from llmbridge.home import in_replay
from llmbridge.money import nanousd, usd
from llmbridge.params import CACHE
from llmbridge.record import AttemptRecord
from llmbridge.request import Request, check_seconds
from llmbridge.waiting import Pauses


if TYPE_CHECKING:
    import asyncio

    from llmbridge.call.attempt import Attempt
    from llmbridge.call.call import Call

Mode = Literal["on", "off", "refresh", "only"]
MODES: tuple[Mode, ...] = ("on", "off", "refresh", "only")


@dataclass(frozen=True, slots=True)
class Wish:
    """How a call wants the cache used; see Bridge.complete."""

    mode: Mode = "on"
    ttl_s: float | None = None
    max_age_s: float | None = None
    sample: int = 0


_USUAL = Wish()


def cache_params(params: Any) -> dict[str, Any]:
    """What in *params* is for the cache, taken out of them."""
    return {name: params.pop(name) for name in CACHE if name in params}


def wish(mode: Mode | None, given: dict[str, Any]) -> Wish:
    """A call's Wish, from its `cache` and its cache_params(). Raises ValueError."""
    if mode is None and not given:
        return _USUAL
    made = Wish(mode or "on", **{name: value for name, value in given.items() if value is not None})
    if made.mode not in MODES:
        raise ValueError(f"cache is one of {', '.join(map(repr, MODES))}, not {mode!r}")
    check_seconds("ttl_s", made.ttl_s)
    check_seconds("max_age_s", made.max_age_s)
    if isinstance(made.sample, bool) or not isinstance(made.sample, int) or made.sample < 0:
        raise ValueError(f"sample is which of several answers is meant: 0, 1, 2, ..., not {made.sample!r}")
    return made


class Memory:
    """One call's use of one cache."""

    def __init__(self, cache: Cache, wish: Wish, tags: Mapping[str, str]) -> None:
        self._cache, self._wish, self._tags = cache, wish, tags
        self._namespace = cache.namespace_of(tags)
        self._keys: dict[int, str | None] = {}
        self._batches: dict[int, Batch] = {}
        self._leads: dict[str, Lead] = {}
        self._reader: Reader | None = None
        self._unwritten: list[tuple[str, Entry]] = []

    @property
    def only(self) -> bool:
        """Whether nothing may be sent."""
        return self._wish.mode == "only"

    def recall(self, request: Request, *, stale: bool = False) -> Recalled | None:
        """The answer to *request*, if it is kept. *stale*: also one whose time is over, since nobody else answers."""
        stale_s = self._cache.stale_if_error_s if stale else 0.0
        wanted = stale_s > 0 if stale else self._wish.mode != "refresh"
        if request.verb == "embeddings":
            return self._recall_all(request, stale_s) if wanted else None
        # The key is made once, before anything is sent: the caller's messages are the caller's to change meanwhile.
        if id(request) not in self._keys:
            self._keys[id(request)] = self._key(request)
        name = self._keys[id(request)]
        return self._fitting(request, self._entry(name, stale_s=stale_s)) if wanted and name is not None else None

    def join(self, call: Call, attempt: Attempt, *, blocking: bool, guards: Guards | None) -> Pauses[Recalled | None]:
        """Pauses while an equal request is under way elsewhere; then its answer, or None: this call asks, maybe for
        less. *guards*: of a stream, which gets what comes of another stream's answer as it comes."""
        request = attempt.question
        if self._wish.mode != "on":
            return None
        if request.verb == "embeddings":
            return (yield from self._join_all(call, attempt, blocking))
        name = self._keys.get(id(request))
        if name is None:
            return None
        place, alone = self._place()
        gap_s = guards.chunk_gap_s if guards is not None else None

        def enter(stream: Shared) -> Reader | None:
            return stream.enter(call.remaining_s, gap_s, wants_chunks=guards is not None)

        found = yield from join(
            place,
            name,
            lambda: self._entry(name, again=True),
            blocking=blocking,
            alone=alone,
            enter=enter,
            follow=call.trace.link,
        )
        if isinstance(found, Lead):
            self._leads[name] = found
            found.flight.traceparent = call.trace.traceparent
        elif isinstance(found, Reader):
            self._reader = found
            return Followed(request, found, _answer_of)
        elif found is not None:
            return self._fitting(request, replace(found, answer=_copy(found.completion)))  # several get it
        return None

    def share(self, call: Call, attempt: Attempt, source: Any, loop: asyncio.AbstractEventLoop | None) -> Shared | None:
        """Let others follow the stream that *attempt* has opened, if they may be waiting for it."""
        lead = self._leads.get(self._keys.get(id(attempt.question)) or "")
        if lead is None or lead.flight.landed or attempt.recalled is not None:
            return None
        shared = lead.flight.stream = Shared(call, attempt, source, loop, lambda: self._entry_of(attempt))
        if not lead.flight.alone:
            watch(lead.flight)
        return shared

    def remember(
        self, attempt: Attempt, record: AttemptRecord, answer: Completion | Embedding, chunks: Iterable[Chunk]
    ) -> None:
        """Keep *answer*, if it may be kept, and give it to those who wait for it. keeping() does it for vectors."""
        if isinstance(answer, Embedding):
            batch = self._batches.get(id(attempt.question))  # there is none if nothing was looked for
            names = batch.unknown if batch is not None else self._names(attempt.question)
            if why_not_vectors(answer, len(attempt.asked.content)) is None:
                self._unwritten = kept_apart(self._fresh(record, ""), names, answer)
            return
        name = self._keys.get(id(attempt.question))
        if name is None or why_not(answer) is not None:
            return
        entry = self._fresh(record, answer)
        streamed = list(chunks)
        if streamed:
            entry = replace(entry, recorded=record_chunks(streamed))
        self._cache.remember(name, entry)
        lead = self._leads.get(name)
        if lead is not None:  # who joins in this moment finds it in the cache
            lead.land(replace(entry, answer=_copy(answer)) if lead.flight.waiting else None)

    def keeping(self) -> Pauses[None]:
        """Pauses while the vectors of an answer are kept; then they go to those who wait for them."""
        unwritten, self._unwritten = self._unwritten, []
        try:
            yield from self._cache.remembering(unwritten)
            for name, entry in unwritten:
                if name in self._leads:
                    self._leads[name].land(entry)
        finally:
            self.land()

    def land(self) -> None:
        """The call is over, or asks another model: whoever waits for its answer goes on. Unless that is still to be
        kept: then keeping() does it."""
        if self._reader is not None:
            self._reader.leave()
        if not self._unwritten:
            for lead in self._leads.values():
                lead.land()

    def missing(self, attempt: Attempt) -> tuple[Request, dict[int, Vector]]:
        """What *attempt* asks, less the inputs that are known, and the vectors of those by their place."""
        if attempt.question.verb != "embeddings" or self._wish.mode != "on":
            return attempt.asked, {}
        return self._batch(attempt.question).left(attempt.question)

    def saved_usd(self, attempt: Attempt) -> Decimal | None:
        """What the part of an answer cost once that need not be asked again; None if nobody knows."""
        if not attempt.known:
            return Decimal(0)
        saved = self._batches[id(attempt.question)].saved_nanousd()
        return None if saved is None else usd(saved)

    def _place(self) -> tuple[Path, bool]:
        """Where flights are known by, and whether other processes cannot take part; one directory under two names is
        one."""
        return _resolved(self._cache.directory), not self._cache.is_open

    def _entry(self, name: str, *, stale_s: float = 0.0, again: bool = False) -> Entry | None:
        return self._cache.recall(name, max_age_s=self._wish.max_age_s, stale_s=stale_s, again=again)

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

    def _names(self, request: Request) -> list[str | None]:
        return keys(request, namespace=self._namespace, sample=self._wish.sample)

    def _fresh(self, record: AttemptRecord, answer: Completion | str) -> Entry:
        return Entry(
            answer=answer,
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

    def _entry_of(self, attempt: Attempt) -> Entry | None:
        """What those who follow *attempt* get at its end, also of an answer that must not be kept."""
        answer = attempt.fresh
        return self._fresh(attempt.record, _copy(answer)) if isinstance(answer, Completion) else None

    def _batch(self, request: Request, stale_s: float = 0.0) -> Batch:
        batch = self._batches.get(id(request))
        if batch is None or stale_s:
            names = batch.names if batch is not None else self._names(request)
            found = self._found([name for name in names if name is not None], stale_s)
            batch = Batch(names, [None if name is None else found.get(name) for name in names])
            self._batches[id(request)] = batch
        return batch

    def _found(self, names: list[str], stale_s: float = 0.0) -> dict[str, Entry]:
        entries = self._cache.recall_all(names, max_age_s=self._wish.max_age_s, stale_s=stale_s)
        return {name: entry for name, entry in zip(names, entries, strict=True) if entry is not None}

    def _recall_all(self, request: Request, stale_s: float = 0.0) -> Recalled | None:
        """The embedding of every input, or None if one of them is not known."""
        batch = self._batch(request, stale_s)
        return Recalled(request, *batch.answer()) if batch.whole else None

    def _join_all(self, call: Call, attempt: Attempt, blocking: bool) -> Pauses[Recalled | None]:
        """As join(), for every input by itself."""
        place, alone = self._place()
        batch = self._batch(attempt.question)
        found: dict[str, Entry] = {}
        for name in batch.missing:
            other = yield from join(place, name, blocking=blocking, alone=alone, follow=call.trace.link)
            if isinstance(other, Lead):
                self._leads[name] = other
                other.flight.traceparent = call.trace.traceparent
            elif isinstance(other, Entry):
                found[name] = other
        kept = self._found(list(self._leads)) if self._leads else {}  # by whoever led before
        for name, entry in kept.items():
            self._leads[name].land(entry)
        batch.learn(found | kept)
        return self._recall_all(attempt.question)


@functools.lru_cache(maxsize=16)
def _resolved(directory: Path) -> Path:
    return directory.resolve()


def _answer_of(entry: Entry) -> Completion:
    completion = _copy(entry.completion)
    completion._response_model = entry.response_model
    return completion


def _copy(completion: Completion) -> Completion:
    return Completion.model_validate(completion.model_dump(exclude_unset=True))


def memory_of(cache: Cache | None, wanted: Wish, tags: Mapping[str, str]) -> Memory | None:
    """What a call uses of a Bridge's *cache*; None if nothing. Raises ValueError."""
    if cache is not None and wanted.mode != "off" and not (cache.is_default and in_replay()):
        return Memory(cache, wanted, tags)
    if wanted.mode == "only":
        raise ValueError("cache='only' needs a cache: Bridge(cache=Cache()); the default one rests inside replay()")
    return None
