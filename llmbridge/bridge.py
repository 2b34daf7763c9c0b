"""Bridge and its verbs: complete, acomplete, stream, astream, embed, aembed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, Unpack

from pydantic import BaseModel

from llmbridge import provider, request
from llmbridge.call import Call
from llmbridge.completion import Completion, Embedding
from llmbridge.params import EmbedParams, Params
from llmbridge.record import CallRecord
from llmbridge.request import Inputs, Messages, Model, Request
from llmbridge.streams import AsyncCompletionStream, CompletionStream


log = logging.getLogger("llmbridge")

T = TypeVar("T", Completion, Embedding)
Models = str | Model | Sequence[str | Model]

_tags: ContextVar[Mapping[str, str]] = ContextVar("llmbridge_tags", default=MappingProxyType({}))


@contextmanager
def tagged(**tags: str) -> Iterator[None]:
    """Tags for every call inside the block, in this thread or task; a call's own tags win."""
    token = _tags.set({**_tags.get(), **request.check_tags(tags)})
    try:
        yield
    finally:
        _tags.reset(token)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which models a call would ask, in order. Nothing was sent to make it."""

    models: tuple[str, ...]


class Bridge:
    """The verbs, with the collaborators that they use. Safe to share between threads, tasks and event loops.

    Args:
        models: whom to ask when a call names no model, in order.
        deadline_s: the bound on a whole call in seconds, over all its attempts, where the call gives none.
    """

    def __init__(self, models: Models = (), *, deadline_s: float = 600.0) -> None:
        request.check_seconds("deadline_s", deadline_s)
        if deadline_s is None:
            raise ValueError("deadline_s is a number of seconds: every call has a bound")
        self._models = _models(models)
        self._deadline_s = deadline_s
        self._subscribers: list[Callable[[CallRecord], None]] = []

    def complete(
        self,
        messages: Messages,
        *,
        model: Models | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        response_model: type[BaseModel] | None = None,
        **params: Unpack[Params],
    ) -> Completion:
        """Ask, and wait for the whole answer.

        Args:
            messages: one user message, or a list of OpenAI-shaped dicts.
            model: "provider/name" as LiteLLM spells it, a Model, or a list of them, tried in order.
            tags: the caller's labels, such as {"user": "alice"}; they stand on the call's record.
            deadline_s: the bound on the whole call in seconds, over all attempts.
            response_model: a pydantic class; the answer's `parsed` is an instance of it. An answer that does not fit
                is shown to the model once, with the complaint; that is a second attempt, and costs one.
            params: LiteLLM's parameters.

        Raises:
            TypeError, ValueError: the request is wrong; nothing was sent.
            ProviderError: the one model that was asked said no.
            AllAttemptsFailed: more than one attempt was made and none answered.
            DeadlineExceeded: `deadline_s` passed.
        """
        call = self._chat(messages, model, tags, deadline_s, response_model, params)
        for attempt in call.attempts():
            with attempt:
                attempt.take(provider.complete(attempt.request, attempt.exchange))
        return _answer(call, Completion)

    async def acomplete(
        self,
        messages: Messages,
        *,
        model: Models | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        response_model: type[BaseModel] | None = None,
        **params: Unpack[Params],
    ) -> Completion:
        """Same as complete(), without blocking the event loop."""
        call = self._chat(messages, model, tags, deadline_s, response_model, params)
        for attempt in call.attempts():
            async with attempt:
                attempt.take(await provider.acomplete(attempt.request, attempt.exchange))
        return _answer(call, Completion)

    def stream(
        self,
        messages: Messages,
        *,
        model: Models | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        response_model: type[BaseModel] | None = None,
        first_chunk_s: float | None = None,
        chunk_gap_s: float | None = None,
        **params: Unpack[Params],
    ) -> CompletionStream:
        """Ask, and hand over the answer as it comes: `with bridge.stream(...) as chunks: for chunk in chunks: ...`.

        As complete(), but: until the first content a failure goes to the next model, after it the reader gets
        StreamInterrupted with the text so far. A `response_model` is checked at the end, without a second attempt.

        Args:
            first_chunk_s: how long to wait for the first content, in seconds; then the next model is asked.
            chunk_gap_s: how long to wait between two chunks, in seconds.
        """
        call = self._chat(messages, model, tags, deadline_s, response_model, params)
        return CompletionStream(call, _guards(first_chunk_s, chunk_gap_s))

    def astream(
        self,
        messages: Messages,
        *,
        model: Models | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        response_model: type[BaseModel] | None = None,
        first_chunk_s: float | None = None,
        chunk_gap_s: float | None = None,
        **params: Unpack[Params],
    ) -> AsyncCompletionStream:
        """Same as stream(), for `async with` and `async for`."""
        call = self._chat(messages, model, tags, deadline_s, response_model, params)
        return AsyncCompletionStream(call, _guards(first_chunk_s, chunk_gap_s))

    def embed(
        self,
        inputs: Inputs,
        *,
        model: Models | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        **params: Unpack[EmbedParams],
    ) -> Embedding:
        """The embeddings of *inputs* (texts, or lists of token ids), in their order. Raises as complete() does."""
        call = self._embeddings(inputs, model, tags, deadline_s, params)
        for attempt in call.attempts():
            with attempt:
                attempt.take(provider.embed(attempt.request, attempt.exchange))
        return _answer(call, Embedding)

    async def aembed(
        self,
        inputs: Inputs,
        *,
        model: Models | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        **params: Unpack[EmbedParams],
    ) -> Embedding:
        """Same as embed(), without blocking the event loop."""
        call = self._embeddings(inputs, model, tags, deadline_s, params)
        for attempt in call.attempts():
            async with attempt:
                attempt.take(await provider.aembed(attempt.request, attempt.exchange))
        return _answer(call, Embedding)

    def plan(self, messages: Messages, *, model: Models | None = None, **params: Unpack[Params]) -> Plan:
        """Which models complete() would ask with these arguments; raises what it would raise before sending."""
        call = self._chat(messages, model, None, None, None, params)
        return Plan(models=call.record.models)

    def subscribe(self, listener: Callable[[CallRecord], None]) -> Callable[[], None]:
        """Have *listener* called with the record of every call that ends; returns what unsubscribes it.

        It runs in the call's own thread, so it should be quick. What it raises is logged and harms no call.
        """
        self._subscribers.append(listener)
        return lambda: self._subscribers.remove(listener) if listener in self._subscribers else None

    def _chat(
        self,
        messages: Messages,
        model: Models | None,
        tags: Mapping[str, str] | None,
        deadline_s: float | None,
        response_model: type[BaseModel] | None,
        params: Any,
    ) -> Call:
        return self._call(request.chat(messages, params, response_model), model, tags, deadline_s)

    def _embeddings(
        self,
        inputs: Inputs,
        model: Models | None,
        tags: Mapping[str, str] | None,
        deadline_s: float | None,
        params: Any,
    ) -> Call:
        return self._call(request.embeddings(inputs, params), model, tags, deadline_s)

    def _call(
        self, asked: Request, model: Models | None, tags: Mapping[str, str] | None, deadline_s: float | None
    ) -> Call:
        request.check_seconds("deadline_s", deadline_s)
        candidates = self._models if model is None else _models(model)
        if not candidates:
            raise ValueError("no model: write model='openai/gpt-4o-mini', or Bridge(models=[...])")
        request.check_destination(asked, candidates)
        return Call(
            asked,
            candidates,
            tags=request.check_tags({**_tags.get(), **(tags or {})}),
            deadline_s=deadline_s or self._deadline_s,
            publish=self._publish,
        )

    def _publish(self, record: CallRecord) -> None:
        if log.isEnabledFor(logging.INFO):
            log.info("%s", record.explain())
        for listener in list(self._subscribers):
            try:
                listener(record)
            except Exception:
                log.warning("a subscriber failed on the record of call %s", record.id, exc_info=True)


def _models(models: Models) -> tuple[Model, ...]:
    if not isinstance(models, (str, Model, list, tuple)):
        raise TypeError(f"model is 'provider/name', a Model, or a list of them, not {type(models).__name__}")
    listed = [models] if isinstance(models, (str, Model)) else list(models)
    return tuple(entry if isinstance(entry, Model) else Model(entry) for entry in listed)


def _guards(first_chunk_s: float | None, chunk_gap_s: float | None) -> tuple[float | None, float | None]:
    request.check_seconds("first_chunk_s", first_chunk_s)
    request.check_seconds("chunk_gap_s", chunk_gap_s)
    return first_chunk_s, chunk_gap_s


def _answer(call: Call, kind: type[T]) -> T:
    assert isinstance(call.answer, kind)
    return call.answer
