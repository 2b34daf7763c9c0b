"""The response cache: what was asked and paid for once is answered from a directory."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmbridge.cache.entry import Entry, Foreign, Unkeepable, Unusable, dump, load
from llmbridge.home import cache_path
from llmbridge.redaction import holds_secret, redact
from llmbridge.waiting import Pauses


if TYPE_CHECKING:
    from llmbridge.cache.store import Item, Store

log = logging.getLogger("llmbridge")
T = TypeVar("T")

WEEK_S = 7 * 24 * 3600.0
SKEW_S = 5.0  # an entry from further ahead than this has no age that could be known
TALLY_EVERY = 100  # hits and misses, between two writes of the counters
SLICE_S = 0.003  # of preparing entries, before they are written; the writing takes about as long again


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Since the directory was made, by all processes. The last counts, up to a hundred, of one that is killed, or that
    ends while others hold the directory, are lost.

    `errors` are the times that the directory did not work, or an entry in it was broken, and the cache did without.
    """

    hits: int
    misses: int
    errors: int
    entries: int
    size_bytes: int


class Cache:
    """Answers by key, in one directory that threads and processes share; opened at the first use.

    It never fails a call: what cannot be read is a miss, what cannot be written is not kept. The first time is said at
    WARNING, every time is counted.

    Args:
        directory: for this cache alone; by default "cache" in the state directory. Made for its owner alone.
        ttl_s: seconds for which an answer is served, from when it came; None: for ever. A week by default: long enough
            that a test suite or a pipeline finds on Monday what it paid for, short enough that a name such as "gpt-4o"
            is asked again soon after its provider moved it to another model.
        size_limit_bytes: of the directory; past it, the oldest answers go first.
        stale_if_error_s: for how many seconds more an answer may be served when every candidate failed.
        namespace: names of tags. Calls that differ in one of them share nothing: ("tenant",) keeps tenants apart.
        read_only: for whoever looks on: makes no directory, and writes nothing, no counters either.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        ttl_s: float | None = WEEK_S,
        size_limit_bytes: int = 2**30,
        stale_if_error_s: float = 0.0,
        namespace: Iterable[str] = (),
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(namespace, str):
            raise TypeError(f"namespace is a list of tag names, such as ({namespace!r},)")
        for name, value in (("ttl_s", ttl_s), ("size_limit_bytes", size_limit_bytes)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is above 0, not {value!r}; give cache=None for no cache")
        if not stale_if_error_s >= 0:
            raise ValueError(f"stale_if_error_s is a number of seconds, 0 or more, not {stale_if_error_s!r}")
        self._directory = None if directory is None else Path(directory)
        self.ttl_s = ttl_s
        self.size_limit_bytes = size_limit_bytes
        self.stale_if_error_s = stale_if_error_s
        self.namespace = tuple(sorted(set(namespace)))
        self.read_only = read_only
        self._clock = clock
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._at_end: Callable[[], object] = lambda: None
        self._counts: Counter[str] = Counter()
        self._rests: dict[tuple[str, Path], tuple[float, float]] = {}
        self._said: set[tuple[str, Path]] = set()

    @property
    def directory(self) -> Path:
        """Where the answers are kept. The default place may change while the process runs, and is followed."""
        return self._directory or cache_path()

    @property
    def is_default(self) -> bool:
        """Whether it keeps its answers in the default place."""
        return self._directory is None

    @property
    def is_open(self) -> bool:
        """Whether its directory is in use and works, as far as is known."""
        return self._store is not None

    def now(self) -> float:
        """Seconds since the epoch, by this cache's clock."""
        return self._clock()

    def namespace_of(self, tags: Mapping[str, str]) -> tuple[str, ...]:
        """What of *tags* separates answers, for key(); a missing tag is one more value."""
        return tuple(json.dumps([name, tags.get(name)]) for name in self.namespace)

    def recall(
        self, key: str, *, max_age_s: float | None = None, stale_s: float = 0.0, again: bool = False
    ) -> Entry | None:
        """The answer to *key*, or None. Never raises.

        *max_age_s* can only shorten an entry's time; *stale_s* seconds after it, the entry still comes, marked stale.
        *again*: the same call looks once more after a miss, which is counted once.
        Costs about 60 microseconds, most of it for building the Completion; the first time opens the directory, in 10
        ms.
        """
        text = self._try("recall", lambda store: store.get(key))
        entry = None if text is None else self._read(text, key)
        entry = None if entry is None else self._in_time(entry, max_age_s, stale_s)
        if not again:
            self._counts["misses" if entry is None else "hits"] += 1
        elif entry is not None:
            self._counts.update(hits=1, misses=-1)
        if entry is not None and self._counts.total() >= TALLY_EVERY:
            self._try("tally", self._flush)
        return entry

    def recall_all(
        self, keys: Sequence[str], *, max_age_s: float | None = None, stale_s: float = 0.0
    ) -> list[Entry | None]:
        """As recall(), for each of *keys*, in one go: 70 microseconds for a vector of 1,536 numbers. Never raises."""
        found: list[Entry | None] = []
        for key, text in zip(
            keys, self._try("recall", lambda store: store.get_all(keys)) or [None] * len(keys), strict=True
        ):
            if isinstance(text, Foreign):
                self._complain_of(text)
            entry = self._read(text, key) if isinstance(text, str) else None
            found.append(None if entry is None else self._in_time(entry, max_age_s, stale_s))
        hits = len(found) - found.count(None)
        self._counts.update(hits=hits, misses=len(found) - hits)
        return found

    def remember(self, key: str, entry: Entry) -> bool:
        """Keep *entry* as the answer to *key*; returns whether it is kept. Never raises.

        Costs about 200 microseconds, and at most a tenth of a second when other processes write for longer.
        """
        return self._keep([item] if (item := self._item(key, entry)) is not None else []) == 1

    def remembering(self, entries: Iterable[tuple[str, Entry]]) -> Pauses[int]:
        """Pauses while many *entries* are kept; returns how many are. Never raises.

        A few of them are one transaction; many are several of some 6 ms each (a thousand vectors of 1,536 numbers: a
        quarter of a second in all), with a pause between two, so that an event loop can go on.
        """
        kept, left = 0, iter(entries)
        while prepared := self._prepared(left):
            kept += self._keep([item for item in prepared if item is not None])
            yield 0.0
        return kept

    def _prepared(self, entries: Iterator[tuple[str, Entry]]) -> list[Item | None]:
        """The first of *entries* as they will be written, as many as a slice has time for."""
        items: list[Item | None] = []
        give_up = time.monotonic() + SLICE_S
        for key, entry in entries:
            items.append(self._item(key, entry))
            if time.monotonic() > give_up:
                break
        return items

    def _item(self, key: str, entry: Entry) -> Item | None:
        """*entry* as it is kept; None if it cannot be."""
        from llmbridge.cache.store import Item

        try:
            text = dump(key, entry)
        except Unkeepable as exc:
            log.debug("an answer of %s is not kept: %s", entry.model, exc)
            return None
        ttl_s = self.ttl_s if entry.ttl_s is None else entry.ttl_s
        about = json.dumps([entry.model, dict(entry.tags)])
        return Item(key, text, about, None if ttl_s is None else ttl_s + self.stale_if_error_s)

    def _keep(self, items: list[Item]) -> int:
        """Write *items*, but for those that hold a secret, in one transaction; returns how many are kept."""
        if holds_secret("\n".join(item.text for item in items)):
            log.debug("an answer is not kept: it holds a key")
            items = [item for item in items if not holds_secret(item.text)]

        def keep(store: Store) -> int:
            if self._counts.total() < TALLY_EVERY:
                store.put(items)
            else:
                with self._tallying() as counts:
                    store.put(items, tally=counts)
            return len(items)

        return self._try("remember", keep) or 0 if items else 0

    def entries(
        self, key: str = "", *, model: str | None = None, tag: str | None = None, limit: int = 100
    ) -> list[tuple[str, Entry]]:
        """Key and answer of the latest *limit* entries that would be served, latest first; counts no hit. Never raises.

        *key* is how their keys begin; *model* and *tag* choose as in clear(). Broken entries, which verify() names, are
        left out.
        """
        rows = self._try("entries", lambda store: store.latest(key, lambda about: _is_about(about, model, tag), limit))
        found = [(each, self._read(text, each)) for each, text in rows or ()]
        served = [(each, entry and self._in_time(entry, None, 0.0)) for each, entry in found]
        return [(each, entry) for each, entry in served if entry is not None]

    def clear(self, model: str | None = None, tag: str | None = None) -> int:
        """Remove the answers of *model* (a name or a pattern, "openai/*") and with *tag* ("user=alice"), or all.

        Returns how many. Never raises: what cannot be removed is said at WARNING. Reads 200,000 entries a second.
        """
        if model is None and tag is None:
            return self._try("clear", lambda store: store.clear()) or 0
        return self._try("clear", lambda store: store.remove(lambda about: _is_about(about, model, tag))) or 0

    def stats(self) -> CacheStats:
        """What the cache did and what it holds. Of a directory that does not work, what this process counted."""

        def count(store: Store) -> tuple[dict[str, int], int, int]:
            self._flush(store)
            return store.counts()

        counts, entries, size_bytes = self._try("stats", count) or ({}, 0, 0)
        total = Counter(counts) + self._counts
        return CacheStats(total["hits"], total["misses"], total["errors"], entries, size_bytes)

    def verify(self) -> list[str]:
        """What is wrong with the directory and every entry in it, as sentences; reads them all. Changes nothing."""
        trouble: list[str] = []
        found = self._try("verify", lambda store: store.check(_wrong_with), trouble.append)
        return trouble if found is None else found

    def close(self) -> None:
        """Close the files. The next use opens them again."""
        with self._lock:
            end, self._at_end, self._store = self._at_end, lambda: None, None
        end()

    def _try(self, what: str, use: Callable[[Store], T], tell: Callable[[str], None] | None = None) -> T | None:
        """What *use* does with the open directory, or None. The calls' ways into it rest for a while after trouble."""
        directory = self.directory
        if self._rests:
            since, rest_s = self._rests.get((what, directory), (0.0, 0.0))
            if 0 <= self._clock() - since < rest_s:
                return None
        try:
            return use(self._open(directory))
        except Foreign as exc:
            self._complain_of(exc)
        except Unusable as exc:
            if what in ("recall", "remember", "tally"):
                self._rests[what, directory] = self._clock(), exc.rest_s
            if tell is not None:
                tell(str(exc))
            else:
                self._complain("directory", f"the cache in {directory} does not work, calls go on without: {exc}")
        return None

    def _open(self, directory: Path) -> Store:
        store = self._store
        if store is not None:
            if store.directory is directory or store.directory == directory:
                return store
            self.close()
        from llmbridge.cache.store import Store  # diskcache: 10 ms, for whoever has a cache

        with self._lock:
            if self._store is None:
                self._store = Store(directory, self.size_limit_bytes, read_only=self.read_only)
                counts = Counter[str]() if self.read_only else self._counts
                self._at_end = weakref.finalize(self, _count_and_close, self._store, counts)
            return self._store

    def _flush(self, store: Store) -> None:
        if not self.read_only:
            with self._tallying() as counts:
                store.tally(counts)

    @contextlib.contextmanager
    def _tallying(self) -> Iterator[Counter[str]]:
        """The counts so far, which are over if the block ends well."""
        with self._lock:
            counts = Counter(self._counts)
            self._counts.clear()
        try:
            yield counts
        except BaseException:
            self._counts.update(counts)
            raise

    def _complain(self, about: str, message: str) -> None:
        self._counts["errors"] += 1
        said = about, self.directory
        log.log(logging.DEBUG if said in self._said else logging.WARNING, "%s", redact(message))
        self._said.add(said)

    def _read(self, text: str, key: str) -> Entry | None:
        try:
            return load(text, key)
        except Foreign as exc:
            self._complain_of(exc)
            return None

    def _complain_of(self, entry: Foreign) -> None:
        self._complain("entry", f"an entry of the cache in {self.directory} is not used: {entry}")

    def _in_time(self, entry: Entry, max_age_s: float | None, stale_s: float) -> Entry | None:
        """*entry* with its age, or None if its time is over."""
        age_s = self._clock() - entry.created_at
        if age_s < -SKEW_S:
            return None  # the clock was set back: it may be older than it ever was
        ttl_s = self.ttl_s if entry.ttl_s is None else entry.ttl_s
        limit_s = math.inf if ttl_s is None else ttl_s
        limit_s = limit_s if max_age_s is None else min(limit_s, max_age_s)
        if age_s > limit_s + stale_s:
            return None
        entry.age_s, entry.stale = max(age_s, 0.0), age_s > limit_s  # in place: it was read for this caller alone
        return entry


def _wrong_with(key: str, text: str) -> str | None:
    try:
        load(text, key)
    except Foreign as exc:
        return str(exc)
    return None


def _is_about(about: object, model: str | None, tag: str | None) -> bool:
    """Whether an entry, by what stands beside it, is of *model* and has *tag*. One that cannot be read is: it is no use
    to anybody, and who deletes wants it gone."""
    try:
        named, tags = json.loads(about)  # type: ignore[arg-type]
        return (model is None or fnmatch.fnmatchcase(named, model)) and (
            tag is None or any(f"{name}={value}" == tag for name, value in tags.items())
        )
    except (TypeError, ValueError, AttributeError, RecursionError):
        return True


def _count_and_close(store: Store, counts: Counter[str]) -> None:
    try:
        store.tally(counts)
        counts.clear()
        store.close()
    except Unusable as exc:
        log.debug("the cache's counters are lost: %s", exc)
