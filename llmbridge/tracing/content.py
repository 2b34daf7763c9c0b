"""Prompts and answers on the trace: off, unless the environment asks for them.

OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is NO_CONTENT, SPAN_ONLY, EVENT_ONLY or SPAN_AND_EVENT. What is
captured is redacted, each text is cut to 8,000 characters before it becomes JSON, and no image or sound leaves the
process: of those the trace has the kind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmbridge import semconv
from llmbridge.redaction import redact
from llmbridge.tracing.attributes import whole
from llmbridge.tracing.harmless import once


if TYPE_CHECKING:
    from opentelemetry.context import Context

    from llmbridge.completion import Completion, Embedding
    from llmbridge.record import CallRecord
    from llmbridge.request import Request

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
MODES = ("NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT")
LONGEST_TEXT = 8_000
MOST_CHARACTERS = 400_000  # of one attribute: collectors refuse a message of some megabytes
MOST_PARTS = 50  # of one message
_MODALITIES = {"image_url": "image", "input_audio": "audio", "video_url": "video"}
Part = dict[str, Any]


def mode() -> str:
    """What the environment asks for now."""
    asked = os.environ.get(VARIABLE)
    if not asked:
        return "NO_CONTENT"
    if asked.strip().upper() in MODES:
        return asked.strip().upper()
    once(VARIABLE, "%s is one of %s, not %r: no content is captured", VARIABLE, ", ".join(MODES), asked)
    return "NO_CONTENT"


def wanted() -> bool:
    """Whether content goes anywhere."""
    return mode() != "NO_CONTENT"


def on_span() -> bool:
    """Whether content goes onto the span."""
    return mode() in ("SPAN_ONLY", "SPAN_AND_EVENT")


def as_event() -> bool:
    """Whether content goes into a log event."""
    return mode() in ("EVENT_ONLY", "SPAN_AND_EVENT")


def of_request(request: Request) -> dict[str, str]:
    """What was asked, as JSON texts by attribute. System messages at its head stand apart."""
    messages = list(request.content)
    system: list[Part] = []
    while messages and messages[0].get("role") in ("system", "developer"):
        system += _parts(messages.pop(0))
    found = {semconv.INPUT_MESSAGES: _json([_message(message) for message in messages])}
    if system:
        found[semconv.SYSTEM_INSTRUCTIONS] = _json(system)
    tools = request.params.get("tools")
    if tools:
        found[semconv.TOOL_DEFINITIONS] = _json([_tool(tool) for tool in tools])
    return found


def of_answer(answer: Completion | Embedding) -> dict[str, str]:
    """What was answered, as a JSON text by attribute."""
    said = []
    for choice in getattr(answer, "choices", ()):
        message = _message(choice.message.model_dump(exclude_none=True))
        said.append({**message, "finish_reason": choice.finish_reason or "error"})
    return {semconv.OUTPUT_MESSAGES: _json(said)}


def emit(content: Mapping[str, str], context: Context, record: CallRecord) -> None:
    """Hand *content* to whoever collects OpenTelemetry's log events."""
    from opentelemetry._logs import LogRecord, SeverityNumber, get_logger

    attributes = {semconv.OPERATION: record.verb, semconv.CALL_ID: record.id, **content}
    logger = get_logger(semconv.SCOPE)
    logger.emit(
        LogRecord(
            event_name=semconv.CONTENT_EVENT,
            severity_number=SeverityNumber.INFO,
            context=context,
            attributes=attributes,
        )
    )


def _message(message: Mapping[str, Any]) -> Part:
    parts = _parts(message)
    if len(parts) > MOST_PARTS:
        left_out = len(parts) - MOST_PARTS
        parts[MOST_PARTS:] = [{"type": "text", "content": f"({left_out} parts are left out here)"}]
    return {"role": message.get("role", "user"), "parts": parts}


def _parts(message: Mapping[str, Any]) -> list[Part]:
    content = message.get("content")
    if message.get("role") in ("tool", "function"):
        name = message.get("tool_call_id") or message.get("name")
        return [{"type": "tool_call_response", "id": name, "response": _text(content)}]
    parts: list[Part] = []
    if message.get("reasoning_content"):
        parts.append({"type": "reasoning", "content": _text(message["reasoning_content"])})
    if isinstance(content, str):
        parts.append({"type": "text", "content": _text(content)})
    else:
        parts += [_part(part) for part in content or ()]
    if message.get("refusal"):
        parts.append({"type": "refusal", "content": _text(message["refusal"])})
    return parts + [_tool_call(call) for call in _calls(message)]


def _part(part: Any) -> Part:
    if isinstance(part, str):
        return {"type": "text", "content": _text(part)}
    kind = str(part.get("type", ""))
    if kind in ("text", "input_text", "output_text"):
        return {"type": "text", "content": _text(part.get("text"))}
    return {"type": "blob", "modality": _MODALITIES.get(kind, _text(kind) or "unknown")}


def _calls(message: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield from message.get("tool_calls") or ()
    if message.get("function_call"):
        yield {"function": message["function_call"]}


def _tool_call(call: Mapping[str, Any]) -> Part:
    function = call.get("function") or {}
    arguments = _loaded(_text(function.get("arguments")))
    return {"type": "tool_call", "id": call.get("id"), "name": function.get("name"), "arguments": arguments}


def _loaded(text: str) -> Any:
    """JSON as what it says, to stand as such inside other JSON; what was cut, or is none, as the text that it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _tool(tool: Mapping[str, Any]) -> Part:
    function = tool.get("function") or tool
    found = {"type": tool.get("type", "function"), "name": function.get("name")}
    if function.get("description"):
        found["description"] = _text(function["description"])
    if function.get("parameters"):
        found["parameters"] = _loaded(_text(function["parameters"]))
    return found


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str)
    return whole(redact(text, limit=LONGEST_TEXT))


def _json(items: Sequence[Part]) -> str:
    """*items* as one JSON text; those in the middle are left out if it would be too long for a collector."""
    texts = [json.dumps(item, ensure_ascii=False, default=str) for item in items]
    left_out, characters = 0, sum(map(len, texts))
    while len(texts) > 2 and characters > MOST_CHARACTERS:
        characters -= len(texts.pop(len(texts) // 2))
        left_out += 1
    if left_out:
        note = {"role": "system", "parts": [{"type": "text", "content": f"({left_out} messages are left out here)"}]}
        texts.insert(len(texts) // 2 + len(texts) % 2, json.dumps(note))
    return f"[{', '.join(texts)}]"
