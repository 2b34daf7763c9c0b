"""One kept answer, and the text that it is kept as: JSON on four lines, never a pickle.

    [{"format":1,"key":"...","sum":"..."},      what it answers, and a checksum of the key and all that follows
    {"created_at":...,"model":"..."},           the facts
    {"id":"...","choices":[...]},               the answer
    ["Red ","snapper",{"finish_reason":"stop"}]]    the chunks that it came in, or null

The whole is one JSON document for any other program. Here it is taken apart at the line ends, which no JSON text holds
inside, so that the first line is one comparison, and the chunks cost nothing when nobody streams.

The checksum finds what was cut off, mixed up or rotten. It is no signature: who can write into the cache's directory is
the user itself.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import operator
import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmbridge.completion import Choice, Chunk, Completion, ToolCall, ToolCallDelta, Usage


FORMAT = 1
LARGEST_BYTES = 16 * 1024 * 1024  # parsed, JSON can take 40 times its size

Vector = list[float] | str  # a str is a provider's own base64, as asked for by encoding_format
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_NUMBER = (int, float)
_FACTS: dict[str, tuple[type, ...]] = {
    "created_at": _NUMBER,
    "model": (str,),
    "provider": (str,),
    "response_model": (str, type(None)),
    "input_tokens": (int, type(None)),
    "output_tokens": (int, type(None)),
    "cost_nanousd": (int, type(None)),
    "tags": (dict,),
    "ttl_s": (*_NUMBER, type(None)),
}


class Foreign(Exception):
    """Not an entry of ours, or not one that is whole. What to do about it is always the same: ask again."""


class Unusable(Exception):
    """The directory cannot be used, at least for now: what is wrong with it, and how long to leave it alone."""

    rest_s = 5.0


class Unkeepable(Exception):
    """The answer cannot be written so that it can be read again as it is."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One kept answer. Reading it again makes a new `answer` each time, so that callers may change theirs.

    Attributes:
        answer: a Completion, or the vector of one input.
        created_at: seconds since the epoch, when the answer came.
        model: the candidate that answered, as it was asked; `response_model` is the name in the answer.
        cost_nanousd: what the call's last attempt was charged, which a hit saves; None if unknown.
        tags: of the call that paid for it; for deletion, not part of the key.
        ttl_s: how long it may be served if that was said for it alone; None: as long as the cache says.
        recorded: the chunks that it came in, as JSON text; see chunks().
        age_s, stale: of a recalled entry: its age, and whether it is over and was asked for nevertheless.
    """

    answer: Completion | Vector
    created_at: float
    model: str
    provider: str
    response_model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_nanousd: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    ttl_s: float | None = None
    recorded: str = "null"
    age_s: float = 0.0
    stale: bool = False

    @property
    def completion(self) -> Completion:
        """The answer of an entry that is one of a chat; TypeError for a vector."""
        if not isinstance(self.answer, Completion):
            raise TypeError("this entry is the vector of an input")
        return self.answer

    @property
    def vector(self) -> Vector:
        """The vector of one input; TypeError for a chat's answer."""
        if isinstance(self.answer, Completion):
            raise TypeError("this entry is a chat's answer")
        return self.answer

    def chunks(self) -> list[Chunk]:
        """The answer as a stream's chunks: those that it came in, or a few made of it if it was no stream."""
        try:
            items = json.loads(self.recorded)
            return [_chunk(item) for item in items] if items else chunks_of(self.completion)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return chunks_of(self.completion)  # a planted list, with a good checksum


def record_chunks(chunks: Iterable[Chunk]) -> str:
    """*chunks* as an Entry's `recorded`: a text alone is a string, any other chunk an object without empty fields."""
    return _encode([_short(chunk) for chunk in chunks])


def dump(key: str, entry: Entry) -> str:
    """*entry* as text. Raises Unkeepable for what would not come back the same (NaN, an object), or is too large."""
    try:
        facts = _encode(_checked({name: getattr(entry, name) for name in _FACTS} | {"tags": dict(entry.tags)}))
        answer = _dump_answer(entry.answer)
        rest = f"{facts},\n{answer},\n{entry.recorded}]"
        text = f"{_head(key, rest)}\n{rest}"
    except (TypeError, ValueError, RecursionError, OverflowError) as exc:
        raise Unkeepable(f"it cannot be written as JSON ({type(exc).__name__})") from None
    if len(text.encode()) > LARGEST_BYTES:
        raise Unkeepable(f"it has more than {LARGEST_BYTES:,} bytes")
    try:
        same = not isinstance(entry.answer, Completion) or _are_equal(_load_answer(answer), entry.answer)
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise Unkeepable(f"it could not be read again ({type(exc).__name__})") from None
    if not same:
        raise Unkeepable("it would not come back the same")
    return text


def _are_equal(read: Any, written: Completion) -> bool:
    """Whether both say the same; what only the process knows of them is no matter. _pack() compares a vector itself."""
    return bool(read.__dict__ == written.__dict__ and read.model_extra == written.model_extra)


def load(text: str, key: str) -> Entry:
    """The entry that *text* is, if it is the whole answer to *key*. Raises Foreign for anything else."""
    if len(text) > LARGEST_BYTES:
        raise Foreign(f"it has {len(text):,} characters")
    head, _, rest = text.partition("\n")
    try:
        if head != _head(key, rest):
            raise Foreign(_complaint(head, key))
        facts, answer, recorded = rest.split("\n")
        return Entry(**_checked(json.loads(facts[:-1])), answer=_load_answer(answer[:-1]), recorded=recorded[:-1])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as exc:
        # a pydantic ValidationError is a ValueError, and quotes the answer
        raise Foreign(f"it is no entry ({type(exc).__name__})") from None


