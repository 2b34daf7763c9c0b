"""The pytest plugin, as another project's tests use it: each in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import recording


pytest_plugins = "pytester"

ROOT = Path(__file__).parents[1]
FISH = """
import httpx, pytest

def ask(name="trout"):
    client = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, text="sent")))
    return client.post("https://api.example.com/v1/fish", json={"name": name}).text
"""
CALL = f"""
import llmbridge, pytest

def ask():
    return llmbridge.complete({recording.ASKED!r}, model={recording.OPENAI!r}, max_tokens=100)

CASSETTE = {str(recording.FOLDER / "openai-text.yaml")!r}
"""


class Project:
    """Somebody's project, whose tests run with the plugin."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester, self.path = pytester, pytester.path
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(self, code: str, *options: str) -> pytest.RunResult:
        self.pytester.makepyfile(test_fish=code)
        return self.pytester.runpytest_subprocess("-p", "llmbridge.pytest_plugin", *options)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(pytester, monkeypatch)


def test_a_marked_test_is_recorded_once_and_then_replayed_from_a_file_named_after_it(project: Project) -> None:
    code = f"{FISH}\n@pytest.mark.cassette\n@pytest.mark.parametrize('name', ['a/b'])\ndef test_a(name): ask(name)\n"

    project.run(code, "--llmbridge-record=once").assert_outcomes(passed=1)

    assert (project.path / "cassettes" / "test_fish" / "test_a-a-b.yaml").exists()
    project.run(code).assert_outcomes(passed=1)


def test_a_test_without_a_recording_fails_and_says_how_to_record_it(project: Project) -> None:
    result = project.run(f"{FISH}\n@pytest.mark.cassette\ndef test_a(): ask()\n")

    result.assert_outcomes(errors=1)
    assert "pytest --llmbridge-record=once 'test_fish.py::test_a'" in result.stdout.str()
    assert not (project.path / "cassettes").exists()


def test_a_request_that_is_not_recorded_fails_and_says_how_to_record_it(project: Project) -> None:
    code = FISH + "\n@pytest.mark.cassette('fish.yaml')\ndef test_a(): ask(NAME)\n"
    project.run("NAME = 'trout'\n" + code, "--llmbridge-record=once").assert_outcomes(passed=1)

    result = project.run("NAME = 'perch'\n" + code)

    result.assert_outcomes(failed=1)
    assert 'body.name: recorded "trout", now "perch"' in result.stdout.str()
    assert "pytest --llmbridge-record=new 'test_fish.py::test_a'" in result.stdout.str()


def test_a_recording_that_nothing_asks_for_fails_the_test(project: Project) -> None:
    code = FISH + "\n@pytest.mark.cassette\ndef test_a():\n    for name in NAMES: ask(name)\n"
    project.run("NAMES = ['trout', 'perch']\n" + code, "--llmbridge-record=once").assert_outcomes(passed=1)

    result = project.run("NAMES = ['trout']\n" + code)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*1 recorded in *test_a.yaml that the test did not ask for:*"])
    result.stdout.fnmatch_lines(["*POST https://api.example.com/v1/fish*"])
    project.run("NAMES = ['trout']\n" + code, "--llmbridge-record=all").assert_outcomes(passed=1)
    project.run("NAMES = ['trout']\n" + code).assert_outcomes(passed=1)


def test_the_marker_says_how_to_record_and_the_command_line_overrules_it(project: Project) -> None:
    code = FISH + "\n@pytest.mark.cassette('fish.yaml', record='once')\ndef test_a(): ask()\n"

    project.run(code, "--llmbridge-record=none").assert_outcomes(errors=1)
    project.run(code).assert_outcomes(passed=1)
    project.run(code, "--llmbridge-record=none").assert_outcomes(passed=1)


def test_a_test_that_fails_writes_nothing(project: Project) -> None:
    code = FISH + "\n@pytest.mark.cassette('fish.yaml', record='once')\ndef test_a():\n    ask(); assert False\n"

    project.run(code).assert_outcomes(failed=1)

    assert not (project.path / "cassettes").exists()


def test_the_folder_of_cassettes_is_a_setting(project: Project) -> None:
    project.pytester.makeini("[pytest]\nllmbridge_cassettes = recorded/http\n")

    project.run(f"{FISH}\n@pytest.mark.cassette('a.yaml', record='once')\ndef test_a(): ask()\n").assert_outcomes(
        passed=1
    )

    assert (project.path / "recorded" / "http" / "a.yaml").exists()


