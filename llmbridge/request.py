"""What is asked: models, messages, parameters, tags; checked before anything is sent."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Literal, cast

from llmbridge import redaction
from llmbridge.params import CACHE, INSTEAD, PROMPT, TRANSPORT, EmbedParams, Params, check_names


if TYPE_CHECKING:
    from pydantic import BaseModel

Verb = Literal["chat", "embeddings"]
Inputs = str | Sequence[str] | Sequence[Sequence[int]]
Messages = str | Sequence[Mapping[str, Any]]
OWN = ("model", "budget", "cache", "tags", "deadline_s", "response_model", "first_chunk_s", "chunk_gap_s")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class Hidden(dict[str, Any]):
    """A dict whose repr shows names only, so that no traceback with local variables shows a credential."""

    def __repr__(self) -> str:
        return f"<{', '.join(self) or 'nothing'}>"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that may be asked, with where and how to reach it.

    Attributes:
        model: "provider/name", as LiteLLM spells it.
        api_base, api_key, api_version, extra_headers: for this model alone; by default LiteLLM's usual variables.
        params: further parameters for this model alone; they win over those of the call.
        input_usd_per_mtok, output_usd_per_mtok: US dollars per million tokens, for a model without a price in LiteLLM's
            table or with another one; both or neither. Kept as Decimal, a float by its shortest decimal text.
        max_output_tokens: the most that the model can answer, for a model of which LiteLLM does not know it.
        rpm, tpm: requests and tokens a minute that this process may ask of it; see Limit.
        concurrency: how many calls of this process may ask it at a time; "adaptive": as many as go well.
        weight: its share of the calls, for the strategy "weighted".
        quality: how good its answers are, on any scale, for the strategies "quality" and "balanced".
    """

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_version: str | None = None
    extra_headers: Mapping[str, str] | None = field(default=None, repr=False)
    params: Mapping[str, Any] = field(default_factory=Hidden, repr=False)
    input_usd_per_mtok: Decimal | float | str | None = None
    output_usd_per_mtok: Decimal | float | str | None = None
    max_output_tokens: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | Literal["adaptive"] | None = None
    weight: float = 1.0
    quality: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise TypeError(f"a model is a name such as 'openai/gpt-4o-mini', not {self.model!r}")
        if kept := (CACHE | PROMPT) & self.params.keys():
            raise TypeError(f"{min(kept)!r} goes into the call, not into a Model")
        check_names(self.params, {**Params.__annotations__, **EmbedParams.__annotations__}, ())
        check_seconds("timeout", self.params.get("timeout"))
        _checked({name: value for name, value in self.params.items() if name not in TRANSPORT})
        _remember({**self.params, **self.transport})
        object.__setattr__(self, "params", Hidden(self.params))
        for name in ("input_usd_per_mtok", "output_usd_per_mtok"):
            object.__setattr__(self, name, _price(name, getattr(self, name)))
        if (self.input_usd_per_mtok is None) != (self.output_usd_per_mtok is None):
            raise ValueError("give input_usd_per_mtok= and output_usd_per_mtok= both, or neither")
        limit = self.max_output_tokens
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError(f"max_output_tokens is a whole number of tokens above 0, not {limit!r}")
        check_limits(self.rpm, self.tpm, self.concurrency)
        for name, value in (("weight", self.weight), ("quality", self.quality)):
            if value is not None and not (_is_number(value) and value >= 0):
                raise ValueError(f"{name} is a number, 0 or more, not {value!r}")

    @property
    def transport(self) -> Hidden:
        """What this model adds to the call's transport parameters."""
        fields = ("api_base", "api_key", "api_version", "extra_headers")
        return Hidden({name: value for name in fields if (value := getattr(self, name)) is not None})


