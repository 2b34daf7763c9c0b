"""One attempt is one HTTP request to one host, whatever comes back and whatever LiteLLM would like to do."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest

import llmbridge
from llmbridge import CallRecord, Fallback, LLMBridgeError, Model, default, provider, wire
from llmbridge.bridge import Bridge
from tests.conftest import ONCE, VERBS, Ask, Run, asking
from tests.simulator import Fault, Reply, Simulator


pytestmark = pytest.mark.timeout(300)  # the first of the sweep's tests asks every provider that there is
FISH = "Name a fish."
STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 424, 429, 500, 502, 503, 504, 529)
REDIRECTS = (301, 302, 307, 308)
PROVIDERS = {
    "openai": "openai/gpt-4o-mini",
    "azure": "azure/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "mistral": "mistral/mistral-small-latest",
    "groq": "groq/llama-3.3-70b-versatile",
    "deepseek": "deepseek/deepseek-chat",
    "together_ai": "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "cohere": "cohere/command-r-plus",
    "ollama_chat": "ollama_chat/llama3.2",
    "openrouter": "openrouter/openai/gpt-4o-mini",
    "xai": "xai/grok-3",
    "zai": "zai/glm-4.6",
    "perplexity": "perplexity/sonar",
}
EMBEDDERS = {
    "openai": "openai/text-embedding-3-small",
    "azure": "azure/text-embedding-3-small",
    "mistral": "mistral/mistral-embed",
    "gemini": "gemini/text-embedding-004",
    "ollama": "ollama/nomic-embed-text",
    "cohere": "cohere/embed-v4.0",
}
# Providers whose chat LiteLLM sends with a client of its own, whatever it is given: there is no hook of ours, so a
# redirect is followed as httpx does it. When one of them gets better, its test fails here: take it off the list.
FOLLOWS_REDIRECTS = {"cohere": "LiteLLM does not hand the client on to the Cohere code"}
EMBEDDER_FOLLOWS_REDIRECTS = {
    ("gemini", "aembed"): "LiteLLM's async Gemini embeddings drop the client that they are given",
    ("ollama", "embed"): "LiteLLM does not hand the client on to the Ollama embeddings",
    ("ollama", "aembed"): "LiteLLM does not hand the client on to the Ollama embeddings",
}


def at(sim: Simulator, provider: str, name: str) -> Model:
    version = "2024-10-21" if provider == "azure" else None
    # LiteLLM posts Cohere's requests to the very address it is given; this one the simulator answers.
    base = f"{sim.url}/v1/chat/completions" if provider == "cohere" else sim.api_base(provider)
    return Model(name, api_base=base, api_key="sk-test-key", api_version=version)


@pytest.fixture
def elsewhere() -> Iterator[Simulator]:
    """Another host, which nobody was told to send anything to."""
    with Simulator() as simulator:
        yield simulator


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_attempt_is_one_request_whatever_status_comes_back(
    ask: Ask, sim: Simulator, provider: str, records: list[CallRecord]
) -> None:
    model = at(sim, provider, PROVIDERS[provider])

    for status in STATUSES:
        sim.script(Fault.status(status, headers={"retry-after": "0"}))
        with pytest.raises(LLMBridgeError):
            ask(FISH, model=model)

    assert len(sim.requests) == len(STATUSES) == len(records)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.reset(), id="reset"),
        pytest.param(Fault.reset(30), id="reset-in-the-head"),
        pytest.param(Fault.body(b"", "text/html"), id="empty"),
        pytest.param(Fault.cut(0, clean=False), id="broken"),
        pytest.param(Fault.error_in_200(), id="error-in-a-200"),
        pytest.param(Fault.stream_error(0), id="error-event"),
    ],
)
@pytest.mark.parametrize("provider", sorted(PROVIDERS.keys() - {"cohere"}))
def test_an_attempt_is_one_request_however_the_connection_ends(
    ask: Ask, sim: Simulator, provider: str, fault: Fault, records: list[CallRecord]
) -> None:
    sim.script(fault)

    with pytest.raises(LLMBridgeError):
        ask(FISH, model=at(sim, provider, PROVIDERS[provider]))

    assert (len(sim.requests), len(records[0].attempts)) == (1, 1)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_applications_own_retries_of_litellm_do_not_apply(
    ask: Ask, sim: Simulator, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_litellm(), "num_retries", 2)
    model = at(sim, provider, PROVIDERS[provider])

    for status in (429, 500, 503):
        sim.script(Fault.status(status, headers={"retry-after": "0"}))
        with pytest.raises(LLMBridgeError):
            ask(FISH, model=model)

    assert len(sim.requests) == 3


@pytest.mark.parametrize("retries", [None, 2], ids=["by-default", "with-litellm-num-retries"])
@pytest.mark.parametrize("verb", ["embed", "aembed"])
@pytest.mark.parametrize("provider", EMBEDDERS)
def test_an_embedding_is_one_request_whatever_status_comes_back(
    verb: str, run: Run, sim: Simulator, provider: str, retries: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_litellm(), "num_retries", retries)
    model = at(sim, provider, EMBEDDERS[provider])

    for status in STATUSES:
        sim.script(Fault.status(status, headers={"retry-after": "0"}))
        with pytest.raises(LLMBridgeError):
            embedded(verb, run, model)

    assert len(sim.requests) == len(STATUSES)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_no_cookie_of_one_call_goes_along_with_another(ask: Ask, sim: Simulator, provider: str) -> None:
    model = at(sim, provider, PROVIDERS[provider])
    sim.script(Reply(headers={"set-cookie": "session=of-the-first-key; Path=/"}), Reply())

    for question in (FISH, "Name a bird."):
        ask(question, model=model)

    assert [seen.headers.get("cookie") for seen in sim.requests] == [None, None]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.status(401), "AuthenticationFailed"),
        (Fault.status(429), "ProviderRateLimited"),
        (Fault.reset(), "ProviderUnavailable"),
        (Fault.context_window(), "ContextWindowExceeded"),
    ],
    ids=["401", "429", "reset", "too-long"],
)
def test_an_error_is_known_where_the_provider_is_a_parameter(ask: Ask, sim: Simulator, fault: Any, kind: str) -> None:
    sim.script(fault)
    model = Model("acme/fish-1", api_base=sim.api_base("openai"), api_key="sk-test-key")

    with pytest.raises(LLMBridgeError) as caught:
        ask(FISH, model=Fallback([model], attempts=1), custom_llm_provider="openai")

    assert type(caught.value).__name__ == kind


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_redirect_is_followed(
    ask: Ask, sim: Simulator, elsewhere: Simulator, provider: str, request: pytest.FixtureRequest
) -> None:
    if provider in FOLLOWS_REDIRECTS:
        request.applymarker(pytest.mark.xfail(strict=True, reason=FOLLOWS_REDIRECTS[provider]))
    model = at(sim, provider, PROVIDERS[provider])

    for status in REDIRECTS:
        sim.script(Fault.redirect(f"{elsewhere.url}/v1/chat/completions", status))
        with pytest.raises(LLMBridgeError):
            ask(FISH, model=model)

    assert len(sim.requests) == len(REDIRECTS)
    assert [seen.path for seen in elsewhere.requests] == []


@pytest.mark.parametrize("verb", ["embed", "aembed"])
@pytest.mark.parametrize("provider", EMBEDDERS)
def test_no_redirect_of_an_embedding_is_followed(
    verb: str,
    run: Run,
    sim: Simulator,
    elsewhere: Simulator,
    provider: str,
    request: pytest.FixtureRequest,
) -> None:
    if reason := EMBEDDER_FOLLOWS_REDIRECTS.get((provider, verb)):
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    model = at(sim, provider, EMBEDDERS[provider])

    for status in REDIRECTS:
        sim.script(Fault.redirect(f"{elsewhere.url}/v1/embeddings", status))
        with pytest.raises(LLMBridgeError):
            embedded(verb, run, model)

    assert [seen.path for seen in elsewhere.requests] == []


def test_a_redirect_says_what_to_do(ask: Ask, sim: Simulator, elsewhere: Simulator) -> None:
    sim.script(Fault.redirect(f"{elsewhere.url}/v1/chat/completions"))

    with pytest.raises(LLMBridgeError, match=r"redirect .HTTP 307.*never followed.*set api_base to the final address"):
        ask(FISH, model=at(sim, "openai", PROVIDERS["openai"]))


def test_a_redirect_goes_to_the_next_model(ask: Ask, sim: Simulator, elsewhere: Simulator) -> None:
    sim.script(Fault.redirect(f"{elsewhere.url}/v1/chat/completions"), Reply())
    models = [at(sim, "openai", PROVIDERS["openai"]), at(sim, "anthropic", PROVIDERS["anthropic"])]

    reply = ask(FISH, model=models)

    assert (reply.text, elsewhere.requests) == ("Trout.", [])


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Reply(), id="answer"),
        pytest.param(Reply(usage=False), id="answer-without-usage"),
        pytest.param(Fault.status(503), id="refusal"),
        pytest.param(Fault.cut(3, clean=False), id="broken-stream"),
        pytest.param(Fault.cut(3), id="truncated-stream"),
        pytest.param(Fault.stream_error(3), id="error-event"),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "groq", "together_ai", "ollama_chat"])
def test_no_call_looks_up_another_host(
    ask: Ask, sim: Simulator, provider: str, step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _names_asked_for(monkeypatch)
    sim.script(step)

    with suppress(LLMBridgeError):
        ask(FISH, model=at(sim, provider, PROVIDERS[provider]))

    assert asked == []


def _names_asked_for(patch: pytest.MonkeyPatch) -> list[str]:
    """The hosts beyond loopback whose addresses anything asks for from now on; they are not found."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **named: Any) -> Any:
        if host in ("127.0.0.1", "localhost", b"127.0.0.1"):
            return real(host, *rest, **named)
        asked.append(str(host))
        raise socket.gaierror(socket.EAI_NONAME, "no network in tests")

    patch.setattr(socket, "getaddrinfo", look_up)
    return asked


