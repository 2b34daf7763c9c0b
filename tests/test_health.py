"""Health: what is looked at, what is found, and that looking costs nothing."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, Cache, Fallback, Limit, Model, default, home
from llmbridge.health import Health
from llmbridge.provider import listing
from llmbridge.record import CallRecord
from tests.commands import run
from tests.conftest import Run
from tests.simulator import Fault, Reply, Simulator


KEY = "qmX7ZtR2vLp9KwYb4HsN"


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key=KEY)


@pytest.fixture(autouse=True)
def nobodys_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(home, "config_directory", lambda: tmp_path / "nobody")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        yield taken.getsockname()[1]


def found(health: Health, name: str) -> tuple[bool | None, str]:
    (check,) = [each for each in health.checks if each.name == name]
    return check.ok, check.detail


def test_a_well_bridge_is_well_and_nothing_was_asked_that_costs(sim: Simulator, gpt: Model, tmp_path: Path) -> None:
    bridge = Bridge(gpt, budgets="$5/day", cache=Cache(tmp_path / "cache"), limits=Limit(rpm=500, per=("user",)))

    health = bridge.health()

    assert health.ok, str(health)
    assert found(health, "key openai/gpt-4o-mini") == (True, "given with the model")
    assert found(health, "model openai/gpt-4o-mini") == (True, "127.0.0.1 has it, and 3 others")
    assert found(health, "breakers") == (True, "none is open")
    assert found(health, "limits") == (True, "500 requests a minute per user")
    assert "durability 'second': no difference" in found(health, "ledger")[1]
    assert f"{tmp_path / 'cache'}, 0 answers" in found(health, "cache")[1]
    assert found(health, "collector") == (None, "none is configured")
    assert sqlite3.sqlite_version in found(health, "versions")[1]
    assert [(seen.method, seen.path) for seen in sim.requests] == [("GET", "/v1/models")]
    assert bridge.ledger.records() == []
    assert KEY not in str(health) + repr(health)


def test_the_coroutine_finds_the_same_and_lets_the_loop_go_on(sim: Simulator, gpt: Model, run: Run) -> None:
    async def both() -> tuple[Health, bool]:
        looking = asyncio.create_task(Bridge(gpt).ahealth())
        await asyncio.sleep(0)
        went_on = not looking.done()
        return await looking, went_on

    health, went_on = run(both())

    assert (health.ok, went_on) == (True, True), str(health)


@pytest.mark.parametrize(
    "model",
    ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "gemini/gemini-2.5-flash", "ollama_chat/llama3.2"],
)
def test_each_kind_of_provider_says_that_it_has_the_model_and_not_another(sim: Simulator, model: str) -> None:
    provider = model.partition("/")[0]
    where = {"api_base": sim.api_base(provider), "api_key": KEY}

    health = Bridge([Model(model, **where), Model(f"{provider}/trout-9", **where)]).health()

    assert found(health, f"model {model}") == (True, "127.0.0.1 has it, and 3 others")
    assert found(health, f"model {provider}/trout-9") == (False, "127.0.0.1 lists 4 models, and not this one")
    assert not health.ok
    assert {seen.method for seen in sim.requests} == {"GET"}
    assert {seen.key for seen in sim.requests} == {KEY}


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "ollama"])
def test_an_answer_that_leads_elsewhere_is_not_followed(sim: Simulator, provider: str) -> None:
    sim.script(Fault.redirect(f"{sim.url}/stolen"))
    model = Model(f"{provider}/gpt-4o-mini", api_base=sim.api_base(provider), api_key=KEY)

    ok, why = found(Bridge(model).health(), f"model {model.model}")

    assert (ok, len(sim.requests)) == (False, 1)
    assert "redirect" in why
    assert "stolen" not in {seen.path for seen in sim.requests}


def test_a_key_of_openai_goes_to_no_other_provider(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    Bridge(Model("ollama/llama3.2", api_base=sim.url)).health()
    Bridge(Model("lm_studio/qwen", api_base=f"{sim.url}/v1")).health()

    assert len(sim.requests) == 2
    assert KEY not in {seen.key for seen in sim.requests}


def test_the_variable_that_a_key_is_from_is_named_and_the_key_is_not(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", sim.api_base("openai"))

    health = Bridge(["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]).health()

    assert found(health, "key openai/gpt-4o-mini") == (True, "OPENAI_API_KEY")
    assert found(health, "model openai/gpt-4o-mini")[0] is True
    ok, why = found(health, "key anthropic/claude-haiku-4-5")
    assert ok is False
    assert "set ANTHROPIC_API_KEY" in why
    assert found(health, "model anthropic/claude-haiku-4-5") == (None, "it was not asked: see its key")
    assert KEY not in str(health)


def test_a_key_that_the_configuration_takes_from_a_variable_is_known_by_it(
    sim: Simulator, gpt: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_OWN_KEY", KEY)

    assert found(Bridge(gpt).health(), "key openai/gpt-4o-mini") == (True, "OUR_OWN_KEY")


def test_a_key_that_is_refused_is_told_without_it(sim: Simulator, gpt: Model) -> None:
    sim.script(Fault.echo_key())

    ok, why = found(Bridge(gpt).health(), "model openai/gpt-4o-mini")

    assert ok is False
    assert "refused the key (HTTP 401)" in why
    assert KEY not in why


@pytest.mark.parametrize("model", ["ollama/llama3.2", "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"])
def test_a_provider_that_is_down_is_told(model: str, closed_port: int) -> None:
    base = f"http://127.0.0.1:{closed_port}"

    ok, why = found(Bridge(Model(model, api_base=base, api_key="sk-test-key")).health(), f"model {model}")

    assert ok is False
    assert model in why


def test_a_provider_that_lists_nothing_is_neither_well_nor_wrong() -> None:
    health = Bridge("mock/echo").health()

    assert found(health, "model mock/echo")[0] is None
    assert health.ok


def test_a_provider_that_is_silent_is_waited_for_no_longer_than_said(sim: Simulator, gpt: Model) -> None:
    sim.script(Fault.hang())

    ok, why = found(Bridge(gpt).health(timeout_s=0.2), "model openai/gpt-4o-mini")

    assert ok is False
    assert "did not answer in time" in why


def test_a_check_that_never_ends_is_left_behind(gpt: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmbridge import health

    go_on = threading.Event()
    monkeypatch.setattr(health, "GRACE_S", 0.0)
    monkeypatch.setattr(health, "_limits", lambda patient: health.Found(go_on.wait(50), "late"))

    looked = Bridge("mock/echo").health(timeout_s=0.5)
    go_on.set()

    assert found(looked, "limits") == (False, "it was not over after 0.5 s")


def test_a_large_ledger_that_takes_longer_is_not_wrong_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmbridge import health

    go_on = threading.Event()
    monkeypatch.setattr(health, "GRACE_S", 0.0)
    monkeypatch.setattr(health, "_ledger", lambda patient: health.Found(go_on.wait(50), "late"))

    looked = Bridge("mock/echo").health(timeout_s=0.5)
    go_on.set()

    assert found(looked, "ledger")[0] is None
    assert "`llmbridge ledger check` takes all the time" in found(looked, "ledger")[1]


def test_asking_is_a_call_of_one_token_under_the_budgets_and_in_the_ledger(sim: Simulator, gpt: Model) -> None:
    bridge = Bridge([gpt, "mock/echo"], budgets="1 requests/day")
    models = ("model openai/gpt-4o-mini", "model mock/echo")

    first, second = bridge.health(ask=True), bridge.health(ask=True)

    assert {found(first, name)[0] for name in models} == {True, False}  # the budget has room for one
    assert not second.ok
    assert "budget '1 requests/day'" in found(second, models[0])[1]
    assert [seen.body["max_tokens"] for seen in sim.requests if seen.body] == [1] * len(sim.requests)
    assert len([record for record in bridge.ledger.records() if record.outcome == "answered"]) == 1


def test_an_embedder_is_asked_for_an_embedding(sim: Simulator) -> None:
    model = Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key=KEY)

    ok, said = found(Bridge(model).health(ask=True), f"model {model.model}")

    assert (ok, said.partition(" in ")[0]) == (True, "answered")
    assert [seen.path for seen in sim.requests] == ["/v1/embeddings"]


def test_an_open_breaker_is_wrong(sim: Simulator, gpt: Model) -> None:
    bridge = Bridge(gpt, fallback=Fallback(retries=0))
    sim.script(Fault.status(401))
    assert not bridge.health(ask=True).ok

    ok, why = found(bridge.health(), "breakers")

    assert ok is False
    assert why.startswith("openai/gpt-4o-mini: its breaker is open for")


def test_a_damaged_ledger_and_a_cache_that_does_not_work_are_found(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no directory")
    bridge = Bridge("mock/echo", ledger=tmp_path / "ledger.db", cache=Cache(tmp_path / "cache"))
    bridge.complete("fish", budget="$5/day")
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("UPDATE balance SET settled = settled + 7")
    db.close()

    health = bridge.health()

    assert found(health, "ledger")[0] is False
    assert "differences, such as: balance" in found(health, "ledger")[1]
    assert found(health, "cache")[0] is False


def test_a_ledger_that_cannot_be_opened_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("no ledger, but long enough to be taken for a file that somebody needs" * 20)

    ok, why = found(Bridge("mock/echo", ledger=tmp_path / "ledger.db").health(), "ledger")

    assert ok is False
    assert "ledger.db" in why


def test_without_a_model_it_says_how_to_name_one_and_which_keys_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", KEY)

    health = Bridge().health()

    assert health.ok
    assert found(health, "models")[1].endswith("or `default` in llmbridge.toml; there are keys in GROQ_API_KEY")


def test_a_bridge_without_ledger_and_cache_is_well() -> None:
    health = Bridge("mock/echo", ledger=None).health()

    assert (found(health, "ledger")[0], found(health, "cache")[0], health.ok) == (None, None, True)


def test_a_collector_is_knocked_at(sim: Simulator, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sim.url)
    there = found(Bridge("mock/echo").health(), "collector")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"127.0.0.1:{closed_port}")
    gone = found(Bridge("mock/echo").health(), "collector")

    assert there == (True, f"{sim.url.removeprefix('http://')} takes connections")
    assert gone[0] is False
    assert f"127.0.0.1:{closed_port} cannot be reached" in gone[1]


class TestDoctor:
    @pytest.fixture(autouse=True)
    def a_users_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(default, "_bridge", None)

    def test_it_says_that_all_is_well(self, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLMBRIDGE_MODEL", "openai/gpt-4o-mini")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", sim.api_base("openai"))

        done = run("doctor")

        assert (done.code, done.err) == (0, "")
        assert "ok     configuration             no file, the environment alone" in done.out
        assert "ok     key openai/gpt-4o-mini    OPENAI_API_KEY" in done.out
        assert KEY not in done.out

    def test_it_looks_at_the_file_that_is_found_and_at_every_model_in_it(
        self, sim: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("llmbridge.toml").write_text('default = "both"\n[fallback.both]\nmodels = ["mock/echo", "mock/fixed"]\n')

        done = run("doctor", "--json")

        checks = {each["name"]: each for each in done.json["checks"]}
        assert (done.code, done.json["ok"]) == (0, True)
        assert checks["configuration"]["detail"] == str(Path("llmbridge.toml").absolute())
        assert {"model mock/echo", "model mock/fixed"} <= checks.keys()
        assert set(checks["ledger"]) == {"name", "ok", "detail", "duration_s"}

    def test_a_wrong_configuration_is_one_of_its_findings(self, sim: Simulator) -> None:
        Path("llmbridge.toml").write_text('defualt = "mock/echo"\n')

        done = run("doctor", "--json")

        checks: dict[str, Any] = {each["name"]: each for each in done.json["checks"]}
        assert (done.code, checks["configuration"]["ok"]) == (1, False)
        assert "did you mean 'default'" in checks["configuration"]["detail"]
        assert checks["ledger"]["ok"] is True

    def test_it_asks_if_it_is_told_to(self, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLMBRIDGE_MODEL", "mock/echo")

        done = run("doctor", "--ask")

        assert done.code == 0
        assert "ok     model mock/echo  answered in" in done.out


def test_litellms_own_client_is_watched_once() -> None:
    client = listing.litellm().module_level_client.client

    before = len(client.event_hooks["response"])
    for _ in range(2):
        listing._watch(client)

    assert len(client.event_hooks["response"]) <= before + 1


def test_a_call_is_seen_no_better_after_a_list_than_before(sim: Simulator, records: list[CallRecord]) -> None:
    listing._watch(listing.litellm().module_level_client.client)
    sim.script(Reply(vectors=[(0.1, 0.2)]))

    llmbridge.embed("a trout", model=Model("ollama/nomic-embed-text", api_base=sim.url, api_key="sk-test-key"))

    assert (len(sim.requests), records[0].attempts[0].host) == (1, None)
