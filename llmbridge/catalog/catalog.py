"""Catalog: what is known of each model, to be searched: price, context window, capabilities, when it goes away.

It is LiteLLM's own table, read from the installed package; LiteLLM stays unloaded. The first query of a process reads
the file (20 ms), each looks through its models (10 ms).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

from llmbridge.catalog.listing import Listing, listing_of
from llmbridge.provider.table import CAPABILITIES, bundled, spelled


if TYPE_CHECKING:
    from llmbridge.catalog.chains import Chain
    from llmbridge.fallback import Fallback
    from llmbridge.ledger import Typical
    from llmbridge.request import Model

ModelMode = Literal["chat", "embedding"]
Sort = Literal["model", "cost", "context", "latency"]
MODES = get_args(ModelMode)
NAMES = (*CAPABILITIES, "long_context", "code")


class Filters(TypedDict, total=False):
    """What a model has to be; see Catalog.find."""

    query: str
    capability: str | Collection[str]
    max_input_usd_per_mtok: Decimal | float | str | None
    min_context: int | None
    provider: str | None
    mode: ModelMode
    deprecated: bool


class Catalog:
    """What can be asked about models: those of LiteLLM's table, and the user's own.

    Args:
        models: the user's own Models; they are listed besides those of the table, or instead, with their own prices.
        typical: what the ledger has seen of each model, for `fastest`.
    """

    def __init__(
        self,
        models: Sequence[Model] = (),
        typical: Callable[[], Mapping[str, Typical]] = dict,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.own = tuple(models)
        self.typical = typical
        self._clock = clock

    def find(self, *, sort: Sort = "model", **filters: Unpack[Filters]) -> list[Listing]:
        """The models for which all of this holds, in the order of *sort*.

        Args:
            sort: "model" (by name), "cost" (three tokens of input to one of output; unknown prices last), "context"
                (largest first) or "latency" (fastest first, those never measured last).
            query: a part of the name.
            capability: one, or several that are all needed: "vision", "tools", ...; see Listing.
            max_input_usd_per_mtok: the dearest that a million tokens of input may be, in US dollars.
            min_context: the smallest context window, in tokens.
            provider: LiteLLM's name of the provider.
            mode: "chat" (the default) or "embedding".
            deprecated: list also what its provider has taken away.

        Raises TypeError or ValueError, with the nearest right name, for a filter, capability, provider, mode or sort
        that there is not; by latency also LedgerError.
        """
        one_of("sort", sort, get_args(Sort))
        wanted = _checked(filters)
        found = list(self._all(wanted))
        if not found and "provider" in wanted:
            one_of(
                "provider",
                wanted["provider"],
                {each.provider for each in self._all(_checked({"mode": wanted["mode"], "deprecated": True}))},
            )
        if sort == "latency":
            seen = self.typical()
            found = [each.measured(seen[each.model].latency_s if each.model in seen else None) for each in found]
        return sorted(found, key=lambda each: (*_ORDERS[sort](each), each.model))

    def cheapest(self, **filters: Unpack[Filters]) -> Listing:
        """That whose tokens cost least, of those with a price. Raises LookupError if there is none, and as find()."""
        return self._first("cost", "with a known price", lambda each: each.usd_per_mtok is not None, filters)

    def fastest(self, **filters: Unpack[Filters]) -> Listing:
        """The one that has answered fastest, by the median of what the ledger has recorded. Raises LookupError if it
        has recorded none of them, and as find()."""
        return self._first("latency", "with an answer in the ledger", lambda each: each.latency_s is not None, filters)

    def largest_context(self, **filters: Unpack[Filters]) -> Listing:
        """The one with the largest context window. Raises LookupError if there is none, and as find()."""
        return self._first("context", "with a known window", lambda each: each.context_window is not None, filters)

    def chain(self, name: str) -> Fallback:
        """A ready chain, for `model=`: "high_quality", "cost_optimized", "fast_latency", "local_only",
        "code_generation", "long_context", "balanced", "analysis" or "simple_tasks"; `llmbridge chains` shows the rule
        and the models of each. Made of what is listed here and the keys in the environment at this moment.

        Raises ValueError for another name, LookupError if the chain has nobody to ask, and says what to do.
        """
        return self.explain_chain(name).fallback()

    def explain_chain(self, name: str) -> Chain:
        """The same, with the reasons: whom it asks and why, and for whom a key is missing. Raises ValueError."""
        from llmbridge.catalog.chains import chain  # here: a query needs nothing of what a Fallback does

        return chain(name, self)

    def _first(self, sort: Sort, what: str, fits: Callable[[Listing], bool], filters: Filters) -> Listing:
        found = next((each for each in self.find(sort=sort, **filters) if fits(each)), None)
        if found is None:
            asked = ", ".join(f"{name}={value!r}" for name, value in filters.items())
            raise LookupError(f"there is no model {what}" + (f" for {asked}" if asked else ""))
        return found

    def _all(self, wanted: Mapping[str, Any]) -> Iterator[Listing]:
        """Those that fit, each once."""
        own = {model.model: model for model in reversed(self.own)}  # of two deployments the first
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        table, mode, flags = bundled(), wanted["mode"], wanted["flags"]
        for key, fields in table.items():
            if fields.get("mode") != mode or not all(map(fields.get, flags)):  # what is quickly told, for most of them
                continue
            name = spelled(key, fields)
            if name is None or (key != name[1] and name[1] in table):
                continue
            if (listing := listing_of(*name, fields, own.get(name[1]), wanted, today)) is not None:
                yield listing
        for model in own.values():
            if not _is_listed(model.model):
                provider = model.model.rpartition("/")[0].partition("/")[0]
                if (listing := listing_of(provider, model.model, {}, model, wanted, today)) is not None:
                    yield listing


def _is_listed(model: str) -> bool:
    """Whether the table has *model*, for whatever it is used."""
    table = bundled()
    found = [spelled(key, table[key]) for key in (model, model.partition("/")[2]) if key in table]
    return any(name is not None and name[1] == model for name in found)


def _cost(each: Listing) -> tuple[bool, Decimal]:
    price = each.usd_per_mtok
    return price is None, price or Decimal(0)


_ORDERS: dict[str, Callable[[Listing], tuple[Any, ...]]] = {
    "model": lambda each: (),
    "cost": _cost,
    "context": lambda each: (-(each.context_window or 0),),
    "latency": lambda each: (each.latency_s is None, each.latency_s or 0.0),
}


def _checked(filters: Filters) -> dict[str, Any]:
    """*filters* in the form in which they are compared. Raises TypeError for a filter that there is not, which must not
    let everything through, and ValueError for what no model could be."""
    for name in filters:
        if name not in Filters.__annotations__:
            raise TypeError(_no_such("filter", name, ("sort", *Filters.__annotations__)))
    wanted: dict[str, Any] = {"mode": filters.get("mode", "chat"), "deprecated": bool(filters.get("deprecated"))}
    one_of("mode", wanted["mode"], MODES)
    given = filters.get("capability", ())
    wanted["capability"] = frozenset([given] if isinstance(given, str) else given)
    for name in wanted["capability"]:
        one_of("capability", name, NAMES)
    wanted["flags"] = [CAPABILITIES[name][0] for name in wanted["capability"] if name in CAPABILITIES]
    wanted["query"] = filters.get("query", "").lower()
    if (provider := filters.get("provider")) is not None:
        wanted["provider"] = provider
    if (window := filters.get("min_context")) is not None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ValueError(f"min_context is a whole number of tokens above 0, not {window!r}")
        wanted["min_context"] = window
    if (price := filters.get("max_input_usd_per_mtok")) is not None:
        wanted["max_input_usd_per_mtok"] = _amount("max_input_usd_per_mtok", price)
    return wanted


def _amount(name: str, value: Any) -> Decimal:
    try:
        price = Decimal("NaN") if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        price = Decimal("NaN")
    if not price.is_finite() or price < 0:
        raise ValueError(f"{name} is US dollars per million tokens, 0 or more, not {value!r}")
    return price


def one_of(what: str, value: object, known: Collection[str]) -> None:
    """Raise ValueError, with the nearest right name, unless *value* is one of *known*."""
    if value not in known:
        raise ValueError(_no_such(what, value, known))


def _no_such(what: str, value: object, known: Collection[str]) -> str:
    from difflib import get_close_matches  # for a mistake alone

    near = get_close_matches(str(value), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(sorted(known)[:20])}"
    return f"there is no {what} {value!r}: {hint}"
