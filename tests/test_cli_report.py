"""`llmbridge report`: one page that holds the sums, needs nothing from anywhere, and takes every text for text."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import warnings
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest

from llmbridge.home import ledger_path
from llmbridge.ledger import Ledger, ReadOnlyLedger
from llmbridge.record import CallRecord
from llmbridge.report import gather
from tests.commands import DAY_S, Story, files, run, three_days


VOID = {"meta", "br", "hr", "img", "link", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = [
    "</style><script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "'\"&amp;--><!--",
    "$a_b$ $\\frac{1}{0}$ \\u{1F600}",
    "ab\x00\x1b[31m\n\u202eexe.gnp\ufffe",
    "日本語 😀",
    "url(https://evil.example/x) #010101 " + "x" * 300,
    "",
]


class Page(HTMLParser):
    """A page, read by a parser that is strict about what is open: every element, its attributes and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data)

    def table(self, first: str) -> list[list[str]]:
        """The rows below a head that begins so."""
        (found,) = [table[1:] for table in self.tables if table[0][0] == first]
        return found


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "ledger.db"
    three_days(path)
    return path


@pytest.fixture(scope="module")
def text(kept: Path) -> str:
    done = run("report", "--html", "-", "--ledger", kept)
    assert (done.code, done.err) == (0, "")
    return done.out


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_holds_the_sums(page: Page) -> None:
    tiles = page.texts[page.texts.index("spent") :]

    assert tiles[:5] == ["spent", "$1.75", "$0.5000 of it uncertain", "saved by the cache", "$0.5000"]


def test_the_tables_behind_the_charts_hold_their_figures(page: Page) -> None:
    spent, saved = [table[1:] for table in page.tables if table[0][0] == "day"]
    models = next(table[1:] for table in page.tables if table[0][:2] == ["model", "cost"])
    failures = next(table[1:] for table in page.tables if table[0][:2] == ["model", "what happened"])

    assert spent == [
        ["2026-03-02", "$1.00", "$0", "1"],
        ["2026-03-03", "$0.2500", "$0", "2"],
        ["2026-03-04", "$0", "$0", "0"],
        ["2026-03-05", "$0.5000", "$0.5000", "1"],
    ]
    assert saved == [["2026-03-03", "$0.5000", "$0.2500"]]
    assert [row[:3] for row in models] == [
        ["openai/gpt-4o-mini", "$1.50", "$0.5000"],
        ["anthropic/claude-haiku-4-5", "$0.2500", "$0"],
    ]
    assert [row[:2] for row in page.table("tag 'user'")] == [
        ["alice", "$1.00"],
        ["[/carol]", "$0.5000"],
        ["bob", "$0.2500"],
    ]
    assert failures == [["openai/gpt-4o-mini", "ProviderUnavailable 503", "1"]]
    assert page.table("ending") == [
        ["answered at once", "2"],
        ["answered from the cache", "1"],
        ["answered by another model", "1"],
    ]


def test_the_budgets_are_those_of_now_with_how_they_went_down(page: Page) -> None:
    rows = {row[0]: row[2:5] for row in page.table("budget")}
    support = [table[1:] for table in page.tables if table[0][0] == "until"]

    assert rows["support team=red user=alice"] == ["$1.00", "$0.00", "$2.00"]
    assert rows["$5/day"] == ["$0.00", "$0.00", "$5.00"]  # today
    assert [row[1:] for row in support[0]] == [["$0.00", "$2.00"], ["$1.00", "$1.00"]]


def test_the_page_needs_nothing_from_anywhere(page: Page, text: str) -> None:
    values = [value or "" for _, attributes in page.elements for value in attributes.values()]
    references = [
        value for _, attributes in page.elements for name, value in attributes.items()
        if name.rpartition(":")[2] in ("src", "href", "srcset", "action", "data", "poster")
    ]  # fmt: skip
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)

    assert all((value or "").startswith("#") for value in references)
    assert all(found.startswith("url(#") for value in values for found in re.findall(r"url\([^)]*", value))
    assert "url(" not in style and "@import" not in style
    assert "http://" not in text and "https://" not in text
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "img", "object", "embed"} == set()
    assert "default-src 'none'" in text


