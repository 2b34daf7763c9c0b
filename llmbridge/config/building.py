"""From data to what a Bridge is made of, or to all that is wrong with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

from pydantic import ValidationError

from llmbridge import tracing
from llmbridge.catalog import Catalog
from llmbridge.catalog.chains import CHAINS
from llmbridge.config import Configuration, Source
from llmbridge.config.environment import Filling, Variables, is_secret, shown
from llmbridge.config.reading import Document, Key
from llmbridge.config.rules import Rules
from llmbridge.config.tables import LISTED, BridgeTable, Root, fields_at
from llmbridge.errors import ConfigError, Mistake
from llmbridge.fallback import Fallback
from llmbridge.ledger import Budget, distinct
from llmbridge.params import INSTEAD
from llmbridge.redaction import MASK, redact
from llmbridge.request import Hidden, Model


_PLACES = (("cache", "directory"), ("ledger", "path"))  # beside the file, if they are relative
PLAIN = ("deadline_s", "propagate", "max_input_tokens", "truncate")  # arguments of a Bridge as they stand
MAPPINGS = ("extra_headers", "params")  # as text, from the environment, of which the parts are not known
_USER_IN_URL = re.compile(r"(?<=//)[^/@\s]+(?=@)")


def build(document: Document, name: str | None) -> Configuration:
    """What *document* and the environment say, for the Bridge *name*. Raises ConfigError, with all that is wrong."""
    return _Building(document).configuration(name)


class _Building:
    def __init__(self, document: Document) -> None:
        self._document = document
        filling = Filling()
        self._data: dict[str, Any] = filling.filled(document.data)
        _settle(self._data, document.path)
        self._variables = Variables()
        self._variables.apply(self._data, filling.used)
        self._missing = filling.missing
        self._wrong: dict[Key, list[str]] = {key: [what] for key, what in filling.missing.items()}

    def configuration(self, name: str | None) -> Configuration:
        self._say_names_of_models()
        sources = tuple(self._sources(self._data, ()))
        rules = Rules(self._data)
        for key, what in rules.mistakes():
            self._add(key, what)
        self._count_by_names(rules)
        root = self._checked()
        if root is not None:
            if name is not None and name not in root.bridges:
                self._add(("bridges",), f"has no {name!r}; it has {', '.join(root.bridges) or 'none'}")
            for each in (None, *root.bridges):
                self._check_money(root, each)
                self._check_prompt(root, each)
            self._check_tracing(root)
        self._raise()
        assert root is not None
        return self._made(root, name, sources)

    def _say_names_of_models(self) -> None:
        """[models."openai/gpt-4o"] needs no `model`: it says how that one is asked wherever it is named."""
        tables = self._data.get("models")
        for name, table in tables.items() if isinstance(tables, dict) else ():
            if isinstance(table, dict) and "/" in name:
                table.setdefault("model", name)

    def _count_by_names(self, rules: Rules) -> None:
        for table in (self._data, *_values(self._data.get("bridges"))):
            for rule in [each for name in LISTED for each in _values(table.get(name))]:
                if "models" in rule:
                    rule["models"] = rules.patterns(rule["models"])

    def _checked(self) -> Root | None:
        try:
            return Root.model_validate(self._data)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                key, what = self._explained(cast(Mapping[str, Any], each))
                self._add(key, what)
            return None

    def _explained(self, error: Mapping[str, Any]) -> tuple[Key, str]:
        key, value = self._known_part(error["loc"])
        if error["type"] == "extra_forbidden":
            return key, _unknown(key)
        if error["type"] == "missing":
            return error["loc"], "is missing"
        if error["type"] == "value_error":
            what = str(error["ctx"]["error"])
            return (*key, *_blamed(what, value)), what
        what = error["msg"].replace("Input should", "should")
        hidden = isinstance(value, (dict, list)) or is_secret(key) or key[-1] in MAPPINGS
        return key, what if hidden else f"{what}, not {value!r}"

    def _known_part(self, place: Key) -> tuple[Key, Any]:
        """The part of pydantic's *place* that stands in the data: it goes on with the name of a type."""
        value: Any = self._data
        for end, part in enumerate(place):
            inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
            if not inside:
                return place[:end], value
            value = value[part]
        return place, value

    def _add(self, key: Key, what: str) -> None:
        if not any(key[: len(missing)] == missing for missing in self._missing):  # what that leads to is said by it
            self._wrong.setdefault(key, []).append(what)

    def _raise(self) -> None:
        found = [*self._variables.mistakes]
        for key, whats in self._wrong.items():
            variable = self._variables.name(key, None if key[:-1] in self._document.lines else key[:-1])
            line = None if variable else self._document.line(key)
            found.append(Mistake(shown(key), redact("; or ".join(dict.fromkeys(whats))), line, variable))
        if found:
            _raise(self._document.path, sorted(found, key=lambda each: (each.line or 0, each.variable or "", each.key)))

    def _sources(self, value: Any, key: Key) -> Iterator[Source]:
        if isinstance(value, dict) and value:
            for name, each in value.items():
                yield from self._sources(each, (*key, name))
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            for index, each in enumerate(value):
                yield from self._sources(each, (*key, index))
        else:
            variable = self._variables.name(key)
            line = None if variable else self._document.line(key)
            yield Source(shown(key), _masked(key, value), line, variable)

    def _check_money(self, root: Root, name: str | None) -> None:
        at: Key = () if name is None else ("bridges", name)
        own = root if name is None else root.bridges[name]
        said = own if "ledger" in own.model_fields_set else root
        if said.ledger is None and (own.budgets or root.budgets):
            key = (*at, "ledger") if said is own else (*at, "budgets") if own.budgets else ("ledger",)
            self._add(key, "budgets cannot be kept while the ledger is off; take away one of them")
        budgets: tuple[Budget, ...] = ()
        for place, each in _budgets(root, name):
            try:
                budgets = distinct([*budgets, each])
            except ValueError as error:
                self._add(place, str(error))

    def _check_prompt(self, root: Root, name: str | None) -> None:
        at, own = ((), root) if name is None else (("bridges", name), root.bridges[name])
        if "truncate" in own.given and not (own.max_input_tokens or root.max_input_tokens):
            self._add((*at, "truncate"), "needs max_input_tokens, the number of tokens to fit into")

    def _check_tracing(self, root: Root) -> None:
        wanted = _tracing(root)
        try:
            if wanted:
                tracing.check(wanted)
        except ConfigError as error:
            self._add(("tracing",), str(error))

    def _made(self, root: Root, name: str | None, sources: tuple[Source, ...]) -> Configuration:
        tables: list[BridgeTable] = [root] if name is None else [root.bridges[name], root]
        models: dict[str, Model] = {known: table.made for known, table in root.models.items()}
        chains: dict[str, Fallback] = {known: _chain(table.made, models) for known, table in root.fallback.items()}
        said = {each: value for table in reversed(tables) for each, value in table.given.items()}
        cache, ledger, default = said.get("cache", root.cache), said.get("ledger", root.ledger), said.get("default", [])
        if len(default) == 1 and default[0] in CHAINS and default[0] not in models | chains:
            chains[default[0]] = self._ready(default[0], models)
        arguments = {
            "models": default[0] if len(default) == 1 else default,
            "names": models | chains,
            "cache": None if cache is None else cache.made,
            "ledger": None if ledger is None else ledger.given.get("path", ""),
            "budgets": distinct([each for _, each in _budgets(root, name)]),
            "limits": [each.made for table in tables for each in table.limits],
        }
        arguments |= {each: said[each] for each in PLAIN if each in said}
        options = {} if ledger is None else {each: value for each, value in ledger.given.items() if each != "path"}
        return Configuration(self._document.path, Hidden(arguments), options, _tracing(root), sources)

    def _ready(self, name: str, models: Mapping[str, Model]) -> Fallback:
        try:
            return Catalog(list(models.values())).chain(name)
        except LookupError as error:
            self._add(("default",), str(error.args[0]))
            self._raise()
            raise


