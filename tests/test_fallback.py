"""What is done after a failure: the table, the pauses, and the bounds that hold for all attempts of a call together."""

from __future__ import annotations

import itertools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmbridge import (
    AllAttemptsFailed,
    BadRequest,
    Bridge,
    BudgetExceeded,
    Cache,
    Fallback,
    Model,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    default,
    errors,
)
from llmbridge.fallback.backoff import LONGEST_S, RetryBudget, backoff_s
from llmbridge.fallback.policy import ATTEMPTS, KINDS, LONGEST_WAIT_S, Situation, Step
from tests.conftest import Ask
from tests.simulator import Fault, Reply, Simulator
from tests.test_faults import FISH, at


ERRORS: dict[str, type[ProviderError]] = {
    each.kind: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, ProviderError) and each is not ProviderError
}
ERRORS["sick upstream"] = ProviderUnavailable  # and not silence, which has a test of its own
AGAIN = ("throttled", "sick upstream")
ANOTHER = ("dead key", "throttled", "sick upstream", "too long", "not found", "bad answer")
WORDS_S = {"none": None, "zero": 0.0, "short": 1.0, "past-patience": 5.0, "a-minute": 60.0, "hour": 3600.0, "1e9": 1e9}


class Retries:
    """A retry budget that says so when it is asked."""

    def __init__(self, left: bool) -> None:
        self.left, self.taken = left, 0

    def spend(self) -> bool:
        self.taken += self.left
        return self.left


def failed(kind: str, retry_after_s: float | None = None, **fields: Any) -> ProviderError:
    named = {"output": "no"} if kind == "bad answer" else {}
    return ERRORS[kind]("no", model="m", provider="p", retry_after_s=retry_after_s, **named, **fields)


def at_the_moment(**changed: Any) -> Situation:
    usual: dict[str, Any] = {
        "made": 1, "here": 1, "most": 6, "others": False, "remaining_s": 600.0, "repaired": False, "draw": 0.5,
        "spend_retry": lambda: True,
    }  # fmt: skip
    return Situation(**{**usual, **changed})


def expected(kind: str, word_s: float | None, now: Situation, left: bool) -> str:
    """The table of the design, written down a second time."""
    if kind not in ANOTHER or now.made >= now.most or now.remaining_s <= 0:
        return "stop"
    if kind == "bad answer" and not now.repaired:
        return "repair"
    otherwise = "next" if now.others else "stop"
    if kind not in AGAIN or now.here > 2 or not left or (word_s or 0) > min(LONGEST_WAIT_S, now.remaining_s):
        return otherwise
    if (word_s or 0) > 2 and now.others:
        return "later"
    return "retry"


def test_every_kind_of_error_has_its_row_and_every_row_its_error() -> None:
    assert set(KINDS) == set(ERRORS)


@pytest.mark.parametrize("word", WORDS_S)
@pytest.mark.parametrize("kind", KINDS)
def test_the_table_decides_what_comes_after_a_failure(kind: str, word: str) -> None:
    policy, word_s = Fallback(retries=2), WORDS_S[word]
    for others, left, repaired in itertools.product((True, False), repeat=3):
        for made, here, remaining_s in itertools.product((1, 5, 6), (1, 2, 3), (600.0, 30.0, 0.0, -1.0)):
            retries = Retries(left)
            now = at_the_moment(
                made=made, here=here, others=others, remaining_s=remaining_s, repaired=repaired,
                spend_retry=retries.spend,
            )  # fmt: skip

            step = policy.after(failed(kind, word_s), now)

            assert step.does == expected(kind, word_s, now, left), now
            assert retries.taken == (step.does in ("retry", "later"))  # a retry that is not made is not spent
            assert step.does in ("retry", "later") or step.pause_s == 0
            assert step.pause_s <= max(remaining_s, 0)


def test_a_request_that_is_wrong_goes_nowhere_even_with_everything_left() -> None:
    for kind in ("bad request", "refused", "interrupted"):
        assert Fallback(retries=9).after(failed(kind), at_the_moment(others=True)) == Step("stop", final=True)


