"""A warm hit, and a fresh process's cached answer, against LiteLLM's disk cache: python -m tests.benchmarks.cache [N]

LiteLLM 1.106 needs the packages of its proxy for a hit (`pip install 'litellm[proxy]'`).

Both answer the same question from a directory, in turn; N rounds (15). The floor is one SQLite read with one SHA-256.
"""

from __future__ import annotations

import hashlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import llmbridge
from llmbridge import Bridge, Cache, Model
from tests.simulator import Simulator


HITS = 200  # in each round
ASKED = [{"role": "user", "content": "Name a fish."}]
OURS = """
from llmbridge import Bridge, Model
model = Model("openai/gpt-4o-mini", api_base={base!r}, api_key="sk-test-key")
assert Bridge(cache={ours!r}, ledger=None).complete("Name a fish.", model=model).cached
"""
THEIRS = """
import litellm
litellm.cache = litellm.Cache(type="disk", disk_cache_dir={theirs!r})
litellm.completion(
    model="openai/gpt-4o-mini", messages={asked!r}, api_base={base!r}, api_key="sk-test-key", caching=True
)
"""


def microseconds(hit: Callable[[], object]) -> float:
    """What one takes, on average."""
    started = time.perf_counter()
    for _ in range(HITS):
        hit()
    return (time.perf_counter() - started) / HITS * 1e6


def floor(directory: Path) -> Callable[[], object]:
    """One read of a 2 KB row, by the hash of a question."""
    db = sqlite3.connect(directory / "floor.db", isolation_level=None)
    db.execute("CREATE TABLE kept (key TEXT PRIMARY KEY, value TEXT)")
    key = hashlib.sha256(repr(ASKED).encode()).hexdigest()
    db.execute("INSERT INTO kept VALUES (?, ?)", (key, "x" * 2000))

    def read() -> object:
        wanted = hashlib.sha256(repr(ASKED).encode()).hexdigest()
        return db.execute("SELECT value FROM kept WHERE key = ?", (wanted,)).fetchone()

    return read


def seconds(script: str) -> float:
    """A fresh process, from its start to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    return time.perf_counter() - started


def main(rounds: int) -> None:
    llmbridge.warm()
    import litellm

    with tempfile.TemporaryDirectory() as name, Simulator() as sim:
        directory, base = Path(name), sim.api_base("openai")
        model = Model("openai/gpt-4o-mini", api_base=base, api_key="sk-test-key")
        plain = Bridge([model], cache=Cache(directory / "ours"), ledger=None)
        booked = Bridge([model], cache=Cache(directory / "ours"), ledger=directory / "ledger.db")
        litellm.cache = litellm.Cache(type="disk", disk_cache_dir=str(directory / "theirs"))  # type: ignore[arg-type]

        def theirs() -> object:
            return litellm.completion(
                model=model.model, messages=ASKED, api_base=base, api_key="sk-test-key", caching=True
            )

        hits: dict[str, Callable[[], object]] = {
            "one SQLite read with hashing": floor(directory),
            "llmbridge, without a ledger": lambda: plain.complete("Name a fish."),
            "llmbridge, each hit recorded": lambda: booked.complete("Name a fish."),
            "LiteLLM's disk cache": theirs,
        }
        for hit in hits.values():
            hit()
        taken = {what: [microseconds(hit)] for what, hit in hits.items()}
        for _ in range(rounds):
            for what, hit in hits.items():
                taken[what].append(microseconds(hit))
        print("| a warm hit | µs | against the floor | against LiteLLM |\n|---|---|---|---|")
        medians = {what: statistics.median(each[1:]) for what, each in taken.items()}
        least, most = medians["one SQLite read with hashing"], medians["LiteLLM's disk cache"]
        for what, median in medians.items():
            print(f"| {what} | {median:.0f} | {median / least:.1f} | 1/{most / median:.1f} |")
        places = {"base": base, "ours": str(directory / "ours"), "theirs": str(directory / "theirs"), "asked": ASKED}
        ours = [seconds(OURS.format(**places)) for _ in range(max(rounds // 5, 3))]
        others = [seconds(THEIRS.format(**places)) for _ in range(max(rounds // 5, 3))]
        mine, other = statistics.median(ours), statistics.median(others)
        booked.ledger.close()
        print(
            f"\nA fresh process, cached: {mine:.2f} s, LiteLLM {other:.2f} s, 1/{other / mine:.1f};"
            f" {len(sim.requests)} requests in all"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