Models = str | Model | Sequence[str | Model]


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one model.

    `params` can change the answer, `transport` cannot: it is where the request goes, with which credentials. Both are
    the caller's own objects at the leaves: nothing here or in `provider` changes them. The prices and the limit are
    those that the Model gives itself; None: LiteLLM's table knows, or nobody does.
    """

    verb: Verb
    model: str
    content: Any
    params: Hidden
    transport: Hidden = field(default_factory=Hidden)
    response_model: type[BaseModel] | None = None
    input_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None
    max_output_tokens: int | None = None

    @property
    def provider(self) -> str:
        """LiteLLM's name of the provider, as far as the request says it; empty for a bare model name."""
        return str(self.transport.get("custom_llm_provider") or self.model.rpartition("/")[0].partition("/")[0])

    def for_model(self, model: Model) -> Request:
        """The same question to *model*."""
        params, transport = Hidden(self.params), Hidden(self.transport)
        for name, value in model.params.items():
            (transport if name in TRANSPORT else params)[name] = value
        transport.update(model.transport)
        return Request(
            self.verb,
            model.model,
            self.content,
            params,
            transport,
            self.response_model,
            cast(Decimal | None, model.input_usd_per_mtok),
            cast(Decimal | None, model.output_usd_per_mtok),
            model.max_output_tokens,
        )

    def owning(self) -> Request:
        """The same question, for no model yet, which no longer changes with what the caller gave."""
        return Request(self.verb, self.model, copied(self.content), self.params, self.transport, self.response_model)

    def repaired(self, answer: str, complaint: str) -> Request:
        """The same question after a wrong *answer*: the model is shown what it said and what is wrong with it."""
        ask = f"That answer does not fit the schema:\n{complaint}\nAnswer again, with the corrected JSON alone."
        said = [{"role": "assistant", "content": answer}, {"role": "user", "content": ask}]
        return replace(self, content=[*self.content, *said])


def models_of(models: Models) -> tuple[Model, ...]:
    """Each as a Model, in their order. Raises TypeError for anything else."""
    if not isinstance(models, (str, Model, list, tuple)):
        raise TypeError(f"model is 'provider/name', a Model, or a list of them, not {type(models).__name__}")
    listed = [models] if isinstance(models, (str, Model)) else list(models)
    return tuple(entry if isinstance(entry, Model) else Model(entry) for entry in listed)


def chat(messages: Messages, params: dict[str, Any], response_model: type[BaseModel] | None) -> Request:
    """Check *messages* and *params* and make a Request of them, for no model yet.

    Raises TypeError or ValueError for whatever no provider could accept. Takes the credentials out of *params*, so that
    no frame of a traceback still shows them.
    """
    transport = _transport(params)
    check_names(params, Params.__annotations__, OWN)
    if _is_model_class(params.get("response_format")):
        raise TypeError("a pydantic class goes into response_model=, not response_format=")
    if response_model is not None and "response_format" in params:
        raise TypeError("give response_model= or response_format=, not both")
    if response_model is not None and not _is_model_class(response_model):
        raise TypeError(f"response_model is a pydantic model class, not {response_model!r}")
    content = _messages(messages)
    _check_json("messages", messages if isinstance(messages, str) else content)
    return Request("chat", "", content, _checked(params), transport, response_model)


def embeddings(inputs: Inputs, params: dict[str, Any]) -> Request:
    """Check *inputs* and *params* and make a Request of them, for no model yet. Raises and takes as chat() does."""
    transport = _transport(params)
    check_names(params, EmbedParams.__annotations__, OWN[:5])
    if not isinstance(inputs, (str, list, tuple)):
        raise TypeError(f"inputs is a text or a list of them, not {type(inputs).__name__}")
    content = [inputs] if isinstance(inputs, str) else list(inputs)
    if not content:
        raise ValueError("inputs is empty: there is nothing to embed")
    for number, text in enumerate(content):
        if not isinstance(text, (str, list, tuple)):
            raise TypeError(f"inputs[{number}] is {type(text).__name__}, not a text or a list of token ids")
        if not text:
            raise ValueError(f"inputs[{number}] is empty, which no provider embeds")
    _check_json("inputs", content)
    return Request("embeddings", "", content, _checked(params), transport)


def check_destination(request: Request, candidates: Sequence[Model]) -> None:
    """Refuse to send one provider's key, or address, to another provider."""
    shared = [name for name in ("api_key", "api_base", "extra_headers") if name in request.transport]
    if not shared or len(candidates) == 1:
        return
    open_to = {request.for_model(model).provider for model in candidates if set(shared) - set(model.transport)}
    if len(open_to) > 1:
        raise ValueError(
            f"{', '.join(shared)} would go to {len(open_to)} providers ({', '.join(sorted(open_to))}); "
            f"give each model its own: Model({candidates[0].model!r}, {shared[0]}=...)"
        )


def _price(name: str, value: Any) -> Decimal | None:
    if value is None:
        return None
    if not isinstance(value, bool) and isinstance(value, (Decimal, float, int, str)):
        try:
            price = Decimal(str(value))
        except InvalidOperation:
            price = Decimal("NaN")
        if price.is_finite() and price >= 0:
            return price
    raise ValueError(f"{name} is US dollars per million tokens, 0 or more, not {value!r}")


def _transport(params: dict[str, Any]) -> Hidden:
    transport = Hidden({name: params.pop(name) for name in list(params) if name in TRANSPORT})
    _remember(transport)
    check_seconds("timeout", transport.get("timeout"))
    return Hidden({name: value for name, value in transport.items() if value is not None})


