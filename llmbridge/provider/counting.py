"""How many tokens messages are, by LiteLLM's tokenizers. What a request can be at most is in sizes.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmbridge.provider.loading import litellm
from llmbridge.request import Messages, Request, chat


COUNTED = frozenset({"text", "image_url", "tool_use", "tool_result", "thinking"})  # kinds of parts that LiteLLM counts
TEXTS = frozenset({"input_text", "output_text", "refusal"})
MEDIA = {"type": "image_url", "image_url": {"url": "data:"}}
MEDIA_TOKENS = 250  # LiteLLM's, without a look at the image: it would fetch it
ABOUT = ("tools", "functions", "response_format")


def count_tokens(messages: Messages, *, model: str, tools: Sequence[Mapping[str, Any]] | None = None) -> int:
    """How many tokens *messages* are as input of *model*, with the definitions of *tools*.

    By LiteLLM's tokenizer, which is OpenAI's own; other models make up to half as many more of the same text. An image,
    a sound and a file are 250 each, whatever their size. Imports LiteLLM (2 to 3 s, once a process); sends nothing.
    Raises TypeError or ValueError for what are no messages.
    """
    asked = chat(messages, {"tools": list(tools)} if tools else {}, None)
    return sum(message_tokens(model, each) for each in asked.content) + beside_tokens(model, asked)


def message_tokens(model: str, message: Mapping[str, Any]) -> int:
    """The tokens of one message."""
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        message = {**message, "content": [_countable(part) for part in content]}
    return int(litellm().token_counter(model=model, messages=[dict(message)], use_default_image_token_count=True))


def beside_tokens(model: str, request: Request) -> int:
    """The tokens of what stands beside the messages: tools and schemas."""
    told = beside(request)
    return int(litellm().token_counter(model=model, text=told)) if told else 0


def surely_fits(request: Request, tokens: int) -> bool:
    """Whether *request* cannot be more than *tokens*, which its bytes may tell: without LiteLLM."""
    contents = [message.get("content") for message in request.content]
    parts = sum(len(content) for content in contents if isinstance(content, (list, tuple)))
    text = json.dumps(request.content, ensure_ascii=False, default=str) + beside(request)
    return len(text.encode()) + MEDIA_TOKENS * parts <= tokens


def beside(request: Request) -> str:
    """What stands beside the messages of *request*, as JSON: tools and schemas."""
    told = [request.params[name] for name in ABOUT if request.params.get(name)]
    if request.response_model is not None:
        told.append(request.response_model.model_json_schema())
    return json.dumps(told, ensure_ascii=False, default=str) if told else ""


def _countable(part: Any) -> Any:
    if isinstance(part, str) or part.get("type") in COUNTED:
        return part
    if part.get("type") in TEXTS:
        return {"type": "text", "text": str(part.get("text") or part.get("refusal") or "")}
    return MEDIA
