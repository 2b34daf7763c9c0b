"""How much input a request holds, in tokens, at most: by its bytes, or by LiteLLM's tokenizer."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmbridge.provider.caps import CAPS, CHOICES, without_caps
from llmbridge.provider.loading import litellm
from llmbridge.provider.rates import asked_in
from llmbridge.request import Request


# Byte-level BPE, and byte fallback, make at most one token of a byte of UTF-8. What providers add to the text:
MESSAGE_TOKENS = 16  # role and delimiters; OpenAI's are 3 to 8
REQUEST_TOKENS = 256  # the system prompts of chat templates (gpt-oss some 70), and the start of the answer
TOOL_PROMPT_TOKENS = 600  # Anthropic's for tools is 290 to 530; structured output goes as a tool to some
# Schemas are made strict (a few words an object) and, with "$ref", written out on the way.
SCHEMA_FACTOR, REF_FACTOR = 2, 4
# An image: OpenAI's dearest is gpt-4o-mini, with 2,833 tokens and 5,667 for each of up to 8 tiles; else the three big
# ones stay below 5,000, and Qwen-VL's default limit is 16,384.
IMAGE_TOKENS = 16_384
KNOWN_IMAGE_TOKENS = {"openai": 5_000, "azure": 5_000, "anthropic": 5_000, "gemini": 5_000, "vertex_ai": 5_000}
MINI_IMAGE_TOKENS = 48_169
# Sound: 32 tokens a second (Gemini's) of 6 kbit/s (the lowest that speech codecs go) are 31 characters of base64 a
# token; half of it, and two seconds at least.
AUDIO_CHARS_A_TOKEN, AUDIO_TOKENS = 16, 64
# LiteLLM's tokenizer is right about OpenAI's own; the other models' make up to half as many more of the same text.
OTHERS_FACTOR = 2

# Parameters that no model reads.
NUMBERS = frozenset({*CAPS, *CHOICES, "temperature", "top_p", "top_k", "min_p", "seed", "timeout", "drop_params"})
TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "tool_use")
IMAGE_PARTS = ("image_url", "input_image", "image")
# Run where the caller runs: their prompt is in TOOL_PROMPT_TOKENS. Other types are the provider's, which feeds its
# model what they find.
CALLERS_TOOLS = ("function", "custom", "bash", "text_editor", "computer", "memory")
SCHEMAS = ("tools", "functions", "response_format", "guided_json", "format", "json_schema")
ELSEWHERE = (
    *("cached_content", "cachedContent", "previous_response_id", "conversation", "container", "file_id", "file_ids"),
    *("vector_store_ids", "attachments", "data_sources", "mcp_servers", "prompt", "plugins", "transforms"),
)
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


@dataclass(frozen=True, slots=True)
class Size:
    """A request's input.

    Attributes:
        texts: everything that is text, as JSON.
        text_tokens: what those are at most.
        other_tokens: media, and what providers add.
        prediction: at most so many tokens of `prediction`, which is billed as output where it was wrong.
        media: whether anything is not text.
        unknown: what has a size that cannot be told from here, for people; empty if nothing has.
        hour: whether a cache for an hour is asked for; fast: whether Anthropic's fast mode is.
    """

    texts: tuple[str, ...]
    text_tokens: int
    other_tokens: int
    prediction: int = 0
    media: bool = False
    unknown: str = ""
    hour: bool = False
    fast: bool = False

    @property
    def tokens(self) -> int:
        """The upper bound of all input."""
        return self.text_tokens + self.other_tokens


def measure(request: Request) -> Size:
    """The size of *request* by its bytes: fast, and never too small."""
    media = Media(request)
    content = media.without(request.content) if request.verb == "chat" else media.inputs(request.content)
    params = {name: without_caps(value) for name, value in request.params.items() if name not in NUMBERS}
    asked = _encode(params) if params else ""
    schema = _schema(request.response_model) if request.response_model is not None else ""
    text = _encode(content)
    other = REQUEST_TOKENS + MESSAGE_TOKENS * len(content) + media.tokens
    tokens = _bytes(text)
    if asked or schema:
        factor = 1
        if schema or any(name in SCHEMAS for asked_for in asked_in(request) for name in asked_for):
            factor = REF_FACTOR if '"$ref"' in asked or '"$ref"' in schema else SCHEMA_FACTOR
            other += TOOL_PROMPT_TOKENS
        tokens += factor * (_bytes(asked) + _bytes(schema))
    return Size(
        texts=(text, asked, schema),
        text_tokens=tokens,
        other_tokens=other,
        prediction=predicted(request),
        media=media.found,
        unknown=media.unknown or _elsewhere(request),
        hour='"1h"' in text or '"1h"' in asked,
        fast='"fast"' in asked,
    )


def predicted(request: Request) -> int:
    """How many tokens of `prediction` there are at most."""
    return sum(_bytes(_encode(each["prediction"])) for each in asked_in(request) if each.get("prediction"))


def count(request: Request, size: Size) -> Size:
    """*size* with the text counted, never above that of its bytes: LiteLLM's tokenizer takes a while to load."""
    factor = 1 if _is_openais(request) else OTHERS_FACTOR
    tokens = sum(litellm().token_counter(model=request.model, text=text) for text in size.texts if text)
    if any(name in SCHEMAS for asked in asked_in(request) for name in asked) or request.response_model is not None:
        factor *= SCHEMA_FACTOR
    return replace(size, text_tokens=min(size.text_tokens, factor * tokens))


