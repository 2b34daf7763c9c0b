"""What a provider says for nothing: which models it has. And which variable a model's key is from.

LiteLLM's own `get_valid_models` was looked at first: it takes a failure for an empty list, sends OpenAI's key to
api.openai.com whatever OPENAI_BASE_URL says, knows eight providers, and answers for an Ollama that is down from a list
of its own. So whoever speaks OpenAI's language is asked by OpenAI's SDK, at the address and with the key that LiteLLM
would use for a call; Anthropic and Gemini by LiteLLM's class for each. Either way no redirect is followed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import httpx

from llmbridge import wire
from llmbridge.exchange import Exchange, current
from llmbridge.provider.clients import CREDENTIALS, KEYLESS, check_key, check_provider, openai_client
from llmbridge.provider.loading import litellm
from llmbridge.provider.translation import Translated, translate
from llmbridge.request import Request


OPENAI = frozenset({"openai", "custom_openai", "text-completion-openai"})
SPEAK_OPENAI_TOO = frozenset({"ollama", "ollama_chat"})  # besides their own language, at /v1


def listed(request: Request, exchange: Exchange) -> list[str] | None:
    """The names of the models that *request*'s provider has, without the provider's; None if it cannot be asked.

    Costs nothing but a request or two. Raises errors of our tree.
    """
    token = current.set(exchange)
    try:
        found = _listed(request, exchange)
    except Exception as exc:
        found = translate(exc, exchange, model=request.model)
    finally:
        current.reset(token)
    if isinstance(found, Translated):
        raise found
    return found


def key_of(request: Request) -> str:
    """Where *request*'s key is from, in words; never the key. Raises errors of our tree, if there is none."""
    if any(request.transport.get(name) for name in CREDENTIALS):
        return _variable(request.transport.get("api_key")) or "given with the model"
    try:
        provider, key, _ = _resolved(request)
        if provider in KEYLESS | SPEAK_OPENAI_TOO | {"mock"}:
            return "none is needed"
        check_key(request.model, provider)
        return _variable(key or _class_of(provider, "get_api_key")) or "as LiteLLM finds it"
    except Exception as exc:
        error = translate(exc, Exchange(), model=request.model)
    raise error


def _variable(key: str | None) -> str | None:
    return next((name for name, value in sorted(os.environ.items()) if key and value == key), None)


def _listed(request: Request, exchange: Exchange) -> list[str] | Translated | None:
    provider, key, base = _resolved(request)
    exchange.provider = provider
    transport = request.transport
    if not (key or provider in SPEAK_OPENAI_TOO or any(transport.get(name) for name in CREDENTIALS)):
        check_key(request.model, provider)
    if provider in ("anthropic", "gemini"):
        return _discovered(provider, transport)
    if provider in SPEAK_OPENAI_TOO:
        from litellm.llms.ollama.common_utils import OllamaModelInfo

        base = f"{OllamaModelInfo.get_server_api_base(base or transport.get('api_base'))}/v1"
    elif provider not in OPENAI and (provider not in litellm().openai_compatible_providers or not base):
        return None
    if provider not in OPENAI:  # for which the SDK would take OpenAI's own key
        key = key or transport.get("api_key") or "none"
    client = openai_client(transport, key, base, wire.client())
    found = client.models.list(timeout=exchange.left_s(), extra_headers=dict(transport.get("extra_headers") or {}))
    return [str(each.id) for each in found.data]


def _resolved(request: Request) -> tuple[str, str | None, str | None]:
    """The provider, and what LiteLLM makes of key and address."""
    if request.model.startswith("mock/"):
        return "mock", None, None
    given = {name: request.transport.get(name) for name in ("custom_llm_provider", "api_base", "api_key")}
    try:
        _, provider, key, base = litellm().get_llm_provider(model=request.model, **given)
    except Exception:
        check_provider(request.model)
        raise
    return provider, key, base


def _discovered(provider: str, transport: Mapping[str, Any]) -> list[str]:
    _watch(litellm().module_level_client.client)
    config = _config(provider)
    base = transport.get("api_base")
    if base and provider == "gemini":
        base = base.removesuffix(f"/{config.api_version}")  # which it adds, though a call's address has it
    found = config.discover_models({"api_key": transport.get("api_key"), "api_base": base})
    return [name.removeprefix(f"{provider}/") for name in found]


def _class_of(provider: str, what: str) -> str | None:
    config = _config(provider)
    return getattr(config, what)() if config is not None else None


def _config(provider: str) -> Any:
    from litellm.types.utils import LlmProviders
    from litellm.utils import ProviderConfigManager

    return ProviderConfigManager.get_provider_model_info(model=None, provider=LlmProviders(provider))


@functools.cache
def _watch(client: httpx.Client) -> None:
    """Have LiteLLM's own client report to the exchange of a list; to other requests it does nothing."""
    client.event_hooks["response"].append(_on_response)


def _on_response(response: httpx.Response) -> None:
    exchange = current.get()
    if exchange is None or not exchange.watched:  # an application's request, or a call that we are said not to see
        return
    exchange.response, exchange.requests = response, 1  # several are one question: a list can have pages
    exchange.host, exchange.port = response.request.url.host, response.request.url.port
    if response.has_redirect_location:  # its headers are not all taken off for another host
        raise wire.RedirectRefused(f"HTTP {response.status_code} to another address was not followed")
