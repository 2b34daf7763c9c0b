"""Output caps: how a request says them, wherever it does, and how one is put on it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llmbridge.provider.loading import litellm, loaded
from llmbridge.provider.rates import asked_in, named
from llmbridge.request import Hidden, Request


# Output caps, by the names that LiteLLM and the providers have for them. "options", "generationConfig" and the like are
# looked into.
CAPS = frozenset(
    {
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "max_gen_len", "num_predict"),
        *("maxTokens", "maxOutputTokens", "maxNewTokens", "max_tokens_to_sample", "n_predict"),
    }
)
CHOICES = frozenset({"n", "best_of", "candidateCount", "candidate_count", "num_return_sequences", "num_generations"})
# What is the caller's own, in which such a name means something else.
OPAQUE = frozenset({"response_format", "json_schema", "schema", "guided_json", "format", "metadata", "messages"})


def has_cap(request: Request) -> bool:
    """Whether the caller gave an output cap."""
    return output_cap(request) is not None


def output_cap(request: Request) -> int | None:
    """The largest cap in the request: one in `extra_body` or `provider_params` may win over the parameter.

    None if there is none, or one of those inside lifts it: None or -1 is "no end" to some servers.
    """
    if request.verb == "embeddings":
        return None
    caps = [value for asked in asked_in(request)[1:] for value in _found(asked, CAPS)]
    own = [request.params[name] for name in ("max_tokens", "max_completion_tokens") if name in request.params]
    if not all(is_cap(value) for value in caps):
        return None
    return max((value for value in (*own, *caps) if is_cap(value)), default=None)


def is_cap(value: Any) -> bool:
    """Whether *value* is a number of tokens, or of choices."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _found(value: Any, names: frozenset[str]) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in names:
                yield inner
            elif name not in OPAQUE:
                yield from _found(inner, names)


def without_caps(value: Any) -> Any:
    """*value* without the caps in it: with another cap, the same remains."""
    if not isinstance(value, dict):
        return value
    return {name: inner if name in OPAQUE else without_caps(inner) for name, inner in value.items() if name not in CAPS}


def choices(request: Request) -> int:
    """How many answers are asked for, at most."""
    found = [value for asked in asked_in(request) for value in _found(asked, CHOICES)]
    return max((value for value in found if is_cap(value)), default=1)


def capped(request: Request, tokens: int) -> Request:
    """The same question with an output cap of at most *tokens* per choice; unchanged if the provider takes none.

    Larger ones inside `extra_body` and `provider_params` are lowered where they stand.
    """
    name = capped_by(request)
    if name is None or request.verb == "embeddings":
        return request
    params = dict(request.params)
    for key in {"extra_body", "provider_params"} & params.keys():
        params[key] = _lowered(params[key], tokens)
    for key in {name, "max_tokens", "max_completion_tokens"} & {name, *params}:
        params[key] = _lower(params.get(key), tokens)
    return replace(request, params=Hidden(params))


def _lower(cap: Any, tokens: int) -> int:
    return min(cap, tokens) if is_cap(cap) else tokens


def _lowered(value: Any, tokens: int) -> Any:
    if not isinstance(value, dict) or not any(True for _ in _found(value, CAPS)):
        return value
    return {
        name: _lower(inner, tokens) if name in CAPS else inner if name in OPAQUE else _lowered(inner, tokens)
        for name, inner in value.items()
    }


def capped_by(request: Request) -> str | None:
    """The parameter that caps the output, or None if the provider has none."""
    asked = next((name for name in ("max_completion_tokens", "max_tokens") if name in request.params), None)
    supported = _supported(request)
    if supported is None or asked in supported:
        return asked or "max_tokens"
    return next((name for name in ("max_tokens", "max_completion_tokens") if name in supported), None)


def _supported(request: Request) -> frozenset[str] | None:
    try:
        return _supported_by(*named(request))
    except Exception:
        return None


@functools.lru_cache(maxsize=1024)
def _supported_by(name: str, provider: str) -> frozenset[str] | None:
    supported = litellm().get_supported_openai_params(model=name, custom_llm_provider=provider)
    return None if supported is None else frozenset(supported)


def may_drop(request: Request) -> bool:
    """Whether LiteLLM may leave out the cap without a word."""
    dropped = request.params.get("additional_drop_params") or ()
    if any(name in CAPS for name in dropped):
        return True
    if not (request.params.get("drop_params") or getattr(loaded(), "drop_params", False)):
        return False
    supported = _supported(request)
    return supported is not None and not any(name in supported for name in request.params if name in CAPS)
