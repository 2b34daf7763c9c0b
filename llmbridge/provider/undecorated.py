"""LiteLLM's `completion` and `embedding` without what it decorates them with.

Around them are its cache, its retries, its budget and its logging, which wakes a thread for each answer: an eighth of
a call's time, for what is switched off here. functools.wraps keeps the function inside, and says that this is for
leaving a decorator out. The async ones have a thread run the same function, as for some providers that reads
credentials from a file or asks for them, and await the coroutine that comes back; the way there and back, in turns
with whatever else wants the interpreter, is a fifth of a call's time. For those that are reached through OpenAI's SDK
nothing in it blocks, so that is done here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import FunctionType
from typing import Any

from llmbridge.provider.clients import is_sdk
from llmbridge.provider.loading import litellm


# What an application may have set that only what is left out here looks at.
_SETTINGS = (
    *("callbacks", "credential_list", "enable_json_schema_validation", "max_budget", "model_fallbacks"),
    *("modify_params", "num_retries_per_request", "post_call_rules", "secret_manager_client"),
)
_PARAMETERS = ("mock_response", "mock_timeout", "mock_tool_calls")


def ask(verb: str, arguments: dict[str, Any]) -> Any:
    """What LiteLLM's `completion` or `embedding` returns; its errors, too. Nothing is left out where the application
    has set something that only those parts look at, or has put something of its own around the function."""
    function = getattr(litellm(), verb)
    return (inspect.unwrap(function) if _needs_no_decorator(function, arguments) else function)(**arguments)


async def ask_async(verb: str, arguments: dict[str, Any]) -> Any:
    """Same as ask(), of `acompletion` or `aembedding`; nothing is left out also where what is inside may block."""
    module, client = litellm(), arguments["client"]
    function = getattr(module, verb)
    if client is None or not is_sdk(client) or not _needs_no_decorator(function, arguments):
        return await function(**arguments)
    inside = inspect.unwrap(getattr(module, verb.removeprefix("a")))
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


def _needs_no_decorator(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether *function* is LiteLLM's own, and nothing of what it is decorated with has anything to do with a call with
    these *arguments*."""
    module, shape = litellm(), arguments.get("response_format")
    return (
        type(function) is FunctionType  # and no tracer's proxy, which says of itself what it stands for
        and function.__globals__["__name__"].startswith("litellm.")
        and "litellm_logging_obj" in arguments
        and not str(arguments.get("custom_llm_provider") or arguments["model"]).startswith("text-completion-")
        and not (isinstance(shape, Mapping) and shape.get("enforce_validation"))
        and not any(name in arguments for name in _PARAMETERS)
        and not any(getattr(module, name, None) for name in _SETTINGS)
    )
