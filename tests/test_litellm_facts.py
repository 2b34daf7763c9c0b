"""What this layer leans on in LiteLLM. When a new LiteLLM breaks one of these, something here has to change with it."""

from __future__ import annotations

import asyncio
import functools
import http.server
import inspect
import json
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import litellm.exceptions
import pytest
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.rust_bridge import catalog, configuration

import llmbridge
from llmbridge import LLMBridgeError, Params, provider
from llmbridge.provider.layers import innermost
from llmbridge.provider.translation import BY_CLASS
from tests.conftest import Ask, Run
from tests.simulator import Fault, Reply, Simulator


FISH = "Name a fish."
PROVIDERS = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "ollama_chat": "ollama_chat/llama3.2",
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def asked(sim: Simulator, name: str, **more: Any) -> dict[str, Any]:
    """Arguments for LiteLLM itself."""
    return {
        "model": PROVIDERS[name],
        "messages": [{"role": "user", "content": FISH}],
        "api_base": sim.api_base(name),
        "api_key": "sk-test-key",
        "num_retries": 0,
        **({"max_retries": 0} if name == "openai" else {}),
        **more,
    }


def ours(sim: Simulator, name: str) -> dict[str, Any]:
    """Arguments for a verb of ours."""
    return {"model": PROVIDERS[name], "api_base": sim.api_base(name), "api_key": "sk-test-key"}


# Exceptions

EXCEPTIONS = sorted(
    {cls.__name__ for _, cls in inspect.getmembers(litellm.exceptions, inspect.isclass) if issubclass(cls, Exception)}
)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_every_exception_of_litellm_has_a_meaning_here(name: str) -> None:
    assert name in BY_CLASS


def test_no_exception_of_litellm_is_made_elsewhere_without_a_meaning_here() -> None:
    bases = [cls for _, cls in inspect.getmembers(litellm.exceptions, inspect.isclass) if issubclass(cls, Exception)]
    below = {cls for base in bases for cls in _below(base) if cls.__module__.startswith("litellm")}

    assert {cls.__name__ for cls in below if not set(BY_CLASS) & {each.__name__ for each in cls.__mro__}} == set()


def _below(cls: type) -> set[type]:
    return {each for direct in cls.__subclasses__() for each in {direct, *_below(direct)}}


OTHERS = {"OpenAIError", "MissingKey", "UnknownModel", "LeavesMachine"}  # the SDK's, and ours


@pytest.mark.parametrize("name", sorted(BY_CLASS.keys() - OTHERS))
def test_no_meaning_is_kept_for_an_exception_that_litellm_no_longer_has(name: str) -> None:
    assert hasattr(litellm.exceptions, name) or hasattr(litellm, name)


# Streams


def read(run: Run, colour: str, **arguments: Any) -> Any:
    """LiteLLM's stream wrapper, read to its end."""
    if colour == "sync":
        wrapper = litellm.completion(stream=True, **arguments)
        for _ in wrapper:
            pass
        return wrapper
    return run(_read(arguments))


async def _read(arguments: dict[str, Any]) -> Any:
    wrapper = await litellm.acompletion(stream=True, **arguments)
    async for _ in wrapper:
        pass
    return wrapper


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_complete_stream_leaves_a_finish_reason_on_the_wrapper(
    run: Run, sim: Simulator, name: str, colour: str
) -> None:
    wrapper = read(run, colour, **asked(sim, name))

    assert "stop" in (wrapper.received_finish_reason, wrapper.intermittent_finish_reason)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama_chat"])
def test_a_truncated_stream_leaves_no_finish_reason_on_the_wrapper(
    run: Run, sim: Simulator, name: str, colour: str
) -> None:
    sim.script(Fault.cut(3))

    wrapper = read(run, colour, **asked(sim, name))

    assert (wrapper.received_finish_reason, wrapper.intermittent_finish_reason) == (None, None)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_of_gemini_the_wrapper_cannot_tell_a_truncated_stream_from_a_complete_one(
    run: Run, sim: Simulator, colour: str
) -> None:
    sim.script(Fault.cut(2))

    wrapper = read(run, colour, **asked(sim, "gemini"))

    # LiteLLM says "stop" of every chunk. If this fails, the body's tail need no longer be read (wire.py).
    assert (wrapper.received_finish_reason, wrapper.intermittent_finish_reason) == (None, "stop")


