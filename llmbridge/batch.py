"""A batch: many questions in a file, asked within limits; their answers in another one, each paid once.

A line of the answers is written after the answer is in the cache (a verb returns after that), in one write at the end
of the file. So whatever ends the process, an answer is in the file, or in the cache, or was still under way; and what
was half written is cut off and comes from the cache.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbridge import request
from llmbridge.errors import BudgetExceeded, LLMBridgeError
from llmbridge.params import TRANSPORT


if TYPE_CHECKING:
    from llmbridge.bridge import Bridge
    from llmbridge.completion import Completion
    from llmbridge.record import CallRecord

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SHOWN = 10  # mistakes of a file, in one message
URL = "/v1/chat/completions"
WHOLE = frozenset({"budget", "cache", "deadline_s"})
HEADS = (b'{"id": ', b'{"custom_id": ')  # of what is written here


@dataclass(frozen=True, slots=True)
class Line:
    """One question of a file. `is_openai`: it came in the format of OpenAI's batches, and so goes its answer."""

    number: int
    id: str | int
    messages: Any
    model: str | None
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    is_openai: bool

    @property
    def key(self) -> str:
        """By which it is known among the answers."""
        return str(self.id)

    def arguments(self, model: Any, tags: Mapping[str, str], params: Mapping[str, Any]) -> dict[str, Any]:
        """What a Bridge's verb takes; *model* goes before the line's own, the line's tags and params before others."""
        return {"model": model or self.model, "tags": {**tags, **self.tags} or None, **params, **self.params}


Arguments = Callable[[Line], dict[str, Any]]


def read_lines(lines: Iterable[str], name: str) -> list[Line]:
    """The questions in *lines*, as OpenAI's batches have them ({"custom_id", "method", "url", "body"}) or plain ({"id",
    "prompt" or "messages", and parameters}). Raises ValueError, which says of each mistake on which line it is."""
    found: list[Line] = []
    seen: dict[str, int] = {}
    wrong: list[str] = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = _line(number, text)
            if (first := seen.setdefault(line.key, number)) != number:
                raise ValueError(f"the id {line.id!r} stands on line {first} already")
            found.append(line)
        except (TypeError, ValueError, RecursionError) as error:
            wrong.append(f"{name}, line {number}: {error}")
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more lines"] if len(wrong) > SHOWN else []
        raise ValueError("\n".join([*wrong[:SHOWN], *more, "Nothing was sent."]))
    if not found:
        raise ValueError(f"{name} holds no questions")
    return found


def _line(number: int, text: str) -> Line:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    is_openai = "custom_id" in said or "body" in said
    id, body = _openai(said) if is_openai else _plain(said)
    body = {name: value for name, value in body.items() if (name, value) != ("stream", False)}
    model, tags = body.pop("model", None), request.check_tags(body.pop("tags", None) or {})
    messages = body.pop("messages", None)
    if messages is None:
        raise ValueError("there are no messages")
    if model is not None:
        request.models_of(model)
    if outside := TRANSPORT & body.keys():
        # or a file from elsewhere could have a key sent to its author
        raise ValueError(f"{min(outside)!r} belongs into the configuration, not among the questions")
    if outside := WHOLE & body.keys():
        raise ValueError(f"{min(outside)!r} is for the whole batch, not for a line of it")
    request.chat(messages, dict(body), None)
    return Line(number, id, messages, model, tags, body, is_openai)


def _openai(said: dict[str, Any]) -> tuple[str | int, dict[str, Any]]:
    if said.get("method", "POST") != "POST" or said.get("url", URL) != URL:
        raise ValueError(f"only POST {URL} is known, not {said.get('method')} {said.get('url')}")
    if not isinstance(said.get("body"), dict):
        raise ValueError("there is no 'body', which is an object")
    return _id(said, "custom_id"), dict(said["body"])


def _plain(said: dict[str, Any]) -> tuple[str | int, dict[str, Any]]:
    body = {name: value for name, value in said.items() if name not in ("id", "prompt")}
    if "prompt" in said:
        if "messages" in said or not isinstance(said["prompt"], str):
            raise ValueError("'prompt' is a text, and stands instead of 'messages'")
        body["messages"] = said["prompt"]
    return _id(said, "id"), body


def _id(said: dict[str, Any], name: str) -> str | int:
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError(f"{name!r} is missing: a text or a number by which its answer is known")
    return value


