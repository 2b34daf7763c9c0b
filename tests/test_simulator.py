"""LiteLLM reads the simulator exactly as scripted, and the simulator sends what providers really send."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbridge.exchange import Exchange
from tests.simulator import Fault, Reply, Simulator
from tests.simulator.shapes import recorded, shape
from tests.simulator.steps import Step


os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_MODE"] = "PRODUCTION"
os.environ["LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"] = "True"
litellm = pytest.importorskip("litellm")
openai = pytest.importorskip("openai")

# LiteLLM's own, whoever calls it: pydantic on its types, and clients it never closes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]
RECORDS = Path(__file__).parents[2] / "shared" / "wire" / "records"
OPENAI, ANTHROPIC, GEMINI = "openai/gpt-4o", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"
OLLAMA, GENERATE, DEEPSEEK = "ollama_chat/qwen3", "ollama/qwen3", "deepseek/deepseek-reasoner"
MODELS = [OPENAI, ANTHROPIC, GEMINI, OLLAMA, GENERATE]
EMBEDDERS = ["openai/text-embedding-3-small", "gemini/gemini-embedding-001", "ollama/nomic-embed-text"]
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-flash:generateContent",
    "ollama_chat": "/api/chat",
    "ollama": "/api/generate",
}
FISH = {"type": "object", "properties": {"kind": {"type": "string"}, "count": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "catch", "description": "Catch fish.", "parameters": FISH}}]
CALL = ("catch", {"kind": "trout", "count": 2})


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator() as sim:
        yield sim


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    """LiteLLM's blocking calls make themselves an event loop that nobody closes, unless there is one."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def sim(running: Simulator) -> Simulator:
    running.reset()
    return running


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def ask(request: pytest.FixtureRequest, sim: Simulator) -> Any:
    """Ask a model through LiteLLM; a streamed answer is put together by LiteLLM again."""

    def ask(model: str, **params: Any) -> Any:
        if not request.param:
            return litellm.completion(**question(sim, model, **params))
        return litellm.stream_chunk_builder(read(litellm.completion(**question(sim, model, streamed=True, **params))))

    return ask


def read(stream: Any) -> list[Any]:
    """All chunks of LiteLLM's *stream*, which it leaves open at the end."""
    exchange = Exchange(watched=False)
    exchange.reads(stream)
    chunks = list(stream)
    exchange.close()
    return chunks


def question(sim: Simulator, model: str, streamed: bool = False, **params: Any) -> dict[str, Any]:
    stream = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Which fish?"}],
        "api_base": sim.api_base(model.split("/")[0]),
        "api_key": "sk-simulated",
        "max_retries": 0,
        "num_retries": 0,
        "_skip_mcp_handler": True,
        **stream,
        **params,
    }


def post(sim: Simulator, path: str, **body: Any) -> str:
    data = json.dumps({"model": "any", **body}).encode()
    try:
        answer = urllib.request.urlopen(urllib.request.Request(sim.url + path, data), timeout=5)
    except urllib.error.HTTPError as refused:
        answer = refused
    with answer:
        return str(answer.read(), "utf-8")


@pytest.mark.parametrize("model", MODELS)
def test_text_usage_and_finish_are_read_as_scripted(sim: Simulator, ask: Any, model: str) -> None:
    sim.script(Reply(text="Trout: 鱒 or 🐟, «raw».\n", input_tokens=21, output_tokens=8))
    answer = ask(model)

    assert answer.choices[0].message.content == "Trout: 鱒 or 🐟, «raw».\n"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (21, 8)
    assert sim.requests[-1].path.startswith(PATHS[model.split("/")[0]].split(":")[0])
    assert sim.requests[-1].key == "sk-simulated"


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_call_is_read_as_scripted(sim: Simulator, ask: Any, model: str) -> None:
    sim.script(Reply(tool_calls=[CALL]))
    answer = ask(model, tools=TOOLS)

    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == CALL
    assert answer.choices[0].finish_reason == "tool_calls"
    assert not answer.choices[0].message.content


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC, GEMINI])
def test_text_and_parallel_tool_calls_are_read_in_order(sim: Simulator, ask: Any, model: str) -> None:
    sim.script(Reply(text="Casting.", tool_calls=[CALL, ("catch", {})]))
    answer = ask(model, tools=TOOLS)

    assert answer.choices[0].message.content == "Casting."
    assert [json.loads(c.function.arguments) for c in answer.choices[0].message.tool_calls] == [CALL[1], {}]


