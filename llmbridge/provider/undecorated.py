"""LiteLLM's `completion` and `embedding` without what it decorates them with.

Around them are its cache, its retries, its budget and its logging, which wakes a thread for each answer: an eighth of
a call's time, for what is switched off here. functools.wraps keeps the function inside, and says that this is for
leaving a decorator out.

`acompletion` runs `completion` in a thread, since for some providers it blocks (it reads credentials from a file, or
asks for them), and awaits what comes back: the way there and back, in turns with whatever else wants the interpreter,
is a fifth of a call's time. Through OpenAI's SDK it does not block, so here it runs in the event loop; `aembedding`
likewise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from llmbridge.provider.clients import is_sdk
from llmbridge.provider.layers import innermost
from llmbridge.provider.loading import litellm


# What the decorator looks at, of an application's settings and of a call's arguments;
_SETTINGS = (
    "credential_list",
    "enable_json_schema_validation",
    "max_budget",
    "num_retries_per_request",
    "post_call_rules",
)
_PARAMETERS = ("enable_json_schema_validation",)
# and what the async ones look at besides, or are in a thread for.
_ASYNC_SETTINGS = ("callbacks", "model_fallbacks", "proxy_auth", "secret_manager_client")
_ASYNC_PARAMETERS = ("mock_response", "mock_timeout", "mock_tool_calls")


def ask(verb: str, arguments: dict[str, Any]) -> Any:
    """What LiteLLM's `completion` or `embedding` returns; its errors, too. Nothing is left out where the application
    has set something that only those parts look at, or has put something of its own around the function."""
    function = getattr(litellm(), verb)
    inside = innermost(function, "litellm") if _needs_no_decorator(arguments) else None
    return (inside or function)(**arguments)


async def ask_async(verb: str, arguments: dict[str, Any], provider: str) -> Any:
    """Same as ask(), of `acompletion` or `aembedding`; nothing is left out also where what is inside may block."""
    module = litellm()
    function, inside = getattr(module, verb), innermost(getattr(module, verb.removeprefix("a")), "litellm")
    if inside is None or innermost(function, "litellm") is None or not _needs_no_thread(arguments, provider):
        return await function(**arguments)
    try:
        answer = inside(**{verb: True}, **arguments)
        return await answer if isinstance(answer, Awaitable) else answer
    except Exception as exc:
        model, named = arguments["model"], arguments.get("custom_llm_provider")
        raise module.exception_type(
            model=model,
            custom_llm_provider=named or module.get_llm_provider(model, api_base=arguments.get("api_base"))[1],
            original_exception=exc,
            completion_kwargs=arguments,
            extra_kwargs=arguments,
        ) from exc


def _needs_no_decorator(arguments: Mapping[str, Any]) -> bool:
    """Whether nothing in LiteLLM's decorator has anything to do with a call with these *arguments*."""
    module, shape = litellm(), arguments.get("response_format")
    return (
        "litellm_logging_obj" in arguments
        and not (isinstance(shape, Mapping) and shape.get("enforce_validation"))
        and not (module.modify_params and arguments.get("max_tokens") is not None)
        and not any(name in arguments for name in _PARAMETERS)
        and not any(getattr(module, name, None) for name in _SETTINGS)
    )


def _needs_no_thread(arguments: Mapping[str, Any], provider: str) -> bool:
    """Whether `completion` does for such a call all that `acompletion` does, and does not block."""
    module, client = litellm(), arguments["client"]
    return (
        client is not None
        and is_sdk(client)
        and not provider.startswith("text-completion-")  # whose answers `acompletion` makes those of a chat
        and not any(name in arguments for name in _ASYNC_PARAMETERS)
        and not any(getattr(module, name, None) for name in _ASYNC_SETTINGS)
        and _needs_no_decorator(arguments)
    )
