"""Models that need no recording, no key and no network: `mock/echo`, `mock/fixed`, `mock/fail`.

They are a provider of LiteLLM's (its custom provider hook), so a call to one runs through all that a call to a real one
does. Options go into `provider_params`: Model("mock/fail", params={"provider_params": {"mock": {"seed": 7}}}).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from llmbridge.exchange import current


PROVIDER = "mock"
MODELS = ("echo", "fixed", "fail")
BYTES_A_TOKEN = 4
LIMITS = {"max_input_tokens": 1_000_000, "max_output_tokens": 4_096, "litellm_provider": PROVIDER, "mode": "chat"}


@dataclass(frozen=True, slots=True)
class Mock:
    """What a mock model does.

    Attributes:
        text: what it answers; by default `mock/echo` says the last message again, the others say "Fixed.".
        seed, error_rate: each question fails with that probability, by a sequence of random numbers that begins anew
            with `reset()`. By default `mock/fail` always fails, the others never.
        status, retry_after_s, error: what a failure is: HTTP status, header and words.
        latency_s: how long it takes to the answer, or to its first chunk.
        input_tokens, output_tokens: what it says it used; by default a token for every four bytes.
        vector_size: how long its embeddings are.
    """

    text: str | None = None
    seed: int = 0
    error_rate: float | None = None
    status: int = 503
    retry_after_s: float | None = None
    error: str = "this mock fails"
    latency_s: float = 0.0
    input_tokens: int | None = None
    output_tokens: int | None = None
    vector_size: int = 8


class MockFailed(Exception):
    """What a mock model answers in the place of an answer."""


_lock = threading.Lock()
_sequences: dict[tuple[str, int], random.Random] = {}


def reset() -> None:
    """Begin every sequence of failures anew."""
    with _lock:
        _sequences.clear()


def register(litellm: Any) -> None:
    """Make LiteLLM know the mock models, unless it knows a provider of that name; and again, if it was told others."""
    if not any(each["provider"] == PROVIDER for each in litellm.custom_provider_map):
        litellm.custom_provider_map = [*litellm.custom_provider_map, {"provider": PROVIDER, "custom_handler": _asked()}]
        litellm.utils.custom_llm_setup()
        for name in MODELS:
            litellm.model_cost.setdefault(f"{PROVIDER}/{name}", dict(LIMITS))


@functools.cache
def _asked() -> Any:
    from litellm.llms.custom_llm import CustomLLM

    class Mocks(CustomLLM):
        def completion(self, *_: Any, **asked: Any) -> Any:
            mock = _mock(asked)
            _wait(mock)
            return _filled(asked, mock)

        async def acompletion(self, *_: Any, **asked: Any) -> Any:
            mock = _mock(asked)
            await _await(mock)
            return _filled(asked, mock)

        def streaming(self, *_: Any, **asked: Any) -> Any:
            mock = _mock(asked)
            _wait(mock)
            _answered(asked, mock)
            return iter(_chunks(asked, mock))

        async def astreaming(self, *_: Any, **asked: Any) -> Any:
            mock = _mock(asked)
            await _await(mock)
            _answered(asked, mock)
            for chunk in _chunks(asked, mock):
                yield chunk

        def embedding(self, *_: Any, **asked: Any) -> Any:
            mock = _mock(asked)
            _wait(mock)
            return _embedded(asked, mock)

        async def aembedding(self, *_: Any, **asked: Any) -> Any:
            mock = _mock(asked)
            await _await(mock)
            return _embedded(asked, mock)

    return Mocks()


def _mock(asked: Mapping[str, Any]) -> Mock:
    exchange = current.get()
    if exchange is not None:  # as if it went over the wire: status and headers decide what an error means
        exchange.watched, exchange.requests = True, 1
    options = asked["optional_params"].get(PROVIDER) or {}
    wrong = sorted(set(options) - set(Mock.__slots__))
    if asked["model"] in MODELS and not wrong:
        return Mock(**options)
    if exchange is not None:
        exchange.response = httpx.Response(400)
    if wrong:
        raise MockFailed(f"a mock model has no option {wrong[0]!r}: they are {', '.join(Mock.__slots__)}")
    raise MockFailed(f"there is no mock/{asked['model']}: it is one of {', '.join(MODELS)}")


def _left_s(mock: Mock) -> tuple[float, bool]:
    """How long to wait, and whether that is all."""
    exchange = current.get()
    left_s = exchange.left_s() if exchange is not None else None
    return (mock.latency_s, True) if left_s is None or mock.latency_s <= left_s else (left_s, False)


def _wait(mock: Mock) -> None:
    pause_s, enough = _left_s(mock)
    if pause_s:
        time.sleep(pause_s)
    if not enough:
        raise httpx.ReadTimeout("the mock took longer than there was time")


async def _await(mock: Mock) -> None:
    pause_s, enough = _left_s(mock)
    if pause_s:
        await asyncio.sleep(pause_s)
    if not enough:
        raise httpx.ReadTimeout("the mock took longer than there was time")


def _answered(asked: Mapping[str, Any], mock: Mock) -> None:
    """Note status and headers. Raises MockFailed if it is this question's turn to fail."""
    fails = _fails(asked["model"], mock)
    wait_s = {} if mock.retry_after_s is None or not fails else {"retry-after": f"{mock.retry_after_s:g}"}
    exchange = current.get()
    if exchange is not None:
        exchange.host = PROVIDER
        exchange.response = httpx.Response(mock.status if fails else 200, headers=wait_s)
    if fails:
        raise MockFailed(mock.error)


