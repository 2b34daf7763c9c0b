"""What a Ledger can be asked: the half of it that writes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO, Any, Literal, TypeVar

from llmbridge.ledger import check, history, report, rows
from llmbridge.ledger.budget import Budget
from llmbridge.ledger.history import Course, Failure, Latency, PastAttempt
from llmbridge.ledger.report import Balance, Spend, Typical
from llmbridge.ledger.sqlite import File
from llmbridge.ledger.transaction import Connection
from llmbridge.ledger.upkeep import Upkeep
from llmbridge.record import CallRecord
from llmbridge.waiting import patiently, wait


T = TypeVar("T")


class Questions:
    """Ledger's reports. Each is a snapshot, charges what has expired before, and raises LedgerError."""

    _file: File
    _clock: Callable[[], float]
    _patience_s: float
    _upkeep: Upkeep

    def expire(self) -> int:
        raise NotImplementedError

    def changes(self) -> list[dict[str, Any]]:
        """Every change of a limit at run time, oldest first: the audit trail."""
        return self._read(report.changes)

    def budgets(self) -> list[Budget]:
        """Every budget that a call has counted by, oldest first, with the limit that a program declared last.

        For which models it is, and what happens past it, is the programs' own business and not written down.
        """
        return self._read(report.budgets)

    def balance(self, budget: Budget | str | None = None) -> list[Balance]:
        """Where the counters stand now: of *budget* (or the budget of that name), or of all."""
        self.expire()
        return self._read(functools.partial(report.balances, budget=budget, clock_us=self._clock_us()))

    def records(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        ended_since: datetime | None = None,
        id: str | None = None,
        limit: int = 10_000,
    ) -> list[CallRecord]:
        """The recorded calls, oldest first, the latest *limit* of them. No prompt and no answer is in them.

        Args:
            since, until: aware datetimes; when the calls started, which an index finds.
            ended_since: when they ended; every call since *since* is looked at.
            id: of a call, or how it begins.
        """
        self.expire()
        chosen = functools.partial(rows.records, since=since, until=until, ended_since=ended_since, id=id, limit=limit)
        return self._read(chosen)

    def spend(
        self,
        by: str | Sequence[str] = (),
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        zone: str = "UTC",
    ) -> list[Spend]:
        """What was spent, in groups, dearest first.

        Args:
            by: "model", "provider", "verb", "call", "hour", "day", "week", "month", or the name of a tag ("user",
                "tag:user"); or several. Nothing: one row, the total.
            since, until: aware datetimes; when the attempts were made.
            zone: whose days, weeks and months.
        """
        self.expire()
        groups = (by,) if isinstance(by, str) else tuple(by)
        return self._read(functools.partial(report.spend, by=groups, since=since, until=until, zone=zone))

    def typical(self, *, latest: int = 2_000) -> dict[str, Typical]:
        """What the answers of each model were like, among the *latest* attempts: how long they took, how many tokens
        they had. Some 4 ms for 2,000."""
        return self._read(functools.partial(report.typical, latest=latest))

    def export(self, file: IO[str], format: Literal["json", "csv"] = "json", *, since: datetime | None = None) -> int:
        """Write the recorded attempts to *file*, as JSON lines or CSV; returns how many."""
        self.expire()
        return self._read(functools.partial(rows.export, file=file, format=format, since=since))

    def attempts(
        self, visit: Callable[[PastAttempt], None], *, since: datetime | None = None, until: datetime | None = None
    ) -> None:
        """Show every attempt that is over to *visit*, in the order in which they were made, without holding them all.

        What compaction has folded is not among them. Some 7 s for a million.
        """
        self.expire()
        self._read(functools.partial(history.attempts, visit=visit, since=since, until=until))

    def latencies(
        self, *, first_chunk: bool = False, since: datetime | None = None, until: datetime | None = None
    ) -> list[Latency]:
        """How long the models took to answer, or to their *first_chunk*, the most asked first."""
        self.expire()
        return self._read(functools.partial(history.latencies, first_chunk=first_chunk, since=since, until=until))

    def endings(self, *, since: datetime | None = None, until: datetime | None = None) -> dict[str, int]:
        """How many calls ended how: "cached"; "refused" by a budget; "failed", "left", "cancelled", "lost"; or
        "initial", "retry", "fallback", "hedge", ..., the reason why the model was asked that answered."""
        self.expire()
        return self._read(functools.partial(history.endings, since=since, until=until))

    def failures(self, *, since: datetime | None = None, until: datetime | None = None) -> list[Failure]:
        """What came of attempts instead of answers, the most frequent first."""
        self.expire()
        return self._read(functools.partial(history.failures, since=since, until=until))

    def tag_names(self, *, since: datetime | None = None, until: datetime | None = None) -> list[str]:
        """The names of all tags of what was asked or recalled, the most used first."""
        self.expire()
        return self._read(functools.partial(history.tag_names, since=since, until=until))

    def courses(self, most: int = 6) -> list[Course]:
        """How the counters got to where they stand now, of at most so many, those first that are used up furthest; of
        a budget with `per` at most three.

        Reads what was reserved since their windows began. A rolling window has no beginning: it is not among them.
        """
        self.expire()
        return self._read(functools.partial(history.courses, most=most, clock_us=self._clock_us()))

    def check(self) -> list[str]:
        """Recompute every balance from the entries, and whatever else is kept twice; returns every difference.

        Reads the whole file: some seconds for a million calls.
        """
        return self._read(check.differences)

    def _clock_us(self) -> int:
        return int(self._clock() * 1e6)

    def _read(self, query: Callable[[Connection], T]) -> T:
        def step() -> T:
            self._upkeep.hits.write()
            with self._file.reading() as db:
                try:
                    return query(db)
                except (ValueError, TypeError, LookupError, OverflowError):
                    self._file.verify(db)  # a text that nobody can have written
                    raise

        wait(self._upkeep.written())
        return wait(patiently(step, self._patience_s))
