"""`llmbridge cache`: what is kept, and how to be rid of it."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmbridge import Bridge, Cache, Model
from llmbridge.cache import Entry
from llmbridge.completion import Completion
from llmbridge.home import cache_path
from tests.commands import files, run
from tests.simulator import Reply, Simulator


def entry(text: str, **fields: object) -> Entry:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    answer = Completion.model_validate({"id": "x", "model": "m", "created": 1, "choices": [choice]})
    given = {"answer": answer, "created_at": time.time(), "model": "openai/gpt-4o-mini", "provider": "openai"} | fields
    return Entry(**given)  # type: ignore[arg-type]


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.fixture
def kept() -> Iterator[Path]:
    """Three answers of two models and two users, one of them a vector; one hit, one miss."""
    cache = Cache()
    assert cache.remember(key(1), entry("Trout,\nand \x1b[2J[red]carp.", tags={"user": "alice"}, cost_nanousd=5000))
    assert cache.remember(key(2), entry("Eel.", model="anthropic/claude-haiku-4-5", tags={"user": "bob"}))
    assert cache.remember(key(3), entry("", answer=[0.5, 0.25], tags={"user": "bob"}))
    cache.recall(key(1))
    cache.recall(key(9))
    cache.close()
    return cache_path()


def test_an_answer_that_a_call_paid_for_is_there(sim: Simulator) -> None:
    sim.script(Reply(text="Trout."))
    model = Model("openai/gpt-4o-mini", api_base=sim.api_base("openai"), api_key="sk-test-key")
    bridge = Bridge([model], cache=Cache(), ledger=None)
    bridge.complete("Name a fish.", tags={"user": "alice"})

    (found,) = run("cache", "list", "--json").json

    assert (found["model"], found["tags"], found["provider"]) == ("openai/gpt-4o-mini", {"user": "alice"}, "openai")
    assert run("cache", "show", found["key"][:8]).out.endswith("\nTrout.\n")


def test_stats_count_what_the_cache_did(kept: Path) -> None:
    assert run("cache", "stats").out.splitlines()[0].startswith(f"{kept}: 3 answers, ")
    assert run("cache", "stats").out.splitlines()[1:] == ["1 of 2 answered from it (50%)"]
    assert run("cache", "stats", "--json").json["entries"] == 3


def test_list_shows_the_latest_first_and_no_terminal_command(kept: Path) -> None:
    out = run("cache", "list").out

    rows = [line.split() for line in out.splitlines()[3:] if line.strip()]
    assert [row[0] for row in rows] == [key(3)[:12], key(2)[:12], key(1)[:12]]
    assert rows[0][-2:] == ["(a", "vector)"]
    assert "[red]carp." in out and "\x1b" not in out
    assert "$0.000005" in out


@pytest.mark.parametrize(
    ("options", "numbers"),
    [(("-m", "openai/*"), [3, 1]), (("--tag", "user=bob"), [3, 2]), (("-n", "1"), [3]), (("-m", "none"), [])],
)
def test_list_chooses_by_model_and_tag(options: tuple[str, ...], numbers: list[int], kept: Path) -> None:
    assert [each["key"] for each in run("cache", "list", *options, "--json").json] == [key(each) for each in numbers]


def test_show_has_one_answer_in_full(kept: Path) -> None:
    done = run("cache", "show", key(2)[:10])

    assert done.out.startswith(f"key            {key(2)}\nmodel          anthropic/claude-haiku-4-5\n")
    assert done.out.endswith("\n\nEel.\n")
    assert run("cache", "show", key(3), "--json").json["answer"] == [0.5, 0.25]
    assert (run("cache", "show", "zz").code, run("cache", "show", "zz").err) == (1, "No keys begin with zz.\n")
    assert run("cache", "show", "").err.startswith("Several keys begin with .\n")


@pytest.mark.parametrize(
    ("options", "left"), [(("-m", "openai/*"), {2}), (("--tag", "user=bob"), {1}), (("--all",), set())]
)
def test_clear_removes_what_is_said(options: tuple[str, ...], left: set[int], kept: Path) -> None:
    done = run("cache", "clear", *options, "--json")

    assert done.json == {"entries": 3 - len(left)}
    assert {each["key"] for each in run("cache", "list", "--json").json} == {key(each) for each in left}


def test_clear_wants_to_be_told_what(kept: Path) -> None:
    for options in ((), ("--all", "--tag", "user=bob")):
        done = run("cache", "clear", *options)
        assert (done.code, done.err) == (2, "say what to remove: --model, --tag, or --all\n")


def test_verify_names_a_broken_answer_by_its_exit_code_too(kept: Path) -> None:
    assert (run("cache", "verify").code, run("cache", "verify").out) == (0, "")
    with sqlite3.connect(kept / "cache.db") as db:
        db.execute("UPDATE Cache SET value = replace(value, 'Eel.', 'Cod.')")
    db.close()

    done = run("cache", "verify")

    assert (done.code, done.out) == (1, "row 2: its checksum is wrong\n")
    assert len(run("cache", "list", "--json").json) == 2


@pytest.mark.parametrize("verb", ["stats", "list", "show 4", "verify", "clear --all"])
def test_a_missing_cache_is_said_and_not_made(verb: str, tmp_path: Path) -> None:
    done = run("cache", *verb.split(), "--cache", tmp_path / "none")

    assert (done.code, done.out) == (1, "")
    assert done.err == f"there is no cache in {tmp_path / 'none'}; the first answer that is kept makes it\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("verb", ["stats", "list", "show 4", "verify", "clear --all"])
def test_a_directory_that_is_no_cache_is_left_as_it_is(verb: str, tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_text("notes " * 1000)
    before = files(tmp_path)

    done = run("cache", *verb.split(), "--cache", tmp_path)

    assert (done.code, done.out, files(tmp_path)) == (1, "", before)


@pytest.mark.parametrize("open_elsewhere", [True, False])
@pytest.mark.parametrize("verb", ["stats", "list", "show 6", "verify"])
def test_a_reader_changes_no_byte(verb: str, open_elsewhere: bool, kept: Path) -> None:
    cache = Cache()
    if open_elsewhere:
        cache.remember(key(4), entry("Cod."))
    before = files(kept)

    assert run("cache", *verb.split()).code == 0

    assert files(kept) == before
    cache.close()


def test_a_read_only_cache_keeps_nothing_and_counts_for_itself(kept: Path) -> None:
    before = files(kept)
    cache = Cache(read_only=True)

    found = cache.recall(key(2))
    assert found is not None and found.completion.text == "Eel."
    assert not cache.remember(key(4), entry("Cod."))
    assert (cache.clear(), cache.stats().hits, cache.stats().entries) == (0, 2, 3)
    cache.close()

    assert files(kept) == before


def test_entries_leave_out_what_would_not_be_served(tmp_path: Path) -> None:
    now = [1000.0]
    cache = Cache(tmp_path, ttl_s=60, stale_if_error_s=600, clock=lambda: now[0])
    cache.remember(key(1), entry("Trout.", created_at=1000.0))
    assert [each for each, _ in cache.entries()] == [key(1)]

    now[0] += 61

    assert cache.entries() == []
    cache.close()
