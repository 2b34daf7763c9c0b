"""What is written of a request and its answer: no secret, no header that is not on a short list, bodies to be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import httpx

from llmbridge.cassette.entry import Entry, clean_url, is_secret_query, listed, structured
from llmbridge.redaction import holds_secret, is_credential, redact, remember


REQUEST_HEADERS = re.compile(r"content-type|accept|anthropic-version")
RESPONSE_HEADERS = re.compile(r"content-type|retry-after(-ms)?|(x-)?request-id|x-ratelimit-.*")
_SECRET_HEADER = re.compile(r"(?i).*[-_](key|token|signature)")
_JSON_TYPE = re.compile(r"(?i)application/([\w.+-]+\+)?json\b")
# What cannot stand in a block of YAML as it is: what a reader may take for a line's end, and halves of a character.
UNFIT = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
SHORTEST_COOKIE = 16  # below it, what a cookie says may be an ordinary word


def scrubbed(request: Mapping[str, Any], response: Mapping[str, Any]) -> Entry:
    """A request and its answer, as they are written. Their credentials are redacted everywhere from now on."""
    remember_credentials(request["uri"], request["headers"])
    remember_credentials("", {"set-cookie": _values(response["headers"], "set-cookie")})
    asked_headers, headers = _kept(request["headers"], REQUEST_HEADERS), _kept(response["headers"], RESPONSE_HEADERS)
    asked = {"method": request["method"], "uri": clean_url(request["uri"]), "headers": asked_headers}
    status = {**response["status"], "message": redact(str(response["status"].get("message") or ""), limit=None)}
    body = dict(response["body"]) | {
        "string": _written(decompressed(response["headers"], response["body"].get("string")), headers)
    }
    return {
        "request": {**asked, "body": _written(decompressed(request["headers"], request["body"]), asked_headers)},
        "response": {"status": status, "headers": headers, "body": body},
    }


def remember_credentials(uri: str, headers: Mapping[str, Any]) -> None:
    """Have what *uri* and *headers* carry as credentials redacted from now on, wherever a server echoes it."""
    url = httpx.URL(uri)
    remember([*filter(None, (unquote(url.userinfo.decode()), url.username, url.password))])
    remember([value for name, value in url.params.multi_items() if is_secret_query(name)])
    for name, values in headers.items():
        if name.lower() in ("cookie", "set-cookie"):
            said = [pair.partition("=")[2].strip() for value in listed(values) for pair in value.split(";")]
            remember([value for value in said if len(value) >= SHORTEST_COOKIE])
        elif is_credential(name) or _SECRET_HEADER.fullmatch(name):
            remember([word for value in listed(values) for word in (value, value.rpartition(" ")[2])])


def echoed(body: Any) -> bool:
    """Whether a known key stands in *body* once its JSON is read and, in a stream, its pieces are put together."""
    if not isinstance(body, str):
        return False
    whole = structured(body, None)
    lines = [whole] if whole is not None else [structured(_data(line), None) for line in body.splitlines()]
    texts: dict[str, list[str]] = {}
    for value in lines:
        for at, text in _texts(value):
            texts.setdefault(at, []).append(text)
    return any(holds_secret("".join(pieces)) for pieces in texts.values())


def _data(line: str) -> str:
    return line.removeprefix("data:").strip()


def _texts(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield at, value
        return
    inner: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = enumerate(value)
    for name, each in inner:
        yield from _texts(each, f"{at}/{name}")


def _values(headers: Mapping[str, Any], wanted: str) -> list[str]:
    return [value for name, values in headers.items() if name.lower() == wanted for value in listed(values)]


def _kept(headers: Mapping[str, Any], wanted: re.Pattern[str]) -> dict[str, list[str]]:
    kept = {name.lower(): listed(values) for name, values in headers.items() if wanted.fullmatch(name.lower())}
    return {name: [redact(value, limit=None) for value in kept[name]] for name in sorted(kept)}


def decompressed(headers: Mapping[str, Any], body: bytes | None) -> bytes:
    """*body* without the compression that *headers* name."""
    if not any(name.lower() == "content-encoding" for name in headers):
        return body or b""
    pairs = [(name, value) for name, values in headers.items() for value in listed(values)]
    try:
        return httpx.Response(200, headers=pairs, content=body or b"").content
    except httpx.DecodingError:  # another library has done it, and left the header
        return body or b""


def _written(body: bytes, headers: Mapping[str, list[str]]) -> str | bytes:
    """*body* without secrets; as text where it is text, and over several lines, to be reviewed, where it is JSON."""
    try:
        text = redact(body.decode(), limit=None)
    except UnicodeDecodeError:
        return redact(body.decode("latin-1"), limit=None).encode("latin-1")
    value = structured(text, None) if any(map(_JSON_TYPE.match, headers.get("content-type", ()))) else None
    if value is None:
        return text
    pretty = _redacted(json.dumps(value, indent=2, ensure_ascii=False))
    return _redacted(json.dumps(structured(pretty, value), indent=2)) if UNFIT.search(pretty) else pretty


def _redacted(text: str) -> str:
    # Once more: how the server escaped a key in its JSON is its own business, and here it is written anew.
    clean = redact(text, limit=None)
    return clean if structured(clean, None) is not None else text
