"""The answers of a batch: a file that lines are added to, by one process at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbridge.batch.questions import Line


if TYPE_CHECKING:
    from llmbridge.completion import Completion

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HEADS = (b'{"id": ', b'{"custom_id": ')  # of what is written here


class Answers:
    """The file that answers are added to. One process at a time writes to it; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[str] = set()
        self._file = -1

    def __enter__(self) -> Answers:
        """Raises ValueError if it cannot be written to, another process does, or it holds something else."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
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
        whole, last = 0, b"\n"
        with open(self._file, "rb", closefd=False) as file:
            for number, text in enumerate(file, 1):
                if not text.endswith(b"\n") and not self._is_whole(text):
                    if number == 1 and not any(head.startswith(text[: len(head)]) for head in HEADS):
                        raise self._foreign(number)  # not torn off here
                    break
                self.done.add(self._known_as(text, number))
                whole, last = whole + len(text), text
        os.ftruncate(self._file, whole)
        if not last.endswith(b"\n"):  # somebody has edited it
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


def answer_line(line: Line, completion: Completion) -> dict[str, Any]:
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


def failure_line(line: Line, error: Exception) -> dict[str, Any]:
    said = {"code": type(error).__name__, "message": str(error), "line": line.number}
    if line.is_openai:
        return {"custom_id": line.id, "response": None, "error": said}
    return {"id": line.id, "error": said}


def _dumped(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n"
