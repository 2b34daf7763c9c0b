"""A call as a tree in the terminal, with bars for the time and the cost of each of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from llmbridge import semconv
from llmbridge.money import show_usd


if TYPE_CHECKING:
    from rich.table import Table

    from llmbridge.record import AttemptRecord, CallRecord

EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a call, an attempt, or a function of the caller's. `start_s` counts from the first one's start."""

    name: str
    depth: int
    start_s: float
    duration_s: float
    cost_usd: Decimal | None = None
    note: str = ""
    failed: bool = False
    last: bool = True  # of its siblings


def rows(record: CallRecord) -> list[Row]:
    """The lines of one call, out of its record."""
    notes = [f"cached, saved {show_usd(record.saved_usd)}" if record.cached else ""]
    notes.append("uncertain" if record.uncertain else "")
    failed = record.outcome in ("failed", "cancelled")
    notes.append((record.error_type or record.outcome) if failed else "")
    model = record.models[0].partition("/")[2] or record.models[0]
    note = ", ".join(filter(None, notes))
    found = [Row(f"{record.verb} {model}", 0, 0.0, record.duration_s, record.cost_usd, note, failed)]
    start_s = 0.0
    for attempt in record.attempts:
        start_s = start_s if attempt.started_s is None else attempt.started_s
        last = attempt is record.attempts[-1]
        name, note = f"attempt {attempt.model}", _note(attempt)
        failed = attempt.outcome == "failed"
        found.append(Row(name, 1, start_s, attempt.duration_s, attempt.cost_usd, note, failed, last))
        start_s += attempt.duration_s
    return found


def rows_of_spans(spans: Iterable[Any]) -> list[Row]:
    """The lines of one trace, out of its finished spans (OpenTelemetry's ReadableSpan), parents before children."""
    known = {span.context.span_id: span for span in spans}
    below: dict[int | None, list[Any]] = {}
    for span in sorted(known.values(), key=lambda span: span.start_time):
        parent = span.parent.span_id if span.parent is not None and span.parent.span_id in known else None
        below.setdefault(parent, []).append(span)
    origin_ns = min((span.start_time for span in known.values()), default=0)
    found: list[Row] = []

    def walk(parent: int | None, depth: int) -> None:
        siblings = below.get(parent, [])
        for span in siblings:
            found.append(_row(span, depth, origin_ns, last=span is siblings[-1]))
            walk(span.context.span_id, depth + 1)

    walk(None, 0)
    return found


def tree(lines: Sequence[Row], *, width: int = 24) -> Table:
    """*lines* as a table to print: what, when and how long, how much. *width* is that of the bars of time."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "left", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")  # the note gives way on a narrow screen
    whole_s = max((line.start_s + line.duration_s for line in lines), default=0.0)
    most = max((line.cost_usd or Decimal(0) for line in lines), default=Decimal(0))
    for line in lines:
        colour = "red" if line.failed else "green"
        share = float((line.cost_usd or Decimal(0)) / most) if most else 0.0
        table.add_row(
            Text(_branch(line) + line.name),
            Text(bar(line.start_s, line.duration_s, whole_s, width), style=colour),
            f"{line.duration_s:.2f} s",
            Text(bar(0.0, share, 1.0, width // 3), style="yellow"),
            show_usd(line.cost_usd) if line.cost_usd is not None or line.name.startswith("attempt ") else "",
            Text(line.note, style=colour if line.failed else ""),
        )
    return table


def bar(start: float, length: float, whole: float, width: int) -> str:
    """*length* from *start* on, of *whole*, as *width* characters in steps of an eighth; what is there is seen."""
    if whole <= 0 or length < 0:
        return " " * width
    before = min(int(start / whole * width), width - 1)
    eighths = min(max(round(length / whole * width * 8), 1 if length > 0 else 0), (width - before) * 8)
    drawn = EIGHTHS[8] * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
    return (" " * before + drawn).ljust(width)


def _note(attempt: AttemptRecord) -> str:
    said: list[str] = [attempt.reason if attempt.reason != "initial" else ""]
    if attempt.outcome != "answered":
        said.append(f"{attempt.error_type or attempt.outcome}{f' {attempt.status}' if attempt.status else ''}")
    if attempt.first_chunk_s is not None:
        said.append(f"first chunk after {attempt.first_chunk_s:.2f} s")
    return ", ".join(filter(None, said))


def _row(span: Any, depth: int, origin_ns: int, *, last: bool) -> Row:
    has = span.attributes or {}
    cost = has.get(semconv.COST_USD, has.get(semconv.ATTEMPT_COST_USD))
    error = str(has.get(semconv.ERROR_TYPE, "")).rpartition(".")[2]
    note = [
        error,
        str(has.get(semconv.HTTP_STATUS, "")) if error else "",
        "cached" if has.get(semconv.CACHE_HIT) else "",
    ]
    return Row(
        name=span.name,
        depth=depth,
        start_s=(span.start_time - origin_ns) / 1e9,
        duration_s=((span.end_time or span.start_time) - span.start_time) / 1e9,
        cost_usd=None if cost is None else Decimal(str(cost)),
        note=" ".join(filter(None, note)),
        failed=bool(error),
        last=last,
    )


def _branch(line: Row) -> str:
    return "" if line.depth == 0 else "   " * (line.depth - 1) + ("└─ " if line.last else "├─ ")
