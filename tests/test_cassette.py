"""The rules of `replay`: what is answered, what is refused, and what may stand in the file."""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import httpx
import pytest
import vcr
import yaml
from hypothesis import example, given, settings, strategies as st

import llmbridge
from llmbridge import redaction
from llmbridge.cassette import replay
from llmbridge.cassette.wires import Pieces
from llmbridge.errors import CassetteMiss, ConfigError
from tests import recording
from tests.conftest import Ask, Run
from tests.simulator import Reply, Simulator


URL = "https://api.example.com/v1/fish"
SECRETS = {
    "bearer": "sk-proj-0123456789abcdefghij",
    "query": "AIzaSyA0123456789abcdefghij",
    "bare": "3f0c2d1e9b8a47665544332211ffeedd",
    "odd": 'quo"te/plus+sign=tail',
}


class Upstream:
    """What stands where the network would be. It counts, and answers each request with a number of its own."""

    def __init__(self) -> None:
        self.count = 0
        self.answer: Callable[[httpx.Request], httpx.Response] = self._number
        self.client = httpx.Client(transport=httpx.MockTransport(self._arrived))
        self.async_client = httpx.AsyncClient(transport=httpx.MockTransport(self._arrived))

    def _arrived(self, request: httpx.Request) -> httpx.Response:
        self.count += 1
        return self.answer(request)

    def _number(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"number": self.count})

    def says(self, *args: Any, **fields: Any) -> None:
        self.answer = lambda request: httpx.Response(*args, **fields)

    def ask(self, body: Any = None, url: str = URL, **fields: Any) -> httpx.Response:
        return self.client.post(url, json={"name": "trout"} if body is None else body, **fields)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fish.yaml"


@pytest.fixture
def recorded(upstream: Upstream, path: Path) -> Path:
    """A cassette with one answer, {"number": 1}, to {"name": "trout"}."""
    with replay(path, record="once"):
        upstream.ask()
    return path


# What is answered


def test_a_recording_is_answered_without_sending(upstream: Upstream, recorded: Path) -> None:
    with replay(recorded) as cassette:
        answer = upstream.ask()

    assert answer.json() == {"number": 1}
    assert upstream.count == 1
    assert cassette.path == recorded
    assert cassette.played == [f"POST {URL}"]
    assert cassette.unplayed == []


@pytest.mark.parametrize("recording_colour", ["sync", "async"])
@pytest.mark.parametrize("replaying_colour", ["sync", "async"])
def test_either_colour_replays_what_either_recorded(
    recording_colour: str, replaying_colour: str, upstream: Upstream, path: Path, run: Run
) -> None:
    def ask(colour: str) -> httpx.Response:
        if colour == "sync":
            return upstream.ask()
        answer: httpx.Response = run(upstream.async_client.post(URL, json={"name": "trout"}))
        return answer

    with replay(path, record="once"):
        ask(recording_colour)
    with replay(path):
        answer = ask(replaying_colour)

    assert answer.json() == {"number": 1}
    assert upstream.count == 1


def test_key_order_and_whitespace_of_json_do_not_matter(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        upstream.ask({"a": 1, "b": [{"c": 2, "d": "é"}]})
    spaced = b'{ "b": [ {"d":"\\u00e9" , "c":2} ],\n "a":1 }'
    with replay(path):
        answer = upstream.client.post(URL, content=spaced, headers={"content-type": "application/json"})

    assert answer.json() == {"number": 1}


def test_the_order_of_the_query_does_not_matter(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        upstream.ask(url=f"{URL}?alt=sse&page=2&page=3")
    with replay(path):
        upstream.ask(url=f"{URL}?page=2&page=3&alt=sse")

    assert upstream.count == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"url": "http://api.example.com/v1/fish"},
        {"url": "https://api.example.org/v1/fish"},
        {"url": "https://api.example.com:8443/v1/fish"},
        {"url": "https://api.example.com/v1/fowl"},
        {"url": f"{URL}?alt=sse"},
        {"body": {"name": "perch"}},
        {"body": {"name": "trout", "count": 1}},
        {"body": {}},
    ],
    ids=["scheme", "host", "port", "path", "query", "value", "more", "less"],
)
def test_another_request_is_a_miss_and_is_not_sent(upstream: Upstream, recorded: Path, asked: dict[str, Any]) -> None:
    with replay(recorded) as cassette, pytest.raises(CassetteMiss):
        upstream.ask(**asked)

    assert upstream.count == 1
    assert cassette.unplayed == [f"POST {URL}"]


