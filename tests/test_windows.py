"""Windows cut all time into spans, whatever a zone does to its clocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest

from llmbridge.ledger.window import HOUR_US, STEPS, Span, Window, at, window


# Two-hour and half-hour summer times, a day that was skipped, midnights that happen twice or never, odd offsets.
ODD = [
    "Africa/Cairo", "Africa/Casablanca", "Africa/Johannesburg", "Africa/Lagos", "America/Adak",
    "America/Argentina/Buenos_Aires",
    "America/Asuncion", "America/Bogota", "America/Caracas", "America/Chicago", "America/Denver", "America/Godthab",
    "America/Halifax", "America/Havana", "America/Los_Angeles", "America/Mexico_City", "America/New_York",
    "America/Noronha", "America/Santiago", "America/Sao_Paulo", "America/Scoresbysund", "America/St_Johns",
    "Antarctica/Casey", "Antarctica/Troll", "Antarctica/Vostok", "Asia/Almaty", "Asia/Amman", "Asia/Beirut",
    "Asia/Dhaka",
    "Asia/Gaza", "Asia/Jerusalem", "Asia/Kabul", "Asia/Kathmandu", "Asia/Kolkata", "Asia/Qostanay", "Asia/Shanghai",
    "Asia/Tehran", "Asia/Tokyo", "Atlantic/Azores", "Atlantic/Reykjavik", "Australia/Adelaide", "Australia/Brisbane",
    "Australia/Eucla", "Australia/Lord_Howe", "Australia/Sydney", "Europe/Berlin", "Europe/Dublin", "Europe/Istanbul",
    "Europe/Kyiv", "Europe/Lisbon", "Europe/London", "Europe/Moscow", "Pacific/Apia", "Pacific/Auckland",
    "Pacific/Chatham", "Pacific/Easter", "Pacific/Honolulu", "Pacific/Kiritimati", "Pacific/Marquesas", "UTC",
]  # fmt: skip


def instant(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[arg-type,misc]


def spans(of: Window, from_us: int, until_us: int) -> Iterator[Span]:
    """Those that follow each other from *from_us* on; each is the one that its own instants lie in."""
    span = of.span(from_us)
    while span.starts_us < until_us:
        yield span
        assert span.ends_us is not None
        span = of.span(span.ends_us)


def check_partition(of: Window, from_us: int, until_us: int) -> list[Span]:
    found = list(spans(of, from_us, until_us))
    for one, following in itertools.pairwise(found):
        assert one.ends_us == following.starts_us
    for span in found:
        assert span.ends_us is not None
        assert span.starts_us < span.ends_us
        assert of.span(span.starts_us) == of.span(span.ends_us - 1) == span
    return found


@pytest.mark.parametrize("zone", ODD)
def test_each_hour_of_three_years_lies_in_exactly_one_day(zone: str) -> None:
    daily = window("day", zone)
    days = check_partition(daily, instant(2024, 1, 1), instant(2027, 1, 1))

    current = iter(days)
    day = next(current)
    for at_us in range(instant(2024, 1, 1), instant(2027, 1, 1), HOUR_US):
        if at_us >= (day.ends_us or 0):
            day = next(current)
        assert daily.span(at_us) == day
    assert {((day.ends_us or 0) - day.starts_us) / HOUR_US for day in days} <= {22, 23, 23.5, 24, 24.5, 25, 26}


def kinds_of_zones() -> list[str]:
    """One zone for each way in which clocks went, of some 600."""
    days = [datetime(2025, 9, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(0, 243 * 24, 12)]
    clocks = {tuple(day.astimezone(ZoneInfo(zone)).utcoffset() for day in days): zone for zone in available_timezones()}
    return sorted(clocks.values())


def test_in_every_zone_days_weeks_and_months_follow_each_other_and_begin_when_the_clocks_say_so() -> None:
    begins = {"day": lambda day: True, "week": lambda day: day.weekday() == 0, "month": lambda day: day.day == 1}
    for zone, kind in itertools.product(kinds_of_zones(), begins):
        for span in check_partition(window(kind, zone), instant(2025, 9, 1), instant(2026, 5, 1)):
            first, before = at(span.starts_us, zone).date(), at(span.starts_us - 1, zone).date()
            assert begins[kind](first)
            assert before < first


def test_a_day_that_a_country_skipped_belongs_to_no_window() -> None:
    days = check_partition(window("day", "Pacific/Apia"), instant(2011, 12, 28), instant(2012, 1, 1))

    assert [str(at(day.starts_us, "Pacific/Apia").date()) for day in days] == [
        "2011-12-27", "2011-12-28", "2011-12-29", "2011-12-31", "2012-01-01",
    ]  # fmt: skip
    assert {((day.ends_us or 0) - day.starts_us) // HOUR_US for day in days} == {24}


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2025, 3, 30), 23),
        ("Europe/Berlin", date(2025, 10, 26), 25),
        ("Antarctica/Troll", date(2025, 3, 30), 22),
        ("Antarctica/Troll", date(2025, 10, 26), 26),
        ("Australia/Lord_Howe", date(2025, 4, 6), 24.5),
        ("Australia/Lord_Howe", date(2025, 10, 5), 23.5),
        ("America/Havana", date(2025, 3, 9), 23),  # midnight is skipped
        ("America/Havana", date(2025, 11, 2), 25),  # midnight comes twice
        ("America/Sao_Paulo", date(2018, 2, 17), 25),  # at midnight it is 23:00 again
        ("America/St_Johns", date(2011, 3, 13), 23),  # at one minute past midnight
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(zone: str, day: date, hours: float) -> None:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone))

    span = window("day", zone).span(int(noon.timestamp()) * 1_000_000)

    assert ((span.ends_us or 0) - span.starts_us) / HOUR_US == hours


def test_a_week_begins_on_monday_and_a_month_on_the_first_there() -> None:
    wednesday = instant(2026, 7, 1, 3)  # in New York it is still the 30th of June

    week, month = (
        window("week", "America/New_York").span(wednesday),
        window("month", "America/New_York").span(wednesday),
    )

    assert str(at(week.starts_us, "America/New_York")) == "2026-06-29 00:00:00-04:00"
    assert str(at(month.starts_us, "America/New_York")) == "2026-06-01 00:00:00-04:00"
    assert str(at(month.ends_us or 0, "America/New_York")) == "2026-07-01 00:00:00-04:00"


def test_an_hour_is_a_clock_hour_of_utc_in_every_zone() -> None:
    at_us = instant(2026, 7, 1, 3) + 17 * 60 * 1_000_000

    assert {window("hour", zone).span(at_us) for zone in ODD} == {Span(instant(2026, 7, 1, 3), instant(2026, 7, 1, 4))}


@pytest.mark.parametrize("kind", ["call", "total"])
def test_a_call_and_all_time_have_no_end(kind: str) -> None:
    assert window(kind, "UTC").span(instant(2026, 7, 1)) == Span(0, None)


@pytest.mark.parametrize("text", ["1s", "7s", "90s", "10m", "5h", "3d", "10000d"])
def test_a_rolling_window_counts_what_was_reserved_for_its_whole_length_and_at_most_a_step_longer(text: str) -> None:
    rolling = window(text, "UTC")
    assert rolling.step_us == rolling.length_us // STEPS
    check_partition(rolling, instant(2026, 7, 1), instant(2026, 7, 1) + 100 * rolling.step_us)
    for at_us in range(instant(2026, 7, 1), instant(2026, 7, 1) + 2 * rolling.step_us, rolling.step_us // 7):
        starts_us = rolling.span(at_us).starts_us

        assert starts_us >= rolling.counted_from_us(at_us + rolling.length_us)
        assert starts_us < rolling.counted_from_us(at_us + rolling.length_us + rolling.step_us)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("day", "day"), ("total", "total"), ("call", "call"), ("5h", "5h"), ("5 h", "5h"), ("300m", "5h"),
        ("24h", "1d"),
        ("90s", "90s"), ("90min", "90m"), ("3600s", "1h"), ("0005h", "5h"),
    ],
)  # fmt: skip
def test_the_same_time_in_other_words_is_the_same_window(text: str, canonical: str) -> None:
    assert window(text, "UTC").text == canonical
    assert window(canonical, "UTC") == window(text, "UTC")


@pytest.mark.parametrize(
    "text",
    ["", "fortnight", "days", "Day", "h", "0h", "-5h", "5", "1.5h", "5 hours", "5x", "10001d", "5h5m", "1e3s", "²h"],
)
def test_what_is_no_window_is_refused_and_the_message_shows_some(text: str) -> None:
    with pytest.raises(
        ValueError, match="is no window; it is call, hour, day, week, month, total or a length such as 5h"
    ):
        window(text, "UTC")


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "Europe", "../etc/passwd", "/etc/localtime", "UTC\0", "é", None, 5]
)
def test_what_is_no_time_zone_is_refused_and_the_message_shows_one(zone: object) -> None:
    with pytest.raises(ValueError, match=r"there is no time zone .*; write it as 'Europe/Berlin'"):
        window("day", zone)  # type: ignore[arg-type]


def test_asking_for_the_past_after_the_present_gives_the_past() -> None:
    day = window("day", "Europe/Berlin")
    at_us = instant(2026, 7, 1, 12)
    today = day.span(at_us)

    yesterday = day.span(at_us - int(timedelta(days=1).total_seconds() * 1e6))

    assert yesterday.ends_us == today.starts_us
    assert day.span(at_us) == today
