"""A prompt that is too long is refused, or made to fit, before anything is sent or reserved."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmbridge import Bridge, Cache, Model, count_tokens, default, request
from llmbridge.provider import message_tokens
from llmbridge.truncation import fitted
from tests.conftest import ONCE, Ask
from tests.simulator import Simulator
from tests.test_faults import at


MODEL = "openai/gpt-4o-mini"
SYSTEM = {"role": "system", "content": "You know every fish there is. " * 3}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOOLS = [{"type": "function", "function": {"name": "depth", "parameters": {"type": "object", "properties": {}}}}]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def called(*ids: str) -> dict[str, Any]:
    calls = [{"id": id, "type": "function", "function": {"name": "depth", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "tool_calls": calls}


def result(id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": text}


TALK = [SYSTEM, user("first " * 50), said("one " * 50), user("second " * 50), said("two " * 50), user("Name a fish.")]
AGENT = [
    SYSTEM,
    user("How deep is it?"),
    called("a", "b"),
    result("a", "eight " * 100),
    result("b", "nine " * 100),
    called("c"),
    result("c", "ten " * 20),
]


def sent(sim: Simulator) -> list[dict[str, Any]]:
    body = sim.requests[-1].body
    assert body is not None
    messages: list[dict[str, Any]] = body["messages"]
    return messages


@pytest.fixture
def model(sim: Simulator) -> Model:
    return at(sim, "openai")


def test_what_is_longer_is_refused_before_anything_is_sent_or_reserved(ask: Ask, sim: Simulator, model: Model) -> None:
    with pytest.raises(ValueError, match=r"the prompt is 27\d tokens and max_input_tokens is 100; nothing was sent"):
        ask(TALK, model=model, budget="$1/day", max_input_tokens=100)

    assert sim.requests == []
    assert default.default().ledger.spend() == []
    assert default.default().ledger.balance() == []


def test_what_fits_is_sent_as_it_is_and_the_limit_is_not_sent(ask: Ask, sim: Simulator, model: Model) -> None:
    for most in (400, 10_000):
        for truncate in ("error", "oldest", "middle"):
            ask(TALK, model=model, max_input_tokens=most, truncate=truncate)

            assert sent(sim) == TALK
            assert not {"max_input_tokens", "truncate"} & (sim.requests[-1].body or {}).keys()


def test_the_oldest_messages_are_left_out_with_the_answers_to_them(ask: Ask, sim: Simulator, model: Model) -> None:
    ask(TALK, model=model, max_input_tokens=200, truncate="oldest")

    assert sent(sim) == [TALK[0], *TALK[3:]]


def test_the_middle_is_left_out_between_the_first_message_and_the_latest(
    ask: Ask, sim: Simulator, model: Model
) -> None:
    ask(TALK, model=model, max_input_tokens=250, truncate="middle")

    kept = sent(sim)
    assert [kept[0], kept[1], kept[-1]] == [TALK[0], TALK[1], TALK[-1]]
    assert len(kept) < len(TALK)


@pytest.mark.parametrize("truncate", ["oldest", "middle"])
@pytest.mark.parametrize("most", [370, 150])
def test_a_tool_result_goes_with_its_call_and_the_question_stays(
    truncate: str, most: int, sim: Simulator, model: Model
) -> None:
    default.default().complete(AGENT, model=model, tools=TOOLS, max_input_tokens=most, truncate=truncate)  # type: ignore[arg-type]

    assert sent(sim) == (AGENT if most == 370 else [*AGENT[:2], *AGENT[5:]])


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """System messages, questions, answers and calls with one or two results, of all lengths."""
    messages: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 12))):
        text = f"{number} " + "fish " * draw(st.sampled_from([1, 5, 40]))
        kind = draw(st.sampled_from(["system", "user", "user", "assistant", "call", "two calls"]))
        if kind == "system":
            messages.append({"role": "system", "content": text})
        elif kind in ("user", "assistant"):
            messages.append({"role": kind, "content": text})
        else:
            ids = [f"{number}.{index}" for index in range(2 if kind == "two calls" else 1)]
            messages += [called(*ids), *(result(id, text) for id in ids)]
    return [*messages, user("Well?")]


@settings(max_examples=150, deadline=None)
@given(conversations(), st.integers(20, 400), st.sampled_from(["oldest", "middle"]))
def test_whatever_is_left_fits_is_in_order_and_leaves_no_result_without_its_call(
    messages: list[dict[str, Any]], most: int, truncate: Any
) -> None:
    before = copy.deepcopy(messages)
    try:
        left = fitted(request.chat(messages, {}, None), MODEL, max_input_tokens=most, truncate=truncate).content
    except ValueError as error:
        assert "what has to stay" in str(error)
        return

    assert messages == before
    assert sum(message_tokens(MODEL, each) for each in left) <= most
    places = [next((at for at, each in enumerate(messages) if each is kept), None) for kept in left]
    uncut = [place for place in places if place is not None]
    assert uncut == sorted(uncut)
    assert len(left) - len(uncut) <= 1  # the one that was cut
    assert [each for each in left if each["role"] == "system"] == [
        each for each in messages if each["role"] == "system"
    ]
    asked = [call["id"] for each in left for call in each.get("tool_calls", ())]
    assert asked == [each["tool_call_id"] for each in left if each["role"] == "tool"]
    assert left[-1]["role"] == "user"


def test_messages_stay_in_their_order_whatever_stands_between_a_call_and_its_result(
    sim: Simulator, model: Model
) -> None:
    hurry = {"role": "system", "content": "Hurry."}
    mixed = [user("old " * 100), user("How deep?"), called("a", "b"), result("a", "8"), hurry, result("b", "9")]

    default.default().complete(mixed, model=model, max_input_tokens=80, truncate="oldest")

    assert sent(sim) == mixed[1:]


def test_the_middle_of_one_long_text_is_cut_and_the_place_is_marked(ask: Ask, sim: Simulator, model: Model) -> None:
    text = f"Begin. {'fish ' * 2_000} End."

    ask([SYSTEM, user(text)], model=model, max_input_tokens=300, truncate="middle")

    system, cut = sent(sim)
    assert system == SYSTEM
    assert cut["content"].startswith("Begin. fish")
    assert cut["content"].endswith("fish  End.")
    assert "\n[...]\n" in cut["content"]
    assert 250 < count_tokens(sent(sim), model=MODEL) <= 300


def test_of_several_parts_the_longest_text_is_cut_and_the_image_stays(sim: Simulator, model: Model) -> None:
    parts = [{"type": "text", "text": "Short."}, IMAGE, {"type": "text", "text": "fish " * 2_000}]

    default.default().complete(
        [{"role": "user", "content": parts}], model=model, max_input_tokens=600, truncate="middle"
    )

    kept = sent(sim)[0]["content"]
    assert kept[:2] == parts[:2]
    assert "[...]" in kept[2]["text"]
    assert parts[2] == {"type": "text", "text": "fish " * 2_000}  # the caller's is untouched


@pytest.mark.parametrize(
    ("messages", "truncate", "advice"),
    [
        ([SYSTEM, user("fish " * 500)], "oldest", "or give truncate='middle'"),
        ([{"role": "system", "content": "fish " * 500}, user("Hm?")], "middle", "shorten it$"),
        ([user("Hm?"), called("a"), result("a", "fish " * 500)], "middle", "shorten it$"),
        ([{"role": "user", "content": [IMAGE]}], "middle", "shorten it$"),
    ],
)
def test_what_has_to_stay_and_does_not_fit_is_an_error(
    messages: Any, truncate: str, advice: str, ask: Ask, sim: Simulator, model: Model
) -> None:
    with pytest.raises(ValueError, match=rf"what has to stay .* max_input_tokens is 100; nothing was sent.*{advice}"):
        ask(messages, model=model, max_input_tokens=100, truncate=truncate)

    assert sim.requests == []


def test_definitions_of_tools_count_as_input(sim: Simulator, model: Model) -> None:
    many = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "description": "fish " * 200}}]

    with pytest.raises(ValueError, match="the prompt is 2"):
        default.default().complete("Hm?", model=model, tools=many, max_input_tokens=100)


def test_two_prompts_of_which_the_same_is_left_share_a_kept_answer(ask: Ask, sim: Simulator, model: Model) -> None:
    default.configure(bridge := Bridge(cache=Cache(), fallback=ONCE))
    other = [TALK[0], user("something else " * 50), *TALK[2:]]

    answers = [ask(each, model=model, max_input_tokens=200, truncate="oldest") for each in (TALK, other, TALK)]
    ask(TALK, model=model)

    assert [each.cached for each in answers] == [False, True, True]
    assert len(sim.requests) == 2
    assert bridge.plan(TALK, model=model, max_input_tokens=200, truncate="oldest").is_kept


def test_a_bridge_may_have_a_limit_for_every_call_that_says_nothing_else(
    ask: Ask, sim: Simulator, model: Model
) -> None:
    default.configure(Bridge(max_input_tokens=200, truncate="oldest", fallback=ONCE))

    ask(TALK, model=model)
    assert len(sent(sim)) == 4
    ask(TALK, model=model, max_input_tokens=1_000)
    assert len(sent(sim)) == 6
    with pytest.raises(ValueError, match="the prompt is"):
        ask(TALK, model=model, truncate="error")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_input_tokens": 0}, "a whole number of tokens above 0, not 0"),
        ({"max_input_tokens": "9"}, "a whole number of tokens above 0, not '9'"),
        ({"max_input_tokens": 9, "truncate": "start"}, "one of 'error', 'oldest', 'middle', not 'start'"),
        ({"truncate": "oldest"}, "truncate= needs max_input_tokens="),
    ],
)
def test_a_wrong_limit_is_refused(given: dict[str, Any], message: str, model: Model) -> None:
    with pytest.raises(ValueError, match=message):
        Bridge().complete("Hm?", model=model, **given)
    with pytest.raises(ValueError, match=message):
        Bridge(**given)


def test_an_embedding_takes_no_such_limit_and_a_model_has_none() -> None:
    with pytest.raises(TypeError, match="unknown parameter 'max_input_tokens'"):
        Bridge().embed("Hm?", model="openai/text-embedding-3-small", max_input_tokens=9)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'truncate' goes into the call, not into a Model"):
        Model("openai/gpt-4o-mini", params={"truncate": "oldest"})


def test_a_short_prompt_under_a_limit_needs_no_tokenizer() -> None:
    script = """
import sys, llmbridge
llmbridge.Bridge(ledger=None).plan("Name a fish.", model="openai/gpt-4o-mini", max_input_tokens=500)
print("litellm" in sys.modules)
"""

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()

    assert printed == "False"


def test_tokens_are_counted_as_litellm_does_with_media_at_a_flat_rate() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA" * 1000, "format": "wav"}}

    plain = count_tokens("Name a fish.", model=MODEL)

    assert plain == 11
    assert count_tokens([user("Name a fish.")], model=MODEL, tools=TOOLS) > plain + 20
    heard = count_tokens([{"role": "user", "content": [{"type": "text", "text": "Name a fish."}, sound]}], model=MODEL)
    assert heard == plain + 250
    with pytest.raises(TypeError, match="messages is a str or a list"):
        count_tokens(7, model=MODEL)  # type: ignore[arg-type]
