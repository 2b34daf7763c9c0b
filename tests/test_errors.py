"""The error tree: what is drawn is what there is, and every class pickles with its fields."""

from __future__ import annotations

import copy
import email.utils
import importlib
import pickle
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest

import llmbridge
from llmbridge import AttemptRecord, LLMBridgeError, ProviderError, errors
from llmbridge.fallback.policy import KINDS
from llmbridge.provider.translation import request_id, retry_after_s


FIELDS = {"model": "openai/gpt-4o", "provider": "openai", "status": 503, "retry_after_s": 1.5, "request_id": "r"}
ATTEMPT = AttemptRecord(number=1, model="openai/gpt-4o", provider="openai", reason="initial", status=503)
ONE_OF_EACH: list[LLMBridgeError] = [
    errors.LLMBridgeError("m"),
    errors.BudgetExceeded(
        "m",
        budget="$5/day",
        unit="nanousd",
        limit=5 * 10**9,
        settled=4 * 10**9,
        reserved=10**9,
        needed=7,
        resets_at=datetime(2026, 11, 22, tzinfo=UTC),
        attempts=[ATTEMPT],
    ),
    errors.UnknownPrice("m"),
    errors.LedgerError("m"),
    errors.LedgerBusy("m"),
    errors.LedgerCorrupt("m"),
    errors.AlreadyResolved("m"),
    errors.RateLimited("m", retry_after_s=2.5, attempts=[ATTEMPT]),
    errors.CacheMiss("m"),
    errors.CassetteMiss("m"),
    errors.DeadlineExceeded("m", deadline_s=2.0, attempts=[ATTEMPT]),
    errors.ProviderError("m", **FIELDS, sent=False),
    errors.AuthenticationFailed("m", **FIELDS),
    errors.BadRequest("m", **FIELDS),
    errors.ContextWindowExceeded("m", **FIELDS),
    errors.ContentFiltered("m", **FIELDS),
    errors.NotFound("m", **FIELDS),
    errors.ProviderRateLimited("m", **FIELDS),
    errors.ProviderUnavailable("m", **FIELDS),
    errors.ProviderTimeout("m", **FIELDS),
    errors.InvalidOutput("m", output="text", **FIELDS),
    errors.StreamInterrupted("m", partial="text", **FIELDS),
    errors.AllAttemptsFailed("m", errors=[errors.NotFound("m", **FIELDS)], attempts=[ATTEMPT]),
    errors.ConfigError("m", path="cassettes/x.yaml", line=3),
]


def _subclasses(cls: type[LLMBridgeError]) -> Iterator[type[LLMBridgeError]]:
    """The classes below *cls*, those of parts that are not loaded yet included."""
    importlib.import_module("llmbridge.cassette")
    for below in cls.__subclasses__():
        yield below
        yield from _subclasses(below)


def _drawn() -> dict[str, str]:
    """Child to parent, as errors.py draws it: four characters a level."""
    parents: dict[str, str] = {}
    above = ["LLMBridgeError"]
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ((?:\||`| )[-| `]*)(\w+)", line):
            depth = len(found[1]) // 4
            parents[found[2]] = above[depth - 1]
            above[depth:] = [found[2]]
    return parents


def test_the_tree_that_is_drawn_is_the_tree_that_there_is() -> None:
    real = {cls.__name__: cls.__bases__[0].__name__ for cls in _subclasses(LLMBridgeError)}

    assert _drawn() == real


def test_every_error_that_a_caller_can_meet_has_a_name_in_the_package() -> None:
    assert {cls.__name__ for cls in _subclasses(LLMBridgeError)} <= set(llmbridge.__all__)


def test_every_class_has_an_example_here() -> None:
    assert {type(error) for error in ONE_OF_EACH} == {LLMBridgeError, *_subclasses(LLMBridgeError)}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_every_error_pickles_with_its_fields(error: LLMBridgeError, protocol: int) -> None:
    error = copy.copy(error)
    error.call_id = "call-7"

    back = pickle.loads(pickle.dumps(error, protocol))

    assert (type(back), str(back), back.args, back.call_id) == (type(error), "m", ("m",), "call-7")
    assert {**vars(back), "errors": ()} == {**vars(error), "errors": ()}
    assert [str(inner) for inner in getattr(back, "errors", ())] == [str(e) for e in getattr(error, "errors", ())]


@pytest.mark.parametrize("unit", ["nanousd", "tokens", "requests"])
def test_what_a_budget_lacks_is_told_in_its_unit_and_dollars_only_of_dollars(unit: str) -> None:
    error = errors.BudgetExceeded(
        "m", budget="b", unit=unit, limit=5_000_000_001, settled=2, reserved=1, needed=10**9, resets_at=None
    )

    assert (error.limit, error.settled, error.reserved, error.needed) == (5_000_000_001, 2, 1, 10**9)
    dollars = [Decimal("5.000000001"), Decimal("2e-9"), Decimal("1e-9"), Decimal(1)]
    told = [error.limit_usd, error.settled_usd, error.reserved_usd, error.needed_usd]
    assert told == (dollars if unit == "nanousd" else [None] * 4)


def test_a_note_survives_pickling() -> None:
    error = errors.NotFound("m", **FIELDS)
    error.add_note("seen on Monday")

    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen on Monday"]


@pytest.mark.parametrize("cls", [ProviderError, *ProviderError.__subclasses__()], ids=lambda cls: cls.__name__)
def test_the_policy_knows_every_kind_of_provider_error(cls: type[ProviderError]) -> None:
    assert cls.kind in KINDS


def test_the_policy_has_no_kind_that_no_error_is_of() -> None:
    assert set(KINDS) == {cls.kind for cls in [ProviderError, *ProviderError.__subclasses__()]}


def test_a_group_of_attempts_can_be_caught_by_kind() -> None:
    limited = errors.ProviderRateLimited("slow down", **FIELDS)
    broken = errors.ProviderUnavailable("gone", **FIELDS)
    failed = errors.AllAttemptsFailed("none", errors=[limited, broken], attempts=[ATTEMPT])
    caught: list[str] = []

    try:
        raise failed.group
    except* errors.ProviderRateLimited as group:
        caught += ["limited", *map(str, group.exceptions)]
    except* errors.ProviderUnavailable as group:
        caught += ["unavailable", *map(str, group.exceptions)]

    assert caught == ["limited", "slow down", "unavailable", "gone"]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "1e3"}, 1000.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 99 Foo 2026 99:99:99 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "-5", "retry-after": "2"}, 2.0),
        ({"x-ms-retry-after-ms": "10"}, 0.01),
        ({"retry-after-ms": "1000", "x-ms-retry-after-ms": "10", "retry-after": "9"}, 1.0),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "7\u0660"}, 70.0),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_wait_that_a_provider_asks_for_is_read_in_every_form(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize("ahead_s", [-86_400, 5, 3_600])
def test_a_date_to_wait_for_is_never_in_the_past(ahead_s: int) -> None:
    at = email.utils.formatdate(time.time() + ahead_s, usegmt=True)

    assert retry_after_s({"retry-after": at}) == pytest.approx(max(ahead_s, 0), abs=5)


@pytest.mark.parametrize(
    "name", ["x-request-id", "request-id", "apim-request-id", "x-amzn-requestid", "x-goog-request-id", "cf-ray"]
)
def test_the_providers_id_of_a_request_is_found_under_its_name(name: str) -> None:
    assert (request_id({name: "req-1"}), request_id({})) == ("req-1", None)


def test_an_id_of_a_request_is_kept_short() -> None:
    assert len(request_id({"x-request-id": "a" * 10_000}) or "") < 300