@pytest.mark.parametrize("model", [DEEPSEEK, ANTHROPIC, GEMINI, OLLAMA, GENERATE])
def test_reasoning_is_read_apart_from_the_text(sim: Simulator, ask: Any, model: str) -> None:
    sim.script(Reply(reasoning="It swims upstream.", output_tokens=7, reasoning_tokens=4))
    answer = ask(model)

    assert answer.choices[0].message.reasoning_content == "It swims upstream."
    assert answer.choices[0].message.content == "Trout."
    assert answer.usage.completion_tokens == 7


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC, GEMINI])
@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_each_finish_has_its_word_in_each_format(sim: Simulator, ask: Any, model: str, finish: Any) -> None:
    sim.script(Reply(finish=finish))

    assert ask(model).choices[0].finish_reason == finish


def test_ollama_chat_says_when_it_ran_out_of_tokens(sim: Simulator, ask: Any) -> None:
    sim.script(Reply(finish="length"))

    assert ask(OLLAMA).choices[0].finish_reason == "length"


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC, GEMINI])
def test_cached_tokens_are_part_of_the_prompt(sim: Simulator, ask: Any, model: str) -> None:
    sim.script(Reply(input_tokens=50, cached_tokens=40))
    usage = ask(model).usage

    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (50, 40)


@pytest.mark.parametrize("model", [OPENAI, GEMINI])
def test_n_choices_are_n_texts(sim: Simulator, model: str) -> None:
    sim.script(Reply(), Reply(texts=("Trout.", "Perch.")))
    answers = [litellm.completion(**question(sim, model, n=2)) for _ in range(2)]

    said = [[choice.message.content for choice in answer.choices] for answer in answers]
    assert said == [["Trout.", "Trout. (2)"], ["Trout.", "Perch."]]


def test_logprobs_and_a_refusal_are_read_from_the_openai_format(sim: Simulator) -> None:
    sim.script(Reply(logprobs=True), Reply(refusal="No."))
    likely, refused = (litellm.completion(**question(sim, OPENAI)).choices[0] for _ in range(2))

    assert [token.token for token in likely.logprobs.content] == ["Tr", "ou", "t."]
    assert refused.message.provider_specific_fields["refusal"] == "No."


def test_pieces_are_the_chunks_of_a_stream(sim: Simulator) -> None:
    sim.script(Reply(pieces=("Rain", "bow ", "trout.")))
    chunks = read(litellm.completion(**question(sim, OPENAI, streamed=True)))

    assert [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content] == ["Rain", "bow ", "trout."]


@pytest.mark.parametrize("model", EMBEDDERS)
def test_vectors_are_read_as_scripted(sim: Simulator, model: str) -> None:
    sim.script(Reply(vectors=[(0.1, 0.2), (0.3, 1e-7)]), Reply())
    base = sim.api_base(model.split("/")[0])
    given = {"input": ["a", "b"], "api_base": base, "api_key": "sk", "max_retries": 0, "num_retries": 0}
    scripted = litellm.embedding(model, **given)
    sized = litellm.embedding(model, dimensions=3, **given)

    assert [row["embedding"] for row in scripted.data] == [[0.1, 0.2], [0.3, 1e-7]]
    assert [len(row["embedding"]) for row in sized.data] == [3, 3]


