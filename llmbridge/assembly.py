"""How the chunks of a stream become a completion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmbridge.completion import Choice, Chunk, Completion, Function, Logprobs, Message, ToolCall, ToolCallDelta, Usage


@dataclass(slots=True)
class _Part:
    """One choice while it is being streamed."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    function_call: ToolCallDelta | None = None
    finish_reason: str | None = None
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


class Assembly:
    """Chunks in, the completion out: what `complete` would have returned.

    LiteLLM's own `stream_chunk_builder` is not used: it counts tokens where the provider reported none and glues
    parallel tool calls together that share an index.
    """

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}
        self.chunk_count = 0
        self.usage: Usage | None = None

    @property
    def text(self) -> str:
        """The first choice's text so far."""
        return "".join(self._parts[0].text) if 0 in self._parts else ""

    def feed(self, chunk: Chunk) -> None:
        """Add *chunk*."""
        self.chunk_count += 1
        if chunk.usage is not None:
            self.usage = chunk.usage
        part = self._parts.get(chunk.index)
        if part is None:
            part = self._parts[chunk.index] = _Part()
        if chunk.text:
            part.text.append(chunk.text)
        if chunk.reasoning:
            part.reasoning.append(chunk.reasoning)
        if chunk.refusal:
            part.refusal.append(chunk.refusal)
        for delta in chunk.tool_calls:
            _add_tool_call(part.tool_calls, delta)
        if chunk.function_call is not None:
            part.function_call = _joined(part.function_call, chunk.function_call)
        part.finish_reason = chunk.finish_reason or part.finish_reason
        for name, tokens in (chunk.logprobs or {}).items():
            part.logprobs.setdefault(name, []).extend(tokens or [])
        if chunk.extra:
            _add_extra(part.extra, chunk.extra)

    def completion(self, *, id: str, created: int, model: str, **fields: Any) -> Completion:
        """The whole answer."""
        choices = [_choice(index, self._parts[index]) for index in sorted(self._parts)]
        return Completion(id=id, created=created, model=model, choices=choices, usage=self.usage, **fields)


def _add_tool_call(calls: list[ToolCallDelta], delta: ToolCallDelta) -> None:
    for call in reversed(calls):
        # A new id with a name is a new call, even under an index that is taken: Ollama's parallel calls all say 0.
        if call.index == delta.index and not (delta.id and delta.name and call.id and delta.id != call.id):
            call.id = call.id or delta.id
            call.name = call.name or delta.name
            call.arguments += delta.arguments
            return
    calls.append(ToolCallDelta(delta.index, delta.id, delta.name, delta.arguments))


def _joined(call: ToolCallDelta | None, delta: ToolCallDelta) -> ToolCallDelta:
    if call is None:
        return ToolCallDelta(0, None, delta.name, delta.arguments)
    return ToolCallDelta(0, None, call.name or delta.name, call.arguments + delta.arguments)


def _add_extra(extra: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if name == "thinking_blocks":
            _add_thinking(extra.setdefault(name, []), value)
        elif isinstance(value, list) and isinstance(extra.get(name), list):
            extra[name] = [*extra[name], *value]
        elif isinstance(value, dict) and isinstance(extra.get(name), dict):
            extra[name] = {**extra[name], **value}
        else:
            extra[name] = value


def _add_thinking(blocks: list[dict[str, Any]], deltas: list[dict[str, Any]]) -> None:
    for delta in deltas:
        last = blocks[-1] if blocks else None
        if last is None or last.get("type") != delta.get("type") or last.get("signature") or "data" in delta:
            blocks.append(dict(delta))
        else:
            last["thinking"] = (last.get("thinking") or "") + (delta.get("thinking") or "")
            last.update({name: value for name, value in delta.items() if name == "signature" and value})


def _choice(index: int, part: _Part) -> Choice:
    calls = [
        ToolCall(id=call.id or "", function=Function(name=call.name or "", arguments=call.arguments))
        for call in part.tool_calls
    ]
    function_call = part.function_call
    message = Message(
        content="".join(part.text) or None,
        refusal="".join(part.refusal) or None,
        reasoning_content="".join(part.reasoning) or None,
        tool_calls=calls or None,
        function_call=Function(name=function_call.name or "", arguments=function_call.arguments)
        if function_call
        else None,
        **part.extra,
    )
    return Choice(
        index=index,
        finish_reason=part.finish_reason,
        message=message,
        logprobs=Logprobs.model_validate(part.logprobs) if part.logprobs else None,
    )
