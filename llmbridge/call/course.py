"""Course: which candidate is asked next, and when, from the plan to the last failure."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmbridge.call.admission import worst_case
from llmbridge.call.planning import Dropped, ordered
from llmbridge.errors import ContextWindowExceeded, InvalidOutput, ProviderError
from llmbridge.fallback import Candidate, Fallback, Situation, Step
from llmbridge.record import Reason
from llmbridge.request import Request


@dataclass(slots=True)
class Ask:
    """One thing to ask: *request*, which is *question* as the call put it to this candidate, or a repair of it; not
    before the clock says *not_before*."""

    candidate: Candidate
    request: Request
    question: Request
    reason: Reason
    not_before: float = 0.0


class Course:
    """The candidates of one call. Does no I/O; `dropped` are those that were left out, with the reason."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        policy: Fallback,
        clock: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy
        self.dropped: list[Dropped] = []
        self.stopped = False
        self._candidates = list(candidates)
        self._clock = clock
        self._draw = draw
        self._made = 0
        self._upcoming: deque[Ask] | None = None

    def next(self) -> Ask | None:
        """What is asked now, or None at the end. The first time, the candidates are put in order.

        Raises ValueError if none of them can serve the request.
        """
        if self._upcoming is None:
            turn = self._candidates[0].count()
            for each in self._candidates:
                each.turn = turn
            kept, self.dropped = ordered(self._candidates, self.policy, self._draw)
            self._upcoming = deque(Ask(each, each.request, each.request, "fallback") for each in kept)
            if self._upcoming:
                self._upcoming[0].reason = "initial"
        return self._upcoming.popleft() if self._upcoming else None

    def others(self, ask: Ask) -> bool:
        """Whether another candidate is left."""
        return any(each.candidate is not ask.candidate for each in self._upcoming or ())

    @property
    def is_last(self) -> bool:
        """Whether nothing more is left to ask."""
        return not self._upcoming

    def sent(self, ask: Ask) -> None:
        """Count an attempt."""
        self._made += 1
        ask.candidate.tries += 1
        if ask.reason != "retry":
            ask.candidate.endpoint.retries.request()

    def beside(self, ask: Ask) -> Ask | None:
        """Another candidate to ask beside *ask*; None if there is none, or no attempt is left."""
        other = next((each for each in self._upcoming or () if each.candidate is not ask.candidate), None)
        if other is None or self._upcoming is None or self._made >= self.policy.most(len(self._candidates)):
            return None
        self._upcoming.remove(other)
        other.reason = "hedge"
        return other

    def after(self, error: ProviderError, ask: Ask, remaining_s: float) -> Step:
        """Decide what comes after *error*, and put it in its place."""
        upcoming = self._upcoming
        assert upcoming is not None
        if isinstance(error, ContextWindowExceeded):
            self._drop_smaller(ask)
        now = Situation(
            made=self._made,
            here=ask.candidate.tries,
            most=self.policy.most(len(self._candidates)),
            others=self.others(ask),
            remaining_s=remaining_s,
            repaired=ask.reason == "repair",
            draw=self._draw(),
            spend_retry=ask.candidate.endpoint.retries.spend,
        )
        step = self.policy.after(error, now)
        again = Ask(ask.candidate, ask.request, ask.question, "retry", self._clock() + step.pause_s)
        if step.does == "retry":
            upcoming.appendleft(again)
        elif step.does == "later":
            upcoming.append(again)
        elif step.does == "repair" and isinstance(error, InvalidOutput):
            repaired = ask.request.repaired(error.output, str(error))
            upcoming.appendleft(Ask(ask.candidate, repaired, ask.question, "repair"))
        elif step.does == "stop":
            self.stopped = step.final
            upcoming.clear()
        return step

    def restart(self, error: ProviderError, ask: Ask, remaining_s: float) -> bool:
        """Whether an answer that broke off with *error* is asked for again: of the next candidate, or, where there is
        none, of the same one as after any failure."""
        upcoming = self._upcoming
        assert upcoming is not None
        if (
            isinstance(error, InvalidOutput)
            or self._made >= self.policy.most(len(self._candidates))
            or remaining_s <= 0
        ):
            return False
        if not self.others(ask) and self.after(error, ask, remaining_s).does not in ("retry", "later"):
            return False
        upcoming[0].reason = "restart"
        return True

    def instead(self, ask: Ask, why: str) -> Ask | None:
        """What to ask instead of *ask*, which nobody may answer now because of *why*."""
        self.dropped.append(Dropped(ask.candidate.model.model, why))
        upcoming = self._upcoming
        assert upcoming is not None
        for each in [each for each in upcoming if each.candidate is ask.candidate]:
            upcoming.remove(each)
        return upcoming.popleft() if upcoming else None

    def cheaper(self, nanousd: int | None) -> tuple[Ask | None, bool]:
        """The next one that can cost less than *nanousd*, and whether others, which cannot, were dropped on the way."""
        dropped = False
        while self._upcoming:
            dropped = True
            ask = self._upcoming.popleft()
            cost = worst_case(ask.request).nanousd
            if cost is not None and (nanousd is None or cost < nanousd):
                return ask, True
        return None, dropped

    def _drop_smaller(self, ask: Ask) -> None:
        """A request that is too long for one model is so for those whose window is no larger."""
        window = ask.candidate.window
        for each in list(self._upcoming or ()):
            other = each.candidate.window
            if window is not None and other is not None and other <= window:
                self.dropped.append(Dropped(each.candidate.model.model, f"its context window is {other:,} tokens, too"))
                self._upcoming.remove(each)  # type: ignore[union-attr]
