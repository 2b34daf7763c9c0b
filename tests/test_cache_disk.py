"""The cache's directory: real diskcache, real files. It serves what it was given and nothing else, whatever somebody
plants in it, and a broken one is a miss."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbridge.cache import Cache, Entry, record_chunks, store
from llmbridge.cache.cache import SKEW_S, WEEK_S
from llmbridge.cache.disk import Database
from llmbridge.cache.entry import LARGEST_BYTES, dump
from llmbridge.cache.store import Unusable
from llmbridge.completion import Chunk, Completion


KEY = "ab" * 32
REST_S = Unusable.rest_s
SECRET = "a secret outside"
NOW = 1_700_000_000.0


class Clock:
    """Seconds since the epoch, as the test says."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> Iterator[Cache]:
    made = Cache(tmp_path / "cache", clock=clock)
    yield made
    made.close()


def entry(text: str = "A pike.", *, created_at: float = NOW, **fields: Any) -> Entry:
    answer = Completion.model_validate(
        {
            "id": "1",
            "created": 1,
            "model": "openai/gpt-4o-mini",
            "choices": [{"finish_reason": "stop", "message": {"content": text}}],
        }
    )
    fields = {"model": "openai/gpt-4o-mini", "provider": "openai", "cost_nanousd": 2_400} | fields
    return Entry(answer=answer, created_at=created_at, **fields)


def text_of(found: Entry | None) -> str | None:
    return None if found is None else found.completion.text


@contextlib.contextmanager
def database(directory: Path) -> Iterator[sqlite3.Connection]:
    """The file, as an attacker opens it."""
    connection = sqlite3.connect(directory / "cache.db", isolation_level=None)
    yield connection
    connection.close()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, logger="llmbridge")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


LARGE = "A very large pike. " * 5_000  # has a file of its own


def values(directory: Path) -> list[Path]:
    return list(directory.glob("*/*/*.val"))


@pytest.mark.parametrize("text", ["A pike.", LARGE, "caf\u00e9 \U0001f41f\0\n"])
def test_what_was_remembered_is_recalled_with_its_facts(cache: Cache, clock: Clock, text: str) -> None:
    chunks = [Chunk("A "), Chunk("pike", finish_reason="stop")]
    assert cache.recall(KEY) is None
    assert cache.remember(KEY, entry(text, tags={"user": "alice"}, recorded=record_chunks(chunks)))
    clock.now += 60

    found = cache.recall(KEY)

    assert found is not None
    assert found.completion.text == text
    assert (found.cost_nanousd, found.age_s, found.stale) == (2_400, 60.0, False)
    assert found.chunks() == chunks
    assert cache.recall("cd" * 32) is None
    assert len(values(cache.directory)) == (text is LARGE)
    assert cache.verify() == []


def test_a_vector_is_remembered_too(cache: Cache) -> None:
    vector = [0.1, -0.0, 1e-308]
    cache.remember(KEY, Entry(answer=vector, created_at=NOW, model="openai/e", provider="openai"))
    found = cache.recall(KEY)
    assert found is not None
    assert found.vector == vector


def test_a_later_answer_takes_the_place_of_an_earlier_one_and_of_its_file(cache: Cache) -> None:
    for text in (LARGE, LARGE + "!", "A pike.", "A carp."):
        cache.remember(KEY, entry(text))
        assert text_of(cache.recall(KEY)) == text
    assert values(cache.directory) == []
    assert cache.stats().entries == 1


def test_what_is_kept_by_one_statement_is_the_row_that_diskcache_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)

    def rows(name: str) -> list[object]:
        made, seen = Database(str(tmp_path / name), 2**20), []
        for text, about, expire_s in (("A pike.", "a", None), ("A carp.", "b", 60.0)):
            if name == "ours":
                assert made.keep(KEY, text, about, expire_s)
            else:
                made.set(KEY, text, expire=expire_s, tag=about)
            seen.append((made._sql("SELECT * FROM Cache").fetchall(), made.reset("count"), made.reset("size")))
        made.close()
        return seen

    ours = rows("ours")
    assert ours == rows("diskcache")
    assert [len(found) for found, *_ in ours] == [1, 1]


def test_nothing_is_made_before_the_first_use(cache: Cache) -> None:
    assert not cache.directory.exists()


