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


NAMES = ("fresh", "cache", "calls", "streams", "ledger", "tracing", "policy", "replay", "growth", "memory")
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}  # nothing from the network, no ./.env


def machine() -> str:
    """What it was measured on."""
    what = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, LiteLLM {version('litellm')}"
    return f"{what}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Print the tables as they come; write them."""
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
    for name in asked.names or NAMES:
        module, started = importlib.import_module(f"tests.benchmarks.{name}"), time.monotonic()
        print(f"## {name}\n")
        for table in module.tables(asked.rounds or module.ROUNDS, short=asked.short):
            print(f"{table}\n", flush=True)
            made.setdefault(name, []).append(table.data())
        print(f"{time.monotonic() - started:.0f} s\n", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "found": made}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
