"""The cache key: two requests share one if, and only if, they cannot be answered differently.

A deny-list: everything that is sent goes in, but for what `UNKEYED` names with its reason. A parameter that nobody
thought of costs a hit, never a wrong answer. Python's spellings of one JSON value share a key (1 and 1.0, tuple and
list, any order of a dict); True and 1, "0" and 0, absent and 0 do not, and text is not normalised: two Unicode forms
are two prompts.

The key says where a request goes, as far as that can be known without LiteLLM, which must stay unloaded: the transport
parameters, the environment variables and the module settings that LiteLLM takes a missing one from. It does not say
with which credentials: who must not see whose answers is what `namespace` is for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llmbridge.redaction import is_credential
from llmbridge.request import Request


FORMAT = 1  # of the text that is hashed: raise it, and every older entry is out of reach

# The names that never enter the key, each with why it cannot change the answer.
UNKEYED = {
    "ttl_s": "the cache's own",
    "max_age_s": "the cache's own",
    "sample": "the cache's own, and in the key by itself",
    "max_input_tokens": "the prompt that is left says it",
    "truncate": "the prompt that is left says it",
    "api_key": "a credential",
    "aws_access_key_id": "a credential",
    "aws_secret_access_key": "a credential",
    "aws_session_token": "a credential",
    "aws_role_name": "names a credential",
    "aws_session_name": "names a credential",
    "aws_web_identity_token": "a credential",
    "aws_sts_endpoint": "where credentials come from; no prompt goes there",
    "vertex_credentials": "a credential",
    "azure_ad_token": "a credential",
    "timeout": "how long to wait",
    "stream_options": "what a stream says about itself; its text is that of a whole answer",
    "safety_identifier": "who is asking, for abuse reports alone",
    "prompt_cache_key": "which of the provider's prompt caches to try: speed and price",
    "prompt_cache_retention": "how long the provider keeps a prompt's prefix: speed and price",
    "keep_alive": "how long Ollama keeps a model in memory",
}
# Headers that name one request among others, so that nothing would ever be asked twice.
UNKEYED_HEADERS = frozenset({"traceparent", "tracestate", "x-request-id", "x-client-request-id", "idempotency-key"})

# Everything else there is. Nothing reads this but the test that no parameter is left unclassified. Kept in, though one
# could argue: `user` and `metadata`, by which gateways choose sessions and servers (labels that only tell callers apart
# belong in tags=); `store`, whose effect at the provider a hit would swallow; `service_tier`, which changes the price;
# `aws_profile_name`, which brings a region along.
KEYED = frozenset(
    """
    api_base api_version custom_llm_provider organization deployment_id extra_headers aws_region_name aws_profile_name
    aws_bedrock_runtime_endpoint vertex_project vertex_location
    user input_type extra_body provider_params drop_params additional_drop_params allowed_openai_params
    temperature top_p n stop max_tokens max_completion_tokens modalities prediction audio presence_penalty
    frequency_penalty logit_bias reasoning_effort verbosity response_format seed tools tool_choice parallel_tool_calls
    functions function_call logprobs top_logprobs web_search_options include_server_side_tool_invocations service_tier
    store metadata thinking top_k min_p top_a repetition_penalty safety_settings cached_content num_ctx
    dimensions encoding_format
    """.split()  # noqa: SIM905  as a list, it would be a screen long
)

# Environment variables that LiteLLM and the SDKs under it read where an argument is missing. By rule, and for every
# provider at once: the names for one provider are not regular (ollama_chat reads OLLAMA_API_BASE, a bare "gpt-4o"
# OPENAI_BASE_URL), and a variable too many costs a hit where two environments differ, one too few a wrong answer.
ADDRESSES = ("_API_BASE", "_BASE_URL")
VARIABLES = frozenset(
    """
    AWS_BEDROCK_RUNTIME_ENDPOINT AWS_DEFAULT_REGION AWS_PROFILE AWS_REGION AWS_REGION_NAME AZURE_API_TYPE
    ANTHROPIC_AWS_WORKSPACE_ID ANTHROPIC_WORKSPACE_ID AZURE_OPENAI_ENDPOINT BEDROCK_MANTLE_REGION
    CHATGPT_DEFAULT_INSTRUCTIONS CLOUDFLARE_ACCOUNT_ID DATABRICKS_HOST DATAROBOT_ENDPOINT DEFAULT_MAX_TOKENS
    FIREWORKS_ACCOUNT_ID GOOGLE_CLOUD_PROJECT GRADIENT_AI_AGENT_ENDPOINT LITELLM_ANTHROPIC_DISABLE_URL_SUFFIX
    LITELLM_DEFAULT_EMBEDDING_ENCODING_FORMAT LITELLM_DROP_PARAMS LITELLM_MODIFY_PARAMS LITELLM_REASONING_AUTO_SUMMARY
    OLLAMA_HOST OPENAI_ORGANIZATION OPENAI_ORG_ID OPENAI_PROJECT OPENAI_PROJECT_ID PREDIBASE_TENANT_ID PROJECT_ID REGION
    SNOWFLAKE_ACCOUNT_ID SPACE_ID USE_LITELLM_PROXY VERTEXAI_LOCATION VERTEXAI_PROJECT VERTEX_LOCATION VERTEX_PROJECT
    WATSONX_DEPLOYMENT_SPACE_ID WATSONX_PROJECT_ID WATSONX_REGION WATSONX_SPACE_ID WATSONX_URL WML_URL WX_PROJECT_ID
    WX_REGION WX_SPACE_ID WX_URL
    """.split()  # noqa: SIM905  as a list, it would be a screen long
)
# LiteLLM's module settings with the same effect, for an application that imports it itself. All are empty by default,
# so that a key is the same before LiteLLM is loaded and after.
SETTINGS = ("api_base", "api_version", "organization", "project", "vertex_project", "vertex_location", "headers")
FLAGS = ("drop_params", "modify_params")  # LITELLM_DROP_PARAMS and so on set them too, and are in already

_ENDINGS = (*ADDRESSES, "_API_VERSION", "_THINKING_BUDGET")
# The dict under os.environ, by its encoded names; os.environ's own iterator decodes each of them.
_kept: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
# sort_keys works on what _plain() leaves, where every name is a string
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, sort_keys=True, separators=(",", ":")
).encode
_schemas: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()


def key(request: Request, *, namespace: tuple[str, ...] = (), sample: int = 0) -> str | None:
    """The SHA-256 of *request*, as hex; None if it cannot be written as JSON, and so cannot be cached.

    Two namespaces never share a key, nor do two samples: the sample is which of several independent answers is meant.
    Costs about 20 microseconds for a short prompt and 1 ms for each further 300 KB.
    """
    try:
        said = [*_before(request), _plain(request.content), *_after(request, namespace, sample)]
        return hashlib.sha256(_encode(said).encode()).hexdigest()
    except (TypeError, ValueError, RecursionError):
        return None


def keys(request: Request, *, namespace: tuple[str, ...] = (), sample: int = 0) -> list[str | None]:
    """The key of each input of *request* by itself, as key() has it; 5 microseconds for each further one."""

    def one(content: Any) -> str | None:
        try:
            said = f"{before},{_encode([_plain(content)])},{after}"
            return hashlib.sha256(said.encode()).hexdigest()
        except (TypeError, ValueError, RecursionError):
            return None

    try:
        before = _encode(_before(request))[:-1]
        after = _encode(_after(request, namespace, sample))[1:]
    except (TypeError, ValueError, RecursionError):
        return [None for _ in request.content]
    return [one(content) for content in request.content]


def _before(request: Request) -> list[Any]:
    """What stands before the content in the list that is hashed."""
    return [FORMAT, request.verb, request.model, _endpoint(request.transport)]


def _after(request: Request, namespace: tuple[str, ...], sample: int) -> list[Any]:
    """What stands behind it."""
    params = {name: _plain(value) for name, value in request.params.items() if name not in UNKEYED}
    return [params, _schema(request.response_model), namespace, sample]


def _plain(value: Any) -> Any:
    """*value* with one spelling for what is equal in JSON. Raises for what is not JSON, at the latest in _encode()."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(value)  # -0.0 becomes 0; NaN is refused by _encode()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        plain = {name if type(name) is str else _name(name): _plain(item) for name, item in value.items()}
        if len(plain) != len(value):
            raise ValueError("two names of one object are the same in JSON")
        return plain
    return value


