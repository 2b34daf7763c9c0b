"""Fresh processes: what importing takes, and a cached answer from the start of the process to its end."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.clients import DSPY, KEY, LITELLM_CACHED, MODEL, why_not
from tests.benchmarks.contender import Stage
from tests.benchmarks.paired import Table, Took, in_turn as measured, way


ROUNDS = 7
PYTHON = "python -c pass"
IMPORTS = {
    PYTHON: "pass",
    "import llmbridge": "import llmbridge",
    "a first question to the catalogue": "import llmbridge; llmbridge.models.find(capability='vision', sort='cost')",
    "llmbridge --version": "import sys; sys.argv[1:] = ['--version']; from llmbridge.cli import main; main()",
    "import openai": "import openai",
    "import litellm": "import litellm",
}
ANSWERS = {
    PYTHON: "pass",
    "import diskcache, pydantic": "import diskcache, pydantic",
    "llmbridge": """
from llmbridge import Bridge, Model
model = Model({model!r}, api_base={base!r}, api_key={key!r})
Bridge(model, cache={directory!r} + "/ours", ledger={directory!r} + "/ledger.db").complete("Name a fish.")
""",
    DSPY: """
import dspy
dspy.configure_cache(disk_cache_dir={directory!r} + "/dspy", enable_memory_cache=False)
dspy.LM({model!r}, api_base={base!r}, api_key={key!r})("Name a fish.")
""",
    LITELLM_CACHED: """
import litellm
litellm.cache = litellm.Cache(type="disk", disk_cache_dir={directory!r} + "/theirs")
asked = [{{"role": "user", "content": "Name a fish."}}]
litellm.completion(model={model!r}, messages=asked, api_base={base!r}, api_key={key!r}, caching=True)
""",
}


def run(script: str) -> None:
    """A process, from its start to its end."""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def in_turn(scripts: dict[str, str], rounds: int) -> dict[str, list[Took]]:
    return measured({name: way(functools.partial(run, script)) for name, script in scripts.items()}, rounds)


def tables(stage: Stage, rounds: int, *, short: bool = False) -> Iterator[Table]:
    """The first round, which does not count, compiles, fills the page cache, and asks what is answered later."""
    imports = {name: IMPORTS[name] for name in (PYTHON, "import llmbridge")} if short else IMPORTS
    yield Table("a process", "ms", in_turn(imports, rounds), PYTHON if short else "import litellm")
    absent = {name: reason for name in ANSWERS if not short and (reason := why_not(name))}
    names = (PYTHON, "llmbridge") if short else tuple(name for name in ANSWERS if name not in absent)
    places = {"base": stage.server.api_base, "directory": str(stage.directory), "model": MODEL, "key": KEY}
    before = stage.server.requests()
    found = in_turn({name: ANSWERS[name].format(**places) for name in names}, rounds)
    sent = stage.server.requests() - before
    assert sent == sum(name in ("llmbridge", LITELLM_CACHED, DSPY) for name in names), "a hit was sent, or none asked"
    reference = LITELLM_CACHED if LITELLM_CACHED in names else PYTHON
    yield Table("a cached answer in a fresh process", "ms", found, reference, "  \n".join(absent.values()))
