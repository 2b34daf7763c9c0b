"""How the cassettes are made: `python -m tests.recording` makes all of them against the project's own simulator.

`python -m tests.recording --live` makes those that a real provider can answer from the provider, where its key is in
the environment, and says which it skipped. The first line of each file says which of the two it is. A replay asks the
providers' own addresses, so those stand in the files; against the simulator they are written in afterwards.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from llmbridge.bridge import Bridge
from llmbridge.cassette import replay
from llmbridge.errors import LLMBridgeError, ProviderError
from llmbridge.fallback import Fallback
from llmbridge.request import Model
from tests import providers
from tests.providers import PROVIDERS, Provider
from tests.simulator import Fault, Reply, Simulator, Step


FOLDER = Path(__file__).parents[1] / "cassettes"
DEMO = FOLDER.parent / "llmbridge" / "cli" / "demo.yaml"
SIMULATED = "# Recorded against this project's own loopback simulator (tests/simulator), not against a provider.\n"
LIVE = "# Recorded live against the provider.\n"

OPENAI, ANTHROPIC = providers.OPENAI.chat, providers.ANTHROPIC.chat
OLLAMA = providers.OLLAMA.chat
# The four that everything else is shown on.
FIRST = (providers.OPENAI, providers.ANTHROPIC, providers.GEMINI, providers.OLLAMA)
CHATS = {row.file: row.chat for row in FIRST}
EMBEDDERS = {row.file: row.embedder for row in FIRST if row.embedder}

ASKED = "Name a fish and say why."
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501
PICTURE = "https://upload.wikimedia.org/wikipedia/commons/d/dd/Gfp-wisconsin-madison-the-nature-boardwalk.jpg"
CATCH = {
    "type": "function",
    "function": {
        "name": "catch",
        "description": "Catch fish.",
        "parameters": {
            "type": "object",
            "properties": {"kind": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["kind", "count"],
        },
    },
}
CALL = ("catch", {"kind": "trout", "count": 2})
JSON = '{"kind": "trout", "length_cm": 38.5}'


class Fish(BaseModel):
    kind: str
    length_cm: float


TEXT = Reply("Trout, because it swims upstream.", input_tokens=14, output_tokens=8)
TOOL_CALL = Reply(tool_calls=[CALL], input_tokens=61, output_tokens=17)
THOUGHT = Reply("Trout.", reasoning="It swims upstream.", input_tokens=14, output_tokens=9, reasoning_tokens=5)
FITS = Reply(JSON, input_tokens=40, output_tokens=13)
DEMO_ASKED = "Name a fish and say why it is your favourite."
ANSWER = (
    "The rainbow", " trout,", " because", " it swims", " against", " the current,", " leaps over", " what stands",
    " in its way,", " and still finds", " its way home", " after years at sea.",
)  # fmt: skip


def sees(url: str) -> list[dict[str, Any]]:
    picture = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]


Column = Literal["complete", "stream", "tools", "embeddings", "errors"]


@dataclass(frozen=True)
class Case:
    """One behaviour, asked in both colours, and the one file that answers it.

    *script* is what the simulator says, and so what a replay of its recording must give. Without `live`, no provider
    can be made to say it. What *proves* something stands for a column of the README's table of providers; of its
    "errors" the question is asked once for each step of the script.
    """

    name: str
    verb: Literal["complete", "stream", "embed"]
    model: str
    script: tuple[Step, ...]
    content: Any = ASKED
    arguments: Mapping[str, Any] = field(default_factory=dict)
    live: bool = True
    row: Provider = providers.OPENAI
    proves: Column | None = None

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.yaml"

    @property
    def replayed(self) -> Model:
        """The model as it is asked when its recording is played."""
        return self.row.model(self.model, None)


def case(
    name: str, verb: Any, model: str, *script: Step, content: Any = ASKED, live: bool = True, **asked: Any
) -> Case:
    row = next(row for row in FIRST if model in (row.chat, row.embedder))
    return Case(name, verb, model, script, content, asked, live, row)


TOOLS: dict[str, Any] = {"content": "Catch two trout.", "tools": [CATCH], "max_tokens": 200}
PARSED: dict[str, Any] = {"content": "Describe a fish.", "response_model": Fish, "max_tokens": 200}
AS_JSON: dict[str, Any] = {
    "content": "Describe a fish in JSON.",
    "response_format": {"type": "json_object"},
    "max_tokens": 200,
}
THINKING: dict[str, dict[str, Any]] = {
    "anthropic": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000},
    "gemini": {"reasoning_effort": "low", "max_tokens": 2000},
}
FAULTS = (
    Fault.status(400),
    Fault.echo_key(),
    Fault.status(403),
    Fault.status(404),
    Fault.status(500),
    Fault.status(503),
    Fault.context_window(),
    Fault.content_filter(),
    Fault.status(429, headers={"retry-after": "7"}),  # the last one: whoever asks next waits for so long
)


def proofs(row: Provider) -> list[Case]:
    """What is shown of every provider that can do it."""
    text = replace(TEXT, usage_unasked=row.file == "mistral")
    tools = {name: value for name, value in TOOLS.items() if name != "content"}
    spoken: Any = {"max_tokens": 100}
    every = [
        Case(f"{row.file}-text", "complete", row.chat, (TEXT,), ASKED, spoken, True, row, "complete"),
        Case(f"{row.file}-text-stream", "stream", row.chat, (text,), ASKED, spoken, True, row, "stream"),
        Case(f"{row.file}-tool-call", "complete", row.chat, (TOOL_CALL,), TOOLS["content"], tools, True, row, "tools"),
        Case(f"{row.file}-errors", "complete", row.chat, FAULTS, ASKED, spoken, False, row, "errors"),
    ]
    if row.embedder is not None:
        pair, asked = ["trout", "perch"], row.embed_with
        every.append(
            Case(f"{row.file}-embeddings", "embed", row.embedder, (TEXT,), pair, asked, True, row, "embeddings")
        )
    return [each for each in every if each.proves != "tools" or "tools" not in row.lacks]


CASES = [
    *(case for row in PROVIDERS for case in proofs(row)),
    *(case(f"{who}-tool-call-stream", "stream", model, TOOL_CALL, **TOOLS) for who, model in CHATS.items()),
    *(case(f"{who}-response-model", "complete", model, FITS, **PARSED) for who, model in CHATS.items()),
    case("openai-response-model-stream", "stream", OPENAI, FITS, **PARSED),
    case("openai-repair", "complete", OPENAI, Reply("A trout."), FITS, live=False, **PARSED),
    *(case(f"{who}-json-mode", "complete", CHATS[who], FITS, **AS_JSON) for who in ("openai", "gemini", "ollama")),
    *(
        case(f"{who}-image-data", "complete", CHATS[who], TEXT, content=sees(PIXEL), max_tokens=100)
        for who in ("openai", "anthropic", "gemini")
    ),
    case("openai-image-url", "complete", OPENAI, TEXT, content=sees(PICTURE), max_tokens=100),
    case("openai-two-choices", "complete", OPENAI, Reply(texts=("Trout.", "Perch.")), n=2, max_tokens=100),
    case("openai-stop-and-seed", "complete", OPENAI, TEXT, stop=["\n"], seed=7, temperature=0, max_tokens=100),
    case("openai-logprobs", "complete", OPENAI, Reply("Trout.", logprobs=True), logprobs=True, max_tokens=100),
    *(
        case(f"{who}-reasoning{how}", verb, CHATS[who], THOUGHT, **asked)
        for how, verb in (("", "complete"), ("-stream", "stream"))
        for who, asked in THINKING.items()
    ),
    case("openai-503-stream", "stream", OPENAI, Fault.status(503), live=False),
]


def ask(case: Case, model: Model) -> None:
    """The call of *case*, blocking; what a provider answers it with may be an error."""
    bridge = Bridge(fallback=Fallback([model], retries=0, breaker=False))
    for _ in case.script if case.proves == "errors" else case.script[:1]:
        with suppress(ProviderError) if isinstance(case.script[0], Fault) or case.row.lacks else nullcontext():
            if case.verb == "stream":
                with bridge.stream(case.content, **case.arguments) as chunks:
                    for _chunk in chunks:
                        pass
            else:
                getattr(bridge, case.verb)(case.content, **case.arguments)


def simulate(path: Path, homes: Mapping[str, str], call: Callable[[], object]) -> None:
    """Record *call* into *path*, with the providers' own addresses, *homes*, for those of their simulators."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.yaml"
        with replay(draft, record="all"):
            call()
        text = draft.read_text(encoding="utf-8")
    for simulator, home in homes.items():
        text = text.replace(simulator, home)
    path.parent.mkdir(exist_ok=True)
    path.write_text(SIMULATED + text, encoding="utf-8", newline="\n")


