"""What a request needs, and which of it LiteLLM's table says that a model lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llmbridge.provider.rates import entry_of
from llmbridge.provider.table import CAPABILITIES
from llmbridge.request import Request


FLAGS = dict(CAPABILITIES.values())
PARTS = {
    "image_url": "supports_vision",
    "image": "supports_vision",
    "input_image": "supports_vision",
    "input_audio": "supports_audio_input",
    "file": "supports_pdf_input",
    "document": "supports_pdf_input",
}
BYTES_A_TOKEN = 4  # of English; of other languages it is fewer, so that this says too few tokens rather than too many


def needs(request: Request) -> frozenset[str]:
    """The flags of LiteLLM's table that *request* asks for."""
    if request.verb == "embeddings":
        return frozenset()
    return frozenset({*_of_parts(request.content), *_of_params(request)})


def lacks(request: Request, wanted: frozenset[str]) -> tuple[str, ...]:
    """What of *wanted* the request's model lacks, and whether the request is too long for it, in words. Empty if the
    model is not in the table: nobody knows."""
    entry = entry_of(request)
    if entry is None:
        return ()
    missing = [words for flag, words in FLAGS.items() if flag in wanted and not entry.fields.get(flag)]
    window = context_window(request)
    if window is not None and (tokens := estimated_tokens(request)) > window:
        missing.append(f"a context window of some {tokens:,} tokens (it has {window:,})")
    return tuple(missing)


def context_window(request: Request) -> int | None:
    """How many tokens of input the request's model takes; None if nobody knows."""
    entry = entry_of(request)
    window = None if entry is None else entry.fields.get("max_input_tokens")
    return window if isinstance(window, int) and window > 0 else None


def estimated_tokens(request: Request) -> int:
    """About how many tokens the text of *request* is, and rather too few: without images, sound and files."""
    ids = sum(len(each) for each in request.content if isinstance(each, (list, tuple)))  # an embedding of token ids
    return ids + sum(len(text.encode()) for text in _texts(request.content)) // BYTES_A_TOKEN


def _of_parts(content: Any) -> Iterator[str]:
    for message in content:
        parts = message.get("content")
        for part in parts if isinstance(parts, (list, tuple)) else ():
            if isinstance(part, Mapping) and part.get("type") in PARTS:
                yield PARTS[part["type"]]


def _of_params(request: Request) -> Iterator[str]:
    params = request.params
    if params.get("tools") or params.get("functions"):
        yield "supports_function_calling"
    if params.get("reasoning_effort") or params.get("thinking"):
        yield "supports_reasoning"
    wanted = params.get("response_format")
    if request.response_model is not None or (isinstance(wanted, Mapping) and wanted.get("type") == "json_schema"):
        yield "supports_response_schema"


def _texts(content: Any) -> Iterator[str]:
    for message in content:
        if isinstance(message, str):
            yield message
            continue
        if not isinstance(message, Mapping):
            continue
        said = message.get("content")
        for part in [said] if isinstance(said, str) else said or ():
            if isinstance(part, str):
                yield part
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]
        if message.get("tool_calls"):
            yield json.dumps(message["tool_calls"], default=str)
