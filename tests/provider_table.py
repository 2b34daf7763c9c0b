"""The README's table of providers, from the rows that are tested: `python -m tests.provider_table` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.providers import PROVIDERS, Provider
from tests.recording import CASES, is_live


README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- the table is written by python -m tests.provider_table -->\n", "<!-- until here -->\n"
COLUMNS = (
    "provider", "model", "complete", "stream", "tools", "usage", "embeddings", "told apart", "real traffic read right",
    "recorded from", "remarks",
)  # fmt: skip


def table() -> str:
    """The table, in Markdown."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_row, PROVIDERS)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def placed(readme: str) -> str:
    """*readme* with the table as it is now."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}{table()}{END}{after}"


def _row(row: Provider) -> tuple[str, ...]:
    cases = [case for case in CASES if case.row == row and case.proves]
    proven = {case.proves for case in cases} - row.lacks
    can = {name: "yes" if name in proven else "" for name in ("complete", "stream", "tools", "embeddings")}
    right, all_of_them = row.read_right
    sources = sorted({"the provider" if is_live(case.path) else "simulator" for case in cases})
    return (
        row.name,
        f"`{row.chat.partition('/')[0]}/`",
        can["complete"],
        can["stream"],
        can["tools"],
        "yes" if row.counted else "estimated",
        can["embeddings"],
        _told_apart(row),
        f"{right} of {all_of_them}" if row.traffic else "",
        ", ".join(sources),
        row.remarks,
    )


def _told_apart(row: Provider) -> str:
    filtered = {"error": "filtered", "answer": "filtered (as an answer)", "bad request": ""}[row.filtered]
    return ", ".join(filter(None, ("too long" if row.too_long else "", filtered)))


def main() -> int:
    README.write_text(placed(README.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
