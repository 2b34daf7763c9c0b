"""A kept answer as a recording: `from_cache` makes the HTTP that would have brought it, and sends nothing.

The cache keeps answers, and of the questions a hash alone; so whoever wants one as a recording asks it again. LiteLLM
makes the request, and is answered with the kept answer in OpenAI's shape, which is the shape that a Completion has. No
other is known here: whether LiteLLM reads it back as what was kept is looked at before anything is written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbridge.cassette.entry import Recording
from llmbridge.cassette.file import read, write
from llmbridge.cassette.replaying import Patched, own_state, patched
from llmbridge.cassette.scrubbing import scrubbed
from llmbridge.errors import AllAttemptsFailed, CassetteMiss, ConfigError, ProviderError


if TYPE_CHECKING:
    from llmbridge.completion import Completion

COMMENT = "# Made of answers that were kept in a cache, not recorded from a provider.\n"


def from_cache(path: str | Path, ask: Callable[..., Completion]) -> Completion:
    """Add the kept answer to a question to the cassette at *path*, as `replay` plays it to the same question.

    For providers of OpenAI's wire format, and answers that are not streamed. Returns the kept answer. What other
    threads of the process would send meanwhile is a CassetteMiss.

    Args:
        path: a new file, or one that was made like this.
        ask: asks the question; called as `ask(cache="only")`, and then as `ask(cache="off")`, with no way out of this
            process. For example `functools.partial(bridge.complete, "Name a fish.", model="openai/gpt-4o-mini")`.

    Raises:
        CacheMiss: the answer is not kept.
        TypeError: it is no chat's answer.
        ConfigError: *path* is a recording, or the provider speaks another format: nothing was written.
    """
    path = Path(path)
    comment, recordings = read(path) if path.exists() else (COMMENT, [])
    if comment != COMMENT:
        raise ConfigError(f"{path} was recorded, so what is made of a cache goes into another file", path=str(path))
    kept = ask(cache="only")
    if not hasattr(kept, "choices"):
        raise TypeError("only a chat's answer can be made into a recording, not an embedding or a stream")
    stand_in = _StandIn(kept)
    with ExitStack() as stack:
        stack.enter_context(own_state())
        stack.enter_context(patched(stand_in))
        try:
            same = _said(ask(cache="off")) == _said(kept)
        except (ProviderError, AllAttemptsFailed, CassetteMiss):
            same = False
    if not same or stand_in.made is None:
        why = f"{kept.model} does not speak OpenAI's wire format, and no other can be made of a kept answer"
        raise ConfigError(f"{path} was not written: {why}; record it with replay(..., record='once')", path=str(path))
    write(path, comment, [*(each.entry for each in recordings), stand_in.made.entry])
    return kept


class _StandIn(Patched):
    """Answers one request with what was kept."""

    def __init__(self, kept: Completion) -> None:
        self._kept, self._thread = kept, threading.get_ident()
        self.made: Recording | None = None

    def take(self, sent: dict[str, Any]) -> Recording:
        # The patches hold for the whole process: what another thread asks meanwhile is not to get this answer.
        if self.made is not None or sent["method"] != "POST" or threading.get_ident() != self._thread:
            raise CassetteMiss(f"{sent['method']} was not sent: one answer was kept, and one request is made for it")
        body = {"string": json.dumps(_body(self._kept)).encode()}
        headers = {"content-type": ["application/json"]}
        answer = {"status": {"code": 200, "message": "OK"}, "headers": headers, "body": body}
        self.made = Recording(scrubbed(sent, answer), played=True)
        return self.made


def _body(kept: Completion) -> dict[str, Any]:
    body = kept.model_dump(mode="json", exclude_none=True)
    usage = body.pop("usage", None) or {"estimated": True}
    if not usage.pop("estimated", False):
        body["usage"] = usage
    return {**body, "object": "chat.completion", "model": kept.model.partition("/")[2]}


def _said(answer: Completion) -> list[Any]:
    """What of an answer a caller goes by."""
    usage = answer.usage
    counts = None if usage is None or usage.estimated else (usage.prompt_tokens, usage.completion_tokens)
    return [
        counts,
        [
            (
                choice.message.content,
                choice.message.reasoning_content,
                choice.finish_reason,
                [call.model_dump() for call in choice.message.tool_calls or []],
            )
            for choice in answer.choices
        ],
    ]
