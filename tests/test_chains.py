"""Ready chains: candidates for a purpose, from the table's facts and the keys at hand."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

import llmbridge
from llmbridge import Bridge, Catalog, Fallback, Model
from llmbridge.catalog.chains import CHAINS, Chain, _line
from llmbridge.provider.keys import KEYS
from tests.test_catalog import answered


FIVE = ("anthropic", "gemini", "mistral", "openai", "xai")
PURPOSES = tuple(name for name in CHAINS if name != "local_only")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in FIVE:
        monkeypatch.setenv(KEYS[provider][0], "sk-test-key")


def chain(name: str, catalog: Catalog | None = None) -> Chain:
    return (catalog or Catalog()).explain_chain(name)


def models(chain: Chain) -> list[str]:
    return [each.listing.model for each in chain.members]


def prices(chain: Chain) -> list[float]:
    return [float(each.listing.usd_per_mtok or 0) for each in chain.members]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("name", PURPOSES)
def test_a_chain_asks_one_model_of_each_provider_whose_key_is_at_hand(name: str) -> None:
    made = chain(name)

    providers = [each.listing.provider for each in made.members]
    assert len(providers) == len(set(providers)) >= 3
    assert set(providers) <= set(FIVE)
    assert all(each.why for each in made.members)
    assert isinstance(made.fallback(), Fallback)
    assert [each.model for each in made.fallback().models] == models(made)  # type: ignore[union-attr]


@pytest.mark.usefixtures("keys")
def test_every_candidate_can_do_what_its_chain_is_for() -> None:
    able = {name: [each.listing for each in chain(name).members] for name in PURPOSES}

    for name in ("high_quality", "cost_optimized", "balanced", "analysis"):
        assert all({"json_schema"} <= each.capabilities for each in able[name])
    assert all("reasoning" in each.capabilities for each in able["analysis"])
    assert all((each.context_window or 0) >= 200_000 for each in able["long_context"])
    assert "code" in able["code_generation"][0].capabilities


@pytest.mark.usefixtures("keys")
def test_price_stands_for_quality_the_dearest_first_and_the_cheapest_last() -> None:
    dear, middling, cheap, simple = (
        chain(name) for name in ("high_quality", "balanced", "cost_optimized", "simple_tasks")
    )

    assert prices(dear) == sorted(prices(dear), reverse=True)
    assert prices(cheap) == sorted(prices(cheap))
    of = [
        {each.listing.provider: float(each.listing.usd_per_mtok or 0) for each in made.members}
        for made in (dear, middling, cheap, simple)
    ]
    for provider in FIVE:
        assert of[0][provider] >= of[1][provider] >= of[2][provider] >= of[3][provider]
    assert [made.fallback().strategy for made in (dear, middling, cheap)] == ["priority", "balanced", "least_cost"]


@pytest.mark.usefixtures("keys")
def test_windows_grow_smaller_along_the_chain_for_long_contexts() -> None:
    windows = [each.listing.context_window or 0 for each in chain("long_context").members]

    assert windows == sorted(windows, reverse=True)


@pytest.mark.parametrize(
    ("model", "line", "version"),
    [
        ("anthropic/claude-opus-5-5", "claude-opus-#", ["5", "5"]),
        ("openai/gpt-4o-mini", "gpt-#o-mini", ["4"]),
        ("xai/grok-4.20-reasoning", "grok-#-reasoning", ["4.20"]),
        ("fireworks_ai/accounts/fireworks/models/glm-5p3", "glm-#", ["5.3"]),
        ("groq/openai/gpt-oss-120b", "gpt-oss-120b", []),
        ("cerebras/gemma-4-31b", "gemma-#-31b", ["4"]),
        ("deepseek/deepseek-v4-pro", "deepseek-v#-pro", ["4"]),
    ],
)
def test_a_models_line_and_its_version_are_read_off_its_name(model: str, line: str, version: list[str]) -> None:
    found, numbers = _line(model)

    assert (found, [str(each) for each in numbers]) == (line, version)


@pytest.mark.usefixtures("keys")
def test_what_is_superseded_a_preview_or_made_for_one_thing_is_no_candidate() -> None:
    everyone = {model for name in PURPOSES if name != "simple_tasks" for model in models(chain(name))}

    assert not [
        each for each in everyone if any(word in each for word in ("preview", "audio", "search", "ft:", "20250"))
    ]
    for model in everyone:
        line, version = _line(model)
        kin = [
            _line(each.model) for each in Catalog().find(provider=model.partition("/")[0], query=line.partition("#")[0])
        ]
        newer = [number for each, number in kin if each == line and number > version and len(number) == len(version)]
        assert not [each for each in newer if each[0] < 20], model  # above that it is no version


def test_for_whom_a_key_is_missing_is_said_with_the_name_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")

    made = chain("high_quality")

    assert [each.listing.provider for each in made.members] == ["openai"]
    missing = {each.model.partition("/")[0]: each.keys for each in made.missing}
    assert missing["anthropic"] == ("ANTHROPIC_API_KEY",)
    assert "openai" not in missing


def test_without_any_key_a_chain_says_which_ones_would_do() -> None:
    with pytest.raises(LookupError, match=r"'high_quality' has nobody to ask: set one of .*ANTHROPIC_API_KEY"):
        Catalog().chain("high_quality")
    with pytest.raises(LookupError, match=r"'local_only' has nobody to ask: name what runs here: Bridge\(models="):
        Catalog().chain("local_only")
    with pytest.raises(ValueError, match="there is no ready chain 'high_qualty': did you mean 'high_quality'"):
        Catalog().chain("high_qualty")


@pytest.mark.parametrize("provider", KEYS)
def test_litellm_takes_a_providers_key_from_each_of_these_variables(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model, *_) = [each.model for each in Catalog().find(provider=provider)]

    for name in KEYS[provider]:
        with monkeypatch.context() as patch:
            patch.setenv(name, "sk-of-the-test")
            key = litellm.get_llm_provider(model)[2]
            known = litellm.validate_environment(model)["keys_in_environment"]
        assert known or key == "sk-of-the-test"


# The user's own


def test_own_models_bring_their_keys_and_quality_goes_before_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-key")
    own = Bridge(
        [
            Model("openai/gpt-4o-mini", api_key="sk-own", quality=9),
            Model("acme/x", input_usd_per_mtok=1, output_usd_per_mtok=1, quality=3),
        ]
    ).models

    made = own.explain_chain("high_quality")

    assert models(made)[:2] == ["openai/gpt-4o-mini", "acme/x"]  # and of openai nothing else: that key is the Model's
    assert made.members[0].why.startswith("quality 9")
    assert made.members[2].listing.provider == "anthropic"
    assert made.fallback().models[0] is own.own[0]  # type: ignore[index]


def test_what_the_ledger_has_measured_goes_before_what_a_price_says(keys: None) -> None:
    bridge = Bridge()
    slow, quick = "openai/gpt-4o-mini", "openai/gpt-4o"
    answered(bridge, slow, 3.0, tokens=1)
    answered(bridge, quick, 0.7, tokens=1)

    made = bridge.models.explain_chain("fast_latency")

    assert models(made)[0] == quick
    assert made.members[0].why.startswith("0.70 s in the ledger")
    assert made.fallback().strategy == "least_latency"


def test_a_chain_is_what_model_takes(keys: None) -> None:
    plan = Bridge().plan("Name a fish.", model=llmbridge.models.chain("high_quality"), max_tokens=10)

    assert plan.models == tuple(models(chain("high_quality")))


def test_the_models_of_this_machine_are_all_in_the_chain_that_stays_here_in_their_order() -> None:
    own: list[Any] = [
        Model("openai/qwen", api_base="http://127.0.0.1:8000/v1"),
        "anthropic/claude-haiku-4-5",
        Model("ollama_chat/llama3.2"),
        Model("ollama_chat/far", api_base="http://10.0.0.7:11434"),
        Model("openai/qwen", api_base="http://127.0.0.1:8001/v1"),
    ]

    made = Bridge(own).models.explain_chain("local_only")

    assert models(made) == ["openai/qwen", "ollama_chat/llama3.2", "openai/qwen"]
    assert [each.listing.own for each in made.members] == [own[0], own[2], own[4]]
    assert made.fallback().local_only
