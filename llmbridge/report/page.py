"""The report as one HTML file: no script, nothing from a network, readable on a phone, in the dark and on paper.

It is built as a tree of elements, so that whatever a tag or a model is called, it is text.
"""

from __future__ import annotations

import itertools
from xml.etree.ElementTree import Element, tostring

from llmbridge.report.cards import Card, counted, large, money, plain, sections, share
from llmbridge.report.figures import Figures
from llmbridge.report.style import STYLE


POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
Child = Element | str


def page(figures: Figures) -> str:
    """The whole file, in ASCII."""
    main = _of("main", _of("header", _of("h1", "llmbridge report"), _of("p", _period(figures))), _tiles(figures))
    numbers = itertools.count(1)
    for title, cards in sections(figures):
        section = _of("div", *(_drawn(card, next(numbers)) for card in cards), **{"class": "cards"})
        main.append(_of("section", _of("h2", title), section))
    main.append(_of("footer", *_notes(figures)))
    (style := Element("style")).text = STYLE
    head = _of(
        "head",
        _of("meta", charset="utf-8"),
        _of("meta", **{"http-equiv": "Content-Security-Policy", "content": POLICY}),
        _of("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _of("meta", name="color-scheme", content="light dark"),
        _of("title", "llmbridge report"),
        style,
    )
    whole = _of("html", head, _of("body", main), lang="en")
    # ASCII, with references for what is not: it reads the same through every pipe
    html: bytes = tostring(whole, encoding="us-ascii", method="html")
    return f"<!DOCTYPE html>\n{html.decode()}\n"


def _of(tag: str, *children: Child, **attributes: str) -> Element:
    """An element with *children*, of which those that are str are text, whatever they hold."""
    made = Element(tag, {name: plain(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + plain(child)
        else:
            made.text = (made.text or "") + plain(child)
    return made


def _period(figures: Figures) -> str:
    form = "%d %B %Y, %H:%M"
    since, until = figures.since, figures.until
    said = "everything that is recorded"
    if since is not None or until is not None:
        start = f"from {since.astimezone(figures.made_at.tzinfo):{form}}" if since is not None else ""
        end = f"until {until.astimezone(figures.made_at.tzinfo):{form}}" if until is not None else ""
        said = f"{start} {end}".strip()
    return f"{said[0].upper()}{said[1:]}; as of {figures.made_at:{form}} ({figures.zone})"


def _tiles(figures: Figures) -> Element:
    total, ended = figures.total, figures.endings
    calls = sum(ended.values())
    asked = calls - ended.get("cached", 0)
    more = sum(ended.get(name, 0) for name in ("retry", "fallback", "downgrade", "hedge", "restart"))
    tiles = [
        (
            "spent",
            money(total.cost_usd),
            f"{money(total.uncertain_usd)} of it uncertain" if total.uncertain_usd else "",
        ),
        ("saved by the cache", money(total.saved_usd), f"{share(ended.get('cached', 0), calls)} of the calls"),
        # those that were folded are in one of the two, those that were refused in the other
        ("calls", f"{max(calls, total.calls):,}", counted(total.attempts, "attempt")),
        ("tokens", f"{large(total.input_tokens)} in", f"{large(total.output_tokens)} out"),
        ("needed a second attempt", share(more, asked), counted(more, "call")),
        ("failed", share(ended.get("failed", 0), asked), f"{ended.get('refused', 0):,} refused by a budget"),
    ]
    return _of(
        "dl",
        *(_of("div", _of("dt", name), _of("dd", value), _of("dd", more_)) for name, value, more_ in tiles),
        **{"class": "tiles"},
    )


def _drawn(card: Card, number: int) -> Element:
    name = f"c{number}"
    made = _of("article", _of("h3", card.title, id=name), **{"aria-labelledby": name})
    if card.draw is None or not card.rows:
        made.append(_of("p", card.empty, **{"class": "empty"}))
        return made
    drawing = card.draw(f"s{number}")
    drawing.set("role", "img")
    drawing.set("aria-labelledby", name)
    made.append(_of("p", card.about, **{"class": "about"}))
    made.append(drawing)
    head = _of("tr", *(_of("th", each, scope="col") for each in card.head))
    rows = [_of("tr", _of("th", first, scope="row"), *(_of("td", each) for each in rest)) for first, *rest in card.rows]
    table = _of("table", _of("thead", head), _of("tbody", *rows))
    scroll = _of("div", table, tabindex="0", role="region", **{"class": "scroll", "aria-label": f"Table: {card.title}"})
    made.append(_of("details", _of("summary", "Figures"), scroll))
    return made


def _notes(figures: Figures) -> list[Element]:
    said = ["What compaction has folded counts as money, not among how calls ended and how long they took."]
    if figures.total.unknown:
        said.append(f"In no amount, as no price is known: {counted(figures.total.unknown, 'attempt')}.")
    if figures.other_tags:
        said.append(f"Without a chart: the tags {', '.join(figures.other_tags[:20])}.")
    said.append("No prompt and no answer is in the ledger, and none is here.")
    return [_of("p", each) for each in said]