async def close_clients() -> None:
    """Close what LiteLLM keeps open for this event loop, which is about to end."""
    await litellm.close_litellm_async_clients()
    for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
        if isinstance(client, openai.AsyncOpenAI):
            await client.close()


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC, GEMINI, OLLAMA])
def test_async_calls_read_the_same(sim: Simulator, model: str) -> None:
    async def both() -> tuple[Any, Any]:
        whole = await litellm.acompletion(**question(sim, model))
        stream = await litellm.acompletion(**question(sim, model, streamed=True))
        chunks = [chunk async for chunk in stream]
        await close_clients()
        return whole, litellm.stream_chunk_builder(chunks)

    for answer in asyncio.run(both()):
        assert answer.choices[0].message.content == "Trout."
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.status(400), "BadRequestError"),
        (Fault.status(404), "NotFoundError"),
        (Fault.status(429, headers={"retry-after": "7"}), "RateLimitError"),
        (Fault.status(500), "InternalServerError"),
        (Fault.echo_key(), "AuthenticationError"),
    ],
    ids=["400", "404", "429", "500", "401"],
)
def test_an_error_status_is_read_as_its_error(sim: Simulator, model: str, fault: Fault, error: str) -> None:
    sim.script(fault)
    with pytest.raises(getattr(litellm, error)) as caught:
        litellm.completion(**question(sim, model))

    assert ("sk-simulated" in str(caught.value)) == (fault == Fault.echo_key())
    assert len(sim.requests) == 1


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC, GEMINI])
def test_a_prompt_too_long_is_told_apart(sim: Simulator, model: str) -> None:
    sim.script(Fault.context_window())
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**question(sim, model))


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
def test_a_prompt_against_policy_is_told_apart(sim: Simulator, model: str) -> None:
    sim.script(Fault.content_filter())
    with pytest.raises(litellm.ContentPolicyViolationError):
        litellm.completion(**question(sim, model))


ALL: list[Step] = [
    Reply(cached_tokens=4, reasoning_tokens=2),
    Reply(tool_calls=[CALL]),
    Reply(reasoning="Hm."),
    Reply(finish="length"),
]
ERRORS: list[Step] = [*(Fault.status(code) for code in (400, 401, 404, 429, 500)), Fault.context_window()]
BATCH = "/v1beta/models/gemini-embedding-001:batchEmbedContents"
CHATS = [("openai_chat", ["openai", "deepseek"], PATHS["openai"], [*ALL, Reply(refusal="No."), Reply(logprobs=True)])]
CHATS += [("anthropic", ["anthropic"], PATHS["anthropic"], ALL), ("ollama_chat", ["ollama"], "/api/chat", ALL)]
SHAPES = [
    *((family, names, kind, path, steps) for family, names, path, steps in CHATS for kind in ("chat", "chat_stream")),
    *((family, names, "error", path, ERRORS) for family, names, path, _ in CHATS[:2]),
    ("gemini", ["gemini"], "chat", PATHS["gemini"], ALL),
    ("gemini", ["gemini"], "chat_stream", PATHS["gemini"].replace(":g", ":streamG"), ALL),
    ("gemini", ["gemini"], "error", PATHS["gemini"], ERRORS),
    ("ollama_generate", ["ollama"], "chat", "/api/generate", ALL[:1]),
    ("openai_embed", ["openai"], "embedding", "/v1/embeddings", ALL[:1]),
    ("gemini_embed", ["gemini"], "embedding", BATCH, ALL[:1]),
    ("ollama_embed", ["ollama"], "embedding", "/api/embed", ALL[:1]),
    *(("cohere_v2", ["cohere"], kind, "/v2/chat", ALL[:2]) for kind in ("chat", "chat_stream")),
    ("cohere_v2", ["cohere"], "error", "/v2/chat", ERRORS),
    ("cohere_embed", ["cohere"], "embedding", "/v2/embed", ALL[:1]),
    ("bedrock_converse", ["bedrock"], "chat", "/model/any/converse", ALL),
    ("bedrock_converse", ["bedrock"], "error", "/model/any/converse", ERRORS),
    ("vertex_embed", ["vertex_ai"], "embedding", "/v1/models/any:predict", ALL[:1]),
    ("replicate", ["replicate"], "chat", "/v1/models/a/b/predictions", ALL[:1]),
]


@pytest.mark.parametrize(("family", "names", "kind", "path", "steps"), SHAPES, ids=[f"{s[0]}-{s[2]}" for s in SHAPES])
def test_every_key_sent_occurs_in_real_traffic(
    sim: Simulator, family: str, names: list[str], kind: str, path: str, steps: list[Step]
) -> None:
    if not RECORDS.exists():
        pytest.skip("the recorded traffic (shared/wire/records beside the repository) is not here")
    sim.script(*steps)
    asked = {"stream": kind == "chat_stream", "stream_options": {"include_usage": True}, "n": 2}
    sent = shape(post(sim, path, **asked) for _ in steps)

    assert sent, "nothing was sent"
    assert sent - recorded(RECORDS, names, family, kind) == set()
