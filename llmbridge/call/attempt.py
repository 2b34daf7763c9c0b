"""Attempt: one model asked once, as a context manager in both colours."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llmbridge import provider
from llmbridge.assembly import Assembly
from llmbridge.call import charge
from llmbridge.call.batch import merged
from llmbridge.call.parsing import parsed
from llmbridge.call.recalled import Recalled
from llmbridge.call.shared import interruption, separate
from llmbridge.completion import Chunk, Completion, Embedding, Usage, Vector
from llmbridge.errors import (
    BudgetExceeded,
    InvalidOutput,
    ProviderError,
    ProviderUnavailable,
    UnknownPrice,
)
from llmbridge.exchange import Exchange
from llmbridge.ledger import Charge, Reservation
from llmbridge.money import usd
from llmbridge.provider import WorstCase
from llmbridge.record import AttemptRecord, Reason
from llmbridge.request import Request
from llmbridge.waiting import wait, wait_async


if TYPE_CHECKING:
    from llmbridge.call.admission import Admitted
    from llmbridge.call.call import Call

Answer = Completion | Embedding
NOT_ADMITTED = WorstCase(None, None, None)


class Attempt:
    """One model asked once: `with attempt: attempt.take(...)`, or `attempt.open(...)` for a stream.

    On exit a ProviderError is kept in `error` and swallowed, for `Call.attempts` to decide; everything else ends the
    call and passes.
    """

    def __init__(self, call: Call, request: Request, reason: Reason) -> None:
        self.question = request  # as the caller put it to this model
        self.asked = request  # the same, or what is left of it; before a budget gave it a cap
        self.request = request
        self.id = ""
        self.record = AttemptRecord(number=0, model=request.model, provider=request.provider, reason=reason)
        self.exchange = Exchange()
        self.error: ProviderError | None = None
        self.ready: deque[Chunk] = deque()
        self.done = False
        self._call = call
        self._started = 0.0
        self._assembly: Assembly | None = None
        self._source: provider.Source | Recalled | None = None
        self._worst = NOT_ADMITTED
        self._charge: Charge | None = None
        self.reservation: Reservation | None = None
        self.recalled: Recalled | None = None
        self.known: dict[int, Vector] = {}  # of an embedding: what need not be asked
        self.fresh: Answer | None = None  # what came over the wire, to be remembered
        self.shown: list[Chunk] = []
        self._shown_count = 0

    def __enter__(self) -> Attempt:
        try:
            if self.recalled is None:
                wait(self._call.admit(self, blocking=True))
            self._start()
        except BaseException as error:
            self._not_sent(error)
            raise
        return self

    async def __aenter__(self) -> Attempt:
        try:
            if self.recalled is None:
                await wait_async(self._call.admit(self))
            self._start()
        except BaseException as error:
            self._not_sent(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        try:
            swallowed = self._end(error)
        finally:
            if error is not None:
                self.exchange.close()
        if isinstance(self.fresh, Embedding) and self._call.memory is not None:
            wait(self._call.memory.keeping())
        return swallowed

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        swallowed = self._end(error)  # first: a cancellation may land while the connection is closed
        if error is not None:
            try:
                await self.exchange.aclose()
            except BaseException as interruption:
                self._call.finish("cancelled", interruption)
                raise
        if isinstance(self.fresh, Embedding) and self._call.memory is not None:
            await wait_async(self._call.memory.keeping())
        return swallowed

    def ask(self, request: Request, reason: Reason) -> None:
        """Ask another *request* than this attempt was made for, before it is sent."""
        self.question = self.asked = self.request = request
        self.known = {}
        self.record.model, self.record.provider, self.record.reason = request.model, request.provider, reason

    def admitted(self, admitted: Admitted) -> None:
        """Send what was *admitted*, under its reservation."""
        self.request, self._worst, self.reservation = admitted.request, admitted.worst, admitted.reservation
        if self.reservation is not None:
            held = self.reservation.need.nanousd
            self.record.reserved_usd = None if held is None else usd(held)
            self._call.record.alerts += self.reservation.alerts

    @property
    def kept(self) -> Any:
        """The answer out of the cache, in the place of a provider's; or None."""
        return self.recalled.answer if self.recalled is not None else None

    def take(self, answer: Answer) -> None:
        """Book *answer* and make it the call's. Raises InvalidOutput if it does not fit `response_model`."""
        if self.recalled is None:
            self.fresh = answer
            self.record.response_model = answer._response_model
            self._charge = charge.answered(self.record, self.request, self._worst, answer)
        if isinstance(answer, Embedding):
            answer = self._whole(answer)
        if isinstance(answer, Completion):
            answer._parsed = self._parsed(answer)
        self._call.answer = answer

    def _whole(self, sent: Embedding) -> Embedding:
        if self.known and sorted(vector.index for vector in sent.data) != list(range(len(self.asked.content))):
            raise ProviderUnavailable(
                f"{self.request.model} gave {len(sent.data)} embeddings for {len(self.asked.content)} inputs",
                model=self.request.model,
                provider=self.request.provider,
                status=self.exchange.status,
            )
        return merged(sent, self.known)

    def open(self, source: provider.Source | Recalled) -> provider.Source | Recalled:
        """Start to read a stream."""
        self._source, self._assembly = source, Assembly()
        return source

    @property
    def held_back(self) -> bool:
        """Whether nothing of the stream's content has come yet, so that another model may still be asked."""
        return not self.done and not self.ready

    @property
    def text(self) -> str:
        """What has come so far of a stream's first choice."""
        return self._assembly.text if self._assembly is not None else ""

    def feed(self, chunk: Chunk | None) -> None:
        """Take the stream's next *chunk*, None being its end; what the reader is to see goes to `ready`."""
        assert self._assembly is not None and self._source is not None
        if chunk is None:
            self._complete(self._source.usage())
            return
        keeps = self._call.memory is not None and self.recalled is None
        own = separate(chunk) if keeps else chunk  # the reader may change the one that it gets
        self._assembly.feed(own)
        if not (chunk.has_content or chunk.finish_reason or chunk.logprobs or chunk.extra):
            return
        if self.record.first_chunk_s is None and chunk.has_content:
            self.record.first_chunk_s = time.monotonic() - self._started
        self.ready.append(chunk)
        self._shown_count += 1
        if keeps:
            self.shown.append(own)

    def interrupted(self, error: ProviderError) -> ProviderError:
        """End the call with *error*, which came after the reader had seen content, and return what to raise for it."""
        error = interruption(error, self.text)
        self._fail(error)
        self._call.finish("failed", error)
        return error

    def leave(self, outcome: Any = "left", error: BaseException | None = None) -> None:
        """End a stream before its end: what came was sent, what it cost is unknown."""
        if self.done:
            return
        self.done = True
        self.ready.clear()
        self.record.outcome = outcome
        self._observe()
        if self._charge is not None:  # the answer had come
            self._resolve(self._charge)
        elif not self.record.sent:
            self._resolve(charge.nothing(self.record))
        elif self._assembly is not None and self._assembly.chunk_count:
            self._resolve(self._seen(self._assembly))
        else:
            self._resolve(charge.unknown(self.record, self._worst))
        self._call.finish(outcome, error)

    def _not_sent(self, error: BaseException) -> None:
        """The attempt was refused, or interrupted before it was sent: whatever is reserved for it is given back."""
        if self.done:
            return
        self.done = True
        if not isinstance(error, (BudgetExceeded, UnknownPrice)):
            self._call.forget(self)
        self._call.finish("failed" if isinstance(error, Exception) else "cancelled", error)

    def _resolve(self, amount: Charge) -> None:
        self._call.resolved(self, amount)

    def _seen(self, assembly: Assembly) -> Charge:
        part = assembly.completion(id="", created=0, model=self.request.model)
        return charge.seen(self.record, self.request, self._worst, part)

    def _start(self) -> None:
        self._started = time.monotonic()
        if self.recalled is not None:
            self._call.recalled(self.recalled.entry)
            return
        self._call.started(self.record)
        self.exchange.deadline = self._started + self._call.remaining_s()

    def _end(self, error: BaseException | None) -> bool:
        if error is None:
            if self._assembly is None:
                self._succeed()
            return False
        if isinstance(error, ProviderError):
            self._fail(error)
            self.error = error
            return True
        self.record.error_type = type(error).__name__
        self.leave("failed" if isinstance(error, Exception) else "cancelled", error)
        return False

    def _succeed(self) -> None:
        self.done = True
        self.record.outcome = "answered"
        self._observe()
        if self._charge is not None:
            self._resolve(self._charge)
        self._call.finish("answered")

    def _fail(self, error: ProviderError) -> None:
        self.done = True
        self.ready.clear()
        self._call.failed(error)
        record = self.record
        record.outcome = "failed"
        record.error_type, record.error, record.kind = type(error).__name__, str(error), error.kind
        record.retry_after_s, record.request_id = error.retry_after_s, error.request_id
        self._observe()
        record.sent = error.sent
        if self._charge is None:
            if self._assembly is not None and self._assembly.chunk_count and error.sent:
                self._charge = self._seen(self._assembly)
            else:
                self._charge = charge.failed(record, self._worst, error, charge_5xx=self._call.charges_5xx)
        self._resolve(self._charge)

    def _observe(self) -> None:
        """What the exchange knows, into the record."""
        record, exchange = self.record, self.exchange
        record.duration_s = time.monotonic() - self._started
        record.status, record.host, record.sent = exchange.status, exchange.host, exchange.sent
        record.provider = exchange.provider or record.provider
        if record.error_type is None:
            record.request_id = provider.request_id(exchange.headers)

    def _complete(self, usage: Usage | None) -> None:
        assert self._assembly is not None
        self._assembly.usage = usage
        if usage is not None and (self.request.params.get("stream_options") or {}).get("include_usage"):
            self.ready.append(Chunk(usage=usage))
        completion = self.kept or self._assembly.completion(
            id=self._call.record.id, created=int(self._call.record.started_at), model=self.request.model
        )
        completion._response_model = self._source.response_model if self._source is not None else None
        self._call.record.chunk_count = self._shown_count
        if self.recalled is not None:
            self._call.recalled(self.recalled.entry)  # of a stream that was followed, the costs are known only now
        self.take(completion)
        self._succeed()

    def _parsed(self, completion: Completion) -> Any:
        wanted = self.request.response_model
        if wanted is None:
            return None
        try:
            return parsed(wanted, completion.text)
        except ValueError as exc:  # pydantic's ValidationError is one
            complaint = str(exc)
        raise InvalidOutput(
            f"{self.request.model} answered, but not with a {wanted.__name__}: {complaint}",
            output=completion.text,
            model=self.request.model,
            provider=self.request.provider,
            status=self.exchange.status,
        )