def test_the_default_directory_is_in_the_state_directory(tmp_path: Path) -> None:
    assert Cache().directory == tmp_path / "home" / "cache"  # LLMBRIDGE_HOME of conftest


# -- time --


def test_an_answer_is_served_until_its_time_is_over(cache: Cache, clock: Clock) -> None:
    cache.remember(KEY, entry())
    clock.now += WEEK_S
    assert cache.recall(KEY)
    clock.now += 1
    assert cache.recall(KEY) is None


def test_a_callers_age_can_only_shorten_it(cache: Cache, clock: Clock) -> None:
    cache.remember(KEY, entry())
    clock.now += 60
    assert cache.recall(KEY, max_age_s=60)
    assert cache.recall(KEY, max_age_s=59) is None
    clock.now += WEEK_S
    assert cache.recall(KEY, max_age_s=10 * WEEK_S) is None


def test_an_entry_may_have_a_time_of_its_own(cache: Cache, clock: Clock) -> None:
    cache.remember(KEY, entry(ttl_s=10))
    clock.now += 11
    assert cache.recall(KEY) is None


def test_a_cache_without_a_limit_serves_for_ever(tmp_path: Path, clock: Clock) -> None:
    cache = Cache(tmp_path / "cache", ttl_s=None, clock=clock)
    cache.remember(KEY, entry())
    clock.now += 1e9
    assert cache.recall(KEY)
    cache.close()


def test_an_answer_that_is_over_comes_marked_stale_when_that_is_asked_for(cache: Cache, clock: Clock) -> None:
    cache.remember(KEY, entry())
    clock.now += WEEK_S + 60

    found = cache.recall(KEY, stale_s=60)

    assert found is not None
    assert found.stale
    assert found.age_s == WEEK_S + 60
    assert cache.recall(KEY, stale_s=59) is None


def test_a_clock_set_back_makes_nothing_fresher(cache: Cache, clock: Clock) -> None:
    cache.remember(KEY, entry())
    clock.now -= SKEW_S
    found = cache.recall(KEY)
    assert found is not None
    assert found.age_s == 0
    clock.now -= 1
    assert cache.recall(KEY) is None


# -- deletion, statistics, verification --


def test_answers_are_removed_by_model_by_tag_by_both_and_altogether(cache: Cache) -> None:
    models = ("openai/gpt-4o", "openai/gpt-4o-mini", "groq/llama")
    kept = {
        f"{number:064x}": entry(LARGE if number % 2 else "A pike.", model=models[number % 3], tags={"user": user})
        for number, user in enumerate(["alice", "bob"] * 6)
    }

    def removed(**what: str) -> int:
        for key, each in kept.items():
            cache.remember(key, each)
        count = cache.clear(**what)
        assert cache.stats().entries == 12 - count
        assert sum(cache.recall(key) is not None for key in kept) == 12 - count
        return count

    assert removed(model="groq/llama") == 4
    assert removed(model="openai/*") == 8
    assert removed(tag="user=alice") == 6
    assert removed(model="openai/gpt-4o", tag="user=bob") == 2
    assert removed(tag="user=carol") == 0
    assert removed(tag="user") == 0
    assert removed() == 12
    assert values(cache.directory) == []


def test_the_counts_are_those_of_all_processes(cache: Cache) -> None:
    cache.recall(KEY)
    cache.remember(KEY, entry())
    script = f"""
import sys
from llmbridge.cache import Cache
cache = Cache(sys.argv[1], clock=lambda: {NOW})
assert cache.recall({KEY!r}).completion.text == "A pike."
cache.recall("no")
print([name for name in ("litellm", "httpx", "openai") if name in sys.modules])
"""
    said = subprocess.run(
        [sys.executable, "-c", script, str(cache.directory)], capture_output=True, text=True, check=True
    ).stdout

    stats = cache.stats()

    assert said == "[]\n"
    assert (stats.hits, stats.misses, stats.errors, stats.entries) == (1, 2, 0, 1)
    assert stats.size_bytes > 1_000


def test_the_counts_survive_closing(cache: Cache) -> None:
    cache.recall(KEY)
    cache.close()
    assert cache.stats().misses == 1


