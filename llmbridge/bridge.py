"""Bridge and its verbs: complete, acomplete, stream, astream, embed, aembed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

from pydantic import BaseModel

from llmbridge import config, everywhere, request
from llmbridge.cache import Cache
from llmbridge.call import Call, asking
from llmbridge.call.memory import Mode, cache_params, memory_of, wish
from llmbridge.call.planning import Plan, candidates_of
from llmbridge.call.race import arun, run
from llmbridge.catalog import Catalog
from llmbridge.completion import Completion, Embedding
from llmbridge.errors import LedgerError
from llmbridge.events import Event, Listeners
from llmbridge.fallback import Endpoints, Fallback, Limit
from llmbridge.fallback.limiter import Limiter
from llmbridge.health import Health, Patient, examine
from llmbridge.home import breakers_path, ledger_path
from llmbridge.ledger import Budget, Ledger, budgets_of, distinct, one_call
from llmbridge.names import Names
from llmbridge.params import EmbedParams, Params, Truncate
from llmbridge.record import CallRecord
from llmbridge.request import Inputs, Messages, Model, Models, Request
from llmbridge.streams import AsyncCompletionStream, CompletionStream
from llmbridge.tags import current
from llmbridge.truncation import checked_prompt, fitted, prompt_params


log = logging.getLogger("llmbridge")
T = TypeVar("T", Completion, Embedding)
Budgets = str | Budget | Sequence[str | Budget]
_Own = tuple[Models | Fallback | None, Budgets | None, Mode | None, Mapping[str, str] | None, float | None]
DEFAULT = ""


class Bridge:
    """The verbs, with the collaborators that they use. Safe to share between threads, tasks and event loops.

    Args:
        models: whom to ask when a call names no model, in order.
        budgets: caps that always apply, besides those of a call.
        ledger: where calls are reserved and recorded: a Ledger, or the path of one. By default `ledger.db` in the
            platform's state directory, or in `LLMBRIDGE_HOME`; opened at the first call. None: nowhere, and then no
            call can have a budget.
        cache: where answers are kept: a Cache, or a directory. None: nowhere. The default Bridge has one, in the
            platform's state directory; it rests inside replay().
        deadline_s: the bound on a whole call in seconds, over all its attempts, where the call gives none.
        fallback: what is done after a failure, where the call brings no Fallback of its own; by default Fallback().
        limits: what may be asked a minute, and at a time, besides the limits of the Models.
        names: what `model=` may say besides "provider/name": names of Models and of Fallbacks.
        propagate: send the trace on to the providers, in the headers `traceparent` and `baggage`.
        max_input_tokens, truncate: how long a prompt may be, where the call does not say; see Params.
    """

    def __init__(
        self,
        models: Models = (),
        *,
        budgets: Budgets = (),
        ledger: Ledger | str | os.PathLike[str] | None = DEFAULT,
        cache: Cache | str | os.PathLike[str] | None = None,
        deadline_s: float = 600.0,
        fallback: Fallback | None = None,
        limits: Limit | Sequence[Limit] = (),
        names: Mapping[str, Model | Fallback] | None = None,
        propagate: bool = False,
        max_input_tokens: int | None = None,
        truncate: Truncate | None = None,
    ) -> None:
        request.check_seconds("deadline_s", deadline_s)
        if deadline_s is None:
            raise ValueError("deadline_s is a number of seconds: every call has a bound")
        self._names = Names(models, fallback, names or {})
        self._limiters = [Limiter(limit) for limit in ([limits] if isinstance(limits, Limit) else limits)]
        self._endpoints = Endpoints()
        self._budgets = budgets_of(budgets)
        if self._budgets and ledger is None:
            raise ValueError("budgets need a ledger; ledger=None is for calls that nobody counts")
        self._ledger = ledger
        self._cache = cache if cache is None or isinstance(cache, Cache) else Cache(Path(cache))
        self._opening = threading.Lock()
        self._opened: Ledger | None = None
        self._ledger_options: Mapping[str, Any] = {}
        self._warned = False
        self._deadline_s = deadline_s
        self._propagate = propagate
        self._prompt = checked_prompt(max_input_tokens, truncate)
        self._listeners = Listeners(everywhere.heard)
        self._found: config.Configuration | None = None

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None, *, name: str | None = None) -> Bridge:
        """A Bridge as a configuration has it: the file at *path*, else the one that is found (see `llmbridge.config`),
        and the LLMBRIDGE_* variables, which go before it. *name*: with what `[bridges.NAME]` says otherwise.

        Raises ConfigError for whatever is wrong; then nothing is changed. Its `[tracing]` is for the default Bridge.
        """
        return cls.configured(config.load(path, name))

    @classmethod
    def configured(cls, found: config.Configuration) -> Bridge:
        """The Bridge that *found* describes."""
        bridge = cls(**found.arguments)
        bridge._found, bridge._ledger_options = found, found.ledger_options
        return bridge

    def succeed(self, old: Bridge) -> None:
        """Go on with what *old* knows of the endpoints and has counted of the same limits, with its ledger if that is
        to be the same, and tell its listeners."""
        self._endpoints, self._listeners = old._endpoints, old._listeners
        if (self._ledger, self._ledger_options) == (old._ledger, old._ledger_options):
            self._opened = old._opened
        counted = {limiter.limit: limiter for limiter in old._limiters}
        self._limiters = [counted.get(limiter.limit, limiter) for limiter in self._limiters]

    @property
    def cache(self) -> Cache | None:
        """Where answers are kept, or None."""
        return self._cache

    @property
    def models(self) -> Catalog:
        """What can be asked about models: those of LiteLLM's table, and this Bridge's own with their prices."""
        return Catalog(self._names.models, lambda: {} if self._ledger is None else self.ledger.typical())

    @property
    def ledger(self) -> Ledger:
        """The ledger that calls are reserved and recorded in. Raises LedgerError if it cannot be opened, and
        AttributeError if there is none."""
        if isinstance(self._ledger, Ledger):
            return self._ledger
        if self._ledger is None:
            raise AttributeError("this Bridge has no ledger")
        opened = self._opened
        if self._ledger and opened is not None:
            return opened
        path = Path(self._ledger) if self._ledger else ledger_path()  # where the default one is may change: replay()
        with self._opening:
            if self._opened is None or self._opened.path != path:
                self._opened = Ledger(path, **self._ledger_options)
            return self._opened

    def complete(
        self,
        messages: Messages,
        *,
        model: Models | Fallback | None = None,
        budget: Budgets | None = None,
        cache: Mode | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        response_model: type[BaseModel] | None = None,
        **params: Unpack[Params],
    ) -> Completion:
        """Ask, and wait for the whole answer.

        Args:
            messages: one user message, or a list of OpenAI-shaped dicts.
            model: "provider/name" as LiteLLM spells it, a name from the configuration, a Model, or a list of these,
                tried in order; or a Fallback.
            budget: caps that hold for this call besides those of the Bridge: "$5/day", a Budget, or a list. The worst
                case is reserved in all of them before anything is sent.
            cache: "on", where the Bridge has one, serves and keeps answers; "off" does neither, "refresh" only keeps,
                "only" sends nothing. With it in `params`: ttl_s and max_age_s, in seconds, and sample, which of
                several independent answers is meant (0, 1, 2, ...).
            tags: the caller's labels, such as {"user": "alice"}; they stand on the call's record, and budgets with
                `per` count by them.
            deadline_s: the bound on the whole call in seconds, over all attempts.
            response_model: a pydantic class; the answer's `parsed` is an instance of it. An answer that does not fit
                is shown to the model once, with the complaint; that is a second attempt, and costs one.
            params: LiteLLM's parameters.

        Raises:
            TypeError, ValueError: the request is wrong; nothing was sent.
            BudgetExceeded: the next attempt could have passed a cap.
            CacheMiss: `cache="only"`, and no answer is kept.
            UnknownPrice: a budget applies to a model whose worst case is not known.
            LedgerError: a budget applies and the ledger cannot be used.
            ProviderError: the one model that was asked said no.
            AllAttemptsFailed: more than one attempt was made and none answered.
            RateLimited: a limit of our own has no room in time.
            DeadlineExceeded: `deadline_s` passed.
        """
        call = self._chat(messages, (model, budget, cache, tags, deadline_s), response_model, params)
        for attempt in call.attempts():
            run(call, attempt, asking.complete)
        return _answer(call, Completion)

    async def acomplete(
        self,
        messages: Messages,
        *,
        model: Models | Fallback | None = None,
        budget: Budgets | None = None,
        cache: Mode | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        response_model: type[BaseModel] | None = None,
        **params: Unpack[Params],
    ) -> Completion:
        """Same as complete(), without blocking the event loop."""
        call = self._chat(messages, (model, budget, cache, tags, deadline_s), response_model, params)
        for attempt in call.attempts():
            await arun(call, attempt, asking.acomplete)
        return _answer(call, Completion)

    def stream(
        self,
        messages: Messages,
        *,
        model: Models | Fallback | None = None,
        budget: Budgets | None = None,
        cache: Mode | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        response_model: type[BaseModel] | None = None,
        first_chunk_s: float | None = None,
        chunk_gap_s: float | None = None,
        **params: Unpack[Params],
    ) -> CompletionStream:
        """Ask, and hand over the answer as it comes: `with bridge.stream(...) as chunks: for chunk in chunks: ...`.

        As complete(), but: until the first content a failure goes to the next model, after it the reader gets
        StreamInterrupted with the text so far, or, with Fallback(on_stream_break="restart"), a chunk that is
        `restarted` and then another answer. A `response_model` is checked at the end, without a second attempt.

        Args:
            first_chunk_s: how long to wait for the first content, in seconds; then the next model is asked.
            chunk_gap_s: how long to wait between two chunks, in seconds.
        """
        call = self._chat(messages, (model, budget, cache, tags, deadline_s), response_model, params)
        return CompletionStream(call, call.policy.guards(first_chunk_s, chunk_gap_s))

    def astream(
        self,
        messages: Messages,
        *,
        model: Models | Fallback | None = None,
        budget: Budgets | None = None,
        cache: Mode | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        response_model: type[BaseModel] | None = None,
        first_chunk_s: float | None = None,
        chunk_gap_s: float | None = None,
        **params: Unpack[Params],
    ) -> AsyncCompletionStream:
        """Same as stream(), for `async with` and `async for`."""
        call = self._chat(messages, (model, budget, cache, tags, deadline_s), response_model, params)
        return AsyncCompletionStream(call, call.policy.guards(first_chunk_s, chunk_gap_s))

    def embed(
        self,
        inputs: Inputs,
        *,
        model: Models | Fallback | None = None,
        budget: Budgets | None = None,
        cache: Mode | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        **params: Unpack[EmbedParams],
    ) -> Embedding:
        """The embeddings of *inputs* (texts, or lists of token ids), in their order. Raises as complete() does."""
        call = self._embeddings(inputs, (model, budget, cache, tags, deadline_s), params)
        for attempt in call.attempts():
            run(call, attempt, asking.embed)
        return _answer(call, Embedding)

    async def aembed(
        self,
        inputs: Inputs,
        *,
        model: Models | Fallback | None = None,
        budget: Budgets | None = None,
        cache: Mode | None = None,
        tags: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
        **params: Unpack[EmbedParams],
    ) -> Embedding:
        """Same as embed(), without blocking the event loop."""
        call = self._embeddings(inputs, (model, budget, cache, tags, deadline_s), params)
        for attempt in call.attempts():
            await arun(call, attempt, asking.aembed)
        return _answer(call, Embedding)

    def plan(
        self,
        messages: Messages,
        *,
        model: Models | Fallback | None = None,
        budget: Budgets | None = None,
        cache: Mode | None = None,
        tags: Mapping[str, str] | None = None,
        response_model: type[BaseModel] | None = None,
        **params: Unpack[Params],
    ) -> Plan:
        """What complete() would do with these arguments: whom it would ask, in which order, who is left out and why,
        what that can cost at most, what is left of the budgets. Nothing is sent or reserved; raises as complete() does
        before it sends."""
        return self._chat(messages, (model, budget, cache, tags, None), response_model, params).plan()

    def health(self, *, ask: bool = False, timeout_s: float = 10.0) -> Health:
        """Whether all that calls need is there: keys, models, ledger, cache, collector. Raises nothing; loads LiteLLM.
        Costs nothing, unless *ask* has each model asked for a token. What takes longer than *timeout_s* is wrong."""
        about = self._names.models, self._endpoints, self._limiters, self._cache, self._found
        return examine(Patient(*about, lambda: self.ledger, self if ask else None), timeout_s)

    async def ahealth(self, *, ask: bool = False, timeout_s: float = 10.0) -> Health:
        """Same as health(), without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.health, ask=ask, timeout_s=timeout_s)

    def subscribe(self, listener: Callable[[Any], object], *kinds: type[Event]) -> Callable[[], None]:
        """Have *listener* called with the record of every call that ends or, if *kinds* are given, with each event of
        those classes of `llmbridge.events`; returns what unsubscribes it.

        It runs where the event happens, also on an event loop, so it should be quick; once it has taken half a second,
        a thread tells it all that follows, in order. What it raises is logged and harms no call.
        """
        return self._listeners.add(listener, kinds or (CallRecord,))

    def _chat(self, messages: Messages, own: _Own, response_model: type[BaseModel] | None, params: Any) -> Call:
        cache, prompt = cache_params(params), {**self._prompt, **prompt_params(params)}
        return self._call(request.chat(messages, params, response_model), cache, prompt, *own)

    def _embeddings(self, inputs: Inputs, own: _Own, params: Any) -> Call:
        cache = cache_params(params)
        return self._call(request.embeddings(inputs, params), cache, {}, *own)

    def _call(
        self,
        asked: Request,
        given: dict[str, Any],
        prompt: dict[str, Any],
        model: Models | Fallback | None,
        budget: Budgets | None,
        cache: Mode | None,
        tags: Mapping[str, str] | None,
        deadline_s: float | None,
    ) -> Call:
        request.check_seconds("deadline_s", deadline_s)
        policy, models = self._names.of(asked, model)
        if prompt:
            asked = fitted(asked, models[0].model, **prompt)
        budgets, capped = self._budgets, everywhere.budgets()
        if capped or budget is not None or policy.max_usd is not None:
            budgets = distinct([*budgets, *capped, *budgets_of(budget), *one_call(policy.max_usd)])
        tags = request.check_tags({**current(), **(tags or {})})
        memory = memory_of(self._cache, wish(cache, given), tags)
        if memory is not None:  # what is kept under a key is what was sent, whatever the caller does to its messages
            asked = asked.owning()
        ledger = self._usable_ledger(budgets, models)
        return Call(
            asked,
            candidates_of(asked, models, self._endpoints, None if ledger is None else breakers_path(ledger.path)),
            policy=policy,
            tags=tags,
            deadline_s=deadline_s or policy.deadline_s or self._deadline_s,
            listeners=self._listeners,
            ledger=ledger,
            budgets=budgets,
            limiters=self._limiters,
            memory=memory,
            propagate=self._propagate,
        )

    def _usable_ledger(self, budgets: Sequence[Budget], candidates: Sequence[Model]) -> Ledger | None:
        """The ledger, opened at the first call; None if there is none, or if it cannot be used and no cap needs it."""
        if self._ledger is None:
            if budgets:
                raise ValueError("a budget needs a ledger, and this Bridge was made with ledger=None")
            return None
        try:
            return self.ledger
        except LedgerError as error:
            caps = [budget for budget in budgets if budget.on_exceed != "warn"]
            if any(budget.covers(candidate.model) for budget in caps for candidate in candidates):
                raise
            if not self._warned:
                self._warned = True
                log.warning("calls are not recorded: %s", error)
            return None


def _answer(call: Call, kind: type[T]) -> T:
    assert isinstance(call.answer, kind)
    call.current = None  # which leads back to the call: in a cycle, they would wait for the collector
    return call.answer
