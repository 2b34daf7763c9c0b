"""The report's charts, drawn by matplotlib as SVG that takes its colours and fonts from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure


WIDTH = 400  # of the drawing; a phone shows it at nine tenths, so that its letters stay letters
SIZE = 12
ROW = 44
# matplotlib wants real colours; on the page each is the CSS variable of that name, which night and paper set anew.
COLOURS = {"ink": "#010101", "muted": "#010102", "grid": "#010103", "first": "#010104", "second": "#010105",
           "third": "#010106"}  # fmt: skip
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: to be read aloud, found and copied
    "svg.hashsalt": "llmbridge",
    "text.parse_math": False,  # a dollar sign is one
    "font.family": "DejaVu Sans",  # matplotlib's own, wider than most: what fits in it fits
    "font.size": SIZE,
    "hatch.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "text.color": COLOURS["ink"],
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.8,
    "xtick.major.size": 0,
    "xtick.major.pad": 8,
    "ytick.major.size": 0,
}
_URL = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"font-family:[^;]*;\s*")


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a ranking: its label, what is written at its end, and what is said of it when it is pointed at.

    `hatched` is the part of `value` that is drawn as uncertain.
    """

    label: str
    value: float
    shown: str
    hatched: float = 0.0


@contextmanager
def _drawing(height: float, **margins: float) -> Iterator[tuple[Figure, Axes]]:
    """An empty chart, without what a user's own matplotlibrc says."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # which only measures: the browser has fonts
        warnings.filterwarnings("ignore", category=mpl.MatplotlibDeprecationWarning)
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH / 72, height / 72), facecolor="none")
        axes = figure.add_axes(
            (
                margins.get("left", 0) / WIDTH,
                margins.get("bottom", 0) / height,
                1 - (margins.get("left", 0) + margins.get("right", 0)) / WIDTH,
                1 - (margins.get("bottom", 0) + margins.get("top", 0)) / height,
            ),
            facecolor="none",
        )
        yield figure, axes


def columns(
    name: str, labels: Sequence[str], values: Sequence[float], tips: Sequence[str], hatched: Sequence[float] = ()
) -> ElementTree.Element:
    """A column for each of *labels*, in dollars; of each the part in *hatched* is drawn as uncertain."""
    with _drawing(190, left=56, bottom=28, top=8, right=22) as (figure, axes):
        places = range(len(labels))
        parts = hatched or [0.0] * len(labels)
        plain = [value - part for value, part in zip(values, parts, strict=True)]
        width = 0.8 if len(labels) > 1 else 0.2
        for bar, tip in zip(axes.bar(places, plain, width, color=COLOURS["first"]), tips, strict=True):
            bar.set_gid(f"tip {tip}")
        if any(parts):
            axes.bar(places, parts, width, bottom=plain, **_hatched())
        axes.set_ylim(0, max([*values, 1e-9]) * 1.08)
        axes.set_xlim(-0.6, max(len(labels), 1) - 0.4)
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(lambda value, _: dollars(value))
        axes.grid(axis="y")
        step = -(-len(labels) // 5) or 1
        axes.set_xticks(list(places)[::step], list(labels)[::step])
        return _svg(figure, name)


def ranking(name: str, bars: Sequence[Bar], whole: float = 0.0) -> ElementTree.Element:
    """A bar for each, below its label and its amount; the longest takes all the room, unless *whole* is more."""
    with _drawing(ROW * len(bars), left=1, right=1) as (figure, axes):
        most = max([each.value for each in bars] + [whole, 1e-12])
        for place, each in enumerate(bars):
            y, plain = place * ROW, max(each.value - each.hatched, 0) / most
            axes.barh(y + 28, 1, 10, color=COLOURS["grid"], alpha=0.45)
            drawn = axes.barh(y + 28, plain, 10, color=COLOURS["first"])
            drawn[0].set_gid(f"tip {each.label}: {each.shown}")
            if each.hatched:
                axes.barh(y + 28, each.hatched / most, 10, left=plain, **_hatched())
            axes.text(0, y + 18, short(each.label, 50 - len(each.shown)), fontsize=SIZE + 1)
            axes.text(1, y + 18, each.shown, ha="right", fontsize=SIZE + 1)
        axes.set_xlim(0, 1)
        axes.set_ylim(ROW * len(bars), 0)
        axes.axis("off")
        return _svg(figure, name)


def spreads(name: str, rows: Mapping[str, tuple[float, float, float]]) -> ElementTree.Element:
    """For each row a line from the first of three figures to the last, in seconds, each with a mark of its own."""
    with _drawing(ROW * len(rows) + 28, left=16, right=16, bottom=28) as (figure, axes):
        for place, (label, figures) in enumerate(rows.items()):
            y = place * ROW + 28
            axes.plot([figures[0], figures[2]], [y, y], color=COLOURS["muted"], linewidth=2, zorder=2)
            for value, mark, colour in zip(figures, "osD", ("first", "second", "third"), strict=True):
                tip = f"tip {label}: {value:.2f} s"
                axes.plot(value, y, mark, color=COLOURS[colour], markersize=8, zorder=3, gid=tip, clip_on=False)
            axes.text(0, y - 10, short(label, 46), fontsize=SIZE + 1)
        axes.set_ylim(ROW * len(rows), 0)
        axes.set_xlim(0, max(figures[2] for figures in rows.values()) * 1.02 or 1)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
        axes.grid(axis="x")
        return _svg(figure, name)


def burn(
    name: str, limit: float, left: Sequence[tuple[datetime, float]], ends_at: datetime | None, shown: Sequence[str]
) -> ElementTree.Element:
    """What is left of *limit* over the time of a window, beside the even pace that would just last. *shown* is how the
    limit and what is left are written."""
    with _drawing(170, left=6, right=6, bottom=26, top=24) as (figure, axes):
        times = [moment.timestamp() for moment, _ in left]
        amounts = [amount for _, amount in left]
        axes.step(times, amounts, where="post", color=COLOURS["first"], linewidth=2.2)
        axes.fill_between(times, amounts, step="post", color=COLOURS["first"], alpha=0.18, linewidth=0)
        axes.plot(times[-1], amounts[-1], "o", color=COLOURS["first"], markersize=7, clip_on=False)
        last = times[-1]
        if ends_at is not None:
            last = max(ends_at.timestamp(), last)
            axes.plot([times[0], last], [limit, 0], color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 4)))
        axes.axhline(limit, color=COLOURS["grid"], linewidth=0.8)
        axes.text(0, 1.02, shown[0], transform=axes.transAxes, va="bottom", color=COLOURS["muted"])
        axes.text(1, 1.02, shown[1], transform=axes.transAxes, va="bottom", ha="right")
        axes.set_ylim(min(0, *amounts) * 1.05, max(limit, *amounts) * 1.02 or 1)
        axes.set_xlim(times[0], max(last, times[0] + 1))
        axes.set_yticks([])
        places = [times[0], (times[0] + last) / 2, last]
        form = "%H:%M" if last - times[0] < 2 * 86_400 else "%d %b"
        zone = left[0][0].tzinfo
        axes.set_xticks(places, [datetime.fromtimestamp(place, zone).strftime(form) for place in places])
        for label, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set(horizontalalignment=side)
        return _svg(figure, name)


def short(text: str, most: int) -> str:
    """*text* in so many letters at most; its end says more than its middle."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]}…{text[len(text) - most // 3 + 1 :]}"


def dollars(value: float) -> str:
    """A mark of an axis."""
    return f"${value:,.0f}" if value >= 10 or value == 0 else f"${value:.6f}".rstrip("0").rstrip(".")


def _hatched() -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": COLOURS["first"], "hatch": "/////", "linewidth": 0.8}


def _svg(figure: Figure, name: str) -> ElementTree.Element:
    """*figure* as an element of the page: no ids but those that it refers to, which begin with *name*."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        said = element.get("id", "")
        if element.tag in ("g", "svg", "text"):
            element.attrib.pop("id", None)
        elif said:
            element.set("id", f"{name}-{said}")
        for key in list(element.attrib):
            element.set(key.rpartition("}")[2], _themed(element.attrib.pop(key), name))
        if said.startswith("tip "):
            title = ElementTree.Element("title")
            title.text = said.removeprefix("tip ")
            element.insert(0, title)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    return root


def _themed(value: str, name: str) -> str:
    for variable, colour in COLOURS.items():
        value = value.replace(colour, f"var(--{variable})")
    if value.startswith("#"):  # of an href
        value = f"#{name}-{value[1:]}"
    return _FONT.sub("", _URL.sub(rf"url(#{name}-\1)", value))