def _is_openais(request: Request) -> bool:
    return request.provider in ("openai", "azure", "") and "gpt-4" in request.model


class Media:
    """Takes out of messages what is not text, and sums it up."""

    def __init__(self, request: Request) -> None:
        self.tokens, self.found, self.unknown = 0, False, ""
        mini = "gpt-4o-mini" in request.model
        self._image_tokens = MINI_IMAGE_TOKENS if mini else KNOWN_IMAGE_TOKENS.get(request.provider, IMAGE_TOKENS)

    def without(self, messages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The messages without media."""
        return [self._text_of(message) for message in messages]

    def inputs(self, inputs: Iterable[Any]) -> list[Any]:
        """The inputs of an embedding; media among them are of unknown size."""
        texts = list(inputs)
        if any(isinstance(text, str) and text.startswith(("data:", "s3://", "gs://")) for text in texts):
            self._unknown("a file among the inputs")
        return texts

    def _text_of(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        content = message.get("content")
        if "audio" in message:
            self._unknown("an earlier answer's sound")
        if images := message.get("images"):
            for image in images:
                self._image(image)
            message = {name: value for name, value in message.items() if name != "images"}
        if not isinstance(content, (list, tuple)):
            return message
        return {**message, "content": [self._text_in(part) for part in content]}

    def _text_in(self, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, Mapping) else "text"
        if kind in TEXT_PARTS:
            return part
        if kind in IMAGE_PARTS:
            self._image(part)
        elif kind == "input_audio":
            self._audio(part.get("input_audio"))
        else:
            self._unknown(f"a content part of type {kind!r}")
        return {"type": kind, "cache_control": part.get("cache_control")}

    def _image(self, part: Any) -> None:
        image = part.get("image_url", part) if isinstance(part, Mapping) else part
        address = str(image.get("url", "") if isinstance(image, Mapping) else image)[:2048].lower()
        kind = str(image.get("format") or "") if isinstance(image, Mapping) else ""
        ends = address.partition("?")[0].endswith(
            (".pdf", ".mp4", ".mov", ".mpeg", ".mpg", ".webm", ".avi", ".mp3", ".wav")
        )
        if (
            (address.startswith("data:") and not address.startswith("data:image/"))
            or ends
            or not "image/".startswith(kind[:6])
        ):
            self._unknown("a file in place of an image")
        self.found = True
        self.tokens += self._image_tokens

    def _audio(self, audio: Any) -> None:
        data = audio.get("data") if isinstance(audio, Mapping) else None
        if not isinstance(data, str) or data.startswith(("http:", "https:", "gs:")):
            self._unknown("sound by address")
            return
        self.found = True
        self.tokens += max(len(data) // AUDIO_CHARS_A_TOKEN + 1, AUDIO_TOKENS)

    def _unknown(self, what: str) -> None:
        self.found, self.unknown = True, what


def _elsewhere(request: Request) -> str:
    """What the provider has or fetches for itself."""
    for asked in asked_in(request):
        if name := next((name for name in ELSEWHERE if asked.get(name)), ""):
            return f"{name}="
        for tool in asked.get("tools") or ():
            kind = tool.get("type", "function" if "name" in tool else "") if isinstance(tool, dict) else ""
            if not str(kind).startswith(CALLERS_TOOLS):
                return f"the provider's tool {kind or next(iter(tool), '')!r}"
    return ""


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


@functools.lru_cache(maxsize=256)
def _schema(response_model: Any) -> str:
    return _encode(response_model.model_json_schema())
