"""`replay`: all HTTP inside a block, in the whole process, goes to a cassette."""

from __future__ import annotations

import ipaddress
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import httpx
from vcr.patch import CassettePatcherBuilder

from llmbridge.cassette import wires
from llmbridge.cassette.difference import nearest
from llmbridge.cassette.entry import Recording, asked, canonical, clean_url
from llmbridge.cassette.file import read, write
from llmbridge.cassette.scrubbing import decompressed, remember_credentials, scrubbed
from llmbridge.errors import CassetteMiss
from llmbridge.home import elsewhere, in_replay, replaying
from llmbridge.ledger import close_ledgers
from llmbridge.redaction import redact


Record = Literal["none", "once", "new", "all"]

_under_way = threading.Lock()


@contextmanager
def replay(
    path: str | Path, record: Record = "none", *, timing: bool = False, writes: bool = True
) -> Iterator[Cassette]:
    """Answer all HTTP inside the block from the file at *path*, in every thread and task of the process.

    A request is answered by the first recording, not yet played, of the same method, address, query and body (JSON by
    value, the rest by bytes); credentials take no part. Each recording is played once. A stream comes in its events,
    as it was sent.

    What is played costs nothing, so while nothing can be sent (`record="none"`) the default ledger is an empty one that
    is thrown away afterwards; a Ledger that a Bridge was given is used as ever. So is a Cache; the default one rests.

    Args:
        path: the YAML file, in vcrpy's format.
        record: "none" sends nothing; "once" records if there is no file, else it is "none"; "new" plays what is
            recorded and records the rest; "all" plays nothing and replaces the file. The file is written when the
            block ends without an exception, whole or not at all.
        timing: record when each event of a stream came, and keep those pauses when it is played. httpx's streams only.
        writes: False leaves it to the caller to call `write()` of what this yields.

    Raises:
        CassetteMiss: from the request that has no recording; it was not sent.
        ConfigError: the file is missing, broken or not a cassette, or a secret would have been written.
        RuntimeError: another replay is under way; there is one for the whole process.
    """
    if record not in get_args(Record):
        raise ValueError(f"record is one of {', '.join(map(repr, get_args(Record)))}, not {record!r}")
    if not _under_way.acquire(blocking=False):
        raise RuntimeError(f"cannot replay {path}: another replay is under way, and it holds for the whole process")
    try:
        cassette = Cassette(Path(path), record, timing)
        with ExitStack() as patches:
            patches.enter_context(replaying())
            if not cassette.sends:
                patches.enter_context(own_state())
            patches.enter_context(patched(cassette))
            yield cassette
        if writes:
            cassette.write()
    finally:
        _under_way.release()


@contextmanager
def offline(why: str) -> Iterator[None]:
    """Let no HTTP request inside the block leave this machine: CassetteMiss, which says *why*. Loopback is let through,
    and so is whatever a replay inside the block decides about."""
    with patched(_Closed(why)):
        yield


@contextmanager
def patched(cassette: Patched) -> Iterator[None]:
    with ExitStack() as patches:
        for patch in chain(CassettePatcherBuilder(cassette).build(), wires.patches(cassette)):
            patches.enter_context(patch)
        yield


@contextmanager
def own_state() -> Iterator[None]:
    with TemporaryDirectory(prefix="llmbridge-", ignore_cleanup_errors=True) as directory:
        try:
            with elsewhere(Path(directory)):
                yield
        finally:
            close_ledgers(Path(directory))


class Patched:
    """What vcrpy's patches call, of the libraries besides httpx, whose streams are ours (wires.py)."""

    custom_patches = ()
    skip_patchers = ("httpx",)
    write_protected = False  # what must not be sent has raised before vcrpy asks
    timing = False
    _path = ""  # vcrpy names its classes by it

    def take(self, sent: dict[str, Any]) -> Recording | None:
        """The recording that answers *sent*; None if it is to be sent. Raises CassetteMiss if it must not be."""
        raise NotImplementedError

    def keep(self, sent: dict[str, Any], response: dict[str, Any]) -> None:
        """Add a request and its answer to what will be written."""

    def can_play_response_for(self, request: Any) -> bool:
        # Taken here, for good: two threads that only looked would both find the last recording.
        if not hasattr(request, "recording"):
            request.recording = self.take(_sent(request))
        return request.recording is not None

    def play_response(self, request: Any) -> Any:
        return request.recording.answer

    def filter_request(self, request: Any) -> Any:
        return request

    def append(self, request: Any, response: dict[str, Any]) -> None:
        self.keep(_sent(request), response)