def test_requests_of_a_fixture_are_answered_too(project: Project) -> None:
    code = FISH + (
        "\n@pytest.fixture\ndef fish(): return ask()\n"
        "\n@pytest.mark.cassette('fish.yaml', record='once')\ndef test_a(fish): assert fish == 'sent'\n"
    )

    project.run(code).assert_outcomes(passed=1)
    project.run(code, "--llmbridge-record=none").assert_outcomes(passed=1)


def test_bridge_is_the_default_one_with_a_ledger_and_a_cache_of_its_own(project: Project) -> None:
    code = CALL + (
        "\n@pytest.mark.cassette(CASSETTE)\n"
        "def test_a(bridge, tmp_path, monkeypatch):\n"
        "    first, again = ask(), ask()\n"
        "    assert again.cached and not first.cached\n"
        "    assert len(bridge.ledger.records()) == 2\n"
        "    assert bridge.ledger.path.is_relative_to(tmp_path)\n"
        "\n@pytest.mark.cassette(CASSETTE)\n"
        "def test_b(bridge):\n"
        "    assert len(bridge.ledger.records()) == 0\n"
        "    assert not ask().cached\n"
    )

    project.run(code).assert_outcomes(passed=2)


def test_bridge_without_a_cassette_reaches_this_machine_alone(project: Project) -> None:
    code = FISH + (
        "import http.server, threading, llmbridge\n"
        "def test_out(bridge):\n"
        "    with pytest.raises(llmbridge.CassetteMiss, match='mark it with @pytest.mark.cassette'): ask()\n"
        "def test_in(bridge):\n"
        "    with http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler) as server:\n"
        "        threading.Thread(target=server.handle_request).start()\n"
        "        assert httpx.get(f'http://127.0.0.1:{server.server_port}/').status_code == 200\n"
        "def test_own(bridge, tmp_path):\n"
        "    with llmbridge.replay(tmp_path / 'a.yaml', record='once'): assert ask() == 'sent'\n"
        "def test_open(): assert ask() == 'sent'\n"
    )

    project.run(code).assert_outcomes(passed=4)


def test_the_cost_of_each_test_is_shown_when_asked_for(project: Project) -> None:
    code = CALL + (
        "\n@pytest.mark.cassette(CASSETTE)\ndef test_a(): ask()\n"
        "\n@pytest.mark.cassette(CASSETTE)\ndef test_b(bridge): ask(); ask()\n"
        "\ndef test_c(): pass\n"
    )

    result = project.run(code, "--llmbridge-cost")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "*what these tests would cost live*",
            "*$0.0000069 *1 calls  test_fish.py::test_a",
            "*$0.0000069 *2 calls  test_fish.py::test_b",
            "*$0.0000138 *2 tests",
        ]
    )
    assert "test_c" not in result.stdout.str()


def test_a_test_that_would_cost_more_than_it_may_fails(project: Project) -> None:
    code = CALL + (
        "\n@pytest.mark.cassette(CASSETTE)\ndef test_a(assert_cost):\n    ask(); assert_cost(max_usd=0.00001)\n"
        "\n@pytest.mark.cassette(CASSETTE)\ndef test_b(assert_cost):\n    ask(); assert_cost(max_usd='0.000001')\n"
    )

    result = project.run(code)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*1 calls would cost $0.0000069, which is more than $0.000001*"])


def test_a_suite_that_uses_nothing_of_it_imports_nothing_for_it(project: Project) -> None:
    code = (
        "import sys, pytest\n"
        "def test_a(): assert not {'litellm', 'vcr', 'pydantic', 'httpx', 'llmbridge.bridge'} & {*sys.modules}\n"
        "@pytest.fixture\n"
        "def bridge(): return 'mine'\n"
        "def test_b(bridge): assert bridge == 'mine'\n"
    )

    project.run(code, "--strict-markers", "-W", "error").assert_outcomes(passed=2)


def test_importing_the_plugin_is_cheap() -> None:
    script = "import sys, time, pytest; start = time.perf_counter(); import llmbridge.pytest_plugin; \
print(time.perf_counter() - start)"
    took = [
        float(
            subprocess.run(
                [sys.executable, "-c", script],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            ).stdout
        )
        for _ in range(3)
    ]

    assert min(took) < 0.05
