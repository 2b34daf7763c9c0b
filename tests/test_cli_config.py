"""`llmbridge config`: checked, shown, described."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from llmbridge import ConfigError, cli, default
from tests.configuring import Write, a_directory_of_its_own, write  # noqa: F401


KEY = "sk-proj-0123456789abcdefghij"
GOOD = """\
default = "main"
budgets = ["$5/day"]
[models.main]
model = "mock/fixed"
api_key = "${HOUSE_KEY}"
[models.main.extra_headers]
Authorization = "Bearer hunter2hunter2"
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


@pytest.fixture
def good(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.setenv("HOUSE_KEY", KEY)
    return write(GOOD)


def test_check_says_what_is_there(good: Path) -> None:
    done = run("config", "check")

    assert (done.exit_code, done.stdout) == (0, f"{good}: 1 model, 1 budget; asks main by default\n")
    assert run("config", "check", good, "--json").stdout == "[]\n"


def test_check_says_every_mistake_as_json(good: Path) -> None:
    good.write_text(f"{GOOD}[cache]\nttl = 5\n[fallback.x]\nmodels = ['mian']\n")

    done = run("config", "check", "--json")

    found = json.loads(done.stdout)
    assert done.exit_code == 2
    assert [(each["line"], each["key"]) for each in found] == [(9, "cache.ttl"), (11, "fallback.x.models.1")]
    assert {each["path"] for each in found} == {str(good)}
    good.write_text("default = [")
    assert json.loads(run("config", "check", "--json").stdout)[0]["line"] == 1


def test_show_masks_credentials_and_says_where_a_value_is_from(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBRIDGE_CACHE_TTL_S", "60")

    text, values = run("config", "show").stdout, json.loads(run("config", "show", "--json").stdout)["values"]

    assert [" ".join(line.split()) for line in text.splitlines()] == [
        f"# {good}",
        'default = "main" # line 1',
        'budgets = ["$5/day"] # line 2',
        'models.main.model = "mock/fixed" # line 4',
        'models.main.api_key = "[redacted]" # line 5',
        'models.main.extra_headers.Authorization = "[redacted]" # line 7',
        'cache.ttl_s = "60" # LLMBRIDGE_CACHE_TTL_S',
    ]
    assert {each["key"]: each["value"] for each in values}["models.main.api_key"] == "[redacted]"


def test_the_schema_is_one_that_a_good_file_keeps_and_a_typo_does_not() -> None:
    schema = json.loads(run("config", "schema").stdout)

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"cache": False, "budgets": ["$5/day", {"limit": "$1", "per": "user"}], "default": "x"}, schema)
    jsonschema.validate({"models": {"a": {"model": "x/y", "rpm": "${RPM}", "params": {"n": 2}}}}, schema)
    for wrong in ({"dfault": "x"}, {"models": {"a": {"model": "x/y", "rpm": "fast"}}}, {"budgets": [{"per": "user"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_a_mistake_is_a_message_and_exit_code_2(
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write("dfault = 'x/y'\n")
    monkeypatch.setattr("sys.argv", ["llmbridge", "complete", "Name a fish."])
    monkeypatch.setattr(default, "_bridge", None)

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{path}, line 1: dfault: is no key; did you mean 'default'?\n"
    assert isinstance(run("config", "show").exception, ConfigError)


def test_complete_asks_the_configured_model(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "_bridge", None)

    assert run("complete", "Name a fish.").stdout == "Fixed.\n"
    assert run("complete", "Name a fish.", "-m", "main", "-m", "mock/echo").exit_code == 0