@pytest.mark.parametrize("name", PROVIDERS)
def test_litellm_invents_a_finish_reason_for_a_truncated_stream(sim: Simulator, name: str) -> None:
    sim.script(Fault.cut(3, Reply(pieces=["Tr", "out", ",", " of", " course"])))

    chunks = list(litellm.completion(stream=True, **asked(sim, name)))

    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("name", PROVIDERS)
def test_the_chunks_that_are_kept_hold_what_the_provider_counted(
    run: Run, sim: Simulator, name: str, colour: str
) -> None:
    sim.script(Reply(input_tokens=1234, output_tokens=567))

    wrapper = read(run, colour, **asked(sim, name, stream_options={"include_usage": True}))

    counted = [usage for chunk in wrapper.chunks if (usage := getattr(chunk, "usage", None))]
    assert 1234 in [usage.prompt_tokens for usage in counted]
    assert 567 in [usage.completion_tokens for usage in counted]


@pytest.mark.parametrize("name", ["openai"])
def test_no_chunk_holds_a_count_that_the_provider_did_not_send(run: Run, sim: Simulator, name: str) -> None:
    sim.script(Reply(usage=False))

    wrapper = read(run, "sync", **asked(sim, name, stream_options={"include_usage": True}))

    assert [chunk for chunk in wrapper.chunks if getattr(chunk, "usage", None)] == []


# The application's own LiteLLM


class Listener(litellm.integrations.custom_logger.CustomLogger):
    """Notes every event that LiteLLM tells it of."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def log_pre_api_call(self, *_: Any, **__: Any) -> None:
        self.heard.append("pre")

    def log_post_api_call(self, *_: Any, **__: Any) -> None:
        self.heard.append("post")

    def log_success_event(self, *_: Any, **__: Any) -> None:
        self.heard.append("success")

    def log_failure_event(self, *_: Any, **__: Any) -> None:
        self.heard.append("failure")

    async def async_log_success_event(self, *_: Any, **__: Any) -> None:
        self.heard.append("async success")

    async def async_log_failure_event(self, *_: Any, **__: Any) -> None:
        self.heard.append("async failure")


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Listener:
    """A callback of the application's, in every list that LiteLLM has for one."""
    litellm.litellm_core_utils.thread_pool_executor.executor.submit(int).result()  # other tests' own calls are logged
    heard = Listener()
    for name in ("callbacks", "success_callback", "failure_callback", "input_callback"):
        monkeypatch.setattr(litellm, name, [heard])
    for name in ("_async_success_callback", "_async_failure_callback", "_async_input_callback"):
        monkeypatch.setattr(litellm, name, [])
    return heard


async def _settled() -> None:
    """Whatever the loop still had to do is done."""
    for _ in range(20):
        await asyncio.sleep(0)
    pending = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(pending, timeout=0.2) if pending else None


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failed"])
def test_no_callback_of_the_application_hears_of_our_calls(
    ask: Ask, run: Run, sim: Simulator, listener: Listener, fails: bool
) -> None:
    sim.script(Fault.status(400) if fails else Reply())

    with suppress(LLMBridgeError):
        ask(FISH, **ours(sim, "openai"))
    run(_settled())

    assert [event for event in listener.heard if "success" in event or "failure" in event] == []


