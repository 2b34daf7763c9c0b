"""A configuration that is read again while calls are under way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import llmbridge
from llmbridge import Bridge, CallRecord, ConfigError, RateLimited, default, tracing
from llmbridge.tracing import setup
from llmbridge.tracing.tracer import Own
from tests.configuring import Write, a_directory_of_its_own, write  # noqa: F401
from tests.conftest import Ask, Run
from tests.pauses import Pauses, pauses  # noqa: F401
from tests.simulator import Fault, Reply, Simulator
from tests.test_faults import FISH


def text(sim: Simulator, model: str, more: str = "") -> str:
    return f"""\
default = "main"
{more}
[models.main]
model = "openai/{model}"
api_base = "{sim.api_base("openai")}"
api_key = "sk-test-key"
[ledger]
path = "{model}.db"
"""


def models(sim: Simulator) -> list[str]:
    return [(seen.body or {})["model"] for seen in sim.requests]


def outcomes(path: str) -> list[tuple[str, str]]:
    ledger = llmbridge.Ledger(path)
    found = [(each.model, each.outcome) for record in ledger.records() for each in record.attempts]
    assert ledger.check() == []
    ledger.close()
    return found


def test_a_call_under_way_ends_on_the_bridge_that_it_began_on(
    ask: Ask,
    sim: Simulator,
    write: Write,  # noqa: F811
    pauses: Pauses,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llmbridge.configure(write(text(sim, "gpt-4o-mini")))
    sim.script(Fault.status(503), Reply(text="Trout."))
    spent = pauses.spent

    def reload(seconds: float) -> bool:  # between the call's two attempts
        if models(sim) == ["gpt-4o-mini"]:
            llmbridge.configure(write(text(sim, "gpt-4o")))
        return spent(seconds)

    monkeypatch.setattr(pauses, "spent", reload)

    assert ask(FISH).text == "Trout."
    assert models(sim) == ["gpt-4o-mini", "gpt-4o-mini"]
    ask(FISH)

    assert models(sim)[2:] == ["gpt-4o"]
    assert outcomes("gpt-4o-mini.db") == [("openai/gpt-4o-mini", "failed"), ("openai/gpt-4o-mini", "answered")]
    assert outcomes("gpt-4o.db") == [("openai/gpt-4o", "answered")]


def test_a_stream_under_way_is_read_to_its_end(sim: Simulator, write: Write, run: Run) -> None:  # noqa: F811
    sim.script(Reply(pieces=["Tr", "ou", "t."]))
    llmbridge.configure(write(text(sim, "gpt-4o-mini")))

    with llmbridge.stream(FISH, cache="off") as chunks:
        first = next(chunks).text
        llmbridge.configure(write(text(sim, "gpt-4o")))
        rest = [chunk.text for chunk in chunks]

    async def read() -> str:
        async with llmbridge.astream(FISH, cache="off") as pieces:
            begun = (await anext(pieces)).text
            await asyncio.to_thread(llmbridge.configure, write(text(sim, "gpt-4")))
            return begun + "".join([chunk.text async for chunk in pieces])

    assert first + "".join(rest) == run(read()) == "Trout."
    assert models(sim) == ["gpt-4o-mini", "gpt-4o"]
    assert outcomes("gpt-4o-mini.db") == [("openai/gpt-4o-mini", "answered")]
    assert outcomes("gpt-4o.db") == [("openai/gpt-4o", "answered")]


def test_a_broken_file_leaves_the_old_one_in_force(ask: Ask, sim: Simulator, write: Write) -> None:  # noqa: F811
    path = write(text(sim, "gpt-4o-mini"))
    llmbridge.configure(path)
    before = default.default()
    path.write_text(path.read_text() + "rpm = 5\nledger = {\n")

    with pytest.raises(ConfigError):
        llmbridge.configure(path)

    ask(FISH)
    assert (models(sim), default.default()) == (["gpt-4o-mini"], before)


def test_what_is_known_of_an_endpoint_and_who_listens_is_kept(
    ask: Ask,
    sim: Simulator,
    write: Write,  # noqa: F811
    records: list[CallRecord],
) -> None:
    limits = "limits = [{rpm = 1, per = ['user']}]"
    llmbridge.configure(write(text(sim, "gpt-4o-mini", limits)))
    ask(FISH, tags={"user": "alice"})
    default.default().ledger.close()
    before = default.default()._endpoints

    llmbridge.configure(write(text(sim, "gpt-4o-mini", f"deadline_s = 5\n{limits}")))

    with pytest.raises(RateLimited):
        ask("Name a bird.", tags={"user": "alice"})
    ask("Name a bird.", tags={"user": "bob"})
    assert default.default()._endpoints is before
    assert [record.outcome for record in records] == ["answered", "failed", "answered"]


def test_without_a_path_the_file_that_is_found_is_read_again(sim: Simulator, write: Write) -> None:  # noqa: F811
    for model in ("gpt-4o-mini", "gpt-4o"):
        write(text(sim, model))
        llmbridge.configure()
        llmbridge.complete(FISH)

    assert models(sim) == ["gpt-4o-mini", "gpt-4o"]


def test_a_bridge_of_ones_own_replaces_the_configured_one(sim: Simulator, write: Write) -> None:  # noqa: F811
    llmbridge.configure(write(text(sim, "gpt-4o-mini")))
    own = Bridge()

    llmbridge.configure(own)

    assert default.default() is own


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the tracing was started with."""
    seen: list[object] = []
    monkeypatch.setattr(
        setup, "_start", lambda options, service, flush_s, signals: seen.append((options.endpoint, service))
    )
    monkeypatch.setattr(setup, "_followed", None)
    monkeypatch.setattr(Own, "look", None)
    return seen


def test_tracing_is_started_anew_only_when_it_says_something_else(
    sim: Simulator,
    write: Write,  # noqa: F811
    started: list[object],
) -> None:
    path = write(text(sim, "gpt-4o-mini") + '[tracing]\nendpoint = "http://a:4318"\nservice_name = "shop"\n')
    Bridge.from_config(path)
    assert started == []

    llmbridge.configure(path)
    llmbridge.configure(path)
    path.write_text(path.read_text().replace("//a", "//b"))
    llmbridge.configure(path)

    assert started == [("http://a:4318", "shop"), ("http://b:4318", "shop")]


def test_an_applications_own_tracing_is_left_alone(
    sim: Simulator,
    write: Write,  # noqa: F811
    started: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)

    llmbridge.configure(write(text(sim, "gpt-4o-mini") + "[tracing]\nendpoint = 'http://a:4318'\n"))

    assert started == []


def test_tracing_that_is_off_is_off_whatever_the_environment_says(
    sim: Simulator,
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(Own, "look", setup.from_environment)
    monkeypatch.setattr(setup, "_followed", None)

    llmbridge.configure(write("tracing = false\n" + text(sim, "gpt-4o-mini")))
    llmbridge.complete(FISH)

    assert Own.tracer_provider is None
    tracing.follow(None)


def test_a_default_that_is_broken_says_so_at_each_call(
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path: Path = write("dfault = 5\n")
    monkeypatch.setattr(default, "_bridge", None)

    for _ in range(2):
        with pytest.raises(ConfigError, match="did you mean 'default'"):
            llmbridge.complete(FISH, model="mock/echo")

    path.write_text("default = 'mock/echo'\n")
    assert llmbridge.complete(FISH).text
