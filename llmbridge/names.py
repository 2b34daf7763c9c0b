"""Names: whom a call asks, by what its `model=` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from llmbridge.fallback import Fallback
from llmbridge.provider import check_stays_here
from llmbridge.provider.table import bundled
from llmbridge.request import Model, Models, Request, check_destination, models_of


class Names:
    """The names that a Bridge knows, and whom it asks when a call says none.

    Attributes:
        known: Models and Fallbacks by name.
    """

    def __init__(self, models: Models, fallback: Fallback | None, known: Mapping[str, Model | Fallback]) -> None:
        for name, meant in known.items():
            if not isinstance(name, str) or not isinstance(meant, (Model, Fallback)):
                raise TypeError(f"names are Models and Fallbacks by name, not {name!r}: {type(meant).__name__}")
        self.known = dict(known)
        self._fallback = fallback or Fallback()
        self._models: tuple[Model, ...] = ()
        self._fallback, self._models = self._meant(models)

    @property
    def models(self) -> tuple[Model, ...]:
        """All that a call may ask by default or by a name, each once."""
        found = [*self._models, *(each for each in self.known.values() if isinstance(each, Model))]
        for each in self.known.values():
            found += self._meant(each)[1] if isinstance(each, Fallback) else ()
        return tuple(each for number, each in enumerate(found) if each not in found[:number])

    def of(self, asked: Request, model: Models | Fallback | None) -> tuple[Fallback, tuple[Model, ...]]:
        """What is done after a failure, and whom to ask. Raises TypeError or ValueError."""
        policy, candidates = (self._fallback, self._models) if model is None else self._meant(model)
        if not candidates:
            raise ValueError(
                "no model: write model='openai/gpt-4o-mini', or Bridge(models=[...]), or set LLMBRIDGE_MODEL, or "
                "`default` in llmbridge.toml"
            )
        check_destination(asked, candidates)
        if policy.local_only:
            check_stays_here([asked.for_model(each) for each in candidates])
        return policy, candidates

    def _meant(self, model: Models | Fallback) -> tuple[Fallback, tuple[Model, ...]]:
        if isinstance(model, str):
            model = self.known.get(model, model)
        if isinstance(model, Fallback):
            policy, named = model, cast(tuple[Model, ...], model.models)
        else:
            policy, named = self._fallback, models_of(model)
        if not named and self._models:
            return policy, self._models
        named = named or cast(tuple[Model, ...], policy.models)
        return policy, tuple(map(self._one, named)) if self.known else named

    def _one(self, model: Model) -> Model:
        """What is meant by the name of *model*, if it says nothing else."""
        name = model.model
        meant = self.known.get(name)
        if isinstance(meant, Fallback):
            raise ValueError(f"{name!r} is a fallback, which cannot be one of several models; write model={name!r}")
        if meant is not None:
            return meant if model == Model(name) else model
        if "/" not in name and name not in bundled():
            from difflib import get_close_matches  # for a mistake alone

            near = get_close_matches(name, self.known, n=1)
            if near:
                raise ValueError(f"the configuration has no {name!r}; did you mean {near[0]!r}?")
        return model
