"""LLMBRIDGE_*: a configuration without a file, and over one."""

from __future__ import annotations

from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, Fallback, Model, config, default
from llmbridge.config import OTHERS
from tests.configuring import Write, a_directory_of_its_own, write, wrong  # noqa: F401
from tests.conftest import Ask
from tests.simulator import Fault, Reply, Simulator
from tests.test_faults import FISH


FILE = """\
default = "careful"
[models.my-gpt]
model = "openai/gpt-4o-mini"
[fallback.careful]
models = ["my-gpt", "acme/x"]
[[budgets]]
limit = "$5/day"
[bridges.night]
deadline_s = 900
"""


def test_the_environment_alone_is_enough(
    ask: Ask,
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")
    monkeypatch.setenv("OPENAI_BASE_URL", sim.api_base("openai"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-two")
    monkeypatch.setenv("ANTHROPIC_API_BASE", sim.api_base("anthropic"))
    monkeypatch.setenv("LLMBRIDGE_MODEL", "openai/gpt-4o-mini")
    monkeypatch.setenv("LLMBRIDGE_FALLBACK", "anthropic/claude-haiku-4-5, ollama_chat/llama3.2")
    monkeypatch.setenv("LLMBRIDGE_BUDGET", "$1,000/day, 1000 requests/month")
    monkeypatch.setenv("LLMBRIDGE_CACHE_TTL_S", "20")
    monkeypatch.setattr(default, "_bridge", None)
    sim.script(Fault.status(401), Reply(text="Trout."))

    reply = ask(FISH)

    assert [seen.key for seen in sim.requests] == ["sk-one", "sk-two"]
    assert (reply.model, ask(FISH).cached) == ("anthropic/claude-haiku-4-5", True)
    bridge = default.default()
    assert {each.budget for each in bridge.ledger.balance()} == {"$1000/day", "1000 requests/month"}
    assert bridge.cache is not None
    assert bridge.cache.ttl_s == 20


def test_without_a_configuration_the_default_bridge_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "_bridge", None)

    bridge = default.default()

    assert bridge.cache is not None
    assert bridge.cache.is_default
    with pytest.raises(ValueError, match=r"no model: write model=.* or set LLMBRIDGE_MODEL"):
        llmbridge.complete(FISH)


SET: dict[str, dict[str, Any]] = {
    "LLMBRIDGE_MODELS_MY_GPT_API_BASE": {"models.my-gpt.api_base": "http://x"},
    "LLMBRIDGE_MODELS_NEW_ONE_MODEL": {"models.new_one.model": "http://x"},
    "LLMBRIDGE_FALLBACK_CAREFUL_STRATEGY": {"fallback.careful.strategy": "round_robin"},
    "LLMBRIDGE_FALLBACK_CAREFUL_MODELS": {"fallback.careful.models": "my-gpt, acme/y"},
    "LLMBRIDGE_BUDGETS_1_LIMIT": {"budgets.1.limit": "$6/day"},
    "LLMBRIDGE_LIMITS_1_RPM": {"limits.1.rpm": "6"},
    "LLMBRIDGE_DEADLINE_S": {"deadline_s": "6.5"},
    "LLMBRIDGE_PROPAGATE": {"propagate": "true"},
    "LLMBRIDGE_LEDGER_RETENTION_DAYS": {"ledger.retention_days": "90"},
    "LLMBRIDGE_TRACING_SERVICE_NAME": {"tracing.service_name": "shop"},
    "LLMBRIDGE_TRACING": {"tracing": "off"},
    "LLMBRIDGE_CACHE": {"cache": "off"},
    "LLMBRIDGE_BRIDGES_NIGHT_DEADLINE_S": {"bridges.night.deadline_s": "5"},
    "LLMBRIDGE_BRIDGES_NIGHT_DEFAULT": {"bridges.night.default": "my-gpt"},
    "LLMBRIDGE_BRIDGES_NIGHT_CACHE_TTL_S": {"bridges.night.cache.ttl_s": "5"},
}


@pytest.mark.parametrize("name", SET)
def test_a_value_is_set_by_a_variable_that_goes_before_the_file(
    name: str,
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ((key, value),) = SET[name].items()
    monkeypatch.setenv(name, value)

    found = config.load(write(FILE))

    (source,) = [each for each in found.sources if each.variable]
    assert (source.key, source.value, source.line, source.variable) == (key, value, None, name)


def test_text_becomes_what_is_wanted(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for name, value in {
        "MODELS_MY_GPT_RPM": "1_000",
        "MODELS_MY_GPT_CONCURRENCY": "adaptive",
        "MODELS_MY_GPT_PARAMS": '{"temperature": 0.5, "stop": ["."]}',
        "MODELS_MY_GPT_API_VERSION": "2024-10-21",
        "FALLBACK_CAREFUL_BREAKER": "no",
        "FALLBACK_CAREFUL_HEDGE_AFTER_S": "p95",
        "BUDGETS_1_ALERT_AT": "0.5, 0.9",
        "CACHE_NAMESPACE": "tenant, user",
        "CACHE_TTL_S": "null",
        "PROPAGATE": "true",
    }.items():
        monkeypatch.setenv(f"LLMBRIDGE_{name}", value)

    found = config.load(write(FILE))

    names = found.arguments["names"]
    assert names["my-gpt"] == Model(
        "openai/gpt-4o-mini",
        api_version="2024-10-21",
        rpm=1000,
        concurrency="adaptive",
        params={"temperature": 0.5, "stop": ["."]},
    )
    assert names["careful"] == Fallback([names["my-gpt"], "acme/x"], breaker=False, hedge_after_s="p95")
    assert (found.arguments["cache"].namespace, found.arguments["cache"].ttl_s) == (("tenant", "user"), None)
    assert found.arguments["propagate"] is True
    assert found.arguments["budgets"][0].alert_at == (0.5, 0.9)


def test_the_cache_is_switched_off_by_a_word(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("LLMBRIDGE_CACHE", "off")

    assert Bridge.from_config(write(FILE)).cache is None


def test_an_empty_variable_is_none(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for name in ("MODEL", "FALLBACK", "BUDGET", "CACHE_TTL_S"):
        monkeypatch.setenv(f"LLMBRIDGE_{name}", "")

    assert not any(each.variable for each in config.load(write(FILE)).sources)


WRONG = {
    ("LLMBRIDGE_BUGDET", "$5"): "LLMBRIDGE_BUGDET: means nothing; did you mean LLMBRIDGE_BUDGET?",
    ("LLMBRIDGE_DEFAULT", "x/y"): "LLMBRIDGE_DEFAULT: means nothing; did you mean LLMBRIDGE_MODEL?",
    ("LLMBRIDGE_CACHE_TTL", "5"): "LLMBRIDGE_CACHE_TTL: means nothing; did you mean LLMBRIDGE_CACHE_TTL_S?",
    ("LLMBRIDGE_MODELS_MY_GPT_RMP", "5"): "did you mean LLMBRIDGE_MODELS_MY_GPT_RPM?",
    ("LLMBRIDGE_BUDGETS_3_LIMIT", "$5"): "LLMBRIDGE_BUDGETS_3_LIMIT: means nothing",
    ("LLMBRIDGE_BRIDGES_DAY_DEADLINE_S", "5"): "LLMBRIDGE_BRIDGES_DAY_DEADLINE_S: means nothing",
    ("LLMBRIDGE_XYZZY", "5"): "LLMBRIDGE_XYZZY: means nothing; variables are called LLMBRIDGE_<TABLE>_<KEY>",
    ("LLMBRIDGE_CACHE_TTL_S", "soon"): "LLMBRIDGE_CACHE_TTL_S: cache.ttl_s: should be a valid number, not 'soon'",
    ("LLMBRIDGE_MODELS_OTHER_RPM", "5"): "LLMBRIDGE_MODELS_OTHER_RPM: models.other.model: is missing",
    ("LLMBRIDGE_MODEL", "carful"): "LLMBRIDGE_MODEL: default.1: there is no model 'carful'; did you mean 'careful'?",
    ("LLMBRIDGE_FALLBACK", "x/y"): "LLMBRIDGE_FALLBACK: default: is added to LLMBRIDGE_MODEL, which is not set",
    ("LLMBRIDGE_BUDGET", "$5/dya"): "LLMBRIDGE_BUDGET: budgets.2: 'dya' is no window",
    ("LLMBRIDGE_LEDGER", "off"): "LLMBRIDGE_LEDGER: ledger: budgets cannot be kept",
}


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_mistake_in_a_variable_is_said_by_its_name(
    name: str,
    value: str,
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)

    error = wrong(write(FILE))

    assert WRONG[name, value] in str(error)
    assert [each.variable for each in error.mistakes] == [name]


def test_a_variable_of_what_is_off_can_never_apply(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("LLMBRIDGE_CACHE_TTL_S", "5")

    assert "cache.ttl_s: can never apply: cache is False" in str(wrong(write("cache = false\n")))


def test_a_variable_that_the_file_names_is_its_own(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("LLMBRIDGE_HOUSE_KEY", "sk-house")

    assert config.load(write("[models.a]\nmodel = 'x/y'\napi_key = '${LLMBRIDGE_HOUSE_KEY}'\n"))


def test_the_packages_other_variables_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTHERS:
        monkeypatch.setenv(name, "" if name.endswith("CONFIG") else "x")

    assert config.load().path is None


def test_headers_in_a_variable_are_shown_to_nobody(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("LLMBRIDGE_MODELS_MY_GPT_EXTRA_HEADERS", '{"X-House": "swordfish99"}')
    monkeypatch.setenv("LLMBRIDGE_TRACING_HEADERS", '{"x-team": "swordfish98"}')
    path = write(FILE)
    assert "swordfish" not in str(config.load(path).sources)

    monkeypatch.setenv("LLMBRIDGE_MODELS_MY_GPT_EXTRA_HEADERS", "swordfish99")

    assert "swordfish" not in str(wrong(path))
