"""A kept answer becomes a recording: the request that would have been sent, with the answer that was kept."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmbridge import Bridge, Cache, cli, default
from llmbridge.cassette import from_cache, read, replay
from llmbridge.errors import CacheMiss, CassetteMiss, ConfigError
from llmbridge.fallback import Fallback
from tests import providers, recording
from tests.conftest import Run, asking
from tests.recording import CASES, Case


OPENAIS = [f"{who}-{what}" for who in ("openai", "groq", "compatible") for what in ("text", "tool-call")]
OPENAIS += ["openai-two-choices", "openai-json-mode"]
OTHERS = ["anthropic-text", "gemini-text", "ollama-text", "cohere-text", "bedrock-text", "replicate-text"]


def case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.fixture
def bridge() -> Bridge:
    """A Bridge that keeps its answers where the default one does."""
    return Bridge(cache=Cache(Cache().directory), fallback=Fallback(retries=0), ledger=None)


@pytest.fixture
def keep(bridge: Bridge) -> Any:
    """Ask what a case asks, from its recording, so that the answer is kept; return what asks it again."""

    def keep(case: Case) -> Any:
        asks = partial(bridge.complete, case.content, model=case.replayed, **case.arguments)
        with providers.reachable(), replay(case.path):
            asks()
        return asks

    return keep


@pytest.mark.parametrize("name", OPENAIS)
def test_a_kept_answer_is_the_recording_that_would_have_been_made(
    name: str, keep: Any, run: Run, tmp_path: Path
) -> None:
    asks = keep(case(name))
    kept = from_cache(tmp_path / "made.yaml", asks)

    comment, (made,) = read(tmp_path / "made.yaml")
    assert comment == "# Made of answers that were kept in a cache, not recorded from a provider.\n"
    assert made.asked == read(case(name).path)[1][0].asked
    for verb in ("complete", "acomplete"):
        with replay(tmp_path / "made.yaml"):
            again = asking(verb, run)(case(name).content, model=case(name).replayed, **case(name).arguments)
        assert again.choices == kept.choices
        assert (again.usage, again.cached) == (kept.usage, False)


@pytest.mark.parametrize("name", OTHERS)
def test_an_answer_of_another_wire_format_is_refused_and_nothing_is_written(
    name: str, keep: Any, tmp_path: Path
) -> None:
    with providers.reachable(), pytest.raises(ConfigError, match="does not speak OpenAI's wire format"):
        from_cache(tmp_path / "made.yaml", keep(case(name)))

    assert not (tmp_path / "made.yaml").exists()


def test_what_is_not_kept_cannot_be_made_into_a_recording(bridge: Bridge, tmp_path: Path) -> None:
    with pytest.raises(CacheMiss):
        from_cache(tmp_path / "made.yaml", partial(bridge.complete, "Name a fish.", model=recording.OPENAI))


def test_several_answers_go_into_one_file_but_into_no_recording(keep: Any, tmp_path: Path) -> None:
    for name in ("openai-text", "openai-tool-call"):
        from_cache(tmp_path / "made.yaml", keep(case(name)))
    assert len(read(tmp_path / "made.yaml")[1]) == 2

    before = (recorded := case("openai-text").path).read_bytes()
    with pytest.raises(ConfigError, match="goes into another file"):
        from_cache(recorded, keep(case("openai-text")))
    assert recorded.read_bytes() == before


def test_vectors_are_refused(bridge: Bridge, tmp_path: Path) -> None:
    asked = case("openai-embeddings")
    asks = partial(bridge.embed, asked.content, model=asked.replayed)
    with replay(asked.path):
        asks()

    with pytest.raises(TypeError, match="only a chat's answer"):
        from_cache(tmp_path / "made.yaml", asks)


def test_another_threads_request_is_not_answered_with_what_was_kept(keep: Any, tmp_path: Path) -> None:
    asks, said = keep(case("openai-text")), []

    def both(cache: str) -> Any:
        if cache == "off":
            other = threading.Thread(target=lambda: said.append(outcome(default.complete)))
            other.start()
            other.join()
        return asks(cache=cache)

    def outcome(ask: Any) -> Any:
        try:
            return ask("Name a bird.", model=recording.OPENAI, api_key="sk-dummy")
        except CassetteMiss as miss:
            return type(miss)

    from_cache(tmp_path / "made.yaml", both)

    assert said == [CassetteMiss]
    assert len(read(tmp_path / "made.yaml")[1]) == 1


def test_making_a_recording_charges_nobody(keep: Any, tmp_path: Path) -> None:
    keep(case("openai-text"))
    asks = partial(
        Bridge(cache=Cache(Cache().directory)).complete, recording.ASKED, model=recording.OPENAI, max_tokens=100
    )
    from_cache(tmp_path / "made.yaml", partial(asks, api_key="sk-never-sent"))

    assert [record.cost_usd for record in default.default().ledger.records()] == [0]


def test_the_command_makes_a_recording_of_what_was_asked(keep: Any, tmp_path: Path) -> None:
    keep(case("openai-text"))
    command = ["cassette", "from-cache", str(tmp_path / "made.yaml"), recording.ASKED, "-m", recording.OPENAI]
    done = CliRunner().invoke(cli.app, [*command, "--max-tokens", "100"])

    assert (done.exit_code, done.exception) == (0, None)
    with replay(tmp_path / "made.yaml"):
        answer = default.complete(recording.ASKED, model=recording.OPENAI, max_tokens=100, api_key="sk-dummy")
    assert answer.text == recording.TEXT.text
    assert isinstance(CliRunner().invoke(cli.app, command).exception, CacheMiss)
