"""`mock/echo`, `mock/fixed`, `mock/fail`: models without a recording, through all that the call of a real one does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import llmbridge
from llmbridge import Bridge, Budget, Cache, Fallback, Model, errors
from llmbridge.provider import litellm, mocks
from tests.conftest import ONCE, Ask, Run, asking


@pytest.fixture(autouse=True)
def fresh_sequences() -> None:
    mocks.reset()


def mock(name: str, **options: Any) -> Model:
    return Model(name, input_usd_per_mtok=1, output_usd_per_mtok=2, params={"provider_params": {"mock": options}})


def test_echo_says_the_last_message_again_in_every_verb(ask: Ask) -> None:
    answer = ask(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a fish."}], model="mock/echo"
    )

    assert (answer.text, answer.finish_reason, answer.cost_usd) == ("Name a fish.", "stop", 0)
    assert answer.usage is not None and not answer.usage.estimated
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)
    assert answer.attempts[0].status == 200


def test_fixed_says_what_it_is_told_for_the_tokens_and_the_price_it_is_told(ask: Ask) -> None:
    answer = ask("?", model=mock("mock/fixed", text="A brown trout.", input_tokens=1000, output_tokens=500))

    assert answer.text == "A brown trout."
    assert str(answer.cost_usd.normalize() if answer.cost_usd is not None else None) == "0.002"


def test_a_cap_cuts_the_answer(ask: Ask) -> None:
    answer = ask("?", model=mock("mock/fixed", text="A brown trout that swims."), max_tokens=2)

    assert (answer.text, answer.finish_reason) == ("A brown ", "length")
    assert answer.usage is not None and answer.usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequest),
        (401, errors.AuthenticationFailed),
        (404, errors.NotFound),
        (408, errors.ProviderTimeout),
        (429, errors.ProviderRateLimited),
        (500, errors.ProviderUnavailable),
        (503, errors.ProviderUnavailable),
    ],
)
def test_a_failure_is_the_error_that_its_status_is(status: int, kind: type[Exception], ask: Ask) -> None:
    with pytest.raises(kind, match="tired") as caught:
        ask("?", model=mock("mock/fail", status=status, error="tired", retry_after_s=7))

    assert type(caught.value) is kind
    assert isinstance(caught.value, errors.ProviderError)
    assert (caught.value.status, caught.value.retry_after_s, caught.value.provider) == (status, 7, "mock")


def test_the_same_seed_fails_at_the_same_questions(run: Run) -> None:
    def course(seed: int) -> list[bool]:
        mocks.reset()
        failed = []
        for number in range(12):
            try:
                asking(("complete", "acomplete")[number % 2], run)(
                    "?", model=mock("mock/fail", seed=seed, error_rate=0.5)
                )
                failed.append(False)
            except errors.ProviderUnavailable:
                failed.append(True)
        return failed

    once = course(1)

    assert once == course(1) != course(2)
    assert 2 <= sum(once) <= 10


def test_a_mock_that_fails_is_followed_by_the_next_model(ask: Ask) -> None:
    answer = ask("Trout?", model=["mock/fail", "mock/echo"])

    assert answer.text == "Trout?"
    assert [attempt.status for attempt in answer.attempts] == [503, 200]


def test_a_mock_is_reserved_charged_and_refused_like_any_model(tmp_path: Path) -> None:
    bridge = Bridge(mock("mock/fixed", input_tokens=100, output_tokens=100), budgets=[Budget("$0.01", name="all")])

    bridge.complete("?")

    (balance,) = bridge.ledger.balance("all")
    assert str(balance.settled_usd.normalize() if balance.settled_usd is not None else None) == "0.0003"
    assert bridge.ledger.check() == []
    with pytest.raises(llmbridge.BudgetExceeded):
        bridge.complete("?", max_tokens=1_000_000, budget="$0.001")


def test_a_mocks_answer_is_kept_and_recalled(tmp_path: Path) -> None:
    bridge = Bridge("mock/echo", cache=Cache(tmp_path / "cache"))

    assert [bridge.complete("?").cached for _ in range(2)] == [False, True]


def test_latency_is_waited_for_and_ends_with_the_deadline(ask: Ask) -> None:
    started = time.monotonic()
    ask("?", model=mock("mock/echo", latency_s=0.2))
    assert time.monotonic() - started >= 0.2

    with pytest.raises((llmbridge.DeadlineExceeded, llmbridge.ProviderTimeout)):
        ask("?", model=mock("mock/echo", latency_s=30), deadline_s=0.2)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("colour", ["embed", "aembed"])
def test_equal_texts_have_equal_vectors(colour: str, run: Run) -> None:
    asked: dict[str, Any] = {"model": mock("mock/echo", vector_size=4), "cache": "off"}
    texts = ["trout", "perch", "trout"]
    answer = llmbridge.embed(texts, **asked) if colour == "embed" else run(llmbridge.aembed(texts, **asked))

    assert answer.vectors[0] == answer.vectors[2] != answer.vectors[1]
    assert [len(vector) for vector in answer.vectors] == [4, 4, 4]


@pytest.mark.parametrize(
    ("model", "words"),
    [(mock("mock/echo", txet="?"), "no option 'txet'"), ("mock/nope", "no mock/nope: it is one of echo, fixed, fail")],
)
def test_a_mistake_is_a_bad_request_that_says_what_there_is(model: Any, words: str, ask: Ask) -> None:
    with pytest.raises(errors.BadRequest, match=words):
        ask("?", model=model)


def test_custom_providers_of_the_application_stay_and_ours_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"provider": "acme", "custom_handler": object()}
    monkeypatch.setattr(litellm(), "custom_provider_map", [own])

    assert Bridge("mock/echo", fallback=ONCE).complete("Trout.").text == "Trout."
    assert own in litellm().custom_provider_map


def test_retries_go_on_until_the_sequence_lets_one_pass() -> None:
    policy = Fallback([mock("mock/fail", seed=1, error_rate=0.5)], retries=5, max_usd=None, breaker=False)

    assert Bridge(fallback=policy).complete("?").text == "Fixed."
