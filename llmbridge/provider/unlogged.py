"""A call of LiteLLM's without its logging, which nobody hears: `no-log` only stops it before the callbacks.

For each call LiteLLM sets up what it will log, prices the answer, and has a thread put the record together: a third of
a call's time. Its Router and its proxy hand such a call a logging object of their own, by the argument
`litellm_logging_obj`; so is it done here, with one that logs nothing. Pricing is ours (pricing.py).
"""

from __future__ import annotations

import datetime
import functools
import logging
from collections.abc import Mapping
from typing import Any

from llmbridge.provider.loading import litellm


def logging_object(call_type: str, arguments: Mapping[str, Any]) -> Any:
    """What LiteLLM gets to log the call of *call_type* ("completion", "aembedding", ...) with; None for its own.

    Setting up the logging is also where it applies an application's rules to what is asked, and where it takes Gemini's
    signatures out of the tool calls that another provider gets: such calls are set up by LiteLLM.
    """
    asked = arguments.get("messages", arguments.get("input"))
    if litellm().pre_call_rules or _has_signatures(asked):
        return None
    litellm().utils.custom_llm_setup()  # an application's own providers
    made = _unlogged()(
        model=arguments["model"],
        messages=asked,
        stream=arguments.get("stream", False),
        call_type=call_type,
        start_time=datetime.datetime.now(),  # noqa: DTZ005 - as LiteLLM does, which subtracts the two
        litellm_call_id=arguments["litellm_call_id"],
        function_id="",
        supports_correlation_logging=False,
    )
    made.stream_options = arguments.get("stream_options")  # where its streams look whether they are to count tokens
    return made


def _has_signatures(asked: Any) -> bool:
    messages = [each for each in asked if isinstance(each, Mapping)] if isinstance(asked, list) else []
    return any(_separator() in str(each.get("tool_call_id") or each.get("tool_calls") or "") for each in messages)


@functools.cache
def _separator() -> str:
    from litellm.litellm_core_utils.prompt_templates.factory import THOUGHT_SIGNATURE_SEPARATOR

    return THOUGHT_SIGNATURE_SEPARATOR


@functools.cache
def _unlogged() -> Any:
    from litellm.litellm_core_utils.litellm_logging import Logging

    def nothing(*_: Any, **__: Any) -> Any:
        return None

    async def nothing_async(*_: Any, **__: Any) -> None: ...

    class Unlogged(Logging):
        def post_call(self, *args: Any, **kwargs: Any) -> None:
            """Where LiteLLM writes the answer as JSON once more, for its debugging and for `input_callback`."""
            heard = litellm().input_callback or self.dynamic_input_callbacks
            if heard or logging.getLogger("LiteLLM").isEnabledFor(logging.DEBUG):
                super().post_call(*args, **kwargs)  # type: ignore[no-untyped-call]

        success_handler = failure_handler = handle_sync_success_callbacks_for_async_calls = nothing
        async_success_handler = async_failure_handler = nothing_async
        dispatch_success_handlers = dispatch_failure_handlers = nothing_async
        claim_async_success_log = nothing  # so nobody does
        response_cost_calculator = nothing

    return Unlogged
