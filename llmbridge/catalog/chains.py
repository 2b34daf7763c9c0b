"""Ready chains: candidates for a purpose, by a short rule over the catalogue's facts and the keys at hand.

The table knows no quality and no age. What stands for quality is the price: that of a provider's current models, a
current one being that with the highest version of its line ("claude-opus-5-5" of "claude-opus-#"), and what stands
for middling is the geometric mean of the dearest and the cheapest. A Model's own `quality` goes before that. Left out
are previews, snapshots by date, names whose price says something else ("-latest", "-fast", "-us") and what is made for
one thing (search, audio, images, ...).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from llmbridge.catalog.catalog import one_of
from llmbridge.catalog.listing import Listing
from llmbridge.fallback import Fallback
from llmbridge.money import show_usd
from llmbridge.provider import leaves_machine
from llmbridge.provider.keys import KEYS, has_key
from llmbridge.request import Hidden, Request


if TYPE_CHECKING:
    from llmbridge.catalog.catalog import Catalog

LONGEST = 5  # candidates: one a provider, and after five failures the sixth is no help
SMALLEST_WINDOW = 32_000
_SPECIAL = re.compile(
    r"(?:^|[-_/.:])(?:ft|preview|exp|experimental|beta|audio|voxtral|tts|live|image|search|research|robotics|computer|"
    r"guard|safeguard|cyber|customtools|omni|vibe|free)(?:$|[-_/.:])"
)
_MOVING = re.compile(r"-(?:latest|fast|us)$")
_DATED = re.compile(r"[-@](?:20\d\d-?\d\d-?\d\d|\d\d-20\d\d|\d{4})(?:$|[-@:])")
_VERSION = re.compile(r"([a-z]*?)(\d{1,2}(?:[.p]\d{1,2})?)((?!b)[a-z]*)")  # not the "27b" of a size


@dataclass(frozen=True, slots=True)
class Member:
    """A candidate of a chain, and why it is one."""

    listing: Listing
    why: str


@dataclass(frozen=True, slots=True)
class Missing:
    """What would be a candidate, if there were a key: in one of these environment variables."""

    model: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """A ready chain as it is now: its rule in words, whom it asks, and for whom a key is missing."""

    name: str
    rule: str
    strategy: str
    members: tuple[Member, ...]
    missing: tuple[Missing, ...]

    def fallback(self) -> Fallback:
        """What `model=` takes. Raises LookupError if nobody can be asked, with what to do."""
        if not self.members:
            raise LookupError(f"chain {self.name!r} has nobody to ask: {self.advice}")
        models = [each.listing.own or each.listing.model for each in self.members]
        return Fallback(models, strategy=self.strategy, local_only=self.name == "local_only")

    @property
    def advice(self) -> str:
        """What would give it somebody to ask."""
        if self.name == "local_only":
            return "name what runs here: Bridge(models=[Model('ollama_chat/llama3.2')])"
        return f"set one of {', '.join(each.keys[0] for each in self.missing)}, or give the Bridge models"


@dataclass(frozen=True, slots=True)
class _Rule:
    words: str
    strategy: str
    wants: frozenset[str]
    pick: Callable[[Sequence[Listing]], Listing]  # of one provider's
    order: Callable[[Listing], tuple[float, ...]]
    superseded: bool = False
    then: str = ""  # the chain whose candidates follow, of providers that have none here


def chain(name: str, catalog: Catalog) -> Chain:
    """The ready chain *name*, of what *catalog* lists and the environment has keys for. Raises ValueError for another
    name."""
    one_of("ready chain", name, CHAINS)
    if name == "local_only":
        return _local(catalog)
    rule = _RULES[name]
    found = _picked(catalog, rule)
    if rule.then:
        others = _picked(catalog, _RULES[rule.then])
        found += [each for each in others if each.provider not in {one.provider for one in found}]
    members = tuple(Member(each, _why(each)) for each in found if _is_at_hand(each))
    at_hand = {each.listing.provider for each in members}
    missing = tuple(Missing(each.model, KEYS[each.provider]) for each in found if each.provider not in at_hand)
    return Chain(name, rule.words, rule.strategy, members[:LONGEST], missing)


def _picked(catalog: Catalog, rule: _Rule) -> list[Listing]:
    """One of each provider's, in the order of the rule; of what is at hand, if anything is."""
    listed = [each for each in catalog.find() if each.own is not None or each.provider in KEYS]
    seen = catalog.typical() if rule.strategy == "least_latency" else {}
    pools: dict[str, list[Listing]] = {}
    for each in _eligible(listed, rule):
        known = each.measured(seen[each.model].latency_s if each.model in seen else None)
        pools.setdefault(each.provider, []).append(known)
    picked = [rule.pick([each for each in pool if _is_at_hand(each)] or pool) for pool in pools.values()]
    return sorted(picked, key=lambda each: (*rule.order(each), each.model))


def _local(catalog: Catalog) -> Chain:
    listed = {each.model: each for each in catalog.find(deprecated=True) if each.own is not None}
    own = [listed[model.model]._replace(own=model) for model in catalog.own if model.model in listed]
    members = tuple(Member(each, "its address is on this machine") for each in own if not leaves_machine(_asked(each)))
    return Chain("local_only", _LOCAL, "priority", members, ())


def _asked(listing: Listing) -> Request:
    assert listing.own is not None
    return Request("chat", "", [], Hidden()).for_model(listing.own)


