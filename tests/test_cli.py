"""The command: complete, compare, explain, and what is true of all."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmbridge import cli, default
from tests.shell import PROCESS, Command, terminal
from tests.simulator import Fault, Reply, Simulator


GPT = ("-m", "openai/gpt-4o-mini")
HAIKU = ("-m", "anthropic/claude-haiku-4-5")


def llmbridge(*arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, between pipes."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_TOKEN")}
    return subprocess.run(
        [*PROCESS, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        env={**environment, **env},
        check=False,
    )


def body(sim: Simulator) -> dict[str, object]:
    (seen,) = sim.requests
    assert seen.body is not None
    return seen.body


def test_the_demo_shows_a_fallback_without_network_and_key(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_API_BASE"):
        monkeypatch.delenv(name)

    done = command("demo", columns=100)

    assert done.code == 0, done.err
    assert "trout" in done.out
    assert "ProviderUnavailable" in done.out
    assert "anthropic/claude-haiku-4-5" in done.out
    assert "nothing was billed" in done.out


def test_through_pipes_the_answer_is_on_stdout_and_what_it_took_on_stderr_without_colour(
    sim: Simulator, openai_here: None
) -> None:
    done = llmbridge("complete", "-", *GPT, stdin="Name a fish.")

    assert (done.returncode, done.stdout) == (0, "Trout.\n")
    assert done.stderr.startswith("openai/gpt-4o-mini  9+3 tokens  $0.000003  ")
    assert body(sim)["messages"] == [{"role": "user", "content": "Name a fish."}]


def test_in_a_terminal_the_answer_comes_as_it_is_streamed_and_then_what_it_took(
    sim: Simulator, openai_here: None
) -> None:
    sim.script(Reply(pieces=("Tro", "ut", ".")))

    with terminal("complete", "Name a fish.", *GPT, "--stream", "--trace") as shown:
        lines = shown.end().strip().splitlines()

    answer, footer, call, attempt, *_ = lines
    assert answer == "Trout."
    assert re.fullmatch(r"\x1b\[2mopenai/gpt-4o-mini  9\+3 tokens  \$0\.000003  \d+\.\d\d s\x1b\[0m", footer)
    assert "\x1b[32m" in call
    assert "└─ attempt openai/gpt-4o-mini" in attempt


@pytest.mark.parametrize("how", [(), ("--stream",)], ids=["whole", "stream"])
def test_complete_shows_the_call_as_a_tree(how: tuple[str, ...], sim: Simulator, command: Command) -> None:
    sim.script(Fault.status(401), Reply(text="Carp."))

    done = command("complete", "Name a fish.", *GPT, "--fallback", "openai/gpt-4o", "--trace", *how)

    assert done.out == "Carp.\n"
    call, failed, answered = [line for line in done.err.splitlines() if "█" in line or "▏" in line or "─" in line]
    assert call.startswith("chat gpt-4o-mini")
    assert call.rstrip().endswith("$0.000052")
    assert failed.startswith("├─ attempt openai/gpt-4o-mini")
    assert "AuthenticationFailed 401" in failed
    assert answered.startswith("└─ attempt openai/gpt-4o ")
    assert "fallback" in answered


@pytest.mark.parametrize("how", [(), ("--stream",)], ids=["whole", "stream"])
def test_the_tree_of_a_call_that_fails_is_shown_too(how: tuple[str, ...], sim: Simulator, command: Command) -> None:
    sim.script(Fault.status(401))

    done = command("complete", "Name a fish.", *GPT, "--trace", *how)

    assert (done.code, done.out) == (1, "")
    tree, attempt, error = done.err.splitlines()
    assert tree.startswith("chat gpt-4o-mini")
    assert "AuthenticationFailed" in tree
    assert attempt.startswith("└─ attempt openai/gpt-4o-mini")
    assert error.startswith("AuthenticationFailed: ")


def test_a_stream_goes_to_the_next_model_after_the_retries(sim: Simulator, command: Command) -> None:
    sim.script(Fault.status(503), Fault.status(503), Fault.status(503), Reply(text="Carp."))

    done = command("complete", "Name a fish.", *GPT, "-m", "openai/gpt-4o", "--stream", "--max-tokens", "9")

    assert done.out == "Carp.\n"
    assert [(seen.body or {})["model"] for seen in sim.requests] == [*["gpt-4o-mini"] * 3, "gpt-4o"]


def test_of_a_stream_that_breaks_off_what_came_is_shown_and_exit_code_1(sim: Simulator, command: Command) -> None:
    sim.script(Fault.cut(3, Reply(pieces=("Tro", "ut", "."))))

    done = command("complete", "Name a fish.", *GPT, "--stream")

    assert done.code == 1
    assert "Trout".startswith(done.out.rstrip("\n"))
    assert done.out.endswith("\n")
    assert done.err.startswith("StreamInterrupted: ")


def test_complete_prints_json(sim: Simulator, command: Command) -> None:
    done = command("complete", "Name a fish.", *GPT, "--json")

    printed = json.loads(done.out)
    assert (printed["text"], printed["record"]["outcome"]) == ("Trout.", "answered")


def test_asked_again_it_comes_from_the_cache_and_says_what_it_saved(sim: Simulator, command: Command) -> None:
    command("complete", "Name a fish.", *GPT)

    again = command("complete", "Name a fish.", *GPT, "--stream")
    anew = command("complete", "Name a fish.", *GPT, "--cache", "off")

    assert again.out == anew.out == "Trout.\n"
    assert "$0  cached, saved $0.000003" in again.err
    assert "cached" not in anew.err
    assert len(sim.requests) == 2


def test_what_only_the_cache_may_answer_is_refused_when_it_cannot(sim: Simulator, command: Command) -> None:
    done = command("complete", "Name a fish.", *GPT, "--cache", "only")

    assert (done.code, len(sim.requests)) == (1, 0)
    assert done.err.startswith("CacheMiss: ")


def test_a_schema_and_a_system_message_are_sent(sim: Simulator, command: Command, tmp_path: Path) -> None:
    schema = {"title": "A fish", "type": "object", "properties": {"name": {"type": "string"}}}
    file = tmp_path / "fish.json"
    file.write_text(json.dumps(schema))
    sim.script(Reply(text='{"name": "Trout"}'))

    done = command("complete", "Name a fish.", *GPT, "--schema", str(file), "--system", "Be brief.")

    assert json.loads(done.out) == {"name": "Trout"}
    assert body(sim)["response_format"] == {"type": "json_schema", "json_schema": {"name": "A_fish", "schema": schema}}
    assert body(sim)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a fish."},
    ]


def test_an_image_goes_along_as_data_and_an_address_as_it_is(sim: Simulator, command: Command, tmp_path: Path) -> None:
    (tmp_path / "fish.png").write_bytes(b"\x89PNG")

    command("complete", "What is it?", *GPT, "--image", str(tmp_path / "fish.png"), "--image", "https://x.test/a.jpg")

    data = f"data:image/png;base64,{base64.b64encode(bytes([137]) + b'PNG').decode()}"
    (message,) = body(sim)["messages"]  # type: ignore[misc]
    assert [part.get("image_url", {}).get("url", part.get("text")) for part in message["content"]] == [
        "What is it?",
        data,
        "https://x.test/a.jpg",
    ]


def test_tags_stand_in_the_ledger(sim: Simulator, command: Command) -> None:
    command("complete", "Name a fish.", *GPT, "--tag", "user=alice", "--tag", "purpose=a=b")

    (record,) = default.default().ledger.records()
    assert record.tags == {"user": "alice", "purpose": "a=b"}


def test_a_cassette_is_recorded_and_then_played(sim: Simulator, command: Command, tmp_path: Path) -> None:
    cassette = ("--cassette", str(tmp_path / "fish.yaml"))

    first = command("complete", "Name a fish.", *GPT, *cassette)
    again = command("complete", "Name a fish.", *GPT, *cassette)
    other = command("complete", "Name a bird.", *GPT, *cassette)

    assert first.out == again.out == "Trout.\n"
    assert (other.code, len(sim.requests)) == (1, 1)
    assert other.err.startswith("CassetteMiss: ")


def test_what_a_budget_refuses_is_exit_code_3(sim: Simulator, command: Command) -> None:
    done = command("complete", "Name a fish.", *GPT, "--budget", "$0.00000001/call")

    assert (done.code, len(sim.requests)) == (3, 0)
    assert done.err.startswith("BudgetExceeded: budget '$0.00000001/call'")


def test_a_failure_is_one_line_and_exit_code_1(sim: Simulator, command: Command) -> None:
    sim.script(Fault.echo_key())

    done = command("complete", "Name a fish.", *GPT)

    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("AuthenticationFailed: openai/gpt-4o-mini refused the key (HTTP 401)")
    assert "sk-test-key" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("complete", "x", *GPT, "--deadline-s", "-1"), "deadline_s is a number of seconds above 0, not -1.0"),
        (("complete", "x"), "no model: "),
        (("complete", "-", *GPT), "standard input is empty"),
        (("complete", "x", "--fallback", "openai/gpt-4o"), "--fallback follows the model of -m"),
        (("complete", "x", *GPT, "--tag", "alice"), "--tag is written NAME=VALUE"),
        (("complete", "x", *GPT, "--budget", "5"), "'5' is no amount of dollars"),
        (("complete", "x", *GPT, "--image", "fish.txt"), "--image fish.txt: the name does not say that it is an image"),
        (("complete", "x", *GPT, "--image", "no.png"), "--image no.png: No such file or directory"),
        (("complete", "x", *GPT, "--schema", __file__), f"{__file__} is not JSON"),
        (("compare", "", *GPT), "the prompt is empty"),
        (("explain", "x"), "no model: "),
    ],
    ids=lambda value: " ".join(value[1:])[:40] if isinstance(value, tuple) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], said: str, sim: Simulator, command: Command
) -> None:
    done = command(*arguments)

    assert (done.code, done.out, len(sim.requests)) == (2, "", 0)
    assert done.err.startswith(said)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("verb", ["complete", "compare", "batch", "explain", "run"])
def test_help_shows_an_example(verb: str, command: Command) -> None:
    done = command(verb, "--help")

    assert done.code == 0
    assert f"llmbridge {verb} " in done.out.partition("Example:")[2]


def test_compare_asks_each_model_once_and_one_that_fails_does_not_spoil_the_others(
    sim: Simulator, command: Command
) -> None:
    done = command("compare", "Name a fish.", *GPT, *HAIKU, "-m", "acme/none", "--json")

    first, second, third = json.loads(done.out)
    assert done.code == 1
    assert (first["model"], first["text"], first["cost_usd"]) == ("openai/gpt-4o-mini", "Trout.", "0.00000315")
    assert (second["model"], second["text"]) == ("anthropic/claude-haiku-4-5", "Trout.")
    assert third["error"]["type"] == "BadRequest"
    assert len(sim.requests) == 2


def test_compare_asks_all_at_the_same_time(sim: Simulator, command: Command) -> None:
    sim.script(Reply(delay_s=0.2))

    command("compare", "Name a fish.", *GPT, *HAIKU)

    first, second = sorted(default.default().ledger.records(), key=lambda record: record.started_at)
    assert second.started_at < first.started_at + first.duration_s


def test_compare_says_who_answered_for_a_name_of_the_configuration(
    sim: Simulator, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llmbridge.toml").write_text('[models.small]\nmodel = "openai/gpt-4o-mini"\n')

    done = command("compare", "Name a fish.", "-m", "small")

    assert done.out.startswith("--- small  openai/gpt-4o-mini, $0.000003, ")


def test_compare_is_plain_text_for_another_program(sim: Simulator, command: Command) -> None:
    done = command("compare", "Name a fish.", *GPT, *HAIKU)

    assert (done.code, done.err) == (0, "")
    first, answer, _, second, *_ = done.out.splitlines()
    assert re.fullmatch(r"--- openai/gpt-4o-mini  \$0\.000003, \d+\.\d\d s, 9\+3 tokens", first)
    assert answer == "Trout."
    assert second.startswith("--- anthropic/claude-haiku-4-5  $0.000024, ")


def test_explain_shows_the_plan_with_money_and_sends_nothing(sim: Simulator, command: Command) -> None:
    arguments = ("explain", "Name a fish.", *GPT, *HAIKU, "--max-tokens", "10", "--budget", "$5/day")

    shown = command(*arguments)
    data = json.loads(command(*arguments, "--json").out)

    assert shown.code == 0
    assert re.search(r"1 +openai/gpt-4o-mini +\$0\.0\S+ +\$0\.0\S+ +asked first", shown.out)
    assert re.search(r"\$5/day +\$5\.00 +\$0\.0\S+ +enough", shown.out)
    assert [each["model"] for each in data["candidates"]] == [GPT[1], HAIKU[1]]
    assert len(sim.requests) == 0


def test_explain_says_by_its_exit_code_that_a_budget_would_refuse(sim: Simulator, command: Command) -> None:
    arguments = ("Name a fish.", *GPT, "--budget", "$0.000001/call")

    refused = command("explain", *arguments)

    assert refused.code == command("complete", *arguments, "--max-tokens", "100").code == 3
    assert "not enough: refused" in refused.out
    assert len(sim.requests) == 0


def test_explain_says_that_an_answer_is_kept(sim: Simulator, command: Command) -> None:
    command("complete", "Name a fish.", *GPT)

    done = command("explain", "Name a fish.", *GPT, "--budget", "$0.000001/call")

    assert done.code == 0
    assert done.out.startswith("The answer is kept: nothing would be sent, and it costs $0.")


def test_the_version_is_printed_without_importing_a_verb() -> None:
    script = """
import sys
from llmbridge.cli import VERBS, main
sys.argv = ["llmbridge", "--version"]
try: main()
except SystemExit: pass
heavy = ["rich", "sqlite3", "json", "asyncio", "llmbridge.ledger", "llmbridge.cache", "llmbridge.record"]
print([name for name in (*heavy, *(f"llmbridge.cli.{verb}" for verb in VERBS)) if name in sys.modules])
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    version, imported = done.stdout.splitlines()
    assert version.startswith("llmbridge 0.")
    assert imported == "[]"


def test_a_misspelt_verb_is_told_what_was_meant(command: Command) -> None:
    done = command("explane")

    assert done.code == 2
    assert "mean 'explain'?" in done.err


def test_the_demos_recording_says_that_a_simulator_made_it() -> None:
    first_line = (Path(cli.__file__).with_name("demo.yaml")).read_text().splitlines()[0]

    assert "simulator" in first_line