def _fails(model: str, mock: Mock) -> bool:
    rate = mock.error_rate if mock.error_rate is not None else float(model == "fail")
    with _lock:
        sequence = _sequences.setdefault((model, mock.seed), random.Random(mock.seed))
        return sequence.random() < rate


def _said(asked: Mapping[str, Any], mock: Mock) -> tuple[str, str, dict[str, int]]:
    """Text, finish reason and token counts."""
    text = (
        mock.text if mock.text is not None else _text(asked["messages"][-1]) if asked["model"] == "echo" else "Fixed."
    )
    used = _tokens(text) if mock.output_tokens is None else mock.output_tokens
    params = asked["optional_params"]
    cap, finish = params.get("max_completion_tokens") or params.get("max_tokens") or used, "stop"
    if used > cap:
        text, used, finish = text.encode()[: cap * BYTES_A_TOKEN].decode("utf-8", "ignore"), cap, "length"
    told = sum(_tokens(_text(message)) for message in asked["messages"])
    told = told if mock.input_tokens is None else mock.input_tokens
    return text, finish, {"prompt_tokens": told, "completion_tokens": used, "total_tokens": told + used}


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in content)


def _tokens(text: str) -> int:
    return max(len(text.encode()) // BYTES_A_TOKEN, 1)


def _filled(asked: Mapping[str, Any], mock: Mock) -> Any:
    from litellm import Usage

    _answered(asked, mock)
    text, finish, usage = _said(asked, mock)
    answer = asked["model_response"]
    answer.model, answer.created = asked["model"], int(time.time())
    answer.choices[0].message.content, answer.choices[0].finish_reason = text, finish
    answer.usage = Usage(**usage)
    return answer


def _chunks(asked: Mapping[str, Any], mock: Mock) -> list[dict[str, Any]]:
    text, finish, usage = _said(asked, mock)
    words = text.split(" ")
    pieces = [word + " " * (number < len(words)) for number, word in enumerate(words, 1)]
    empty = {"is_finished": False, "finish_reason": "", "usage": None, "index": 0, "tool_use": None}
    end = {**empty, "text": "", "is_finished": True, "finish_reason": finish, "usage": usage}
    return [*({**empty, "text": piece} for piece in pieces), end]


def _embedded(asked: Mapping[str, Any], mock: Mock) -> Any:
    from litellm import Usage

    _answered(asked, mock)
    inputs = [text if isinstance(text, str) else repr(text) for text in asked["input"]]
    told = sum(map(_tokens, inputs)) if mock.input_tokens is None else mock.input_tokens
    answer = asked["model_response"]
    answer.model = asked["model"]
    answer.data = [
        {"object": "embedding", "index": index, "embedding": _vector(text, mock.vector_size)}
        for index, text in enumerate(inputs)
    ]
    answer.usage = Usage(prompt_tokens=told, completion_tokens=0, total_tokens=told)
    return answer


def _vector(text: str, size: int) -> list[float]:
    numbers = random.Random(hashlib.sha256(text.encode()).digest())
    return [round(numbers.uniform(-1, 1), 6) for _ in range(size)]
