"""What callers get: Completion, Chunk, Usage, Embedding, in the OpenAI shape."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from llmbridge.record import AttemptRecord, CallRecord


class _Open(BaseModel):
    """Providers add fields of their own; they are kept."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Details(_Open):
    """Parts of a count, under the provider's names, such as `cached_tokens` and `reasoning_tokens`."""


class Usage(_Open):
    """Token counts. `estimated`: LiteLLM counted them, the provider did not report them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
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


class Logprobs(_Open):
    """Log probabilities by token; each token is as OpenAI has it: token, logprob, bytes, top_logprobs."""

    content: list[Details] | None = None
    refusal: list[Details] | None = None


class Choice(_Open):
    """One of the `n` answers."""

    index: int = 0
    finish_reason: str | None = None
    message: Message
    logprobs: Logprobs | None = None


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
    def cached(self) -> bool:
        """Whether the answer came from the cache: nothing was sent, and `cost_usd` is 0."""
        return self.record.cached

    @property
    def saved_usd(self) -> Decimal | None:
        """What the cached answer cost once; 0 if it is not cached, None if nobody knows."""
        return self.record.saved_usd

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
    holds what else the provider sent in the delta (annotations, thinking blocks, audio...). `restarted`: the stream
    broke off and the answer begins anew, from another attempt; what was shown so far is to be cleared.
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
    restarted: bool = False

    @property
    def has_content(self) -> bool:
        """Whether a reader has seen something of the answer with this chunk."""
        return bool(self.text or self.reasoning or self.tool_calls or self.refusal or self.function_call)
