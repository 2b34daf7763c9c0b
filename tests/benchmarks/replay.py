"""Replaying recorded calls, opening the file included, beside LiteLLM on plain vcrpy; both play the same file."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import vcr

from llmbridge import provider
from llmbridge.bridge import Bridge
from llmbridge.cassette import replay
from llmbridge.default import warm
from tests.benchmarks.contender import Stage
from tests.benchmarks.paired import Table, Took, in_turn, way
from tests.benchmarks.server import Server
from tests.recording import OPENAI


ROUNDS = 5
CALLS = 100  # in a file
KEY = "sk-simulated"


def question(number: int) -> str:
    return f"Name fish number {number} and say why."


def ours(path: Path, base: str, record: str = "none") -> None:
    bridge = Bridge(cache=None, ledger=None)
    with replay(path, record=record):  # type: ignore[arg-type]
        for number in range(CALLS):
            bridge.complete(question(number), model=OPENAI, api_base=base, api_key=KEY)


def plain(path: Path, base: str) -> None:
    litellm = provider.litellm()
    match_on = ("method", "scheme", "host", "port", "path", "query", "body")
    with vcr.VCR(record_mode="none", match_on=match_on).use_cassette(str(path)):
        for number in range(CALLS):
            asked = [{"role": "user", "content": question(number)}]
            litellm.completion(model=OPENAI, messages=asked, api_base=base, api_key=KEY, max_retries=0, num_retries=0)


def tables(_: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """One."""
    for name in ("LiteLLM", "vcr"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warm()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fish.yaml"
        with Server() as server:
            base = server.api_base
            ours(path, base, record="all")
        ways = {"LiteLLM on plain vcrpy": plain, "llmbridge, replay()": ours}
        each = {name: way(functools.partial(play, path, base)) for name, play in ways.items()}
        found = {
            name: [Took(took.wall_s / CALLS, (took.cpu_s or 0) / CALLS) for took in every]
            for name, every in in_turn(each, rounds).items()
        }
        yield Table(f"a replayed call of {CALLS}", "ms", found, "LiteLLM on plain vcrpy")
