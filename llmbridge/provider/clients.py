"""Which HTTP client LiteLLM is handed, so that every attempt goes through the hooks of `wire`.

LiteLLM takes a `client=` in one of two shapes: an OpenAI SDK client for the providers that it reaches through that
SDK, its own HTTPHandler for those that it calls itself. The wrong shape fails before anything is sent, so the tables
here are exact and a provider that is in neither keeps LiteLLM's own client. tests/test_one_request.py asks every
provider of LiteLLM's list and says which ones that are.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx
import openai

from llmbridge import wire
from llmbridge.provider import mocks, sdk
from llmbridge.provider.loading import litellm


# Reached by LiteLLM itself although it counts most of them as OpenAI-compatible.
CALLED_BY_LITELLM = frozenset(
    {
        "a2a", "aiohttp_openai", "anthropic", "azure_ai", "bedrock", "cometapi", "compactifai", "databricks",
        "datarobot", "deepseek", "edenai", "fireworks_ai", "gemini", "groq", "heroku", "hosted_vllm", "huggingface",
        "langflow", "langgraph", "lemonade", "minimax", "mistral", "nadir", "ollama", "ollama_chat", "openrouter",
        "ovhcloud", "ragflow", "snowflake", "together_ai", "vertex_ai", "vertex_ai_beta", "watsonx", "xai",
    }
)  # fmt: skip
CALLED_BY_SDK = frozenset(
    {
        "assemblyai", "charity_engine", "custom_openai", "neosantara", "openai", "scaleway",
        "text-completion-inception", "text-completion-openai", "xiaomi_mimo",
    }
)  # fmt: skip
# What LiteLLM refuses for these, or writes into the body of what it sends, although nobody but us asked for it.
REFUSED = frozenset(
    {
        ("bytez", "stream_options"),
        ("oci", "stream_options"),
        ("gradient_ai", "max_retries"),
        ("gradient_ai", "num_retries"),
        ("huggingface", "num_retries"),
    }
)
# With one of these in the request, LiteLLM needs no variable; these providers answer without a key.
CREDENTIALS = frozenset({"api_key", "extra_headers", "azure_ad_token", "vertex_credentials"})
KEYLESS = frozenset({"bedrock", "huggingface", "sagemaker", "vertex_ai"})
READ_BY_SDK = (  # as its client is made
    *("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS", "OPENAI_ADMIN_KEY", "AZURE_OPENAI_AD_TOKEN"),
)
MOST_CLIENTS = 100  # of the SDK, by key and address
DROPPED_WHEN_ASYNC = frozenset({("chat", "aiohttp_openai"), ("embeddings", "gemini"), ("embeddings", "vertex_ai")})
# LiteLLM reaches the embeddings of some otherwise than their chat.
EMBEDDED_BY_SDK = frozenset(
    {
        "azure_ai", "custom_openai", "fireworks_ai", "litellm_proxy", "mistral", "nebius", "nvidia_nim", "openai",
        "together_ai", "wandb", "xinference",
    }
)  # fmt: skip
EMBEDDED_BY_LITELLM = frozenset(
    {
        "bedrock", "cohere", "cohere_chat", "cometapi", "dashscope", "databricks", "edenai", "gemini", "hosted_vllm",
        "huggingface", "infinity", "jina_ai", "llamafile", "lm_studio", "openai_like", "openrouter", "ovhcloud",
        "perplexity", "qwen_ai_platform", "qwencloud", "sambanova", "snowflake", "triton", "vercel_ai_gateway",
        "vertex_ai", "volcengine", "voyage",
    }
)  # fmt: skip


class MissingKey(Exception):
    """There is no key to ask with."""


class UnknownModel(Exception):
    """LiteLLM cannot tell whose model this is."""


class Route(NamedTuple):
    """The `client=` for one request; `watched` is whether whatever LiteLLM sends goes through it."""

    client: Any
    watched: bool
    provider: str


def route(model: str, verb: str, transport: Mapping[str, Any], http: httpx.Client | httpx.AsyncClient) -> Route:
    """How to reach *model*, around *http*. Without a client LiteLLM uses its own.

    Raises MissingKey or UnknownModel.
    """
    if model.startswith("mock/"):
        mocks.register(litellm())  # an application that has set its own custom providers since has lost ours
        return Route(None, watched=True, provider=mocks.PROVIDER)
    try:
        _, provider, key, base = litellm().get_llm_provider(
            model=model,
            custom_llm_provider=transport.get("custom_llm_provider"),
            api_base=transport.get("api_base"),
            api_key=transport.get("api_key"),
        )
    except Exception:
        check_provider(model)
        return Route(None, watched=True, provider="")  # LiteLLM says what it lacks at the call, and sends nothing
    if not (key or any(transport.get(name) for name in CREDENTIALS)):
        check_key(model, provider)
    by_sdk, direct = _tables(verb)
    if provider in ("azure", "azure_text"):
        client = _azure(transport, http)
    elif (verb, provider) in DROPPED_WHEN_ASYNC and isinstance(http, httpx.AsyncClient):
        client = None
    elif provider in direct:
        client = _handler(http)
    else:
        client = openai_client(transport, key, base, http) if provider in by_sdk else None
    return Route(client, watched=client is not None, provider=provider)


def check_provider(model: str) -> None:
    """Raise UnknownModel unless *model* names one of LiteLLM's providers."""
    name = model.partition("/")[0]
    known = {str(getattr(each, "value", each)) for each in litellm().provider_list}
    if "/" not in model or name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near and "/" in model else ", such as 'openai/gpt-4o-mini'"
        raise UnknownModel(f"LiteLLM knows no provider for {model!r}: write it as 'provider/name'{hint}")