def test_the_size_limit_holds_and_the_oldest_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", size_limit_bytes=2_000_000)
    for number in range(60):
        cache.remember(f"{number:064x}", entry(LARGE, created_at=time.time()))
    assert cache.stats().size_bytes <= 2_000_000 + 2 * len(LARGE)
    assert cache.recall(f"{0:064x}") is None
    assert cache.recall(f"{59:064x}")
    assert len(values(cache.directory)) == cache.stats().entries
    cache.close()


def test_verify_names_what_is_wrong(cache: Cache) -> None:
    keys = [f"{number:064x}" for number in range(5)]
    for key in keys:
        cache.remember(key, entry(LARGE))
    with database(cache.directory) as connection:
        names = dict(connection.execute("SELECT key, filename FROM Cache"))
    cut, gone = (cache.directory / names[key] for key in keys[:2])
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    lost = cache.directory / "ab" / "cd"
    lost.mkdir(parents=True, exist_ok=True)
    (lost / ("0" * 28 + ".val")).write_text("left behind")
    with database(cache.directory) as connection:
        connection.execute("UPDATE Cache SET raw = 0 WHERE key = ?", (keys[4],))

    wrong = "\n".join(cache.verify())

    for what in ("checksum is wrong", "file cannot be read", "key is not a text", "1 files belong to no entry"):
        assert what in wrong
    assert [cache.recall(key) is not None for key in keys] == [False, False, True, True, False]
    cache.clear()
    assert (cache.verify(), values(cache.directory)) == ([], [])


# -- tenants --


def test_a_namespace_is_what_tags_say_and_a_missing_one_is_a_value(tmp_path: Path) -> None:
    cache = Cache(tmp_path, namespace=("tenant", "a"))
    spaces = [
        cache.namespace_of(tags)
        for tags in (
            {},
            {"tenant": ""},
            {"tenant": "None"},
            {"tenant": "null"},
            {"tenant": "x"},
            {"a": "x"},
            {"tenant": "x", "a": "x"},
        )
    ]
    assert len(set(spaces)) == len(spaces)
    assert cache.namespace_of({"tenant": "x", "user": "bob"}) == cache.namespace_of({"tenant": "x"})
    assert Cache(tmp_path, namespace=("a", "tenant")).namespace_of({"a": "x"}) == cache.namespace_of({"a": "x"})


@pytest.mark.parametrize(
    "wrong", [{"ttl_s": 0}, {"size_limit_bytes": 0}, {"stale_if_error_s": -1}, {"ttl_s": float("nan")}]
)
def test_settings_that_can_never_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Cache(**wrong)
    with pytest.raises(TypeError, match="list of tag names"):
        Cache(namespace="tenant")


# -- attacks --


