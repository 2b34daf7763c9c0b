"""What an answer costs, against prices written here by hand."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal
from typing import Any

import pytest

from llmbridge import Model, Usage
from llmbridge.provider import cost, litellm
from llmbridge.provider.pricing import source
from llmbridge.provider.rates import Entry, entry_of
from llmbridge.provider.table import PLAIN, bundled, find
from llmbridge.request import Request, chat, embeddings


IN, OUT = "input_cost_per_token", "output_cost_per_token"
READ, WRITE = "cache_read_input_token_cost", "cache_creation_input_token_cost"
HOUR, THOUGHT = "cache_creation_input_token_cost_above_1hr", "output_cost_per_reasoning_token"
K200, K272, K512, K100 = (f"_above_{limit}k_tokens" for limit in (200, 272, 512, 100))
FAST, SLOW = "_priority", "_flex"
FREE = "gemini/gemma-3-27b-it"
Bill = list[tuple[int, str, str]]


def asked(model: str | Model, text: str = "Name a fish.", **params: Any) -> Request:
    own = model if isinstance(model, Model) else Model(model)
    request = embeddings(text, params) if "embed" in own.model or "voyage" in own.model else chat(text, params, None)
    return request.for_model(own)


def used(prompt: Any, completion: Any, heard: Any = None, spoken: Any = None, **more: Any) -> Usage:
    return Usage.model_construct(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        **Usage(prompt_tokens_details=heard, completion_tokens_details=spoken).model_dump(
            include={"prompt_tokens_details", "completion_tokens_details"}
        ),
        **more,
    )


def five(model: str, into: str, out: str, read: str) -> list[tuple[str, Usage, str | None, Bill]]:
    """A plain answer, one with a cached half, and one that thought: reasoning costs what other output does."""
    return [
        (model, used(1234, 567), None, [(1234, into, IN), (567, out, OUT)]),
        (
            model,
            used(1001, 13, {"cached_tokens": 500}),
            None,
            [(501, into, IN), (500, read, READ), (13, out, OUT)],
        ),
        (model, used(7, 900, None, {"reasoning_tokens": 890}), None, [(7, into, IN), (900, out, OUT)]),
    ]


# model, usage, the answer's tier, and the bill: tokens, US dollars a million of them, the field in LiteLLM's table
CASES: list[tuple[str, Usage, str | None, Bill]] = [
    *five("openai/gpt-4o", "2.5", "10", "1.25"),
    *five("openai/gpt-4o-mini", "0.15", "0.6", "0.075"),
    *five("openai/gpt-5-mini", "0.25", "2", "0.025"),
    *five("openai/o3", "2", "8", "0.5"),
    *five("anthropic/claude-sonnet-4-5", "3", "15", "0.3"),
    *five("gemini/gemini-2.5-pro", "1.25", "10", "0.125"),
    *five("deepseek/deepseek-reasoner", "0.28", "0.42", "0.028"),
    *five("groq/openai/gpt-oss-120b", "0.15", "0.6", "0.075"),
    *five("mistral/mistral-large-latest", "0.5", "1.5", "0.05"),
    *five("xai/grok-4.3", "1.25", "2.5", "0.2"),
    *five("bedrock/amazon.nova-lite-v1:0", "0.06", "0.24", "0.015"),
    *five("azure/gpt-4o", "2.5", "10", "1.25"),
    ("cohere_chat/command-r-plus-08-2024", used(10, 3), None, [(10, "2.5", IN), (3, "10", OUT)]),
    ("vertex_ai/openai/gpt-oss-120b-maas", used(1000, 500), None, [(1000, "0.09", IN), (500, "0.36", OUT)]),
    ("together_ai/openai/gpt-oss-120b", used(1, 1), None, [(1, "0.15", IN), (1, "0.6", OUT)]),
    # caches: written for five minutes, for an hour, both, and a split that does not say all
    (
        "anthropic/claude-haiku-4-5",
        used(1000, 10, {"cached_tokens": 300, "cache_creation_tokens": 600}),
        None,
        [(100, "1", IN), (300, "0.1", READ), (600, "1.25", WRITE), (10, "5", OUT)],
    ),
    (
        "anthropic/claude-haiku-4-5",
        used(
            1000,
            10,
            {
                "cache_creation_tokens": 900,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 700},
            },
        ),
        None,
        [(100, "1", IN), (200, "1.25", WRITE), (700, "2", HOUR), (10, "5", OUT)],
    ),
    (
        "anthropic/claude-opus-4-5",
        used(50, 1, {"cache_creation_tokens": 50, "cache_creation_token_details": {"ephemeral_1h_input_tokens": 20}}),
        None,
        [(30, "6.25", WRITE), (20, "10", HOUR), (1, "25", OUT)],
    ),
    (
        "openai/gpt-6-astra",
        used(5000, 10, {"cache_write_tokens": 4000, "cached_tokens": 500}),
        None,
        [(500, "10", IN), (4000, "12.5", WRITE), (500, "1", READ), (10, "50", OUT)],
    ),
    # long prompts
    ("gemini/gemini-2.5-pro", used(200_000, 100), None, [(200_000, "1.25", IN), (100, "10", OUT)]),
    ("gemini/gemini-2.5-pro", used(200_001, 100), None, [(200_001, "2.5", IN + K200), (100, "15", OUT + K200)]),
    (
        "gemini/gemini-2.5-pro",
        used(300_000, 100, {"cached_tokens": 200_000}),
        None,
        [(100_000, "2.5", IN + K200), (200_000, "0.25", READ + K200), (100, "15", OUT + K200)],
    ),
    ("openai/gpt-5.4", used(272_001, 10), None, [(272_001, "5", IN + K272), (10, "22.5", OUT + K272)]),
    (
        "openai/gpt-6-astra",
        used(300_000, 7, {"cache_write_tokens": 300_000}),
        None,
        [(300_000, "25", WRITE + K272), (7, "75", OUT + K272)],
    ),
    ("xai/grok-4.3", used(200_000, 9), None, [(200_000, "2.5", IN + K200), (9, "5", OUT + K200)]),
    ("minimax/MiniMax-M3", used(512_001, 9), None, [(512_001, "0.6", IN + K512), (9, "2.4", OUT + K512)]),
    (
        "anthropic/claude-haiku-5-5",
        used(150_000, 9, {"cached_tokens": 149_000}),
        None,
        [(1000, "0.5", IN + K100), (149_000, "0.05", READ + K100), (9, "2.5", OUT + K100)],
    ),
    # tiers of service
    ("openai/gpt-5", used(1000, 50), "flex", [(1000, "0.625", IN + SLOW), (50, "5", OUT + SLOW)]),
    ("openai/gpt-5", used(1000, 50), "priority", [(1000, "2.5", IN + FAST), (50, "20", OUT + FAST)]),
    ("openai/gpt-5", used(1000, 50), "default", [(1000, "1.25", IN), (50, "10", OUT)]),
    ("openai/gpt-5", used(1000, 50), "scale", [(1000, "1.25", IN), (50, "10", OUT)]),
    (
        "openai/gpt-4o-mini",
        used(1000, 50, {"cached_tokens": 900}),
        "priority",
        [(100, "0.25", IN + FAST), (900, "0.125", READ + FAST), (50, "1", OUT + FAST)],
    ),
    (
        "openai/gpt-6-astra",
        used(300_000, 7),
        "priority",
        [(300_000, "40", IN + K272 + FAST), (7, "150", OUT + K272 + FAST)],
    ),
    ("gemini/gemini-2.5-pro", used(10, 7), "priority", [(10, "2.25", IN + FAST), (7, "18", OUT + FAST)]),
    # sound and images
    (
        "openai/gpt-audio",
        used(300, 90, {"audio_tokens": 200}, {"audio_tokens": 60}),
        None,
        [
            (100, "2.5", IN),
            (200, "32", "input_cost_per_audio_token"),
            (30, "10", OUT),
            (60, "64", "output_cost_per_audio_token"),
        ],
    ),
    (
        "gemini/gemini-2.5-flash",
        used(300, 90, {"audio_tokens": 200}, {"reasoning_tokens": 60}),
        None,
        [(100, "0.3", IN), (200, "1", "input_cost_per_audio_token"), (30, "2.5", OUT), (60, "2.5", THOUGHT)],
    ),
    ("openai/gpt-4o-mini", used(9000, 2, {"image_tokens": 8500}), None, [(9000, "0.15", IN), (2, "0.6", OUT)]),
    (
        "dashscope/qwen-plus-2025-04-28",
        used(100, 90, None, {"reasoning_tokens": 60}),
        None,
        [(100, "0.4", IN), (30, "1.2", OUT), (60, "4", THOUGHT)],
    ),
    # where a count is said twice, LiteLLM takes the one on top, also if it is 0
    ("openai/gpt-4o-mini", used(9, 0, {"cached_tokens": 4}, cache_read_input_tokens=0), None, [(9, "0.15", IN)]),
    # a text count that leaves something out does not lower the bill
    (
        "gemini/gemini-2.5-pro",
        used(100, 90, {"text_tokens": 1}, {"text_tokens": 1}),
        None,
        [(100, "1.25", IN), (90, "10", OUT)],
    ),
    # embeddings
    ("openai/text-embedding-3-small", used(1001, 0), None, [(1001, "0.02", IN)]),
    ("gemini/gemini-embedding-001", used(1001, 0), None, [(1001, "0.15", IN)]),
    ("voyage/voyage-3.5", used(7, 0), None, [(7, "0.06", IN)]),
    ("cohere/embed-v4.0", used(7, 0), None, [(7, "0.12", IN)]),
]


@pytest.mark.parametrize(
    ("model", "usage", "tier", "bill"), CASES, ids=lambda value: value if "/" in str(value)[:40] else ""
)
def test_an_answer_costs_its_tokens_at_the_prices_of_the_table(
    model: str, usage: Usage, tier: str | None, bill: Bill
) -> None:
    entry = entry_of(asked(model))
    assert entry is not None
    for _, price, name in bill:
        if name in entry.fields:
            today = Decimal(str(entry.fields[name])) * 10**6
            assert today == Decimal(price), f"the price map changed: {entry.key} {name} is {today} a million"
    exact = sum((tokens * Decimal(price) for tokens, price, _ in bill), Decimal(0)) / 10**6

    known = cost(asked(model), usage, service_tier=tier)

    assert known is not None
    assert (known.usd, known.source) == (exact.quantize(Decimal("1e-9"), ROUND_CEILING), source())


@pytest.mark.parametrize(("tokens", "price"), [(256_000, "0.05"), (256_001, "0.25")])
def test_a_tier_of_the_prompts_length_prices_all_of_it(tokens: int, price: str) -> None:
    known = cost(asked("dashscope/qwen-flash"), used(tokens, 0))

    assert known is not None
    assert known.usd == tokens * Decimal(price) / 10**6


@pytest.mark.parametrize(
    "model", ["acme/x", "openai/no-such-model", "anthropic/claude-sonnet-99", "deepinfra/x/y", "github_copilot/gpt-4.1"]
)
def test_a_model_without_a_price_has_no_cost(model: str) -> None:
    assert cost(asked(model), used(10, 10)) is None


def test_a_model_with_prices_for_another_tier_alone_has_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        litellm().model_cost,
        "openai/gpt-odd",
        {"litellm_provider": "openai", "mode": "chat", IN + FAST: 1e-6, OUT + FAST: 1e-6},
    )

    assert cost(asked("openai/gpt-odd"), used(10, 10)) is None


def test_a_price_of_zero_in_the_table_is_free() -> None:
    known = cost(asked(FREE), used(10, 10))

    assert known is not None
    assert (known.usd, known.source) == (Decimal(0), source())


def test_a_price_that_litellm_is_told_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"litellm_provider": "openai", "mode": "chat", IN: 1e-6, OUT: 1e-6}
    monkeypatch.setitem(litellm().model_cost, "openai/gpt-told", dict(told))
    before = cost(asked("openai/gpt-told"), used(1000, 0))

    litellm().register_model({"openai/gpt-told": {**told, IN: 5e-6}})

    after = cost(asked("openai/gpt-told"), used(1000, 0))
    assert [known and known.usd for known in (before, after)] == [Decimal("0.001"), Decimal("0.005")]


def test_the_users_own_price_wins() -> None:
    own = Model("openai/gpt-4o", input_usd_per_mtok=0.1, output_usd_per_mtok="0.3")

    known = cost(asked(own), used(3, 1))

    assert known is not None
    assert (known.usd, known.source) == (Decimal("6e-7"), "model")


def test_an_own_price_makes_an_unknown_model_known_and_rounds_up() -> None:
    known = cost(asked(Model("acme/x", input_usd_per_mtok="0.0001", output_usd_per_mtok=0)), used(1, 5))

    assert known is not None
    assert known.usd == Decimal("1e-9")


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "dear", True, "NaN", [1]])
def test_a_price_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="input_usd_per_mtok is US dollars per million tokens"):
        Model("acme/x", input_usd_per_mtok=bad, output_usd_per_mtok=1)


def test_half_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match="both, or neither"):
        Model("acme/x", output_usd_per_mtok=1)


@pytest.mark.parametrize("bad", [0, -5, 1.5, True, "8"])
def test_an_output_limit_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="max_output_tokens is a whole number"):
        Model("acme/x", max_output_tokens=bad)


def test_openrouter_says_itself_what_an_answer_cost() -> None:
    known = cost(asked("openrouter/acme/anything"), used(10, 10, cost=0.0123))

    assert known is not None
    assert (known.usd, known.source) == (Decimal("0.0123"), "provider")


@pytest.mark.parametrize("claim", [math.nan, math.inf, -1, "0.1", True, 10**9, None])
def test_a_claim_that_is_no_amount_is_not_believed(claim: Any) -> None:
    assert cost(asked("openrouter/acme/anything"), used(10, 10, cost=claim)) is None


def test_openrouters_fee_for_somebodys_own_key_is_not_the_cost() -> None:
    assert cost(asked("openrouter/acme/anything"), used(10, 10, cost=0.001, is_byok=True)) is None


@pytest.mark.parametrize("model", ["openai/gpt-4o", "xai/grok-4.3", "perplexity/sonar", "anthropic/claude-sonnet-4-5"])
def test_nobody_else_is_believed_about_the_cost(model: str) -> None:
    assert cost(asked(model), used(10, 10, cost=123.45)) == cost(asked(model), used(10, 10))
    assert cost(asked(model), used(10, 10, cost=0)) == cost(asked(model), used(10, 10))


@pytest.mark.parametrize(
    "usage",
    [
        None,
        used(0, 0),
        used(-5, 10),
        used(5, -10),
        used(10**12, 1),
        used(math.nan, 1),
        used(1.5, 1),
        used(True, 1),
        used(10, 10, {"cached_tokens": -3}),
        used(10, 10, {"cached_tokens": 1e300}),
        used(10, 10, None, {"reasoning_tokens": "many"}),
        used(10, 10, server_tool_use={"web_search_requests": 10**9}),
        used(10, 10, {"cache_creation_token_details": [1]}),
    ],
)
def test_counts_that_make_no_sense_have_no_cost(usage: Usage | None) -> None:
    assert cost(asked("openai/gpt-4o"), usage) is None
    assert cost(asked(Model("acme/x", input_usd_per_mtok=1, output_usd_per_mtok=1)), usage) is None


@pytest.mark.parametrize(
    "model",
    [
        Model("ollama/llama3.2"),
        Model("ollama_chat/whatever", api_base="http://192.168.1.7:11434"),
        Model("lm_studio/x", api_base="http://localhost:1234/v1"),
        Model("llamafile/x"),
        Model("hosted_vllm/x", api_base="http://gpu-box:8000/v1"),
        Model("hosted_vllm/x", api_base="http://[::1]:8000/v1"),
    ],
)
def test_a_model_at_home_is_free(model: Model) -> None:
    known = cost(asked(model), used(1000, 1000))

    assert known is not None
    assert (known.usd, known.source) == (Decimal(0), "local")


@pytest.mark.parametrize(
    "model",
    [
        Model("ollama/nothing-known", api_base="https://ollama.com"),
        Model("hosted_vllm/x", api_base="https://vllm.example.com/v1"),
        Model("hosted_vllm/x"),
        Model("lm_studio/x", api_base="http://8.8.8.8:1234"),
    ],
)
def test_the_same_servers_elsewhere_are_not_free(model: Model) -> None:
    assert cost(asked(model), used(1000, 1000)) is None


def test_a_priority_that_was_asked_for_and_not_denied_is_charged() -> None:
    asking = asked("openai/gpt-5", service_tier="priority")

    assert cost(asking, used(10, 10)) == cost(asked("openai/gpt-5"), used(10, 10), service_tier="priority")
    assert cost(asking, used(10, 10), service_tier="default") == cost(asked("openai/gpt-5"), used(10, 10))


def test_a_discount_that_was_asked_for_and_not_confirmed_is_not_given() -> None:
    asking = asked("openai/gpt-5", service_tier="flex")

    assert cost(asking, used(10, 10)) == cost(asked("openai/gpt-5"), used(10, 10))
    assert cost(asking, used(10, 10), service_tier="flex") != cost(asked("openai/gpt-5"), used(10, 10))


SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("model", "params", "more", "fee"),
    [
        ("anthropic/claude-sonnet-4-5", {"tools": [SEARCH]}, {"server_tool_use": {"web_search_requests": 3}}, "0.03"),
        ("anthropic/claude-sonnet-4-5", {"tools": [SEARCH]}, {"server_tool_use": {"web_search_requests": 0}}, "0"),
        ("anthropic/claude-sonnet-4-5", {"tools": [SEARCH]}, {}, "0.01"),
        ("anthropic/claude-sonnet-4-5", {}, {"server_tool_use": {"web_search_requests": 2}}, "0.02"),
        ("anthropic/claude-sonnet-4-5", {}, {}, "0"),
        ("openai/gpt-4o-mini", {"web_search_options": {"search_context_size": "low"}}, {}, "0.025"),
        ("gemini/gemini-2.5-pro", {"tools": [{"googleSearch": {}}]}, {}, "0.035"),
        ("perplexity/sonar-pro", {}, {}, "0.014"),
        ("perplexity/sonar-pro", {"web_search_options": {"search_context_size": "low"}}, {}, "0.006"),
        ("perplexity/sonar-pro", {}, {"num_search_queries": 2}, "0.028"),
    ],
)
def test_searches_on_the_web_are_paid_once(model: str, params: dict[str, Any], more: dict[str, Any], fee: str) -> None:
    plain = {
        "anthropic": 100 * Decimal(3) + 10 * Decimal(15),
        "openai": 100 * Decimal("0.15") + 10 * Decimal("0.6"),
        "gemini": 100 * Decimal("1.25") + 10 * Decimal(10),
        "perplexity": 100 * Decimal(3) + 10 * Decimal(15),
    }[model.partition("/")[0]] / 10**6

    known = cost(asked(model, **params), used(100, 10, **more))

    assert known is not None
    assert known.usd == plain + Decimal(fee)


def test_googles_searches_are_paid_by_the_answer_where_google_bills_so() -> None:
    two = cost(asked("gemini/gemini-2.5-pro"), used(100, 10, {"web_search_requests": 4}))
    plain = cost(asked("gemini/gemini-2.5-pro"), used(100, 10))

    assert two is not None
    assert plain is not None
    assert two.usd - plain.usd == Decimal("0.035")


def test_a_region_of_its_own_is_dearer() -> None:
    here = cost(asked(Model("openai/gpt-6-astra", api_base="https://eu.api.openai.com/v1")), used(1000, 0))
    everywhere = cost(asked(Model("vertex_ai/gemini-3.5-flash", params={"vertex_location": "global"})), used(1000, 0))
    in_iowa = cost(asked("vertex_ai/gemini-3.5-flash"), used(1000, 0))

    assert [known and known.usd for known in (here, everywhere, in_iowa)] == [
        Decimal("0.011"),
        Decimal("0.0015"),
        Decimal("0.00165"),
    ]


def test_what_litellm_says_of_one_token_tells_of_all_wherever_that_is_taken_for_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owners = {key: f"{fields.get('litellm_provider')}/" for key, fields in litellm().model_cost.items()}
    requests = [asked(key if key.startswith(owner) else owner + key) for key, owner in owners.items()]
    flat = [request for request in requests if (entry := entry_of(request)) is not None and entry.is_flat()]
    usages = [used(0, 7), used(9, 0), used(12, 7), used(123_457, 8_191), used(3_000_001, 777_777)]

    told = [cost(request, usage) for request in flat for usage in usages]

    monkeypatch.setattr(Entry, "is_flat", lambda _: False)
    assert told == [cost(request, usage) for request in flat for usage in usages]
    assert len([known for known in told if known is not None]) > 10_000


def test_a_large_sum_is_not_rounded_up_for_the_noise_of_its_floats() -> None:
    known = cost(asked("openai/gpt-4o"), used(90_000_001, 0))

    assert known is not None
    assert known.usd == Decimal("225.0000025")


def test_the_table_read_without_litellm_says_the_same_of_every_model_of_the_usual_providers() -> None:
    table = bundled()
    keys = {key: fields["litellm_provider"] for key, fields in table.items() if fields.get("litellm_provider") in PLAIN}
    found = {}
    for key, provider in keys.items():
        request = asked(key if key.startswith(f"{provider}/") else f"{provider}/{key}")
        entry = entry_of(request)
        found[request.model] = (find(request), None if entry is None else (entry.key, entry.provider))

    assert len(found) > 500
    assert {model: both for model, both in found.items() if both[0] != both[1]} == {}
    assert all(litellm().model_cost[key] == table[key] for key in keys)