def embedded(verb: str, run: Run, model: Any) -> llmbridge.Embedding:
    if verb == "embed":
        return llmbridge.embed("fish", model=model)
    found: llmbridge.Embedding = run(llmbridge.aembed("fish", model=model))
    return found


def _litellm() -> Any:
    return provider.litellm()


# Every provider that LiteLLM knows

# Those log in at another host, ask a cloud's metadata address or want a file of credentials first.
NEEDS_MORE = {"chatgpt", "github_copilot", "sagemaker", "sagemaker_chat", "sagemaker_nova", "bedrock_mantle"}
# LiteLLM sends these with a client of its own (clients.py has them in no table), so nothing of ours watches the wire.
SENT_WITH_LITELLMS_CLIENT = {
    "amazon_nova",
    "anthropic_text",
    "cloudflare",
    "cohere",
    "cohere_chat",
    "custom",
    "gradient_ai",
    "maritalk",
    "nlp_cloud",
    "oobabooga",
    "petals",
    "text-completion-codestral",
}
SENT_WITH_LITELLMS_CLIENT_WHEN_ASYNC = SENT_WITH_LITELLMS_CLIENT | {"aiohttp_openai"}
# What Python says when an object of the wrong kind was handed in.
WRONG_CLIENT = ("has no attribute", "unexpected keyword", "NoneType", "not callable", "can't be used in 'await'")


