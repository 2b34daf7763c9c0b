"""LiteLLM's answer objects, read into ours. Knows LiteLLM's shapes and no provider's; imports neither."""

from __future__ import annotations

from typing import Any

from llmbridge.completion import Choice, Chunk, Completion, Embedding, Function, Message, ToolCall, ToolCallDelta, Usage
from llmbridge.exchange import Exchange


# Answers that say themselves what they cost, in dollars, and are believed.
REPORTING = ("openrouter",)
# Whose tokens LiteLLM counts with a tokenizer of its own, without saying so.
UNCOUNTED = ("replicate",)
# Fields of LiteLLM's message and delta that are read by name; whatever else is set there goes along as it is.
_NAMED = frozenset({"role", "content", "tool_calls", "function_call", "reasoning_content", "refusal"})


class Unreadable(Exception):
    """LiteLLM returned something that is not an answer."""


def completion_from(answer: Any, model: str) -> Completion:
    """LiteLLM's ModelResponse as a Completion. Raises Unreadable if there is no choice in it."""
    choices = [_choice(choice) for choice in getattr(answer, "choices", None) or []]
    if not choices:
        raise Unreadable("the answer has no choices")
    completion = Completion(
        id=answer.id or "",
        created=int(answer.created or 0),
        model=model,
        choices=choices,
        usage=_usage(getattr(answer, "usage", None), provider=model.partition("/")[0]),
        system_fingerprint=getattr(answer, "system_fingerprint", None),
        service_tier=getattr(answer, "service_tier", None),
    )
    completion._response_model = getattr(answer, "model", None)
    return completion


def embedding_from(answer: Any, model: str) -> Embedding:
    """LiteLLM's EmbeddingResponse as an Embedding. Raises Unreadable if there is no vector in it."""
    data = [_plain(vector) for vector in getattr(answer, "data", None) or []]
    if not data:
        raise Unreadable("the answer has no embeddings")
    embedding = Embedding(model=model, data=data, usage=_usage(getattr(answer, "usage", None)))
    embedding._response_model = getattr(answer, "model", None)
    return embedding


def _choice(choice: Any) -> Choice:
    said = _plain(choice.message)  # which is quicker than to look at LiteLLM's object for what it lacks
    content = said.get("content")
    calls = [_tool_call(call) for call in said.get("tool_calls") or []]
    message = Message(
        content=content,
        refusal=_refusal(said),
        reasoning_content=said.get("reasoning_content"),
        tool_calls=calls or None,
        function_call=_function(said.get("function_call")),
        **_others(said),
    )
    logprobs = getattr(choice, "logprobs", None)
    # LiteLLM says "stop" where it does not look at the provider's word (Cohere). Beside a text the calls may be those
    # of tools that the provider has run itself: nothing waits for them.
    waits = calls and not content and choice.finish_reason == "stop"
    ended = "tool_calls" if waits else choice.finish_reason
    return Choice(
        index=choice.index or 0,
        finish_reason=ended,
        message=message,
        logprobs=_plain(logprobs) if logprobs else None,
    )


def _tool_call(call: Any) -> ToolCall:
    fields = _plain(call)
    function = fields.pop("function", None) or {}
    fields.pop("index", None)  # where the block stood in the answer; streams do not keep it
    # OpenAI's custom tools carry {"custom": {"name", "input"}} and stay as they are
    return ToolCall(
        **{**fields, "id": fields.get("id") or "", "type": fields.get("type") or "function"},
        function=Function(name=function.get("name") or "", arguments=function.get("arguments") or ""),
    )


def _function(call: Any) -> Function | None:
    if not call:
        return None
    fields = _plain(call)
    return Function(name=fields.get("name") or "", arguments=fields.get("arguments") or "")


def _refusal(said: dict[str, Any]) -> str | None:
    refusal = said.get("refusal") or (said.get("provider_specific_fields") or {}).get("refusal")
    return refusal if isinstance(refusal, str) else None


def _others(said: dict[str, Any]) -> dict[str, Any]:
    fields = dict(said)
    special = fields.pop("provider_specific_fields", None) or {}
    # what stands there too, under a name of its own, is said once
    fields["provider_specific_fields"] = {
        name: value for name, value in special.items() if value and name not in fields and name != "thinking_blocks"
    }
    return {name: value for name, value in fields.items() if name not in _NAMED and value not in (None, [], {})}


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value


