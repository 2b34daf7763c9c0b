"""What the report shows, asked of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from llmbridge.ledger import Balance, Course, Failure, Latency, Spend
from llmbridge.ledger.questions import Questions
from llmbridge.ledger.window import clocks


Unit = Literal["hour", "day", "week", "month"]
FORMS: dict[Unit, str] = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}
MOST_DAYS: dict[Unit, int] = {"hour": 2, "day": 62, "week": 430}  # of a period that is shown by it
MOST_TAGS = 6  # that have a chart
MOST_ROWS = 10


@dataclass(frozen=True, slots=True)
class Figures:
    """All that the page says.

    Attributes:
        made_at: when the ledger was asked. `since`, `until`: the period that was asked for.
        over_time: what was spent in each hour, day, week or month, as `unit` says; also in those without a call.
        by_tag: by the name of each tag. Of each grouping the dearest, and the others as one.
        endings: how many calls ended how, as Questions.endings() says.
        first_chunks: latencies to the first content, of models that were streamed from.
        balances, courses: the budgets as they stand at `made_at`, whatever the period.
        other_tags: names of tags that are left out.
    """

    made_at: datetime
    since: datetime | None
    until: datetime | None
    zone: str
    total: Spend
    unit: Unit
    over_time: list[tuple[str, Spend]]
    by_model: list[Spend]
    by_tag: dict[str, list[Spend]]
    endings: dict[str, int]
    failures: list[Failure]
    latencies: list[Latency]
    first_chunks: list[Latency]
    balances: list[Balance]
    courses: list[Course]
    other_tags: list[str]


def gather(book: Questions, *, since: datetime | None, until: datetime | None, zone: str = "UTC") -> Figures:
    """Ask *book* for everything. Half a minute for a million calls. Raises LedgerError and ValueError."""
    made_at = datetime.now(clocks(zone))
    total = book.spend(since=since, until=until)
    unit, over_time = _over_time(book, since, until, zone, made_at)
    names = book.tag_names(since=since, until=until)
    shown = names[:MOST_TAGS]
    return Figures(
        made_at=made_at,
        since=since,
        until=until,
        zone=zone,
        total=total[0] if total else _nothing(),
        unit=unit,
        over_time=over_time,
        by_model=_dearest(book.spend("model", since=since, until=until)),
        by_tag={name: _dearest(book.spend(f"tag:{name}", since=since, until=until)) for name in shown},
        endings=book.endings(since=since, until=until),
        failures=book.failures(since=since, until=until),
        latencies=book.latencies(since=since, until=until),
        first_chunks=book.latencies(first_chunk=True, since=since, until=until),
        balances=book.balance(),
        courses=book.courses(),
        other_tags=names[MOST_TAGS:],
    )


def _over_time(
    book: Questions, since: datetime | None, until: datetime | None, zone: str, now: datetime
) -> tuple[Unit, list[tuple[str, Spend]]]:
    """By the unit that the period is best seen in: what was asked for, or else from the first call to the last."""
    days = sorted(str(each.of["day"]) for each in book.spend("day", since=since, until=until, zone=zone))
    if not days:
        return "day", []
    there = clocks(zone)
    first, last = (datetime.fromisoformat(day).replace(tzinfo=there) for day in (days[0], days[-1]))
    start = first if since is None else max(since.astimezone(there), datetime(1970, 1, 2, tzinfo=UTC))
    end = last + timedelta(days=1) if since is None and until is None else until or now
    end = max(min(end, max(now, last + timedelta(days=1))), start)
    length = (end - start).days
    unit: Unit = next((unit for unit, most in MOST_DAYS.items() if length <= most), "month")
    found = {each.of[unit]: each for each in book.spend(unit, since=since, until=until, zone=zone)}
    step = timedelta(hours=1) if unit == "hour" else timedelta(days=1)
    names, moment = dict.fromkeys([start.astimezone(there).strftime(FORMS[unit])]), start
    while moment < end:
        names[moment.astimezone(there).strftime(FORMS[unit])] = None
        moment = (moment.astimezone(UTC) + step).astimezone(there)
    names |= dict.fromkeys(str(name) for name in found)
    return unit, [(name, found.get(name) or _nothing()) for name in sorted(names)]


def _dearest(found: Sequence[Spend]) -> list[Spend]:
    """The dearest, and the rest as one, whose value says how many they are."""
    found = [each for each in found if each.attempts or each.saved_usd]
    if len(found) <= MOST_ROWS:
        return found
    rest = _nothing()
    for each in found[MOST_ROWS - 1 :]:
        rest = replace(
            rest, **{name: getattr(rest, name) + getattr(each, name) for name in Spend.__slots__ if name != "of"}
        )
    return [*found[: MOST_ROWS - 1], replace(rest, of={"others": f"{len(found) - MOST_ROWS + 1} others"})]


def _nothing() -> Spend:
    zero = Decimal(0)
    return Spend({}, 0, 0, zero, zero, zero, 0, 0, 0)
