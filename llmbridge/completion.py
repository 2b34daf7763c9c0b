"""What callers get: Completion, Chunk, Usage, Embedding, in the OpenAI shape; and how chunks become a completion."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from llmbridge.record import AttemptRecord, CallRecord


class _Open(BaseModel):
    """Providers add fields of their own; they are kept."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Usage(_Open):
    """Token counts. `estimated`: LiteLLM counted them, the provider did not report them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None
    estimated: bool = False


class Function(_Open):
    """`arguments` is JSON text, as the model wrote it."""

    name: str = ""
    arguments: str = ""


class ToolCall(_Open):
    """One call of a tool that the model asks for."""

    id: str = ""
    type: str = "function"
    function: Function = Function()


class Message(_Open):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None


class Choice(_Open):
    """One of the `n` answers."""

    index: int = 0
    finish_reason: str | None = None
    message: Message
    logprobs: dict[str, Any] | None = None


class _Answer(_Open):
    """What a completion and an embedding have in common: the record of the call that made them."""

    _record: CallRecord | None = PrivateAttr(default=None)
    _response_model: str | None = PrivateAttr(default=None)

    @property
    def record(self) -> CallRecord:
        """The record of the call, which the ledger and the trace show too."""
        if self._record is None:
            raise AttributeError("this answer was not made by a call, so it has no record")
        return self._record

    @property
    def cost_usd(self) -> Decimal | None:
        """US dollars for all attempts of the call together; None if any part of it is unknown."""
        return self.record.cost_usd

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """One record a model asked, failed ones included, in order."""
        return self.record.attempts

    @property
    def trace_id(self) -> str | None:
        """The OpenTelemetry trace of the call, as hex; None without tracing."""
        return self.record.trace_id

    def explain(self) -> str:
        """What happened, one line an attempt."""
        return self.record.explain()


class Completion(_Answer):
    """An answer, in the shape of OpenAI's chat completion; `model_dump()` is that shape.

    `model` is the candidate that answered, as it was asked ("openai/gpt-4o-mini"), so that it can be asked again;
    the name in the provider's answer is `attempts[-1].response_model`.
    """

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    _parsed: Any = PrivateAttr(default=None)

    @property
    def text(self) -> str:
        """The first choice's text; empty if the model only called tools."""
        return (self.choices[0].message.content or "") if self.choices else ""

    @property
    def reasoning(self) -> str:
        """The first choice's reasoning text, where the provider shows it."""
        return (self.choices[0].message.reasoning_content or "") if self.choices else ""

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The first choice's tool calls."""
        return (self.choices[0].message.tool_calls or []) if self.choices else []

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: stop, length, tool_calls, content_filter or function_call."""
        return self.choices[0].finish_reason if self.choices else None

    @property
    def parsed(self) -> Any:
        """The answer as an instance of `response_model`, or None without one."""
        return self._parsed


class Vector(_Open):
    """The embedding of one input."""

    index: int = 0
    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str


class Embedding(_Answer):
    """Embeddings in the order of the inputs, in the shape of OpenAI's embedding response."""

    object: Literal["list"] = "list"
    model: str
    data: list[Vector]
    usage: Usage | None = None

    @property
    def vectors(self) -> list[list[float] | str]:
        """The vectors alone, one an input."""
        return [vector.embedding for vector in self.data]


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of a tool call: `arguments` continues the JSON text of the call with this `index`."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Chunk:
    """A piece of a streamed answer. Most fields of most chunks are empty.

    `index` is the choice (0 unless `n` was asked for). `finish_reason` stands on the last chunk of a choice. `extra`
    holds what else the provider sent in the delta (annotations, thinking blocks, audio...).
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    index: int = 0
    refusal: str = ""
    function_call: ToolCallDelta | None = None
    logprobs: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None

    @property
    def has_content(self) -> bool:
        """Whether a reader has seen something of the answer with this chunk."""
        return bool(self.text or self.reasoning or self.tool_calls or self.refusal or self.function_call)


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
    return Choice(index=index, finish_reason=part.finish_reason, message=message, logprobs=part.logprobs or None)
