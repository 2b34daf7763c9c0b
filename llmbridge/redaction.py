"""Secrets out of text: by exact value first, by pattern second.

LiteLLM's own filter goes by pattern alone and lets through 43 of 147 key shapes (bare Azure, Mistral, Groq and Cohere
keys have no prefix to know them by), so every credential that passes through this package is remembered here in the
encodings in which servers echo it, and so are the credentials in the environment.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import logging
import os
import re
import threading
from collections.abc import Mapping
from urllib.parse import quote, quote_plus


MASK = "[redacted]"
MOST_KNOWN = 5_000
SHORTEST = 6  # a "key" of one to five characters would blank out ordinary words
SHORTEST_MATCH = 13  # of the patterns below, but for the one with "="
LONGEST_TEXT = 2_000  # what an error message keeps of a provider's words

# "token" at the end only: max_tokens and token_type are counts and kinds.
_CREDENTIAL_NAME = re.compile(
    r"(api|access|private)[-_]?key|secret|passw|credential|cookie|authoriz|auth(?!or)|(^|[-_])token$", re.IGNORECASE
)
# Of JSON only texts are taken for secrets: with "[redacted]" in the place of a number or a list it would be none.
_PATTERNS = re.compile(
    r"""
      (?P<bearer>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}
    | (?P<field>["']?\b(?:x-|x-goog-|ocp-apim-)?
        (?:api[-_]?key|access[-_]?token|client[-_]?secret|authorization|password|secret)
        (?:"\s*:\s*(?![\[{]|(?:-?\d[\d.e+-]*|true|false|null)\s*[,}\]])|'?\s*[:=]\s*|"\s*=\s*)
        ["']?(?:(?:bearer|basic)\s+)?)[^\s"',;&}]{6,}
    | (?P<query>[?&](?:key|api-key|token|sig|signature|x-amz-[a-z-]+)=)[^&\s"']+
    | \b(?:sk|pk|rk|gsk|xai|pplx|hf|r8|fw|nvapi|csk|co|tgp|voy|dsk|ghp|gho|ghs|github_pat|glpat|xox[abp])
        [-_][A-Za-z0-9_-]{12,}
    | \bAIza[A-Za-z0-9_-]{20,}
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}
    | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}\.?[A-Za-z0-9_-]*
    """,
    re.IGNORECASE | re.VERBOSE,
)

_lock = threading.RLock()  # the collector may end a dropped stream in here, whose span is redacted too
_forms: dict[str, tuple[str, ...]] = {}


@functools.lru_cache(1_000)  # every redaction asks for each name in the environment
def is_credential(name: str) -> bool:
    """Whether a parameter, header or environment variable of this name holds a secret."""
    return _CREDENTIAL_NAME.search(name) is not None


def remember(value: object) -> None:
    """Redact *value* from now on; strings inside mappings and lists too. A value shorter than six characters is not."""
    global _latest
    if isinstance(value, Mapping):
        for item in value.values():
            remember(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            remember(item)
    elif isinstance(value, str) and len(value) >= SHORTEST and value not in _forms:
        with _lock:
            _latest = None
            _forms[value] = _encodings(value)
            while len(_forms) > MOST_KNOWN:  # short-lived tokens, one a user: the oldest are over
                del _forms[next(iter(_forms))]


def _encodings(secret: str) -> tuple[str, ...]:
    raw = secret.encode("utf-8", "surrogatepass")
    inside = json.dumps(secret)[1:-1]  # of JSON; and of JSON in JSON, as a server echoes a body
    forms = {secret, inside, json.dumps(inside)[1:-1], inside.replace("/", "\\/"), repr(secret)[1:-1]}
    forms |= {html.escape(secret), html.escape(secret, quote=False)}
    for escaped in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        forms |= {escaped, re.sub("%..", lambda found: found[0].lower(), escaped)}
    for shift in range(3):
        # Base64 of "user:" + secret holds one of three texts, by where the secret starts; the first and last groups
        # also hold neighbours' bits and are left off.
        padded = base64.b64encode(b"\0" * shift + raw).decode()
        inner = padded[4 if shift else 0 : (len(raw) + shift) // 3 * 4]
        if len(inner) >= SHORTEST:
            forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return tuple(sorted(forms, key=len, reverse=True))


class Known:
    """The secrets that are known, in all their encodings, longest first; a new one when there is another secret."""

    __slots__ = ("_of", "forms")

    def __init__(self, of: Mapping[str, tuple[str, ...]]) -> None:
        self._of = of, len(of)
        self.forms = tuple(sorted((form for forms in of.values() for form in forms), key=len, reverse=True))

    def is_of(self, of: Mapping[str, tuple[str, ...]]) -> bool:
        return self._of[0] is of and self._of[1] == len(of)


_latest: Known | None = None


def known() -> Known:
    """What is known by now, with what stands in the environment now."""
    global _latest
    # The names alone, because they hardly ever change; and as they are kept, which os.environ decodes one by one: a
    # microsecond for forty variables instead of twenty.
    for name in _credentials(tuple(getattr(os.environ, "_data", os.environ))):
        value = os.environ.get(name, "")
        if len(value) >= 8 and value not in _forms:
            remember(value)
    latest = _latest
    if latest is None or not latest.is_of(_forms):
        with _lock:
            latest = _latest = Known(_forms)
    return latest


@functools.lru_cache(maxsize=2)
def _credentials(names: tuple[bytes | str, ...]) -> tuple[str, ...]:
    return tuple(decoded for name in names if is_credential(decoded := os.fsdecode(name)))


def holds_secret(text: str) -> bool:
    """Whether a key that was ever handed out stands in *text*, in any of its encodings. Some microseconds a key."""
    return any(form in text for form in known().forms)


def redact(text: str, *, limit: int | None = LONGEST_TEXT) -> str:
    """*text* without secrets, cut to *limit* characters (None: whole). About a millisecond per megabyte and key."""
    for form in known().forms:
        if form in text:
            text = text.replace(form, MASK)
    if limit is not None and len(text) > limit:
        # Cut first with room to spare, so that the patterns never run over megabytes and a key at the edge is whole.
        return _by_pattern(text[: limit + 400])[:limit] + f"... ({len(text):,} characters)"
    return _by_pattern(text)


def _by_pattern(text: str) -> str:
    if len(text) < SHORTEST_MATCH and "=" not in text:
        return text
    return _PATTERNS.sub(lambda match: (match["bearer"] or match["field"] or match["query"] or "") + MASK, text)


class RedactingFilter(logging.Filter):
    """Redacts what a logger says, before any handler sees it: the message, the traceback and our own fields."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record through. An exception becomes its text: the object may hold a request, with its key,
        and a handler may write all that it finds there."""
        try:
            text = record.getMessage()
        except Exception:  # here it would reach the call; a handler would have said it on stderr
            text = f"{record.msg} (its arguments do not fit)"
        record.msg, record.args = redact(text, limit=None), ()
        if record.exc_info:
            record.exc_text = redact(record.exc_text or _TRACEBACKS.formatException(record.exc_info), limit=None)
            record.exc_info = None
        facts = vars(record).get("llmbridge")
        if facts is not None:
            vars(record)["llmbridge"] = _redacted(facts)
        return True


_TRACEBACKS = logging.Formatter()


def _redacted(value: object) -> object:
    """*value* with every text in it redacted."""
    if isinstance(value, str):
        return redact(value, limit=None)
    if isinstance(value, Mapping):
        return {name: _redacted(each) for name, each in value.items()}
    return [_redacted(each) for each in value] if isinstance(value, (list, tuple)) else value