def test_what_is_referred_to_is_there_once(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    values = [value or "" for _, attributes in page.elements for value in attributes.values()]
    wanted = {name for value in values for name in re.findall(r"url\(#([^)]*)\)", value)}
    wanted |= {str(attributes["aria-labelledby"]) for _, attributes in page.elements if "aria-labelledby" in attributes}
    wanted |= {str(attributes["href"])[1:] for _, attributes in page.elements if "href" in attributes}

    assert len(ids) == len(set(ids))
    assert wanted <= set(ids)


def test_every_chart_has_a_title_and_a_table_and_takes_the_colours_of_the_page(page: Page, text: str) -> None:
    charts = [attributes for tag, attributes in page.elements if tag == "svg"]

    assert len(charts) == len(page.tables) >= 9
    assert all(chart["role"] == "img" and chart["aria-labelledby"] for chart in charts)
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert set(re.findall(r"(?:fill|stroke): ?([^;\"]+)", drawn)) <= {
        "none", *(f"var(--{name})" for name in ("ink", "muted", "grid", "first", "second", "third")),
        *re.findall(r"url\(#[^)]*\)", drawn),
    }  # fmt: skip
    assert "font-family" not in drawn
    assert "prefers-color-scheme: dark" in text and "@media print" in text


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    with Story(path := tmp_path / "nasty.db") as story:
        for number, name in enumerate(NASTY):
            story.now += 3600
            story.call(f"{number:032x}", "0.1", user=name, team=NASTY[-number], model=f"a/{name}", failed=f"b/{name}")
        hit = CallRecord(
            id="ff" * 16,
            verb="chat",
            models=("a/b",),
            tags={name: name for name in NASTY},
            started_at=story.now,
            outcome="answered",
            model="a/b",
            cached=True,
            saved_usd=Decimal(1),
        )
        story.ledger.book(hit)
    return path


def test_whatever_a_tag_or_a_model_is_called_it_is_text(nasty: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = run("report", "--html", "-", "--ledger", nasty)

    page = Page(done.out)
    assert done.code == 0
    assert {tag for tag, _ in page.elements} & {"script", "img", "b"} == set()
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    users = [row[0] for row in page.table("tag 'user'")]
    assert {
        "</style><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "'\"&amp;--><!--",
        "(none)",
        "日本語 😀",
    } <= set(users)
    said = "".join([*page.texts, *(value or "" for _, attributes in page.elements for value in attributes.values())])
    assert re.search(r"[\x00-\x09\x0b-\x1f\u202e\ufffe]", said) is None
    titles = re.findall(r"<title>([^<]*)</title>", done.out)
    assert f"{html.escape(f'a/{NASTY[7]}', quote=False)}: $0.1000" in titles
    assert "Spent by tag '</style><script>alert(1)</script>'" in page.texts


def test_an_empty_ledger_is_a_page_that_says_so(tmp_path: Path) -> None:
    Ledger(tmp_path / "new.db").balance()

    page = Page(run("report", "--html", "-", "--ledger", tmp_path / "new.db").out)

    assert page.texts.count("Nothing in this period.") == 6
    assert "No budget has counted anything yet." in page.texts
    assert page.texts[page.texts.index("spent") + 1] == "$0"


def test_one_call_is_a_page_too(tmp_path: Path) -> None:
    with Story(tmp_path / "one.db") as story:
        story.call("a1" * 16, "0.000123")

    page = Page(run("report", "--html", "-", "--ledger", tmp_path / "one.db").out)

    assert page.texts[page.texts.index("spent") + 1] == "$0.000123"
    assert ["2026-03-02 12:00", "$0.000123", "$0", "1"] in next(t for t in page.tables if t[0][0] == "hour")


@pytest.mark.parametrize(
    ("days", "unit", "buckets"), [(0, "hour", 24), (1, "hour", 48), (2, "day", 3), (90, "week", 13), (500, "month", 17)]
)
def test_time_is_cut_so_that_it_can_be_seen(days: int, unit: str, buckets: int, tmp_path: Path) -> None:
    with Story(tmp_path / "long.db") as story:
        story.call("a1" * 16, "0.10")
        story.now += days * DAY_S
        story.call("a2" * 16, "0.20", user="bob")

    with ReadOnlyLedger(tmp_path / "long.db") as book:
        found = gather(book, since=None, until=None)

    assert (found.unit, len(found.over_time)) == (unit, buckets)
    assert sum(each.cost_usd for _, each in found.over_time) == found.total.cost_usd == Decimal("0.3")
    names = [name for name, _ in found.over_time]
    assert names == sorted(set(names))


def test_a_period_is_shown_whole_and_on_the_clocks_of_the_zone(kept: Path) -> None:
    found = run(
        "report", "--json", "--since", "2026-03-01", "--until", "2026-03-08", "--zone", "Asia/Kolkata", "--ledger", kept
    ).json

    assert [day for day, _ in found["over_time"]] == [f"2026-03-0{day}" for day in range(1, 8)]
    assert found["since"] == "2026-03-01T00:00:00+05:30"
    assert found["total"]["cost_usd"] == "1.75"


def test_of_many_values_the_dearest_are_shown_and_the_others_as_one(tmp_path: Path) -> None:
    with Story(tmp_path / "many.db") as story:
        for number in range(30):
            story.call(f"{number:032x}", f"0.0{number + 10}", user=f"u{number}")

    rows = Page(run("report", "--html", "-", "--ledger", tmp_path / "many.db").out).table("tag 'user'")

    assert [row[0] for row in rows] == [*(f"u{number}" for number in range(29, 20, -1)), "21 others"]
    assert Decimal(rows[-1][1][1:]) == sum((Decimal(f"0.0{number + 10}") for number in range(21)), Decimal(0))


def test_the_file_is_written_and_its_size_said(kept: Path, tmp_path: Path) -> None:
    before = files(kept.parent)

    done = run("report", "--html", tmp_path / "r.html", "--ledger", kept)

    size = (tmp_path / "r.html").stat().st_size
    assert (done.code, done.out) == (0, f"{tmp_path / 'r.html'}: {size / 1024:,.0f} KB\n")
    assert size < 200_000
    assert (tmp_path / "r.html").read_text("ascii").startswith("<!DOCTYPE html>\n<html")
    assert files(kept.parent) == before


def test_the_same_ledger_is_drawn_the_same(kept: Path, text: str) -> None:
    drawn = re.compile(r"<svg.*?</svg>", re.DOTALL)
    again = run("report", "--html", "-", "--ledger", kept).out

    # but for the day's budget, whose chart ends now
    assert drawn.findall(again)[:8] == drawn.findall(text)[:8]


def test_a_users_own_settings_of_matplotlib_change_nothing(kept: Path, text: str, tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"axes.facecolor": "red", "svg.fonttype": "path", "lines.linewidth": 9}):
        again = run("report", "--html", "-", "--ledger", kept).out
        assert mpl.rcParams["axes.facecolor"] == "red"

    drawn = re.compile(r"<svg.*?</svg>", re.DOTALL)
    assert drawn.findall(again)[:8] == drawn.findall(text)[:8]


def test_without_matplotlib_it_is_said_what_to_install_and_json_works(kept: Path, tmp_path: Path) -> None:
    with patch("importlib.util.find_spec", return_value=None):
        done = run("report", "--html", tmp_path / "r.html", "--ledger", kept)
        as_json = run("report", "--json", "--ledger", kept)

    assert (done.code, done.out) == (1, "")
    assert "pip install 'llmbridge[report]'" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "r.html").exists()
    assert as_json.json["endings"] == {"cached": 1, "fallback": 1, "initial": 2}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "say where to write the page: --html report.html"),
        (("--html", "-", "--json"), 2, "--json and --html - exclude each other"),
        (("--html", "nowhere/deep/r.html"), 2, "nowhere/deep/r.html cannot be written: No such file or directory"),
        (("--html", "-", "--since", "soon"), 2, "'soon' is no time"),
        (("--html", "-", "--zone", "Mars/Base"), 2, "there is no time zone 'Mars/Base'"),
        (("--html", "-", "--ledger", "none.db"), 1, "LedgerError: there is no ledger at none.db"),
    ],
)
def test_a_users_mistake_has_its_exit_code_and_no_traceback(arguments: tuple[str, ...], code: int, said: str) -> None:
    three_days(ledger_path())

    done = run("report", *arguments)

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_it_needs_no_litellm_and_no_socket() -> None:
    three_days(ledger_path())
    script = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"): raise SystemExit(event)
sys.addaudithook(refuse)
sys.argv = ["llmbridge", "report", "--html", "-"]
from llmbridge.cli import main
try:
    main()
except SystemExit as end:
    print(end.code, "litellm" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50)

    assert done.stderr.splitlines()[-1] == "0 False"


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
def test_a_browser_draws_it_without_a_complaint(nasty: Path, tmp_path: Path) -> None:
    run("report", "--html", tmp_path / "r.html", "--ledger", nasty)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
               f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "r.html").as_uri()]  # fmt: skip

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50, env={**os.environ})

    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<svg viewBox=") == (tmp_path / "r.html").read_text().count("<svg viewBox=") > 5
