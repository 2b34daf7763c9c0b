"""The house: who may import whom, who owns which third party, what is public, and how light it is."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import llmbridge


PACKAGE = Path(llmbridge.__file__).parent
# A module imports only from rows below its own; inside a package the modules are free.
ROWS = [
    {"errors", "money"},
    {"waiting", "redaction", "record", "params", "home", "semconv", "network"},
    {"completion", "request", "exchange", "events", "http11"},
    {"connections", "tags"},
    {"wire"},
    {"provider", "fallback", "assembly", "ledger", "cache", "tracing"},
    {"metrics", "everywhere", "names", "catalog", "truncation", "report"},
    {"call", "config", "simulation"},
    {"streams", "health"},
    {"bridge", "cassette"},
    {"default", "batch"},
    {"cli", "pytest_plugin", "__init__"},
]
OWNERS = {
    "litellm": {"provider"},
    "openai": {"provider"},
    "httpx": {"provider", "wire", "connections", "exchange", "cassette"},
    "httpcore": {"wire", "connections", "http11", "network"},
    "h11": {"http11"},
    "httptools": {"http11"},
    "opentelemetry": {"tracing", "metrics"},
    "pydantic": {"completion", "bridge", "request", "config"},
    "sqlite3": {"ledger", "cache"},  # the connection under diskcache, which would open one a thread
    "diskcache": {"cache"},
    "platformdirs": {"home"},
    "vcr": {"cassette"},
    "yaml": {"cassette", "config"},
    "typer": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"report"},
}
HEAVY = ("litellm", "pydantic", "opentelemetry", "diskcache", "httpx", "openai", "vcr")
PUBLIC = [
    "AllAttemptsFailed",
    "AlreadyResolved",
    "AsyncCompletionStream",
    "AttemptRecord",
    "AuthenticationFailed",
    "BadRequest",
    "Balance",
    "Bridge",
    "Budget",
    "BudgetAlert",
    "BudgetExceeded",
    "Cache",
    "CacheMiss",
    "CacheStats",
    "CallRecord",
    "Candidate",
    "CassetteMiss",
    "Catalog",
    "Chunk",
    "Completion",
    "CompletionStream",
    "ConfigError",
    "ContentFiltered",
    "ContextWindowExceeded",
    "DeadlineExceeded",
    "EmbedParams",
    "Embedding",
    "Fallback",
    "Health",
    "InvalidOutput",
    "LLMBridgeError",
    "Ledger",
    "LedgerBusy",
    "LedgerCorrupt",
    "LedgerError",
    "Limit",
    "Listing",
    "Model",
    "NotFound",
    "Params",
    "Plan",
    "Prospect",
    "ProviderError",
    "ProviderRateLimited",
    "ProviderTimeout",
    "ProviderUnavailable",
    "RateLimited",
    "Spend",
    "StreamInterrupted",
    "UnknownPrice",
    "Usage",
    "acomplete",
    "aembed",
    "astream",
    "complete",
    "configure",
    "count_tokens",
    "embed",
    "estimate",
    "models",
    "replay",
    "stream",
    "tagged",
    "traced",
    "tracing",
    "warm",
]


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The row's name for a file: its package, or itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Once more where another thread's use of the compiler got in between: for CPython 3.11 that is a SystemError."""
    try:
        return ast.parse(path.read_text())
    except SystemError:
        return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    """Full names of the modules that *path* imports anywhere, under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def row_of(name: str) -> int:
    return next(number for number, row in enumerate(ROWS) if name in row)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_rows_below_its_own(path: Path) -> None:
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("llmbridge.")}
    # record is named in errors for type checkers alone: an error carries records, and a record is no error
    allowed = {room(path)} | ({"record"} if room(path) == "errors" else set()) | {"__version__"}

    above = {name for name in rooms - allowed if row_of(name) >= row_of(room(path))}

    assert above == set()


@pytest.mark.parametrize("third_party", OWNERS)
def test_a_third_party_has_its_owners_and_nobody_else_imports_it(third_party: str) -> None:
    users = {room(path) for path in files() for name in imports(path) if name.split(".")[0] == third_party}

    assert users == OWNERS[third_party]


def test_the_public_names_are_these() -> None:
    assert sorted(llmbridge.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_exists_and_says_what_it_is(name: str) -> None:
    assert getattr(llmbridge, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compleet'"):
        llmbridge.compleet


def test_importing_llmbridge_imports_nothing_heavy() -> None:
    script = "import sys, llmbridge; print([name for name in sys.argv[1:] if name in sys.modules])"

    printed = subprocess.run(
        [sys.executable, "-c", script, *HEAVY], capture_output=True, text=True, check=True
    ).stdout.strip()

    assert printed == "[]"


def test_importing_planning_and_the_verbs_themselves_open_no_socket_and_leave_litellm_alone() -> None:
    script = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"): raise SystemExit(event)
sys.addaudithook(refuse)
import llmbridge
llmbridge.Bridge(models=["openai/gpt-4o-mini"]).plan("Name a fish.")
print("litellm" in sys.modules)
"""

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()

    assert printed == "False"


def test_sizes_stay_those_of_a_thin_layer(record_property: pytest.RecordProperty) -> None:
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in files()}
    functions = {
        f"{path.name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in files()
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    for name, size in sorted(lines.items(), key=lambda item: -item[1])[:5]:
        record_property(f"lines of {name}", size)
    print({"package": sum(lines.values()), "longest functions": sorted(functions.values())[-5:]})

    assert max(lines.values()) <= 400
    assert max(functions.values()) <= 50
