"""What a configuration may say, table by table. The keys of most are the arguments of what they make."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)

from llmbridge.cache import Cache
from llmbridge.fallback import Fallback, Limit
from llmbridge.ledger import Budget, Ledger
from llmbridge.params import CACHE, PROMPT, EmbedParams, Params, Truncate
from llmbridge.request import Model


def _lenient(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
    """The environment has only text: where a text does not fit, what it says may. As YAML, which reads numbers, truth
    values and JSON; or as a list with commas."""
    try:
        return inner(value)
    except ValidationError:
        if not isinstance(value, str):
            raise
        with suppress(yaml.YAMLError, ValidationError, ValueError):
            return inner(yaml.safe_load(value))
        with suppress(ValidationError):
            return inner([part.strip() for part in value.split(",")])
        raise


def _on_or_off(value: Any) -> Any:
    return None if value is False else {} if value is True else value


def _limit_alone(value: Any) -> Any:
    return {"limit": value} if isinstance(value, str) else value


LENIENT = WrapValidator(_lenient)
_SHOWN = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Names = Annotated[list[str], LENIENT, WithJsonSchema(_SHOWN)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Table(BaseModel):
    """Keys with values; others are a mistake. `made` is what the table says, as an object, if it makes one."""

    model_config = ConfigDict(extra="forbid", strict=True)
    makes: ClassVar[Callable[..., Any] | None] = None
    _made: Any = PrivateAttr(None)

    @property
    def given(self) -> dict[str, Any]:
        """What stands there, by key."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    @property
    def made(self) -> Any:
        """The object."""
        return self._made

    @model_validator(mode="after")
    def _make(self) -> Table:
        make = type(self).makes
        if make is not None:
            try:
                self._made = make(**self.given)
            except TypeError as error:
                raise ValueError(str(error)) from None
        return self


def _table(
    name: str,
    of: Callable[..., Any],
    *,
    without: Iterable[str] = (),
    required: Iterable[str] = (),
    makes: bool = True,
    **types: Any,
) -> Any:
    """A Table with the arguments of *of*, but for those in *without*, and with other *types* where it takes objects;
    *required*: what has to be said here."""
    hints = get_type_hints(of if dataclasses.is_dataclass(of) else of.__init__)
    fields: dict[str, Any] = {}
    for each in inspect.signature(of).parameters.values():
        if each.name in without:
            continue
        default = ... if each.default is each.empty or each.name in required else each.default
        shown = default is None or default is ... or isinstance(default, (str, int, float))
        hint = types.get(each.name, hints[each.name])
        fields[each.name] = (Annotated[hint, LENIENT], default if shown else Field(default_factory=lambda: None))
    table = create_model(name, __base__=Table, __doc__=f"See llmbridge.{of.__name__}.", **fields)
    table.makes = of if makes else None
    return table


if TYPE_CHECKING:  # which knows no class that is made
    ParamsTable = Table
    ModelTable = Table
    FallbackTable = Table
    BudgetTable = Table
    LimitTable = Table
    CacheTable = Table
    LedgerTable = Table
else:
    # Typed, since what a variable says is text: "0.2" would be sent as it is.
    ParamsTable = create_model(
        "ParamsTable",
        __base__=Table,
        __doc__="LiteLLM's parameters, for every call of the model.",
        **{
            name: (Annotated[hint, LENIENT], Field(default_factory=lambda: None))
            for name, hint in (get_type_hints(Params) | get_type_hints(EmbedParams)).items()
            if name not in CACHE | PROMPT
        },
    )
    ModelTable = _table(
        "ModelTable",
        Model,
        params=Annotated[ParamsTable, AfterValidator(lambda table: table.given)],
        extra_headers=dict[str, str] | None,
    )
    FallbackTable = _table(
        "FallbackTable",
        Fallback,
        without=["accept"],
        required=["models"],
        models=Annotated[Names, Field(min_length=1)],
        strategy=str,
        on=Names,
    )
    BudgetTable = _table("BudgetTable", Budget, per=Names, models=Names, alert_at=list[Annotated[float, LENIENT]])
    LimitTable = _table("LimitTable", Limit, per=Names, models=Names)
    CacheTable = _table("CacheTable", Cache, without=["clock"], directory=str, namespace=Names)
    LedgerTable = _table(
        "LedgerTable",
        Ledger,
        without=["clock"],
        makes=False,  # which would make the file
        path=str,
        patience_s=Annotated[float, Field(ge=0, allow_inf_nan=False)],
        retention_days=Annotated[int, Field(gt=0)],
    )