def test_after_silence_another_model_is_asked_before_the_same_one_again() -> None:
    silence = ProviderTimeout("no", model="m", provider="p")

    assert Fallback().after(silence, at_the_moment(others=True)) == Step("next")
    assert Fallback().after(silence, at_the_moment()).does == "retry"


def test_without_retries_a_failure_goes_to_the_next_or_ends_the_call() -> None:
    once = Fallback(retries=0)

    assert once.after(failed("sick upstream"), at_the_moment(others=True)) == Step("next")
    assert once.after(failed("sick upstream"), at_the_moment()) == Step("stop")


@pytest.mark.parametrize("draw", [0.0, 0.3, 1.0])
def test_a_provider_is_never_asked_before_the_time_that_it_named(draw: float) -> None:
    for word_s in (0.01, 1.0, 1.9, 30.0, 59.9, 60.0):
        step = Fallback().after(failed("throttled", word_s), at_the_moment(draw=draw))

        assert step.does == "retry"
        assert word_s <= step.pause_s <= min(word_s * 1.1, word_s + 1, 60.0)


def test_who_asks_for_more_than_a_minute_is_not_waited_for() -> None:
    assert Fallback().after(failed("throttled", 60.1), at_the_moment()) == Step("stop")
    assert Fallback().after(failed("throttled", 60.1), at_the_moment(others=True)) == Step("next")


def test_patience_counts_only_while_somebody_else_is_left() -> None:
    policy = Fallback(patience_s=3)

    assert policy.after(failed("throttled", 10.0), at_the_moment(others=True, draw=0.0)) == Step("later", 10.0)
    assert policy.after(failed("throttled", 10.0), at_the_moment(draw=0.0)) == Step("retry", 10.0)
    assert policy.after(failed("throttled", 3.0), at_the_moment(others=True, draw=0.0)) == Step("retry", 3.0)


# Back-off


def test_the_pause_is_drawn_from_nothing_up_to_a_bound_that_doubles_and_is_capped() -> None:
    bounds = [backoff_s(0.5, tries, 1.0) for tries in range(1, 9)]

    assert bounds == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_S, LONGEST_S]
    for tries, most_s in enumerate(bounds, 1):
        assert backoff_s(0.5, tries, 0.0) == 0.0
        assert backoff_s(0.5, tries, 0.25) == most_s / 4


def test_after_a_429_at_least_half_of_the_bound_is_waited() -> None:
    for tries in range(1, 9):
        most_s = backoff_s(0.5, tries, 1.0)
        assert backoff_s(0.5, tries, 0.0, throttled=True) == most_s / 2
        assert backoff_s(0.5, tries, 1.0, throttled=True) == most_s


@pytest.mark.parametrize("tries", [1_000, 10_000, 10**9])
def test_the_ten_thousandth_pause_is_as_long_as_the_tenth(tries: int) -> None:
    assert backoff_s(0.5, tries, 1.0) == LONGEST_S


def test_retry_after_0_says_nothing_so_a_429_keeps_its_floor() -> None:
    step = Fallback(backoff_s=0.5).after(failed("throttled", 0.0), at_the_moment(draw=0.0))

    assert step == Step("retry", 0.25)


def test_a_retry_budget_is_ten_at_first_then_ten_a_minute_and_one_for_ten_requests() -> None:
    now = [0.0]
    budget = RetryBudget(lambda: now[0])

    assert [budget.spend() for _ in range(12)] == [*[True] * 10, False, False]
    now[0] += 6
    assert [budget.spend(), budget.spend()] == [True, False]
    for _ in range(11):
        budget.request()
    assert [budget.spend(), budget.spend()] == [True, False]
    now[0] += 3600
    assert sum(budget.spend() for _ in range(100)) == 10


