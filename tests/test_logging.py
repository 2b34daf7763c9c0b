"""Logs: quiet until the application wants to hear them, structured, and without secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

import llmbridge
from llmbridge import Model
from llmbridge.errors import AuthenticationFailed, ProviderError
from tests.conftest import Ask
from tests.simulator import Fault, Reply, Simulator


KEY = "qmX7ZtR2vLp9KwYb4HsN"  # of no shape that a pattern knows
FISH = "Name a fish."


@pytest.fixture
def gpt(sim: Simulator) -> Model:
    return Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key=KEY)


@pytest.fixture
def litellm_at_debug() -> Iterator[list[logging.LogRecord]]:
    """What an application hears that has set up logging for LiteLLM."""
    heard: list[logging.LogRecord] = []
    theirs = logging.Handler()
    theirs.emit = heard.append  # type: ignore[method-assign]
    logger = logging.getLogger("LiteLLM")
    before = logger.level
    logger.addHandler(theirs)
    logger.setLevel(logging.DEBUG)
    yield heard
    logger.removeHandler(theirs)
    logger.setLevel(before)


def process(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=50, check=False
    )


def test_a_failing_call_prints_nothing_in_an_application_without_logging(sim: Simulator) -> None:
    sim.script(Fault.status(401))
    script = """
import asyncio, logging, sys
logging.getLogger("httpx").setLevel(logging.INFO)
import llmbridge
bridge = llmbridge.Bridge(ledger=None, cache=None, fallback=llmbridge.Fallback(retries=0))
gpt = llmbridge.Model("openai/gpt-4o-mini", api_base=sys.argv[1], api_key="sk-test-key")
async def stream(model):
    async with bridge.astream("Name a fish.", model=model) as chunks:
        async for _ in chunks: pass
caught = []
for model in (gpt, "vertex_ai/gemini-2.5-pro", "nobody/knows", "anthropic/claude-haiku-4-5"):
    for verb in (bridge.complete, lambda asked, model: asyncio.run(stream(model))):
        try: verb("Name a fish.", model=model)
        except llmbridge.LLMBridgeError as error: caught.append(error)
assert len(caught) == 8, caught
assert logging.getLogger("httpx").level == logging.INFO
assert not logging.getLogger().handlers
"""

    done = process(script, sim.api_base("openai"))

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_an_applications_own_handler_hears_litellm_at_debug_without_the_key(
    ask: Ask,
    sim: Simulator,
    gpt: Model,
    litellm_at_debug: list[logging.LogRecord],
    capfd: pytest.CaptureFixture[str],
) -> None:
    sim.script(Fault.echo_key())

    with pytest.raises(AuthenticationFailed):
        ask(FISH, model=gpt)

    said = "\n".join(map(logging.Formatter().format, litellm_at_debug))
    assert any(record.levelno == logging.DEBUG for record in litellm_at_debug)
    assert KEY not in said
    assert KEY not in str([vars(record) for record in litellm_at_debug])
    assert capfd.readouterr() == ("", "")


def test_litellm_used_by_the_application_itself_still_prints(
    litellm_at_debug: list[logging.LogRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("LiteLLM").warning("said to the application")

    assert "said to the application" in "".join(capfd.readouterr())


def test_a_call_is_one_record_with_its_facts_as_fields(
    ask: Ask, sim: Simulator, gpt: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmbridge")
    sim.script(Reply(input_tokens=9, output_tokens=3))

    reply = ask(FISH, model=gpt, tags={"user": "alice"})

    (record,) = [each for each in caplog.records if hasattr(each, "llmbridge")]
    facts = json.loads(json.dumps(record.llmbridge))
    assert record.getMessage() == reply.record.explain()
    assert (facts["event"], facts["call_id"], facts["model"]) == ("call_completed", reply.record.id, gpt.model)
    assert (facts["input_tokens"], facts["output_tokens"], facts["tags"]) == (9, 3, {"user": "alice"})
    assert facts["cost_usd"] == pytest.approx(float(reply.cost_usd or 0))


def test_nothing_is_logged_below_a_warning_unless_asked_for(
    ask: Ask, sim: Simulator, gpt: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    ask(FISH, model=gpt)

    assert [record for record in caplog.records if record.name == "llmbridge"] == []


def test_a_budget_alert_is_a_warning_with_its_facts(
    ask: Ask, sim: Simulator, gpt: Model, caplog: pytest.LogCaptureFixture
) -> None:
    ask(FISH, model=gpt, budget=llmbridge.Budget("1 requests/day", alert_at=(1.0,)))

    (alert,) = [each for each in caplog.records if getattr(each, "llmbridge", {}).get("event") == "budget_alerted"]
    assert alert.levelname == "WARNING"
    assert vars(alert)["llmbridge"]["budget"] == "1 requests/day"
    assert vars(alert)["llmbridge"]["share"] == 1.0


def test_a_secret_is_in_no_message_field_or_traceback(
    ask: Ask, sim: Simulator, gpt: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sim.script(Fault.echo_key())
    llmbridge.default.default().subscribe(_raise)

    with pytest.raises(ProviderError):
        ask(FISH, model=gpt, tags={"note": f"it is {KEY}"})

    ours = [record for record in caplog.records if record.name == "llmbridge"]
    assert "attempt_failed" in {vars(each)["llmbridge"]["event"] for each in ours if hasattr(each, "llmbridge")}
    assert any("RuntimeError: [redacted]" in (record.exc_text or "") for record in ours)
    assert KEY not in "\n".join(map(logging.Formatter().format, ours))
    assert KEY not in str([vars(record) for record in ours])


def _raise(record: object) -> None:
    raise RuntimeError(KEY)


def test_a_message_that_does_not_fit_its_arguments_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("llmbridge").warning("%s and %s", "one")

    assert caplog.records[-1].getMessage() == "%s and %s (its arguments do not fit)"
