"""The catalogue: LiteLLM's table and the user's own models, to be searched without LiteLLM."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import litellm
import pytest

import llmbridge
from llmbridge import Bridge, Catalog, Model
from llmbridge.catalog import NAMES
from llmbridge.ledger import Asked, Charge, Need, Reservation
from llmbridge.provider import abilities
from llmbridge.provider.table import CAPABILITIES, LOCAL, bundled
from llmbridge.record import AttemptRecord, new_id


PRICED = {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": "1.5"}


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(clock=lambda: datetime(2026, 1, 1, tzinfo=UTC).timestamp())


def test_a_model_has_the_facts_of_the_table_under_the_name_that_is_asked_for(catalog: Catalog) -> None:
    (mini,) = [
        each for each in catalog.find(query="gpt-4o-mini", provider="openai") if each.model == "openai/gpt-4o-mini"
    ]
    fields = bundled()["gpt-4o-mini"]

    assert (mini.provider, mini.mode) == ("openai", "chat")
    assert (mini.context_window, mini.max_output_tokens) == (fields["max_input_tokens"], fields["max_output_tokens"])
    assert mini.input_usd_per_mtok == Decimal("0.15")
    assert mini.output_usd_per_mtok == Decimal("0.6")
    assert {"vision", "tools", "json_schema"} <= mini.capabilities
    assert "reasoning" not in mini.capabilities


def test_litellm_finds_every_listed_model_under_its_name_with_its_provider() -> None:
    strangers = {}
    for mode in ("chat", "embedding"):
        for each in Catalog().find(mode=mode, deprecated=True):
            _, provider, _, _ = litellm.get_llm_provider(each.model)
            if provider != each.provider:
                strangers[each.model] = provider

    # ai21's have another name at their new address; an Azure deployment that is called like a model of Mistral's
    assert {model for model, provider in strangers.items() if provider != "ai21_chat"} == {"azure/mistral-large-latest"}


def test_no_model_is_listed_twice(catalog: Catalog) -> None:
    names = [each.model for each in catalog.find(deprecated=True)]

    assert len(names) == len(set(names)) > 2_000


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_capability_is_the_flag_that_requests_are_held_against(capability: str, catalog: Catalog) -> None:
    flag, words = CAPABILITIES[capability]

    assert abilities.FLAGS[flag] == words
    able = {each.model for each in catalog.find(capability=capability, provider="openai", deprecated=True)}
    assert able == {
        f"openai/{key.removeprefix('openai/')}"
        for key, fields in bundled().items()
        if fields.get("litellm_provider") == "openai" and fields.get("mode") == "chat" and fields.get(flag)
    }


def test_long_context_goes_by_the_window_and_code_by_the_name(catalog: Catalog) -> None:
    assert min(each.context_window or 0 for each in catalog.find(capability="long_context")) >= 200_000
    coders = {each.model for each in catalog.find(capability="code")}
    assert {"mistral/codestral-latest", "mistral/devstral-latest", "xai/grok-code-fast-1"} <= coders
    assert not [each for each in coders if "encoder" in each or "decode" in each]


def test_all_filters_hold_at_once(catalog: Catalog) -> None:
    found = catalog.find(
        capability=["vision", "tools"],
        max_input_usd_per_mtok=0.3,
        min_context=100_000,
        provider="gemini",
        query="FLASH",
    )

    assert found
    for each in found:
        assert {"vision", "tools"} <= each.capabilities
        assert each.provider == "gemini"
        assert "flash" in each.model
        assert each.input_usd_per_mtok is not None
        assert each.input_usd_per_mtok <= Decimal("0.3")
        assert each.context_window is not None
        assert each.context_window >= 100_000


def test_embeddings_are_listed_by_themselves(catalog: Catalog) -> None:
    models = {each.model for each in catalog.find(mode="embedding")}

    assert "openai/text-embedding-3-small" in models
    assert "openai/gpt-4o-mini" not in models
    assert "openai/text-embedding-3-small" not in {each.model for each in catalog.find()}


def test_what_its_provider_has_taken_away_is_left_out_unless_asked_for() -> None:
    def at_day(*day: int) -> Catalog:
        return Catalog(clock=lambda: datetime(*day, tzinfo=UTC).timestamp())  # type: ignore[arg-type]

    gone = bundled()["deepseek/deepseek-chat"]["deprecation_date"]
    day = date.fromisoformat(gone)

    def listed(catalog: Catalog, **filters: Any) -> list[Any]:
        return [each for each in catalog.find(provider="deepseek", **filters) if each.model == "deepseek/deepseek-chat"]

    (before,) = listed(at_day(day.year, day.month, day.day - 1))
    assert before.deprecates_on == day
    assert listed(at_day(day.year, day.month, day.day)) == []
    assert listed(at_day(day.year, day.month, day.day), deprecated=True) == [before]


def test_the_cheapest_has_the_lowest_known_price_and_a_hosted_zero_is_none(catalog: Catalog) -> None:
    cheapest = catalog.cheapest(provider="openai", capability="vision")

    prices = [each.usd_per_mtok for each in catalog.find(provider="openai", capability="vision")]
    assert cheapest.usd_per_mtok == min(price for price in prices if price is not None)
    assert catalog.cheapest().provider in LOCAL
    (free,) = [each for each in catalog.find(query="gemini/gemma-4-31b-it") if each.input_usd_per_mtok == 0]
    assert free.usd_per_mtok is None


def test_the_largest_context_comes_first(catalog: Catalog) -> None:
    found = catalog.find(sort="context", provider="anthropic")

    assert catalog.largest_context(provider="anthropic") == found[0]
    assert [each.context_window for each in found] == sorted((each.context_window for each in found), reverse=True)  # type: ignore[type-var]


def test_own_models_are_added_and_their_prices_go_before_the_tables(catalog: Catalog) -> None:
    own = Bridge([Model("openai/gpt-4o-mini", **PRICED), Model("acme/x", **PRICED, max_output_tokens=99)]).models

    listed = {each.model: each for each in own.find()}
    assert listed["openai/gpt-4o-mini"].input_usd_per_mtok == Decimal("0.5")
    assert "vision" in listed["openai/gpt-4o-mini"].capabilities
    acme = listed["acme/x"]
    assert (acme.provider, acme.output_usd_per_mtok, acme.max_output_tokens) == ("acme", Decimal("1.5"), 99)
    assert (acme.context_window, acme.capabilities) == (None, frozenset())
    assert own.find(provider="acme") == [acme]
    assert len(listed) == len(Catalog().find()) + 1


def test_the_fastest_is_the_one_whose_answers_took_least_in_the_ledger() -> None:
    with pytest.raises(LookupError, match="no model with an answer in the ledger for provider='openai'"):
        llmbridge.models.fastest(provider="openai")

    with pytest.raises(LookupError, match="no model with an answer in the ledger"):
        Bridge(ledger=None).models.fastest()

    bridge = Bridge([Model("mock/slow"), Model("mock/quick")])
    seen = {"mock/slow": [0.4, 9.0, 0.5], "mock/quick": [0.2, 0.3, 30.0]}
    for model, times in seen.items():
        for seconds in times:
            answered(bridge, model, seconds, tokens=7)
    answered(bridge, "mock/slow", 0.0, tokens=0, outcome="failed")

    fastest = bridge.models.fastest(provider="mock")
    assert (fastest.model, fastest.latency_s) == ("mock/quick", 0.3)
    assert [each.latency_s for each in bridge.models.find(sort="latency")[:3]] == [0.3, 0.5, None]
    assert bridge.ledger.typical()["mock/slow"].answers == 3
    assert bridge.ledger.typical()["mock/slow"].output_tokens == 7


def answered(bridge: Bridge, model: str, seconds: float, tokens: int, outcome: Any = "answered") -> None:
    """Book an answer that took so long."""
    reservation = bridge.ledger.reserve(Asked(f"{new_id()}.1", model), Need(0, 0, 1))
    assert isinstance(reservation, Reservation)
    record = AttemptRecord(
        number=1,
        model=model,
        provider="mock",
        reason="initial",
        outcome=outcome,
        duration_s=seconds,
        output_tokens=tokens,
    )
    bridge.ledger.book(attempt=(reservation, record, Charge(0, 0, 1)))


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"capability": "visoin"}, "there is no capability 'visoin': did you mean 'vision'?"),
        ({"capability": ["tools", "pdfs"]}, "there is no capability 'pdfs': did you mean 'pdf'?"),
        ({"provider": "antropic"}, "there is no provider 'antropic': did you mean 'anthropic'?"),
        ({"mode": "chats"}, "there is no mode 'chats': did you mean 'chat'?"),
        ({"sort": "price"}, "there is no sort 'price': it is one of context, cost, latency, model"),
        ({"min_context": "8k"}, "min_context is a whole number of tokens above 0, not '8k'"),
        ({"max_input_usd_per_mtok": "cheap"}, "max_input_usd_per_mtok is US dollars per million tokens"),
        ({"max_input_usd_per_mtok": -1}, "max_input_usd_per_mtok is US dollars per million tokens"),
    ],
)
def test_a_wrong_question_is_answered_with_the_nearest_right_one(
    filters: dict[str, Any], message: str, catalog: Catalog
) -> None:
    with pytest.raises(ValueError) as raised:
        catalog.find(**filters)

    assert message in str(raised.value)
    assert set(CAPABILITIES) < set(NAMES)


def test_a_filter_that_there_is_not_lets_nothing_through(catalog: Catalog) -> None:
    for ask in (catalog.find, catalog.cheapest, catalog.largest_context):
        with pytest.raises(TypeError, match="there is no filter 'capabilty': did you mean 'capability'"):
            ask(capabilty="vision")  # type: ignore[call-arg]


def test_what_nobody_can_do_is_a_lookup_error_that_repeats_the_question(catalog: Catalog) -> None:
    with pytest.raises(LookupError, match="no model with a known price for provider='openai', min_context=90000000"):
        catalog.cheapest(provider="openai", min_context=90_000_000)


def test_the_packages_own_catalogue_is_that_of_the_default_bridge() -> None:
    llmbridge.configure(Bridge([Model("acme/x", **PRICED)]))

    assert [each.model for each in llmbridge.models.find(provider="acme")] == ["acme/x"]


def test_a_query_over_all_models_leaves_litellm_and_all_that_is_heavy_alone() -> None:
    script = """
import sys, llmbridge
found = llmbridge.models.find(capability="vision", sort="cost")
heavy = ("litellm", "pydantic", "httpx", "opentelemetry", "sqlite3")
print(len(found) > 100, [name for name in heavy if name in sys.modules])
"""

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()

    assert printed == "True []"
