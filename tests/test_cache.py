"""The response cache through the public verbs: the same question is paid once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

import llmbridge
from llmbridge import Bridge, Cache, CacheMiss, CallRecord, Model, default
from llmbridge.call import flight
from tests.conftest import ONCE, Ask, Run, asking
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Bridge:
    """The default Bridge of this test, with a cache."""
    made = Bridge(
        cache=Cache(tmp_path / "cache", clock=clock, namespace=("tenant",), stale_if_error_s=60), fallback=ONCE
    )
    monkeypatch.setattr(default, "_bridge", made)
    return made


@pytest.fixture
def gpt(sim: Simulator, bridge: Bridge) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")


def test_the_same_question_is_sent_once_and_the_second_answer_costs_nothing(
    ask: Ask, sim: Simulator, gpt: Model, bridge: Bridge
) -> None:
    first, second = ask(FISH, model=gpt), ask(FISH, model=gpt)

    assert len(sim.requests) == 1
    assert (second.text, second.usage, second.cached) == (first.text, first.usage, True)
    assert (first.cached, second.cost_usd, second.saved_usd) == (False, Decimal(0), first.cost_usd)
    assert second.attempts == ()
    assert [each.cost_usd for each in bridge.ledger.spend()] == [first.cost_usd]
    assert [each.saved_usd for each in bridge.ledger.spend()] == [first.cost_usd]


def test_each_call_is_one_lookup(ask: Ask, gpt: Model, bridge: Bridge) -> None:
    for _ in range(3):
        ask(FISH, model=gpt)

    assert bridge.cache is not None
    stats = bridge.cache.stats()
    assert (stats.hits, stats.misses) == (2, 1)


@pytest.mark.parametrize("asked_by", ["complete", "acomplete", "stream", "astream"])
def test_every_verb_recalls_what_any_verb_remembered(
    ask: Ask, asked_by: str, run: Run, sim: Simulator, gpt: Model
) -> None:
    sim.script(Reply(text="Trout, of course."))
    first = asking(asked_by, run)(FISH, model=gpt)

    again = ask(FISH, model=gpt)

    assert (again.model_dump(), len(sim.requests)) == (first.model_dump(), 1)


def test_a_recalled_stream_has_the_chunks_that_it_came_in(sim: Simulator, gpt: Model, bridge: Bridge) -> None:
    sim.script(Reply(text="Trout, of course, and nothing else."))

    def pieces() -> list[str]:
        with bridge.stream(FISH, model=gpt) as chunks:
            return [chunk.text for chunk in chunks]

    first, second = pieces(), pieces()

    assert (second, len(sim.requests)) == (first, 1)
    assert len([piece for piece in first if piece]) > 1


def test_off_neither_serves_nor_keeps_and_refresh_only_keeps(ask: Ask, sim: Simulator, gpt: Model) -> None:
    ask(FISH, model=gpt, cache="off")
    ask(FISH, model=gpt)
    ask(FISH, model=gpt, cache="off")
    ask(FISH, model=gpt, cache="refresh")
    assert len(sim.requests) == 4

    assert ask(FISH, model=gpt).cached


def test_only_sends_nothing(ask: Ask, sim: Simulator, gpt: Model, records: list[CallRecord]) -> None:
    with pytest.raises(CacheMiss, match="no answer of openai/gpt-4o-mini is kept"):
        ask(FISH, model=gpt, cache="only")
    ask(FISH, model=gpt)

    assert ask(FISH, model=gpt, cache="only").cached
    assert (len(sim.requests), records[0].error_type) == (1, "CacheMiss")


def test_samples_are_answers_of_their_own(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(text="Trout."), Reply(text="Pike."))

    texts = [ask(FISH, model=gpt, sample=sample).text for sample in (0, 1, 0, 1)]

    assert texts == ["Trout.", "Pike.", "Trout.", "Pike."]


def test_an_answer_is_served_as_long_as_it_was_said_to_be(ask: Ask, sim: Simulator, gpt: Model, clock: Clock) -> None:
    ask(FISH, model=gpt, ttl_s=60)
    clock.now_s += 59
    assert ask(FISH, model=gpt).cached
    assert not ask(FISH, model=gpt, max_age_s=30, cache="on").cached
    clock.now_s += 10**7

    assert not ask(FISH, model=gpt).cached


def test_tenants_share_nothing(ask: Ask, sim: Simulator, gpt: Model) -> None:
    for tenant in ("a", "b"):
        assert not ask(FISH, model=gpt, tags={"tenant": tenant}).cached

    assert ask(FISH, model=gpt, tags={"tenant": "a", "user": "alice"}).cached


def test_the_first_candidate_with_a_kept_answer_gives_it(ask: Ask, sim: Simulator, gpt: Model) -> None:
    claude = Model("anthropic/claude-haiku-4-5", api_base=sim.api_base("anthropic"), api_key="sk-test-key")
    ask(FISH, model=claude)

    again = ask(FISH, model=[gpt, claude])

    assert (again.cached, again.model, again.record.model) == (True, claude.model, claude.model)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Reply(text="Trou", finish="length"), id="truncated"),
        pytest.param(Reply(text="", finish="content_filter"), id="filtered"),
        pytest.param(Reply(text=""), id="empty"),
    ],
)
def test_what_is_no_whole_answer_is_not_kept(ask: Ask, sim: Simulator, gpt: Model, answer: Reply) -> None:
    for _ in range(2):
        sim.script(answer)
        assert not ask(FISH, model=gpt).cached

    assert len(sim.requests) == 2


def test_an_error_is_not_kept(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Fault.status(500))
    with pytest.raises(llmbridge.ProviderUnavailable):
        ask(FISH, model=gpt)
    sim.script(Reply(text="Trout."))

    assert not ask(FISH, model=gpt).cached


def test_an_answer_that_echoes_the_key_is_not_kept(ask: Ask, sim: Simulator, gpt: Model, tmp_path: Path) -> None:
    sim.script(Reply(text="Your key is sk-test-key."))

    ask(FISH, model=gpt)

    assert not ask(FISH, model=gpt).cached
    assert not any(b"sk-test-key" in file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file())


def test_a_stream_that_was_left_is_not_kept(sim: Simulator, gpt: Model, bridge: Bridge) -> None:
    with bridge.stream(FISH, model=gpt) as chunks:
        next(chunks)

    assert not bridge.complete(FISH, model=gpt).cached


def test_an_expired_answer_is_served_when_every_candidate_failed(
    ask: Ask, sim: Simulator, gpt: Model, clock: Clock
) -> None:
    sim.script(Reply(text="Trout."))
    ask(FISH, model=gpt, ttl_s=60)
    clock.now_s += 100
    sim.script(Fault.status(503))

    again = ask(FISH, model=gpt)

    assert (again.text, again.cached, again.record.stale, len(again.attempts)) == ("Trout.", True, True, 1)


class Fish(BaseModel):
    name: str


def test_a_typed_answer_is_recalled_typed(ask: Ask, sim: Simulator, gpt: Model) -> None:
    sim.script(Reply(text='{"name": "Trout"}'))

    for _ in range(2):
        assert ask(FISH, model=gpt, response_model=Fish).parsed == Fish(name="Trout")
    assert len(sim.requests) == 1


@pytest.mark.parametrize("verb", ["embed", "aembed"])
def test_a_batch_sends_what_is_not_known_of_it(verb: str, run: Run, sim: Simulator, bridge: Bridge) -> None:
    model = Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")

    def embed(inputs: list[str]) -> llmbridge.Embedding:
        found: Any = getattr(bridge, verb)(inputs, model=model)
        return run(found) if verb == "aembed" else found

    first = embed(["trout", "pike"])
    second = embed(["eel", "pike", "trout", "carp"])
    third = embed(["carp", "eel"])

    assert [request.body["input"] for request in sim.requests] == [["trout", "pike"], ["eel", "carp"]]
    assert [second.vectors[2], second.vectors[1]] == first.vectors
    assert (third.vectors, third.cached, second.cached) == ([second.vectors[3], second.vectors[0]], True, False)
    assert [vector.index for vector in second.data] == [0, 1, 2, 3]


def test_equal_calls_at_the_same_time_are_one_request_in_threads_and_tasks(
    sim: Simulator, gpt: Model, bridge: Bridge, run: Run
) -> None:
    found: list[llmbridge.Completion] = []
    threads = [threading.Thread(target=lambda: found.append(bridge.complete(FISH, model=gpt))) for _ in range(20)]

    async def tasks() -> list[llmbridge.Completion]:
        return await asyncio.gather(*(bridge.acomplete(FISH, model=gpt) for _ in range(20)))

    for thread in threads:
        thread.start()
    found += run(tasks())
    for thread in threads:
        thread.join()

    assert (len(sim.requests), len({each.text for each in found}), len(found)) == (1, 1, 40)
    assert sum(each.cached for each in found) == 39


def test_a_leader_that_fails_hands_over_to_one_of_those_who_wait(
    sim: Simulator, gpt: Model, bridge: Bridge, run: Run
) -> None:
    sim.script(Fault.status(500), Reply(text="Trout."))

    async def tasks() -> list[Any]:
        return await asyncio.gather(*(bridge.acomplete(FISH, model=gpt) for _ in range(10)), return_exceptions=True)

    found = run(tasks())

    failed = [each for each in found if isinstance(each, llmbridge.ProviderUnavailable)]
    assert (len(sim.requests), len(failed), {each.text for each in found if each not in failed}) == (2, 1, {"Trout."})


WORKER = """
import sys, threading
import llmbridge
from llmbridge import Bridge, Model
llmbridge.warm()
bridge = Bridge(cache=sys.argv[1], ledger=sys.argv[1] + ".db")
model = Model("openai/gpt-4o-mini", api_base=sys.argv[2], api_key="sk-test-key")
found = []
threads = [
    threading.Thread(target=lambda: found.append(bridge.complete("Name a fish.", model=model)))
    for _ in range(int(sys.argv[3]))
]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(reply.cached for reply in found), len(found))
"""


def worker(cache: Path, api_base: str, calls: int) -> subprocess.Popen[str]:
    """A process that has everything loaded and waits to be told to make so many equal calls at once."""
    command = [sys.executable, "-c", WORKER, str(cache), api_base, str(calls)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_a_hundred_equal_calls_of_four_processes_are_one_request(sim: Simulator, tmp_path: Path) -> None:
    workers = [worker(tmp_path / "shared", sim.api_base("openai"), 25) for _ in range(4)]

    for each in workers:
        go(each)
    counts = [each.communicate(timeout=50)[0].split() for each in workers]

    assert len(sim.requests) == 1
    assert sorted(counts) == [["24", "25"], ["25", "25"], ["25", "25"], ["25", "25"]]


def test_a_killed_leader_is_followed_by_one_that_waits(
    sim: Simulator, gpt: Model, bridge: Bridge, tmp_path: Path
) -> None:
    sim.script(Fault.hang(), Reply(text="Trout."))
    leader = worker(tmp_path / "cache", sim.api_base("openai"), 1)
    go(leader)
    while not sim.requests:
        assert leader.poll() is None
        time.sleep(0.01)
    found: list[llmbridge.Completion] = []
    waiting = [threading.Thread(target=lambda: found.append(bridge.complete(FISH, model=gpt))) for _ in range(5)]
    for thread in waiting:
        thread.start()

    leader.kill()
    leader.communicate(timeout=10)
    for thread in waiting:
        thread.join(timeout=30)

    assert (len(sim.requests), {each.text for each in found}, len(found)) == (2, {"Trout."}, 5)
    assert sum(not each.cached for each in found) == 1


def test_who_waits_for_one_model_never_gets_the_answer_of_another(
    sim: Simulator, gpt: Model, bridge: Bridge, run: Run
) -> None:
    claude = Model("anthropic/claude-haiku-4-5", api_base=sim.api_base("anthropic"), api_key="sk-test-key")
    sim.script(Fault.status(500), Reply(text="Pike."), Reply(text="Trout."))

    async def tasks() -> list[llmbridge.Completion]:
        return await asyncio.gather(bridge.acomplete(FISH, model=[gpt, claude]), bridge.acomplete(FISH, model=gpt))

    leader, follower = run(tasks())

    assert leader.model == claude.model
    assert (follower.model, follower.cached) == (gpt.model, False)


def test_who_waits_never_gets_an_answer_that_must_not_be_kept(
    sim: Simulator, gpt: Model, bridge: Bridge, run: Run
) -> None:
    sim.script(Reply(text="Trou", finish="length"), Reply(text="Trout."))

    async def tasks() -> list[llmbridge.Completion]:
        return await asyncio.gather(*(bridge.acomplete(FISH, model=gpt) for _ in range(2)))

    assert sorted(reply.text for reply in run(tasks())) == ["Trou", "Trout."]


def test_what_was_sent_is_what_is_kept_whatever_becomes_of_the_callers_messages(
    sim: Simulator, gpt: Model, bridge: Bridge
) -> None:
    messages = [{"role": "user", "content": "Name a fish."}]
    sim.script(Reply(text="Trout."), Reply(text="Eagle."))

    with bridge.stream(messages, model=gpt) as chunks:
        next(chunks)
        messages[0]["content"] = "Name a bird."
        for _ in chunks:
            pass

    assert bridge.complete("Name a bird.", model=gpt).text == "Eagle."
    assert bridge.complete("Name a fish.", model=gpt).text == "Trout."


def test_a_downgraded_batch_has_the_vectors_of_one_model(sim: Simulator, bridge: Bridge) -> None:
    large, small = (
        Model(f"openai/text-embedding-3-{size}", api_base=sim.api_base("openai"), api_key="sk-test-key")
        for size in ("large", "small")
    )
    bridge.embed(["pike"], model=large)
    cap = llmbridge.Budget("$0.00003/day", on_exceed="downgrade")

    found = bridge.embed(["trout", "pike"], model=[large, small], budget=cap)

    assert ([vector.index for vector in found.data], found.record.model) == ([0, 1], small.model)
    assert sim.requests[-1].body["input"] == ["trout", "pike"]


def test_a_blocking_call_does_not_wait_for_a_task_of_its_own_thread(
    sim: Simulator, gpt: Model, bridge: Bridge, run: Run
) -> None:
    async def both() -> tuple[llmbridge.Completion, llmbridge.Completion]:
        leading = asyncio.ensure_future(bridge.acomplete(FISH, model=gpt))
        while not flight._under_way:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return bridge.complete(FISH, model=gpt, deadline_s=10), await leading

    assert [reply.text for reply in run(both())] == ["Trout.", "Trout."]


class Strict(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def is_known(cls, value: str) -> str:
        if value in rejected:
            raise ValueError("not a fish")
        return value


rejected: set[str] = set()


def test_a_kept_answer_that_no_longer_fits_its_class_is_asked_again(
    ask: Ask, sim: Simulator, gpt: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.script(Reply(text='{"name": "Trout"}'), Reply(text='{"name": "Pike"}'))
    ask(FISH, model=gpt, response_model=Strict)
    monkeypatch.setattr(sys.modules[__name__], "rejected", {"Trout"})

    again = ask(FISH, model=gpt, response_model=Strict)

    assert (again.parsed.name, again.cached) == ("Pike", False)


def test_a_cached_answer_in_a_fresh_process_imports_no_litellm_no_http_and_no_event_loop(
    sim: Simulator, gpt: Model, tmp_path: Path
) -> None:
    first = Bridge(cache=tmp_path / "other", ledger=tmp_path / "ledger.db")
    first.complete(FISH, model=gpt)
    first.ledger.close()
    assert first.cache is not None
    first.cache.close()
    script = f"""
