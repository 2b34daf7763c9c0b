"""How the cassettes are made: `python -m tests.recording` makes all of them against the project's own simulator.

`python -m tests.recording --live` makes those that a real provider can answer from the provider, where its key is in
the environment, and says which it skipped. The first line of each file says which of the two it is. A replay asks the
providers' own addresses, so those stand in the files; against the simulator they are written in afterwards.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from llmbridge.bridge import Bridge
from llmbridge.cassette import replay
from llmbridge.errors import LLMBridgeError, ProviderError
from llmbridge.request import Model
from tests.simulator import Fault, Reply, Simulator, Step


FOLDER = Path(__file__).parents[1] / "cassettes"
DEMO = FOLDER.parent / "llmbridge" / "cli" / "demo.yaml"
SIMULATED = "# Recorded against this project's own loopback simulator (tests/simulator), not against a provider.\n"
LIVE = "# Recorded live against the provider.\n"
KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"}
HOSTS = {
    "/v1/messages": "https://api.anthropic.com",
    "/v1beta/": "https://generativelanguage.googleapis.com",
    "/api/": "http://localhost:11434",
    "/v1/": "https://api.openai.com",
}

OPENAI = "openai/gpt-4o-mini"
ANTHROPIC = "anthropic/claude-haiku-4-5"
GEMINI = "gemini/gemini-2.5-flash"
OLLAMA = "ollama_chat/llama3.2"
CHATS = {"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI, "ollama": OLLAMA}
EMBEDDERS = {
    "openai": "openai/text-embedding-3-small",
    "gemini": "gemini/gemini-embedding-001",
    "ollama": "ollama/nomic-embed-text",
}

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


@dataclass(frozen=True)
class Case:
    """One behaviour, asked in both colours, and the one file that answers it.

    *script* is what the simulator says, and so what a replay of its recording must give. Without `live`, no provider
    can be made to say it.
    """

    name: str
    verb: Literal["complete", "stream", "embed"]
    model: str
    script: tuple[Step, ...]
    content: Any = ASKED
    arguments: Mapping[str, Any] = field(default_factory=dict)
    live: bool = True

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.yaml"

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]


def case(
    name: str, verb: Any, model: str, *script: Step, content: Any = ASKED, live: bool = True, **asked: Any
) -> Case:
    return Case(name, verb, model, script, content, asked, live)


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
CASES = [
    *(case(f"{who}-text", "complete", model, TEXT, max_tokens=100) for who, model in CHATS.items()),
    *(case(f"{who}-text-stream", "stream", model, TEXT, max_tokens=100) for who, model in CHATS.items()),
    *(case(f"{who}-tool-call", "complete", model, TOOL_CALL, **TOOLS) for who, model in CHATS.items()),
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
    *(case(f"{who}-embeddings", "embed", model, TEXT, content=["trout", "perch"]) for who, model in EMBEDDERS.items()),
    case("openai-401", "complete", OPENAI, Fault.echo_key(), live=False),
    case("anthropic-429", "complete", ANTHROPIC, Fault.status(429, headers={"retry-after": "7"}), live=False),
    case("gemini-500", "complete", GEMINI, Fault.status(500), live=False),
    case("openai-503-stream", "stream", OPENAI, Fault.status(503), live=False),
]


def ask(case: Case, model: Model) -> None:
    """The call of *case*, blocking; what a provider answers it with may be an error."""
    bridge = Bridge(model)
    if case.verb == "stream":
        with bridge.stream(case.content, **case.arguments) as chunks:
            for _ in chunks:
                pass
    else:
        getattr(bridge, case.verb)(case.content, **case.arguments)


def simulate(sim: Simulator, path: Path, script: tuple[Step, ...], call: Callable[[], object]) -> None:
    """Record *call* against the simulator into *path*."""
    sim.script(*script)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.yaml"
        with replay(draft, record="all"), suppress(ProviderError):
            call()
        text = draft.read_text(encoding="utf-8")
    path.parent.mkdir(exist_ok=True)
    path.write_text(SIMULATED + at_home(sim.url, text), encoding="utf-8", newline="\n")


def at_home(url: str, text: str) -> str:
    """*text* with each provider's own host instead of the simulator's *url*."""
    return re.sub(
        rf"(?<=uri: ){re.escape(url)}(\S+)",
        lambda found: next(host for start, host in HOSTS.items() if found[1].startswith(start)) + found[1],
        text,
    )


def simulated(sim: Simulator, case: Case) -> None:
    model = Model(case.model, api_base=sim.api_base(case.provider), api_key="sk-simulated")
    simulate(sim, case.path, case.script, lambda: ask(case, model))


def demo(sim: Simulator) -> None:
    """The recording behind `llmbridge demo`: the first model is down, the second streams its answer."""
    models = [
        Model(model, api_base=sim.api_base(who), api_key="sk-simulated")
        for who, model in (("openai", OPENAI), ("anthropic", ANTHROPIC))
    ]

    def call() -> None:
        with Bridge(models).stream(DEMO_ASKED, max_tokens=100) as chunks:
            for _ in chunks:
                pass

    simulate(sim, DEMO, (Fault.status(503), Reply(pieces=ANSWER, input_tokens=18, output_tokens=27)), call)


def lived(case: Case) -> str | None:
    """Record *case* from its provider; why not, if not. What was recorded before stays if it fails."""
    if not case.live:
        return "no provider can be made to answer so"
    key = KEYS.get(case.provider)
    if key is None or not os.environ.get(key):
        return f"{key or 'a local server'} is not there"
    try:
        with replay(case.path, record="all"):
            ask(case, Model(case.model, api_key=os.environ[key]))
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
