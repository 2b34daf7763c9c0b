"""What the fallback policy adds to a call: python -m tests.benchmarks.policy [ROUNDS]

Calls of the simulator by the default Bridge, in turn: with the policy as it is, without its breaker, with limits, with
more candidates and their strategies; no ledger and no cache, so that the differences are the policy's. Then the parts
alone, and what a dead primary costs once its breaker is open.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import llmbridge
from llmbridge import Bridge, Fallback, Limit, Model, ProviderError
from llmbridge.call.planning import candidates_of, ordered
from llmbridge.fallback import Endpoints
from llmbridge.fallback.breaker import Breaker
from llmbridge.fallback.limiter import Counter, enter
from llmbridge.request import chat
from llmbridge.waiting import wait
from tests.simulator import Fault, Reply, Simulator


CALLS = 20  # in each round
SHORT = 3
LOOKS = 200
FISH = "Name a fish."


def microseconds(work: Callable[[], object], count: int) -> float:
    """What *work* takes, on average over *count*."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count * 1e6


def in_turn(works: dict[str, Callable[[], object]], rounds: int, count: int) -> dict[str, list[float]]:
    """Each one's microseconds, round by round."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(microseconds(work, count))
    return found


def asking(bridge: Bridge, policy: Fallback) -> Callable[[], object]:
    """One call."""
    return lambda: bridge.complete(FISH, model=policy, max_tokens=50)


def models(sim: Simulator, count: int, **fields: float) -> list[Model]:
    """So many candidates, all alive."""
    base = sim.api_base("openai")
    return [Model("openai/gpt-4o-mini", api_base=base, api_key=f"sk-key-{each}", **fields) for each in range(count)]  # type: ignore[arg-type]


def calls(sim: Simulator, rounds: int) -> None:
    """The table of whole calls: the difference to one without the policy's work, by round."""
    bare, plain = Bridge(ledger=None), Bridge(ledger=None)
    limited = Bridge(ledger=None, limits=Limit(rpm=1e9, tpm=1e9, concurrency=1000))
    one = models(sim, 1)
    works = {
        "breaker=False, retries=0": asking(bare, Fallback(one, retries=0, breaker=False)),
        "Fallback()": asking(plain, Fallback(one)),
        "with rpm, tpm and concurrency": asking(limited, Fallback(one)),
        "3 candidates": asking(plain, Fallback(models(sim, 3))),
        '10 candidates, "balanced"': asking(plain, Fallback(models(sim, 10), strategy="balanced")),
    }
    in_turn(works, 1, CALLS)
    found = in_turn(works, rounds, CALLS)
    reference = found["breaker=False, retries=0"]
    print("| a call, no faults | µs | more than without, µs: median | least to greatest |")
    print("|---|---|---|---|")
    for name, times in found.items():
        more = [mine - theirs for mine, theirs in zip(times, reference, strict=True)]
        print(
            f"| {name} | {statistics.median(times):.0f} | {statistics.median(more):+.0f} |"
            f" {min(more):+.0f} to {max(more):+.0f} |"
        )


def parts(directory: Path, rounds: int) -> None:
    """The table of the policy's own work, without the call around it."""
    asked, endpoints = chat(FISH, {"max_tokens": 50}, None), Endpoints()
    breaker = Breaker(directory / "alone.json")
    counter = Counter(Limit(rpm=1e9, tpm=1e9, concurrency=1000), time.monotonic)

    def passing() -> None:
        passage = breaker.enter()
        assert passage is not None
        passage.end("well")

    def limited() -> None:
        wait(enter([counter], 100, 1.0, time.monotonic)).leave(used=50, sent=True, well=True)

    def planned(count: int, strategy: str) -> Callable[[], object]:
        policy = Fallback([Model(f"openai/gpt-4o-mini-{each}") for each in range(count)], strategy=strategy)
        return lambda: ordered(candidates_of(asked, policy.models, endpoints, directory), policy)  # type: ignore[arg-type]

    works: dict[str, Callable[[], object]] = {
        "through a closed breaker, shared by a file": passing,
        "through rpm, tpm and concurrency": limited,
        "1 candidate in order": planned(1, "priority"),
        "10 candidates in order": planned(10, "priority"),
        '10 candidates, "least_latency"': planned(10, "least_latency"),
    }
    print("\n| the policy's own work | µs |")
    print("|---|---|")
    for name, times in in_turn(works, rounds, LOOKS).items():
        print(f"| {name} | {statistics.median(times):.1f} |")


def dead(sim: Simulator, directory: Path, kind: str, rounds: int) -> None:
    """What a primary that is left alone adds to its spare's answer."""
    bridge = Bridge(ledger=directory / f"{kind}.db")
    primary, spare = models(sim, 2)
    status, failures = (401, 1) if kind == "dead key" else (503, 5)
    sim.script(*[Fault.status(status)] * failures, Reply())
    for _ in range(failures):
        with contextlib.suppress(ProviderError):
            bridge.complete(FISH, model=Fallback(primary, retries=0))
    works = {"spare": asking(bridge, Fallback([spare])), "both": asking(bridge, Fallback([primary, spare]))}
    sim.script(Reply())
    before = len(sim.requests)
    found = in_turn(works, rounds, SHORT)  # all within the 5 s for which it is left alone
    to_it = sum(seen.key == primary.api_key for seen in sim.requests[before:])
    more = [both - alone for both, alone in zip(found["both"], found["spare"], strict=True)]
    print(f"| {kind} | {statistics.median(more):+.0f} | {min(more):+.0f} to {max(more):+.0f} | {to_it} |")
    bridge.ledger.close()


def main(rounds: int) -> None:
    """Print the tables."""
    llmbridge.warm()
    with tempfile.TemporaryDirectory() as name, Simulator() as sim:
        print(f"Python {sys.version.split()[0]}, {rounds} rounds of {CALLS} calls, all in turn\n")
        calls(sim, rounds)
        parts(Path(name), rounds)
        print("\n| a dead primary before its spare | more, µs: median | least to greatest | requests to it |")
        print("|---|---|---|---|")
        for kind in ("dead key", "sick upstream"):
            dead(sim, Path(name), kind, rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
