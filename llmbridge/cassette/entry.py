"""One request and its answer, as they stand in the file; and what of a request is compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from llmbridge.redaction import MASK, is_credential, redact


Entry = dict[str, Any]

SECRET_QUERY = re.compile(r"(?i)key|token|sig|signature|auth|x-(amz|goog)-.*")
# Where one event of a stream ends and the next begins, by the type of the stream.
_EVENTS = {
    "text/event-stream": re.compile(rb"(?<=\n\n)|(?<=\n\r\n)"),
    "application/x-ndjson": re.compile(rb"(?<=\n)"),
}


class Recording:
    """One request and its answer. `played` is whether it was given, or made, in this block."""

    def __init__(self, entry: Entry, played: bool = False) -> None:
        self.entry, self.played = entry, played
        self.asked = asked(entry["request"])
        self.name = f"{self.asked['method']} {self.asked['url']}"

    @property
    def answer(self) -> dict[str, Any]:
        """The response, as vcrpy's patches take it."""
        response = self.entry["response"]
        body, status = response["body"].get("string") or b"", response["status"]
        return {
            "status": {"code": int(status["code"]), "message": status.get("message") or ""},
            "headers": {name: listed(values) for name, values in (response["headers"] or {}).items()},
            "body": {"string": body.encode() if isinstance(body, str) else bytes(body)},
        }

    @property
    def pauses_s(self) -> list[float]:
        """How long each event of the answer was waited for; empty if that was not recorded."""
        times = [0.0, *map(float, self.entry["response"]["body"].get("times_s") or ())]
        return [max(later - earlier, 0.0) for earlier, later in pairwise(times)]


def asked(request: dict[str, Any]) -> dict[str, Any]:
    """What of a request is compared: no header, no credential."""
    body = request["body"] or ""
    text = redact(body if isinstance(body, str) else body.decode("utf-8", "surrogateescape"), limit=None)
    return {"method": str(request["method"]), "url": clean_url(request["uri"]), "body": structured(text, text)}


def clean_url(uri: str) -> str:
    """The address without credentials, its query in order."""
    url = httpx.URL(uri)
    query = sorted(url.params.multi_items())
    public = [pair for pair in query if not is_secret_query(pair[0])]
    bare = url.copy_with(query=urlencode(public).encode() or None, userinfo=b"", fragment=None)
    return redact(str(bare), limit=None).replace(quote(MASK), MASK)  # read again, the mask of a query is encoded


def is_secret_query(name: str) -> bool:
    """Whether a parameter of this name in an address is a credential."""
    return is_credential(name) or SECRET_QUERY.fullmatch(name) is not None


def structured(text: str, default: Any) -> Any:
    """A JSON object or array; *default* for all else."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        return value if isinstance(value, (dict, list)) else default
    return default


def canonical(value: Any) -> str:
    """JSON by which equal values are equal texts."""
    return json.dumps(value, sort_keys=True)


def listed(values: Any) -> list[str]:
    """A header's values, of which there may be one."""
    return [str(value) for value in ([values] if isinstance(values, str) else values)]


def events(body: bytes, headers: dict[str, list[str]]) -> list[bytes]:
    """*body* in the pieces that a stream of its type has; in one, if it is none."""
    kind = next((values[0] for name, values in headers.items() if name.lower() == "content-type" and values), "")
    name = kind.partition(";")[0].strip().lower()
    if name == "application/vnd.amazon.eventstream":
        return list(_frames(body))
    border = _EVENTS.get(name)
    return [piece for piece in border.split(body) if piece] if border else [body]


def _frames(body: bytes) -> Iterator[bytes]:
    """The messages of AWS's binary stream, each of which begins with its length."""
    while body:
        size = int.from_bytes(body[:4]) or len(body)
        yield body[:size]
        body = body[size:]
