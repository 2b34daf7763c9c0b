"""Record HTTP to a YAML file and answer from it: `with replay("fish.yaml"): ...`.

vcrpy stands between the HTTP libraries and the network, and its file format is kept; what may be answered, what is
written and what a miss says is decided here. JSON is written over several lines, so that a change can be reviewed;
secrets, and headers that are not on a short list, never reach the file.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlencode

import httpx
import yaml
from vcr.patch import CassettePatcherBuilder

from llmbridge.errors import CassetteMiss, ConfigError
from llmbridge.redaction import is_credential, redact


Record = Literal["none", "once", "new", "all"]

REQUEST_HEADERS = re.compile(r"content-type|accept|anthropic-version")
RESPONSE_HEADERS = re.compile(r"content-type|retry-after(-ms)?|(x-)?request-id|x-ratelimit-.*")
_SECRET_QUERY = re.compile(r"(?i)key|token|sig|signature|auth|x-(amz|goog)-.*")
_JSON_TYPE = re.compile(r"(?i)application/([\w.+-]+\+)?json\b")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_OTHER_LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # a YAML reader may take them for "\n"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it

_under_way = threading.Lock()


@dataclass(slots=True, eq=False)
class _Recording:
    """One request and its answer: as they stand in the file, and what of the request is compared."""

    entry: dict[str, Any]
    asked: dict[str, Any]
    played: bool = False

    @property
    def name(self) -> str:
        return f"{self.asked['method']} {self.asked['url']}"


@dataclass(slots=True)
class Cassette:
    """What `replay` yields: the file, and how much of it was played. It can be read after the block, too."""

    path: Path
    _recordings: list[_Recording]

    @property
    def played(self) -> list[str]:
        """ "METHOD URL" of each recording that was played, or made in this block."""
        return [recording.name for recording in self._recordings if recording.played]

    @property
    def unplayed(self) -> list[str]:
        """ "METHOD URL" of each recording that nothing asked for."""
        return [recording.name for recording in self._recordings if not recording.played]


@contextmanager
def replay(path: str | Path, record: Record = "none") -> Iterator[Cassette]:
    """Answer all HTTP inside the block from the file at *path*, in every thread and task of the process.

    A request is answered by the first recording, not yet played, of the same method, address, query and body (JSON by
    value, the rest by bytes); credentials take no part. Each recording is played once.

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
        tape = _Tape(Path(path), record)
        with ExitStack() as patches:
            for patch in CassettePatcherBuilder(tape).build():
                patches.enter_context(patch)
            yield Cassette(tape.path, tape.recordings)
        tape.write()
    finally:
        _under_way.release()