def check_key(model: str, provider: str) -> None:
    """Raise MissingKey if LiteLLM knows which variable holds this provider's key, and it is not set.

    LiteLLM itself sends the request without a key for some providers, and fails in a way of its own for others.
    """
    module = litellm()
    if module.api_key or getattr(module, f"{provider}_key", None) or provider in KEYLESS:
        return
    missing = [name for name in module.validate_environment(model)["missing_keys"] if name.endswith("_API_KEY")]
    if missing and not any(name.startswith(("AZURE_AD_", "AZURE_CLIENT_", "AZURE_OPENAI_")) for name in os.environ):
        raise MissingKey(f"set {' or '.join(missing)}, or give api_key= (any text will do where none is wanted)")


def is_sdk(client: Any) -> bool:
    """Whether LiteLLM may go through the OpenAI SDK with this client."""
    return client is None or isinstance(client, (openai.OpenAI, openai.AsyncOpenAI))


@functools.cache
def _tables(verb: str) -> tuple[frozenset[str], frozenset[str]]:
    if verb == "embeddings":
        return EMBEDDED_BY_SDK, EMBEDDED_BY_LITELLM
    compatible = frozenset(str(name) for name in litellm().openai_compatible_providers)
    return CALLED_BY_SDK | (compatible - CALLED_BY_LITELLM), CALLED_BY_LITELLM


def _handler(http: httpx.Client | httpx.AsyncClient) -> Any:
    """LiteLLM's wrapper around *http*. Made per call: it holds no connection of its own."""
    sync, asynchronous = _handler_classes()
    if isinstance(http, httpx.Client):
        return sync(client=http)
    handler = asynchronous.__new__(asynchronous)  # its __init__ would open another client, on another transport
    handler.timeout, handler.event_hooks = None, None
    handler.client = http
    return handler


@functools.cache
def _handler_classes() -> tuple[Any, Any]:
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, HTTPHandler

    class Handler(HTTPHandler):
        def post(self, url: str, *args: Any, **kwargs: Any) -> Any:
            return super().post(url, *args, **_compact(kwargs))

    class AsyncHandler(AsyncHTTPHandler):
        async def post(self, url: str, *args: Any, **kwargs: Any) -> Any:
            return await super().post(url, *args, **_compact(kwargs))

        def create_client(self, *_: Any, **__: Any) -> httpx.AsyncClient:
            # LiteLLM sends a request a second time when the connection failed. The hooks refuse it, if it goes
            # through them; LiteLLM closes this client afterwards, so it is not the shared one.
            return wire.new_async_client()

    return Handler, AsyncHandler


def _compact(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The request with its JSON as httpx writes it, so that both colours send the same bytes.

    For some providers (Anthropic) LiteLLM writes the JSON itself in one colour and leaves it to httpx in the other. A
    body that is signed, or whose length is told already (both AWS), stays as it is. Costs one parse, some 20
    microseconds for a short prompt.
    """
    data, headers = kwargs.get("data"), kwargs.get("headers") or {}
    told = any(name.lower() == "content-length" for name in headers)
    if isinstance(data, str) and not told and "AWS4-HMAC" not in str(headers.get("Authorization")):
        with contextlib.suppress(ValueError):
            kwargs["data"] = json.dumps(json.loads(data), ensure_ascii=False, separators=(",", ":"))
    return kwargs


def openai_client(transport: Mapping[str, Any], key: str | None, base: str | None, http: Any) -> Any:
    # LiteLLM's own order: the call, the provider's variables (both in key and base), its globals, OpenAI's variables.
    module = litellm()
    key = key or transport.get("api_key") or module.api_key or module.openai_key or os.environ.get("OPENAI_API_KEY")
    base = (
        base
        or transport.get("api_base")
        or module.api_base
        or os.environ.get("OPENAI_BASE_URL")
        or os.environ.get("OPENAI_API_BASE")
        or "https://api.openai.com/v1"
    )
    if not key:
        return None  # LiteLLM may know another way
    kind = sdk.OpenAI if isinstance(http, httpx.Client) else sdk.AsyncOpenAI
    return _made(http, kind, api_key=key, base_url=base, organization=transport.get("organization"))


def _azure(transport: Mapping[str, Any], http: Any) -> Any:
    module = litellm()
    key = transport.get("api_key") or module.api_key or module.azure_key
    key = key or os.environ.get("AZURE_OPENAI_API_KEY") or os.environ.get("AZURE_API_KEY")
    base = transport.get("api_base") or module.api_base or os.environ.get("AZURE_API_BASE")
    if not (key and base) or "/openai/" in base or "gateway.ai.cloudflare.com" in base:
        return None  # Entra tokens and addresses that LiteLLM takes apart itself
    version = transport.get("api_version") or module.api_version or os.environ.get("AZURE_API_VERSION")
    kind = sdk.AzureOpenAI if isinstance(http, httpx.Client) else sdk.AsyncAzureOpenAI
    version = version or module.AZURE_DEFAULT_API_VERSION
    return _made(http, kind, api_key=key, azure_endpoint=base, api_version=version)


def _made(http: Any, kind: type[Any], **arguments: str | None) -> Any:
    """The SDK's client around *http*, which keeps it: a new one takes 0.4 ms, with all that it makes late."""
    known = vars(http).setdefault("made_around", {})
    key = (kind, *arguments.items(), *map(os.environ.get, READ_BY_SDK))
    client = known.get(key)
    if client is None:
        if len(known) >= MOST_CLIENTS:
            known.clear()
        client = known[key] = kind(http_client=http, default_headers=sdk.UNTOLD, **arguments)
    return client
