"""Health: whether everything that a call needs is there. What is found out costs nothing, unless asked to."""

from __future__ import annotations

import contextvars
import functools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llmbridge import config, provider, request
from llmbridge.cache import Cache
from llmbridge.call.planning import broken, candidates_of
from llmbridge.errors import LLMBridgeError
from llmbridge.exchange import Exchange
from llmbridge.fallback import Candidate, Endpoints, Fallback, Limit
from llmbridge.fallback.limiter import Limiter
from llmbridge.home import breakers_path
from llmbridge.ledger import Ledger, sqlite_version
from llmbridge.money import show_usd
from llmbridge.redaction import redact
from llmbridge.request import Model


PACKAGES = ("litellm", "diskcache", "vcrpy", "opentelemetry-api", "opentelemetry-sdk")
OTLP = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
LARGE = {"ledger": "ledger check", "cache": "cache verify"}  # which can take long, and be well
LOADING_S = 60.0
GRACE_S = 1.0  # in which a call whose time is over says so itself
MARKS = {True: "ok", False: "WRONG", None: "-"}


class Found(NamedTuple):
    """What a check found: whether it is well, and in words. `ok` None: there is nothing to be well, or it could not be
    told."""

    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `ok` None: it is not used, or could not be told for nothing. No key is in it."""

    name: str
    ok: bool | None
    detail: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Health:
    """What was looked at, in the order of a report."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.ok is not False for check in self.checks)

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        return "\n".join(f"{MARKS[check.ok]:<5}  {check.name:<{width}}  {check.detail}" for check in self.checks)


@dataclass(frozen=True, slots=True)
class Patient:
    """What of a Bridge is looked at. `bridge` is the Bridge itself, if models are to be asked, which costs."""

    models: Sequence[Model]
    endpoints: Endpoints
    limiters: Sequence[Limiter]
    cache: Cache | None
    found: config.Configuration | None
    open_ledger: Callable[[], Ledger]
    bridge: Any = None

    @property
    def ledger(self) -> Ledger | None:
        """Opened; None if there is none. Raises LedgerError."""
        try:
            return self.open_ledger()
        except AttributeError:
            return None


def examine(patient: Patient, timeout_s: float) -> Health:
    """Look at everything at once, each thing for *timeout_s* seconds at most. Raises nothing."""
    running = [_Running("versions", _versions), _Running("configuration", functools.partial(_configuration, patient))]
    for each in running:
        each.end(timeout_s)
    if patient.models:  # LiteLLM's own seconds are none of those that a provider has
        running.append(_Running("litellm", _loaded))
        running[-1].end(LOADING_S)
    looks: list[tuple[str, Callable[[], Found]]] = [
        *_of_models(patient, timeout_s),
        ("limits", functools.partial(_limits, patient)),
        ("ledger", functools.partial(_ledger, patient)),
        ("cache", functools.partial(_cache, patient.cache)),
        ("collector", functools.partial(_collector, patient.found, timeout_s)),
    ]
    others = [_Running(name, look) for name, look in looks]
    until = time.monotonic() + timeout_s + GRACE_S
    for each in others:
        each.end(until - time.monotonic())
    return Health(tuple(each.check(timeout_s) for each in (*running, *others)))


class _Running:
    """A check under way, in a thread that is left behind if it takes too long."""

    def __init__(self, name: str, look: Callable[[], Found]) -> None:
        self._name, self._look = name, look
        self._found: tuple[Found, float] | None = None
        self._started = time.monotonic()
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name=f"llmbridge-health {name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            found = self._look()
        except Exception as error:  # the words of errors that are ours say what it is
            ours = type(error).__module__.startswith("llmbridge.")
            found = Found(False, str(error) if ours else f"{type(error).__name__}: {error}")
        self._found = Found(found.ok, redact(" ".join(found.detail.split()))), time.monotonic() - self._started

    def end(self, timeout_s: float) -> None:
        self._thread.join(max(timeout_s, 0.0))

    def check(self, timeout_s: float) -> Check:
        said = f"it was not over after {timeout_s:g} s"
        late = Found(False, said)
        if self._name in LARGE:
            late = Found(None, f"{said}; `llmbridge {LARGE[self._name]}` takes all the time that it needs")
        (ok, detail), took_s = self._found or (late, time.monotonic() - self._started)
        return Check(self._name, ok, detail, took_s)


