"""`llmbridge cassette`: what stands in recordings, what is wrong with them, and how it is taken out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmbridge import cli
from llmbridge.errors import ConfigError
from tests import commands, recording


KEY = "sk-proj-0123456789abcdefghij"


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """A cassette as plain vcrpy writes it, with a key in five places."""
    path = tmp_path / "leaky.yaml"
    path.write_text(
        "# By hand.\n"
        "version: 1\n"
        "interactions:\n"
        "- request:\n"
        "    method: POST\n"
        f"    uri: https://api.example.com/v1?key={KEY}\n"
        f"    headers: {{authorization: ['Bearer {KEY}'], content-type: [application/json]}}\n"
        f'    body: \'{{"model": "gpt-4o-mini", "prompt": "{KEY}"}}\'\n'
        "  response:\n"
        "    status: {code: 200, message: OK}\n"
        f"    headers: {{set-cookie: ['session={KEY}'], content-type: [text/plain]}}\n"
        f"    body: {{string: 'You said {KEY}'}}\n"
    )
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["cassette", *map(str, arguments)])


def test_list_says_model_prompt_tokens_and_cost_of_whole_answers_and_streams() -> None:
    paths = [
        recording.FOLDER / f"{name}.yaml" for name in ("openai-text", "gemini-text-stream", "anthropic-text-stream")
    ]

    rows = json.loads(run("list", *paths, "--json").stdout)

    assert [row["model"] for row in rows] == ["gpt-4o-mini", "gemini-2.5-flash", "claude-haiku-4-5"]
    assert {row["prompt"] for row in rows} == {recording.ASKED}
    assert {(row["input_tokens"], row["output_tokens"]) for row in rows} == {(14, 8)}
    assert [row["cost_usd"] for row in rows] == ["0.0000069", "0.0000242", "0.000054"]


def test_list_prints_a_table_of_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = run("list", recording.FOLDER)

    assert done.exit_code == 0
    assert "claude-haiku-4-5" in done.stdout and "Traceback" not in done.stdout


def test_a_list_shows_no_secret(leaky: Path) -> None:
    assert KEY not in run("list", leaky, "--json").stdout


def test_check_finds_nothing_wrong_with_our_own() -> None:
    done = run("check", recording.FOLDER)

    assert (done.exit_code, done.stdout) == (0, "")


def test_check_finds_secrets_foreign_tags_and_age_and_says_so_by_its_exit_code(leaky: Path, tmp_path: Path) -> None:
    (tmp_path / "tag.yaml").write_text("version: 1\ninteractions: !!python/object/apply:os.getcwd []\n")
    os.utime(leaky, (0, 0))

    done = run("check", tmp_path, "--max-age-days", 30, "--json")

    assert done.exit_code == 1
    problems = [each["problem"] for each in json.loads(done.stdout)]
    assert problems[0] == "interaction 1 holds a secret"
    assert "days ago" in problems[1]
    assert "is not a cassette" in problems[2] and "python/object" in problems[2]
    assert KEY not in done.stdout


def test_scrub_takes_secrets_out_and_keeps_the_rest(leaky: Path) -> None:
    done = run("scrub", leaky)

    text = leaky.read_text()
    assert done.exit_code == 0 and "written anew" in done.stdout
    assert KEY not in text and "authorization" not in text and "set-cookie" not in text
    assert text.startswith("# By hand.\n") and "gpt-4o-mini" in text
    assert run("check", leaky).exit_code == 0
    assert [*leaky.parent.iterdir()] == [leaky]


def test_scrub_changes_no_byte_of_what_is_clean(tmp_path: Path) -> None:
    for path in recording.FOLDER.iterdir():
        shutil.copy(path, tmp_path)

    assert run("scrub", tmp_path).stdout == ""
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in recording.FOLDER.iterdir()
    }


@pytest.mark.parametrize("verb", ["list", "scrub"])
def test_a_missing_file_is_an_error_of_ours(verb: str, tmp_path: Path) -> None:
    assert isinstance(run(verb, tmp_path / "nope.yaml").exception, ConfigError)


def test_a_users_mistake_ends_in_one_line(tmp_path: Path) -> None:
    done = commands.run("cassette", "list", tmp_path / "nope.yaml")

    assert done.code == 2
    assert done.err.startswith("there is no cassette at ") and done.err.count("\n") == 1
