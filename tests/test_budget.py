"""What a budget's words mean, which of its counters a call belongs to, and what is refused as no budget."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from llmbridge.ledger import Budget, Charge, Need, budgets_of, distinct
from llmbridge.ledger.budget import LARGEST, show_amount


EXAMPLES = r"write it as '\$5/day', '200k tokens/hour'"


@pytest.mark.parametrize(
    ("text", "unit", "amount", "window"),
    [
        ("$5/day", "nanousd", 5 * 10**9, "day"),
        ("$5 per day", "nanousd", 5 * 10**9, "day"),
        ("$0.10/call", "nanousd", 10**8, "call"),
        ("$2/5h", "nanousd", 2 * 10**9, "5h"),
        ("$2/90m", "nanousd", 2 * 10**9, "90m"),
        ("$50", "nanousd", 50 * 10**9, "total"),
        ("$50/total", "nanousd", 50 * 10**9, "total"),
        ("$1,000/month", "nanousd", 10**12, "month"),
        ("$1,234,567.89/month", "nanousd", 1234567890000000, "month"),
        ("$2k/week", "nanousd", 2 * 10**12, "week"),
        ("$.5/hour", "nanousd", 5 * 10**8, "hour"),
        ("$0.000000001", "nanousd", 1, "total"),
        ("$0/day", "nanousd", 0, "day"),
        ("200k tokens/hour", "tokens", 200_000, "hour"),
        ("200_000 tokens/hour", "tokens", 200_000, "hour"),
        ("1.5M tokens/day", "tokens", 1_500_000, "day"),
        ("1 token", "tokens", 1, "total"),
        ("1000 requests/month", "requests", 1000, "month"),
        ("1 request/call", "requests", 1, "call"),
        ("4611686018427387904 tokens", "tokens", LARGEST, "total"),
    ],
)
def test_a_text_is_a_limit_in_a_unit_for_a_window(text: str, unit: str, amount: int, window: str) -> None:
    budget = Budget(text)

    assert (budget.unit, budget.amount, budget.window.text) == (unit, amount, window)


@pytest.mark.parametrize(
    "same",
    [
        ("$5/day", "$5 / day", " $5/day ", "$5.00/day", "$5 per day", "$ 5/day", "$0.005k/day"),
        ("$1,000", "$1000", "$1k", "$1_000/total"),
        ("200k tokens/hour", "200000 tokens/hour", "0.2M tokens/hour", "200,000 token/hour"),
        ("$2/5h", "$2/300m", "$2 per 5h", "$2 / 5 h"),
    ],
)
def test_the_same_words_in_another_spelling_are_the_same_counter(same: tuple[str, ...]) -> None:
    budgets = {Budget(text) for text in same}

    assert len(budgets) == 1
    assert len({budget.name for budget in budgets}) == 1
    assert len(budgets_of(list(same))) == 1


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (Budget("$5/day"), "$5/day"),
        (Budget("$0.10 / call"), "$0.1/call"),
        (Budget("200k tokens/hour"), "200000 tokens/hour"),
        (Budget("$1,000"), "$1000"),
        (Budget("$5/day", per=("user", "team")), "$5/day per user, team"),
        (Budget("$5/day", models=("openai/*",)), "$5/day for openai/*"),
        (Budget("$5/day", zone="Europe/Berlin"), "$5/day in Europe/Berlin"),
        (Budget("$5/day", name="team-a"), "team-a"),
    ],
)
def test_an_unnamed_budget_is_known_by_its_own_text(budget: Budget, name: str) -> None:
    assert budget.name == name


@pytest.mark.parametrize(
    "different",
    [
        {"limit": "$6/day"},
        {"limit": "$5/week"},
        {"per": ("user",)},
        {"models": ("openai/*",)},
        {"zone": "Europe/Berlin"},
    ],
)
def test_other_words_are_another_counter(different: dict[str, Any]) -> None:
    assert Budget(**{"limit": "$5/day", **different}).name != Budget("$5/day").name


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "/day", "5", "5/day", "$", "$/day", "-$5", "$-5", "$5 tokens", "tokens", "nan", "$nan", "$inf",
        "$infinity/day", "1e400", "$1e400", "$1e3/day", "5 dollars", "€5", "5$", "$5.5.5", "$1,00", "$1,0000",
        "0x10 tokens",
        "$5,/day", "five tokens", "5 token s", "$" + "9" * 200, "1k", "5 requests tokens",
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused_and_the_message_shows_some(text: str) -> None:
    with pytest.raises(ValueError, match=f"is no amount of dollars, tokens or requests; {EXAMPLES}"):
        Budget(text)


@pytest.mark.parametrize("limit", [5, 5.0, True, None, ["$5"], b"$5", float("nan"), float("inf"), 1e400])
def test_a_limit_that_is_no_text_is_a_type_error_and_the_message_shows_some(limit: Any) -> None:
    with pytest.raises(TypeError, match=f"a budget is a text, not .*; {EXAMPLES}"):
        Budget(limit)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("$0.0000000001", "a nanodollar"),
        ("$5.0000000000000000000000000000000000001/day", "a nanodollar"),
        ("0.5 tokens", "a token"),
        ("0.0001k tokens", "a token"),
        ("1.5 requests/hour", "a request"),
    ],
)
def test_what_is_finer_than_the_ledger_counts_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"is finer than {what}"):
        Budget(text)


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("4611686018427387905 tokens", "4,611,686,018,427,387,904 tokens"),
        ("$4611686018.427387905", r"\$4,611,686,018.43"),
        ("$99999999999999999999M", r"\$4,611,686,018.43"),
    ],
)
def test_what_the_ledger_cannot_hold_is_refused_and_the_message_says_how_much_it_can(text: str, most: str) -> None:
    with pytest.raises(ValueError, match=f"more than the ledger can hold .{most}.$"):
        Budget(text)


@pytest.mark.parametrize("text", ["$5/fortnight", "$5/", "$5/day/day", "$5 daily", "$5 per user per day", "$5/0h"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no (window|amount)"):
        Budget(text)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no time zone 'Mars/Olympus'"):
        Budget("$5/day", zone="Mars/Olympus")


@pytest.mark.parametrize("unit", ["nanousd", "tokens", "requests"])
@pytest.mark.parametrize(
    "amount", [-1, -(10**30), 2**62 + 1, 2**64, 1.5, 0.1 + 0.2, True, "1", float("nan"), float("inf")]
)
@pytest.mark.parametrize("made", [Need, Charge])
def test_a_need_and_a_charge_are_whole_and_not_negative(made: Any, unit: str, amount: Any) -> None:
    with pytest.raises(ValueError, match="is no amount"):
        made(**{"nanousd": 0, "tokens": 0, "requests": 0, unit: amount})


@pytest.mark.parametrize("unit", ["nanousd", "tokens"])
def test_a_need_that_is_unknown_fits_no_budget_that_counts_it(unit: Any) -> None:
    with pytest.raises(ValueError, match=f"the worst case in {unit} is unknown"):
        Need(None, None).of(unit)


def test_one_name_may_be_given_without_a_tuple() -> None:
    budget = Budget("$5/day", per="user", models="openai/*", alert_at=0.5)  # type: ignore[arg-type]

    assert (budget.per, budget.models, budget.alert_at) == (("user",), ("openai/*",), (0.5,))


@pytest.mark.parametrize("field", ["per", "models"])
@pytest.mark.parametrize("value", [("",), (1,), (None,), 5, ["user", b"x"]])
def test_per_and_models_are_names(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match="per= and models= are names"):
        Budget("$5/day", **{field: value})


@pytest.mark.parametrize("shares", [(0,), (-0.1,), (True,), ("80%",), (float("nan"),), (float("inf"),), (0.8, 0), True])
def test_alert_at_is_shares_of_the_limit(shares: Any) -> None:
    with pytest.raises(ValueError, match="alert_at is shares of the limit such as"):
        Budget("$5/day", alert_at=shares)


@pytest.mark.parametrize("wish", ["deny", "", None, "REFUSE", 1])
def test_on_exceed_is_one_of_four_words(wish: Any) -> None:
    with pytest.raises(ValueError, match="on_exceed is refuse, downgrade, clamp or warn"):
        Budget("$5/day", on_exceed=wish)


@pytest.mark.parametrize("name", [5, b"team", ("team",)])
def test_a_name_is_a_text(name: Any) -> None:
    with pytest.raises(TypeError, match="a budget's name is a text"):
        Budget("$5/day", name=name)


@pytest.mark.parametrize(
    ("models", "model", "covered"),
    [
        ((), "openai/gpt-4o-mini", True),
        (("openai/*",), "openai/gpt-4o-mini", True),
        (("openai/*",), "azure/gpt-4o-mini", False),
        (("openai/*",), "OPENAI/gpt-4o-mini", False),
        (("openai/gpt-4o",), "openai/gpt-4o-mini", False),
        (("*/gpt-4o-*", "anthropic/*"), "anthropic/claude-haiku-4-5", True),
        (("openai/gpt-?o",), "openai/gpt-4o", True),
        (("openai/gpt-[45]*",), "openai/gpt-3.5", False),
        (("openai/*",), "openai/ft:gpt-4o:team::a1/b2", True),
    ],
)
def test_models_are_globs_over_the_model_as_asked(models: tuple[str, ...], model: str, covered: bool) -> None:
    assert Budget("$5/day", models=models).covers(model) is covered


CAFE = "café"
VALUES = [
    "", " ", "a", "a,b", "b,c", "c", "a/b", "a:b", "null", "None", "[]", '"', '","', "'; drop table balance; --", "\\",
    "\n", "🐟", "🐟" * 2500, "x" * 10_240, unicodedata.normalize("NFC", CAFE), unicodedata.normalize("NFD", CAFE), "A",
]  # fmt: skip


def test_each_combination_of_values_has_a_counter_of_its_own() -> None:
    budget = Budget("$5/day", per=("user", "team"))

    scopes = [budget.scope({"user": user, "team": team}) for user in VALUES for team in VALUES]

    assert len(set(scopes)) == len(VALUES) ** 2


def test_values_are_not_joined_as_text() -> None:
    budget = Budget("$5/day", per=("user", "team"))

    assert budget.scope({"user": "a,b", "team": "c"}) != budget.scope({"user": "a", "team": "b,c"})


def test_calls_without_the_tag_share_a_counter_which_is_that_of_no_value() -> None:
    budget = Budget("$5/day", per=("user",))

    assert budget.scope({}) == budget.scope({"team": "x"})
    assert budget.scope({}) not in {budget.scope({"user": value}) for value in VALUES}


def test_other_tags_and_their_order_make_no_difference() -> None:
    budget = Budget("$5/day", per=("user", "team"))

    assert budget.scope({"user": "a", "team": "b"}) == budget.scope({"purpose": "x", "team": "b", "user": "a"})


def test_a_budget_without_per_has_one_counter() -> None:
    assert {Budget("$5/day").scope({"user": value}) for value in VALUES} == {"[]"}


def test_none_one_and_several_budgets_may_be_given() -> None:
    five = Budget("$5/day")

    assert budgets_of(None) == budgets_of([]) == ()
    assert budgets_of("$5/day") == budgets_of(five) == budgets_of(["$5/day", five]) == (five,)
    assert budgets_of(("$5/day", "$50")) == (five, Budget("$50"))


@pytest.mark.parametrize("given", [5, 5.0, True, {"limit": "$5"}, {"$5"}, [5], [None], [["$5"]]])
def test_what_is_no_budget_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError, match=EXAMPLES):
        budgets_of(given)


@pytest.mark.parametrize("other", [{"limit": "$6/day"}, {"on_exceed": "warn"}, {"alert_at": (0.5,)}, {"per": "user"}])
def test_two_different_budgets_cannot_have_one_name(other: dict[str, Any]) -> None:
    budgets = [Budget("$5/day", name="team"), Budget(**{"limit": "$5/day", "name": "team", **other})]

    with pytest.raises(ValueError, match="two different budgets are named 'team'; give one of them another name="):
        distinct(budgets)


@pytest.mark.parametrize(
    ("unit", "amount", "shown", "short"),
    [
        ("nanousd", 5 * 10**9, "$5.00", "$5"),
        ("nanousd", 1_234_567_890_000_000, "$1,234,567.89", "$1234567.89"),
        ("nanousd", 0, "$0.00", "$0"),
        ("nanousd", 31_000_000, "$0.0310", "$0.031"),
        ("nanousd", 4_200_000, "$0.004200", "$0.0042"),
        ("nanousd", -31_000_000, "-$0.0310", "$-0.031"),
        ("nanousd", LARGEST, "$4,611,686,018.43", "$4611686018.427387904"),
        ("tokens", 200_000, "200,000 tokens", "200000 tokens"),
        ("requests", 0, "0 requests", "0 requests"),
    ],
)
def test_amounts_are_shown_for_people_and_as_in_a_budget(unit: str, amount: int, shown: str, short: str) -> None:
    assert show_amount(unit, amount) == shown
    assert show_amount(unit, amount, short=True) == short


@pytest.mark.parametrize("amount", [1, 499, 501, 999_999, 4_200_001, 12_345_678_901, 10**9 - 1])
def test_no_amount_of_money_is_shown_as_nothing(amount: int) -> None:
    assert float(show_amount("nanousd", amount).lstrip("$").replace(",", "")) > 0


@pytest.mark.parametrize("amount", [0, 1, 999, 10**9 - 1, 10**9, 123_456_789_012, LARGEST])
@pytest.mark.parametrize("unit", ["nanousd", "tokens", "requests"])
def test_a_short_amount_is_read_back_exactly(unit: str, amount: int) -> None:
    assert Budget(show_amount(unit, amount, short=True)).amount == amount
