"""The providers that are shown to work: what they are asked by, where they are, what LiteLLM does not let be told.

One row for each, of which tests/recording.py makes cassettes, tests/test_providers.py tests, and
tests/provider_table.py the table in the README.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest import mock

from llmbridge.provider import litellm
from llmbridge.request import Model


@dataclass(frozen=True)
class Provider:
    """Where one provider is, and how LiteLLM reads it.

    Attributes:
        name, file: in the table, and at the start of its cassettes' names.
        chat, embedder: the models that are asked.
        origin, path: its address; `path` is what LiteLLM wants of it in `api_base`.
        embed_origin, embed_path: where those of its embeddings are others.
        own_address: no two customers have the same one, so that it is always given.
        address: the parameter that takes it.
        key: the variable that holds its key; None: there is no key to record it live by.
        settings: what else a Model of it has.
        embed_with: what else an embedding is asked with.
        lacks: what of the table's columns LiteLLM cannot do with it.
        counted: whether the tokens are the provider's own count.
        too_long, filtered: what a prompt that is too long, or against policy, ends in.
        traffic: what the recorded exchanges of the real one beside the checkout call it.
        read_right: how many of how many of those are read right.
    """

    name: str
    file: str
    chat: str
    origin: str
    path: str = ""
    embedder: str | None = None
    embed_origin: str | None = None
    embed_path: str | None = None
    own_address: bool = False
    address: str = "api_base"
    key: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    embed_with: Mapping[str, Any] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    counted: bool = True
    too_long: bool = True
    filtered: Literal["error", "answer", "bad request"] = "error"
    traffic: str = ""
    read_right: tuple[int, int] = (0, 0)
    remarks: str = ""

    def home(self, name: str) -> str:
        """Where *name* is asked."""
        return self.embed_origin or self.origin if name == self.embedder else self.origin

    def model(self, name: str, origin: str | None, key: str | None = "sk-simulated") -> Model:
        """*name* at *origin*; None: where LiteLLM finds it by itself, if it does."""
        settings = dict(self.settings)
        if origin is None and self.own_address:
            origin = self.home(name)
        if origin is not None:
            path = self.embed_path if name == self.embedder and self.embed_path is not None else self.path
            if self.address == "api_base":
                settings["api_base"] = origin + path
            else:
                settings["params"] = {**settings.get("params", {}), self.address: origin + path}
        return Model(name, api_key=key, **settings)


OPENAI = Provider(
    name="OpenAI",
    file="openai",
    traffic="openai",
    read_right=(36, 36),
    chat="openai/gpt-4o-mini",
    embedder="openai/text-embedding-3-small",
    origin="https://api.openai.com",
    path="/v1",
    key="OPENAI_API_KEY",
)
ANTHROPIC = Provider(
    name="Anthropic",
    file="anthropic",
    traffic="anthropic",
    read_right=(24, 29),
    chat="anthropic/claude-haiku-4-5",
    origin="https://api.anthropic.com",
    key="ANTHROPIC_API_KEY",
    remarks="tools that Anthropic runs itself are reported as calls",
)
GEMINI = Provider(
    name="Gemini",
    file="gemini",
    traffic="gemini",
    read_right=(31, 31),
    chat="gemini/gemini-2.5-flash",
    embedder="gemini/gemini-embedding-001",
    origin="https://generativelanguage.googleapis.com",
    path="/v1beta",
    key="GEMINI_API_KEY",
    filtered="answer",
    remarks="tokens of tool use, which LiteLLM leaves out, are counted; those of embeddings are LiteLLM's estimate",
)
OLLAMA = Provider(
    name="Ollama",
    file="ollama",
    traffic="ollama",
    read_right=(11, 13),
    chat="ollama_chat/llama3.2",
    embedder="ollama/nomic-embed-text",
    origin="http://localhost:11434",
    too_long=False,
    filtered="bad request",
    remarks="tool calls of a stream have ids of LiteLLM's own",
)
PROJECT = {"params": {"vertex_project": "fishing", "vertex_location": "us-central1"}}
REGION = {"params": {"aws_region_name": "us-east-1"}}
PROVIDERS = [
    OPENAI,
    Provider(
        name="Azure OpenAI",
        file="azure",
        traffic="azure",
        read_right=(15, 16),
        chat="azure/gpt-4o-mini",
        embedder="azure/text-embedding-3-small",
        origin="https://fishing.openai.azure.com",
        own_address=True,
        settings={"api_version": "2024-10-21"},
        remarks="asked with `api_base=` and `api_version=`; LiteLLM cuts whole answers of o-series models into streams",
    ),
    ANTHROPIC,
    GEMINI,
    Provider(
        name="Vertex AI",
        file="vertex",
        traffic="vertex_ai",
        read_right=(20, 21),
        chat="vertex_ai/gemini-2.5-flash",
        embedder="vertex_ai/gemini-embedding-001",
        origin="https://us-central1-aiplatform.googleapis.com",
        settings=PROJECT,
        filtered="answer",
        remarks="wants google-auth and a log-in, for which the tests put a dummy token",
    ),
    Provider(
        name="Vertex AI, by API key",
        file="vertex-key",
        chat="gemini/gemini-2.5-flash",
        origin="https://aiplatform.googleapis.com",
        path="/v1/publishers/google",
        own_address=True,
        filtered="answer",
        remarks='without google-auth: `api_base="https://aiplatform.googleapis.com/v1/publishers/google"`',
    ),
    Provider(
        name="Groq",
        file="groq",
        traffic="groq",
        read_right=(10, 13),
        chat="groq/llama-3.3-70b-versatile",
        origin="https://api.groq.com",
        path="/openai/v1",
        key="GROQ_API_KEY",
        remarks="an answer without `service_tier` is an error; counts in `x_groq` are not read: they are estimated",
    ),
    Provider(
        name="Mistral",
        file="mistral",
        traffic="mistral",
        read_right=(16, 16),
        chat="mistral/mistral-small-latest",
        embedder="mistral/mistral-embed",
        origin="https://api.mistral.ai",
        path="/v1",
        key="MISTRAL_API_KEY",
    ),
    OLLAMA,
    Provider(
        name="Together",
        file="together",
        traffic="together_ai",
        read_right=(5, 5),
        chat="together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo",
        embedder="together_ai/BAAI/bge-base-en-v1.5",
        origin="https://api.together.ai",
        path="/v1",
        key="TOGETHERAI_API_KEY",
    ),
    Provider(
        name="Cohere",
        file="cohere",
        traffic="cohere",
        read_right=(13, 21),
        chat="cohere/command-r-plus-08-2024",
        embedder="cohere/embed-v4.0",
        origin="https://api.cohere.com",
        path="/v2/chat",
        embed_origin="https://api.cohere.ai",
        embed_path="/v2/embed",
        key="COHERE_API_KEY",
        lacks=frozenset({"stream"}),
        filtered="bad request",
        remarks=(
            "a stream is an error: LiteLLM cannot read its event lines; chats go through LiteLLM's own client; "
            "`MAX_TOKENS` reads `stop`"
        ),
    ),
    Provider(
        name="Hugging Face",
        file="huggingface",
        traffic="huggingface",
        read_right=(9, 9),
        chat="huggingface/meta-llama/Llama-3.3-70B-Instruct",
        embedder="huggingface/BAAI/bge-small-en-v1.5",
        origin="https://router.huggingface.co",
        path="/v1",
        embed_path="/hf-inference/pipeline/feature-extraction/BAAI/bge-small-en-v1.5",
        embed_with={"input_type": "feature-extraction"},
        key="HUGGINGFACE_API_KEY",
        too_long=False,
        filtered="bad request",
        remarks='embeddings with `input_type="feature-extraction"`, or LiteLLM asks the Hub first',
    ),
    Provider(
        name="Replicate",
        file="replicate",
        traffic="replicate",
        read_right=(0, 1),
        chat="replicate/meta/meta-llama-3-8b-instruct",
        origin="https://api.replicate.com",
        key="REPLICATE_API_KEY",
        lacks=frozenset({"tools"}),
        counted=False,
        too_long=False,
        filtered="bad request",
        remarks=(
            "LiteLLM polls, with its own client, at the one address, and leaves tools out without a word; "
            "its token counts are estimates, and marked as such"
        ),
    ),
    Provider(
        name="OpenRouter",
        file="openrouter",
        traffic="openrouter",
        read_right=(28, 28),
        chat="openrouter/openai/gpt-4o-mini",
        embedder="openrouter/openai/text-embedding-3-small",
        origin="https://openrouter.ai",
        path="/api/v1",
        key="OPENROUTER_API_KEY",
        too_long=False,
        filtered="bad request",
        remarks="the cost that it reports is believed",
    ),
    Provider(
        name="DeepSeek",
        file="deepseek",
        traffic="deepseek",
        read_right=(14, 14),
        chat="deepseek/deepseek-chat",
        origin="https://api.deepseek.com",
        path="/beta",
        key="DEEPSEEK_API_KEY",
    ),
    Provider(
        name="xAI",
        file="xai",
        traffic="xai",
        read_right=(8, 8),
        chat="xai/grok-3",
        origin="https://api.x.ai",
        path="/v1",
        key="XAI_API_KEY",
    ),
    Provider(
        name="Bedrock",
        file="bedrock",
        traffic="bedrock",
        read_right=(19, 30),
        chat="bedrock/converse/us.amazon.nova-lite-v1:0",
        embedder="bedrock/cohere.embed-english-v3",
        origin="https://bedrock-runtime.us-east-1.amazonaws.com",
        address="aws_bedrock_runtime_endpoint",
        settings=REGION,
        key="AWS_BEARER_TOKEN_BEDROCK",
        filtered="bad request",
        remarks=(
            "tools that Bedrock runs itself are reported as calls; `bedrock/invoke` says `stop` for every answer of "
            "Llama, and streams of Titan end in StreamInterrupted"
        ),
    ),
    Provider(
        name="OpenAI-compatible",
        file="compatible",
        traffic="openai_like",
        read_right=(24, 26),
        chat="openai/fish-1",
        embedder="openai/fish-embed-1",
        origin="https://llm.example.com",
        path="/v1",
        own_address=True,
        settings={"extra_headers": {"x-team": "angling"}},
        remarks='`Model("openai/fish-1", api_base=..., extra_headers={...})`; a JSON object as `content` is an error',
    ),
]  # fmt: skip


@contextmanager
def reachable(simulator: str | None = None) -> Iterator[None]:
    """Put aside what keeps LiteLLM from a provider that is not the real one: Google's log-in, which it asks for first,
    Replicate's address (recorded at *simulator*), which it has built in, and the seconds between two looks there."""
    module = litellm()
    from litellm.llms.replicate.chat import handler
    from litellm.llms.vertex_ai.vertex_llm_base import VertexBase

    async def token(*_: Any, **__: Any) -> tuple[str, str]:
        return "dummy-token", "fishing"

    def started_at(_: Any, api_base: str | None, api_key: str | None, model: str, *__: Any, **___: Any) -> str:
        return f"{simulator}/v1/models/{model}/predictions"

    with ExitStack() as patches:
        for place, name, value in (
            (VertexBase, "_ensure_access_token", lambda *_, **__: ("dummy-token", "fishing")),
            (VertexBase, "_ensure_access_token_async", token),
            (module, "DEFAULT_REPLICATE_POLLING_DELAY_SECONDS", 0),
            (handler, "REPLICATE_POLLING_DELAY_SECONDS", 0),
            *([(module.ReplicateConfig, "get_complete_url", started_at)] if simulator else []),
        ):
            patches.enter_context(mock.patch.object(place, name, value))
        yield