class Answers:
    """The file that answers are added to. One process at a time writes to it; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[str] = set()
        self._file = -1

    def __enter__(self) -> Answers:
        """Raises ValueError if it cannot be written to, another process does, or it holds something else."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror}") from None
        try:
            self._lock()
            self._repair()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def add(self, answer: Mapping[str, Any]) -> None:
        """Write a line. Raises OSError."""
        left = memoryview(_dumped(answer))
        while left:  # of a disk that is full, a part may have been taken
            left = left[os.write(self._file, left) :]

    def clear(self) -> None:
        """Begin anew."""
        os.ftruncate(self._file, 0)

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing to {self.path}; wait for it, or name another file") from None

    def _repair(self) -> None:
        """Learn what is answered, and take off a last line that was not written to its end."""
        whole = 0
        with open(self._file, "rb", closefd=False) as file:
            for number, text in enumerate(file, 1):
                if not text.endswith(b"\n") and not self._is_whole(text):
                    if number == 1 and not any(head.startswith(text[: len(head)]) for head in HEADS):
                        raise self._foreign(number)  # not torn off here
                    break
                self.done.add(self._known_as(text, number))
                whole += len(text)
        os.ftruncate(self._file, whole)
        if whole and os.pread(self._file, 1, whole - 1) != b"\n":  # somebody has edited it
            os.write(self._file, b"\n")

    def _is_whole(self, text: bytes) -> bool:
        try:
            return isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            return False

    def _known_as(self, text: bytes, number: int) -> str:
        try:
            said = json.loads(text)
            return str(said["custom_id"] if "custom_id" in said else said["id"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._foreign(number) from None

    def _foreign(self, number: int) -> ValueError:
        return ValueError(f"{self.path}, line {number} is no answer of a batch; name a file that may be added to")


def errors_path(out: Path) -> Path:
    """Where the failures of the batch that writes to *out* are: answers.errors.jsonl beside answers.jsonl."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.errors.jsonl")


@dataclass(slots=True)
class Tally:
    """How far a batch is.

    Attributes:
        lines: all of them, `before` of them answered by an earlier run.
        answered: by this run, `cached` of them without a request.
        failed: by this run; `refused` of them by a budget. `errors` counts them by what they say.
        cost_usd: what this run's calls cost, failures too, as far as it is known; `unknown` calls have no price.
        saved_usd: what the cached ones would have cost.
    """

    lines: int
    before: int = 0
    answered: int = 0
    cached: int = 0
    failed: int = 0
    refused: int = 0
    cost_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)
    unknown: int = 0
    duration_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> int:
        """Lines without an answer that were not tried either."""
        return self.lines - self.before - self.answered - self.failed

    def count(self, record: CallRecord) -> None:
        """Add what a call took."""
        if record.cost_usd is None:
            self.unknown += 1
        self.cost_usd += record.cost_usd or 0
        self.saved_usd += record.saved_usd or 0


class Batch:
    """Ask *lines* of *bridge*, at most *concurrency* at a time, and add what comes to *answers* and *failures*.

    `arguments(line)` is what the verb takes for it. `stop()` lets those under way end and begins no more.
    """

    def __init__(
        self,
        bridge: Bridge,
        lines: Sequence[Line],
        answers: Answers,
        failures: Answers,
        arguments: Arguments,
        concurrency: int,
    ) -> None:
        waiting = [line for line in lines if line.key not in answers.done]
        self.tally = Tally(len(lines), before=len(lines) - len(waiting))
        self._bridge, self._answers, self._failures = bridge, answers, failures
        self._arguments, self._concurrency = arguments, concurrency
        self._waiting = deque(waiting)
        self._under_way = 0
        self._room = asyncio.Event()
        self._stopped = False
        self._broken: OSError | None = None

    @property
    def under_way(self) -> int:
        """How many calls are."""
        return self._under_way

    def stop(self) -> None:
        """Begin no more calls."""
        self._stopped = True
        self._room.set()

    async def run(self) -> None:
        """Ask them all. Raises OSError if the answers cannot be written; they are in the cache then."""
        started = time.monotonic()
        unsubscribe = self._bridge.subscribe(self.tally.count)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(self._waiting))):
                    group.create_task(self._work())
        finally:
            unsubscribe()
            self.tally.duration_s = time.monotonic() - started
        if self._broken is not None:
            raise self._broken

    async def _work(self) -> None:
        while self._waiting and not self._stopped:
            line = self._waiting.popleft()
            while not await self._ask(line) and not self._stopped:
                self._room.clear()
                await self._room.wait()

    async def _ask(self, line: Line) -> bool:
        """Whether there is no more to do for *line*. There is if a budget has no room for it as long as others of
        this batch hold their worst cases, of which some will be given back."""
        admitted = True
        self._under_way += 1
        try:
            self._answered(line, await self._bridge.acomplete(line.messages, **self._arguments(line)))
        except BudgetExceeded as error:
            admitted = False
            if self._under_way > 1 and error.reserved and error.needed <= error.limit:
                return False
            self._failed(line, error)
        except (LLMBridgeError, TypeError, ValueError) as error:
            self._failed(line, error)
        finally:
            self._under_way -= 1
            if admitted or not self._under_way:
                self._room.set()
        return True

    def _answered(self, line: Line, completion: Completion) -> None:
        self._write(self._answers, _answer(line, completion))
        self.tally.answered += 1
        self.tally.cached += completion.cached

    def _failed(self, line: Line, error: Exception) -> None:
        self._write(self._failures, _failure(line, error))
        self.tally.failed += 1
        self.tally.refused += isinstance(error, BudgetExceeded)
        self.tally.errors[type(error).__name__] += 1

    def _write(self, file: Answers, what: dict[str, Any]) -> None:
        if self._broken is not None:
            return  # after half a line, nothing may follow
        try:
            file.add(what)
        except OSError as error:  # those under way end, and are kept
            self._broken = error
            self.stop()


def _answer(line: Line, completion: Completion) -> dict[str, Any]:
    took = {
        "cost_usd": completion.cost_usd,
        "saved_usd": completion.saved_usd,
        "cached": completion.cached,
        "call": completion.record.id,
    }
    if line.is_openai:
        body = completion.model_dump(exclude_none=True)
        response = {"status_code": 200, "request_id": completion.id, "body": body}
        return {
            "custom_id": line.id,
            "id": completion.record.id,
            "response": response,
            "error": None,
            "llmbridge": took,
        }
    said: dict[str, Any] = {"id": line.id, "text": completion.text, "model": completion.model}
    if completion.tool_calls:
        said["tool_calls"] = [call.model_dump() for call in completion.tool_calls]
    usage = None if completion.usage is None else completion.usage.model_dump(exclude_none=True)
    return {**said, "finish_reason": completion.finish_reason, "usage": usage, **took}


def _failure(line: Line, error: Exception) -> dict[str, Any]:
    said = {"code": type(error).__name__, "message": str(error), "line": line.number}
    if line.is_openai:
        return {"custom_id": line.id, "response": None, "error": said}
    return {"id": line.id, "error": said}


def _dumped(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n"
