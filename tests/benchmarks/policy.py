"""What the fallback policy adds to a call, its own work alone, and what a dead primary costs that is left alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import llmbridge
from llmbridge import Bridge, Fallback, Limit, Model, ProviderError
from llmbridge.call.planning import candidates_of, ordered
from llmbridge.fallback import Endpoints
from llmbridge.fallback.breaker import Breaker
from llmbridge.fallback.limiter import Counter, enter
from llmbridge.request import chat
from llmbridge.waiting import wait
from tests.benchmarks.contender import Stage
from tests.benchmarks.paired import Table, in_turn, more, way
from tests.simulator import Fault, Reply, Simulator


ROUNDS = 25
CALLS, SHORT, LOOKS = 20, 3, 200  # in a round
FISH = "Name a fish."
WITHOUT, PLAIN = "breaker=False, retries=0", "Fallback()"


def asking(bridge: Bridge, policy: Fallback) -> Callable[[], object]:
    """One call."""
    return lambda: bridge.complete(FISH, model=policy, max_tokens=50)


def models(base: str, count: int) -> list[Model]:
    """So many candidates, all alive."""
    return [Model("openai/gpt-4o-mini", api_base=base, api_key=f"sk-key-{each}") for each in range(count)]


def calls(base: str) -> dict[str, Callable[[], object]]:
    """Whole calls, with no ledger and no cache, so that the differences are the policy's."""
    bare, plain = Bridge(ledger=None), Bridge(ledger=None)
    limited = Bridge(ledger=None, limits=Limit(rpm=1e9, tpm=1e9, concurrency=1000))
    one = models(base, 1)
    return {
        WITHOUT: asking(bare, Fallback(one, retries=0, breaker=False)),
        PLAIN: asking(plain, Fallback(one)),
        "with rpm, tpm and concurrency": asking(limited, Fallback(one)),
        "3 candidates": asking(plain, Fallback(models(base, 3))),
        '10 candidates, "balanced"': asking(plain, Fallback(models(base, 10), strategy="balanced")),
    }


def parts(directory: Path) -> dict[str, Callable[[], object]]:
    """The policy's own work, without the call around it."""
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

    return {
        "1 candidate in order": planned(1, "priority"),
        "10 candidates in order": planned(10, "priority"),
        '10 candidates, "least_latency"': planned(10, "least_latency"),
        "through a closed breaker, shared by a file": passing,
        "through rpm, tpm and concurrency": limited,
    }


def dead(sim: Simulator, directory: Path, kind: str, rounds: int) -> Table:
    """What a primary that is left alone adds to its spare's answer."""
    bridge = Bridge(ledger=directory / f"{kind}.db")
    primary, spare = models(sim.api_base("openai"), 2)
    status, failures = (401, 1) if kind == "dead key" else (503, 5)
    sim.script(*[Fault.status(status)] * failures, Reply())
    for _ in range(failures):
        with contextlib.suppress(ProviderError):
            bridge.complete(FISH, model=Fallback(primary, retries=0))
    works = {"the spare": Fallback([spare]), "the dead primary, then the spare": Fallback([primary, spare])}
    sim.script(Reply())
    before = len(sim.requests)
    # all within the 5 s for which it is left alone
    found = in_turn({name: way(asking(bridge, policy), SHORT) for name, policy in works.items()}, rounds)
    to_it = sum(seen.key == primary.api_key for seen in sim.requests[before:])
    bridge.ledger.close()
    return Table(f"a {kind}", "ms", found, "the spare", f"{to_it} requests went to the dead primary.")


def tables(stage: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """Whole calls, the policy's parts, and the dead."""
    llmbridge.warm()
    found = in_turn({each: way(work, CALLS) for each, work in calls(stage.server.api_base).items()}, rounds)
    yield Table("a call without faults", "ms", found, WITHOUT, more(found, PLAIN, WITHOUT))
    found = in_turn({each: way(work, LOOKS) for each, work in parts(stage.directory).items()}, rounds)
    yield Table("the policy's own work", "µs", found, "1 candidate in order")
    with Simulator() as sim:
        for kind in ("dead key", "sick upstream"):
            yield dead(sim, stage.directory, kind, rounds)