def _budgets(root: Root, name: str | None) -> list[tuple[Key, Budget]]:
    """All that hold for the Bridge *name*, with their keys."""
    own: list[tuple[Key, BridgeTable]] = [] if name is None else [(("bridges", name), root.bridges[name])]
    return [
        ((*at, "budgets", number), each.made)
        for at, table in [*own, ((), root)]
        for number, each in enumerate(table.budgets)
    ]


def _tracing(root: Root) -> Mapping[str, Any] | Literal[False] | None:
    if "tracing" not in root.model_fields_set:
        return None
    return False if root.tracing is None else root.tracing.given


def _raise(path: Path | None, mistakes: list[Mistake]) -> NoReturn:
    where = str(path) if path else "the environment"
    if len(mistakes) == 1 and mistakes[0].line:
        message = f"{where}, {mistakes[0]}"
    elif len(mistakes) == 1:
        message = f"{where}: {mistakes[0]}"
    else:
        message = f"{where} has {len(mistakes)} mistakes:\n" + "\n".join(f"  {each}" for each in mistakes)
    line = next((each.line for each in mistakes if each.line), None)
    raise ConfigError(message, path=str(path) if path else None, line=line, mistakes=mistakes)


def _values(found: Any) -> list[dict[str, Any]]:
    """The tables of a table of tables, or of a list."""
    each = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return [table for table in each if isinstance(table, dict)]


def _settle(data: dict[str, Any], path: Path | None) -> None:
    """Make relative places those beside the file."""
    for table in (data, *_values(data.get("bridges"))):
        for name, key in _PLACES:
            inner = table.get(name)
            if path is not None and isinstance(inner, dict) and isinstance(inner.get(key), str):
                inner[key] = str(path.parent / Path(inner[key]).expanduser())


def _chain(chain: Fallback, models: Mapping[str, Model]) -> Fallback:
    named = cast(tuple[Model, ...], chain.models)
    return replace(chain, models=tuple(models.get(each.model, each) for each in named))


def _blamed(what: str, table: Any) -> Key:
    """The key that a message is about: the first that it names, or whose value it shows."""
    named = table.items() if isinstance(table, dict) else ()
    for name, value in named:
        if re.search(rf"\b{re.escape(name)}\b", what) or repr(value) in what:
            return (name,)
    return next(((name, *inner) for name, value in named if (inner := _blamed(what, value))), ())


def _unknown(key: Key) -> str:
    name = str(key[-1])
    if key[0] == "models" and len(key) == 3 and name in fields_at((*key[:-1], "params")):
        return f"goes into the table [{shown(key[:-1])}.params]"
    if key[2:3] == ("params",) and name in INSTEAD:
        return f"is no key; {INSTEAD[name]}"
    known = fields_at(key[:-1])
    near = difflib.get_close_matches(name, known, n=1)
    return "is no key; " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")


def _masked(key: Key, value: Any) -> Any:
    if value and (is_secret(key) or (key[-1] in MAPPINGS and isinstance(value, str))):
        return MASK
    if isinstance(value, list):
        return [_masked(key, each) for each in value]
    return redact(_USER_IN_URL.sub(MASK, value), limit=None) if isinstance(value, str) else value