import sys
from llmbridge import Bridge, Model
bridge = Bridge(cache={str(tmp_path / "other")!r}, ledger={str(tmp_path / "ledger.db")!r})
model = Model("openai/gpt-4o-mini", api_base={sim.api_base("openai")!r}, api_key="sk-test-key")
reply = bridge.complete({FISH!r}, model=model)
slow = ("litellm", "httpx", "openai", "http.client", "asyncio", "ssl")
print(reply.cached, reply.saved_usd > 0, [name for name in slow if name in sys.modules])
"""

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert printed.split() == ["True", "True", "[]"]


def test_the_default_cache_rests_inside_a_replay(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Bridge(cache=Cache())
    model = Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")
    made.complete(FISH, model=model)

    with llmbridge.replay(tmp_path / "fish.yaml", record="new") as cassette:
        replies = [made.complete(FISH, model=model) for _ in range(2)]

    assert ([reply.cached for reply in replies], len(cassette.played)) == ([False, False], 2)
    assert made.complete(FISH, model=model).cached


def bad(**arguments: Any) -> Callable[[Bridge], object]:
    return lambda bridge: bridge.complete(FISH, model="openai/gpt-4o-mini", **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad(cache="maybe"), "cache is one of 'on', 'off', 'refresh', 'only', not 'maybe'"),
        (bad(ttl_s=-1), "ttl_s is a number of seconds above 0"),
        (bad(max_age_s="old"), "max_age_s is a number of seconds above 0"),
        (bad(sample=-1), "sample is which of several answers"),
    ],
)
def test_a_wrong_wish_is_a_value_error(bridge: Bridge, call: Callable[[Bridge], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(bridge)


def test_only_without_a_cache_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs a cache"):
        bad(cache="only")(Bridge())
