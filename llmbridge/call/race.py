"""Race: a second candidate beside a slow one. The first good answer wins; the other attempt ends, and is charged.

    first    ----------------------------x     sent; answered too late, or cut off when the other one has won
    second          --------------->           sent after `hedge_after_s`, under a reservation of its own

In the sync verbs the first attempt runs in the caller's own thread and the second in one of its own, which exists only
once the first is slow; who has lost is hung up on. In the async verbs both are tasks, and the loser is cancelled.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from llmbridge.errors import LLMBridgeError
from llmbridge.waiting import wait, wait_async


if TYPE_CHECKING:
    import asyncio

    from llmbridge.call.attempt import Attempt
    from llmbridge.call.call import Call

HANG_UP_S = 0.25  # how long a loser may take to notice; then it is charged as it stands


class Beaten(Exception):
    """Another attempt has won."""


class Race:
    """What two attempts of one call have in common: which of them won."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        self._closed: set[Attempt] = set()
        self.winner: Attempt | None = None

    def win(self, attempt: Attempt) -> None:
        """Claim the victory for *attempt*, which has an answer. Raises Beaten if it comes too late."""
        with self._lock:
            if self.winner is None and not self._over:
                self.winner = attempt
        if self.winner is not attempt:
            raise Beaten("another model has answered")

    def lost(self, attempt: Attempt) -> bool:
        """Whether *attempt* need not go on."""
        return self._over or self.winner not in (None, attempt)

    def closes(self, attempt: Attempt) -> bool:
        """Whether the caller is the one to end *attempt*, which its own thread may be about to do."""
        with self._lock:
            first = attempt not in self._closed
            self._closed.add(attempt)
            return first

    def end(self) -> None:
        """Nobody may win any more."""
        with self._lock:
            self._over = True


def run(call: Call, first: Attempt, ask: Callable[[Attempt], object]) -> None:
    """Ask *first*; and another candidate beside it if that is the policy, and the time has come."""
    after_s = call.hedge_after_s(first)
    if after_s is None:
        ask(first)
        return
    race = first.race = Race()
    over = threading.Event()
    second: list[Attempt] = []

    def hedge() -> None:
        if over.wait(after_s) or (attempt := call.hedge(first)) is None:
            return
        attempt.race = race
        second.append(attempt)
        with contextlib.suppress(LLMBridgeError):  # it was not admitted; the first one goes on
            ask(attempt)
        if race.winner is attempt:
            first.exchange.hang_up()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(hedge,), name="llmbridge-hedge", daemon=True)
    first.when_sent = thread.start
    try:
        ask(first)
        over.set()
        if thread.ident is not None and race.winner is None:
            thread.join()  # the first one failed; the second, if there is one, has the call's deadline as its own
    except BaseException as error:
        over.set()
        _close(call, race, [first, *second], error)
        raise
    _end_second(thread, race, second)
    _settle(call, race, first, second)
    wait(call.keeping())


def _end_second(thread: threading.Thread, race: Race, second: list[Attempt]) -> None:
    if second and race.lost(second[0]):
        second[0].exchange.hang_up()
        thread.join(HANG_UP_S)
        second[0].beaten()


async def arun(call: Call, first: Attempt, ask: Callable[[Attempt], Awaitable[object]]) -> None:
    """Same as run(), as tasks."""
    after_s = call.hedge_after_s(first)
    if after_s is None:
        await ask(first)
        return
    import asyncio

    race = first.race = Race()
    sent = asyncio.Event()
    first.when_sent = sent.set
    second: list[Attempt] = []
    tasks = [asyncio.ensure_future(ask(first))]
    try:
        waiting = asyncio.ensure_future(sent.wait())
        try:
            await asyncio.wait([tasks[0], waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done() and (attempt := call.hedge(first)) is not None:
            attempt.race = race
            second.append(attempt)
            tasks.append(asyncio.ensure_future(ask(attempt)))
        while race.winner is None and any(not task.done() for task in tasks):
            await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        await _cancelled(tasks if race.winner is not None else [])
        if not tasks[0].cancelled() and (error := tasks[0].exception()) is not None and race.winner is None:
            raise error
    except BaseException as error:
        race.end()
        try:
            await _cancelled(tasks)
        finally:
            _close(call, race, [first, *second], error)
        raise
    _settle(call, race, first, second)
    await wait_async(call.keeping())


async def _cancelled(tasks: Sequence[asyncio.Future[object]]) -> None:
    """Cancel what still runs, and wait until it has ended."""
    import asyncio

    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: asyncio says so of those that nobody has looked at


def _settle(call: Call, race: Race, first: Attempt, second: list[Attempt]) -> None:
    """Both are over. The call is answered by the winner, which may be a stream that has just begun; or goes on."""
    race.end()
    for attempt in (first, *second):
        if race.winner is not None and attempt is not race.winner:
            attempt.beaten()
        attempt.race = None
    if race.winner is None:
        return
    first.error = None
    call.won(race.winner)


def _close(call: Call, race: Race, attempts: list[Attempt], error: BaseException) -> None:
    """The caller's own thread or task was interrupted, or the first attempt cannot be made at all."""
    race.end()
    for attempt in attempts:
        attempt.exchange.hang_up()
        attempt.beaten()
        attempt.race = None
    call.finish("failed" if isinstance(error, Exception) else "cancelled", error)
