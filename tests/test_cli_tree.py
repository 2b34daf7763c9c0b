"""A call as a tree in the terminal."""

from __future__ import annotations

from decimal import Decimal

import pytest
from rich.console import Console

from llmbridge import tracing
from llmbridge.cli.tree import Row, bar, rows, rows_of_spans, tree
from llmbridge.record import CallRecord
from tests.tracing_scene import attempt, call, request
from tests.tracing_spans import Spans


def printed(lines: list[Row]) -> list[str]:
    console = Console(width=150, color_system=None, record=True, file=None)
    with console.capture() as capture:
        console.print(tree(lines))
    return [line.rstrip() for line in capture.get().splitlines()]


def a_fallback() -> CallRecord:
    first = attempt(outcome="failed", error_type="ProviderRateLimited", status=429, duration_s=1.0, cost_usd=Decimal(0))
    second = attempt(
        number=2, model="anthropic/claude-haiku-4-5", reason="fallback", started_s=2.0, duration_s=2.0,
        cost_usd=Decimal("0.002"), first_chunk_s=0.5,
    )  # fmt: skip
    return call(first, second, duration_s=4.0, cost_usd=Decimal("0.002"))


def test_a_call_is_printed_with_bars_for_time_and_cost() -> None:
    failed, answered = "ProviderRateLimited 429", "fallback, first chunk after 0.50 s"
    assert printed(rows(a_fallback())) == [
        "chat gpt-4o-mini                       ████████████████████████  4.00 s  ████████  $0.002",
        "├─ attempt openai/gpt-4o-mini          ██████                    1.00 s                $0  " + failed,
        "└─ attempt anthropic/claude-haiku-4-5              ████████████  2.00 s  ████████  $0.002  " + answered,
    ]


def test_a_cached_answer_says_what_it_saved() -> None:
    (line,) = rows(call(cached=True, saved_usd=Decimal("0.002"), cost_usd=Decimal(0), duration_s=0.001))

    assert line.note == "cached, saved $0.002"


def test_a_failed_call_says_how() -> None:
    (line,) = rows(call(outcome="failed", error_type="BudgetExceeded"))

    assert (line.failed, line.note) == (True, "BudgetExceeded")


def test_spans_make_the_same_tree_with_what_stands_above(spans: Spans) -> None:
    @tracing.traced("answer")
    def answer() -> None:
        record = a_fallback()
        traced = tracing.begin(record, request())
        for each in record.attempts:
            traced.attempt(each).end()
        traced.end()

    answer()

    lines = rows_of_spans(spans())
    assert [(line.depth, line.name, line.cost_usd, line.note, line.last) for line in lines] == [
        (0, "answer", None, "", True),
        (1, "chat gpt-4o-mini", Decimal("0.002"), "", True),
        (2, "attempt openai/gpt-4o-mini", Decimal("0.0"), "ProviderRateLimited 429", False),
        (2, "attempt anthropic/claude-haiku-4-5", Decimal("0.002"), "", True),
    ]
    assert printed(lines)[3].startswith("   └─ attempt anthropic/claude-haiku-4-5")


@pytest.mark.parametrize(
    ("start", "length", "whole", "drawn"),
    [
        (0, 1, 1, "████"),
        (0, 0, 1, "    "),
        (0, 0.001, 1, "▏   "),
        (3.99, 9, 4, "   █"),
        (0, 1, 0, "    "),
        (0, 1, 8, "▌   "),
    ],
)
def test_a_bar_has_its_width_and_shows_whatever_is_there(start: float, length: float, whole: float, drawn: str) -> None:
    assert bar(start, length, whole, 4) == drawn


def test_nothing_makes_an_empty_tree() -> None:
    assert rows_of_spans([]) == []
    assert printed([]) == []
