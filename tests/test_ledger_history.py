"""What a ledger says of the past: attempts, latencies, endings, failures, tags, and how a budget went down."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from llmbridge.ledger import Asked, Budget, Charge, Latency, Ledger, Need, PastAttempt, ReadOnlyLedger, history
from llmbridge.ledger.report import Balance
from llmbridge.record import AttemptRecord, CallRecord
from tests.commands import DAILY, DAY_S, START, Story


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with Story(tmp_path / "ledger.db") as made:
        yield made


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(START + seconds, UTC)


def timed(
    ledger: Ledger, number: int, duration_s: float, model: str = "a/b", first_chunk_s: float | None = None
) -> None:
    held = ledger.reserve(Asked(f"c{number}.1", model, "a"), Need(0, 0))
    record = AttemptRecord(
        number=1, model=model, provider="a", reason="initial", outcome="answered",
        duration_s=duration_s, first_chunk_s=first_chunk_s,
    )  # fmt: skip
    ledger.book(attempt=(held, record, Charge(0, 0)))  # type: ignore[arg-type]


def test_every_attempt_that_is_over_is_shown_in_the_order_of_time(story: Story) -> None:
    story.call("a1", "0.5")
    story.now += 10
    story.call("b2", "0.25", user="bob", model="x/y", failed="v/w")
    story.hold("c3")
    seen: list[PastAttempt] = []

    story.ledger.attempts(seen.append)

    assert [(each.call, each.model, each.cost_usd, each.input_tokens, each.tags["user"]) for each in seen] == [
        ("a1", "openai/gpt-4o-mini", Decimal("0.5"), 900, "alice"),
        ("b2", "v/w", Decimal(0), None, "bob"),
        ("b2", "x/y", Decimal("0.25"), 900, "bob"),
    ]
    assert seen[0].made_us == START * 10**6


def test_latencies_are_measured_ones_by_the_nearest_rank(story: Story) -> None:
    for number in range(1, 201):
        timed(story.ledger, number, (number * 77 % 200 + 1) / 100, first_chunk_s=0.25 if number == 1 else None)
    timed(story.ledger, 201, 7.0, "c/d")

    assert story.ledger.latencies() == [
        Latency("a/b", 200, 1.0, 1.8, 1.98),
        Latency("c/d", 1, 7.0, 7.0, 7.0),
    ]
    assert story.ledger.latencies(first_chunk=True) == [Latency("a/b", 1, 0.25, 0.25, 0.25)]


def test_a_failure_has_no_latency_and_is_counted_by_what_it_was(story: Story) -> None:
    story.call("a1", "0.5", failed="v/w")
    story.call("b2", "0.5", failed="v/w", user="bob")
    story.hold("c3", lease_s=1)
    story.now += 10

    assert [each.model for each in story.ledger.latencies()] == ["openai/gpt-4o-mini"]
    assert [(each.model, each.what, each.status, each.attempts) for each in story.ledger.failures()] == [
        ("v/w", "ProviderUnavailable", 503, 2),
        ("", "lost", None, 1),
    ]


def test_endings_say_why_the_model_was_asked_that_answered(story: Story) -> None:
    story.call("a1", "0.1")
    story.call("a2", "0.1", failed="v/w")
    for id, fields in {
        "a3": {"cached": True, "outcome": "answered"},
        "a4": {"outcome": "failed", "error_type": "BudgetExceeded"},
        "a5": {"outcome": "failed", "error_type": "ProviderTimeout"},
        "a6": {"outcome": "left"},
    }.items():
        story.ledger.book(CallRecord(id=id, verb="chat", models=("a/b",), started_at=story.now, **fields))  # type: ignore[arg-type]

    assert story.ledger.endings() == {
        "initial": 1, "fallback": 1, "cached": 1, "refused": 1, "failed": 1, "left": 1,
    }  # fmt: skip


def test_names_of_tags_are_found_wherever_they_are_kept_the_most_used_first(story: Story) -> None:
    story.call("a1", "0.1")
    story.call("a2", "0.1")
    story.ledger.book(
        CallRecord(
            id="b2",
            verb="chat",
            models=("a/b",),
            started_at=story.now,
            tags={"hit": "yes"},
            outcome="answered",
            cached=True,
            saved_usd=Decimal(1),
        )
    )
    story.now += 5 * DAY_S
    story.ledger.reserve(Asked("c3.1", tags={"late": "1"}), Need(0, 0))
    before = story.ledger.tag_names()
    story.ledger.compact(1)

    assert before == story.ledger.tag_names() == ["team", "user", "hit", "late"]
    assert story.ledger.tag_names(since=at(4 * DAY_S)) == ["late"]


def test_a_period_bounds_all_of_them(story: Story) -> None:
    story.call("a1", "0.1", failed="v/w")
    story.now += DAY_S
    story.call("b2", "0.1", model="x/y")
    since, until = at(3600), at(2 * DAY_S)
    seen: list[PastAttempt] = []

    story.ledger.attempts(seen.append, since=since, until=until)

    assert [each.call for each in seen] == ["b2"]
    assert [each.model for each in story.ledger.latencies(since=since, until=until)] == ["x/y"]
    assert story.ledger.endings(since=since, until=until) == {"initial": 1}
    assert story.ledger.failures(since=since, until=until) == []
    assert story.ledger.endings(since=until) == {}


def test_the_course_of_a_budget_is_what_was_settled_until_when(story: Story) -> None:
    story.now = START - 13 * 3600  # the day before
    story.call("a0", "1.5", user="carol")
    story.now = START
    story.call("a1", "0.5")
    story.now += 3600
    story.call("b2", "0.25", user="bob")

    courses = {each.balance.budget + str(each.balance.tags.get("user", "")): each for each in story.ledger.courses()}

    assert list(courses) == ["supportcarol", "supportalice", "$5/day", "supportbob"]
    day = courses["$5/day"]
    assert day.balance == Balance("$5/day", "nanousd", "day", 5 * 10**9, 750_000_000, 0, at(12 * 3600))
    assert (day.starts_at, day.asked_at) == (at(-12 * 3600), at(3600))
    assert day.settled == [(at(0), 500_000_000), (at(3600), 750_000_000)]
    assert courses["supportcarol"].starts_at == at(-13 * 3600)  # which has no window, so its first settlement
    assert [each.balance.budget for each in story.ledger.courses(1)] == ["support"]


def test_a_course_knows_what_was_corrected_and_ends_at_the_balance(story: Story) -> None:
    story.call("a1", "0.5", uncertain=True)
    story.now += 60
    story.ledger.reconcile("a1", "0.2")

    for course in story.ledger.courses():
        assert [amount for _, amount in course.settled] == [500_000_000, 200_000_000]
        assert course.settled[-1][1] == course.balance.settled


def test_a_long_course_has_few_points_and_keeps_its_end(tmp_path: Path) -> None:
    with Story(tmp_path / "long.db") as story:
        for number in range(600):
            story.now += 30
            held = story.ledger.reserve(f"c{number}.1", Need(10**6, 1), [DAILY])
            story.ledger.settle(held, Charge(10**6, 1))  # type: ignore[arg-type]

        (course,) = story.ledger.courses()

    assert 50 < len(course.settled) <= history.POINTS + 1
    assert course.settled[-1][1] == course.balance.settled == 600 * 10**6
    assert course.settled == sorted(course.settled)


def test_rolling_windows_and_those_of_a_call_have_no_course(story: Story) -> None:
    held = story.ledger.reserve("c1.1", Need(10**6, 1), [Budget("$1/5h"), Budget("$1/call"), Budget("$1/hour")])
    story.ledger.settle(held, Charge(10**6, 1))  # type: ignore[arg-type]

    assert [each.balance.budget for each in story.ledger.courses()] == ["$1/hour"]


def test_of_a_budget_with_many_counters_three_have_a_course(story: Story) -> None:
    for number in range(5):
        story.call(f"a{number}", f"0.{number + 1}", user=f"u{number}")

    assert [each.balance.tags.get("user") for each in story.ledger.courses()] == [None, "u4", "u3", "u2"]


def test_a_new_ledger_has_no_past(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new.db")

    assert ledger.courses() == ledger.latencies() == ledger.failures() == ledger.tag_names() == []
    assert ledger.endings() == {}
    ledger.close()


def test_the_questions_find_a_period_by_an_index(story: Story) -> None:
    """What lies before it is not read: not a row of the attempts, but for those that first_made() looks up."""
    for number in range(3000):
        story.now += 60
        timed(story.ledger, number, 0.5)
        story.ledger.book(
            CallRecord(id=f"c{number}", verb="chat", models=("a/b",), started_at=story.now, outcome="answered")
        )
    story.ledger.close()
    since = datetime.fromtimestamp(story.now, UTC) - timedelta(minutes=5)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with ReadOnlyLedger(story.ledger.path) as book:
        with book._file.reading() as db:
            db.set_progress_handler(count, 100)  # type: ignore[attr-defined]
        asked = {
            "attempts": lambda **period: book.attempts(lambda past: None, **period),
            "latencies": book.latencies,
            "endings": book.endings,
            "failures": book.failures,
            "tag_names": book.tag_names,
            "spend": book.spend,
        }
        for name, question in asked.items():
            taken = []
            for period in ({"since": since}, {}):
                before = steps
                question(**period)
                taken.append(steps - before)
            assert taken[0] * 20 < taken[1], name
