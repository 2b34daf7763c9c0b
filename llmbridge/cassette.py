"""Record HTTP to a YAML file and answer from it: `with replay("fish.yaml"): ...`.

vcrpy stands between the HTTP libraries and the network, and its file format is kept; what is answered, what is written
and what a miss says is decided here. Secrets, and headers that are not on a short list, never reach the file.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args
from urllib.parse import urlencode

import httpx
import yaml
from vcr.patch import CassettePatcherBuilder

from llmbridge.errors import CassetteMiss, ConfigError
from llmbridge.home import elsewhere, replaying
from llmbridge.ledger import close_ledgers
from llmbridge.redaction import is_credential, redact


Record = Literal["none", "once", "new", "all"]

REQUEST_HEADERS = re.compile(r"content-type|accept|anthropic-version")
RESPONSE_HEADERS = re.compile(r"content-type|retry-after(-ms)?|(x-)?request-id|x-ratelimit-.*")
_SECRET_QUERY = re.compile(r"(?i)key|token|sig|signature|auth|x-(amz|goog)-.*")
_JSON_TYPE = re.compile(r"(?i)application/([\w.+-]+\+)?json\b")
# What cannot stand in a block of YAML as it is: what a reader may take for a line's end, and halves of a character.
_UNFIT = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
_WRONG_SHAPE = (LookupError, TypeError, AttributeError, ValueError, RecursionError, httpx.InvalidURL)
_under_way = threading.Lock()


@contextmanager
def replay(path: str | Path, record: Record = "none") -> Iterator[Cassette]:
    """Answer all HTTP inside the block from the file at *path*, in every thread and task of the process.

    A request is answered by the first recording, not yet played, of the same method, address, query and body (JSON by
    value, the rest by bytes); credentials take no part. Each recording is played once.

    What is played costs nothing, so while nothing can be sent (`record="none"`) the default ledger is an empty one that
    is thrown away afterwards; a Ledger that a Bridge was given is used as ever. So is a Cache; the default one rests.

    Args:
        path: the YAML file, in vcrpy's format.
        record: "none" sends nothing; "once" records if there is no file, else it is "none"; "new" plays what is
            recorded and records the rest; "all" plays nothing and replaces the file. The file is written when the
            block ends without an exception, whole or not at all.

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
        cassette = Cassette(Path(path), record)
        with ExitStack() as patches:
            patches.enter_context(replaying())
            if not cassette.sends:
                patches.enter_context(_own_state())
            for patch in CassettePatcherBuilder(cassette).build():
                patches.enter_context(patch)
            yield cassette
        cassette.write()
    finally:
        _under_way.release()


@contextmanager
def _own_state() -> Iterator[None]:
    with TemporaryDirectory(prefix="llmbridge-", ignore_cleanup_errors=True) as directory:
        try:
            with elsewhere(Path(directory)):
                yield
        finally:
            close_ledgers(Path(directory))


class _Recording:
    """One request and its answer, as they stand in the file."""

    def __init__(self, entry: dict[str, Any], played: bool = False) -> None:
        self.entry, self.played = entry, played
        self.asked = _asked(entry["request"])
        self.name = f"{self.asked['method']} {self.asked['url']}"

    @property
    def answer(self) -> dict[str, Any]:
        """The response, as vcrpy's patches take it."""
        response = self.entry["response"]
        body, status = response["body"].get("string") or b"", response["status"]
        return {
            "status": {"code": int(status["code"]), "message": status.get("message") or ""},
            "headers": {name: _listed(values) for name, values in (response["headers"] or {}).items()},
            "body": {"string": body.encode() if isinstance(body, str) else bytes(body)},
        }