def _head(key: str, rest: str) -> str:
    digest = hashlib.sha256(key.encode())  # which processors do by themselves: twice as fast as blake2b
    digest.update(rest.encode())
    return f'[{{"format":{FORMAT},"key":"{key}","sum":"{digest.hexdigest()}"}},'


def _complaint(head: str, key: str) -> str:
    if not head.startswith(f'[{{"format":{FORMAT},'):
        return "it is no entry of this version"
    return "its checksum is wrong" if f'"key":"{key}"' in head else "it answers another key"


def _checked(facts: dict[str, Any]) -> dict[str, Any]:
    for name, kinds in _FACTS.items():
        if type(facts[name]) not in kinds:
            raise TypeError(name)
    if len(facts) != len(_FACTS) or not math.isfinite(facts["created_at"]):
        raise ValueError("facts")
    if not all(isinstance(value, str) for value in facts["tags"].values()):
        raise TypeError("tags")
    return facts


def _dump_answer(answer: Completion | Vector) -> str:
    """An answer as one line. Fields that nobody set are left out: their defaults come back by themselves."""
    if isinstance(answer, Completion):
        return answer.model_dump_json(exclude_unset=True)
    return _encode({"type": "vector", **_pack(answer)})


def _load_answer(text: str) -> Completion | Vector:
    if text.startswith('{"type":"vector"'):
        return _unpack(json.loads(text))
    return Completion.model_validate_json(text)


def _pack(vector: Vector) -> dict[str, str]:
    """A vector, exactly: 32-bit floats where they suffice, as providers send them, else 64-bit; little-endian, base64.

    Half or a quarter of the size of JSON numbers, and read back 20 times faster.
    """
    if isinstance(vector, str):
        return {"dtype": "text", "data": vector}
    for dtype in "fd":
        numbers = array(dtype, vector)
        if numbers.tolist() == vector:
            return {"dtype": dtype, "data": base64.b64encode(_little(numbers)).decode()}
    raise ValueError("not a vector of numbers")


def _unpack(packed: dict[str, str]) -> Vector:
    dtype, data = packed["dtype"], packed["data"]
    if dtype == "text":
        return str(data)
    if dtype not in ("f", "d"):
        raise ValueError(dtype)
    numbers: array[float] = array(dtype)
    numbers.frombytes(base64.b64decode(data, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _little(numbers: array[float]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _short(chunk: Chunk) -> Any:
    if _but_the_text(chunk) == _NOTHING:  # as of nearly all
        return chunk.text
    fields = {name: value for name in _CHUNK if (value := getattr(chunk, name)) not in (_EMPTY[name], None)}
    if chunk.usage is not None:
        fields["usage"] = chunk.usage.model_dump(exclude_unset=True)
    if chunk.tool_calls:
        fields["tool_calls"] = [dataclasses.astuple(call) for call in chunk.tool_calls]
    if chunk.function_call is not None:
        fields["function_call"] = dataclasses.astuple(chunk.function_call)
    return fields


def _chunk(item: Any) -> Chunk:
    if isinstance(item, str):
        return Chunk(item)
    chunk = Chunk(**item)
    if chunk.usage is not None:
        chunk.usage = Usage.model_validate(chunk.usage)
    if (function := item.get("function_call")) is not None:
        chunk.function_call = ToolCallDelta(*function)
    chunk.tool_calls = tuple(ToolCallDelta(*call) for call in item.get("tool_calls", ()))
    return chunk


_EMPTY = {each.name: each.default for each in dataclasses.fields(Chunk)}
_CHUNK = tuple(_EMPTY)
_but_the_text = operator.attrgetter(*(name for name in _CHUNK if name != "text"))
_NOTHING = _but_the_text(Chunk())


def chunks_of(completion: Completion) -> list[Chunk]:
    """*completion* as if it had been streamed: a chunk for each kind of thing that a choice says, then its end.

    What a delta has no room for (fields of a custom tool's call) is in the completion alone.
    """
    chunks = [chunk for choice in completion.choices for chunk in _chunks_of(choice)]
    return [*chunks, Chunk(usage=completion.usage)] if completion.usage is not None else chunks


def _chunks_of(choice: Choice) -> list[Chunk]:
    message, index = choice.message, choice.index
    calls = [_delta(number, call) for number, call in enumerate(message.tool_calls or [])]
    logprobs = choice.logprobs.model_dump(exclude_none=True) if choice.logprobs is not None else None
    said = [
        Chunk(extra=message.model_extra or None, index=index),
        Chunk(reasoning=message.reasoning_content or "", index=index),
        Chunk(refusal=message.refusal or "", index=index),
        Chunk(message.content or "", logprobs=logprobs, index=index),
        Chunk(tool_calls=tuple(calls), index=index),
    ]
    if function := message.function_call:
        said.append(Chunk(function_call=ToolCallDelta(0, None, function.name, function.arguments), index=index))
    kept = [chunk for chunk in said if chunk.has_content or chunk.extra or chunk.logprobs]
    return [*kept, Chunk(finish_reason=choice.finish_reason, index=index)]


def _delta(number: int, call: ToolCall) -> ToolCallDelta:
    return ToolCallDelta(number, call.id or None, call.function.name or None, call.function.arguments)
