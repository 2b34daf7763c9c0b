"""What a script is made of: replies that are right and faults that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal


Finish = Literal["stop", "length", "tool_calls", "content_filter"]
Kind = Literal["status", "reset", "hang", "drip", "cut", "raw", "redirect", "stream_error", "error_in_200"]
Cause = Literal["status", "context_window", "content_filter", "echo_key"]

_UNSAID = "\0"


@dataclass(frozen=True)
class Reply:
    """A right answer, said once for all formats.

    *text* is "Trout." unless *pieces*, *tool_calls* or a *refusal* stand in for it. *pieces* are the
    text's stream chunks. *input_tokens* include *cached_tokens* and *output_tokens* include
    *reasoning_tokens*, whatever the format itself counts apart. *texts* are several choices; without
    them a request for n choices gets *text*, then *text* with " (2)", " (3)", ... behind it. A format that
    lacks a word for something leaves it out: *logprobs* exist for OpenAI only, *reasoning* for the first four,
    a *refusal* is plain text outside OpenAI, and Ollama can't say content_filter. *usage_unasked*: an OpenAI
    stream has its usage in the chunk with the finish, asked for or not, as Mistral's do.
    """

    text: str = _UNSAID
    pieces: Sequence[str] | None = None
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    reasoning: str | None = None
    finish: Finish = "stop"
    input_tokens: int = 9
    output_tokens: int = 3
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usage: bool = True
    usage_unasked: bool = False
    texts: Sequence[str] | None = None
    logprobs: bool = False
    refusal: str | None = None
    model: str | None = None
    id: str | None = None
    created: int = 1_700_000_000
    vectors: Sequence[Sequence[float]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0
    gap_s: float = 0

    def __post_init__(self) -> None:
        if self.text != _UNSAID:
            return
        usual = "" if self.tool_calls or self.refusal else "Trout."
        object.__setattr__(self, "text", usual if self.pieces is None else "".join(self.pieces))

    @property
    def ending(self) -> Finish:
        """The finish that is told: tool calls imply their own."""
        return "tool_calls" if self.tool_calls and self.finish == "stop" else self.finish

    @property
    def fresh_tokens(self) -> int:
        """Input tokens that came from no cache."""
        return self.input_tokens - self.cached_tokens

    def choices(self, n: int) -> tuple[str, ...]:
        """The text of each choice for a request that asked for *n*."""
        if self.texts is not None:
            return tuple(self.texts)
        return (self.text, *(f"{self.text} ({i})" for i in range(2, n + 1)))

    def chunks(self, text: str) -> tuple[str, ...]:
        """*text* as it is streamed."""
        if self.pieces is not None and text == self.text:
            return tuple(self.pieces)
        return split(text)


def split(text: str) -> tuple[str, ...]:
    """*text* in a few pieces of equal length: at least three where there are three characters."""
    size = max(1, min(len(text) // 3, 4), len(text) // 200)
    return tuple(text[i : i + size] for i in range(0, len(text), size))


TROUT = Reply()


@dataclass(frozen=True)
class Fault:
    """A wrong answer. Make one with the constructors below; the fields are for the server.

    *after_events* counts stream events (negative: from the end, as in a slice; OpenAI's [DONE] is
    one). On a request that doesn't stream, half of the body stands for "after some events".
    """

    kind: Kind
    code: int = 200
    cause: Cause = "status"
    content: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    after_bytes: int = 0
    after_events: int | None = None
    reply: Reply = TROUT
    clean: bool = True
    error: Mapping[str, Any] | None = None

    @staticmethod
    def status(
        code: int,
        body: Mapping[str, Any] | bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """Answer *code* with *body*, by default an error in the provider's own shape."""
        if isinstance(body, Mapping):
            return Fault("status", code, error=body, headers=headers or {})
        content = body.encode() if isinstance(body, str) else body
        return Fault("status", code, content=content, headers=headers or {})

    @staticmethod
    def context_window() -> Fault:
        """400: the prompt is longer than the model's context window."""
        return Fault("status", 400, "context_window")

    @staticmethod
    def content_filter() -> Fault:
        """400: the prompt was refused by policy (Gemini says so in a 200 without candidates)."""
        return Fault("status", 400, "content_filter")

    @staticmethod
    def echo_key() -> Fault:
        """401 whose message contains the API key that was sent."""
        return Fault("status", 401, "echo_key")

    @staticmethod
    def reset(after_bytes: int = 0, reply: Reply = TROUT) -> Fault:
        """Reset the connection (RST) after so many bytes of the HTTP answer, status line included."""
        return Fault("reset", after_bytes=after_bytes, reply=reply)

    @staticmethod
    def hang(after_events: int | None = None, reply: Reply = TROUT) -> Fault:
        """Send nothing (None), the head (0) or some events, then nothing more until somebody closes."""
        return Fault("hang", after_events=after_events, reply=reply)

    @staticmethod
    def drip(gap_s: float = 0, reply: Reply = TROUT) -> Fault:
        """Send a right answer, head and all, one byte every *gap_s*."""
        return Fault("drip", reply=replace(reply, gap_s=gap_s))

    @staticmethod
    def cut(after_events: int, reply: Reply = TROUT, clean: bool = True) -> Fault:
        """End early: with a proper end of the body, or (not *clean*) by closing the connection in it."""
        return Fault("cut", after_events=after_events, reply=reply, clean=clean)

    @staticmethod
    def body(content: bytes, content_type: str = "application/json", status: int = 200) -> Fault:
        """Answer exactly these bytes, streaming or not."""
        return Fault("raw", status, content=content, content_type=content_type)

    @staticmethod
    def redirect(location: str, status: int = 307) -> Fault:
        """Point to another address."""
        return Fault("redirect", status, content=b"", headers={"location": location})

    @staticmethod
    def stream_error(after_events: int, reply: Reply = TROUT, error: Mapping[str, Any] | None = None) -> Fault:
        """Put an error event into a 200 stream and end it; without a stream, as error_in_200()."""
        return Fault("stream_error", after_events=after_events, reply=reply, error=error)

    @staticmethod
    def error_in_200() -> Fault:
        """Answer 200 with an error object for a body."""
        return Fault("error_in_200")


Step = Reply | Fault
