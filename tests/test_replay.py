"""Every cassette, through every verb that asks it: parsed answers, images, reasoning, an error before a stream.
What every provider is shown to do, text and tool calls and embeddings, is in test_providers.py.

A cassette is shared by a verb and its async twin, so a replay also proves that both send the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbridge import default
from llmbridge.cassette import replay
from llmbridge.completion import Completion
from llmbridge.errors import ProviderError, ProviderUnavailable
from tests import providers, recording
from tests.conftest import Run, asking
from tests.recording import CASES, Case
from tests.simulator import Fault, Reply, Simulator


TWINS = {"complete": ("complete", "acomplete"), "stream": ("stream", "astream")}


def asked(wanted: Callable[[Case], bool]) -> pytest.MarkDecorator:
    """The cases that *wanted* accepts and that stand for no column of the table, each with both verbs."""
    pairs = [(case, verb) for case in CASES if case.proves is None and wanted(case) for verb in TWINS[case.verb]]
    return pytest.mark.parametrize(
        ("case", "verb"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}") for pair in pairs]
    )


def is_answer(case: Case) -> bool:
    return isinstance(case.script[-1], Reply)


@pytest.fixture(autouse=True)
def dummy_keys(no_real_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for row in recording.FIRST:
        if row.key:
            monkeypatch.setenv(row.key, "sk-dummy-for-replay")


@pytest.fixture
def answer(case: Case, verb: str, run: Run) -> Iterator[Any]:
    """The answer of *case* by *verb*, from its cassette, all of which is played."""
    with replay(case.path) as cassette:
        yield asking(verb, run)(case.content, model=case.model, **case.arguments)
    assert cassette.unplayed == []


@asked(is_answer)
def test_an_answer_is_replayed_as_it_was_given(case: Case, verb: str, answer: Completion) -> None:
    told = case.script[-1]
    assert isinstance(told, Reply)
    if recording.is_live(case.path):
        assert answer.choices[0].message.content or answer.tool_calls
        return

    assert [choice.message.content or "" for choice in answer.choices] == list(told.choices(len(answer.choices)))
    assert len(answer.choices) == case.arguments.get("n", 1)
    assert answer.finish_reason == told.ending
    assert [(call.function.name, json.loads(call.function.arguments)) for call in answer.tool_calls] == [
        *told.tool_calls
    ]
    assert answer.reasoning == (told.reasoning or "")
    assert answer.usage is not None and not answer.usage.estimated
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (told.input_tokens, told.output_tokens)


@asked(lambda case: "response_model" in case.arguments)
def test_a_response_model_is_parsed_from_a_recording(case: Case, verb: str, answer: Completion) -> None:
    assert isinstance(answer.parsed, recording.Fish)
    assert answer.parsed.model_dump() == json.loads(answer.text)


@asked(lambda case: "logprobs" in case.arguments)
def test_log_probabilities_are_replayed(case: Case, verb: str, answer: Completion) -> None:
    logprobs = answer.choices[0].logprobs

    assert logprobs is not None
    assert "".join(token.token for token in logprobs.content or []) == answer.text


@asked(lambda case: len(case.script) > 1)
def test_a_repaired_answer_plays_both_recordings(case: Case, verb: str, answer: Completion) -> None:
    assert [attempt.reason for attempt in answer.attempts] == ["initial", "repair"]


@asked(lambda case: isinstance(case.script[-1], Fault))
def test_an_error_before_a_stream_is_replayed_as_its_class(case: Case, verb: str, run: Run) -> None:
    with replay(case.path) as cassette, pytest.raises(ProviderError) as caught:
        asking(verb, run)(case.content, model=case.model, **case.arguments)

    assert type(caught.value) is ProviderUnavailable
    assert caught.value.status == 503
    assert cassette.unplayed == []


def test_every_cassette_has_a_case_and_every_case_a_cassette() -> None:
    assert sorted(path.name for path in recording.FOLDER.iterdir()) == sorted(case.path.name for case in CASES)


@pytest.mark.parametrize("path", [*(case.path for case in CASES), recording.DEMO], ids=lambda path: path.stem)
def test_a_cassette_says_how_it_was_made_and_holds_no_key(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert text.startswith((recording.SIMULATED, recording.LIVE))
    assert "sk-" not in text.replace("task-", "")
    assert "127.0.0.1" not in text


def test_the_demo_falls_back_from_a_model_that_is_down(run: Run) -> None:
    pieces = []
    with (
        replay(recording.DEMO) as cassette,
        default.stream(recording.DEMO_ASKED, model=[recording.OPENAI, recording.ANTHROPIC], max_tokens=100) as chunks,
    ):
        pieces += [chunk.text for chunk in chunks if chunk.text]

    assert pieces == list(recording.ANSWER)
    assert [attempt.status for attempt in chunks.completion.attempts] == [503, 200]
    assert cassette.unplayed == []


def test_recording_again_changes_no_byte(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.name == "gemini-tool-call-stream")
    recorded = case.path.read_bytes()
    if recording.is_live(case.path):
        pytest.skip("recorded live")
    monkeypatch.setattr(recording, "FOLDER", tmp_path)
    recording.simulated(sim, case)

    assert case.path.parent == tmp_path
    assert case.path.read_bytes() == recorded


@pytest.fixture
def live(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A case whose provider is reached by default, and is the simulator."""
    monkeypatch.setattr(recording, "FOLDER", tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", sim.api_base("openai"))
    return next(case for case in CASES if case.name == "openai-text")


def test_a_live_recording_says_so_and_is_replayed(live: Case) -> None:
    assert recording.lived(live) is None

    assert recording.is_live(live.path)
    with replay(live.path):
        assert default.complete(live.content, model=live.model, **live.arguments).text == "Trout."


def test_a_live_recording_that_fails_leaves_the_old_one(live: Case, sim: Simulator) -> None:
    live.path.write_text("as it was")
    sim.script(Fault.status(401))

    assert "AuthenticationFailed" in (recording.lived(live) or "")
    assert live.path.read_text() == "as it was"


def test_what_has_no_key_or_no_provider_is_skipped_with_the_reason(live: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    reasons = {
        case.name: recording.lived(case)
        for case in CASES
        if case.row in (providers.OPENAI, providers.OLLAMA) or not case.live
    }

    assert reasons["openai-text"] == "OPENAI_API_KEY is not there"
    assert reasons["ollama-text"] == "a server of your own is not there"
    assert reasons["anthropic-errors"] == "no provider can be made to answer so"