class _Closed(Patched):
    def __init__(self, why: str) -> None:
        self._why = why

    def take(self, sent: dict[str, Any]) -> None:
        host = httpx.URL(sent["uri"]).host
        if in_replay() or host == "localhost" or _is_loopback(host):
            return
        raise CassetteMiss(f"{sent['method']} {clean_url(sent['uri'])} was not sent: {self._why}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Cassette(Patched):
    """What `replay` yields: how much was played, also after the block; and what the patches call, in any thread."""

    def __init__(self, path: Path, record: Record, timing: bool = False) -> None:
        self.how = f"replay({str(path)!r}, record='new')"  # what to do about a miss
        self.path, self.timing = path, timing
        self._path = str(path)
        there = path.exists()
        reads = record == "none" or (record != "all" and there)
        self.sends = record in ("new", "all") or not reads
        self._comment, self._recordings = read(path) if reads else ("", [])
        self._old = len(self._recordings)
        self._lock = threading.Lock()
        self._left: dict[str, deque[Recording]] = defaultdict(deque)
        for recording in self._recordings:
            self._left[canonical(recording.asked)].append(recording)

    @property
    def played(self) -> list[str]:
        """ "METHOD URL" of each recording that was played, or made in this block."""
        return [recording.name for recording in self._recordings if recording.played]

    @property
    def unplayed(self) -> list[str]:
        """ "METHOD URL" of each recording that nothing asked for."""
        return [recording.name for recording in self._recordings if not recording.played]

    def keep(self, sent: dict[str, Any], response: dict[str, Any]) -> None:
        recording = Recording(scrubbed(sent, response), played=True)
        with self._lock:
            self._recordings.append(recording)

    def take(self, sent: dict[str, Any]) -> Recording | None:
        remember_credentials(sent["uri"], sent["headers"])
        wanted = asked({**sent, "body": decompressed(sent["headers"], sent["body"])})
        with self._lock:
            if left := self._left.get(canonical(wanted)):
                recording = left.popleft()
                recording.played = True
                return recording
        # LiteLLM looks Ollama's models up unasked, at times of its own, and takes a failure for "unknown": always fail.
        if self.sends and not wanted["url"].endswith("/api/show"):
            return None
        raise CassetteMiss(redact(self._miss(wanted)))

    def _miss(self, asked: dict[str, Any]) -> str:
        how = f"Nothing was sent. To record it: {self.how}"
        start = f"{self.path} holds no answer to {asked['method']} {asked['url']}"
        if not self._recordings:
            return f"{start}; it is empty. {how}"
        index, found = nearest([recording.asked for recording in self._recordings], asked)
        count, name = len(self._recordings), self._recordings[index].name
        start += f". The nearest recording, number {index + 1} of {count}, {name},"
        if not found:
            return f"{start} is the same, but was played already; each is played once. {how}"
        shown = "; ".join(f"{at}: {words}" for at, words in found[:3])
        rest = f"; and in {len(found) - 3} more places" if len(found) > 3 else ""
        return f"{start} differs in {shown}{rest}. {how}"

    def write(self) -> None:
        """Replace the file, if anything was recorded. Raises ConfigError if it would hold a secret."""
        if len(self._recordings) != self._old:
            write(self.path, self._comment, [recording.entry for recording in self._recordings])


def _sent(request: Any) -> dict[str, Any]:
    """vcrpy's request as it would stand in a file that hides nothing."""
    body = request.body_bytes or b""
    raw = body if isinstance(body, bytes) else canonical(body).encode()  # aiohttp's json=
    return {"method": request.method, "uri": request.uri, "headers": dict(request.headers), "body": raw}
