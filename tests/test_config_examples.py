"""What the five predecessors were configured to do, as one file each, in whole calls."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest

import llmbridge
from llmbridge import Bridge, BudgetExceeded, RateLimited, config, default, tracing
from llmbridge.tracing.tracer import Own
from tests.collector import Collector
from tests.configuring import a_directory_of_its_own  # noqa: F401
from tests.conftest import Ask
from tests.simulator import Fault, Reply, Simulator
from tests.test_faults import FISH


HERE = Path(__file__).with_name("configs")
PICTURE = "data:image/png;base64,iVBORw0KGgo="
EXAMPLES = ["single_provider.toml", "three_providers.toml", "adapter.toml", "caps.toml", "router.toml"]


@pytest.fixture(autouse=True)
def environment(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in ("openai", "anthropic", "gemini", "ollama"):
        monkeypatch.setenv(f"{provider.upper()}_URL", sim.api_base(provider))
    for name in ("AGENT_KEY", "FIRST_KEY", "SECOND_KEY", "ROUTER_KEY", "GOOGLE_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, f"sk-{name.lower()}")
    monkeypatch.setenv("LLM_MODEL", "house-model")
    monkeypatch.setenv("LLM_BASE_URL", sim.api_base("openai"))
    monkeypatch.setenv("LLM_API_KEY", "sk-house")
    monkeypatch.setenv("LLM_HEADERS", '{"X-Team": "fish", "X-Org": "sea"}')
    for name, value in {"RPM": 600, "TEMPERATURE": 0.2, "MAX_TOKENS": 500, "TIMEOUT_S": 30, "RETRIES": 1}.items():
        monkeypatch.setenv(f"LLM_{name}", str(value))
    monkeypatch.setenv("LLM_CACHE_BYTES", "1_000_000")
    monkeypatch.setenv("JAEGER_URL", "http://127.0.0.1:9")


@pytest.fixture
def jaeger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as running:
        monkeypatch.setattr(Own, "tracer_provider", None)
        monkeypatch.setattr(Own, "look", None)
        monkeypatch.setenv("JAEGER_URL", running.endpoint)
        yield running
        tracing.follow(None)


def asked(sim: Simulator) -> list[str]:
    """By which formats."""
    known = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic", "/api/chat": "ollama"}
    return [known.get(seen.path, "gemini") for seen in sim.requests]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_as_the_schema_wants_it(name: str) -> None:
    text = (HERE / name).read_text()

    jsonschema.validate(tomllib.loads(text), config.schema())


def test_there_is_no_example_besides() -> None:
    assert sorted(path.name for path in HERE.iterdir()) == sorted(EXAMPLES)


def test_a_single_provider_has_defaults_for_every_call(ask: Ask, sim: Simulator) -> None:
    llmbridge.configure(HERE / "single_provider.toml")

    ask(FISH)

    (seen,) = sim.requests
    assert seen.body is not None
    assert (seen.key, seen.body["temperature"], seen.body["max_tokens"]) == ("sk-agent_key", 0.7, 1000)


def test_a_name_is_for_embeddings_too(sim: Simulator) -> None:
    llmbridge.configure(HERE / "single_provider.toml")

    llmbridge.embed("Name a fish.", model="vectors")

    assert (sim.requests[0].body or {})["model"] == "text-embedding-3-small"


def test_three_providers_are_retried_and_then_asked_in_their_order(ask: Ask, sim: Simulator) -> None:
    llmbridge.configure(HERE / "three_providers.toml")
    sim.script(*[Fault.status(503)] * 4, Reply(text="Trout."))

    reply = ask(FISH)

    assert reply.text == "Trout."
    assert asked(sim) == ["openai", "openai", "anthropic", "anthropic", "ollama"]
    assert ask(FISH).cached


def test_names_are_for_calls_for_lists_and_for_fallbacks_made_in_code(ask: Ask, sim: Simulator) -> None:
    llmbridge.configure(HERE / "three_providers.toml")

    ask(FISH, model="secondary", cache="off")
    sim.script(Fault.status(401), Reply(text="Trout."))
    ask(FISH, model=["primary", "local"], cache="off")
    ask(FISH, model=llmbridge.Fallback(["secondary", "primary"]), cache="off")
    ask(FISH, model="spread", cache="off")

    assert asked(sim) == ["anthropic", "openai", "ollama", "anthropic", "anthropic"]
    assert sim.requests[1].key == "sk-first_key"


def test_one_file_makes_several_bridges(sim: Simulator) -> None:
    batch = Bridge.from_config(HERE / "three_providers.toml", name="batch")
    usual = Bridge.from_config(HERE / "three_providers.toml")

    batch.complete(FISH)
    usual.complete(FISH)

    assert asked(sim) == ["ollama", "openai"]
    assert (batch.cache, usual.cache is None) == (None, False)


def test_an_adapter_is_chosen_by_the_environment(ask: Ask, sim: Simulator) -> None:
    llmbridge.configure(HERE / "adapter.toml")

    reply = ask(FISH, tags={"user": "alice", "tenant": "acme"})

    (seen,) = sim.requests
    assert seen.body is not None
    assert [seen.body[name] for name in ("model", "temperature", "max_tokens")] == ["house-model", 0.2, 500]
    assert (seen.headers["x-team"], seen.headers["x-org"], seen.key) == ("fish", "sea", "sk-house")
    assert reply.cost_usd == Decimal("0.000009")  # 9 tokens at $0.5 a million and 3 at $1.5
    (balance,) = default.default().ledger.balance()
    assert (balance.unit, balance.settled) == ("tokens", 12)


def test_a_limit_is_each_users_own(sim: Simulator) -> None:
    llmbridge.configure(HERE / "adapter.toml")
    for user in ("alice", "bob"):
        for question in ("Name a fish.", "Name a bird."):
            llmbridge.complete(question, tags={"user": user}, cache="off")

    with pytest.raises(RateLimited):
        llmbridge.complete("Name a tree.", tags={"user": "alice"}, deadline_s=0.5)
    assert len(sim.requests) == 4


def test_caps_of_a_day_and_a_month_hold_over_all_providers(ask: Ask, sim: Simulator, jaeger: Collector) -> None:
    llmbridge.configure(HERE / "caps.toml")
    sim.script(Fault.status(401), Reply(text="Trout."))
    bridge = default.default()

    reply = ask(FISH)
    bridge.ledger.set_limit("$10/day", "$0.000001", reason="enough for today")
    with pytest.raises(BudgetExceeded) as refused:
        ask(FISH, model=["gemini", "claude"], cache="off")

    assert asked(sim) == ["gemini", "anthropic"]
    spent = {balance.budget: balance.settled_usd for balance in bridge.ledger.balance()}
    assert spent == {"$10/day": reply.cost_usd, "$100/month": reply.cost_usd}
    assert (refused.value.budget, bridge.ledger.durability) == ("$10/day", "power")
    bridge.ledger.close()


def test_the_limits_of_a_provider_send_calls_to_the_next_one(ask: Ask, sim: Simulator, jaeger: Collector) -> None:
    llmbridge.configure(HERE / "caps.toml")

    ask("Name a fish.")  # 15 a minute are one at once
    ask("Name a bird.")

    assert asked(sim) == ["gemini", "anthropic"]


def test_a_configuration_traces_to_jaeger(sim: Simulator, jaeger: Collector) -> None:
    llmbridge.configure(HERE / "caps.toml")
    llmbridge.complete(FISH)
    tracing.stop()

    assert "chat gemini-2.5-flash" in [span.name for span in jaeger.spans]
    assert jaeger.services == {"enrichment"}
    assert not jaeger.metric_names


ROUTES = {
    "high_quality": ["anthropic/claude-sonnet-4-5", "openai/gpt-4o-mini"],
    "cost_optimized": ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"],
    "local_only": ["ollama_chat/llama3.2"],
    "local_first": ["ollama_chat/llama3.2", "openai/gpt-4o-mini"],
}


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_orders_its_models_by_its_strategy(route: str, ask: Ask, sim: Simulator) -> None:
    llmbridge.configure(HERE / "router.toml")

    reply = ask(FISH, model=route)

    assert list(default.default().plan(FISH, model=route).models) == ROUTES[route]
    assert reply.model == ROUTES[route][0]


def test_a_route_by_capability_leaves_out_who_cannot_see(ask: Ask, sim: Simulator) -> None:
    llmbridge.configure(HERE / "router.toml")
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}]

    assert ask(picture, model="vision").model == "openai/gpt-4o-mini"
    assert ask(FISH, model="vision").model == "openai/gpt-3.5-turbo"


def test_what_is_left_of_a_budget_decides_where_a_route_goes(ask: Ask, sim: Simulator) -> None:
    llmbridge.configure(HERE / "router.toml")
    ledger = default.default().ledger
    ask(FISH, model="large", tags={"workspace": "north"})
    assert {balance.budget for balance in ledger.balance()} == {"$20/month per workspace", "large models"}

    ledger.set_limit("$20/month per workspace", "$0.001", reason="a test")

    assert ask("Name a bird.", model="high_quality", tags={"workspace": "north"}).model == "openai/gpt-4o-mini"