class Bomb:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self.mark, "executed")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file beside the cache that would be a good answer, so that it shows when it is read."""
    path = tmp_path / "outside" / "ab" / "cd" / ("0" * 28 + ".val")
    path.parent.mkdir(parents=True)
    path.write_text(dump(KEY, entry(SECRET)))
    return path


def plant_pickle(directory: Path, outside: Path) -> None:
    with database(directory) as connection:
        bomb = pickle.dumps(Bomb(outside.parent / "mark"))
        connection.execute("UPDATE Cache SET mode = 4, value = ?", (bomb,))


def plant_pickled_file(directory: Path, outside: Path) -> None:
    path = directory / "ab" / "cd" / ("1" * 28 + ".val")
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(Bomb(outside.parent / "mark")))
    with database(directory) as connection:
        connection.execute("UPDATE Cache SET mode = 4, value = NULL, filename = ?", (f"ab/cd/{'1' * 28}.val",))


def plant_file_name(directory: Path, outside: Path) -> None:
    with database(directory) as connection:
        name = os.path.relpath(outside, directory)
        connection.execute("UPDATE Cache SET mode = 2, value = NULL, filename = ?", (name,))


def plant_file_name_of_text(directory: Path, outside: Path) -> None:
    with database(directory) as connection:
        connection.execute("UPDATE Cache SET mode = 3, value = NULL, filename = ?", (str(outside),))


def plant_link(directory: Path, outside: Path) -> None:
    path = directory / "ab" / "cd" / ("1" * 28 + ".val")
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    with database(directory) as connection:
        connection.execute("UPDATE Cache SET mode = 2, value = NULL, filename = ?", (f"ab/cd/{'1' * 28}.val",))


def plant_linked_directory(directory: Path, outside: Path) -> None:
    (directory / "ab").symlink_to(outside.parent.parent)
    with database(directory) as connection:
        connection.execute("UPDATE Cache SET mode = 2, value = NULL, filename = ?", (f"ab/cd/{'0' * 28}.val",))


def plant_pipe(directory: Path, outside: Path) -> None:
    path = directory / "ab" / "cd" / ("1" * 28 + ".val")
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with database(directory) as connection:
        connection.execute("UPDATE Cache SET mode = 2, value = NULL, filename = ?", (f"ab/cd/{'1' * 28}.val",))


def plant_compressed_bomb(directory: Path, outside: Path) -> None:
    with database(directory) as connection:
        bomb = zlib.compress(b'"' + b"x" * 200_000_000 + b'"', 9)
        connection.execute("UPDATE Cache SET value = ?", (bomb,))


def plant_long_row(directory: Path, outside: Path) -> None:
    with database(directory) as connection:
        connection.execute("UPDATE Cache SET value = ?", ("[" * 20_000_000,))


def plant_long_file(directory: Path, outside: Path) -> None:
    path = directory / "ab" / "cd" / ("1" * 28 + ".val")
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(4 * LARGEST_BYTES)
    with database(directory) as connection:
        connection.execute("UPDATE Cache SET mode = 2, value = NULL, filename = ?", (f"ab/cd/{'1' * 28}.val",))


def plant_broken_text(directory: Path, outside: Path) -> None:
    with database(directory) as connection:
        connection.execute(
            "UPDATE Cache SET value = CAST(X'ff' || CAST(value AS BLOB) AS TEXT), tag = CAST(X'fe' AS TEXT)"
        )


def swap_answers(directory: Path, outside: Path) -> None:
    cache = Cache(directory)
    cache.remember("cd" * 32, entry("The answer to another question."))
    cache.close()
    with database(directory) as connection:
        connection.execute("UPDATE Cache SET value = (SELECT value FROM Cache WHERE key = ?)", ("cd" * 32,))


PLANTED = [
    plant_pickle,
    plant_pickled_file,
    plant_file_name,
    plant_file_name_of_text,
    plant_link,
    plant_linked_directory,
    plant_pipe,
    plant_compressed_bomb,
    plant_long_row,
    plant_long_file,
    plant_broken_text,
    swap_answers,
]


def tree(path: Path) -> dict[str, str]:
    return {str(each.relative_to(path)): each.read_text() for each in sorted(path.rglob("*")) if each.is_file()}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_row_is_a_miss_said_once_that_executes_reads_and_removes_nothing(
    plant: Callable[[Path, Path], None], cache: Cache, outside: Path, warnings: Callable[[], list[str]]
) -> None:
    cache.remember(KEY, entry())
    cache.close()
    plant(cache.directory, outside)
    before = tree(outside.parents[2])

    for _ in range(3):
        assert cache.recall(KEY) is None
    assert cache.verify()
    heard = warnings()

    assert len(heard) == 1
    assert SECRET not in heard[0]
    assert cache.stats().errors == 3
    assert cache.remember(KEY, entry("A carp."))  # over the row, whose file is not removed unless it is ours
    assert text_of(cache.recall(KEY)) == "A carp."
    cache.clear()
    assert tree(outside.parents[2]) == before


@pytest.mark.parametrize("plant", [plant_compressed_bomb, plant_long_row, plant_long_file])
def test_a_bomb_takes_no_memory(plant: Callable[[Path, Path], None], cache: Cache, outside: Path) -> None:
    cache.remember(KEY, entry())
    cache.close()
    plant(cache.directory, outside)
    script = f"""
