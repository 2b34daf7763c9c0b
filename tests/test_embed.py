"""Embeddings, by both verbs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, CallRecord, Embedding, Model
from tests.conftest import Run
from tests.simulator import Fault, Reply, Simulator


@pytest.fixture(params=["embed", "aembed"])
def embed(request: pytest.FixtureRequest, run: Run, fresh_default: Bridge) -> Any:
    if request.param == "embed":
        return fresh_default.embed
    return lambda inputs, **arguments: run(fresh_default.aembed(inputs, **arguments))


@pytest.fixture(
    params=["openai/text-embedding-3-small", "gemini/gemini-embedding-001", "ollama/nomic-embed-text"],
    ids=["openai", "gemini", "ollama"],
)
def model(request: pytest.FixtureRequest, sim: Simulator) -> Model:
    return Model(request.param, api_base=sim.api_base(request.param.partition("/")[0]), api_key="sk-test-key")


@pytest.fixture
def small(sim: Simulator) -> Model:
    return Model("openai/text-embedding-3-small", api_base=sim.api_base("openai"), api_key="sk-test-key")


def test_every_input_gets_its_vector_in_order(embed: Any, sim: Simulator, model: Model) -> None:
    sim.script(Reply(vectors=[[0.25, 0.5], [0.75, 1.0]]))

    answer: Embedding = embed(["trout", "carp"], model=model)

    assert answer.vectors == [[0.25, 0.5], [0.75, 1.0]]
    assert answer.model == model.model


def test_one_text_is_a_batch_of_one(embed: Any, sim: Simulator, small: Model) -> None:
    assert len(embed("trout", model=small).vectors) == 1


def test_dimensions_are_passed_on(embed: Any, sim: Simulator, small: Model) -> None:
    assert len(embed("trout", model=small, dimensions=4).vectors[0]) == 4


def test_usage_and_cost_are_told(embed: Any, sim: Simulator, small: Model, records: list[CallRecord]) -> None:
    sim.script(Reply(input_tokens=1000))

    answer = embed(["trout"] * 100, model=small)

    assert answer.usage.prompt_tokens == 1000
    assert answer.cost_usd == Decimal(1000) * Decimal("0.02e-6")
    assert [(r.verb, r.outcome, r.input_tokens) for r in records] == [("embeddings", "answered", 1000)]


def test_a_failing_model_is_asked_once_and_followed_by_the_next(embed: Any, sim: Simulator, small: Model) -> None:
    sim.script(Fault.status(503), Reply(vectors=[[1.0]]))

    answer = embed("trout", model=[small, small])

    assert answer.vectors == [[1.0]]
    assert [a.status for a in answer.attempts] == [503, 200]
    assert len(sim.requests) == 2


@pytest.mark.parametrize(("inputs", "error"), [([], ValueError), ([""], ValueError), ([1], TypeError)])
def test_inputs_that_cannot_be_embedded_are_refused(embed: Any, small: Model, inputs: Any, error: Any) -> None:
    with pytest.raises(error, match="inputs"):
        embed(inputs, model=small)


def test_a_chat_parameter_is_unknown_here(embed: Any, small: Model) -> None:
    with pytest.raises(TypeError, match="unknown parameter 'temperature'"):
        embed("trout", model=small, temperature=0)


def test_the_default_bridge_embeds(sim: Simulator, small: Model, run: Run) -> None:
    assert llmbridge.embed("trout", model=small).vectors == run(llmbridge.aembed("trout", model=small)).vectors
