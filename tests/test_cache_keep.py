"""What may be kept, and the text that it is kept as: it comes back the same, or not at all."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmbridge.assembly import Assembly
from llmbridge.cache import Entry, record_chunks, why_not, why_not_vectors
from llmbridge.cache.entry import LARGEST_BYTES, Foreign, Unkeepable, chunks_of, dump, load
from llmbridge.completion import Chunk, Completion, Embedding, ToolCallDelta, Usage


KEY = "ab" * 32


def completion(*choices: dict[str, Any], **fields: Any) -> Completion:
    said = choices or ({},)
    return Completion.model_validate(
        {
            "id": "chatcmpl-1",
            "created": 1_700_000_000,
            "model": "openai/gpt-4o-mini",
            "choices": [
                {"index": number, "finish_reason": "stop", "message": {"content": "A pike."}} | choice
                for number, choice in enumerate(said)
            ],
            "usage": {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7, "new_tokens": {"a": 1}},
        }
        | fields
    )


def calling(arguments: str, finish_reason: str = "tool_calls", **fields: Any) -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": arguments}} | fields
    return {"finish_reason": finish_reason, "message": {"tool_calls": [call]}}


KEPT = {
    "a text": {},
    "a tool call": calling('{"a": 1}'),
    "a tool call without arguments": calling("{}"),
    "a tool call that ended with stop": calling("{}", "stop"),
    "a custom tool's text": calling("", type="custom", custom={"name": "shell", "input": "ls {"}),
    "a function call": {
        "finish_reason": "function_call",
        "message": {"function_call": {"name": "look", "arguments": "{}"}},
    },
    "a voice": {"message": {"content": None, "audio": {"data": "UklGRg=="}}},
}
NOT_KEPT = {
    "a refusal": {"message": {"refusal": "I cannot help with that."}},
    "what a filter cut": {"finish_reason": "content_filter"},
    "what a limit cut": {"finish_reason": "length"},
    "an ending nobody told": {"finish_reason": None},
    "an ending nobody knows": {"finish_reason": "error"},
    "nothing": {"message": {"content": None}},
    "an empty text": {"message": {"content": ""}},
    "white space": {"message": {"content": " \n"}},
    "reasoning alone": {"message": {"content": None, "reasoning_content": "Hm."}},
    "tool calls that are not there": {"finish_reason": "tool_calls"},
    "arguments that break off": calling('{"a": 1'),
    "no arguments at all": calling(""),
    "arguments that are a list": calling("[]"),
    "arguments with NaN": calling('{"a": NaN}'),
    "arguments without end": calling("[" * 100_000),
    "a call of nothing": calling("{}", function={"arguments": "{}"}),
    "a function call that breaks off": {
        "finish_reason": "function_call",
        "message": {"function_call": {"name": "look", "arguments": "{"}},
    },
}


@pytest.mark.parametrize("what", KEPT)
def test_an_answer_that_is_whole_is_kept(what: str) -> None:
    assert why_not(completion(KEPT[what])) is None


@pytest.mark.parametrize("what", NOT_KEPT)
def test_an_answer_that_is_not_is_not_kept_even_as_one_of_two(what: str) -> None:
    assert why_not(completion(NOT_KEPT[what]))
    assert str(why_not(completion({}, NOT_KEPT[what]))).startswith("choice 1: ")


def test_an_answer_without_choices_is_not_kept() -> None:
    assert why_not(completion(choices=[])) == "it has no choices"


def embedding(*vectors: Any, places: list[int] | None = None) -> Embedding:
    data = [{"index": index, "embedding": vector} for index, vector in zip(places or range(9), vectors, strict=False)]
    return Embedding.model_validate({"model": "openai/text-embedding-3-small", "data": data})


def test_vectors_are_kept_when_there_is_one_for_each_input() -> None:
    assert why_not_vectors(embedding([0.1, 0.2], [0.3, 0.4]), 2) is None
    assert why_not_vectors(embedding([0.1], [0.3], places=[0, 0]), 2) is None  # where nobody counts
    assert why_not_vectors(embedding("zczMPQ=="), 1) is None


@pytest.mark.parametrize(
    ("vectors", "places"),
    [
        ([[0.1]], None),
        ([[0.1], [0.2], [0.3]], None),
        ([[0.1], []], None),
        ([[0.1], [0.1, 0.2]], None),
        ([[0.1], "zczMPQ=="], None),
        ([[0.1], [math.nan]], None),
        ([[0.1], [math.inf]], None),
        ([[0.1], [0.2]], [1, 0]),
    ],
)
def test_vectors_that_are_missing_uneven_misplaced_or_no_numbers_are_not_kept(vectors: Any, places: Any) -> None:
    assert why_not_vectors(embedding(*vectors, places=places), 2)


def entry(answer: Any = None, **fields: Any) -> Entry:
    kept = Entry(
        answer=completion() if answer is None else answer,
        created_at=1_700_000_000.25,
        model="openai/gpt-4o-mini",
        provider="openai",
        response_model="gpt-4o-mini-2024-07-18",
        input_tokens=4,
        output_tokens=3,
        cost_nanousd=2_400,
        tags={"user": "alice", "\n": '"}'},
    )
    return replace(kept, **fields)


RICH = completion(
    {
        "message": {
            "content": 'A "pike"\n\u2028\x85\0caf\u00e9 \U0001f41f',
            "reasoning_content": "Hm.",
            "annotations": [{"url": "https://x", "score": -1e-7}],
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"a": [1]}'}, "provider": None}],
        },
        "logprobs": {"content": [{"token": "A", "logprob": -0.1, "bytes": [65], "top_logprobs": []}]},
        "seen": 2**70,
    },
    {"finish_reason": "tool_calls"},
    system_fingerprint=None,
    service_tier="flex",
    citations=["https://x"],
)


@pytest.mark.parametrize("answer", [completion(), RICH, completion(usage=None)])
def test_a_completion_comes_back_the_same(answer: Completion) -> None:
    kept = entry(answer)

    back = load(dump(KEY, kept), KEY)

    assert back.completion.model_dump() == answer.model_dump()
    assert back.completion is not answer
    assert replace(back, answer=answer) == kept


def test_the_text_is_one_json_document_that_says_its_key() -> None:
    head, facts, answer, chunks = json.loads(dump(KEY, entry(RICH, recorded='["A ","pike"]')))

    assert (head["format"], head["key"]) == (1, KEY)
    assert facts["cost_nanousd"] == 2_400
    assert answer["choices"][0]["message"]["content"].startswith('A "pike"\n')
    assert chunks == ["A ", "pike"]


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_vector_comes_back_the_same_to_the_last_bit(vector: list[float]) -> None:
    back = load(dump(KEY, entry(vector)), KEY).vector
    assert [number.hex() for number in back if not isinstance(number, str)] == [number.hex() for number in vector]


@pytest.mark.parametrize(("vector", "most"), [([0.5] * 1536, 9_000), ([0.1] * 1536, 17_000), ("zczMPQ==" * 3, 500)])
def test_a_vector_is_short_and_a_base64_one_stays_as_it_came(vector: Any, most: int) -> None:
    text = dump(KEY, entry(vector))
    assert len(text) < most
    assert load(text, KEY).vector == vector


@pytest.mark.parametrize(
    "answer",
    [
        completion({"seen": math.nan}),
        completion({"logprobs": {"content": [{"token": "A", "logprob": -math.inf}]}}),
        completion({"message": {"content": "\ud800"}}),
        completion({"seen": object()}),
        completion({"message": {"content": "x" * LARGEST_BYTES}}),
        [math.nan],
        ["a"],
    ],
    ids=["nan", "inf", "surrogate", "object", "large", "a nan", "no number"],
)
def test_what_would_not_come_back_the_same_is_refused(answer: Any) -> None:
    with pytest.raises(Unkeepable):
        dump(KEY, entry(answer))


def test_every_change_of_a_single_character_is_noticed() -> None:
    text = dump(KEY, entry(recorded='["A ","pike."]'))
    for place, character in enumerate(text):
        for other in (chr(ord(character) ^ 1), ""):
            with pytest.raises(Foreign):
                load(text[:place] + other + text[place + 1 :], KEY)


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(max_size=50) | st.integers(0, 400).map(lambda cut: dump(KEY, entry())[:cut]))
def test_what_is_not_whole_is_foreign(text: str) -> None:
    with pytest.raises(Foreign):
        load(text, KEY)


def signed(*lines: str) -> str:
    """*lines* with a good checksum, as somebody would plant them."""
    from llmbridge.cache.entry import _head

    rest = "\n".join(lines)
    return f"{_head(KEY, rest)}\n{rest}"


FACTS, ANSWER = dump(KEY, entry()).split("\n")[1:3]


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (FACTS, ANSWER),
        ("{},", ANSWER, "null]"),
        (FACTS.replace("1700000000.25", "1e999"), ANSWER, "null]"),
        (FACTS.replace("1700000000.25", "true"), ANSWER, "null]"),
        (FACTS.replace('"openai"', "{}"), ANSWER, "null]"),
        (FACTS.replace('"alice"', "{}"), ANSWER, "null]"),
        (FACTS, "{},", "null]"),
        (FACTS, "[" * 100_000 + ",", "null]"),
        ("[" * 100_000 + ",", ANSWER, "null]"),
        (FACTS, ANSWER.replace('"choices":[', '"choices":["'), "null]"),
        (FACTS, '{"type":"vector","dtype":"l","data":"AAAA"},', "null]"),
        (FACTS, '{"type":"vector","dtype":"d","data":"AAAA"},', "null]"),
        (FACTS, '{"type":"vector"},', "null]"),
    ],
)
def test_a_planted_entry_with_a_good_checksum_is_foreign_when_it_is_no_entry(lines: tuple[str, ...]) -> None:
    with pytest.raises(Foreign):
        load(signed(*lines), KEY)


def test_an_entry_says_what_is_wrong_with_it() -> None:
    text = dump(KEY, entry())
    with pytest.raises(Foreign, match="another key"):
        load(text, "cd" * 32)
    with pytest.raises(Foreign, match="checksum"):
        load(text.replace("pike", "carp"), KEY)
    with pytest.raises(Foreign, match="version"):
        load(text.replace('"format":1', '"format":2'), KEY)
    with pytest.raises(Foreign, match="characters"):
        load("x" * (LARGEST_BYTES + 1), KEY)


CHUNKS = [
    Chunk(reasoning="Hm."),
    Chunk("A "),
    Chunk("pike", index=1, logprobs={"content": [{"token": "pike", "logprob": -0.5}]}),
    Chunk("\n", extra={"annotations": [{"url": "https://x"}]}),
    Chunk(tool_calls=(ToolCallDelta(0, "a", "look", ""), ToolCallDelta(1, "b", "peek", '{"a"'))),
    Chunk(function_call=ToolCallDelta(0, None, "f", "{}")),
    Chunk(refusal="No."),
    Chunk(finish_reason="stop"),
    Chunk(usage=Usage(prompt_tokens=4, completion_tokens=3, total_tokens=7)),
    Chunk(),
]


def test_a_recalled_stream_has_the_chunks_that_it_came_in() -> None:
    back = load(dump(KEY, entry(recorded=record_chunks(CHUNKS))), KEY).chunks()
    assert back == CHUNKS


def test_plain_chunks_take_three_characters_more_than_their_text() -> None:
    assert record_chunks([Chunk("A "), Chunk("pike")]) == '["A ","pike"]'


@pytest.mark.parametrize(
    "answer", [completion(), completion(KEPT["a function call"]), RICH], ids=["plain", "call", "rich"]
)
def test_an_answer_that_was_no_stream_becomes_chunks_that_make_the_same_answer(answer: Completion) -> None:
    assembly = Assembly()
    for chunk in entry(answer).chunks():
        assembly.feed(chunk)

    again = assembly.completion(id=answer.id, created=answer.created, model=answer.model)

    for said, meant in zip(again.choices, answer.choices, strict=True):
        assert said.message.content == meant.message.content
        assert said.message.reasoning_content == meant.message.reasoning_content
        assert said.message.function_call == meant.message.function_call
        assert [call.function for call in said.message.tool_calls or []] == [
            call.function for call in meant.message.tool_calls or []
        ]
        assert (said.message.model_extra, said.finish_reason) == (meant.message.model_extra, meant.finish_reason)
    assert again.usage == answer.usage


@pytest.mark.parametrize("planted", ["5", "[5]", '[{"no":1}]', '[{"tool_calls":[[1,2,3,4,5,6]]}]', "[", "null", "[]"])
def test_a_planted_list_of_chunks_is_made_good_by_the_answer(planted: str) -> None:
    kept = entry(recorded=planted)
    assert kept.chunks() == chunks_of(kept.completion)


def test_an_entry_is_asked_for_what_it_is() -> None:
    with pytest.raises(TypeError, match="vector of an input"):
        _ = entry([0.1]).completion
    with pytest.raises(TypeError, match="chat's answer"):
        _ = entry().vector