def _name(name: Any) -> str:
    """*name* as json writes it: {50256: -100} and {"50256": -100} are sent as the same bytes."""
    if isinstance(name, str):
        return str.__str__(name)
    if name is None or isinstance(name, (bool, int, float)):
        return _encode(name)
    raise TypeError(f"{name!r} cannot be a name in JSON")


def _schema(model: type[Any] | None) -> Any:
    """What of a response_model is sent: its name and its JSON schema, which takes pydantic up to a millisecond."""
    if model is None:
        return None
    known = _schemas.get(model)
    if known is None:
        try:
            known = [model.__name__, _plain(model.model_json_schema())]
        except Exception as exc:  # pydantic's error for what has no schema is a RuntimeError of its own
            raise TypeError("response_model has no JSON schema") from exc
        _schemas[model] = known
    return known


def _endpoint(transport: Mapping[str, Any]) -> dict[str, Any]:
    """Where the request goes, without credentials."""
    where = {name: _plain(value) for name, value in transport.items() if name not in UNKEYED}
    if "extra_headers" in where:
        where["extra_headers"] = _headers(where["extra_headers"])
    if "api_base" in where:
        where["api_base"] = _address(where["api_base"])
    where["environment"] = dict(_environment(addressed="api_base" in where))
    where["settings"] = dict(_settings())
    return where


