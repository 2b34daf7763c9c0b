"""Batch: the questions of a file, asked a few at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from llmbridge.batch.answers import Answers, answer_line, failure_line
from llmbridge.batch.questions import Arguments, Line
from llmbridge.errors import BudgetExceeded, LLMBridgeError


if TYPE_CHECKING:
    from llmbridge.bridge import Bridge
    from llmbridge.completion import Completion
    from llmbridge.record import CallRecord


@dataclass(slots=True)
class Tally:
    """How far a batch is.

    Attributes:
        lines: all of them, `before` of them answered by an earlier run.
        answered: by this run, `cached` of them without a request.
        failed: by this run; `refused` of them by a budget. `errors` counts them by what they say.
        cost_usd: what this run's calls cost, failures too, as far as it is known; `unknown` calls have no price.
        saved_usd: what the cached ones would have cost.
    """

    lines: int
    before: int = 0
    answered: int = 0
    cached: int = 0
    failed: int = 0
    refused: int = 0
    cost_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)
    unknown: int = 0
    duration_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> int:
        """Lines without an answer that were not tried either."""
        return self.lines - self.before - self.answered - self.failed

    def count(self, record: CallRecord) -> None:
        """Add what a call took."""
        if record.cost_usd is None:
            self.unknown += 1
        self.cost_usd += record.cost_usd or 0
        self.saved_usd += record.saved_usd or 0


class Batch:
    """Ask *lines* of *bridge*, at most *concurrency* at a time, and add what comes to *answers* and *failures*.

    `arguments(line)` is what the verb takes for it. `stop()` lets those under way end and begins no more.
    """

    def __init__(
        self,
        bridge: Bridge,
        lines: Sequence[Line],
        answers: Answers,
        failures: Answers,
        arguments: Arguments,
        concurrency: int,
    ) -> None:
        waiting = [line for line in lines if line.key not in answers.done]
        self.tally = Tally(len(lines), before=len(lines) - len(waiting))
        self._bridge, self._answers, self._failures = bridge, answers, failures
        self._arguments, self._concurrency = arguments, concurrency
        self._waiting = deque(waiting)
        self._under_way = 0
        self._room = asyncio.Event()
        self._stopped = False
        self._broken: OSError | None = None

    @property
    def under_way(self) -> int:
        """How many calls are."""
        return self._under_way

    def stop(self) -> None:
        """Begin no more calls."""
        self._stopped = True
        self._room.set()

    async def run(self) -> None:
        """Ask them all. Raises OSError if the answers cannot be written; they are in the cache then."""
        started = time.monotonic()
        unsubscribe = self._bridge.subscribe(self.tally.count)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(self._waiting))):
                    group.create_task(self._work())
        finally:
            unsubscribe()
            self.tally.duration_s = time.monotonic() - started
        if self._broken is not None:
            raise self._broken

    async def _work(self) -> None:
        while self._waiting and not self._stopped:
            line = self._waiting.popleft()
            alone = False
            while not await self._ask(line, last=alone) and not self._stopped:
                alone = not self._under_way
                if not alone:
                    self._room.clear()
                    await self._room.wait()

    async def _ask(self, line: Line, *, last: bool) -> bool:
        """Whether there is no more to do for *line*. There is if a budget has no room for it as long as others hold
        their worst cases, of which some will be given back: others of this batch, for whom it waits, or else they may
        have ended a moment ago, unless this was the *last* try."""
        admitted = True
        self._under_way += 1
        try:
            self._answered(line, await self._bridge.acomplete(line.messages, **self._arguments(line)))
        except BudgetExceeded as error:
            admitted = False
            if error.reserved and error.needed <= error.limit and (self._under_way > 1 or not last):
                return False
            self._failed(line, error)
        except (LLMBridgeError, TypeError, ValueError) as error:
            self._failed(line, error)
        finally:
            self._under_way -= 1
            if admitted or not self._under_way:
                self._room.set()
        return True

    def _answered(self, line: Line, completion: Completion) -> None:
        if self._written(self._answers, answer_line(line, completion)):
            self.tally.answered += 1
            self.tally.cached += completion.cached

    def _failed(self, line: Line, error: Exception) -> None:
        if self._written(self._failures, failure_line(line, error)):
            self.tally.failed += 1
            self.tally.refused += isinstance(error, BudgetExceeded)
            self.tally.errors[type(error).__name__] += 1

    def _written(self, file: Answers, what: dict[str, Any]) -> bool:
        if self._broken is None:  # else after half a line, nothing may follow
            try:
                file.add(what)
            except OSError as error:  # those under way end, and are kept
                self._broken = error
                self.stop()
        return self._broken is None