class Cassette:
    """What `replay` yields: how much was played, also after the block; and what vcrpy's patches call, in any thread."""

    custom_patches = ()
    write_protected = False  # what must not be sent has raised before vcrpy asks

    def __init__(self, path: Path, record: Record) -> None:
        self.path, self._path = path, str(path)
        there = path.exists()
        reads = record == "none" or (record != "all" and there)
        self.sends = record in ("new", "all") or not reads
        self._comment, self._recordings = _read(path) if reads else ("", [])
        self._old = len(self._recordings)
        self._lock = threading.Lock()

    @property
    def played(self) -> list[str]:
        """ "METHOD URL" of each recording that was played, or made in this block."""
        return [recording.name for recording in self._recordings if recording.played]

    @property
    def unplayed(self) -> list[str]:
        """ "METHOD URL" of each recording that nothing asked for."""
        return [recording.name for recording in self._recordings if not recording.played]

    def can_play_response_for(self, request: Any) -> bool:
        # Taken here, for good: two threads that only looked would both find the last recording.
        if not hasattr(request, "answer"):
            request.answer = self._take(_asked(_sent(request)))
        return request.answer is not None

    def play_response(self, request: Any) -> Any:
        return request.answer

    def filter_request(self, request: Any) -> Any:
        return request

    def append(self, request: Any, response: dict[str, Any]) -> None:
        recording = _Recording(_entry(_sent(request), response), played=True)
        with self._lock:
            self._recordings.append(recording)

    def _take(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to *asked*; None if it is to be sent. Raises CassetteMiss if it must not be."""
        with self._lock:
            for recording in self._recordings:
                if not recording.played and _canonical(recording.asked) == _canonical(asked):
                    recording.played = True
                    return recording.answer
        # LiteLLM looks Ollama's models up unasked, at times of its own, and takes a failure for "unknown": always fail.
        if self.sends and not asked["url"].endswith("/api/show"):
            return None
        raise CassetteMiss(redact(self._miss(asked)))

    def _miss(self, asked: dict[str, Any]) -> str:
        how = f"Nothing was sent. To record it: replay({self._path!r}, record='new')"
        start = f"{self.path} holds no answer to {asked['method']} {asked['url']}"
        if not self._recordings:
            return f"{start}; it is empty. {how}"
        found = [list(_differences(recording.asked, asked)) for recording in self._recordings]
        # Another address is further away than any other body.
        nearest = min(found, key=lambda each: (sum(not at.startswith("body") for at, _ in each), len(each)))
        number = found.index(nearest)
        start += f". The nearest recording, number {number + 1} of {len(found)}, {self._recordings[number].name},"
        if not nearest:
            return f"{start} is the same, but was played already; each is played once. {how}"
        shown = "; ".join(f"{at}: {words}" for at, words in nearest[:3])
        rest = f"; and in {len(nearest) - 3} more places" if len(nearest) > 3 else ""
        return f"{start} differs in {shown}{rest}. {how}"

    def write(self) -> None:
        """Replace the file, if anything was recorded. Raises ConfigError if it would hold a secret."""
        if len(self._recordings) == self._old:
            return
        document = {"version": 1, "interactions": [recording.entry for recording in self._recordings]}
        text = self._comment + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)
        if redact(text, limit=None) != text:
            raise ConfigError(f"{self.path} was not written: it would hold a secret", path=self._path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            draft.write_text(text, encoding="utf-8", newline="\n")
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)


def _sent(request: Any) -> dict[str, Any]:
    """vcrpy's request as it would stand in a file that hides nothing."""
    body = request.body_bytes or b""
    raw = body if isinstance(body, bytes) else _canonical(body).encode()  # aiohttp's json=
    return {"method": request.method, "uri": request.uri, "headers": dict(request.headers), "body": raw}


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    """What of a request is compared: no header, no credential."""
    body = request["body"] or ""
    text = redact(body if isinstance(body, str) else body.decode("utf-8", "surrogateescape"), limit=None)
    return {"method": str(request["method"]), "url": _clean_url(request["uri"]), "body": _json(text, text)}


def _clean_url(uri: str) -> str:
    """The address without credentials, its query in order."""
    url = httpx.URL(uri)
    query = sorted(url.params.multi_items())
    public = [pair for pair in query if not (is_credential(pair[0]) or _SECRET_QUERY.fullmatch(pair[0]))]
    bare = url.copy_with(query=urlencode(public).encode() or None, userinfo=b"", fragment=None)
    return redact(str(bare), limit=None)


def _json(text: str, default: Any) -> Any:
    """A JSON object or array; *default* for all else."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        return value if isinstance(value, (dict, list)) else default
    return default


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _differences(recorded: Any, asked: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Where two values differ, such as "body.messages[0].content", and how, in words."""
    if type(recorded) is type(asked) and isinstance(recorded, (dict, list)):
        old, new = (value if isinstance(value, dict) else dict(enumerate(value)) for value in (recorded, asked))
        for name in {**old, **new}:
            where = f"{at}.{name}" if isinstance(recorded, dict) else f"{at}[{name}]"
            yield from _differences(old.get(name, ...), new.get(name, ...), where)
        return
    was, now = ("nothing" if value is ... else _canonical(value) for value in (recorded, asked))
    if was != now:
        same = next((index for index, pair in enumerate(zip(was, now, strict=False)) if pair[0] != pair[1]), 0)
        start = same - 20 if same > 60 else 0  # of long texts, what stands where they begin to differ
        was, now = (("..." if start else "") + text[start : start + 80] for text in (was, now))
        yield at.removeprefix("."), f"recorded {was}, now {now}"


def _entry(request: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """A request and its answer, as they are written."""
    asked_headers, headers = _kept(request["headers"], REQUEST_HEADERS), _kept(response["headers"], RESPONSE_HEADERS)
    asked = {"method": request["method"], "uri": _clean_url(request["uri"]), "headers": asked_headers}
    said = {"status": dict(response["status"]), "headers": headers}
    answer = {"string": _written(_decompressed(response), headers)}
    return {
        "request": {**asked, "body": _written(request["body"], asked_headers)},
        "response": {**said, "body": answer},
    }


def _listed(values: Any) -> list[str]:
    return [str(value) for value in ([values] if isinstance(values, str) else values)]


def _kept(headers: dict[str, Any], wanted: re.Pattern[str]) -> dict[str, list[str]]:
    kept = {name.lower(): _listed(values) for name, values in headers.items() if wanted.fullmatch(name.lower())}
    return {name: [redact(value, limit=None) for value in kept[name]] for name in sorted(kept)}


def _decompressed(response: dict[str, Any]) -> bytes:
    body: bytes = response["body"].get("string") or b""
    headers = [(name, value) for name, values in response["headers"].items() for value in _listed(values)]
    try:
        return httpx.Response(200, headers=headers, content=body).content
    except httpx.DecodingError:  # another library has done it, and left the header
        return body


def _written(body: bytes, headers: dict[str, list[str]]) -> str | bytes:
    """*body* without secrets; as text where it is text, and over several lines, to be reviewed, where it is JSON."""
    try:
        text = redact(body.decode(), limit=None)
    except UnicodeDecodeError:
        return redact(body.decode("latin-1"), limit=None).encode("latin-1")
    value = _json(text, None) if any(map(_JSON_TYPE.match, headers.get("content-type", ()))) else None
    if value is None:
        return text
    pretty = json.dumps(value, indent=2, ensure_ascii=False)
    return json.dumps(value, indent=2) if _UNFIT.search(pretty) else pretty


class _Dumper(yaml.SafeDumper):
    """YAML with text of several lines as a block."""

    def represent_text(self, text: str) -> yaml.Node:
        style = '"' if _UNFIT.search(text) else "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _read(path: Path) -> tuple[str, list[_Recording]]:
    """The comment at the top of the file, and its recordings. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)  # not the loader in C: deep nesting in a file would crash the process
        if document["version"] != 1:
            raise ValueError(f"version {document['version']!r} is not 1")
        recordings = [recording for entry in document["interactions"] if (recording := _Recording(entry)).answer]
    except FileNotFoundError:
        why = f"there is no cassette at {path}; to record it: replay({str(path)!r}, record='once')"
        raise ConfigError(why, path=str(path)) from None
    except (OSError, yaml.YAMLError, *_WRONG_SHAPE) as exc:
        mark = getattr(exc, "problem_mark", None)
        why = redact(f"{path} is not a cassette: {type(exc).__name__}: {' '.join(str(exc).split())}")
        raise ConfigError(why, path=str(path), line=mark.line + 1 if mark else None) from None
    return "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))), recordings
