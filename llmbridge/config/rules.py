"""What a configuration says about itself: names that are there, and rules that can apply."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from llmbridge.catalog.chains import CHAINS
from llmbridge.config.reading import Key
from llmbridge.provider.table import PLAIN, bundled


Found = Iterator[tuple[Key, str]]
TYPO = 0.82  # of LiteLLM's 166 providers, none that is missing in its table is as near to one that is in it
HOW = 'write "provider/name" as LiteLLM spells it, or add a table [models.{}]'


class Rules:
    """The mistakes in *data* that lie between its tables; what is wrong with one of them alone is not looked at."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._models, self._chains = dict(_inner(data, "models")), dict(_inner(data, "fallback"))

    def mistakes(self) -> Found:
        """Each with its key."""
        for name, table in self._models.items():
            params = table.get("params")
            custom = isinstance(params, dict) and "custom_llm_provider" in params
            if isinstance(table.get("model"), str) and not custom:
                yield from _typo(table["model"], ("models", name, "model"))
        for name, chain in self._chains.items():
            if name in self._models:
                yield ("fallback", name), "is the name of a model, too; give one of them another name"
            for key, each in _listed(chain, "models"):
                yield from self._named(each, ("fallback", name, *key), alone=False)
            yield from self._quality(name, chain)
        yield from self._of_bridge(self._data, ())
        for name, bridge in _inner(self._data, "bridges"):
            yield from self._of_bridge(bridge, ("bridges", name))

    def patterns(self, given: Any) -> Any:
        """*given*, the `models` of a budget or a limit, with what its names mean: these count by "provider/name"."""
        if not isinstance(given, (str, list)):
            return given
        meant: list[Any] = []
        for each in [part.strip() for part in given.split(",")] if isinstance(given, str) else given:
            meant += self._members(each) if isinstance(each, str) and each in self._chains else [self._asked(each)]
        return meant

    def _members(self, chain: str) -> list[Any]:
        return [self._asked(each) for _, each in _listed(self._chains[chain], "models")]

    def _asked(self, name: Any) -> Any:
        table = self._models.get(name) if isinstance(name, str) else None
        return name if table is None else table.get("model", name)

    def _of_bridge(self, bridge: Mapping[str, Any], at: Key) -> Found:
        default = list(_listed(bridge, "default"))
        for key, each in default:
            yield from self._named(each, (*at, *key), alone=len(default) == 1)
        for table in ("budgets", "limits"):
            rules = bridge.get(table)
            for number, rule in enumerate(rules if isinstance(rules, list) else ()):
                for key, pattern in _listed(rule, "models"):
                    yield from _typo(pattern, (*at, table, number, *key))
                    if self._matches_nothing(pattern):
                        why = "names no model that is configured, so it can never apply; "
                        near = self._near(pattern, {**self._models, **self._chains})
                        yield (*at, table, number, *key), f"{pattern!r} {why}" + (near or HOW.format(pattern))

    def _matches_nothing(self, pattern: str) -> bool:
        """Whether it is certain: calls may name any "provider/name", but only the names that are there."""
        if "/" in pattern or pattern.startswith(("*", "?", "[")) or pattern in self._models or pattern in self._chains:
            return False
        return not any(fnmatchcase(str(self._asked(name)), pattern) for name in self._models)

    def _named(self, name: str, key: Key, *, alone: bool) -> Found:
        if name in self._models or (alone and (name in self._chains or name in CHAINS)):
            return
        if "/" in name:
            yield from _typo(name, key)
            return
        if name in self._chains:
            yield key, f"{name!r} is a fallback, which cannot be one of several models; name its models"
        else:
            near = self._near(name, [*self._models, *([*self._chains, *CHAINS] if alone else [])])
            yield key, f"there is no model {name!r}; " + (near or HOW.format(name))

    @staticmethod
    def _near(name: str, known: Iterable[str]) -> str:
        near = difflib.get_close_matches(name, list(known), n=1)
        return f"did you mean {near[0]!r}?" if near else ""

    def _quality(self, name: str, chain: Mapping[str, Any]) -> Found:
        tables = [self._models.get(each, {}) for _, each in _listed(chain, "models")]
        if chain.get("strategy") == "quality" and tables and not any("quality" in table for table in tables):
            why = "orders nothing: no model of this fallback has a `quality`; set it in their [models] tables"
            yield ("fallback", name, "strategy"), why


@functools.cache
def _providers() -> frozenset[str]:
    """Most of LiteLLM's, from its table: importing its list of them would take 3 s."""
    table = bundled()
    named = {each.partition("/")[0] for each in table if "/" in each}
    return frozenset(named | {str(entry.get("litellm_provider")) for entry in table.values()})


def _typo(name: str, key: Key) -> Found:
    """Whether the provider in *name* is none, but nearly one."""
    provider, slash, _ = name.partition("/")
    if not slash or provider in PLAIN or set("*?[") & set(provider):
        return
    known = _providers()
    near = [] if provider in known else difflib.get_close_matches(provider, known, n=1, cutoff=TYPO)
    if near:
        yield key, f"{name!r}: there is no provider {provider!r}; did you mean {near[0]!r}?"


def _inner(data: Mapping[str, Any], table: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    found = data.get(table)
    for name, inner in found.items() if isinstance(found, Mapping) else ():
        if isinstance(inner, Mapping):
            yield name, inner


def _listed(table: Any, name: str) -> list[tuple[Key, str]]:
    """The texts of a list, or of a text with commas, with their keys."""
    found = table.get(name) if isinstance(table, Mapping) else None
    if isinstance(found, str):
        return [((name,), part.strip()) for part in found.split(",")]
    return [
        ((name, at), each) for at, each in enumerate(found if isinstance(found, list) else ()) if isinstance(each, str)
    ]
