"""Fixtures and a marker for tests of code that calls models: `@pytest.mark.cassette`, `bridge`, `assert_cost`.

A test that uses none of them runs as if this plugin were not there. Nothing but pytest is imported until one does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest


if TYPE_CHECKING:
    from llmbridge.bridge import Bridge
    from llmbridge.cassette import Cassette
    from llmbridge.record import CallRecord

MODES = ("none", "once", "new", "all")
COST = "llmbridge_cost"
# A replay sends no key anywhere, but LiteLLM asks nobody without one.
KEYS = (
    *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "MISTRAL_API_KEY", "GROQ_API_KEY", "COHERE_API_KEY"),
    *("DEEPSEEK_API_KEY", "OPENROUTER_API_KEY", "XAI_API_KEY", "TOGETHERAI_API_KEY", "FIREWORKS_AI_API_KEY"),
)
_stack: pytest.StashKey[ExitStack] = pytest.StashKey()
_cassette: pytest.StashKey[Cassette] = pytest.StashKey()
_records: pytest.StashKey[list[CallRecord]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llmbridge", "recorded HTTP of models")
    group.addoption(
        "--llmbridge-record", choices=MODES, help="record cassettes, whatever their markers say; none: send nothing"
    )
    group.addoption(
        "--llmbridge-cost", action="store_true", help="say what each test with recorded calls would cost live"
    )
    parser.addini("llmbridge_cassettes", "the folder of cassettes, from that of the test file", default="cassettes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "cassette(name=None, record='none'): answer the test's HTTP from a recording; a request that is not in it "
        "fails, and so does a recording that nothing asks for.",
    )


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which may ask too
def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("cassette")
    if marker is not None:
        _insert(item, *_asked(item, *marker.args, **marker.kwargs))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    try:
        result = yield
    finally:
        if _records in item.stash:
            costs = [record.cost_usd for record in item.stash[_records]]
            item.user_properties.append((COST, [len(costs), str(_sum(costs))]))
    cassette = item.stash.get(_cassette, None)
    if cassette is not None and not cassette.sends and cassette.unplayed:
        left = "".join(f"\n  {name}" for name in cassette.unplayed)
        what = f"{len(cassette.unplayed)} recorded in {cassette.path} that the test did not ask for:{left}"
        pytest.fail(f"{what}\nTo record it anew: pytest --llmbridge-record=all {item.nodeid!r}", pytrace=False)
    if cassette is not None:
        cassette.write()
    return result


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        if _stack in item.stash:
            item.stash[_stack].close()
        for key in (_stack, _cassette, _records):
            _forget(item, key)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--llmbridge-cost"):
        return
    reports = [each for found in terminalreporter.stats.values() for each in found if hasattr(each, "user_properties")]
    rows = {each.nodeid: dict(each.user_properties)[COST] for each in reports if COST in dict(each.user_properties)}
    terminalreporter.section("what these tests would cost live")
    for nodeid, (calls, cost) in sorted(rows.items(), key=lambda row: (row[1][1] == "None", row[0])):
        shown = "unknown" if cost == "None" else f"${Decimal(cost):f}"
        terminalreporter.write_line(f"{shown:>14}  {calls:>3} calls  {nodeid}")
    known = [Decimal(cost) for _, cost in rows.values() if cost != "None"]
    unknown = len(rows) - len(known)
    more = f", and {unknown} tests of unknown cost" if unknown else ""
    terminalreporter.write_line(f"{f'${sum(known, Decimal(0)):f}':>14}  {len(rows)} tests{more}")


@pytest.fixture
def bridge(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bridge]:
    """A Bridge with a ledger and a cache of its own, which is the default one too, behind `llmbridge.complete`.

    Without a cassette, a request to anywhere but this machine is a CassetteMiss that says what to do.
    """
    from llmbridge import default
    from llmbridge.bridge import Bridge
    from llmbridge.cache import Cache
    from llmbridge.cassette import offline
    from llmbridge.ledger import close_ledgers
    from llmbridge.provider import mocks

    mocks.reset()
    home = tmp_path / "llmbridge"
    monkeypatch.setenv("LLMBRIDGE_HOME", str(home))
    own = Bridge(ledger=home / "ledger.db", cache=Cache(home / "cache"))
    monkeypatch.setattr(default, "_bridge", own)
    _listen(request.node)
    with ExitStack() as stack:
        stack.callback(close_ledgers, home)
        if _cassette not in request.node.stash:
            stack.enter_context(offline(f"{request.node.nodeid} has no cassette; mark it with @pytest.mark.cassette"))
        yield own


@pytest.fixture
def assert_cost(request: pytest.FixtureRequest) -> Callable[..., None]:
    """assert_cost(max_usd=0.001): fails if what this test has called so far would cost more live, or nobody knows."""
    records = _listen(request.node)

    def assert_cost(*, max_usd: Decimal | float | str) -> None:
        __tracebackhide__ = True
        cost, limit = _sum([record.cost_usd for record in records]), Decimal(str(max_usd))
        if cost is None:
            pytest.fail(f"what {len(records)} calls would cost is unknown: one of them has no price")
        if cost > limit:
            said = "".join(f"\n{record.explain()}" for record in records)
            pytest.fail(f"{len(records)} calls would cost ${cost:f}, which is more than ${limit:f}{said}")

    return assert_cost


def _asked(item: pytest.Item, name: str | None = None, record: str = "none") -> tuple[Path, str]:
    """The file and the mode that a marker's arguments mean."""
    folder = item.path.parent / item.config.getini("llmbridge_cassettes")
    if name is None:
        inner = re.sub(r"[^\w.-]+", "-", item.nodeid.partition("::")[2].replace("::", ".")).strip("-")
        name = f"{item.path.stem}/{inner}.yaml"
    return folder / name, item.config.getoption("--llmbridge-record") or record


def _insert(item: pytest.Item, path: Path, record: str) -> None:
    from llmbridge.cassette import replay
    from llmbridge.errors import ConfigError

    _listen(item)
    stack = item.stash[_stack]
    try:
        cassette = stack.enter_context(replay(path, record, writes=False))  # type: ignore[arg-type]
    except ConfigError as error:
        how = "" if path.exists() else f"\nTo record it: pytest --llmbridge-record=once {item.nodeid!r}"
        pytest.fail(f"{error if path.exists() else f'there is no cassette at {path}'}{how}", pytrace=False)
    cassette.how = f"pytest --llmbridge-record=new {item.nodeid!r}"
    item.stash[_cassette] = cassette
    if not cassette.sends:
        stack.enter_context(_keys())


def _listen(item: Any) -> list[CallRecord]:
    """The records of every call of every Bridge, from now to the end of the test."""
    if _records in item.stash:
        return item.stash[_records]  # type: ignore[no-any-return]
    from llmbridge.everywhere import hear_every_call

    records: list[CallRecord] = []
    item.stash[_stack] = stack = ExitStack()
    stack.callback(hear_every_call(records.append))
    item.stash[_records] = records
    return records


def _forget(item: pytest.Item, key: Any) -> None:
    if key in item.stash:
        del item.stash[key]


@contextmanager
def _keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in KEYS:
            if not os.environ.get(name):
                patch.setenv(name, "no-key-while-replaying")
        yield


def _sum(costs: list[Decimal | None]) -> Decimal | None:
    from llmbridge.record import sum_usd

    return sum_usd(costs)