def _eligible(listed: Iterable[Listing], rule: _Rule) -> list[Listing]:
    found = [each for each in listed if each.mode == "chat" and (_is_unknown(each) or rule.wants <= each.capabilities)]
    own = [each for each in found if each.own is not None]
    general = [
        each
        for each in found
        if each.own is None
        and each.usd_per_mtok
        and (each.context_window or 0) >= SMALLEST_WINDOW
        and not _DATED.search(each.model)
        and not _SPECIAL.search(each.model.lower())
        and ("code" in rule.wants or not _MOVING.search(each.model))  # some of those have no other name
    ]
    return [*own, *(general if rule.superseded else _current(general))]


def _current(listed: Iterable[Listing]) -> list[Listing]:
    """Of each line of models the newest."""
    newest: dict[tuple[str, str], tuple[tuple[Decimal, ...], Listing]] = {}
    for each in sorted(listed, key=lambda each: (len(each.model), each.model)):  # one of two spellings: the shorter
        line, version = _line(each.model)
        before = newest.get((each.provider, line))
        if before is None or version > before[0]:
            newest[each.provider, line] = version, each
    return [each for _, each in newest.values()]


def _line(model: str) -> tuple[str, tuple[Decimal, ...]]:
    """The line that *model* is of, with its version: "grok-4.20-reasoning" is 4.20 of "grok-#-reasoning"."""
    words, version = [], []
    for word in model.rpartition("/")[2].lower().split("-"):
        found = _VERSION.fullmatch(word)
        if found is None:
            words.append(word)
            continue
        version.append(Decimal(found[2].replace("p", ".")))
        if found[1] or found[3] or not words or not words[-1].endswith("#"):  # "4-5" is one version
            words.append(f"{found[1]}#{found[3]}")
    return "-".join(words), tuple(version)


def _is_unknown(listing: Listing) -> bool:
    """Whether the table says nothing of it, so that it may well be able."""
    return listing.own is not None and listing.context_window is None and not listing.capabilities


def _is_at_hand(listing: Listing) -> bool:
    own = listing.own
    if own is not None and (own.api_key is not None or listing.provider not in KEYS):
        return True
    return has_key(listing.provider)


def _price(listing: Listing) -> float:
    return float(listing.usd_per_mtok or 0)


def _quality(listing: Listing) -> tuple[float, ...]:
    quality = None if listing.own is None else listing.own.quality
    return (1.0, -_price(listing)) if quality is None else (0.0, -quality)


def _best(pool: Sequence[Listing]) -> Listing:
    return min(pool, key=lambda each: (*_quality(each), each.model))


def _cheapest(pool: Sequence[Listing]) -> Listing:
    return min(pool, key=lambda each: (_price(each), each.model))


def _middling(pool: Sequence[Listing]) -> Listing:
    prices = [price for each in pool if (price := _price(each))]
    if not prices:
        return _best(pool)
    middle = math.log(min(prices)) / 2 + math.log(max(prices)) / 2
    return min(pool, key=lambda each: (abs(math.log(_price(each) or min(prices)) - middle), each.model))


def _largest(pool: Sequence[Listing]) -> Listing:
    return min(pool, key=lambda each: (*_window(each), each.model))


def _fastest(pool: Sequence[Listing]) -> Listing:
    return min(pool, key=lambda each: (*_latency(each), each.model))


def _window(listing: Listing) -> tuple[float, ...]:
    return -(listing.context_window or 0), _price(listing)


def _latency(listing: Listing) -> tuple[float, ...]:
    return (1.0, _price(listing)) if listing.latency_s is None else (0.0, listing.latency_s)


def _why(listing: Listing) -> str:
    parts = [] if listing.usd_per_mtok is None else [f"{show_usd(listing.usd_per_mtok)} a million tokens"]
    if listing.own is not None and listing.own.quality is not None:
        parts.insert(0, f"quality {listing.own.quality:g}")
    if listing.latency_s is not None:
        parts.insert(0, f"{listing.latency_s:.2f} s in the ledger")
    if listing.context_window:
        parts.append(f"{listing.context_window:,} tokens of context")
    return ", ".join(parts) or "it is among the Bridge's models"


_LOCAL = "the Bridge's models that run on this machine, in their order; anything else is refused before it is sent"
_ABLE = frozenset({"tools", "json_schema"})
_RULES = {
    "high_quality": _Rule(
        "each provider's dearest current model with tools and JSON schemas, the dearest first",
        "priority", _ABLE, _best, _quality,
    ),
    "cost_optimized": _Rule(
        "each provider's cheapest current model with tools and JSON schemas; what the request costs least with first",
        "least_cost", _ABLE, _cheapest, lambda each: (_price(each),),
    ),
    "fast_latency": _Rule(
        "each provider's fastest current model by the ledger, else its cheapest; then by what calls measure",
        "least_latency", frozenset({"tools"}), _fastest, _latency,
    ),
    "code_generation": _Rule(
        "each provider's dearest current model that is made for code, by its name, with tools; then high_quality",
        "priority", frozenset({"tools", "code"}), _best, _quality, then="high_quality",
    ),
    "long_context": _Rule(
        "each provider's current model with the largest context window, the largest first, then the cheapest",
        "priority", frozenset({"long_context"}), _largest, _window,
    ),
    "balanced": _Rule(
        "each provider's current model midway between its dearest and cheapest; by cost, latency and quality",
        "balanced", _ABLE, _middling, lambda each: (_price(each),),
    ),
    "analysis": _Rule(
        "each provider's dearest current model that reasons, with JSON schemas and 200,000 tokens of context",
        "priority", frozenset({"reasoning", "json_schema", "long_context"}), _best, _quality,
    ),
    "simple_tasks": _Rule(
        "each provider's cheapest model, superseded or not, whatever it can do",
        "least_cost", frozenset(), _cheapest, lambda each: (_price(each),), superseded=True,
    ),
}  # fmt: skip
CHAINS = tuple(sorted([*_RULES, "local_only"]))