# What the caller may say


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"strategy": "cheapest"}, "strategy is one of priority"),
        ({"retries": -1}, "retries is a whole number"),
        ({"retries": True}, "retries is a whole number"),
        ({"retries": 1.5}, "retries is a whole number"),
        ({"attempts": 0}, "attempts is a whole number, 1 or more"),
        ({"deadline_s": 0}, "deadline_s is a number of seconds above 0"),
        ({"deadline_s": float("inf")}, "deadline_s is a number"),
        ({"deadline_s": float("nan")}, "deadline_s is a number"),
        ({"backoff_s": 0}, "backoff_s is a number"),
        ({"patience_s": -1}, "patience_s is a number"),
        ({"max_usd": -1}, "no amount of dollars"),
        ({"max_usd": "much"}, "no amount of dollars"),
        ({"max_usd": float("nan")}, "no amount of dollars"),
        ({"on": ("throtled",)}, "on names kinds of failure"),
        ({"hedge_after_s": "p50"}, "hedge_after_s is a number"),
        ({"on_stream_break": "hide"}, "on_stream_break is"),
        ({"commit_chunks": 0}, "commit_chunks is a whole number"),
        ({"min_chunks_per_s": 5}, "min_chunks_per_s needs commit_chunks"),
    ],
)
def test_what_can_never_apply_is_a_value_error_that_names_it(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Fallback(**wrong)


@pytest.mark.parametrize("wrong", [{"on": "throttled"}, {"on": 5}, {"models": 5}, {"models": [5]}])
def test_what_has_the_wrong_type_is_a_type_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Fallback(**wrong)


def test_kinds_that_are_read_once_hold_for_every_call() -> None:
    policy = Fallback(on=(kind for kind in ["refused"]))  # type: ignore[arg-type]

    for _ in range(2):
        assert policy.after(failed("refused"), at_the_moment(others=True)) == Step("next")


def test_patience_of_nothing_means_the_next_at_once() -> None:
    assert Fallback(patience_s=0).after(failed("throttled", 0.1), at_the_moment(others=True)).does == "later"


def test_there_are_six_attempts_in_all_or_one_for_each_candidate() -> None:
    assert [Fallback().most(count) for count in (1, 6, 7, 20)] == [ATTEMPTS, ATTEMPTS, 7, 20]
    assert Fallback(attempts=2).most(20) == 2


# Whole calls


@pytest.fixture
def pair(sim: Simulator) -> list[Model]:
    return [at(sim, "openai"), at(sim, "anthropic")]


def test_on_names_the_kinds_after_which_somebody_else_is_asked(ask: Ask, sim: Simulator, pair: list[Model]) -> None:
    sim.script(Fault.content_filter(), Reply(text="Carp."))
    assert ask(FISH, model=Fallback(pair, on=("refused",))).model == pair[1].model

    sim.script(Fault.status(500))
    with pytest.raises(ProviderUnavailable):
        ask(FISH, model=Fallback(pair, on=("refused",)))
    assert len(sim.requests) == 3  # not the same model again, either


def test_on_may_be_a_function_of_the_error(ask: Ask, sim: Simulator, pair: list[Model]) -> None:
    sim.script(Fault.status(422), Reply(text="Carp."), Fault.status(400))
    policy = Fallback(pair, on=lambda error: error.status == 422)

    assert ask(FISH, model=policy).text == "Carp."
    with pytest.raises(BadRequest):
        ask(FISH, model=policy)
    assert len(sim.requests) == 3


@pytest.mark.parametrize("verb", ["complete", "acomplete"])  # what a stream's reader has seen cannot be taken back
def test_an_answer_that_is_not_accepted_is_paid_for_not_kept_and_another_model_is_asked(
    ask: Ask, sim: Simulator, pair: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = Bridge(cache=Cache(tmp_path / "cache"))
    monkeypatch.setattr(default, "_bridge", bridge)
    picky = Fallback(pair, accept=lambda answer: "Carp" in answer.text)
    sim.script(Reply(input_tokens=1000, output_tokens=100), Reply(text="Carp.", input_tokens=1000, output_tokens=100))

    reply = ask(FISH, model=picky)

    first, second = reply.attempts
    assert (first.kind, first.cost_usd, first.uncertain) == ("bad answer", Decimal("0.00021"), False)
    assert (reply.text, reply.cost_usd) == ("Carp.", Decimal("0.00021") + second.cost_usd)
    (kept,) = bridge.ledger.records(id=reply.record.id)
    assert kept.cost_usd == reply.cost_usd
    assert bridge.ledger.check() == []
    again = ask(FISH, model=pair[0])
    assert (again.cached, len(sim.requests)) == (False, 3)


def test_what_nobody_gives_an_acceptable_answer_to_fails_with_what_each_said(
    sim: Simulator, pair: list[Model], fresh_default: Bridge
) -> None:
    with pytest.raises(AllAttemptsFailed, match="does not want the answer"):
        fresh_default.complete(FISH, model=Fallback(pair, accept=lambda answer: False))

    assert len(sim.requests) == 2


def test_an_error_in_accept_is_the_callers_and_what_was_answered_is_charged(
    sim: Simulator, pair: list[Model], fresh_default: Bridge, records: list[Any]
) -> None:
    with pytest.raises(ZeroDivisionError):
        fresh_default.complete(FISH, model=Fallback(pair, accept=lambda answer: bool(1 / 0)))

    assert (len(sim.requests), records[0].outcome, records[0].cost_usd > 0) == (1, "failed", True)
    assert fresh_default.ledger.check() == []


def test_on_is_asked_once_for_each_failure(ask: Ask, sim: Simulator, pair: list[Model]) -> None:
    seen: list[ProviderError] = []
    sim.script(Fault.status(500))

    def on(error: ProviderError) -> bool:
        seen.append(error)
        return False

    with pytest.raises(ProviderUnavailable):
        ask(FISH, model=Fallback(pair, on=on))
    assert len(seen) == 1


def test_a_call_that_an_error_in_on_has_ended_is_recorded_as_failed(
    sim: Simulator, pair: list[Model], fresh_default: Bridge, records: list[Any]
) -> None:
    sim.script(Fault.status(500))
    with pytest.raises(ZeroDivisionError):
        fresh_default.complete(FISH, model=Fallback(pair, on=lambda error: bool(1 / 0)))

    assert [(record.outcome, record.error_type) for record in records] == [("failed", "ZeroDivisionError")]


def test_an_error_in_on_is_the_callers_and_leaves_nothing_reserved(
    sim: Simulator, pair: list[Model], fresh_default: Bridge
) -> None:
    sim.script(Fault.status(500))
    with pytest.raises(ZeroDivisionError):
        fresh_default.complete(FISH, model=Fallback(pair, on=lambda error: bool(1 / 0)), budget="$5/day")

    (balance,) = fresh_default.ledger.balance("$5/day")
    assert (balance.reserved, fresh_default.ledger.check()) == (0, [])


def test_max_usd_bounds_all_attempts_together(ask: Ask, sim: Simulator, pair: list[Model]) -> None:
    """A 5xx is charged at its worst case: two of gpt-4o-mini's 100 tokens fit into the bound, a third does not."""
    worst = ask(FISH, model=pair[0], max_tokens=100).attempts[0].reserved_usd
    assert worst is not None
    sim.script(Fault.reset())

    with pytest.raises(BudgetExceeded) as caught:
        ask(FISH, model=Fallback([pair[0]] * 4, retries=0, breaker=False, max_usd=worst * 2), max_tokens=100)

    assert (len(sim.requests), len(caught.value.attempts)) == (3, 2)
    assert default.default().ledger.check() == []


@pytest.mark.parametrize("amount", [1e-7, Decimal("1E-7"), "0.0000001"])
def test_max_usd_may_be_however_small(sim: Simulator, pair: list[Model], fresh_default: Bridge, amount: Any) -> None:
    with pytest.raises(BudgetExceeded):
        fresh_default.complete(FISH, model=Fallback(pair, max_usd=amount))

    assert sim.requests == []


def test_no_call_makes_more_attempts_than_its_bound(ask: Ask, sim: Simulator, pair: list[Model]) -> None:
    sim.script(Fault.status(401))

    with pytest.raises(AllAttemptsFailed) as caught:
        ask(FISH, model=Fallback(pair * 4, attempts=3, breaker=False))

    assert (len(sim.requests), len(caught.value.attempts)) == (3, 3)


def test_one_failure_is_raised_as_it_is_and_pickles_with_what_the_provider_said(
    ask: Ask, sim: Simulator, pair: list[Model]
) -> None:
    sim.script(Fault.status(429, headers={"retry-after": "120"}))

    with pytest.raises(ProviderRateLimited) as caught:
        ask(FISH, model=Fallback(pair[:1]))

    assert (caught.value.retry_after_s, len(sim.requests)) == (120, 1)
