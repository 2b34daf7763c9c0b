"""Fixtures that make one test body true of all verbs: `ask`, `sim`, `records`, `run`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmbridge
from llmbridge import default, exchange, home, redaction, wire
from llmbridge.bridge import Bridge
from llmbridge.completion import Completion
from llmbridge.fallback import Fallback
from llmbridge.ledger import close_ledgers
from llmbridge.record import CallRecord
from llmbridge.redaction import is_credential
from tests.shell import command, openai_here  # noqa: F401
from tests.simulator import Simulator
from tests.trace_contract import violations
from tests.tracing_spans import Spans, spans  # noqa: F401


# Here and not in a fixture: test modules import LiteLLM for themselves, and it must have been loaded by us before, or
# it would fetch its price table.
llmbridge.warm()
gc.freeze()  # of LiteLLM a million objects stay: a test that collects what it dropped need not walk them, in 0.2 s
# Nor is everything else looked through in the middle of a test: what others left (tasks, streams) would end there, and
# CPython 3.11 raises SystemError where that happens inside its compiler. It is collected between modules.
gc.set_threshold(700, 10, 1000)

ONCE = Fallback(retries=0, breaker=False)
VERBS = ("complete", "acomplete", "stream", "astream")
Ask = Callable[..., Completion]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What runs for several providers runs by all four verbs for OpenAI and by one of each pair, which differ by an
    await, for the others; by all for all with LLMBRIDGE_LONG=1."""
    if os.environ.get("LLMBRIDGE_LONG"):
        return
    spared = [item for item in items if item.get_closest_marker("long") or _is_twin(getattr(item, "callspec", None))]
    config.hook.pytest_deselected(items=spared)
    items[:] = [item for item in items if item not in set(spared)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: half of the time a test waits, for a deadline or for another process."""
    return (os.cpu_count() or 1) + 1


def _is_twin(case: Any) -> bool:
    params = case.params if case is not None else {}
    providers = [params[name] for name in ("model", "provider") if isinstance(params.get(name), str)]
    return params.get("verb") in ("acomplete", "stream") and providers not in ([], ["openai"])


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """What a module's tests have dropped ends before the next one's begin."""
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def an_event_loop() -> Iterator[None]:
    """LiteLLM's blocking calls make an event loop in the main thread, which nobody closes, unless there is one."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.fixture(scope="session")
def run(an_event_loop: None) -> Iterator[Run]:
    """Run a coroutine to its end, on one event loop for the whole session: its HTTP client lives as long."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(coroutine, context=contextvars.copy_context())
        runner.run(_close_client())
    wire.client().close()


async def _close_client() -> None:
    await wire.async_client().aclose()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


@pytest.fixture(scope="session", autouse=True)
def no_real_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures of a whole module ask is recorded in no ledger of the developer's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBRIDGE_HOME", str(tmp_path_factory.mktemp("home")))
        yield
        close_ledgers()


@pytest.fixture(autouse=True)
def no_real_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can spend money: the environment's credentials are gone."""
    for name in list(os.environ):
        if is_credential(name) or name.endswith("_API_BASE") or name.startswith(("OPENAI_", "OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test goes by the configuration of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("LLMBRIDGE_") and name not in ("LLMBRIDGE_HOME", "LLMBRIDGE_LONG"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(home, "config_directory", lambda: tmp_path / "user")


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Every stream that a test began has been closed by its end."""
    before = set(exchange.under_way)
    yield
    exchange.close_left()
    assert set(exchange.under_way) <= before


@pytest.fixture(autouse=True)
def no_remembered_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test gave for a key is an ordinary word in the next."""
    monkeypatch.setattr(redaction, "_forms", {})


@pytest.fixture(autouse=True)
def fresh_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bridge]:
    """Each test has a default Bridge of its own, and a place for its ledger. What is asked twice is asked by tests that
    say so: it asks each candidate once, whatever is known of it."""
    monkeypatch.setenv("LLMBRIDGE_HOME", str(tmp_path / "home"))
    bridge = Bridge(fallback=ONCE)
    monkeypatch.setattr(default, "_bridge", bridge)
    yield bridge
    close_ledgers(tmp_path)


@pytest.fixture(autouse=True)
def every_span_keeps_the_contract(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test traces, and every call is, is as the conventions and our own names want it."""
    if request.module.__name__.startswith("tests.test_tracing"):  # which has wrong ones on purpose, and none
        yield
        return
    traced: Spans = request.getfixturevalue("spans")
    yield
    assert violations(traced()) == []
    assert not [each for each in caplog.get_records("call") if "Failed to detach context" in each.getMessage()]


@pytest.fixture
def bridge(fresh_default: Bridge) -> Bridge:
    """The one that a test asks; a module that needs another one has a `bridge` of its own."""
    return fresh_default


@pytest.fixture
def records(bridge: Bridge) -> list[CallRecord]:
    """Every record that the Bridge publishes in this test."""
    heard: list[CallRecord] = []
    bridge.subscribe(heard.append)
    return heard


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def sim(simulator: Simulator) -> Simulator:
    """A provider on loopback, with nothing scripted and nothing asked yet."""
    simulator.reset()
    return simulator


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(verb: str, run: Run) -> Ask:
    """Ask the default Bridge by each verb in turn and return the Completion; streams are read to their end."""
    return asking(verb, run)


def asking(verb: str, run: Run) -> Ask:
    """The `ask` of one verb."""

    def ask(messages: Any, **arguments: Any) -> Completion:
        bridge = default.default()
        if verb == "complete":
            return bridge.complete(messages, **arguments)
        if verb == "acomplete":
            answer: Completion = run(bridge.acomplete(messages, **arguments))
            return answer
        if verb == "stream":
            with bridge.stream(messages, **arguments) as chunks:
                for _ in chunks:
                    pass
            return chunks.completion
        streamed: Completion = run(_read(bridge, messages, arguments))
        return streamed

    return ask


async def _read(bridge: Bridge, messages: Any, arguments: dict[str, Any]) -> Completion:
    async with bridge.astream(messages, **arguments) as chunks:
        async for _ in chunks:
            pass
    return chunks.completion


def assert_charged(record: CallRecord) -> None:
    """What may have been billed is charged as uncertain, up to what was reserved for it; so says the ledger."""
    ledger = default.default().ledger
    (kept,) = ledger.records(id=record.id)
    for attempt, row in zip(record.attempts, kept.attempts, strict=True):
        assert (row.cost_usd, row.reserved_usd) == (attempt.cost_usd, attempt.reserved_usd)
        assert (row.outcome, row.uncertain) == (attempt.outcome, attempt.uncertain)
        if attempt.uncertain:
            assert attempt.cost_usd is not None
            assert attempt.reserved_usd is not None
            assert 0 < attempt.cost_usd <= attempt.reserved_usd or attempt.provider == "ollama_chat"  # which is free
    assert (record.uncertain, kept.cost_usd) == (True, record.cost_usd)
    assert {spent.of["call"]: spent.cost_usd for spent in ledger.spend(by="call")}[record.id] == record.cost_usd
    assert ledger.check() == []


@pytest.fixture(scope="session", autouse=True)
def litellm_quiet() -> None:
    """What LiteLLM says to stderr, a test has to ask for."""
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