def _usage(usage: Any, *, provider: str = "", total: int = 0, estimated: bool = False) -> Usage | None:
    """Token counts, or None if there are none. A negative count is no count: it would lower a bill."""
    if usage is None:
        return None
    fields: dict[str, Any] = _plain(usage)
    estimated = estimated or provider in UNCOUNTED
    counts = [fields.get(name) or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not any(counts):
        return None
    if provider not in REPORTING:
        fields.pop("cost", None)  # what the answer, or LiteLLM for it, claims to have cost
    _complete_counts(fields, *counts[:2], total=max(total, counts[2]))
    return Usage.model_validate({**fields, "estimated": estimated})


def _complete_counts(fields: dict[str, Any], prompt: int, completion: int, *, total: int) -> None:
    """Book the tokens of *total* that neither count has: LiteLLM leaves out Gemini's tool-use prompt, for one.

    What is known as tool use is input; anything else is taken for output, the dearer side.
    """
    missing = max(total - prompt - completion, 0)
    tool_use = min((fields.get("prompt_tokens_details") or {}).get("tool_use_tokens") or 0, missing)
    fields["prompt_tokens"], fields["completion_tokens"] = prompt + tool_use, completion + missing - tool_use
    fields["total_tokens"] = fields["prompt_tokens"] + fields["completion_tokens"]


def chunk_from(chunk: Any) -> Chunk:
    """LiteLLM's ModelResponseStream as a Chunk."""
    if not chunk.choices:
        return Chunk()
    choice = fields_of(chunk.choices[0])
    delta = fields_of(choice["delta"])
    read = Chunk(delta.get("content") or "", finish_reason=choice.get("finish_reason"), index=choice.get("index") or 0)
    if calls := delta.get("tool_calls"):
        read.tool_calls = tuple(_tool_call_delta(call) for call in calls)
    if reasoning := delta.get("reasoning_content"):
        read.reasoning = reasoning
    if refusal := delta.get("refusal"):
        read.refusal = refusal
    if function_call := delta.get("function_call"):
        read.function_call = ToolCallDelta(0, None, function_call.name, function_call.arguments or "")
    if logprobs := choice.get("logprobs"):
        read.logprobs = _plain(logprobs)
    if any(value is not None and name not in _NAMED for name, value in delta.items()):
        read.extra = _others(_plain(choice["delta"])) or None
    return read


def fields_of(said: Any) -> dict[str, Any]:
    """What one of LiteLLM's objects holds. To ask it for an attribute that pydantic keeps with the extra ones takes 2
    microseconds, for one that it has not 4."""
    return said.__dict__ | (said.model_extra or {})  # type: ignore[no-any-return]


def _tool_call_delta(call: Any) -> ToolCallDelta:
    function = call.function
    return ToolCallDelta(call.index or 0, call.id, function.name, function.arguments or "")


def is_complete(wrapper: Any, exchange: Exchange) -> bool:
    """Whether the provider said that a stream's answer is complete.

    LiteLLM makes up a finish reason and a usage for a stream that broke off. `received_finish_reason` is what it had
    from the provider, for every format but Gemini's, of which it reads "stop" into every chunk: there the body's own
    end decides. tests/test_litellm_facts.py holds LiteLLM to that.
    """
    if wrapper.received_finish_reason:
        return True
    return bool(wrapper.intermittent_finish_reason) and exchange.names_its_end()


def usage_from(wrapper: Any, last: Any) -> Usage | None:
    """The token counts of an exhausted stream, *last* being those that LiteLLM handed over at its end.

    They are summed up from the provider's chunks, which LiteLLM keeps in `chunks`; where none of those has a usage,
    they are LiteLLM's own estimate.
    """
    reported = [usage for chunk in wrapper.chunks if (usage := fields_of(chunk).get("usage"))]
    total = max((usage.total_tokens or 0 for usage in reported), default=0)
    provider = str(getattr(wrapper, "custom_llm_provider", ""))
    return _usage(last, provider=provider, total=total, estimated=not reported)


def response_model_of(chunk: Any) -> str | None:
    """The model's name in the answer. Streams keep it aside and say the name that was asked for."""
    named = (getattr(chunk, "_hidden_params", None) or {}).get("provider_response_model")
    return named if isinstance(named, str) else None
