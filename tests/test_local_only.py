"""local_only: nothing leaves this machine, and whatever could is refused before it is sent."""

from __future__ import annotations

from typing import Any

import pytest

from llmbridge import AllAttemptsFailed, BadRequest, Bridge, Fallback, Model, default
from llmbridge.exchange import is_loopback
from llmbridge.provider import here
from tests.conftest import Ask
from tests.simulator import Fault, Reply, Simulator
from tests.test_faults import FISH, at


FAR = "203.0.113.7"  # TEST-NET-3 of RFC 5737, which nobody has


def image(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def stays(*models: Any) -> Fallback:
    return Fallback(list(models), local_only=True, retries=0)


@pytest.mark.parametrize("provider", ["ollama_chat", "openai"])
def test_what_runs_on_this_machine_is_asked(provider: str, ask: Ask, sim: Simulator) -> None:
    reply = ask(FISH, model=stays(at(sim, provider)))

    assert reply.text == "Trout."
    assert len(sim.requests) == 1


def test_the_next_model_is_one_of_this_machine_too(ask: Ask, sim: Simulator) -> None:
    sim.script(Fault.status(503), Reply(text="Carp."))

    assert ask(FISH, model=stays(at(sim, "ollama_chat"), at(sim, "openai"))).text == "Carp."


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Model("anthropic/claude-haiku-4-5", api_key="sk-x"), "anthropic does not run here"),
        (Model("anthropic/x", api_key="sk-x", api_base="http://127.0.0.1:9"), "anthropic does not run here"),
        (Model("openai/gpt-4o-mini", api_key="sk-x"), "it has no api_base, and would be asked at its provider's"),
        (Model("lm_studio/qwen"), "it has no api_base"),
        (Model("openai/x", api_key="sk-x", api_base=f"http://{FAR}/v1"), f"its address is {FAR}"),
        (Model("openai/x", api_key="sk-x", api_base="http://localhost.example.com/v1"), "its address is localhost.ex"),
        (Model("openai/x", api_key="sk-x", api_base=f"http://127.0.0.1@{FAR}/v1"), f"its address is {FAR}"),
        (Model("ollama_chat/llama3.2", api_base="http://192.168.1.9:11434"), "its address is 192.168.1.9"),
        (Model("ollama_chat/llama3.2", api_base="http://[2001:db8::1]:11434"), "its address is 2001:db8::1"),
        (Model("ollama_chat/gpt-oss:120b-cloud"), "Ollama hands its cloud models on"),
        (Model("gpt-4o-mini", api_key="sk-x"), "its provider does not run here"),
    ],
    ids=lambda value: value.model if isinstance(value, Model) else "",
)
def test_one_candidate_that_could_leave_stops_the_call_before_anything_is_sent(
    model: Model, why: str, ask: Ask, sim: Simulator
) -> None:
    with pytest.raises(ValueError, match="would leave this machine") as raised:
        ask(FISH, model=stays(at(sim, "ollama_chat"), model))

    assert f"local_only: {model.model} would leave this machine: {why}" in str(raised.value)
    assert str(raised.value).endswith("; nothing was sent")
    assert sim.requests == []
    assert default.default().ledger.records() == []


def test_the_ready_chain_asks_what_is_here_and_nobody_else(ask: Ask, sim: Simulator) -> None:
    far = Model("anthropic/claude-haiku-4-5", api_key="sk-x")
    default.configure(bridge := Bridge([far, at(sim, "ollama_chat"), at(sim, "openai")]))
    sim.script(Fault.status(404), Reply(text="Carp."))

    reply = ask(FISH, model=bridge.models.chain("local_only"))

    assert (reply.text, reply.record.models) == ("Carp.", (at(sim, "ollama_chat").model, at(sim, "openai").model))


def test_an_embedding_stays_here_too(sim: Simulator) -> None:
    with pytest.raises(ValueError, match="it has no api_base"):
        Bridge().embed("fish", model=stays("openai/text-embedding-3-small"))
    near = Model("openai/text-embedding-3-small", api_key="sk-x", api_base=sim.api_base("openai"))
    assert len(Bridge().embed("fish", model=stays(near)).vectors) == 1


def test_the_calls_own_arguments_cannot_send_it_elsewhere(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"its address is {FAR}"):
        Bridge().complete(FISH, model=stays("ollama_chat/llama3.2"), api_base=f"http://{FAR}")
    with pytest.raises(ValueError, match="groq does not run here"):
        Bridge().complete(FISH, model=stays("ollama_chat/llama3.2"), custom_llm_provider="groq")
    monkeypatch.setenv("OLLAMA_API_BASE", f"http://{FAR}")
    with pytest.raises(ValueError, match=f"its address is {FAR}"):
        Bridge().complete(FISH, model=stays(at(sim, "ollama_chat")))  # a look at the model would go there


def test_a_proxy_takes_nothing_away(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{FAR}:3128")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ValueError, match="a proxy is set in the environment; add localhost and"):
        Bridge().complete(FISH, model=stays(at(sim, "ollama_chat")))

    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert Bridge().plan(FISH, model=stays(at(sim, "ollama_chat"))).models == (at(sim, "ollama_chat").model,)


def test_an_image_elsewhere_would_be_fetched_and_is_refused(ask: Ask, sim: Simulator) -> None:
    with pytest.raises(ValueError, match=r"/fish\.png' would be fetched"):
        ask(image("https://example.com/fish.png"), model=stays(at(sim, "openai")))
    assert sim.requests == []

    ask(image("data:image/png;base64,iVBORw0KGgo="), model=stays(at(sim, "openai")))
    ask("See https://example.com/fish.png", model=stays(at(sim, "openai")))
    assert len(sim.requests) == 2


def test_what_escapes_every_check_is_stopped_at_the_wire(
    ask: Ask, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "leaves_machine", lambda request: "")
    far = Model("openai/gpt-4o-mini", api_key="sk-x", api_base=f"http://{FAR}/v1")

    with pytest.raises(BadRequest, match=r"was not asked: .*local_only") as raised:
        ask(FISH, model=stays(far))

    assert not raised.value.sent
    (record,) = default.default().ledger.records()
    assert (record.cost_usd, record.attempts[0].host) == (0, None)


def test_a_model_that_litellm_reaches_by_a_client_of_its_own_is_not_asked(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "leaves_machine", lambda request: "")

    with pytest.raises((BadRequest, AllAttemptsFailed), match="by a client of its own"):
        ask(FISH, model=stays(Model("cohere/command-r", api_key="sk-x", api_base=f"http://{FAR}")))


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("", False),
     ("10.0.0.1", False), ("localhost.evil.example", False), ("169.254.169.254", False)],
)  # fmt: skip
def test_loopback_is_what_is_written_so(host: str, here: bool) -> None:
    assert is_loopback(host) is here