def _headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: name.lower() for name in headers if not is_credential(name)}
    return {lower: headers[name] for name, lower in names.items() if lower not in UNKEYED_HEADERS}


@functools.lru_cache(maxsize=256)
def _address(text: str) -> str:
    """*text* with scheme and host in lower case, and without user, password, default port and closing slashes.

    The user and password are credentials. Whatever else differs may be another server.
    """
    url = urlsplit(text.strip())
    if not url.scheme or not url.hostname:
        return text.strip().rstrip("/")
    default = {"http": 80, "https": 443}.get(url.scheme)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    port = "" if url.port in (None, default) else f":{url.port}"
    return url._replace(netloc=host + port, path=url.path.rstrip("/")).geturl()


def _environment(*, addressed: bool) -> Iterator[tuple[str, str]]:
    """What the environment says about where a request goes; without the base URLs if the request has one itself."""
    # The names alone, as they are kept, because they hardly ever change: 1 microsecond for 35 variables instead of 9.
    for name in _places(tuple(_kept)):
        if value := os.environ.get(name):
            if not name.endswith(ADDRESSES):
                yield name, value
            elif not addressed:
                yield name, _address(value)


@functools.lru_cache(maxsize=2)
def _places(names: tuple[bytes | str, ...]) -> tuple[str, ...]:
    decoded = (name if isinstance(name, str) else os.fsdecode(name) for name in names)
    return tuple(name for name in decoded if name.endswith(_ENDINGS) or name in VARIABLES)


def _settings() -> Iterator[tuple[str, Any]]:
    module = sys.modules.get("litellm")
    litellm = {} if module is None else vars(module)
    for name in SETTINGS:
        if value := litellm.get(name):
            yield name, _headers(_plain(value)) if name == "headers" else _plain(value)
    for name in FLAGS:
        if litellm.get(name) and f"LITELLM_{name.upper()}" not in os.environ:
            yield name, True
