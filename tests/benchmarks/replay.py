"""Replaying recorded calls: `python -m tests.benchmarks.replay [calls] [turns]`, beside LiteLLM on plain vcrpy.

Both play the same file, in turns in the same process, opening it included; the ratio is that of the medians. The goal
is a replay that takes at most twice as long as plain vcrpy with LiteLLM.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import vcr

from llmbridge import provider, redaction
from llmbridge.bridge import Bridge
from llmbridge.cassette import replay
from llmbridge.default import warm
from tests.recording import OPENAI, TEXT
from tests.simulator import Simulator


TURNS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
KEY = "sk-simulated"


def question(number: int) -> str:
    return f"Name fish number {number} and say why."


def record(path: Path, calls: int) -> str:
    """Record *calls* different calls into *path*; the address that they went to."""
    with Simulator() as sim:
        sim.script(*[TEXT] * calls)
        bridge, base = Bridge(cache=None, ledger=None), sim.api_base("openai")
        with replay(path, record="all"):
            for number in range(calls):
                bridge.complete(question(number), model=OPENAI, api_base=base, api_key=KEY)
    return base


def ours(path: Path, base: str, calls: int) -> None:
    bridge = Bridge(cache=None)
    with replay(path):
        for number in range(calls):
            bridge.complete(question(number), model=OPENAI, api_base=base, api_key=KEY)


def plain(path: Path, base: str, calls: int) -> None:
    litellm = provider.litellm()
    match_on = ("method", "scheme", "host", "port", "path", "query", "body")
    with vcr.VCR(record_mode="none", match_on=match_on).use_cassette(str(path)):
        for number in range(calls):
            asked = [{"role": "user", "content": question(number)}]
            litellm.completion(model=OPENAI, messages=asked, api_base=base, api_key=KEY, max_retries=0, num_retries=0)


def took_s(run: Callable[[Path, str, int], None], *arguments: object) -> float:
    started = time.perf_counter()
    run(*arguments)  # type: ignore[arg-type]
    return time.perf_counter() - started


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    logging.getLogger("vcr").setLevel(logging.ERROR)
    warm()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fish.yaml"
        recorded_s = time.perf_counter()
        base = record(path, calls)
        print(f"{calls} calls recorded in {time.perf_counter() - recorded_s:.1f} s, {path.stat().st_size:,} bytes")
        took: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(TURNS):
            took["plain"].append(took_s(plain, path, base, calls))
            took["ours"].append(took_s(ours, path, base, calls))
    medians = {name: statistics.median(each) for name, each in took.items()}
    for name, each in took.items():
        print(f"{name}: {medians[name]:.2f} s, {medians[name] / calls * 1e3:.2f} ms a call; turns {sorted(each)}")
    print(f"ratio {medians['ours'] / medians['plain']:.2f} (goal: at most 2); keys known {len(redaction._forms)}")


if __name__ == "__main__":
    main()
