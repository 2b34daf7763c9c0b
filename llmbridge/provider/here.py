"""What stays on this machine: a request that goes to loopback, to a server that sends it no further."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llmbridge.exchange import is_loopback
from llmbridge.provider.abilities import PARTS
from llmbridge.provider.loading import loaded
from llmbridge.request import Request


# LiteLLM asks these on this machine where nobody says where. Of lm_studio it would ask OpenAI.
AT_HOME = frozenset({"ollama", "ollama_chat", "llamafile", "docker_model_runner", "lemonade"})
# These may be here, by an address of one's own.
ADDRESSED = frozenset({"openai", "custom_openai", "hosted_vllm", "lm_studio"})


def leaves_machine(request: Request) -> str:
    """Why *request* could leave this machine, for people; empty if it cannot.

    It stays if its provider is one that runs here, every address that it could go to is loopback, no proxy takes it
    away, and nothing has to be fetched for it. `wire` refuses whatever would be sent elsewhere all the same.
    """
    provider = request.provider
    if provider == "mock":
        return ""
    if provider not in AT_HOME | ADDRESSED:
        return f"{provider or 'its provider'} does not run here"
    if request.model.endswith(("-cloud", ":cloud")) and provider in ("ollama", "ollama_chat"):
        return "Ollama hands its cloud models on"
    bases = list(_bases(request))
    if not bases and provider not in AT_HOME:
        return "it has no api_base, and would be asked at its provider's"
    for base in bases:
        if not is_loopback(_host(base)):
            return f"its address is {_host(base) or 'unreadable'}"
    if _is_proxied([_host(base) for base in bases] or ["localhost"]):
        return "a proxy is set in the environment; add localhost and 127.0.0.1 to NO_PROXY"
    return next((f"{address[:60]!r} would be fetched" for address in _fetched(request)), "")


def check_stays_here(requests: Iterable[Request]) -> None:
    """Raise ValueError if one of *requests* could leave this machine."""
    for request in requests:
        if why := leaves_machine(request):
            raise ValueError(f"local_only: {request.model} would leave this machine: {why}; nothing was sent")


def _bases(request: Request) -> Iterator[str]:
    """Every address that it could go to; for those at home also the ones that only a look at the model goes to."""
    given = request.transport.get("api_base")
    if given:
        yield str(given)
    if given and request.provider not in AT_HOME:
        return
    if elsewhere := getattr(loaded(), "api_base", None):
        yield str(elsewhere)
    name = {"ollama_chat": "OLLAMA", "custom_openai": "OPENAI"}.get(request.provider, request.provider.upper())
    for variable in (f"{name}_API_BASE", f"{name}_BASE_URL"):
        if base := os.environ.get(variable):
            yield base


def _host(base: str) -> str:
    try:
        return urlsplit(base if "//" in base else f"//{base}").hostname or ""
    except ValueError:
        return ""


def _is_proxied(hosts: list[str]) -> bool:
    import urllib.request  # here: it imports http.client and more, 8 ms that a cached answer has no use for

    proxies = urllib.request.getproxies()
    if not any(proxies.get(scheme) for scheme in ("http", "https", "all")):
        return False
    return not all(urllib.request.proxy_bypass(host) for host in hosts)


def _fetched(request: Request) -> Iterator[str]:
    """Addresses of media elsewhere: LiteLLM fetches them for providers that take none."""
    if request.verb == "embeddings":
        return
    for message in request.content:
        content = message.get("content")
        media = [part for part in content if _is_media(part)] if isinstance(content, (list, tuple)) else []
        for text in _texts([media, message.get("images")]):
            if "://" in text[:12] and not is_loopback(_host(text)):
                yield text


def _is_media(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in PARTS


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