class _Tape:
    """The recordings, behind the methods that vcrpy's patches call. Safe to use from several threads."""

    custom_patches = ()
    write_protected = False  # what must not be sent has raised before vcrpy asks

    def __init__(self, path: Path, record: Record) -> None:
        self.path, self._path = path, str(path)
        there = path.exists()
        reads = record == "none" or (record != "all" and there)
        self._sends = record in ("new", "all") or not reads
        self._comment, self.recordings = _read(path) if reads else ("", [])
        self._old = len(self.recordings)
        self._lock = threading.Lock()

    def can_play_response_for(self, request: Any) -> bool:
        # Taken here, for good: two threads that only looked would both find the last recording.
        if not hasattr(request, "answer"):
            request.answer = self._take(_asked(_sent(request)))
        return request.answer is not None

    def play_response(self, request: Any) -> Any:
        self.can_play_response_for(request)
        return request.answer

    def find_requests_with_most_matches(self, request: Any) -> list[Any]:
        return [(request,)]  # how vcrpy plays a redirect under aiohttp

    def filter_request(self, request: Any) -> Any:
        return request

    def append(self, request: Any, response: dict[str, Any]) -> None:
        entry = _entry(_sent(request), response)
        recording = _Recording(entry, _asked(entry["request"]), played=True)
        with self._lock:
            self.recordings.append(recording)

    def _take(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to *asked*; None if it is to be sent. Raises CassetteMiss if it must not be."""
        key = _canonical(asked)
        with self._lock:
            for recording in self.recordings:
                if not recording.played and _canonical(recording.asked) == key:
                    recording.played = True
                    return _answer(recording.entry["response"])
        # LiteLLM looks an Ollama model up unasked, from threads of its own, one time and not the next. It takes a
        # failure for "unknown", so recordings and replays fail alike.
        if self._sends and not asked["url"].endswith("/api/show"):
            return None
        raise CassetteMiss(redact(self._miss(asked)))

    def _miss(self, asked: dict[str, Any]) -> str:
        how = f"Nothing was sent. To record it: replay({self._path!r}, record='new')"
        start = f"{self.path} holds no answer to {asked['method']} {asked['url']}"
        if not self.recordings:
            return f"{start}; it is empty. {how}"
        found = [list(_differences(recording.asked, asked, "")) for recording in self.recordings]
        # Another address is further away than any other body.
        nearest = min(found, key=lambda each: (sum(not at.startswith("body") for at, _ in each), len(each)))
        number = found.index(nearest)
        start += f". The nearest recording, number {number + 1} of {len(found)}, {self.recordings[number].name},"
        if not nearest:
            return f"{start} is the same, but was played already; each is played once. {how}"
        shown = "; ".join(f"{at}: {words}" for at, words in nearest[:3])
        rest = f"; and in {len(nearest) - 3} more places" if len(nearest) > 3 else ""
        return f"{start} differs in {shown}{rest}. {how}"

    def write(self) -> None:
        if len(self.recordings) == self._old:
            return
        text = self._comment + _dumped([recording.entry for recording in self.recordings])
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
    body = request.body_bytes
    if not isinstance(body, (bytes, type(None))):
        body = json.dumps(body).encode()  # aiohttp's json=
    return {"method": request.method, "uri": request.uri, "headers": dict(request.headers), "body": body}


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    """What of a request is compared: no header, no credential."""
    body = request["body"] or ""
    text = redact(body if isinstance(body, str) else body.decode("utf-8", "surrogateescape"), limit=None)
    value = _json(text)
    return {
        "method": str(request["method"]),
        "url": _clean_url(request["uri"]),
        "body": text if value is None else value,
    }


def _clean_url(uri: str) -> str:
    """The address without credentials, its query in order."""
    url = httpx.URL(uri)
    query = [
        (name, value)
        for name, value in sorted(url.params.multi_items())
        if not is_credential(name) and not _SECRET_QUERY.fullmatch(name)
    ]
    bare = url.copy_with(query=urlencode(query).encode() or None, userinfo=b"", fragment=None)
    return redact(str(bare), limit=None)


def _json(text: str) -> Any:
    """A JSON object or array; None for all else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _differences(recorded: Any, asked: Any, at: str) -> Iterator[tuple[str, str]]:
    """Where two values differ, such as "body.messages[0].content", and how, in words."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in {**recorded, **asked}:
            where = f"{at}.{name}".removeprefix(".")
            if name not in asked:
                yield where, f"recorded {_short(_canonical(recorded[name]))}, now absent"
            elif name not in recorded:
                yield where, f"not recorded, now {_short(_canonical(asked[name]))}"
            else:
                yield from _differences(recorded[name], asked[name], where)
    elif isinstance(recorded, list) and isinstance(asked, list) and len(recorded) == len(asked):
        for index, pair in enumerate(zip(recorded, asked, strict=True)):
            yield from _differences(*pair, f"{at}[{index}]")
    elif (was := _canonical(recorded)) != (now := _canonical(asked)):
        same = next((index for index, pair in enumerate(zip(was, now, strict=False)) if pair[0] != pair[1]), 0)
        yield at, f"recorded {_short(was, same)}, now {_short(now, same)}"


def _short(text: str, same: int = 0) -> str:
    """A piece of *text*, from shortly before the end of its first *same* characters."""
    start = same - 20 if same > 60 else 0
    return f"{'...' if start else ''}{text[start : start + 80]}{'...' if len(text) > start + 80 else ''}"


def _answer(response: dict[str, Any]) -> dict[str, Any]:
    """A response from a file, as vcrpy's patches take it."""
    body = response["body"].get("string") or b""
    return {
        "status": {"code": int(response["status"]["code"]), "message": response["status"].get("message") or ""},
        "headers": {name: _listed(values) for name, values in (response["headers"] or {}).items()},
        "body": {"string": body.encode() if isinstance(body, str) else bytes(body)},
    }


def _entry(request: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """A request and its answer, as they are written."""
    asked_headers, headers = _kept(request["headers"], REQUEST_HEADERS), _kept(response["headers"], RESPONSE_HEADERS)
    asked = {"method": request["method"], "uri": _clean_url(request["uri"]), "headers": asked_headers}
    return {
        "request": {**asked, "body": _written(request["body"] or b"", asked_headers)},
        "response": {
            "status": dict(response["status"]),
            "headers": headers,
            "body": {"string": _written(_decompressed(response), headers)},
        },
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
    """*body* without secrets, as text where it is text, JSON over several lines."""
    try:
        text = redact(body.decode(), limit=None)
    except UnicodeDecodeError:
        return redact(body.decode("latin-1"), limit=None).encode("latin-1")
    is_json = any(map(_JSON_TYPE.match, headers.get("content-type", ()))) and _json(text) is not None
    return _indented(text) if is_json else text


def _indented(text: str) -> str:
    """JSON over several lines, token for token: to parse it would be to rewrite its numbers and escapes."""
    lines, depth, last = "", 0, ""
    for token in _TOKEN.findall(text):
        opened, closes = last in ("[", "{"), token in "]}"
        depth -= closes
        if last == "," or opened != closes:
            lines += "\n" + "  " * depth
        lines += f"{token} " if token == ":" else token
        depth += token in "[{"
        last = token
    return f"{lines}\n"


class _Dumper(yaml.SafeDumper):
    """YAML with text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        style = '"' if _OTHER_LINE_ENDS.search(text) else "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _dumped(entries: list[dict[str, Any]]) -> str:
    document = {"version": 1, "interactions": entries}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9)


def _read(path: Path) -> tuple[str, list[_Recording]]:
    """The comment at the top of the file, and its recordings. Raises ConfigError."""
    line = None
    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.load(text, _Loader)  # a safe loader: no tag of it makes a Python object
        if document["version"] != 1:
            raise ValueError(f"version {document['version']!r} is not 1")
        recordings = [_Recording(entry, _asked(entry["request"])) for entry in document["interactions"]]
        for recording in recordings:
            _answer(recording.entry["response"])
    except FileNotFoundError:
        how = f"to record it: replay({str(path)!r}, record='once')"
        raise ConfigError(f"there is no cassette at {path}; {how}", path=str(path)) from None
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else None
        raise ConfigError(f"{path}, line {line}, is not a cassette: {exc.problem}", path=str(path), line=line) from None
    except (OSError, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise ConfigError(f"{path} is not a cassette: {type(exc).__name__}: {exc}", path=str(path)) from None
    comment = re.match(r"(#.*\n)*", text)
    return comment[0] if comment else "", recordings
