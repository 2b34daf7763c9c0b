"""Attempt: one model asked once, as a context manager in both colours."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llmbridge import provider, tracing
from llmbridge.assembly import Assembly
from llmbridge.call import charge
from llmbridge.call.batch import check_vectors, merged
from llmbridge.call.entering import admit
from llmbridge.call.parsing import checked
from llmbridge.call.race import Beaten, Race
from llmbridge.call.recalled import Recalled
from llmbridge.call.shared import interruption, separate
from llmbridge.completion import Chunk, Completion, Embedding, Usage, Vector
from llmbridge.errors import (
    BudgetExceeded,
    ProviderError,
    UnknownPrice,
)
from llmbridge.events import AttemptFailed, BreakerOpened
from llmbridge.exchange import Exchange
from llmbridge.ledger import Charge, Reservation
from llmbridge.money import usd
from llmbridge.provider import WorstCase
from llmbridge.record import AttemptRecord
from llmbridge.request import Request
from llmbridge.waiting import wait, wait_async


if TYPE_CHECKING:
    from llmbridge.call.admission import Admitted
    from llmbridge.call.call import Call
    from llmbridge.call.course import Ask
    from llmbridge.call.gate import Entrance
    from llmbridge.fallback.opening import Opening

Answer = Completion | Embedding
NOT_ADMITTED = WorstCase(None, None, None)


class Attempt:
    """One model asked once: `with attempt: attempt.take(...)`, or `attempt.open(...)` for a stream.

    On exit a ProviderError is kept in `error` and swallowed, for `Call.attempts` to decide; everything else ends the
    call and passes.
    """

    def __init__(self, call: Call, ask: Ask) -> None:
        self.ask = ask
        request = ask.request
        self.asked = request  # as the call puts it to this model, or what is left of it; before a budget gave it a cap
        self.request = request
        self.id = ""
        self.record = AttemptRecord(number=0, model=request.model, provider=request.provider, reason=ask.reason)
        self.exchange = Exchange(local_only=call.policy.local_only)
        self.error: ProviderError | None = None
        self.ready: deque[Chunk] = deque()
        self.done = False
        self._call = call
        self._started = 0.0
        self._waits = False
        self.trace = tracing.attempts.OFF
        self._step = self.trace.current()
        self._assembly: Assembly | None = None
        self.source: provider.Source | Recalled | None = None
        self._worst = NOT_ADMITTED
        self._charge: Charge | None = None
        self.entrance: Entrance | None = None
        self.reservation: Reservation | None = None
        self.recalled: Recalled | None = None
        self.race: Race | None = None
        self.when_sent: Callable[[], object] = _nothing
        self.known: dict[int, Vector] = {}  # of an embedding: what need not be asked
        self.fresh: Answer | None = None  # what came over the wire, to be remembered
        self.shown: list[Chunk] = []
        self.shown_count = 0

    def __enter__(self) -> Attempt:
        try:
            if self.recalled is None:
                wait(admit(self._call, self, blocking=True), self._call.waited)
            self._start()
        except BaseException as error:
            self._not_sent(error)
            raise
        return self

    async def __aenter__(self) -> Attempt:
        try:
            if self.recalled is None:
                await wait_async(admit(self._call, self), self._call.waited)
            self._start()
        except BaseException as error:
            self._not_sent(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        self._step.__exit__(None, None, None)
        try:
            swallowed = self._end(error)
        finally:
            if error is not None:
                self.exchange.close()
        if isinstance(self.fresh, Embedding) and self.race is None:
            wait(self._call.keeping())
        return swallowed

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        self._step.__exit__(None, None, None)
        swallowed = self._end(error)  # first: a cancellation may land while the connection is closed
        if error is not None:
            try:
                await self.exchange.aclose()
            except BaseException as interruption:
                self._call.finish("cancelled", interruption)
                raise
        if isinstance(self.fresh, Embedding) and self.race is None:
            await wait_async(self._call.keeping())
        return swallowed

    @property
    def question(self) -> Request:
        """As the caller put it to this model."""
        return self.ask.question

    def put(self, ask: Ask) -> None:
        """Ask something else than this attempt was made for, before it is sent."""
        self.ask = ask
        self.asked = self.request = request = ask.request
        self.known = {}
        self.record.model, self.record.provider, self.record.reason = request.model, request.provider, ask.reason

    def turned_away(self) -> None:
        """What it took at the gate is given back: it is not sent, or not to this model."""
        entrance, self.entrance = self.entrance, None
        if entrance is not None:
            entrance.end(self.record)

    def admitted(self, admitted: Admitted) -> None:
        """Send what was *admitted*, under its reservation."""
        self.request, self._worst, self.reservation = admitted.request, admitted.worst, admitted.reservation
        if self.reservation is not None:
            held = self.reservation.need.nanousd
            self.record.reserved_usd = None if held is None else usd(held)
            self._call.alerted(self.reservation.alerts)

    @property
    def kept(self) -> Any:
        """The answer out of the cache, in the place of a provider's; or None."""
        return self.recalled.answer if self.recalled is not None else None

    def take(self, answer: Answer) -> None:
        """Book *answer* and make it the call's. Raises InvalidOutput if it does not fit `response_model`."""
        sent = self.recalled is None
        if sent:
            self.fresh = answer
            self.record.response_model = answer._response_model
            self._charge = charge.answered(self.record, self.request, self._worst, answer)
        if isinstance(answer, Completion):
            accept = self._call.policy.accept if sent else None
            answer._parsed = checked(answer, self.request, accept, status=self.exchange.status)
        elif sent:  # what is recalled is whole, also where a part of it was known before
            check_vectors(answer, self.known, self.asked, status=self.exchange.status)
            answer = merged(answer, self.known)
        self.win()
        self._call.answer = answer

    def win(self) -> None:
        """There is an answer, or the first of it. Raises Beaten if another attempt was quicker."""
        if self.race is not None:
            self.race.win(self)

    def open(self, source: provider.Source | Recalled) -> provider.Source | Recalled:
        """Start to read a stream."""
        self.source, self._assembly = source, Assembly()
        return source

    @property
    def held_back(self) -> bool:
        """Whether too little of the stream's content has come yet, so that another model may still be asked."""
        return not self.done and self.shown_count < self._call.policy.commit_chunks

    @property
    def text(self) -> str:
        """What has come so far of a stream's first choice."""
        return self._assembly.text if self._assembly is not None else ""

    def feed(self, chunk: Chunk | None) -> None:
        """Take the stream's next *chunk*, None being its end; what the reader is to see goes to `ready`."""
        assert self._assembly is not None and self.source is not None
        if chunk is None:
            self._complete(self.source.usage())
            return
        keeps = self._call.memory is not None and self.recalled is None
        own = separate(chunk) if keeps else chunk  # the reader may change the one that it gets
        self._assembly.feed(own)
        if not (chunk.has_content or chunk.finish_reason or chunk.logprobs or chunk.extra):
            return
        if self.record.first_chunk_s is None and chunk.has_content:
            self.record.first_chunk_s = time.monotonic() - self._started
            self.trace.event("llmbridge.first_chunk")
        self.ready.append(chunk)
        self.shown_count += 1
        if keeps:
            self.shown.append(own)

    def broke_off(self, error: ProviderError) -> None:
        """End this attempt, but not the call: another one begins from the start."""
        self._fail(interruption(error, self.text))

    def interrupted(self, error: ProviderError) -> ProviderError:
        """End the call with *error*, which came after the reader had seen content, and return what to raise for it."""
        error = interruption(error, self.text)
        self._fail(error)
        self._call.finish("failed", error)
        return error

    def leave(self, outcome: Any = "left", error: BaseException | None = None) -> None:
        """End a stream before its end: what came was sent, what it cost is unknown."""
        if not self.done:
            self._break_off(outcome)
            self._finish(outcome, error)

    def beaten(self) -> None:
        """End an attempt that nobody waits for any more, if it has not ended: another one has won."""
        if not self.done and self.record.number and (self.race is None or self.race.closes(self)):
            self._break_off("cancelled")

    def _break_off(self, outcome: Any) -> None:
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
        self._pass_out()

    def _finish(self, outcome: Any, error: BaseException | None = None) -> None:
        """The call ends with this attempt, unless there is another one beside it."""
        if self.race is None:
            self._call.finish(outcome, error)

    def _not_sent(self, error: BaseException) -> None:
        """The attempt was refused, or interrupted before it was sent: whatever is reserved for it is given back."""
        if self.done:
            return
        self.done = True
        self._step.__exit__(None, None, None)  # it may have been interrupted a moment before it was sent
        self._stop_waiting()
        self.trace.end()
        self.turned_away()
        if not isinstance(error, (BudgetExceeded, UnknownPrice)):
            self._call.forget(self)
        self._finish("failed" if isinstance(error, Exception) else "cancelled", error)

    def _resolve(self, amount: Charge) -> None:
        self._call.resolved(self, amount)
        self.trace.end()

    def _seen(self, assembly: Assembly) -> Charge:
        part = assembly.completion(id="", created=0, model=self.request.model)
        return charge.seen(self.record, self.request, self._worst, part)

    def _start(self) -> None:
        self._started = time.monotonic()
        if self.recalled is not None:
            self._call.recalled(self.recalled.entry)
            return
        if self.race is not None and self.race.lost(self):
            raise Beaten("another model has answered")
        self._call.started(self)
        self._waits = True
        self._call.waited.__enter__()
        self.trace = self._call.trace.attempt(self.record)
        self._step = self.trace.current()
        self._step.__enter__()
        if self._call.propagate:
            self.exchange.propagated = self.trace.headers()
        left_s = self._call.remaining_s()  # first: past the exchange's deadline, the call's is past too
        self.exchange.deadline = time.monotonic() + left_s
        self.when_sent()

    def _end(self, error: BaseException | None) -> bool:
        if error is None:
            if self._assembly is None:
                self._succeed()
            return False
        lost = self.race is not None and self.race.lost(self)
        if lost:
            self.beaten()
        if lost or (self.done and self.record.outcome == "cancelled"):  # as the other attempt has seen to
            return isinstance(error, Exception)
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
        if self.recalled is None:
            self._observe()
            if self._charge is not None:
                self._resolve(self._charge)
            self._pass_out()
        self._finish("answered")

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
        opened = self._pass_out(error)
        self._call.tell(AttemptFailed, record)
        if opened is not None:
            self._call.tell(BreakerOpened, record.model, opened.kind, opened.why, opened.for_s)

    def _pass_out(self, error: ProviderError | None = None) -> Opening | None:
        """Tell the gate how it went, once. Returns the opening of the breaker, if this has opened it."""
        entrance, self.entrance = self.entrance, None
        if entrance is None:
            return None
        in_time = self._call.remaining_s() > 0
        return entrance.end(self.record, error, in_time=in_time, headers=self.exchange.headers)

    def _observe(self) -> None:
        """What the exchange knows, into the record."""
        record, exchange = self.record, self.exchange
        record.duration_s = time.monotonic() - self._started
        self._stop_waiting()
        record.status, record.host, record.port = exchange.status, exchange.host, exchange.port
        record.sent = exchange.sent
        record.provider = exchange.provider or record.provider
        if record.error_type is None:
            record.request_id = provider.request_id(exchange.headers)

    def _stop_waiting(self) -> None:
        if self._waits:
            self._waits = False
            self._call.waited.__exit__()

    def _complete(self, usage: Usage | None) -> None:
        assert self._assembly is not None
        self._assembly.usage = usage
        if usage is not None and (self.request.params.get("stream_options") or {}).get("include_usage"):
            self.ready.append(Chunk(usage=usage))
        completion = self.kept or self._assembly.completion(
            id=self._call.record.id, created=int(self._call.record.started_at), model=self.request.model
        )
        completion._response_model = self.source.response_model if self.source is not None else None
        if self.recalled is not None:
            self._call.recalled(self.recalled.entry)  # of a stream that was followed, the costs are known only now
        self.take(completion)
        self._succeed()


def _nothing() -> None:
    pass
