"""All that is measured: python -m tests.benchmarks [NAME ...] [--rounds N] [--json FILE] [--short]"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sqlite3
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.clients import OURS
from tests.benchmarks.contender import Stage
from tests.benchmarks.server import CHUNKS


NAMES = ("fresh", "cache", "calls", "streams", "ledger", "tracing", "policy", "replay", "growth", "memory")
# With --short: who takes how much longer than the reference, as a rule, of a table. Three times that fails. What a busy
# machine does to the wall's time it does not do to CPU time, so both have to be worse.
USUAL = {
    ("fresh", "a process", "import llmbridge"): 2.2,
    ("fresh", "a cached answer in a fresh process", "llmbridge"): 25.0,
    ("cache", "a warm hit", OURS): 18.0,
    ("calls", "complete, one at a time", OURS): 0.95,
    ("calls", "acomplete, one at a time", OURS): 0.92,
    ("calls", "acomplete, 64 tasks", OURS): 1.05,
    ("streams", f"stream, each chunk of {CHUNKS}", OURS): 0.5,
    ("streams", f"astream, each chunk of {CHUNKS}", OURS): 1.0,
    ("ledger", "reserve and settle", "1 budget"): 2.9,
    ("tracing", "a record and its trace, listened to by", "SDK, spans in batches"): 23.0,
}
SHORT = tuple(dict.fromkeys(name for name, _, _ in USUAL))
SHORT_ROUNDS, TOO_MUCH = 3, 3.0
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}  # nothing from the network, no ./.env


def machine() -> str:
    """What it was measured on."""
    what = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, LiteLLM {version('litellm')}"
    return f"{what}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"


def slower(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What takes TOO_MUCH times as much longer as it is used to."""
    tables = {(name, table["title"]): table for name, each in found.items() for table in each}
    said = []
    for (name, title, row), usual in USUAL.items():
        if (table := tables.get((name, title))) is not None:
            ratio = min(table["rows"][row][kind]["median"] for kind in ("ratio", "cpu_ratio"))
            if ratio > TOO_MUCH * usual:
                said.append(f"{title}: {row} takes {ratio:.1f} times {table['reference']}; {usual} is usual")
    return said


def main() -> int:
    """Print the tables as they come; write them. 1 if something got much slower."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each runs; by default as each needs it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument("--short", action="store_true", help="the quick ones, and fail on what got much slower")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    os.environ.update(QUIET)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # importing LiteLLM takes twice as long
    print(f"{machine()}\n")
    made: dict[str, Any] = {}
    with Stage() as stage:
        for name in asked.names or (SHORT if asked.short else NAMES):
            module, started = importlib.import_module(f"tests.benchmarks.{name}"), time.monotonic()
            rounds = asked.rounds or (SHORT_ROUNDS if asked.short else module.ROUNDS)
            print(f"## {name}\n")
            for table in module.tables(stage, rounds, short=asked.short):
                print(f"{table}\n", flush=True)
                made.setdefault(name, []).append(table.data())
            print(f"{time.monotonic() - started:.0f} s\n", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "found": made}, indent=1, ensure_ascii=False) + "\n")
    complaints = slower(made) if asked.short else []
    print("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
