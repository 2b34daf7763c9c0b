"""The inputs of one request for embeddings: what is known of each, and what came for the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmbridge.cache import Entry
from llmbridge.completion import Embedding, Usage, Vector
from llmbridge.errors import ProviderUnavailable
from llmbridge.request import Request


@dataclass(slots=True)
class Batch:
    """The key of each input, None if it has none, and its entry, None if it is not known."""

    names: list[str | None]
    entries: list[Entry | None]

    @property
    def whole(self) -> bool:
        """Whether every input is known."""
        return None not in self.entries

    @property
    def missing(self) -> list[str]:
        """The keys of what is not known, each once, in an order in which nobody waits in a circle."""
        pairs = zip(self.names, self.entries, strict=True)
        return sorted({name for name, entry in pairs if entry is None and name is not None})

    @property
    def unknown(self) -> list[str | None]:
        """The keys of what is not known, in the order of the inputs."""
        return [name for name, entry in zip(self.names, self.entries, strict=True) if entry is None]

    def learn(self, found: Mapping[str, Entry]) -> None:
        """Take *found* by its keys."""
        for index, name in enumerate(self.names):
            if name is not None and self.entries[index] is None:
                self.entries[index] = found.get(name)

    def left(self, request: Request) -> tuple[Request, dict[int, Vector]]:
        """*request* with what is not known of it, and the vectors of the rest by their places."""
        known = {
            index: Vector(index=index, embedding=entry.vector)
            for index, entry in enumerate(self.entries)
            if entry is not None
        }
        if not known:
            return request, {}
        content = [each for index, each in enumerate(request.content) if index not in known]
        return replace(request, content=content), known

    def saved_nanousd(self) -> int | None:
        """What the known ones cost once; None if nobody knows."""
        costs = [entry.cost_nanousd for entry in self.entries if entry is not None]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def answer(self) -> tuple[Entry, Embedding]:
        """The whole as one answer, and the facts that are true of it."""
        entries = [entry for entry in self.entries if entry is not None]
        oldest = max(entries, key=lambda entry: entry.age_s)
        vectors = [Vector(index=index, embedding=entry.vector) for index, entry in enumerate(entries)]
        tokens = sum(entry.input_tokens or 0 for entry in entries)
        usage = Usage(prompt_tokens=tokens, total_tokens=tokens, estimated=True)  # shares of the batches they came in
        answer = Embedding(model=oldest.model, data=vectors, usage=usage)
        answer._response_model = oldest.response_model
        return replace(oldest, cost_nanousd=self.saved_nanousd(), input_tokens=tokens), answer


def kept_apart(whole: Entry, names: list[str | None], answer: Embedding) -> list[tuple[str, Entry]]:
    """Each vector of *answer* as an entry of its own under one of *names*, with its share of what the *whole* cost."""
    count = len(names)
    share = None if whole.cost_nanousd is None else whole.cost_nanousd // count
    tokens = None if whole.input_tokens is None else whole.input_tokens // count
    return [
        (name, replace(whole, answer=vector, cost_nanousd=share, input_tokens=tokens))
        for name, vector in zip(names, answer.vectors, strict=True)
        if name is not None
    ]


def check_vectors(sent: Embedding, known: Mapping[int, Vector], request: Request, *, status: int | None) -> None:
    """Raise ProviderUnavailable if it cannot be told which vectors belong to the inputs that were sent besides those
    *known*."""
    if known and sorted(vector.index for vector in sent.data) != list(range(len(request.content))):
        raise ProviderUnavailable(
            f"{request.model} gave {len(sent.data)} embeddings for {len(request.content)} inputs",
            model=request.model,
            provider=request.provider,
            status=status,
        )


def merged(sent: Embedding, known: Mapping[int, Vector]) -> Embedding:
    """The vectors of *sent* and those that were *known*, in the places of their inputs."""
    if not known:
        return sent
    fresh = iter([vector.embedding for vector in sorted(sent.data, key=lambda vector: vector.index)])
    total = len(sent.data) + len(known)
    data = [known.get(index) or Vector(index=index, embedding=next(fresh)) for index in range(total)]
    answer = sent.model_copy(update={"data": data})
    answer._response_model = sent._response_model
    return answer
