"""What all formats share: the request as it was read, its route, and JSON on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote


Format = Literal["openai", "anthropic", "gemini", "ollama", "cohere", "replicate", "bedrock", "huggingface"]
Verb = Literal["chat", "generate", "embed", "embed_many", "predict", "show", "poll", "models"]
EMBEDDING = ("embed", "embed_many", "predict")


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. *headers* have lower-case names; *body* is None unless JSON."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    raw: bytes

    @property
    def key(self) -> str:
        """The API key that came with it, from wherever its format puts it; "" if none."""
        bearer = self.headers.get("authorization", "").rpartition(" ")[2]
        header = self.headers.get("x-api-key") or self.headers.get("x-goog-api-key")
        return header or bearer or self.query.get("key", "")


@dataclass(frozen=True)
class Asked:
    """A request understood: which format, which verb, which model, streaming or not.

    *home* is this server's own address, as the client spelt it.
    """

    format: Format
    verb: Verb
    model: str
    stream: bool
    body: Mapping[str, Any]
    key: str = ""
    home: str = ""


_GEMINI = re.compile(r"/models/(?P<model>[^:]+):(?P<method>\w+)$")
_GEMINI_VERBS: dict[str, Verb] = {
    "generateContent": "chat",
    "streamGenerateContent": "chat",
    "embedContent": "embed",
    "batchEmbedContents": "embed_many",
    "predict": "predict",
}
_BEDROCK = re.compile(r"/model/(?P<model>.+)/(?P<method>converse|converse-stream|invoke)$")
_REPLICATE = re.compile(r"(/models/(?P<model>.+))?/predictions(?P<id>/\w+)?$")
_ENDINGS: tuple[tuple[str, Format, Verb], ...] = (
    ("/chat/completions", "openai", "chat"),
    ("/embeddings", "openai", "embed"),
    ("/v1/messages", "anthropic", "chat"),
    ("/api/chat", "ollama", "chat"),
    ("/api/generate", "ollama", "generate"),
    ("/api/embed", "ollama", "embed"),
    ("/api/show", "ollama", "show"),
    ("/v2/chat", "cohere", "chat"),
    ("/v2/embed", "cohere", "embed"),
)


def understand(seen: Seen) -> Asked | None:
    """Tell the format from the path's end; None for what no provider here answers."""
    body = seen.body if isinstance(seen.body, dict) else {}
    if seen.method == "GET" and seen.path.endswith("/models"):
        version = "/v1beta/" in seen.path, "anthropic-version" in seen.headers
        format: Format = "gemini" if version[0] else "anthropic" if version[1] else "openai"
        return Asked(format, "models", "", False, {}, seen.key)
    if match := _REPLICATE.search(seen.path):
        return _replicate(match, body, seen)
    if seen.method != "POST":
        return None
    if match := _GEMINI.search(seen.path):
        return _gemini(match, body, seen.key)
    if "/pipeline/feature-extraction/" in seen.path:
        return Asked("huggingface", "embed", seen.path.partition("feature-extraction/")[2], False, body, seen.key)
    if match := _BEDROCK.search(seen.path):
        verb: Verb = "embed" if match["method"] == "invoke" else "chat"
        return Asked("bedrock", verb, match["model"], match["method"] == "converse-stream", body, seen.key)
    for ending, format, verb in _ENDINGS:
        if seen.path.endswith(ending):
            # Ollama streams unless told not to; the others don't unless told to.
            stream = bool(body.get("stream", format == "ollama")) and verb in ("chat", "generate")
            return Asked(format, verb, str(body.get("model", "")), stream, body, seen.key)
    return None


def _gemini(match: re.Match[str], body: Mapping[str, Any], key: str) -> Asked | None:
    method = match["method"]
    if method not in _GEMINI_VERBS:
        return None
    stream = method.startswith("stream")
    return Asked("gemini", _GEMINI_VERBS[method], unquote(match["model"]), stream, body, key)


def _replicate(match: re.Match[str], body: Mapping[str, Any], seen: Seen) -> Asked:
    """A prediction that is started, or looked at."""
    verb: Verb = "poll" if match["id"] else "chat"
    home = f"http://{seen.headers.get('host', '')}"
    return Asked("replicate", verb, match["model"] or "", False, body, seen.key, home)


def encode(value: Any) -> bytes:
    """JSON as providers send it: compact, UTF-8; lone surrogates, which UTF-8 lacks, are escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def sse(value: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + encode(value) + b"\n\n"


def vector(row: int, dimensions: int) -> list[float]:
    """Deterministic numbers that 32-bit floats hold exactly."""
    return [((row * 7 + column * 5) % 33 - 16) / 32 for column in range(dimensions)]
