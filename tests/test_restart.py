"""Streams that break off after content, and streams that come too slowly to begin with."""

from __future__ import annotations

import pytest

import llmbridge
from llmbridge import Bridge, CallRecord, Chunk, CompletionStream, Fallback, Model
from tests.conftest import Run
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
BROKEN = Fault.cut(after_events=3, reply=Reply(text="Pike and salmon and eel."), clean=False)


def models(sim: Simulator) -> list[Model]:
    names = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-haiku-4-5"}
    return [Model(name, api_base=sim.api_base(place), api_key="sk-test-key") for place, name in names.items()]


class Reading:
    """A stream read to its end, in either colour: every chunk of it, and its completion."""

    def __init__(self, colour: str, run: Run, bridge: Bridge) -> None:
        self._colour, self._run, self._bridge = colour, run, bridge

    def __call__(self, policy: Fallback) -> tuple[list[Chunk], llmbridge.Completion]:
        if self._colour == "stream":
            with self._bridge.stream(FISH, model=policy) as chunks:
                return list(chunks), chunks.completion
        return self._run(self._aread(policy))  # type: ignore[no-any-return]

    async def _aread(self, policy: Fallback) -> tuple[list[Chunk], llmbridge.Completion]:
        async with self._bridge.astream(FISH, model=policy) as chunks:
            seen = [chunk async for chunk in chunks]
        return seen, chunks.completion


@pytest.fixture(params=["stream", "astream"])
def read(request: pytest.FixtureRequest, run: Run, fresh_default: Bridge) -> Reading:
    return Reading(request.param, run, fresh_default)


def policy(sim: Simulator, **fields: object) -> Fallback:
    return Fallback(models(sim), retries=0, **fields)  # type: ignore[arg-type]


def test_a_broken_stream_begins_anew_with_the_next_model_and_says_so(
    read: Reading, sim: Simulator, records: list[CallRecord], fresh_default: Bridge
) -> None:
    sim.script(BROKEN, Reply(text="Trout."))

    chunks, completion = read(policy(sim, on_stream_break="restart"))

    anew = [chunk.restarted for chunk in chunks].index(True)
    assert anew > 0
    assert "".join(chunk.text for chunk in chunks[anew:]) == completion.text == "Trout."
    (record,) = records
    assert [(each.reason, each.outcome, each.error_type) for each in record.attempts] == [
        ("initial", "failed", "StreamInterrupted"),
        ("restart", "answered", None),
    ]
    assert (record.outcome, record.model) == ("answered", models(sim)[1].model)
    assert record.attempts[0].uncertain
    assert fresh_default.ledger.check() == []


def test_without_being_asked_a_broken_stream_does_not_begin_anew(read: Reading, sim: Simulator) -> None:
    sim.script(BROKEN, Reply(text="Trout."))

    with pytest.raises(llmbridge.StreamInterrupted):
        read(policy(sim))

    assert len(sim.requests) == 1


def test_a_stream_that_breaks_everywhere_ends_in_all_the_errors(
    read: Reading, sim: Simulator, records: list[CallRecord]
) -> None:
    sim.script(BROKEN, Fault.status(503))

    with pytest.raises(llmbridge.AllAttemptsFailed) as caught:
        read(policy(sim, on_stream_break="restart"))

    assert [type(error).__name__ for error in caught.value.errors] == ["StreamInterrupted", "ProviderUnavailable"]
    assert caught.value.errors[0].partial  # type: ignore[attr-defined]
    assert len(records) == 1


def test_where_nobody_is_left_a_broken_stream_is_interrupted(read: Reading, sim: Simulator) -> None:
    sim.script(BROKEN)

    with pytest.raises(llmbridge.StreamInterrupted) as caught:
        read(policy(sim, on_stream_break="restart", attempts=1))

    assert caught.value.partial


def test_a_restart_stays_within_the_bound_on_attempts(read: Reading, sim: Simulator) -> None:
    sim.script(BROKEN)

    with pytest.raises(llmbridge.StreamInterrupted):
        read(Fallback([*models(sim), *models(sim)], retries=0, attempts=3, on_stream_break="restart"))

    assert len(sim.requests) == 3


def test_a_stream_that_begins_too_slowly_is_left_for_the_next_model(
    read: Reading, sim: Simulator, records: list[CallRecord]
) -> None:
    sim.script(Reply(text="Pike and salmon and eel.", gap_s=0.4), Reply(text="Trout and carp and perch."))

    chunks, completion = read(policy(sim, commit_chunks=3, min_chunks_per_s=20.0))

    assert "".join(chunk.text for chunk in chunks) == completion.text == "Trout and carp and perch."
    assert not any(chunk.restarted for chunk in chunks)  # nothing of the slow one was shown
    assert [each.error_type for each in records[0].attempts] == ["ProviderTimeout", None]


def test_chunks_that_are_held_back_come_all_the_same(read: Reading, sim: Simulator) -> None:
    sim.script(Reply(text="Trout and carp and perch."))

    chunks, completion = read(policy(sim, commit_chunks=100))

    assert "".join(chunk.text for chunk in chunks) == completion.text == "Trout and carp and perch."


def test_a_stream_that_is_left_after_its_restart_is_charged_for_both(
    sim: Simulator, fresh_default: Bridge, records: list[CallRecord]
) -> None:
    sim.script(BROKEN, Reply(pieces=[f"{number} " for number in range(400)], gap_s=0.02))

    with fresh_default.stream(FISH, model=policy(sim, on_stream_break="restart")) as chunks:
        assert isinstance(chunks, CompletionStream)
        next(chunk for chunk in chunks if chunk.restarted)

    (record,) = records
    assert (record.outcome, [each.outcome for each in record.attempts]) == ("left", ["failed", "left"])
    assert all(each.uncertain for each in record.attempts)
    assert fresh_default.ledger.check() == []
