"""What the report's cards show: a chart each, with the figures behind it as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from xml.etree.ElementTree import Element

from llmbridge.ledger import Balance, Course, Latency, Spend
from llmbridge.ledger.budget import show_amount
from llmbridge.report import charts
from llmbridge.report.charts import Bar
from llmbridge.report.figures import Figures


NONE = "(none)"
MOST_BARS = 8
MOST_ROWS = 50
ENDINGS = {
    "initial": "answered at once",
    "cached": "answered from the cache",
    "retry": "answered when asked again",
    "fallback": "answered by another model",
    "downgrade": "answered by a cheaper model",
    "hedge": "answered by a second model asked meanwhile",
    "repair": "answered after a wrong answer",
    "restart": "answered after a stream broke off",
    "refused": "refused by a budget",
    "failed": "failed",
    "left": "left early by the reader",
    "cancelled": "cancelled",
    "lost": "lost with their process",
}
Cell = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """A chart, with what it shows in words and the table behind it."""

    title: str
    about: str
    draw: Callable[[str], Element] | None
    head: Cell
    rows: Sequence[Cell]
    empty: str = "Nothing in this period."


def sections(figures: Figures) -> list[tuple[str, list[Card]]]:
    """The page's parts, with their titles."""
    return [
        ("Money", [_spent(figures), *_groups(figures), _saved(figures)]),
        ("Answers", [_latency(figures), _ended(figures), _failed(figures)]),
        ("Budgets", [_standing(figures.balances), *map(_burnt, figures.courses)]),
    ]


def _spent(figures: Figures) -> Card:
    labels, spends = _buckets(figures)
    return Card(
        f"Spent by the {figures.unit}",
        "Hatched: charged at the worst case, and uncertain.",
        lambda name: charts.columns(
            name,
            labels,
            [float(each.cost_usd) for each in spends],
            [f"{key}: {money(each.cost_usd)}, {counted(each.calls, 'call')}" for key, each in figures.over_time],
            [float(each.uncertain_usd) for each in spends],
        ),
        (figures.unit, "cost", "uncertain", "calls"),
        [(key, money(each.cost_usd), money(each.uncertain_usd), f"{each.calls:,}") for key, each in figures.over_time],
    )


def _saved(figures: Figures) -> Card:
    labels, spends = _buckets(figures)
    return Card(
        f"Saved by the cache, by the {figures.unit}",
        "What the answers that were recalled had cost when they were paid.",
        (
            lambda name: charts.columns(
                name,
                labels,
                [float(each.saved_usd) for each in spends],
                [f"{key}: {money(each.saved_usd)}" for key, each in figures.over_time],
            )
        )
        if figures.total.saved_usd
        else None,
        (figures.unit, "saved", "spent"),
        [(key, money(each.saved_usd), money(each.cost_usd)) for key, each in figures.over_time if each.saved_usd],
    )


def _buckets(figures: Figures) -> tuple[list[str], list[Spend]]:
    """Short labels for the axis."""
    shown = {"hour": "%a %H:00", "day": "%d %b"}.get(figures.unit)
    keys = [key for key, _ in figures.over_time]
    labels = [datetime.fromisoformat(key).strftime(shown) for key in keys] if shown else keys
    return labels, [each for _, each in figures.over_time]


def _groups(figures: Figures) -> list[Card]:
    by = {"model": figures.by_model, **{f"tag {name!r}": found for name, found in figures.by_tag.items()}}
    return [_group(name, found) for name, found in by.items()]


def _group(name: str, found: Sequence[Spend]) -> Card:
    bars = [Bar(_value(each), float(each.cost_usd), money(each.cost_usd), float(each.uncertain_usd)) for each in found]
    return Card(
        f"Spent by {name}",
        "The dearest first.",
        (lambda chart: charts.ranking(chart, bars)) if bars else None,
        (name, "cost", "uncertain", "unpriced", "saved", "calls", "tokens in", "out"),
        [
            (
                _value(each),
                money(each.cost_usd),
                money(each.uncertain_usd),
                f"{each.unknown:,}",
                money(each.saved_usd),
                f"{each.calls:,}",
                f"{each.input_tokens:,}",
                f"{each.output_tokens:,}",
            )
            for each in found
        ],
    )


def _value(each: Spend) -> str:
    (value,) = each.of.values()
    return plain(value) if value else NONE


