"""Truncation: a prompt that is longer than the caller allows is refused, or made to fit, before anything else is done.

LiteLLM's trim_messages is not used: it cuts and merges system messages, drops a tool call and keeps its result, and
returns the messages as they were when it fails. Here nothing is cut but, on demand, the middle of a user's text: a
message goes whole, and a tool call with its results.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from llmbridge import provider
from llmbridge.params import PROMPT, Truncate
from llmbridge.request import Request


log = logging.getLogger("llmbridge")
CUT = "\n[...]\n"
TRIES = 12  # at a cut that leaves few enough tokens, each a tenth shorter


def fitted(
    asked: Request, model: str, max_input_tokens: int | None = None, truncate: Truncate | None = None
) -> Request:
    """*asked* with at most *max_input_tokens* of input, counted for *model*.

    Args:
        truncate: "error" (the default): refuse what is longer. "oldest": leave out the oldest messages. "middle": leave
            out those between the first and the latest, from the middle on, then the middle of the longest user's text,
            and write "[...]" there.

    System messages are never touched, the latest user's message and what came last always stay, and a tool's result
    stays, or goes, with its call. Raises ValueError if it does not fit. Loads LiteLLM's tokenizer, unless the bytes say
    that it fits.
    """
    _check(max_input_tokens, truncate)
    if max_input_tokens is None or provider.surely_fits(asked, max_input_tokens):
        return asked
    prompt = _Prompt(asked, model, max_input_tokens)
    if prompt.excess > 0 and truncate == "oldest":
        prompt.leave_out_oldest()
    elif prompt.excess > 0 and truncate == "middle":
        prompt.leave_out_middle()
        if prompt.excess > 0:
            prompt.cut()
    if prompt.excess > 0:
        raise ValueError(_too_long(prompt.tokens, max_input_tokens, truncate))
    content = prompt.content()
    if len(content) < len(asked.content):
        log.info(
            "%d of %d messages left out: max_input_tokens is %d",
            len(asked.content) - len(content),
            len(asked.content),
            max_input_tokens,
        )
    return replace(asked, content=content) if truncate in ("oldest", "middle") else asked


def prompt_params(params: Any) -> dict[str, Any]:
    """What in *params* is about the length of the prompt, taken out of them."""
    return {name: value for name in PROMPT if (value := params.pop(name, None)) is not None}


def checked_prompt(max_input_tokens: int | None, truncate: Truncate | None) -> dict[str, Any]:
    """The same of a Bridge's arguments. Raises ValueError for what can never apply."""
    _check(max_input_tokens, truncate)
    return prompt_params({"max_input_tokens": max_input_tokens, "truncate": truncate})


def _check(most: Any, truncate: Any) -> None:
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ValueError(f"max_input_tokens is a whole number of tokens above 0, not {most!r}")
    if truncate is not None and truncate not in get_args(Truncate):
        raise ValueError(f"truncate is one of {', '.join(map(repr, get_args(Truncate)))}, not {truncate!r}")
    if truncate is not None and most is None:
        raise ValueError("truncate= needs max_input_tokens=, the number of tokens to fit into")


def _too_long(tokens: int, most: int, truncate: Truncate | None) -> str:
    if truncate in ("oldest", "middle"):
        more = ", or give truncate='middle'" if truncate == "oldest" else ""
        return (
            f"what has to stay of the prompt (system messages, the latest question and what follows it) is {tokens:,}"
            f" tokens and max_input_tokens is {most:,}; nothing was sent; shorten it{more}"
        )
    return (
        f"the prompt is {tokens:,} tokens and max_input_tokens is {most:,}; nothing was sent; shorten it, or give"
        " truncate='oldest' or 'middle'"
    )


@dataclass(slots=True)
class _Unit:
    """Messages that stay or go together."""

    messages: list[Mapping[str, Any]]
    places: list[int]
    tokens: int = 0
    kept: bool = True

    @property
    def role(self) -> str:
        return str(self.messages[0]["role"])


class _Prompt:
    def __init__(self, asked: Request, model: str, most: int) -> None:
        self._model, self._most = model, most
        self._about = provider.beside_tokens(model, asked)
        self._units = _units(asked.content)
        for unit in self._units:
            unit.tokens = sum(provider.message_tokens(model, each) for each in unit.messages)
        said = [unit for unit in self._units if unit.role not in ("system", "developer")]
        users = [unit for unit in said if unit.role == "user"]
        self._said = said
        self._stays = [*said[-1:], *users[-1:]]

    @property
    def tokens(self) -> int:
        return self._about + sum(unit.tokens for unit in self._units if unit.kept)

    @property
    def excess(self) -> int:
        return self.tokens - self._most

    def content(self) -> list[Mapping[str, Any]]:
        placed = [each for unit in self._units if unit.kept for each in zip(unit.places, unit.messages, strict=True)]
        return [message for _, message in sorted(placed, key=lambda each: each[0])]

    def leave_out_oldest(self) -> None:
        going = self._going(self._stays)
        while going and (self.excess > 0 or self._begins_with(going[0])):
            going.pop(0).kept = False

    def leave_out_middle(self) -> None:
        going = self._going([*self._said[:1], *self._stays])
        while going and self.excess > 0:
            going.pop(len(going) // 2).kept = False

    def cut(self) -> None:
        """Take the middle out of the longest text of a user's."""
        texts = [
            (len(text), unit, index)
            for unit in self._units
            if unit.kept and unit.role == "user"
            for index, text in enumerate(_texts(unit.messages[0]))
        ]
        length, unit, index = max(texts, key=lambda each: each[0], default=(0, None, 0))
        if unit is None or not length:
            return
        whole, share = unit.messages[0], 1 - self.excess / unit.tokens
        for _ in range(TRIES):
            if share <= 0 or self.excess <= 0:
                return
            unit.messages = [_cut(whole, index, share)]
            unit.tokens = provider.message_tokens(self._model, unit.messages[0])
            share *= 0.9

    def _going(self, staying: Sequence[_Unit]) -> list[_Unit]:
        return [unit for unit in self._said if not any(unit is each for each in staying)]

    def _begins_with(self, unit: _Unit) -> bool:
        """Whether the conversation would begin with *unit*, an answer whose question has gone."""
        begins = next(each for each in self._said if each.kept)
        return begins is unit and unit is not self._said[0] and unit.role != "user"


def _units(messages: Sequence[Mapping[str, Any]]) -> list[_Unit]:
    units: list[_Unit] = []
    callers: dict[str, _Unit] = {}
    for place, message in enumerate(messages):
        caller = callers.get(str(message.get("tool_call_id")))
        if message["role"] == "function" and units and units[-1].messages[-1].get("function_call"):
            caller = units[-1]
        if caller is not None:
            caller.messages.append(message)
            caller.places.append(place)
            continue
        units.append(_Unit([message], [place]))
        callers |= {str(call.get("id")): units[-1] for call in message.get("tool_calls") or ()}
    return units


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    parts = [content] if isinstance(content, str) else content or ()
    return [part if isinstance(part, str) else str(part.get("text") or "") for part in parts]


def _cut(message: Mapping[str, Any], index: int, share: float) -> Mapping[str, Any]:
    text = _texts(message)[index]
    half = int(len(text) * share) // 2
    short = f"{text[:half]}{CUT}{text[len(text) - half :]}"
    if isinstance(message["content"], str):
        return {**message, "content": short}
    parts = list(message["content"])
    parts[index] = short if isinstance(parts[index], str) else {**parts[index], "text": short}
    return {**message, "content": parts}