def test_who_listens_to_requests_is_told_of_our_answers_too(ask: Ask, sim: Simulator, listener: Listener) -> None:
    ask(FISH, **ours(sim, "openai"))

    assert {"pre", "post"} <= {*listener.heard}


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_an_answer_is_written_down_once_more_only_for_litellms_debugging(
    ask: Ask, sim: Simulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr(litellm, "input_callback", [])  # whom `callbacks` of other tests were added to, by LiteLLM
    written: list[object] = []
    write = Logging.post_call
    monkeypatch.setattr(Logging, "post_call", lambda self, *a, **k: (written.append(self), write(self, *a, **k)))

    with caplog.at_level(level, "LiteLLM"):
        ask(FISH, **ours(sim, "openai"))

    assert bool(written) == ("RAW RESPONSE" in caplog.text) == (level == "DEBUG")


def test_the_callback_would_hear_of_the_applications_own_calls(sim: Simulator, listener: Listener) -> None:
    litellm.completion(**asked(sim, "openai"))

    assert "pre" in listener.heard


class AtOnce:
    """Stands where LiteLLM has threads for its logging, and notes what they are given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def submit(self, work: Any, *_: Any, **__: Any) -> None:
        self.given.append(work.__name__)


def test_each_chunk_of_the_applications_own_streams_is_logged_and_none_of_ours(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.script(Reply(pieces=["Trout."]), reply := Reply(pieces=["Tr", "out"] * 10), reply)
    threads = AtOnce()
    monkeypatch.setattr(litellm.litellm_core_utils.streaming_handler, "executor", threads)

    given = []
    for question in (FISH, "Name fish."):
        threads.given.clear()
        with llmbridge.stream(question, **ours(sim, "openai")) as chunks:
            shown = len(list(chunks))
        given.append(list(threads.given))
    threads.given.clear()
    shown_there = len(list(litellm.completion(stream=True, **asked(sim, "openai"))))

    assert shown > 20
    assert given[0] == given[1]  # of the end
    assert len(threads.given) >= shown_there


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each answer that LiteLLM's logging prices, of whoever's calls."""
    found: list[str] = []
    logging = litellm.litellm_core_utils.litellm_logging.Logging
    monkeypatch.setattr(logging, "response_cost_calculator", lambda *_, **__: found.append("priced"))
    return found


def test_litellm_prices_no_answer_of_ours(ask: Ask, sim: Simulator, priced: list[str]) -> None:
    answer = ask(FISH, **ours(sim, "openai"))
    by_us = len(priced)
    litellm.completion(**asked(sim, "openai"))

    assert answer.cost_usd > 0
    assert (by_us, len(priced) > 0) == (0, True)


def test_a_rule_of_the_applications_holds_for_our_calls_too(
    ask: Ask, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "pre_call_rules", [lambda text: FISH not in text])

    with pytest.raises(LLMBridgeError):
        ask(FISH, **ours(sim, "openai"))
    ask("Name a bird.", **ours(sim, "openai"))

    assert len(sim.requests) == 1


class Signs(CustomLogger):
    """A hook of the application's that changes what is sent; LiteLLM has it in the async colour alone."""

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], _: Any) -> dict[str, Any]:
        return {**kwargs, "user": "alice"}


@pytest.mark.parametrize("verb", ["acomplete", "astream"])
def test_a_hook_of_the_applications_changes_our_calls_too(
    verb: str, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "callbacks", [Signs()])

    run(_asked(verb, sim))

    assert sim.requests[0].body["user"] == "alice"


