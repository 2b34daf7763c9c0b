"""What processes tell each other of a breaker, and what becomes of it where they cannot."""

from __future__ import annotations

import gc
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmbridge.fallback.breaker import Breaker
from tests.test_breaker import Clock, ask_once, broken


@pytest.fixture
def clock() -> Clock:
    return Clock()


CHILD = """
import sys, time
from pathlib import Path
from llmbridge.fallback.breaker import Breaker
now = float(sys.argv[3])
breaker = Breaker(Path(sys.argv[2]), lambda: now)
if sys.argv[1] == "open":
    for _ in range(5):
        breaker.enter().end("sick", "HTTP 503")
if sys.argv[1] == "look":
    print(breaker.enter() is not None)
if sys.argv[1] == "probe":
    passage = breaker.enter()
    print(passage is not None and passage.is_probe, flush=True)
    time.sleep(60)
"""


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with process:
        return process.stdout.readline().strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "breakers" / "one.json"


def test_what_one_process_opened_a_fresh_one_does_not_ask(file: Path, clock: Clock) -> None:
    said(child("open", file, clock.now))

    assert Breaker(file, clock).enter() is None
    assert said(child("look", file, clock.now)) == "False"
    assert said(child("look", file, clock.now + 5)) == "True"


def test_what_one_process_closed_is_closed_for_all(file: Path, clock: Clock) -> None:
    said(child("open", file, clock.now))
    clock.now += 5
    assert ask_once(Breaker(file, clock), "well")

    assert said(child("look", file, clock.now)) == "True"


def test_while_another_process_probes_nobody_else_does_and_its_death_frees_the_place(file: Path, clock: Clock) -> None:
    breaker = broken(Breaker(file, clock))
    clock.now += 5
    prober = child("probe", file, clock.now)
    assert prober.stdout is not None
    assert prober.stdout.readline().strip() == "True"
    assert breaker.enter() is None

    prober.kill()
    prober.wait()
    prober.stdout.close()

    assert ask_once(breaker, "well")


def test_directory_and_file_are_the_users_alone_and_hold_no_secret(
    file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-do-not-write-me-anywhere")
    before = os.umask(0)
    try:
        ask_once(Breaker(file, clock), "dead key")
    finally:
        os.umask(before)

    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "do-not-write" not in file.read_text() + file.name


SOUND: dict[str, Any] = {"at_s": 999.0, "for_s": 300.0, "times": 1, "kind": "sick upstream", "why": "w", "key": ""}


def test_what_it_writes_itself_it_reads(file: Path, clock: Clock) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps(SOUND))

    assert Breaker(file, clock).enter() is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"5", b'"open"', b"{}", b"\xff\xfe\x00", b"{", b"[" * 4096, b"x" * 100_000,
        *(
            json.dumps({**SOUND, **changed}).encode()
            for changed in (
                {"at_s": "soon"}, {"at_s": None}, {"at_s": float("nan")}, {"at_s": float("inf")}, {"for_s": 1e308},
                {"for_s": float("nan")}, {"for_s": float("inf")}, {"for_s": -1}, {"for_s": 0}, {"for_s": True},
                {"for_s": 10**400}, {"at_s": 10**400}, {"times": "1"}, {"times": None}, {"times": 0}, {"times": -5},
                {"kind": ["dead key"]}, {"why": None}, {"key": 5}, {"more": 1}, {"why": "w" * 5000},
            )
        ),
    ],
)  # fmt: skip
def test_a_broken_foreign_or_absurd_file_is_a_closed_breaker(file: Path, clock: Clock, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    breaker = Breaker(file, clock)

    assert ask_once(breaker, "sick")
    for _ in range(4):
        assert ask_once(breaker, "sick")
    assert breaker.enter() is None
    clock.now += 5
    assert ask_once(breaker, "sick")
    assert json.loads(file.read_bytes())["times"] == 2


@pytest.mark.parametrize("place", ["a directory", "a link", "below a file", "read-only", "full disk"])
def test_where_no_file_can_be_written_the_breaker_works_for_its_own_process(
    file: Path, clock: Clock, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "below a file":
        file.parent.write_text("")
    else:
        file.parent.mkdir()
    if place == "a directory":
        file.mkdir()
    elif place == "a link":
        (file.parent / "victim").write_text("precious")
        file.symlink_to(file.parent / "victim")
    elif place == "full disk":
        monkeypatch.setattr(os, "pwrite", failing)
    elif place == "read-only":
        monkeypatch.setattr(os, "open", failing)

    breaker = broken(Breaker(file, clock))

    assert breaker.enter() is None
    clock.now += 5
    assert ask_once(breaker, "well")
    assert breaker.opening() is None
    assert place != "a link" or (file.parent / "victim").read_text() == "precious"


def failing(*arguments: Any) -> int:
    raise OSError(28, "no room")


def test_a_file_that_was_deleted_is_a_closed_breaker_and_is_made_again(file: Path, clock: Clock) -> None:
    breaker = broken(Breaker(file, clock))
    file.unlink()
    assert breaker.opening() is None

    broken(breaker)

    assert json.loads(file.read_bytes())["kind"] == "sick upstream"


def test_an_opening_from_before_a_restart_of_the_machine_lasts_no_longer(file: Path, clock: Clock) -> None:
    broken(Breaker(file, clock))
    clock.now = 3.0  # the monotonic clock begins anew

    assert ask_once(Breaker(file, clock), "well")
    assert Breaker(file, clock).opening() is None


def test_a_forked_child_neither_has_nor_ends_its_parents_probe(file: Path, clock: Clock) -> None:
    breaker = broken(Breaker(file, clock))
    clock.now += 5
    probe = breaker.enter()
    assert probe is not None
    breaker._shared._lock.acquire()
    child = os.fork()
    if child == 0:
        refused = breaker.enter() is None
        probe.end("unknown")
        os._exit(0 if refused and breaker.enter() is None else 1)
    breaker._shared._lock.release()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert said(globals()["child"]("look", file, clock.now)) == "False"
    probe.end("well")
    assert breaker.opening() is None


def test_no_file_stays_open_for_a_breaker_that_is_gone(tmp_path: Path, clock: Clock) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        ask_once(Breaker(tmp_path / f"{number}.json", clock), "dead key")
    gc.collect()

    assert len(list(Path("/proc/self/fd").iterdir())) <= before