class TracingTable(Table):
    """See llmbridge.tracing.start(). metrics: whether they are sent besides the spans; Jaeger takes spans alone."""

    endpoint: Annotated[str | None, LENIENT] = None
    protocol: Annotated[Literal["http/protobuf", "grpc"] | None, LENIENT] = None
    headers: Annotated[dict[str, str] | None, LENIENT] = None
    service_name: Annotated[str | None, LENIENT] = None
    flush_s: Annotated[Seconds, LENIENT] = 5.0
    metrics: Annotated[bool, LENIENT] = True


def _also_off(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"type": "boolean"} if each == {"type": "null"} else each for each in schema["anyOf"]]
    schema.pop("default", None)


def _also_text(schema: dict[str, Any]) -> None:
    schema["items"] = {"anyOf": [{"type": "string"}, schema["items"]]}


_OFF = (BeforeValidator(_on_or_off), LENIENT, Field(json_schema_extra=_also_off))


class BridgeTable(Table):
    """What one Bridge says: whom it asks, its caps, and where it keeps things."""

    default: Names = []
    deadline_s: Annotated[Seconds, LENIENT] = 600.0
    propagate: Annotated[bool, LENIENT] = False
    max_input_tokens: Annotated[int | None, Field(gt=0), LENIENT] = None
    truncate: Truncate = "error"
    budgets: Annotated[
        list[Annotated[BudgetTable, BeforeValidator(_limit_alone)]], Field(json_schema_extra=_also_text)
    ] = []
    limits: list[LimitTable] = []
    cache: Annotated[CacheTable | None, *_OFF] = Field(default_factory=CacheTable)
    ledger: Annotated[LedgerTable | None, *_OFF] = Field(default_factory=LedgerTable)


class Root(BridgeTable):
    """The configuration of llmbridge: llmbridge.toml."""

    models: dict[str, ModelTable] = {}
    fallback: dict[str, FallbackTable] = {}
    bridges: dict[str, BridgeTable] = {}
    tracing: Annotated[TracingTable | None, *_OFF] = None


TABLES: dict[str, type[Table]] = {
    "models": ModelTable,
    "fallback": FallbackTable,
    "budgets": BudgetTable,
    "limits": LimitTable,
    "cache": CacheTable,
    "ledger": LedgerTable,
    "tracing": TracingTable,
    "bridges": BridgeTable,
}
NAMED = ("models", "fallback", "bridges")  # tables of tables, by name
LISTED = ("budgets", "limits")


def fields_at(key: tuple[str | int, ...]) -> list[str]:
    """The keys that may stand in the table at *key*."""
    if not key:
        return list(Root.model_fields)
    first = key[0]
    table = TABLES.get(str(first))
    depth = 1 + (first in NAMED or first in LISTED)
    if first == "bridges" and len(key) > depth:
        return fields_at(key[depth:])
    if first == "models" and key[depth:] == ("params",):
        return list(ParamsTable.model_fields)
    return list(table.model_fields) if table is not None and len(key) == depth else []


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_referable(Root.model_json_schema())}


def _referable(schema: Any) -> Any:
    """*schema*, in which what is no text may be a text with a reference."""
    if isinstance(schema, list):
        return [_referable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _referable(each) for name, each in schema.items()}
    table = "properties" in inner or "$ref" in str(inner.get("additionalProperties"))
    if table or inner.get("type") not in ("number", "integer", "boolean", "object"):
        return inner
    outer = {name: inner.pop(name) for name in ("default", "title") if name in inner}
    return {**outer, "anyOf": [inner, {"type": "string", "pattern": r"^\$\{\w+\}$"}]}