import pathlib, re, sys
from llmbridge.cache import Cache
def peak():  # getrusage's is that of the parent, if that was larger
    return int(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
cache = Cache(sys.argv[1], clock=lambda: {NOW})
cache.recall("another")
before = peak()
assert cache.recall({KEY!r}) is None
print(peak() - before)
"""
    said = subprocess.run(
        [sys.executable, "-c", script, str(cache.directory)], capture_output=True, text=True, check=True
    ).stdout
    assert int(said) <= 16 * 1024  # KiB


def test_a_planted_key_is_a_miss_and_is_removed_with_the_rest(cache: Cache, outside: Path) -> None:
    cache.remember(KEY, entry())
    cache.close()
    with database(cache.directory) as connection:
        bomb = pickle.dumps(Bomb(outside.parent / "mark"))
        connection.execute("UPDATE Cache SET key = ?, raw = 0", (bomb,))
        connection.execute("INSERT INTO Cache (rowid, key, raw, tag) SELECT -5, key, 7, tag FROM Cache")

    assert cache.recall(KEY) is None
    assert [line.partition(": ")[2] for line in cache.verify()] == ["its key is not a text"] * 2
    assert cache.clear(model="openai/*") == 2
    assert not (outside.parent / "mark").exists()


def test_planted_names_are_not_followed_by_eviction_either(tmp_path: Path, outside: Path) -> None:
    cache = Cache(tmp_path / "cache", size_limit_bytes=200_000)
    cache.remember(KEY, entry())
    cache.close()
    plant_file_name(cache.directory, outside)
    for number in range(30):
        cache.remember(f"{number:064x}", entry(LARGE))
    with database(cache.directory) as connection:
        assert connection.execute("SELECT count(*) FROM Cache WHERE key = ?", (KEY,)).fetchone() == (0,)
    assert SECRET in outside.read_text()
    cache.close()


def test_planted_settings_change_nothing(cache: Cache, outside: Path) -> None:
    cache.remember(KEY, entry())
    cache.close()
    with database(cache.directory) as connection:
        for name, value in {
            "_directory": str(outside.parent),
            "get": "x",
            "_sql": "x",
            "disk_path": "x",
            "disk_pickle_protocol": "x",
            "disk_min_file_size": 0,
            "sqlite_mmap_size": 2**30,
            "sqlite_journal_mode": "off",
            "sqlite_writable_schema = 1; --": 1,
            "eviction_policy": "none",
            "statistics": 1,
            "cull_limit": 10**9,
            "count": "x",
        }.items():
            connection.execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (name, value))
        connection.execute(
            "CREATE TRIGGER t AFTER UPDATE ON Cache BEGIN SELECT load_extension('/tmp/x.so'); END",
        )

    assert text_of(cache.recall(KEY)) == "A pike."
    cache.remember("cd" * 32, entry(LARGE))
    assert text_of(cache.recall("cd" * 32)) == LARGE
    assert [path.name for path in outside.parent.iterdir()] == [outside.name]
    assert cache._store is not None
    database_ = cache._store._database
    assert database_ is not None
    assert [database_._sql(f"PRAGMA {name}").fetchone()[0] for name in ("mmap_size", "journal_mode")] == [0, "wal"]


# -- a directory that does not work --


def broken_by_rubbish(directory: Path) -> None:
    (directory / "cache.db").write_bytes(b"rubbish" * 1_000)
    for name in ("cache.db-wal", "cache.db-shm"):
        (directory / name).unlink(missing_ok=True)


def broken_by_truncation(directory: Path) -> None:
    with (directory / "cache.db").open("r+b") as file:
        file.truncate(5_000)


def broken_by_another_schema(directory: Path) -> None:
    with database(directory) as connection:
        connection.execute("DROP TABLE Cache")
        connection.execute("CREATE TABLE Cache (key)")


def broken_by_a_directory(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    (directory / "cache.db").mkdir()


def broken_by_a_link(directory: Path) -> None:
    (directory / "cache.db").rename(directory.parent / "elsewhere.db")
    (directory / "cache.db").symlink_to(directory.parent / "elsewhere.db")


def broken_by_a_file(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    directory.write_text("not a directory")


BREAKS = [
    broken_by_rubbish,
    broken_by_truncation,
    broken_by_another_schema,
    broken_by_a_directory,
    broken_by_a_link,
    broken_by_a_file,
]


@pytest.mark.parametrize("break_", BREAKS)
def test_a_directory_that_does_not_work_is_a_miss_said_once(
    break_: Callable[[Path], None], cache: Cache, clock: Clock, warnings: Callable[[], list[str]]
) -> None:
    cache.remember(KEY, entry())
    cache.close()
    break_(cache.directory)

    for _ in range(4):
        assert cache.recall(KEY) is None
        assert not cache.remember(KEY, entry())
        clock.now += REST_S
    assert cache.clear(model="x") == 0
    assert cache.verify()

    assert len(warnings()) == 1
    assert "calls go on without" in warnings()[0]
    assert cache.stats().errors >= 4


def test_a_directory_that_does_not_work_is_left_alone_for_a_while_and_then_tried_again(
    cache: Cache, clock: Clock
) -> None:
    cache.directory.write_text("not a directory")
    assert not cache.remember(KEY, entry())
    cache.directory.unlink()
    clock.now += REST_S - 0.1
    assert not cache.remember(KEY, entry())
    assert not cache.directory.exists()
    clock.now += 0.1
    assert cache.remember(KEY, entry())


def test_a_network_file_system_is_a_miss_said_once_and_counted(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(store, "file_system", lambda _: "nfs4")

    for _ in range(3):
        assert not cache.remember(KEY, entry())
        assert cache.recall(KEY) is None

    (said,) = warnings()
    assert "network file system (nfs4)" in said
    assert cache.stats().errors > 0
    assert not cache.directory.exists()


def test_the_default_cache_follows_the_state_directory_while_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache()
    for home, text in (("one", "A pike."), ("two", "An eel.")):
        monkeypatch.setenv("LLMBRIDGE_HOME", str(tmp_path / home))
        assert cache.recall(KEY) is None
        cache.remember(KEY, entry(text, created_at=time.time()))
    assert text_of(cache.recall(KEY)) == "An eel."

    monkeypatch.setenv("LLMBRIDGE_HOME", str(tmp_path / "one"))

    assert text_of(cache.recall(KEY)) == "A pike."
    assert (cache.stats().entries, cache.stats().hits, cache.stats().misses) == (1, 1, 1)
    cache.close()


def test_a_full_disk_keeps_what_is_there_and_nothing_half(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from tests.test_cache_disk import Cache, Clock, KEY, LARGE, entry, text_of, values
clock = Clock()
cache = Cache(sys.argv[1], clock=clock)
assert cache.remember(KEY, entry())
cache.close()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (0, 4096, 40_000, 60_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for number in range(20):
        cache.remember(f"{{number:064x}}", entry(LARGE if number % 2 else "x" * 20_000))
        clock.now += 5
    cache.recall(KEY)
    clock.now += 5
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
assert cache.remember("cd" * 32, entry(LARGE))
assert text_of(cache.recall("cd" * 32)) == LARGE
assert text_of(cache.recall(KEY)) == "A pike."
print(cache.verify(), cache.stats().errors > 0)
"""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout == "[] True\n", said.stderr


def test_a_locked_database_costs_a_write_a_moment_and_a_read_nothing(
    cache: Cache, clock: Clock, warnings: Callable[[], list[str]]
) -> None:
    cache.remember(KEY, entry())
    with database(cache.directory) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert not cache.remember("cd" * 32, entry(LARGE))
        assert not cache.remember("cd" * 32, entry(LARGE))  # which does not wait again
        assert text_of(cache.recall(KEY)) == "A pike."
        assert time.monotonic() - started < 1
        other.execute("ROLLBACK")
    clock.now += REST_S
    assert cache.remember("cd" * 32, entry(LARGE))
    assert len(warnings()) == 1
    assert cache.verify() == []  # no file without a row


def test_opening_a_locked_database_gives_up_soon(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    Cache(directory).stats()
    cache = Cache(directory)
    with database(directory) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        assert cache.recall(KEY) is None
        assert time.monotonic() - started < 5
    cache.close()


@pytest.mark.parametrize("seed", range(3))
def test_bits_that_rot_never_make_another_answer(cache: Cache, clock: Clock, seed: int) -> None:
    import random

    chance = random.Random(seed)
    keys = [f"{number:064x}" for number in range(30)]
    for key in keys:
        cache.remember(key, entry(f"The answer to {key}. " * chance.randrange(1, 50)))
    cache.close()
    path = cache.directory / "cache.db"
    content = path.read_bytes()
    for _ in range(12):
        rotten = bytearray(content)
        for _ in range(20):
            rotten[chance.randrange(len(rotten))] ^= 1 << chance.randrange(8)
        path.write_bytes(rotten)
        clock.now += REST_S
        for key in keys:
            said = text_of(cache.recall(key))
            assert said is None or said.startswith(f"The answer to {key}.")
        cache.close()
        for name in ("cache.db-wal", "cache.db-shm"):
            (cache.directory / name).unlink(missing_ok=True)


# -- many at once --


def test_threads_share_one_cache_and_closing_it_leaves_no_file_open(cache: Cache) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for step in range(30):
            key = f"{(number + step) % 7:064x}"
            cache.remember(key, entry(f"answer {key}"))
            if text_of(cache.recall(key)) != f"answer {key}":
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.close()

    assert wrong == []
    assert not [path for path in open_files() if path.startswith(str(cache.directory))]


def open_files() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return found


HAMMER = """
import json, logging, random, sys, time
from llmbridge.cache import Cache
sys.path.insert(0, sys.argv[2])
from tests.test_cache_disk import entry, text_of
logging.basicConfig(level=logging.WARNING)
chance, end = random.Random(int(sys.argv[3])), time.monotonic() + float(sys.argv[4])
cache = Cache(sys.argv[1], size_limit_bytes=1_000_000)
hits = wrong = kept = tried = 0
while time.monotonic() < end:
    number = chance.randrange(200)
    key, begin = f"{number:064x}", f"answer {number} "
    found = text_of(cache.recall(key))
    if found is None:
        tried += 1
        kept += cache.remember(key, entry(begin * chance.choice([1, 50, 4_000]), created_at=time.time()))
    else:
        hits += 1
        wrong += not found.startswith(begin) or set(found.split(begin)) != {""}
    if chance.random() < 0.002:
        cache.clear(tag="user=nobody")
    if chance.random() < 0.002:
        cache.close()
cache.close()
print(json.dumps([hits, wrong, kept, tried, cache._counts["hits"]]))
"""


def test_eight_processes_on_one_directory_with_eviction_give_no_error_and_no_wrong_answer(tmp_path: Path) -> None:
    directory, home = tmp_path / "cache", str(Path(__file__).parent.parent)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(directory), home, str(seed), "2.5"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(8)
    ]
    ends = [process.communicate(timeout=50) for process in processes]

    said = [json.loads(out) for out, _ in ends]
    hits, wrong, kept, tried, lost = (sum(column) for column in zip(*said, strict=True))
    print({"hits": hits, "kept": kept, "tried": tried, "stderr": [error for _, error in ends if error]})
    assert [process.returncode for process in processes] == [0] * 8
    assert not [error for _, error in ends if "Traceback" in error]
    assert wrong == 0
    assert hits > 100
    assert kept > tried / 3  # on two busy processors, the others may find the database locked
    cache = Cache(directory, size_limit_bytes=1_000_000)
    stats = cache.stats()
    assert stats.size_bytes < 2_000_000
    assert stats.hits + lost == hits  # who ended while others held the directory did not wait to write its last counts
    assert [line for line in cache.verify() if "belong to no entry" not in line] == []
    cache.close()


def test_a_fork_hurts_neither_side(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FORK_S", 60.0)  # on a disk that is busy with others, one write may take five seconds
    cache.remember(KEY, entry())
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            cache.recall(KEY)
            cache.remember("cd" * 32, entry(LARGE))

    thread = threading.Thread(target=busy)
    thread.start()
    codes = []
    for number in range(10):
        child = os.fork()
        if child == 0:
            key = f"{number:064x}"
            good = text_of(cache.recall(KEY)) == "A pike."
            give_up = time.monotonic() + 20  # it rests for half a second when the other side was writing for too long
            while not cache.remember(key, entry(key)) and time.monotonic() < give_up:
                time.sleep(0.05)
            cache.close()
            os._exit(0 if good else 1)
        codes.append(os.waitpid(child, 0)[1])
    stop.set()
    thread.join()

    assert codes == [0] * 10
    assert text_of(cache.recall(KEY)) == "A pike."
    assert [text_of(cache.recall(f"{number:064x}")) for number in range(10)] == [
        f"{number:064x}" for number in range(10)
    ]
    assert cache.verify() == []


def test_files_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache = Cache(tmp_path / "state" / "deep" / "cache")
        cache.remember(KEY, entry(LARGE))
        modes = {
            path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.lstat().st_mode)
            for path in (tmp_path / "state", *(tmp_path / "state").rglob("*"))
        }
        kinds = {path: (tmp_path / path).is_dir() for path in modes}
        cache.close()
    finally:
        os.umask(before)

    assert {modes[path] for path, is_directory in kinds.items() if is_directory} == {0o700}
    assert {modes[path] for path, is_directory in kinds.items() if not is_directory} == {0o600}
    assert {Path(path).suffix for path in kinds} >= {".db", ".db-wal", ".db-shm", ".val"}
