"""Every provider of the README's table, by replay: what it can do, what its errors are, and what LiteLLM gets wrong.

The cassettes were recorded against the simulator, unless they say otherwise, and are shared by a verb and its async
twin.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmbridge import default, errors
from llmbridge.cassette import read, replay
from llmbridge.completion import Completion, Embedding
from llmbridge.request import Model
from tests import provider_table, providers, recording, wire_records
from tests.conftest import Run, asking
from tests.providers import PROVIDERS
from tests.recording import CASES, Case
from tests.simulator import Fault, Reply, Simulator
from tests.test_wire import KNOWN


TWINS = {"complete": ("complete", "acomplete"), "stream": ("stream", "astream"), "embed": ("embed", "aembed")}


def shown(column: str, wanted: Callable[[Case], bool] = lambda _: True) -> pytest.MarkDecorator:
    """The cases behind a column of the table, each with both verbs."""
    found = [
        pytest.param(case, verb, case.row.file, id=f"{case.row.file}-{verb}")
        for case in CASES
        if case.proves == column and wanted(case)
        for verb in TWINS[case.verb]
    ]
    return pytest.mark.parametrize(("case", "verb", "provider"), found)


def is_read(case: Case) -> bool:
    return case.proves not in case.row.lacks


@pytest.fixture(autouse=True)
def within_reach() -> Iterator[None]:
    with providers.reachable():
        yield


@pytest.fixture
def answer(case: Case, verb: str, run: Run) -> Iterator[Any]:
    """The answer of *case* by *verb*, from its cassette, all of which is played."""
    with replay(case.path) as cassette:
        yield asked(case, verb, run)
    assert cassette.unplayed == []


def asked(case: Case, verb: str, run: Run) -> Any:
    if verb == "embed":
        return default.embed(case.content, model=case.replayed, **case.arguments)
    if verb == "aembed":
        return run(default.aembed(case.content, model=case.replayed, **case.arguments))
    return asking(verb, run)(case.content, model=case.replayed, **case.arguments)


@shown("complete")
def test_an_answer_has_its_text_and_its_tokens(case: Case, verb: str, provider: str, answer: Completion) -> None:
    is_what_was_said(case, answer)


@shown("stream", is_read)
def test_a_stream_has_its_text_and_its_tokens(case: Case, verb: str, provider: str, answer: Completion) -> None:
    is_what_was_said(case, answer)


def is_what_was_said(case: Case, answer: Completion) -> None:
    told = case.script[0]
    assert isinstance(told, Reply)
    assert answer.usage is not None
    assert answer.usage.estimated == (not case.row.counted)
    if recording.is_live(case.path):
        assert answer.text and answer.usage.prompt_tokens
        return
    assert (answer.text, answer.finish_reason) == (told.text, "stop")
    if case.row.counted:
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (told.input_tokens, told.output_tokens)


@shown("tools")
def test_a_tool_call_is_read_and_ends_the_answer(case: Case, verb: str, provider: str, answer: Completion) -> None:
    assert [(call.function.name, json.loads(call.function.arguments)) for call in answer.tool_calls] == [recording.CALL]
    assert answer.finish_reason == "tool_calls"


@shown("embeddings")
def test_there_is_a_vector_for_each_input(case: Case, verb: str, provider: str, answer: Embedding) -> None:
    assert [vector.index for vector in answer.data] == [0, 1]
    assert all(isinstance(number, float) for vector in answer.vectors for number in vector)
    assert len({len(vector) for vector in answer.vectors}) == 1
    assert answer.usage is not None and answer.usage.prompt_tokens > 0


BY_STATUS = {
    400: errors.BadRequest,
    401: errors.AuthenticationFailed,
    403: errors.AuthenticationFailed,
    404: errors.NotFound,
    429: errors.ProviderRateLimited,
    500: errors.ProviderUnavailable,
    503: errors.ProviderUnavailable,
}


def expected(case: Case, fault: Fault) -> type[errors.ProviderError] | None:
    """The class of a fault; None for what is no error there."""
    if fault.cause == "content_filter":
        filtered = {"error": errors.ContentFiltered, "bad request": errors.BadRequest, "answer": None}
        return filtered[case.row.filtered]
    if fault.cause == "context_window":
        return errors.ContextWindowExceeded if case.row.too_long else errors.BadRequest
    return BY_STATUS[fault.code]


@shown("errors")
def test_every_error_is_of_its_class_and_has_its_status(case: Case, verb: str, provider: str, run: Run) -> None:
    with replay(case.path) as cassette:
        for fault in case.script:
            assert isinstance(fault, Fault)
            kind = expected(case, fault)
            if kind is None:
                assert asked(case, verb, run).finish_reason == "content_filter"
                continue
            with pytest.raises(errors.ProviderError) as caught:
                asked(case, verb, run)
            assert (type(caught.value), caught.value.status) == (kind, fault.code)
            assert caught.value.retry_after_s == (7 if fault.code == 429 else None)
    assert cassette.unplayed == []


@shown("stream", lambda case: not is_read(case))
def test_a_stream_that_litellm_cannot_read_is_an_error(case: Case, verb: str, provider: str, run: Run) -> None:
    with replay(case.path), pytest.raises(errors.ProviderUnavailable, match="Error parsing chunk"):
        asked(case, verb, run)


def test_what_is_said_to_be_lacking_is_a_column() -> None:
    assert {name for row in PROVIDERS for name in row.lacks} <= {"stream", "tools"}


BEDROCK = next(row for row in PROVIDERS if row.file == "bedrock")


@pytest.mark.parametrize("verb", ["complete", "acomplete", "stream", "astream"])
def test_bedrock_takes_an_api_key(sim: Simulator, verb: str, run: Run) -> None:
    answer = asking(verb, run)(recording.ASKED, model=BEDROCK.model(BEDROCK.chat, sim.url, "sk-of-bedrock"))

    assert answer.text == "Trout."
    assert [seen.headers["authorization"] for seen in sim.requests] == ["Bearer sk-of-bedrock"]


def test_a_signed_request_to_bedrock_plays_what_an_api_key_recorded() -> None:
    case = next(case for case in CASES if case.name == "bedrock-text")
    signed = {"aws_access_key_id": "AKIADUMMYDUMMYDUMMY", "aws_secret_access_key": "dummy-secret-access-key"}
    model = Model(BEDROCK.chat, params={**BEDROCK.settings["params"], **signed})

    with replay(case.path):
        assert default.complete(case.content, model=model, **case.arguments).text == recording.TEXT.text


@pytest.mark.parametrize("verb", ["complete", "acomplete", "stream", "astream"])
def test_custom_headers_reach_an_openai_compatible_endpoint(sim: Simulator, verb: str, run: Run) -> None:
    row = next(row for row in PROVIDERS if row.file == "compatible")
    asking(verb, run)(recording.ASKED, model=row.model(row.chat, sim.url))

    assert [seen.headers["x-team"] for seen in sim.requests] == ["angling"]


def test_a_binary_stream_is_played_in_its_frames() -> None:
    case = next(case for case in CASES if case.name == "bedrock-text-stream")
    (recorded,) = read(case.path)[1]
    client = httpx.Client()

    with replay(case.path), client.stream("POST", recorded.asked["url"], json=recorded.asked["body"]) as response:
        frames = list(response.iter_raw())

    assert [len(frame) for frame in frames] == [int.from_bytes(frame[:4]) for frame in frames]
    assert len(frames) > len(recording.TEXT.chunks(recording.TEXT.text))


README = Path(__file__).parents[1] / "README.md"


def test_the_table_in_the_readme_is_the_one_that_is_tested() -> None:
    assert provider_table.placed(text := README.read_text(encoding="utf-8")) == text, (
        "python -m tests.provider_table writes it"
    )


@wire_records.needed
@pytest.mark.parametrize("row", [row for row in PROVIDERS if row.traffic], ids=lambda row: row.file)
def test_the_table_counts_the_real_exchanges_that_are_read_right(row: providers.Provider) -> None:
    found = [id for id, record in wire_records.records().items() if record["provider"] == row.traffic]

    assert row.read_right == (len(found) - len(KNOWN.keys() & found), len(found))