def _remember(transport: Mapping[str, Any]) -> None:
    for name, value in transport.items():
        if name == "extra_headers":
            secret = [text for header, text in (value or {}).items() if redaction.is_credential(header)]
            redaction.remember([*secret, *(text.rpartition(" ")[2] for text in secret)])  # "Bearer KEY" and "KEY"
        elif redaction.is_credential(name):
            redaction.remember(value)


def _checked(params: dict[str, Any]) -> Hidden:
    for name, value in params.items():
        _check_json(name, value)
    _check_special(params.get("provider_params"))
    return Hidden({name: value for name, value in params.items() if value is not None})


def _check_special(params: Any) -> None:
    """No way round what this package decides: where a request goes, retries, streaming."""
    if params is None:
        return
    if not isinstance(params, Mapping):
        raise TypeError(f"provider_params is a dict, not {type(params).__name__}")
    for name in params:
        if name in TRANSPORT or name in INSTEAD or name in {"model", "messages", "stream_options"}:
            raise TypeError(f"{name!r} does not go into provider_params: {INSTEAD.get(name, 'it is an argument')}")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _is_model_class(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "model_json_schema")


def _messages(messages: Any) -> list[Mapping[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, (Mapping, bytes, bytearray)) or not isinstance(messages, Sequence):
        raise TypeError(f"messages is a str or a list of dicts, not {type(messages).__name__}")
    if not messages:
        raise ValueError("messages is empty: there is nothing to answer")
    # A message of an earlier answer, appended as it is, is one too.
    plain = [each.model_dump(exclude_none=True) if hasattr(each, "model_dump") else each for each in messages]
    for number, message in enumerate(plain):
        _check_message(f"messages[{number}]", message)
    return plain


def copied(value: Any) -> Any:
    """A copy of what is JSON, all the way down; ten times as fast as deepcopy, which makes that of the rest."""
    kind = type(value)
    if kind is str or kind is int or kind is float or kind is bool or value is None:
        return value
    if kind is list:
        return [copied(item) for item in value]
    if kind is dict:
        return {name: copied(item) for name, item in value.items()}
    return copy.deepcopy(value)


def _check_message(name: str, message: Any) -> None:
    if not isinstance(message, Mapping):
        raise TypeError(f"{name} is {type(message).__name__}, not a dict with 'role' and 'content'")
    role = message.get("role")
    if role not in ROLES:
        raise ValueError(f"{name} has role {role!r}; it is one of {', '.join(ROLES)}")
    content = message.get("content")
    if content is None and role in ("system", "developer", "user"):
        raise ValueError(f"{name} ({role}) has no content")
    if content is not None and not isinstance(content, (str, list, tuple)):
        raise TypeError(f"{name}['content'] is {type(content).__name__}, not str or a list of parts")
    if isinstance(content, (list, tuple)):
        for number, part in enumerate(content):
            if not isinstance(part, (Mapping, str)):
                raise TypeError(f"{name}['content'][{number}] is {type(part).__name__}, not a dict with 'type'")


def _check_json(name: str, value: Any) -> None:
    """Raise TypeError or ValueError unless *value* can be written as JSON in UTF-8."""
    try:
        (value if type(value) is str else _encode(value)).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} holds a lone surrogate, which cannot be written as UTF-8; "
            "clean the text with text.encode('utf-8', 'replace').decode()"
        ) from None
    except TypeError as exc:
        raise TypeError(f"{name} cannot be written as JSON: {exc}") from None
    except ValueError as exc:
        raise ValueError(f"{name} cannot be written as JSON: {exc}") from None


def check_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Tags are short strings by name. Raises TypeError or ValueError for anything else."""
    for name, value in (tags or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"tags are strings by name, not {name!r}: {value!r}")
        _check_json("tags", [name, value])
    return dict(tags or {})


def check_limits(rpm: float | None, tpm: float | None, concurrency: int | str | None) -> None:
    """Raise ValueError for a limit that nothing, or everything, could pass."""
    for name, value in (("rpm", rpm), ("tpm", tpm)):
        if value is not None and not (_is_number(value) and value > 0):
            raise ValueError(f"{name} is a number above 0, not {value!r}")
    whole = isinstance(concurrency, int) and not isinstance(concurrency, bool) and concurrency > 0
    if concurrency is not None and concurrency != "adaptive" and not whole:
        raise ValueError(f"concurrency is a whole number above 0, or 'adaptive', not {concurrency!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_seconds(name: str, value: float | None) -> None:
    """A time span is a positive number of seconds."""
    if value is not None and not (_is_number(value) and value > 0):
        raise ValueError(f"{name} is a number of seconds above 0, not {value!r}")