def _versions() -> Found:
    import importlib.metadata
    import platform

    from llmbridge import __version__

    said = [f"llmbridge {__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            said.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            said.append(f"no {name}")
    return Found("no litellm" not in said, ", ".join([*said, f"SQLite {sqlite_version}"]))


def _configuration(patient: Patient) -> Found:
    if patient.found is None:
        return Found(None, "this Bridge is made by the program")
    path = patient.found.path
    config.load(path)  # as it stands there now
    return Found(True, str(path) if path is not None else "no file, the environment alone")


def _loaded() -> Found:
    provider.litellm()
    return Found(True, "it is loaded")


def _of_models(patient: Patient, timeout_s: float) -> list[tuple[str, Callable[[], Found]]]:
    looks: list[tuple[str, Callable[[], Found]]] = []
    try:
        directory = None if patient.ledger is None else breakers_path(patient.ledger.path)
    except Exception:  # which the ledger's own check says
        directory = None
    asked = request.chat("ping", {}, None)
    candidates = candidates_of(asked, patient.models, patient.endpoints, directory)
    for each in candidates:
        name, bridge = each.model.model, patient.bridge
        answers = functools.partial(_asked, bridge) if bridge is not None else _listed
        looks.append((f"key {name}", functools.partial(_key, each)))
        looks.append((f"model {name}", functools.partial(_model, answers, each, timeout_s)))
    looks.append(("breakers", functools.partial(_breakers, candidates)) if candidates else ("models", _none))
    return looks


def _key(candidate: Candidate) -> Found:
    return Found(True, provider.key_of(candidate.request))


def _none() -> Found:
    keys = sorted(name for name, value in os.environ.items() if name.endswith("_API_KEY") and value)
    said = f"; there are keys in {', '.join(keys)}" if keys else ""
    return Found(None, f"none by default: set LLMBRIDGE_MODEL, or `default` in llmbridge.toml{said}")


def _model(answers: Callable[[Candidate, float], Found], candidate: Candidate, timeout_s: float) -> Found:
    try:
        provider.key_of(candidate.request)
    except LLMBridgeError:
        return Found(None, "it was not asked: see its key")
    return answers(candidate, timeout_s)


def _listed(candidate: Candidate, timeout_s: float) -> Found:
    exchange = Exchange(deadline=time.monotonic() + timeout_s)
    names = provider.listed(candidate.request, exchange)
    if names is None:
        return Found(None, "its provider's models cannot be listed; ask=True (--ask) asks it")
    name = candidate.model.model.partition("/")[2]
    stem = name.removesuffix("-latest")
    if name in names or any(each.startswith((f"{stem}-", f"{stem}:")) for each in names):
        return Found(True, f"{exchange.host} has it, and {len(names) - 1:,} others")
    import difflib

    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Found(False, f"{exchange.host} lists {len(names):,} models, and not this one{hint}")


def _asked(bridge: Any, candidate: Candidate, timeout_s: float) -> Found:
    """One token, through all that a call goes through."""
    model = candidate.model
    only, terms = Fallback([model], retries=0), {"cache": "off", "deadline_s": timeout_s}
    if provider.is_embedder(model.model):
        reply = bridge.embed("ping", model=only, **terms)
    else:
        reply = bridge.complete("ping", model=only, max_tokens=1, **terms)
    return Found(True, f"answered in {reply.record.duration_s:.2f} s for {show_usd(reply.record.cost_usd)}")


def _breakers(candidates: Sequence[Candidate]) -> Found:
    closed = []
    for each in candidates:
        paused_s = each.endpoint.paused_s()
        why = broken(each) or (f"it asked to be left alone for {paused_s:.1f} s more" if paused_s else "")
        closed += [f"{each.model.model}: {why}"] if why else []
    return Found(not closed, "; ".join(closed) or "none is open")


def _limits(patient: Patient) -> Found:
    limits = [each.limit for each in patient.limiters]
    limits += [
        Limit(each.rpm, each.tpm, each.concurrency, models=(each.model,))
        for each in patient.models
        if any((each.rpm, each.tpm, each.concurrency))
    ]
    return Found(True if limits else None, "; ".join(map(_said, limits)) or "none")


def _said(limit: Limit) -> str:
    parts = [
        f"{limit.rpm:,g} requests a minute" if limit.rpm is not None else "",
        f"{limit.tpm:,g} tokens a minute" if limit.tpm is not None else "",
        f"{limit.concurrency} at a time" if limit.concurrency is not None else "",
    ]
    per = f" per {', '.join(limit.per)}" if limit.per else ""
    return ", ".join(filter(None, parts)) + per + (f" for {', '.join(limit.models)}" if limit.models else "")


def _ledger(patient: Patient) -> Found:
    ledger = patient.ledger
    if ledger is None:
        return Found(None, "none: nothing is counted")
    wrong = ledger.check()
    about = f"{ledger.path}, {_size(ledger.path)}, durability {ledger.durability!r}"
    return Found(
        not wrong, f"{about}: " + (f"{len(wrong)} differences, such as: {wrong[0]}" if wrong else "no difference")
    )


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:,.1f} MB"


def _cache(cache: Cache | None) -> Found:
    if cache is None:
        return Found(None, "none: nothing is kept")
    wrong, stats = cache.verify(), cache.stats()
    about = f"{cache.directory}, {stats.entries:,} answers in {stats.size_bytes / 1e6:,.1f} MB"
    about += f", {stats.hits:,} hits and {stats.misses:,} misses"
    return Found(not wrong, f"{about}: {len(wrong)} faults, such as: {wrong[0]}" if wrong else about)


def _collector(found: config.Configuration | None, timeout_s: float) -> Found:
    import socket

    tracing: Any = None if found is None else found.tracing
    given = tracing.get("endpoint") if isinstance(tracing, Mapping) else None
    address = given or next((value for name in OTLP if (value := os.environ.get(name, "").strip())), None)
    if tracing is False or address is None:
        return Found(None, "none is configured")
    parts = urlsplit(address if "//" in address else f"//{address}")
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 4317)
    where = f"{parts.hostname}:{port}"
    try:
        socket.create_connection((parts.hostname or "localhost", port), timeout_s).close()
    except OSError as error:
        return Found(False, f"{where} cannot be reached: {error}")
    return Found(True, f"{where} takes connections")
