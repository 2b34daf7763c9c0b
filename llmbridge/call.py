"""One call, from its candidates to its record. The page to read first.

A verb in `bridge` is a loop over `Call.attempts()`; each Attempt is a context manager in both colours that admits the
request, watches the exchange, books what it cost and swallows the error when the loop is to go on. The order, of which
this file is the one place:

    1. validate    request.py, before a Call exists
    2. plan        the candidates, in the order given
    3. admit       is there time left?
    4. send        provider, once, through an Exchange
    5. resolve     what was it, what did it cost, what is unknown
    6. decide      done, the same model shown its wrong answer, the next one, or stop (fallback.policy)
    7. record      one CallRecord, to everyone who listens

Whatever ends the call (an answer, an error, a cancellation, a stream left early or dropped), `_finish` runs once.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any

from llmbridge import provider
from llmbridge.assembly import Assembly
from llmbridge.completion import Chunk, Completion, Embedding, Usage
from llmbridge.errors import (
    AllAttemptsFailed,
    DeadlineExceeded,
    InvalidOutput,
    LLMBridgeError,
    ProviderError,
    ProviderTimeout,
    StreamInterrupted,
)
from llmbridge.fallback import after
from llmbridge.record import AttemptRecord, CallRecord, Reason
from llmbridge.request import Model, Request
from llmbridge.waiting import wait, wait_async
from llmbridge.wire import Exchange


Answer = Completion | Embedding


class Call:
    """One use of a verb. Iterate `attempts()`, then read `answer`."""

    def __init__(
        self,
        request: Request,
        candidates: Sequence[Model],
        *,
        tags: dict[str, str],
        deadline_s: float,
        publish: Callable[[CallRecord], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answer: Answer | None = None
        self.deadline_s = deadline_s
        self.record = CallRecord(
            id=uuid.uuid4().hex,
            verb=request.verb,
            models=tuple(candidate.model for candidate in candidates),
            tags=tags,
            started_at=time.time(),
        )
        self._requests = [request.for_model(candidate) for candidate in candidates]
        self._publish = publish
        self._clock = clock
        self._started = clock()
        self._records: list[AttemptRecord] = []
        self._errors: list[ProviderError] = []
        self._finished = False
        self.current: Attempt | None = None
        self.when_finished: Callable[[], object] = lambda: None

    def attempts(self) -> Iterator[Attempt]:
        """The attempts, one after the other, as each outcome demands. Raises the call's error when none is left."""
        answered = False
        try:
            yield from self._attempts()
            answered = True
        finally:
            if not answered:  # an error has finished the call already; this is for a loop that was left
                self.finish("cancelled")

    def _attempts(self) -> Iterator[Attempt]:
        upcoming: deque[tuple[Request, Reason]] = deque((request, "fallback") for request in self._requests)
        upcoming[0] = (upcoming[0][0], "initial")
        while upcoming:
            request, reason = upcoming.popleft()
            self.current = attempt = Attempt(self, request, reason)
            yield attempt
            if attempt.error is None:
                return
            step = after(attempt.error, repaired=reason == "repair")
            if step == "stop":
                break
            if step == "repair" and isinstance(attempt.error, InvalidOutput):
                upcoming.appendleft((request.repaired(attempt.error.output, str(attempt.error)), "repair"))
            if self.remaining_s() <= 0:
                break
        error = self._failure()
        self.finish("failed", error)
        raise error

    def remaining_s(self) -> float:
        """Seconds until the call's deadline; negative after it."""
        return self._started + self.deadline_s - self._clock()

    def admit(self) -> Iterator[float]:
        """Pauses until the next attempt may start. Raises DeadlineExceeded, with the call finished, if it never may."""
        if self.remaining_s() <= 0:
            error = self._out_of_time()
            self.finish("failed", error)
            raise error
        yield from ()

    def failed(self, error: ProviderError) -> None:
        """Remember *error* for the end of the call."""
        error.call_id = self.record.id
        error.__traceback__ = None  # it holds the frames of whoever reads a stream, which would then never be collected
        self._errors.append(error)

    def finish(self, outcome: Any, error: BaseException | None = None) -> None:
        """Close the record and hand it to everyone who listens; only the first time counts."""
        if self._finished:
            return
        self._finished = True
        record = self.record
        record.outcome = outcome
        record.duration_s = self._clock() - self._started
        record.attempts = tuple(self._records)
        if error is not None:
            record.error_type = type(error).__name__
        if isinstance(error, LLMBridgeError):
            error.call_id = record.id
        record.cost_usd = _sum_usd(attempt.cost_usd for attempt in self._records)
        record.uncertain = any(attempt.uncertain for attempt in self._records)
        last = self._records[-1] if self._records else None
        if last is not None and outcome in ("answered", "left"):
            record.model, record.provider, record.first_chunk_s = last.model, last.provider, last.first_chunk_s
            record.input_tokens, record.output_tokens = last.input_tokens, last.output_tokens
            record.estimated = last.estimated
        if self.answer is not None:
            self.answer._record = record
        self.when_finished()
        self._publish(record)

    def started(self, record: AttemptRecord) -> None:
        """Count an attempt that was admitted."""
        self._records.append(record)
        record.number = len(self._records)

    def _failure(self) -> LLMBridgeError:
        last = self._errors[-1]
        if self.remaining_s() <= 0 and last.kind != "bad request":
            return self._out_of_time()
        if len(self._errors) == 1:
            return last
        tried = "; ".join(record.line() for record in self._records)
        message = f"none of {len(self._errors)} attempts was answered: {tried}. The last said: {last}"
        return AllAttemptsFailed(message, errors=self._errors, attempts=self._records)

    def _out_of_time(self) -> DeadlineExceeded:
        tried = "; ".join(record.line() for record in self._records if record.error_type) or "nothing was sent"
        message = f"the call's {self.deadline_s:g} s are over: {tried}; raise deadline_s or ask a quicker model"
        return DeadlineExceeded(message, deadline_s=self.deadline_s, attempts=self._records)