def _latency(figures: Figures) -> Card:
    found = figures.latencies[:MOST_ROWS]
    rows = {plain(each.model): (each.p50_s, each.p90_s, each.p99_s) for each in found[:MOST_BARS]}
    first = {each.model: each for each in figures.first_chunks}

    def row(each: Latency) -> Cell:
        chunk = first.get(each.model)
        seconds = [f"{value:.2f} s" for value in (each.p50_s, each.p90_s, each.p99_s)]
        chunks = [f"{value:.2f} s" for value in (chunk.p50_s, chunk.p99_s)] if chunk else ["", ""]
        return (plain(each.model), *seconds, *chunks, f"{each.attempts:,}")

    return Card(
        "How long answers took",
        "● half of them took no longer, ■ 90 %, ◆ 99 %. From sending to the whole answer.",
        (lambda name: charts.spreads(name, rows)) if rows else None,
        ("model", "50 %", "90 %", "99 %", "first chunk 50 %", "99 %", "answers"),
        [row(each) for each in found],
    )


def _ended(figures: Figures) -> Card:
    ended = sorted(figures.endings.items(), key=lambda each: -each[1])
    calls = sum(figures.endings.values())
    rows = [(ENDINGS.get(name, plain(name)), count, f"{count:,} · {share(count, calls)}") for name, count in ended]
    return Card(
        "How calls ended",
        "Retries and fallbacks are calls that an answer was found for in the end.",
        (lambda chart: charts.ranking(chart, [Bar(name, count, shown) for name, count, shown in rows]))
        if rows
        else None,
        ("ending", "calls"),
        [(name, f"{count:,}") for name, count, _ in rows],
    )


def _failed(figures: Figures) -> Card:
    found = [
        (plain(each.model), f"{plain(each.what)}{f' {each.status}' if each.status else ''}", each.attempts)
        for each in figures.failures
    ]
    bars = [Bar(f"{what} · {model}", count, f"{count:,}") for model, what, count in found[:MOST_BARS]]
    return Card(
        "Attempts without an answer",
        "The most frequent first; one call may have made several.",
        (lambda name: charts.ranking(name, bars)) if bars else None,
        ("model", "what happened", "attempts"),
        [(model, what, f"{count:,}") for model, what, count in found[:MOST_ROWS]],
    )


def _burnt(course: Course) -> Card:
    balance = course.balance
    divisor = 1e9 if balance.unit == "nanousd" else 1
    points = [(course.starts_at, 0), *course.settled]
    left = [(moment, (balance.limit - amount) / divisor) for moment, amount in points]
    left.append((max(course.asked_at, left[-1][0]), left[-1][1]))
    now = _amount(balance, balance.limit - balance.settled)
    shown = (f"limit {_amount(balance, balance.limit)}", f"{now} left")
    return Card(
        f"What is left of {_whose(balance)}",
        "Dashed: the pace that would just last." if balance.resets_at else "It never starts again.",
        lambda name: charts.burn(name, balance.limit / divisor, left, balance.resets_at, shown),
        ("until", "settled", "left"),
        [
            (f"{moment:%Y-%m-%d %H:%M}", _amount(balance, amount), _amount(balance, balance.limit - amount))
            for moment, amount in points[:: max(len(points) // 40, 1)]
        ],
    )


def _standing(balances: Sequence[Balance]) -> Card:
    shown = sorted(balances, key=lambda each: -(each.settled + each.reserved) / max(each.limit, 1))[:MOST_ROWS]
    bars = [
        Bar(_whose(each), (each.settled + each.reserved) / max(each.limit, 1), share(each.settled, each.limit))
        for each in shown[:MOST_BARS]
    ]
    return Card(
        "Where the budgets stand now",
        "How much of each limit is spent or held by calls under way.",
        (lambda name: charts.ranking(name, bars, whole=1)) if bars else None,
        ("budget", "window", "settled", "held", "limit", "ends"),
        [
            (
                _whose(each),
                each.window,
                _amount(each, each.settled),
                _amount(each, each.reserved),
                _amount(each, each.limit),
                f"{each.resets_at:%Y-%m-%d %H:%M %Z}" if each.resets_at else "",
            )
            for each in shown
        ],
        empty="No budget has counted anything yet.",
    )


def _whose(balance: Balance) -> str:
    whose = " ".join(f"{name}={NONE if value is None else value}" for name, value in balance.tags.items())
    return plain(f"{balance.budget} {whose}".strip())


def plain(text: str) -> str:
    """*text* without letters that no XML may hold, or that turn the direction of what follows."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def money(amount_usd: Decimal) -> str:
    """*amount_usd* with as many digits as it needs to be seen."""
    if amount_usd == 0:
        return "$0"
    digits = 2 if amount_usd >= 1 else 4 if amount_usd >= Decimal("0.01") else 6 if amount_usd >= Decimal("1e-6") else 9
    shown = f"${amount_usd:,.{digits}f}"
    return shown.rstrip("0") if digits > 4 else shown


def _amount(balance: Balance, amount: int) -> str:
    return show_amount(balance.unit, amount)


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0%"


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def large(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= size:
            return f"{count / (1000 if letter == 'k' else size):.{0 if letter == 'k' else 1}f}{letter}"
    return f"{count:,}"
