"""Calls as the trace sees them: their records and requests, without anybody being asked."""

from __future__ import annotations

import time
from typing import Any

from llmbridge.completion import Completion
from llmbridge.record import AttemptRecord, CallRecord, new_id
from llmbridge.request import Model, Request, chat


MODEL = "openai/gpt-4o-mini"


def request(model: str | Model = MODEL, messages: Any = "Name a fish.", **params: Any) -> Request:
    asked = model if isinstance(model, Model) else Model(model)
    return chat(messages, params, None).for_model(asked)


def call(*attempts: AttemptRecord, **fields: Any) -> CallRecord:
    given: dict[str, Any] = {"verb": "chat", "models": (MODEL,), "outcome": "answered", **fields}
    return CallRecord(id=new_id(), started_at=time.time(), attempts=attempts, **given)


def attempt(**fields: Any) -> AttemptRecord:
    given: dict[str, Any] = {"number": 1, "model": MODEL, "provider": "openai", "reason": "initial"}
    return AttemptRecord(**{**given, "outcome": "answered", **fields})


def completion(text: str = "A pike.", **message: Any) -> Completion:
    said = {"role": "assistant", "content": text, **message}
    choices = [{"index": 0, "finish_reason": "stop", "message": said}]
    return Completion.model_validate({"id": "chatcmpl-1", "created": 0, "model": MODEL, "choices": choices})