class Seen(NamedTuple):
    """What one verb did with one provider: the error, how many requests came, whether we watched."""

    error: BaseException | None
    requests: int
    watched: bool


@pytest.fixture(scope="module")
def sweep() -> dict[tuple[str, str], Seen]:
    """Each provider of LiteLLM's list, asked by all four verbs; the answer is a 503, or a 404 on a path of its own."""
    names = {str(getattr(name, "value", name)) for name in _litellm().provider_list}
    bridge = Bridge(fallback=ONCE)
    heard: list[CallRecord] = []
    bridge.subscribe(heard.append)
    found: dict[tuple[str, str], Seen] = {}
    with Simulator() as sim, _unclosed(), asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        _names_asked_for(patch)
        patch.setattr(default, "_bridge", bridge)
        sim.script(Fault.status(503))
        for name in sorted(names - NEEDS_MORE - {"mock"}):  # which is ours, and sends nothing
            base = sim.url if name in ("anthropic", "ollama", "ollama_chat") else f"{sim.url}/v1"
            model = Model(f"{name}/some-model", api_base=base, api_key="sk-test-key")
            for verb in VERBS:
                before = len(sim.requests)
                error = _error_of(asking(verb, runner.run), model)
                watched = heard[-1].attempts[0].host == "127.0.0.1"
                found[name, verb] = Seen(error, len(sim.requests) - before, watched)
        runner.run(_close_client())
    return found


@contextmanager
def _unclosed() -> Iterator[None]:
    """LiteLLM's own clients are never closed; that they say so is no failure of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


async def _close_client() -> None:
    await wire.async_client().aclose()


def _error_of(ask: Ask, model: Model) -> BaseException | None:
    try:
        ask(FISH, model=model, deadline_s=3)
    except Exception as error:
        return error
    return None


def test_every_provider_ends_in_an_error_of_ours(sweep: dict[tuple[str, str], Seen]) -> None:
    assert {asked: seen.error for asked, seen in sweep.items() if not isinstance(seen.error, LLMBridgeError)} == {}


def test_no_provider_is_handed_a_client_that_it_cannot_use(sweep: dict[tuple[str, str], Seen]) -> None:
    said = {asked: str(seen.error) for asked, seen in sweep.items()}

    assert {asked: words for asked, words in said.items() if any(sign in words for sign in WRONG_CLIENT)} == {}


def test_no_provider_refuses_a_parameter_that_nobody_gave(sweep: dict[tuple[str, str], Seen]) -> None:
    said = {asked: str(seen.error) for asked, seen in sweep.items()}
    ours = ("max_retries", "num_retries", "stream_options", "_skip_mcp_handler", "no-log", "caching")

    assert {asked: words for asked, words in said.items() if any(f"{name}" in words for name in ours)} == {}


def test_no_provider_is_sent_two_requests(sweep: dict[tuple[str, str], Seen]) -> None:
    assert {asked: seen.requests for asked, seen in sweep.items() if seen.requests > 1} == {}


def test_most_providers_can_be_reached_on_loopback(sweep: dict[tuple[str, str], Seen]) -> None:
    assert len({name for (name, _), seen in sweep.items() if seen.requests and seen.watched}) >= 90


@pytest.mark.parametrize("verb", VERBS)
def test_litellm_uses_a_client_of_its_own_for_these_alone(sweep: dict[tuple[str, str], Seen], verb: str) -> None:
    expected = SENT_WITH_LITELLMS_CLIENT_WHEN_ASYNC if verb.startswith("a") else SENT_WITH_LITELLMS_CLIENT

    assert {name for (name, by), seen in sweep.items() if by == verb and seen.requests and not seen.watched} == expected