def test_another_method_is_a_miss(upstream: Upstream, recorded: Path) -> None:
    with replay(recorded), pytest.raises(CassetteMiss, match='method: recorded "POST", now "PUT"'):
        upstream.client.put(URL, json={"name": "trout"})


def test_a_body_that_is_not_json_matches_by_bytes(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        upstream.client.post(URL, content=b"\xff\x00 trout")
    with replay(path):
        with pytest.raises(CassetteMiss):
            upstream.client.post(URL, content=b"\xff\x00  trout")
        answer = upstream.client.post(URL, content=b"\xff\x00 trout")

    assert answer.json() == {"number": 1}


def test_credentials_take_no_part_in_matching(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        upstream.ask(url=f"{URL}?alt=sse&key=first-key-of-all", headers={"authorization": "Bearer one-long-token"})
    with replay(path):
        answer = upstream.ask(url=f"{URL.replace('//', '//me:secret@')}?key=second&alt=sse", headers={"x-api-key": "2"})

    assert answer.json() == {"number": 1}


def test_a_key_within_a_body_takes_no_part_in_matching(upstream: Upstream, path: Path) -> None:
    for key in ("first-key-in-a-body", "second-key-in-a-body"):
        redaction.remember(key)
    with replay(path, record="once"):
        upstream.ask({"auth": "first-key-in-a-body"})
    with replay(path):
        assert upstream.ask({"auth": "second-key-in-a-body"}).json() == {"number": 1}


def test_equal_requests_are_answered_in_order_and_each_once(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        for _ in range(3):
            upstream.ask()
    with replay(path):
        answers = [upstream.ask().json()["number"] for _ in range(3)]
        with pytest.raises(CassetteMiss, match="was played already"):
            upstream.ask()

    assert answers == [1, 2, 3]


def test_equal_requests_from_eight_threads_get_each_answer_once(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        for _ in range(8):
            upstream.ask()
    with replay(path) as cassette, ThreadPoolExecutor(8) as pool:
        answers = [each.json()["number"] for each in pool.map(lambda _: upstream.ask(), range(8))]

    assert sorted(answers) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert cassette.unplayed == []


def test_equal_requests_from_eight_tasks_get_each_answer_once(upstream: Upstream, path: Path, run: Run) -> None:
    async def ask() -> int:
        return int((await upstream.async_client.post(URL, json={"name": "trout"})).json()["number"])

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(ask() for _ in range(8)))

    with replay(path, record="once"):
        run(all_at_once())
    with replay(path) as cassette:
        answers = run(all_at_once())

    assert sorted(answers) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert cassette.unplayed == []


def test_all_verbs_replay_without_a_socket_or_a_lookup(ask: Ask, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was touched")

    monkeypatch.setenv("OPENAI_API_KEY", "sk-dummy-for-replay")
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    case = "openai-text-stream" if "stream" in verb else "openai-text"

    with replay(recording.FOLDER / f"{case}.yaml"):
        answer = ask(recording.ASKED, model=recording.OPENAI, max_tokens=100)

    assert answer.text == recording.TEXT.text


def test_after_the_block_requests_are_sent_again(upstream: Upstream, recorded: Path) -> None:
    with replay(recorded):
        upstream.ask()
    upstream.ask()

    assert upstream.count == 2


def test_one_replay_at_a_time(recorded: Path) -> None:
    with replay(recorded), pytest.raises(RuntimeError, match="another replay is under way"), replay(recorded):
        pass
    with replay(recorded):
        pass


# What a miss says


def test_a_miss_names_the_request_the_nearest_recording_and_the_difference(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        upstream.ask(url="https://api.example.com/v1/other")
        upstream.ask({"model": "big", "messages": [{"role": "user", "content": "Name a fish."}]})
        upstream.ask({"model": "small", "messages": [{"role": "user", "content": "Name a bird."}]})
    with replay(path), pytest.raises(CassetteMiss) as caught:
        upstream.ask({"model": "small", "messages": [{"role": "user", "content": "Name a fowl."}]})

    assert str(caught.value) == (
        f"{path} holds no answer to POST {URL}. The nearest recording, number 3 of 3, POST {URL}, differs in "
        f'body.messages[0].content: recorded "Name a bird.", now "Name a fowl.". '
        f"Nothing was sent. To record it: replay('{path}', record='new')"
    )


def test_a_miss_shows_where_long_texts_begin_to_differ(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        upstream.ask({"text": "x" * 10_000 + "trout" + "y" * 10_000})
    with replay(path), pytest.raises(CassetteMiss) as caught:
        upstream.ask({"text": "x" * 10_000 + "perch" + "y" * 10_000})

    assert "xtroutyy" in str(caught.value) and "xperchyy" in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_a_miss_counts_the_differences_that_it_does_not_show(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once"):
        upstream.ask({"a": 1, "b": [1, 2], "c": 1, "d": True})
    with replay(path), pytest.raises(CassetteMiss) as caught:
        upstream.ask({"b": [1], "c": 1.0, "d": 1, "e": None})

    expected = "body.a: recorded 1, now nothing; body.b[1]: recorded 2, now nothing; body.c: recorded 1, now 1.0"
    assert f"differs in {expected}; and in 2 more places" in str(caught.value)


def test_a_miss_shows_no_secret(upstream: Upstream, recorded: Path) -> None:
    redaction.remember(SECRETS["bare"])
    with replay(recorded), pytest.raises(CassetteMiss) as caught:
        upstream.ask({"name": SECRETS["bearer"], SECRETS["bare"]: 1}, url=f"{URL}/{SECRETS['bare']}?key=short")

    assert not [secret for secret in (*SECRETS.values(), "short") if secret in str(caught.value)]


@pytest.mark.parametrize("model", recording.CHATS.values(), ids=recording.CHATS)
def test_a_miss_ends_a_call_as_what_it_is(
    model: str, ask: Ask, recorded: Path, records: list[llmbridge.CallRecord]
) -> None:
    models = [llmbridge.Model(model, api_key="sk-dummy-for-replay") for _ in range(2)]

    with replay(recorded), pytest.raises(CassetteMiss, match="holds no answer to POST") as caught:
        ask("Name a fish.", model=models)

    assert caught.value.__context__ is None and caught.value.__cause__ is None
    assert caught.value.call_id == records[0].id
    assert [(attempt.error_type, attempt.sent) for attempt in records[0].attempts] == [("CassetteMiss", False)]


@pytest.mark.parametrize("model", recording.EMBEDDERS.values(), ids=recording.EMBEDDERS)
@pytest.mark.parametrize("colour", ["embed", "aembed"])
def test_a_miss_ends_an_embedding_as_what_it_is(model: str, colour: str, recorded: Path, run: Run) -> None:
    asked = {"model": model, "api_key": "sk-dummy-for-replay"}

    with replay(recorded), pytest.raises(CassetteMiss):
        llmbridge.embed("trout", **asked) if colour == "embed" else run(llmbridge.aembed("trout", **asked))


# How it is recorded


def test_once_records_where_there_is_no_file(upstream: Upstream, path: Path) -> None:
    with replay(path, record="once") as cassette:
        upstream.ask()
    with replay(path, record="once"):
        upstream.ask()
        with pytest.raises(CassetteMiss):
            upstream.ask({"name": "perch"})

    assert upstream.count == 1
    assert cassette.played == [f"POST {URL}"] and cassette.unplayed == []


def test_new_plays_what_is_there_and_adds_the_rest(upstream: Upstream, recorded: Path) -> None:
    with replay(recorded, record="new"):
        answers = [upstream.ask(body).json()["number"] for body in ({"name": "perch"}, None, None)]
    with replay(recorded) as cassette:
        replayed = [upstream.ask(body).json()["number"] for body in (None, {"name": "perch"}, None)]

    assert (answers, replayed) == ([2, 1, 3], [1, 2, 3])
    assert cassette.unplayed == []


def test_new_keeps_what_was_not_played_and_the_comment_at_the_top(upstream: Upstream, recorded: Path) -> None:
    recorded.write_text("# Made by hand.\n# Twice.\n" + recorded.read_text())
    with replay(recorded, record="new") as cassette:
        upstream.ask({"name": "perch"})

    assert cassette.unplayed == [f"POST {URL}"]
    assert recorded.read_text().startswith("# Made by hand.\n# Twice.\nversion: 1\n")
    assert recorded.read_text().count("uri:") == 2


def test_new_records_where_there_is_no_file(upstream: Upstream, path: Path) -> None:
    with replay(path, record="new"):
        upstream.ask()

    assert path.exists()


def test_all_plays_nothing_and_replaces_the_file(upstream: Upstream, recorded: Path) -> None:
    with replay(recorded, record="all"):
        answer = upstream.ask()

    assert answer.json() == {"number": 2}
    assert recorded.read_text().count("uri:") == 1


def test_all_keeps_the_file_when_nothing_was_sent(recorded: Path) -> None:
    before = recorded.read_bytes()
    with replay(recorded, record="all"):
        pass

    assert recorded.read_bytes() == before


def test_an_unknown_mode_is_refused_with_the_known_ones(path: Path) -> None:
    with (
        pytest.raises(ValueError, match="record is one of 'none', 'once', 'new', 'all', not 'any'"),
        replay(
            path,
            record="any",  # type: ignore[arg-type]
        ),
    ):
        pass


def test_nothing_is_written_when_the_block_fails(upstream: Upstream, recorded: Path) -> None:
    before = recorded.read_bytes()
    with pytest.raises(ZeroDivisionError), replay(recorded, record="all"):
        upstream.ask()
        raise ZeroDivisionError

    assert recorded.read_bytes() == before
    assert list(recorded.parent.iterdir()) == [recorded]


@pytest.mark.parametrize(("where", "step"), [(os, "fsync"), (Path, "replace")], ids=["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file_and_no_other(
    where: Any, step: str, upstream: Upstream, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recorded.read_bytes()

    def crash(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(where, step, crash)
    with pytest.raises(OSError, match="disk is full"), replay(recorded, record="all"):
        upstream.ask()

    assert recorded.read_bytes() == before
    assert list(recorded.parent.iterdir()) == [recorded]


def test_folders_are_made_for_a_new_file(upstream: Upstream, tmp_path: Path) -> None:
    with replay(str(tmp_path / "new" / "folder" / "fish.yaml"), record="once"):
        upstream.ask()

    assert (tmp_path / "new" / "folder" / "fish.yaml").exists()


def test_what_litellm_asks_ollama_unasked_is_neither_sent_nor_recorded(sim: Simulator, path: Path) -> None:
    sim.script(Reply("Trout."))
    with replay(path, record="once") as cassette:
        llmbridge.complete("Name a fish.", model=recording.OLLAMA, api_base=sim.url)
        with pytest.raises(CassetteMiss):
            httpx.post(f"{sim.url}/api/show", json={"name": "llama3.2"})

    assert cassette.played == [f"POST {sim.url}/api/chat"]
    assert sim.lookups == []


# What stands in the file


def test_json_is_written_over_several_lines_and_only_listed_headers_are(upstream: Upstream, path: Path) -> None:
    headers = {
        "set-cookie": "session=1",
        "x-request-id": "req_1",
        "openai-organization": "acme",
        "retry-after": "7",
        "retry-after-ms": "7000",
        "x-ratelimit-remaining-requests": "9",
        "date": "today",
    }
    upstream.says(200, json={"name": "Forelle: 鱒\n", "id": 1e-7}, headers=headers)
    with replay(path, record="once"):
        upstream.ask(headers={"accept": "application/json", "anthropic-version": "1", "x-stainless-os": "Linux"})

    assert path.read_text(encoding="utf-8") == (
        """version: 1
interactions:
- request:
    method: POST
    uri: https://api.example.com/v1/fish
    headers:
      accept:
      - application/json
      anthropic-version:
      - '1'
      content-type:
      - application/json
    body: |-
      {
        "name": "trout"
      }
  response:
    status:
      code: 200
      message: OK
    headers:
      content-type:
      - application/json
      retry-after:
      - '7'
      retry-after-ms:
      - '7000'
      x-ratelimit-remaining-requests:
      - '9'
      x-request-id:
      - req_1
    body:
      string: |-
        {
          "name": "Forelle: 鱒\\n",
          "id": 1e-07
        }
"""
    )


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/event-stream", b'data: {"a": 1}\n\ndata: [DONE]\n\n'),
        ("text/event-stream", b"data: 1\r\n\r\ndata: 2\r\n\r\n"),
        ("application/x-ndjson", b'{"done":true}\n'),
        ("text/plain", b'{"a":1}'),
        ("text/plain", b""),
        ("text/plain", b" leading, trailing \nand\ttabs \n\n\n"),
        ("text/plain", "a\x85b\u2028c\u2029d\ufeffe\n\x00\n".encode()),
        ("text/plain", b"- not: [yaml\n# at all"),
        ("application/json", b'{"broken": '),
        ("application/octet-stream", bytes(range(256))),
    ],
)
def test_a_body_that_is_not_json_is_replayed_byte_for_byte(
    upstream: Upstream, path: Path, content_type: str, body: bytes
) -> None:
    upstream.says(200, content=body, headers={"content-type": content_type})
    with replay(path, record="once"):
        upstream.ask()
    with replay(path):
        assert upstream.ask().content == body


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_is_replayed_as_it_was(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    upstream, path = Upstream(), tmp_path_factory.mktemp("any") / "fish.yaml"
    text = redaction.redact(text, limit=None)
    upstream.says(200, content=text.encode("utf-8", "replace"))
    with replay(path, record="once"):
        upstream.ask({"text": text, "lines": [text, "\n"]})
    with replay(path):
        assert upstream.ask({"text": text, "lines": [text, "\n"]}).content == text.encode("utf-8", "replace")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES) | st.dictionaries(st.text(), VALUES))
@example([{"apikey": [None]}, {"secret": 12_345_678}, {"password": -1.5e300}, {"password": {"secret": False}}])
def test_any_json_is_replayed_with_its_value(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    upstream, path = Upstream(), tmp_path_factory.mktemp("any") / "fish.yaml"
    upstream.says(200, content=json.dumps(value), headers={"content-type": "application/json"})
    with replay(path, record="once"):
        upstream.ask([value], headers={"content-type": "application/json"})
    with replay(path):
        assert upstream.ask([value]).json() == value


def test_a_stream_is_a_block_of_text(upstream: Upstream, path: Path) -> None:
    upstream.says(200, content=b"data: 1\n\ndata: 2\n\n", headers={"content-type": "text/event-stream"})
    with replay(path, record="once"):
        upstream.ask()

    assert "string: |+\n        data: 1\n\n        data: 2\n\n" in path.read_text()


def test_a_compressed_body_is_written_plainly(upstream: Upstream, path: Path) -> None:
    packed = {"content-encoding": "gzip", "content-type": "text/plain"}
    upstream.answer = lambda request: httpx.Response(
        200, stream=httpx.ByteStream(gzip.compress(b"a trout")), headers=packed
    )
    with replay(path, record="once"):
        assert upstream.ask().text == "a trout"
    with replay(path):
        assert upstream.ask().text == "a trout"

    assert "string: a trout\n" in path.read_text()


def test_no_secret_reaches_the_file(upstream: Upstream, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", SECRETS["bare"])
    redaction.remember(SECRETS["odd"])
    said = {
        "plain": list(SECRETS.values()),
        "headers": [f"Authorization: Bearer {SECRETS['bearer']}"],
        "password": "hunter2hunter2",
        "nested": json.dumps({"x-api-key": SECRETS["odd"]}),
    }
    told = {name: value.replace('"', "") for name, value in SECRETS.items()}
    headers = {"x-request-id": SECRETS["bearer"], "x-ratelimit-for": SECRETS["bare"], "x-leak": SECRETS["bare"]}
    with replay(path, record="once"):
        upstream.says(200, json=said, headers=headers)
        upstream.ask(
            said,
            url=f"https://me:{SECRETS['bare']}@api.example.com/{SECRETS['bare']}/x",
            params={"key": SECRETS["query"], "access_token": "tiny", "q": SECRETS["odd"], "alt": "sse"},
            headers={"authorization": f"Bearer {SECRETS['bearer']}", "accept": SECRETS["bare"], "x-api-key": "tiny"},
        )
        upstream.says(200, content=f"data: {json.dumps(said)}\n\n".encode())
        upstream.ask(told)
        upstream.says(200, content=b"\xff\x00" + SECRETS["bare"].encode())
        upstream.client.post(URL, content=b"\xff\x00" + SECRETS["bearer"].encode())

    text = path.read_text(encoding="utf-8")
    assert not [secret for secret in (*SECRETS.values(), "tiny", "hunter2", "me:") if secret in text]
    assert redaction.redact(text, limit=None) == text
    assert "alt=sse" in text


KEY = 'c4n4ry/quo"te+and=more&0123456789'  # no prefix to know it by, and everything that an encoding changes
CANARY = KEY.replace('"', "")  # where a quote cannot stand


def basic(secret: str) -> str:
    return base64.b64encode(f"user:{secret}".encode()).decode()


SAID = {
    "json": lambda: {"json": {"error": {"message": f"bad key {KEY}", "list": [[KEY]]}}},
    "json in json": lambda: {"json": {"echo": json.dumps({"key": KEY})}},
    "json with escaped slashes": lambda: {
        "content": json.dumps([CANARY]).replace("/", "\\/"),
        "headers": {"content-type": "application/json"},
    },
    "json with escaped letters": lambda: {
        "content": '["' + "".join(f"\\u{ord(letter):04x}" for letter in KEY) + '"]',
        "headers": {"content-type": "application/json"},
    },
    "plain text": lambda: {"text": f"You sent {KEY}, which is wrong."},
    "html": lambda: {"html": f"<p>You sent {html.escape(KEY)}</p>"},
    "an event of a stream": lambda: {"text": "data: " + json.dumps({"text": KEY}) + "\n\n"},
    "a header that is kept": lambda: {"headers": {"x-request-id": CANARY}},
    "a header that is not": lambda: {"headers": {"x-echo": CANARY}},
    "a cookie": lambda: {"headers": {"set-cookie": f"session={CANARY}; path=/"}},
    "base64": lambda: {"text": base64.b64encode(f"key={KEY}".encode()).decode()},
    "url-safe base64": lambda: {"text": base64.urlsafe_b64encode(KEY.encode()).decode()},
    "basic": lambda: {"text": f"Authorization: Basic {basic(KEY)}"},
    "url-encoded": lambda: {"text": quote(KEY, safe="")},
    "url-encoded in small letters": lambda: {"text": quote(KEY, safe="").lower()},
    "the reason phrase": lambda: {"extensions": {"reason_phrase": CANARY.encode()}},
    "bytes": lambda: {"content": b"\xff\x00" + KEY.encode()},
}
ASKED = {
    "a known header": lambda: {"headers": {"authorization": f"Bearer {CANARY}"}},
    "an unknown header": lambda: {"headers": {"x-acme": CANARY}},
    "a header that is kept": lambda: {"headers": {"accept": f"text/{CANARY}"}},
    "a cookie": lambda: {"headers": {"cookie": f"a=b; session={CANARY}"}},
    "basic": lambda: {"headers": {"authorization": f"Basic {basic(KEY)}"}},
    "the query": lambda: {"params": {"q": KEY}},
    "a query of its own": lambda: {"params": {"key": KEY}},
    "the path": lambda: {"url": f"{URL}/{quote(KEY, safe='')}/x"},
    "the path in small letters": lambda: {"url": f"{URL}/{quote(KEY, safe='').lower()}/x"},
    "the user": lambda: {"url": f"https://me:{quote(KEY, safe='')}@api.example.com/"},
    "nested json": lambda: {"json": {"a": [{"b": {"c": f"x {KEY} y"}}]}},
    "a name in json": lambda: {"json": {KEY: 1}},
    "a form": lambda: {"data": {"client": KEY}},
    "a file": lambda: {"files": {"file": ("name", KEY.encode())}},
    "compressed json": lambda: {
        "content": gzip.compress(json.dumps({"a": KEY}).encode()),
        "headers": {"content-encoding": "gzip", "content-type": "application/json"},
    },
}


def everything_in(path: Path) -> str:
    """The file and what it holds, after every decoding that a reader could think of."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    document = repr(yaml.safe_load(text)) if text else ""
    return "\n".join([text, unquote_plus(text), html.unescape(text), document, unquote_plus(document)])


def is_in(secret: str, text: str) -> bool:
    forms = [secret, json.dumps(secret)[1:-1], basic(secret)[8:-4], base64.b64encode(secret.encode()).decode()[:-4]]
    return any(form in text or form.lower() in text for form in forms)


@pytest.mark.parametrize("place", SAID)
def test_a_known_key_in_an_answer_reaches_no_file(place: str, upstream: Upstream, path: Path) -> None:
    redaction.remember(KEY)
    redaction.remember(CANARY)
    upstream.says(400, **SAID[place]())
    with replay(path, record="once"):
        upstream.ask()

    assert path.exists()
    assert not is_in(KEY, everything_in(path)) and not is_in(CANARY, everything_in(path))


@pytest.mark.parametrize("place", ASKED)
def test_a_known_key_in_a_request_reaches_no_file_and_is_replayed(place: str, upstream: Upstream, path: Path) -> None:
    redaction.remember(KEY)
    redaction.remember(CANARY)

    def ask() -> Any:
        return upstream.client.post(**{"url": URL, **ASKED[place]()}).json()

    with replay(path, record="once"):
        ask()
    if place != "a file":  # whose border is another one each time
        with replay(path):
            assert ask() == {"number": 1}

    assert path.exists()
    assert not is_in(KEY, everything_in(path)) and not is_in(CANARY, everything_in(path))


@pytest.mark.parametrize(
    "place", ["a known header", "a cookie", "a query of its own", "the user", "basic", "x-acme-key"]
)
def test_a_credential_that_nobody_knew_is_known_once_it_was_sent(place: str, upstream: Upstream, path: Path) -> None:
    sent = {"headers": {"x-acme-key": CANARY}} if place == "x-acme-key" else ASKED[place]()
    echo = basic(KEY) if place == "basic" else CANARY if "headers" in sent else KEY
    upstream.says(401, text=f"wrong: {echo}")
    with replay(path, record="once"):
        upstream.client.post(**{"url": URL, **sent})

    assert "wrong:" in path.read_text()
    assert not is_in(KEY, everything_in(path)) and not is_in(CANARY, everything_in(path))


@pytest.mark.parametrize("cut", [1, 5, 16])
def test_a_key_that_a_stream_says_in_pieces_keeps_the_file_from_being_written(
    cut: int, upstream: Upstream, path: Path
) -> None:
    redaction.remember(KEY)
    pieces = [KEY[at : at + cut] for at in range(0, len(KEY), cut)]
    said = "".join("data: " + json.dumps({"delta": [{"text": piece}]}) + "\n\n" for piece in pieces)
    upstream.says(200, text=said, headers={"content-type": "text/event-stream"})
    with (
        pytest.raises(ConfigError, match=r"was not written: it would hold a secret \(interaction 2 of 2\)"),
        replay(path, record="once"),
    ):
        upstream.answer, say = upstream._number, upstream.answer
        upstream.ask()
        upstream.answer = say
        upstream.ask()

    assert not path.exists()


def test_a_file_that_would_still_hold_a_secret_is_not_written(upstream: Upstream, recorded: Path) -> None:
    leaky = recorded.read_text().replace("trout", SECRETS["bearer"])
    recorded.write_text(leaky)
    with pytest.raises(ConfigError, match="it would hold a secret") as caught, replay(recorded, record="new"):
        upstream.ask({"name": "perch"})

    assert recorded.read_text() == leaky
    assert caught.value.path == str(recorded)


def test_vcrpy_reads_what_is_written(upstream: Upstream, recorded: Path) -> None:
    with vcr.VCR(record_mode="none").use_cassette(str(recorded)):
        assert upstream.ask().json() == {"number": 1}

    assert upstream.count == 1


def test_what_vcrpy_wrote_is_replayed(upstream: Upstream, path: Path) -> None:
    with vcr.VCR().use_cassette(str(path)):
        upstream.ask()
    with replay(path):
        assert upstream.ask().json() == {"number": 1}

    assert upstream.count == 1


# Streams


EVENTS = [b"data: 1\n\n", b": ping\n\n", b"event: x\r\ndata: 2\r\n\r\n", b"data: [DONE]\n\n"]
LINES = [b'{"a":1}\n', b'{"b":2}\n']


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(
    ("kind", "sent", "pieces"),
    [
        ("text/event-stream; charset=utf-8", EVENTS, EVENTS),
        ("text/event-stream", [b"".join(EVENTS)[:13], b"".join(EVENTS)[13:]], EVENTS),
        ("application/x-ndjson", LINES, LINES),
        ("text/plain", LINES, [b"".join(LINES)]),
    ],
)
def test_a_stream_is_played_in_its_events(
    kind: str, sent: list[bytes], pieces: list[bytes], colour: str, upstream: Upstream, path: Path, run: Run
) -> None:
    upstream.answer = lambda _: httpx.Response(200, stream=Pieces(sent), headers={"content-type": kind})

    async def aread() -> list[bytes]:
        async with upstream.async_client.stream("POST", URL) as answer:
            return [piece async for piece in answer.aiter_raw()]

    def read() -> list[bytes]:
        with upstream.client.stream("POST", URL) as answer:
            return [*answer.iter_raw()]

    with replay(path, record="once"):
        heard = run(aread()) if colour == "async" else read()
    with replay(path):
        played = run(aread()) if colour == "async" else read()

    assert heard == sent
    assert played == pieces


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_the_pauses_of_a_stream_are_kept_and_played_if_asked_for(
    colour: str, upstream: Upstream, path: Path, run: Run
) -> None:
    upstream.answer = lambda _: httpx.Response(
        200, stream=Pieces(EVENTS, [0.0, 0.2, 0.0, 0.1]), headers={"content-type": "text/event-stream"}
    )

    def took_s() -> float:
        started = time.monotonic()
        assert (run(upstream.async_client.post(URL)) if colour == "async" else upstream.client.post(URL)).content
        return time.monotonic() - started

    with replay(path, record="once", timing=True):
        took_s()
    with replay(path, timing=True):
        assert took_s() >= 0.29
    with replay(path):
        assert took_s() < 0.2
    (times,) = [line for line in path.read_text().splitlines() if "times_s: [" in line]
    assert len(yaml.safe_load(times)["times_s"]) == 4

    path.write_text(path.read_text().replace(times, "      times_s: [0.1, 0.3]"))
    with replay(path, timing=True):
        assert took_s() < 0.1  # edited: which pause is whose, nobody knows
    with vcr.VCR(record_mode="none").use_cassette(str(path)):
        assert took_s() < 0.2


def test_without_timing_no_time_is_written(upstream: Upstream, path: Path) -> None:
    upstream.says(200, content=b"".join(EVENTS), headers={"content-type": "text/event-stream"})
    with replay(path, record="once"):
        upstream.ask()

    assert "times_s" not in path.read_text()


# A process that dies


WRITER = """
import sys, httpx
from pathlib import Path
from llmbridge.cassette import replay
from llmbridge.cassette.wires import Pieces
client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, text="x" * 1000)))
print("ready", flush=True)
while True:
    with replay(sys.argv[1], record="all"):
        for number in range(30):
            client.post("https://api.example.com", json={"number": number})
"""


def test_a_process_killed_while_it_records_leaves_a_whole_file(recorded: Path, upstream: Upstream) -> None:
    for turn in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(recorded)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.05 + turn * 0.11)
            process.send_signal(signal.SIGKILL)
        with replay(recorded) as cassette:
            pass
        assert len(cassette.unplayed) in (1, 30)


# What is not a cassette


def test_a_missing_file_is_an_error_that_says_how_to_record(path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"there is no cassette at .*fish.yaml.*record='once'") as caught,
        replay(path),
    ):
        pass

    assert caught.value.path == str(path)


@pytest.mark.parametrize("mode", ["none", "once", "new"])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param("version: 1\ninteractions:\n- request: [\n", 4, id="broken"),
        pytest.param("version: 1\ninteractions: !!python/object/apply:os.getcwd []\n", 2, id="python-object"),
        pytest.param("version: 1\ninteractions:\n- !!python/tuple [1, 2]\n", 3, id="python-tuple"),
        pytest.param("version: 1\ninteractions:\n- !mine {}\n", 3, id="own-tag"),
        pytest.param("", None, id="empty"),
        pytest.param("- 1\n", None, id="list"),
        pytest.param("version: 2\ninteractions: []\n", None, id="version"),
        pytest.param("version: 1\ninteractions: 7\n", None, id="no-interactions"),
        pytest.param("version: 1\ninteractions: [{request: {}, response: {}}]\n", None, id="no-request"),
        pytest.param("version: 1\ninteractions: [{request: {uri: 'http://[', method: A, body: ''}}]\n", None, id="url"),
        pytest.param(
            "version: 1\ninteractions: [{request: {uri: 'http://a:b', method: A, body: ''}}]\n", None, id="port"
        ),
        pytest.param(
            "version: 1\ninteractions: [{request: {uri: 'http://a', method: A, body: 7}, response: {}}]\n",
            None,
            id="body",
        ),
        pytest.param(
            "version: 1\ninteractions: [{request: {uri: 'http://a', method: A, body: ''}, response: {}}]\n",
            None,
            id="no-response",
        ),
        pytest.param(b"\xff\xfe", None, id="not-utf8"),
        pytest.param("version: 1\x00", None, id="control"),
        pytest.param("[" * 100_000, None, id="deep"),
    ],
)
def test_a_file_that_is_no_cassette_is_refused_with_path_and_line(
    content: str | bytes, line: int | None, mode: Any, path: Path
) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"fish.yaml is not a cassette: ") as caught, replay(path, record=mode):
        pass

    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert path.exists()


def test_what_is_said_of_a_broken_file_shows_no_secret(path: Path) -> None:
    path.write_text(f"version: 1\ninteractions: [{SECRETS['bearer']}: @\n")
    with pytest.raises(ConfigError) as caught, replay(path):
        pass

    assert SECRETS["bearer"] not in str(caught.value)
    assert caught.value.line == 2


def test_a_folder_is_no_cassette(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a cassette"), replay(tmp_path):
        pass
