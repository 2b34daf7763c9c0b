"""What may be kept: only an answer that the same question deserves again."""

from __future__ import annotations

import json
import math
from typing import Any

from llmbridge.completion import Choice, Completion, Embedding, Function, Message, ToolCall


FINISHED = ("stop", "tool_calls", "function_call")  # not length, not content_filter, not an ending nobody told


def why_not(completion: Completion) -> str | None:
    """Why *completion* must not be kept, for people; None if it may be. One bad choice of `n` spoils them all."""
    if not completion.choices:
        return "it has no choices"
    for choice in completion.choices:
        if reason := _why_not(choice):
            return reason if len(completion.choices) == 1 else f"choice {choice.index}: {reason}"
    return None


def why_not_vectors(embedding: Embedding, count: int) -> str | None:
    """Why *embedding*, the answer to *count* inputs, must not be kept; None if it may be.

    Vectors are kept one by one and by their place, so one that is misplaced would be served for another text.
    """
    vectors = embedding.vectors
    if len(vectors) != count:
        return f"there are {len(vectors)} vectors for {count} inputs"
    places = [vector.index for vector in embedding.data]
    if any(places) and places != list(range(count)):  # some providers say 0 for each
        return "the vectors are out of order"
    if not all(vectors):
        return "a vector is empty"
    if len({(type(vector), len(vector)) for vector in vectors}) != 1:
        return "the vectors differ in length"
    if not all(isinstance(vector, str) or all(map(math.isfinite, vector)) for vector in vectors):
        return "a vector holds a number that is not finite"
    return None


def _why_not(choice: Choice) -> str | None:
    message = choice.message
    if message.refusal:
        return "the model refused"
    if choice.finish_reason not in FINISHED:
        return f"it ended with {choice.finish_reason!r}"
    calls = message.tool_calls or []
    if choice.finish_reason == "tool_calls" and not calls:
        return "it says that it calls tools, and calls none"
    if not calls and message.function_call is None and not _says_something(message):
        return "it is empty"
    return next((reason for call in calls if (reason := _broken_call(call))), None) or (
        _broken(message.function_call) if message.function_call is not None else None
    )


def _says_something(message: Message) -> bool:
    """Whether there is text, or what stands for it. Reasoning alone is no answer."""
    others: dict[str, Any] = message.model_extra or {}
    return bool((message.content or "").strip() or others.get("audio") or others.get("images"))


def _broken_call(call: ToolCall) -> str | None:
    # a custom tool (type "custom") takes any text
    return _broken(call.function) if call.type == "function" else None


def _broken(function: Function) -> str | None:
    """What is wrong with a call, if anything. No arguments are "{}"; an empty text was cut off as likely as not."""
    if not function.name:
        return "a tool call has no name"
    try:
        arguments = json.loads(function.arguments, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return f"the arguments of {function.name} are not JSON"
    return None if isinstance(arguments, dict) else f"the arguments of {function.name} are not a JSON object"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