class Attempt:
    """One model asked once: `with attempt: attempt.take(...)`, or `attempt.open(...)` for a stream.

    On exit a ProviderError is kept in `error` and swallowed, for `Call.attempts` to decide; everything else ends the
    call and passes.
    """

    def __init__(self, call: Call, request: Request, reason: Reason) -> None:
        self.request = request
        self.record = AttemptRecord(number=0, model=request.model, provider=request.provider, reason=reason)
        self.exchange = Exchange()
        self.error: ProviderError | None = None
        self.ready: deque[Chunk] = deque()
        self.done = False
        self._call = call
        self._started = 0.0
        self._assembly: Assembly | None = None
        self._source: provider.Source | None = None

    def __enter__(self) -> Attempt:
        wait(self._call.admit())
        self._start()
        return self

    async def __aenter__(self) -> Attempt:
        await wait_async(self._call.admit())
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        try:
            return self._end(error)
        finally:
            if error is not None:
                self.exchange.close()

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
        return swallowed

    def take(self, answer: Answer) -> None:
        """Book *answer* and make it the call's. Raises InvalidOutput if it does not fit `response_model`."""
        self._book(answer.usage, answer._response_model)
        if isinstance(answer, Completion):
            answer._parsed = self._parsed(answer)
        self._call.answer = answer

    def open(self, source: provider.Source) -> provider.Source:
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
        self._assembly.feed(chunk)
        if not (chunk.has_content or chunk.finish_reason or chunk.logprobs or chunk.extra):
            return
        if self.record.first_chunk_s is None and chunk.has_content:
            self.record.first_chunk_s = time.monotonic() - self._started
        self.ready.append(chunk)

    def interrupted(self, error: ProviderError) -> ProviderError:
        """End the call with *error*, which came after the reader had seen content, and return what to raise for it."""
        if not isinstance(error, InvalidOutput):
            error = StreamInterrupted(
                f"the answer broke off after {len(self.text):,} characters, which .partial holds: {error}",
                partial=self.text,
                model=error.model,
                provider=error.provider,
                status=error.status,
                retry_after_s=error.retry_after_s,
                request_id=error.request_id,
            )
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
        self.record.uncertain = self.record.sent
        self.record.cost_usd = None if self.record.sent else Decimal(0)
        self._call.finish(outcome, error)

    def _start(self) -> None:
        self._call.started(self.record)
        self._started = time.monotonic()
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
        # A refusal or a redirect is not billed. Silence, a break or an unreadable answer after sending may be, and so
        # may what a gateway gave up waiting for (408, 504).
        refused = record.status is not None and record.status >= 300 and not isinstance(error, ProviderTimeout)
        if record.cost_usd is None:
            record.uncertain = error.sent and not refused
            record.cost_usd = None if record.uncertain else Decimal(0)

    def _observe(self) -> None:
        """What the exchange knows, into the record."""
        record, exchange = self.record, self.exchange
        record.duration_s = time.monotonic() - self._started
        record.status, record.host, record.sent = exchange.status, exchange.host, exchange.sent
        record.provider = exchange.provider or record.provider
        if record.error_type is None:
            record.request_id = provider.request_id(exchange.headers)

    def _book(self, usage: Usage | None, response_model: str | None) -> None:
        record = self.record
        record.cost_usd = provider.cost_usd(self.request, usage)
        record.uncertain = record.cost_usd is None
        record.response_model = response_model
        if usage is not None:
            record.input_tokens, record.output_tokens = usage.prompt_tokens, usage.completion_tokens
            record.estimated = usage.estimated
            record.uncertain = record.uncertain or usage.estimated

    def _complete(self, usage: Usage | None) -> None:
        assert self._assembly is not None
        self._assembly.usage = usage
        if usage is not None and (self.request.params.get("stream_options") or {}).get("include_usage"):
            self.ready.append(Chunk(usage=usage))
        completion = self._assembly.completion(
            id=self._call.record.id, created=int(self._call.record.started_at), model=self.request.model
        )
        completion._response_model = self._source.response_model if self._source is not None else None
        self._call.record.chunk_count = self._assembly.chunk_count
        self.take(completion)
        self._succeed()

    def _parsed(self, completion: Completion) -> Any:
        wanted = self.request.response_model
        if wanted is None:
            return None
        try:
            return wanted.model_validate_json(_without_fence(completion.text))
        except ValueError as exc:  # pydantic's ValidationError is one
            complaint = str(exc)
        raise InvalidOutput(
            f"{self.request.model} answered, but not with a {wanted.__name__}: {complaint}",
            output=completion.text,
            model=self.request.model,
            provider=self.request.provider,
            status=self.exchange.status,
        )


def _without_fence(text: str) -> str:
    """JSON out of the Markdown fence that models like to put around it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        return text[3:-3].removeprefix("json").strip()
    return text


def _sum_usd(costs: Iterator[Decimal | None]) -> Decimal | None:
    known = list(costs)
    return None if any(cost is None for cost in known) else sum((c for c in known if c is not None), Decimal(0))