def simulated(sim: Simulator, case: Case) -> None:
    sim.script(*case.script)
    model = case.row.model(case.model, sim.url, None if case.row.file == "vertex" else "sk-simulated")
    with providers.reachable(sim.url):
        simulate(case.path, {sim.url: case.row.home(case.model)}, lambda: ask(case, model))


def demo(sim: Simulator) -> None:
    """The recording behind `llmbridge demo`: the first model is down, the second streams its answer."""
    with Simulator() as second:
        sim.script(Fault.status(503))
        second.script(Reply(pieces=ANSWER, input_tokens=18, output_tokens=27))
        pairs = ((providers.OPENAI, sim), (providers.ANTHROPIC, second))
        models = [row.model(row.chat, where.url) for row, where in pairs]
        bridge = Bridge(fallback=Fallback(models, retries=0))

        def call() -> None:
            with bridge.stream(DEMO_ASKED, max_tokens=100) as chunks:
                for _ in chunks:
                    pass

        simulate(DEMO, {where.url: row.origin for row, where in pairs}, call)


def lived(case: Case) -> str | None:
    """Record *case* from its provider; why not, if not. What was recorded before stays if it fails."""
    if not case.live:
        return "no provider can be made to answer so"
    key = case.row.key
    if key is None or not os.environ.get(key):
        return f"{key or 'a server of your own'} is not there"
    try:
        with replay(case.path, record="all"):
            ask(case, case.row.model(case.model, None, os.environ[key]))
    except LLMBridgeError as error:
        return f"{type(error).__name__}: {error}"
    case.path.write_text(LIVE + case.path.read_text(encoding="utf-8"), encoding="utf-8", newline="\n")
    return None


def is_live(path: Path) -> bool:
    return path.read_text(encoding="utf-8").startswith(LIVE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.recording", description=__doc__)
    parser.add_argument("--live", action="store_true", help="from the providers whose keys are in the environment")
    if parser.parse_args().live:
        for each in CASES:
            why = lived(each)
            print(f"{each.name}: {'skipped, ' + why if why else 'recorded live'}")
        return 0
    with Simulator() as sim:
        for each in CASES:
            simulated(sim, each)
        demo(sim)
    print(f"{len(CASES)} cassettes and the demo recorded against the simulator")
    return 0


if __name__ == "__main__":
    sys.exit(main())
