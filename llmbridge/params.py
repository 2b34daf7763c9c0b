"""LiteLLM's parameters, as one TypedDict: what the verbs take besides their own arguments.

Names and meanings are LiteLLM's (and mostly OpenAI's). Not here, because llmbridge owns the matter: `stream` (a verb),
retries, fallbacks and caching of LiteLLM's own, callbacks, mocks, and client objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict


class Transport(TypedDict, total=False):
    """Where a request goes, with which credentials, and how long to wait: never part of what is asked."""

    api_key: str
    api_base: str
    api_version: str
    custom_llm_provider: str
    organization: str
    deployment_id: str
    extra_headers: dict[str, str]
    timeout: float
    aws_access_key_id: str
    aws_secret_access_key: str
    aws_session_token: str
    aws_region_name: str
    aws_profile_name: str
    aws_role_name: str
    aws_session_name: str
    aws_web_identity_token: str
    aws_sts_endpoint: str
    aws_bedrock_runtime_endpoint: str
    vertex_project: str
    vertex_location: str
    vertex_credentials: str
    azure_ad_token: str


class CacheParams(TypedDict, total=False):
    """How one call uses the response cache, besides `cache=`: never part of what is asked.

    ttl_s: for how many seconds its answer may be served, instead of what the cache says. max_age_s: how old a kept
    answer may be. sample: which of several independent answers to the same question is meant, from 0.
    """

    ttl_s: float
    max_age_s: float
    sample: int


Truncate = Literal["error", "oldest", "middle"]


class PromptParams(TypedDict, total=False):
    """How long a prompt may be: never part of what is asked, which is the prompt that is left.

    max_input_tokens: the most that is sent, counted with LiteLLM's tokenizer for the first model. truncate: what is
    done with more: "error" (the default) is a ValueError, "oldest" leaves out the oldest messages, "middle" those in
    the middle, and then the middle of the longest text of a user's. System messages and the latest question stay, and a
    tool's result stays with its call.
    """

    max_input_tokens: int
    truncate: Truncate


class _Common(Transport, CacheParams, total=False):
    user: str
    input_type: str
    extra_body: dict[str, Any]
    # what only one provider knows, handed on by LiteLLM as it is
    provider_params: dict[str, Any]
    # how LiteLLM treats what a model does not support
    drop_params: bool
    additional_drop_params: list[str]
    allowed_openai_params: list[str]


class Params(_Common, PromptParams, total=False):
    """Parameters of a chat completion."""

    # what OpenAI's endpoint takes
    temperature: float
    top_p: float
    n: int
    stop: str | list[str]
    max_tokens: int
    max_completion_tokens: int
    modalities: list[Literal["text", "audio"]]
    prediction: dict[str, Any]
    audio: dict[str, Any]
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[str, float]
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "default"]
    verbosity: Literal["low", "medium", "high"]
    response_format: dict[str, Any]
    seed: int
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    functions: list[dict[str, Any]]
    function_call: str | dict[str, Any]
    logprobs: bool
    top_logprobs: int
    web_search_options: dict[str, Any]
    include_server_side_tool_invocations: bool
    service_tier: str
    store: bool
    metadata: dict[str, str]
    safety_identifier: str
    prompt_cache_key: str
    prompt_cache_retention: str
    stream_options: dict[str, Any]
    # what other providers take, as LiteLLM names it
    thinking: dict[str, Any]
    top_k: int
    min_p: float
    top_a: float
    repetition_penalty: float
    safety_settings: list[dict[str, Any]]
    cached_content: str
    num_ctx: int
    keep_alive: str | int


class EmbedParams(_Common, total=False):
    """Parameters of an embedding."""

    dimensions: int
    encoding_format: Literal["float", "base64"]


TRANSPORT = frozenset(Transport.__annotations__)
CACHE = frozenset(CacheParams.__annotations__)
PROMPT = frozenset(PromptParams.__annotations__)

# Names that LiteLLM takes and this package does not, with what to write instead.
INSTEAD = {
    "stream": "call stream() or astream()",
    "base_url": "write api_base=",
    "num_retries": "retries belong to the fallback policy",
    "max_retries": "retries belong to the fallback policy",
    "fallbacks": "give model= a list",
    "context_window_fallback_dict": "give model= a list",
    "caching": "write cache=",
    "request_timeout": "write timeout= or deadline_s=",
    "client": "llmbridge owns the HTTP clients",
    "mock_response": "replay a cassette",
    "mock_tool_calls": "replay a cassette",
    "headers": "write extra_headers=",
    "input": "pass the inputs as the first argument",
}


def check_names(names: Iterable[str], known: Mapping[str, Any], own: Iterable[str]) -> None:
    """Raise TypeError for the first name that is not known, with the nearest that is.

    A typo must be loud: `bugdet=` passed on as a provider's parameter would be a call without a budget.
    """
    for name in names:
        if name in known:
            continue
        message = f"unknown parameter {name!r}"
        from difflib import get_close_matches  # for a mistake alone

        if instead := INSTEAD.get(name):
            message += f": {instead}"
        elif near := get_close_matches(name, [*own, *known, *INSTEAD], n=1, cutoff=0.7):
            message += f": did you mean {near[0]!r}?"
        else:
            message += "; what only one provider knows goes into provider_params={...}"
        raise TypeError(message)
