"""What the environment says: `${NAME}` inside a file, and LLMBRIDGE_* besides it or instead of it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmbridge import redaction
from llmbridge.config import OTHERS, PREFIX, variables
from llmbridge.config.reading import Key
from llmbridge.config.tables import LISTED, NAMED, TABLES, Root
from llmbridge.errors import Mistake


MODEL, FALLBACK, BUDGET = "LLMBRIDGE_MODEL", "LLMBRIDGE_FALLBACK", "LLMBRIDGE_BUDGET"
_REFERENCE = re.compile(r"(\$?)\$\{([^}]*)\}?")
_COMMA = re.compile(r",(?!\d{3}\b)|(?<!\d),")  # of a list, and not of "$1,000/day"


def is_secret(key: Key) -> bool:
    """Whether what stands at *key* is a credential, or may hold some."""
    inside = key[2:] if key and key[0] in NAMED else key
    return key[:2] == ("tracing", "headers") or any(redaction.is_credential(str(part)) for part in inside)


class Filling:
    """Puts the values of variables where `${NAME}` stands; `$${` is `${`.

    Attributes:
        used: the names that stand there.
        missing: the keys where something was missing or unreadable, with what.
    """

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.missing: dict[Key, str] = {}

    def filled(self, value: Any, key: Key = ()) -> Any:
        """*value*, all the way down. What is given as a credential is redacted from now on."""
        if isinstance(value, Mapping):
            return {name: self.filled(each, (*key, name)) for name, each in value.items()}
        if isinstance(value, list):
            return [self.filled(each, (*key, index)) for index, each in enumerate(value)]
        if not isinstance(value, str):
            return value
        text = _REFERENCE.sub(lambda found: self._read(found, key), value)
        if is_secret(key):
            redaction.remember([text, text.rpartition(" ")[2]])  # "Bearer KEY" and "KEY"
        return text

    def _read(self, found: re.Match[str], key: Key) -> str:
        escaped, name = found.groups()
        if escaped:
            return found[0][1:]
        self.used.add(name)
        if not re.fullmatch(r"\w+", name) or not found[0].endswith("}"):
            self.missing[key] = f"{found[0]!r} is no reference; write ${{NAME}}, or $${{ for the characters themselves"
        elif not (value := os.environ.get(name)):
            empty = "is empty in" if name in os.environ else "is not in"
            self.missing[key] = f"{name} {empty} the environment; set it: export {name}=..."
        else:
            if redaction.is_credential(name):
                redaction.remember(value)
            return value
        return found[0]


class Variables:
    """LLMBRIDGE_* as keys of a configuration. LLMBRIDGE_<TABLE>_<KEY>, and for a table of tables LLMBRIDGE_<TABLE>_
    <NAME>_<KEY>, or its number, from 1.

    Attributes:
        of: the variable that a key is from.
        mistakes: names that mean nothing, and those that cannot apply.
    """

    def __init__(self) -> None:
        self.of: dict[Key, str] = {}
        self.mistakes: list[Mistake] = []

    def apply(self, data: dict[str, Any], used: set[str]) -> None:
        """Write them into *data*, over what stands there; but for those that are *used* in it."""
        given = {name: value for name, value in variables().items() if name not in used}
        model, others, budget = (given.pop(name, "") for name in (MODEL, FALLBACK, BUDGET))
        for name, value in given.items():
            key = _key(name.removeprefix(PREFIX).lower(), data)
            if key is None or key == ("default",):
                self._unknown(name, data)
            elif value:  # as a shell's ${X:-} leaves it: not set
                self._put(data, key, name, value)
        if others and not model:
            self.mistakes.append(Mistake("default", f"is added to {MODEL}, which is not set", variable=FALLBACK))
        elif model:
            self.of["default",] = MODEL
            data["default"] = [part.strip() for part in f"{model},{others}".split(",") if part.strip()]
        if budget and isinstance(caps := data.setdefault("budgets", []), list):
            for limit in map(str.strip, _COMMA.split(budget)):
                self.of["budgets", len(caps)] = BUDGET
                caps.append({"limit": limit})

    def name(self, key: Key, table: Key | None = None) -> str | None:
        """The variable that *key* is from, or what it is in, or else something in *table*; None if it is from none."""
        within = (self.of[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.of)
        beside = (name for of, name in self.of.items() if table and of[:-1] == table)
        return next(within, None) or next(beside, None)

    def _put(self, data: dict[str, Any], key: Key, name: str, value: str) -> None:
        table: Any = data
        for depth, part in enumerate(key[:-1]):
            inner = _inner(table, part, {} if isinstance(key[depth + 1], str) else [])
            if inner is True:
                inner = table[part] = {}
            if not isinstance(inner, (dict, list)):
                said = f"can never apply: {'.'.join(map(str, key[: depth + 1]))} is {inner!r}"
                self.mistakes.append(Mistake(shown(key), said, variable=name))
                return
            table = inner
        table[key[-1]] = value
        self.of[key] = name
        redaction.remember(value if is_secret(key) else None)

    def _unknown(self, name: str, data: dict[str, Any]) -> None:
        known = [MODEL, FALLBACK, BUDGET, *OTHERS, *_known(data)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        instead = MODEL if name == f"{PREFIX}DEFAULT" else near[0] if near else ""
        hint = f"did you mean {instead}?" if instead else f"variables are called {PREFIX}<TABLE>_<KEY>"
        self.mistakes.append(Mistake("", f"means nothing; {hint}", variable=name))


def shown(key: Key) -> str:
    """*key* for people and for variables: models.primary.rpm, budgets.1.limit."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in key)