@pytest.mark.parametrize("verb", ["complete", "embed"])
def test_no_whole_answer_of_ours_wakes_a_thread_of_litellms(
    verb: str, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = AtOnce()
    monkeypatch.setattr(litellm.utils, "executor", threads)

    run(_asked(verb, sim))
    by_us = list(threads.given)
    litellm.completion(**asked(sim, "openai"))

    assert (by_us, threads.given) == ([], ["run"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("post_call_rules", [lambda text: "Trout" not in text]), ("enable_json_schema_validation", True)],
    ids=["rules", "schemas"],
)
@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_what_an_application_wants_of_answers_holds_for_ours_too(
    verb: str, run: Run, sim: Simulator, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = Reply(pieces=["Trout."])
    sim.script(reply, reply)
    run(_asked(verb, sim, **SHAPED))

    monkeypatch.setattr(litellm, name, value)

    with pytest.raises(LLMBridgeError):
        run(_asked(verb, sim, **SHAPED))


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_a_schema_that_a_call_wants_kept_is_kept(verb: str, run: Run, sim: Simulator) -> None:
    sim.script(Reply(pieces=["Trout."]))

    with pytest.raises(LLMBridgeError):
        run(_asked(verb, sim, provider_params={"enable_json_schema_validation": True}, **SHAPED))


@pytest.mark.parametrize("verb", ["complete", "stream", "acomplete", "astream"])
def test_a_cap_that_litellm_is_to_mend_is_mended(
    verb: str, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "modify_params", True)

    run(_asked(verb, sim, max_tokens=10**6))

    assert sim.requests[0].body["max_tokens"] < 10**6


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
def test_an_answer_that_litellm_is_to_check_is_checked(verb: str, run: Run, sim: Simulator) -> None:
    sim.script(Reply(pieces=["Trout."]))
    shape = {"type": "json_object", "response_schema": {"type": "object"}, "enforce_validation": True}

    with pytest.raises(LLMBridgeError):
        run(_asked(verb, sim, response_format=shape))


@pytest.mark.parametrize("verb", ["complete", "stream", "acomplete", "astream"])
def test_a_budget_that_litellm_keeps_for_the_application_holds_for_our_calls_too(
    verb: str, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "max_budget", 1e-9)
    monkeypatch.setattr(litellm, "_current_cost", 1.0)

    with pytest.raises(LLMBridgeError):
        run(_asked(verb, sim))

    assert sim.requests == []


@pytest.mark.parametrize("verb", ["complete", "stream", "embed", "acomplete", "astream", "aembed"])
def test_the_applications_retries_stay_as_it_set_them_and_are_not_made(
    verb: str, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "num_retries", 3)
    sim.script(Fault.status(400))

    with pytest.raises(LLMBridgeError):
        run(_asked(verb, sim))

    assert (litellm.num_retries, len(sim.requests)) == (3, 1)


@pytest.mark.parametrize("verb", ["complete", "stream", "embed", "acomplete", "astream", "aembed"])
def test_what_an_application_has_put_around_litellms_functions_is_called(
    verb: str, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def around(function: Any) -> Any:
        @functools.wraps(function)
        def called_too(*args: Any, **kwargs: Any) -> Any:
            called.append(function.__name__)
            return function(*args, **kwargs)

        return called_too

    theirs = ("a" if verb.startswith("a") else "") + ("embedding" if "embed" in verb else "completion")
    monkeypatch.setattr(litellm, theirs, around(getattr(litellm, theirs)))

    run(_asked(verb, sim))

    assert called == [theirs]


@pytest.mark.parametrize("verb", ["acomplete", "astream", "aembed"])
def test_what_an_application_has_put_in_the_place_of_the_blocking_functions_gets_no_async_call(
    verb: str, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []
    for name in ("completion", "embedding"):
        monkeypatch.setattr(litellm, name, lambda **arguments: called.append(arguments))

    run(_asked(verb, sim))

    assert (called, len(sim.requests)) == ([], 1)


class Proxy:
    """A tracer's: it says that it is what it stands for."""

    def __init__(self, stands_for: Any) -> None:
        self.__wrapped__ = stands_for
        self.__globals__ = stands_for.__globals__

    @property
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    def __call__(self, **arguments: Any) -> Any:
        return self.__wrapped__(**arguments)


def test_a_function_is_taken_out_of_its_decorators_only_if_all_of_them_are_its_packages_own() -> None:
    inside = innermost(litellm.completion, "litellm")
    assert (inside is not None and inside.__module__, inside and inside.__name__) == ("litellm.main", "completion")

    def traced(**arguments: Any) -> Any:
        return litellm.main.completion(**arguments)

    def outermost(**arguments: Any) -> Any: ...

    functools.update_wrapper(traced, litellm.main.completion)
    outermost = FunctionType(outermost.__code__, {"__name__": "litellm.dispatch"})
    outermost.__wrapped__ = traced  # type: ignore[attr-defined]
    for each in (traced, outermost, Proxy(litellm.completion), len):
        assert innermost(each, "litellm") is None


def test_credentials_for_a_proxy_are_fetched_in_another_thread_than_the_event_loops(
    run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    class Fetches:
        def get_auth_headers(self) -> dict[str, str]:
            threads.append(threading.current_thread())
            return {"X-Proxy": "fish"}

    monkeypatch.setattr(litellm, "proxy_auth", Fetches())

    run(_asked("acomplete", sim))

    assert threads
    assert threading.main_thread() not in threads
    assert sim.requests[0].headers["x-proxy"] == "fish"


COMPLETED = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "gpt-3.5-turbo-instruct",
    "choices": [{"index": 0, "text": "Trout.", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
}


@pytest.mark.parametrize("verb", ["complete", "acomplete"])
@pytest.mark.parametrize("prefix", ["", "text-completion-openai/"])
def test_an_answer_of_a_model_that_completes_texts_is_read(verb: str, prefix: str, run: Run) -> None:
    body = json.dumps(COMPLETED).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(head + body)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = {"api_base": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "sk-test-key"}
        answer = getattr(llmbridge, verb)(FISH, model=f"{prefix}gpt-3.5-turbo-instruct", **address)
        answer = run(answer) if verb.startswith("a") else answer

    assert (answer.text, answer.usage.completion_tokens) == ("Trout.", 2)


def test_litellm_answers_chats_and_embeddings_in_python() -> None:
    for route in (catalog.Route.CHAT_COMPLETIONS, catalog.Route.EMBEDDINGS):
        assert catalog.decision(catalog.RouteContext(route)) is configuration.Decision.PYTHON


@pytest.mark.parametrize("verb", ["acomplete", "astream", "aembed"])
def test_an_async_call_is_set_up_in_no_other_thread(verb: str, sim: Simulator) -> None:
    class Threads(ThreadPoolExecutor):
        def submit(self, work: Any, /, *_: Any, **__: Any) -> Any:
            raise AssertionError(f"a thread was to run {work}")

    async def ask() -> None:
        await _asked(verb, sim)  # the SDK asks for the platform in a thread, once a client
        asyncio.get_running_loop().set_default_executor(Threads())
        await _asked(verb, sim)

    asyncio.run(ask())

    assert len(sim.requests) == 2


SHAPED = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "fish", "schema": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
}


async def _asked(verb: str, sim: Simulator, **more: Any) -> None:
    model = "openai/text-embedding-3-small" if "embed" in verb else PROVIDERS["openai"]
    arguments = {**ours(sim, "openai"), "model": model, **more}
    if verb == "stream":
        with llmbridge.stream(FISH, **arguments) as chunks:
            list(chunks)
    elif verb == "astream":
        async with llmbridge.astream(FISH, **arguments) as chunks:
            async for _ in chunks:
                pass
    else:
        answer = getattr(llmbridge, verb)(FISH, **arguments)
        await answer if verb.startswith("a") else None


@pytest.mark.parametrize("verb", ["stream", "astream"])
def test_litellm_puts_the_answer_of_a_stream_together_once(
    verb: str, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_together, real = [], litellm.stream_chunk_builder

    def builder(**arguments: Any) -> Any:
        put_together.append(len(arguments["chunks"]))
        return real(**arguments)

    monkeypatch.setattr(litellm, "stream_chunk_builder", builder)
    if verb == "astream":
        run(_asked(verb, sim))
    else:
        with llmbridge.stream(FISH, **ours(sim, "openai")) as chunks:
            list(chunks)

    assert len(put_together) == 1


def test_geminis_signature_in_the_name_of_a_tool_call_reaches_no_other_provider(ask: Ask, sim: Simulator) -> None:
    call = {
        "id": "call_7__thought__c2lnbmF0dXJl",
        "type": "function",
        "function": {"name": "weather", "arguments": "{}"},
    }
    talk = [
        {"role": "user", "content": FISH},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "rain"},
    ]

    ask(talk, **ours(sim, "openai"))

    sent = json.dumps(sim.requests[0].body)
    assert ("call_7" in sent, "__thought__" in sent) == (True, False)


class Cache:
    """Stands where the application's cache is, and notes who touches it."""

    def __init__(self) -> None:
        self.touched: list[str] = []
        self.type, self.mode, self.ttl, self.namespace = "local", "default_on", None, None
        self.supported_call_types = ["completion", "acompletion", "embedding", "aembedding"]
        self.cache = None

    def should_use_cache(self, **_: Any) -> bool:
        return True

    def _supports_async(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if not name.endswith(("get_cache", "add_cache", "add_cache_pipeline", "get_cache_key")):
            raise AttributeError(name)

        def touch(*_: Any, **__: Any) -> None:
            self.touched.append(name)

        return touch


def test_the_applications_cache_is_neither_read_nor_written(
    ask: Ask, run: Run, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache()
    monkeypatch.setattr(litellm, "cache", cache)

    ask(FISH, **ours(sim, "openai"))
    ask(FISH, **ours(sim, "openai"))
    run(_settled())

    assert [name for name in cache.touched if "key" not in name] == []
    assert len(sim.requests) == 2


def test_tools_need_no_package_that_a_plain_install_lacks(
    ask: Ask, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    sim.script(Reply(tool_calls=[("weather", {"city": "Ulm"})]))

    reply = ask(FISH, tools=[TOOL], **ours(sim, "openai"))

    assert reply.tool_calls[0].function.name == "weather"


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_switches_litellm_off_never_reaches_the_provider(ask: Ask, sim: Simulator, name: str) -> None:
    ask(FISH, **ours(sim, name))

    ours_alone = ("max_retries", "num_retries", "caching", "no-log", "no-cache", "mcp", "client", "timeout")
    assert [word for word in ours_alone if f'"{word}' in sim.requests[0].raw.decode()] == []


def test_what_a_caller_passes_in_is_not_changed(ask: Ask, sim: Simulator) -> None:
    parts = [{"type": "text", "text": "x"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    tools = [json.loads(json.dumps(TOOL))]
    before = json.dumps([messages, tools])

    ask(messages, tools=tools, **ours(sim, "anthropic"))

    assert json.dumps([messages, tools]) == before


# Importing it


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an interpreter of its own, started in a trap, reports of importing LiteLLM through us and of one call."""
    trap = tmp_path_factory.mktemp("trap")
    (trap / ".env").write_text("OPENAI_API_BASE=http://evil.invalid/v1\nTRAPPED=yes\n")
    script = """
        import json, os, socket, sys
        names = []
        def refuse(where):
            def record(*args, **kwargs):
                names.append(f"{where} {args[-1] if where == 'connect' else args[0]}")
                raise OSError("no network")
            return record
        socket.getaddrinfo = refuse("getaddrinfo")
        socket.socket.connect = refuse("connect")
        socket.socket.connect_ex = refuse("connect")
        before = dict(os.environ)
        import llmbridge
        early = "litellm" in sys.modules
        from llmbridge import provider
        module = provider.litellm()
        after = dict(os.environ)
        prices = len(module.model_cost)
        changed = {name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)}
        flags = [module.disable_hf_tokenizer_download, module.suppress_debug_info]
        print(json.dumps(dict(changed=changed, names=names, early=early, prices=prices, flags=flags)))
    """
    root = str(Path(__file__).parent.parent)
    secret = {name for name in os.environ if name.startswith(("LITELLM", "OPENAI"))}
    environment = {name: value for name, value in os.environ.items() if name not in secret} | {"PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=trap,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**report, "stdout": done.stdout, "stderr": done.stderr}


def test_litellms_own_list_of_models_takes_an_ollama_that_is_down_for_one_that_has_some() -> None:
    """Which is why provider/listing.py does not ask for it."""
    found = litellm.get_valid_models(True, custom_llm_provider="ollama", api_base="http://127.0.0.1:9")

    assert found != []


def test_importing_litellm_through_us_leaves_the_environment_as_it_was(imported: dict[str, Any]) -> None:
    assert imported["changed"] == {}


def test_importing_litellm_through_us_asks_the_network_for_nothing(imported: dict[str, Any]) -> None:
    assert imported["names"] == []


def test_importing_litellm_through_us_prints_nothing(imported: dict[str, Any]) -> None:
    assert (len(imported["stdout"].splitlines()), imported["stderr"]) == (1, "")


def test_importing_llmbridge_does_not_import_litellm(imported: dict[str, Any]) -> None:
    assert imported["early"] is False


def test_the_bundled_price_table_is_there(imported: dict[str, Any]) -> None:
    assert imported["prices"] > 1000


def test_the_two_global_settings_are_made(imported: dict[str, Any]) -> None:
    assert imported["flags"] == [True, True]


# Ours to decide (stream is a verb, retries the policy's), or about LiteLLM itself.
NOT_TAKEN = {
    "base_url",
    "enable_json_schema_validation",
    "kwargs",
    "messages",
    "model",
    "model_list",
    "shared_session",
    "stream",
}


def test_every_parameter_of_litellms_completion_is_a_parameter_here_or_left_out_on_purpose() -> None:
    theirs = set(inspect.signature(provider.litellm().completion).parameters)

    assert theirs - set(Params.__annotations__) == NOT_TAKEN


def test_every_openai_parameter_that_litellm_knows_is_a_parameter_here() -> None:
    from litellm.constants import OPENAI_CHAT_COMPLETION_PARAMS

    ours = set(Params.__annotations__)
    aliases = {"base_url", "default_headers", "max_retries", "request_timeout", "stream"}

    assert set(OPENAI_CHAT_COMPLETION_PARAMS) - ours == aliases


# Prices

NO_PARTS = {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0, "image_tokens": 0}


def test_a_count_of_zero_is_to_litellms_prices_as_one_that_is_not_there() -> None:
    """For which provider.pricing leaves them out."""

    def price(provider: str, model: str, **counts: Any) -> object:
        usage = litellm.Usage(prompt_tokens=1234, completion_tokens=567, total_tokens=1801, **counts)
        try:
            return litellm.cost_per_token(model=model, custom_llm_provider=provider, usage_object=usage)
        except Exception as error:
            return type(error)

    for model, fields in list(litellm.model_cost.items())[::5]:
        where = (str(fields.get("litellm_provider")), model)
        zeros = price(
            *where,
            prompt_tokens_details=NO_PARTS,
            completion_tokens_details={"reasoning_tokens": 0, "audio_tokens": 0},
            cache_read_input_tokens=0,
            cache_creation_input_tokens=0,
        )
        assert zeros == price(*where), model
