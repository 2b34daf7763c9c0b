"""An async call of LiteLLM's that is set up where it is made, and not in another thread.

`litellm.acompletion` has a thread run `litellm.completion(acompletion=True)`, as for some providers that reads
credentials from a file or asks for them, and awaits the coroutine that comes back; `aembedding` likewise. The way there
and back, in turns with whatever else wants the interpreter, is a fifth of a call's time. For those that are reached
through OpenAI's SDK nothing in it blocks, so the second half is done here.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from llmbridge.provider.clients import is_sdk
from llmbridge.provider.loading import litellm


# What an application may have set that only what is left out here looks at.
_SETTINGS = (
    *("callbacks", "credential_list", "max_budget", "model_fallbacks", "modify_params", "num_retries_per_request"),
    *("post_call_rules", "secret_manager_client"),
)
_PARAMETERS = ("mock_response", "mock_timeout", "mock_tool_calls")


async def ask(verb: str, arguments: dict[str, Any]) -> Any:
    """What LiteLLM's `acompletion` or `aembedding` returns; its errors, too. It is LiteLLM's own where that may block,
    and where the application has set something that only the parts left out here look at."""
    module = litellm()
    if not _is_ready(module, arguments):
        return await getattr(module, verb)(**arguments)
    try:
        answer = getattr(module, verb.removeprefix("a"))(**{verb: True}, **arguments)
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


def _is_ready(module: Any, arguments: dict[str, Any]) -> bool:
    return (
        arguments["client"] is not None
        and is_sdk(arguments["client"])
        and "litellm_logging_obj" in arguments
        and not str(arguments.get("custom_llm_provider") or arguments["model"]).startswith("text-completion-")
        and not any(name in arguments for name in _PARAMETERS)
        and not any(getattr(module, name, None) for name in _SETTINGS)
    )