def _inner(table: Any, part: str | int, empty: Any) -> Any:
    if isinstance(table, list):
        assert isinstance(part, int)
        if part == len(table):
            table.append(empty)
        if isinstance(table[part], str):  # a budget by its limit alone
            table[part] = {"limit": table[part]}
        return table[part]
    return table.setdefault(part, empty)


def _spelled(name: str) -> str:
    """As the name of a variable has it, without case."""
    return re.sub(r"\W", "_", name).lower()


def _key(rest: str, data: Mapping[str, Any]) -> Key | None:
    """The key that a variable means, by its name without prefix; None if there is none."""
    if rest in Root.model_fields and rest not in (*LISTED, *NAMED):
        return (rest,)
    table, _, rest = rest.partition("_")
    if table == "bridges":
        for name, inner in _tables(data, table):
            if rest.startswith(f"{_spelled(name)}_"):
                key = _key(rest[len(_spelled(name)) + 1 :], inner)
                return None if key is None or key[0] in NAMED or key[0] == "tracing" else (table, name, *key)
        return None
    if table in LISTED:
        number, _, field = rest.partition("_")
        listed = data.get(table, [])
        most = len(listed) + 1 if isinstance(listed, list) else 0
        found = number.isdecimal() and 1 <= int(number) <= most and field in TABLES[table].model_fields
        return (table, int(number) - 1, field) if found else None
    if table not in TABLES:
        return None
    fields = TABLES[table].model_fields
    if table not in NAMED:
        return (table, rest) if rest in fields else None
    field = max((each for each in fields if rest.endswith(f"_{each}")), key=len, default="")
    if not field:
        return None
    name = rest.removesuffix(f"_{field}")
    return (table, next((known for known, _ in _tables(data, table) if _spelled(known) == name), name), field)


def _tables(data: Mapping[str, Any], table: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables of *table*, by name; none where something else stands."""
    found = data.get(table)
    for name, inner in found.items() if isinstance(found, Mapping) else ():
        yield name, inner if isinstance(inner, Mapping) else {}


def _known(data: Mapping[str, Any]) -> Iterator[str]:
    """The names of variables that could be meant."""
    yield from (f"{PREFIX}{name.upper()}" for name in Root.model_fields if name not in (*LISTED, *NAMED))
    for table, of in TABLES.items():
        names = [_spelled(name) for name, _ in _tables(data, table)] if table in NAMED else []
        middles = [f"{name}_" for name in names] if table in NAMED else ["1_"] if table in LISTED else [""]
        yield from (f"{PREFIX}{table}_{middle}{field}".upper() for middle in middles for field in of.model_fields)
