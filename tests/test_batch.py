"""llmbridge batch: many questions in a file, each paid once, whatever ends the command."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmbridge import default
from llmbridge.batch import Answers, Batch, errors_path
from llmbridge.ledger import Ledger
from tests.ledger_worker import WAIT_S, Worker
from tests.shell import Command, terminal
from tests.simulator import Fault, Reply, Simulator
from tests.test_cli import GPT


AT_A_TIME = 8


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return written(tmp_path / "in.jsonl", [{"id": number, "prompt": f"Name fish {number}."} for number in range(20)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def asked(sim: Simulator) -> list[str]:
    return [seen.body["messages"][-1]["content"] for seen in sim.requests if seen.body is not None]


def test_each_line_is_answered_once_and_the_same_command_does_nothing_more(
    sim: Simulator, command: Command, questions: Path, out: Path
) -> None:
    first = command("batch", str(questions), str(out), *GPT)
    again = command("batch", str(questions), str(out), *GPT, "--json")

    assert (first.code, first.out) == (again.code, again.err) == (0, "")
    assert re.match(r"20 answered  \$0\.000063  \d+\.\d s\n", first.err)
    assert sorted(each["id"] for each in read(out)) == list(range(20))
    assert read(out)[0] == {
        "id": read(out)[0]["id"],
        "text": "Trout.",
        "model": "openai/gpt-4o-mini",
        "finish_reason": "stop",
        "usage": read(out)[0]["usage"],
        "cost_usd": "0.00000315",
        "saved_usd": "0",
        "cached": False,
        "call": read(out)[0]["call"],
    }
    assert json.loads(again.out).items() >= {"lines": 20, "before": 20, "answered": 0, "cost_usd": "0"}.items()
    assert len(sim.requests) == 20
    assert not errors_path(out).exists()


def test_a_line_of_openais_batches_is_answered_in_their_format(
    sim: Simulator, command: Command, tmp_path: Path, out: Path
) -> None:
    body = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Name a fish."}], "max_tokens": 9}
    line = {"custom_id": "fish-1", "method": "POST", "url": "/v1/chat/completions", "body": {**body, "stream": False}}
    questions = written(tmp_path / "in.jsonl", [line])

    done = command("batch", str(questions), str(out))

    (answer,) = read(out)
    assert done.code == 0
    assert (answer["custom_id"], answer["error"], answer["response"]["status_code"]) == ("fish-1", None, 200)
    assert answer["response"]["body"]["choices"][0]["message"]["content"] == "Trout."
    assert [(seen.body or {})["max_tokens"] for seen in sim.requests] == [9]


def test_lines_have_models_tags_and_parameters_of_their_own_which_go_before_the_options(
    sim: Simulator, command: Command, tmp_path: Path, out: Path
) -> None:
    plain = {"id": "a", "messages": [{"role": "user", "content": "Name a fish."}]}
    own = {"id": "b", "prompt": "Name a bird.", "temperature": 0.5, "max_tokens": 7, "tags": {"user": "bob"}}
    questions = written(tmp_path / "in.jsonl", [plain, "", own])

    command("batch", str(questions), str(out), *GPT, "--max-tokens", "5", "--tag", "user=alice", "--tag", "run=1")

    assert sorted((seen.body or {})["max_tokens"] for seen in sim.requests) == [5, 7]
    assert {frozenset(record.tags.items()) for record in default.default().ledger.records()} == {
        frozenset({("user", "alice"), ("run", "1")}),
        frozenset({("user", "bob"), ("run", "1")}),
    }


def test_questions_come_from_standard_input(sim: Simulator, command: Command, out: Path) -> None:
    done = command("batch", "-", str(out), *GPT, stdin='{"id": 1, "prompt": "Name a fish."}\n')

    assert (done.code, len(read(out))) == (0, 1)


def test_what_failed_is_in_a_file_of_its_own_and_asked_again(
    sim: Simulator, command: Command, questions: Path, out: Path
) -> None:
    sim.script(*[Reply()] * 5, Fault.status(400), Fault.status(400), Reply())

    first = command("batch", str(questions), str(out), *GPT)
    failures = read(errors_path(out))
    again = command("batch", str(questions), str(out), *GPT)

    assert (first.code, again.code) == (1, 0)
    assert "18 answered  2 failed" in first.err
    assert f"{errors_path(out)}: 2 BadRequest." in first.err
    assert [each["error"]["code"] for each in failures] == ["BadRequest"] * 2
    assert {each["id"] for each in failures}.isdisjoint(each["id"] for each in read(out)[:18])
    assert len(sim.requests) == 22
    assert len({each["id"] for each in read(out)}) == len(read(out)) == 20
    assert not errors_path(out).exists()


def test_what_was_answered_but_not_written_comes_from_the_cache_and_a_torn_line_is_taken_off(
    sim: Simulator, command: Command, questions: Path, out: Path
) -> None:
    command("batch", str(questions), str(out), *GPT)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:12]) + lines[12][:40])

    done = command("batch", str(questions), str(out), *GPT)

    assert "8 answered (8 cached, saved $0.000025)  12 before  $0 " in done.err
    assert len({each["id"] for each in read(out)}) == len(read(out)) == 20
    assert len(sim.requests) == 20


@pytest.mark.parametrize("torn", [b"", b'{"i', b'{"id": 0, "te', b'{"id": 0}'])
def test_a_last_line_is_kept_if_it_is_whole_and_else_taken_off(torn: bytes, out: Path) -> None:
    out.write_bytes(torn)

    with Answers(out) as answers:
        done = set(answers.done)
        answers.add({"id": 1})

    assert done == ({"0"} if torn.endswith(b"}") else set())
    assert [each["id"] for each in read(out)] == [*map(int, done), 1]


@pytest.mark.parametrize("held", ["Dear diary,", "Dear diary,\n", '{"name": "Trout"}\n', "[1]\n", '{"id": 1}\nDear\n{'])
def test_a_file_that_holds_something_else_is_left_as_it_is(
    held: str, sim: Simulator, command: Command, questions: Path, out: Path
) -> None:
    out.write_text(held)

    done = command("batch", str(questions), str(out), *GPT)

    assert (done.code, out.read_text(), len(sim.requests)) == (2, held, 0)
    assert "is no answer of a batch" in done.err


def test_a_place_that_cannot_be_written_to_is_a_line_and_nothing_is_sent(
    sim: Simulator, command: Command, questions: Path, tmp_path: Path
) -> None:
    done = command("batch", str(questions), str(tmp_path / "nowhere" / "out.jsonl"), *GPT)

    assert (done.code, len(sim.requests)) == (2, 0)
    assert done.err == f"{tmp_path / 'nowhere' / 'out.jsonl'}: No such file or directory\n"


def test_two_processes_do_not_write_to_one_file(sim: Simulator, command: Command, questions: Path, out: Path) -> None:
    with Answers(out):
        done = command("batch", str(questions), str(out), *GPT)

    assert (done.code, len(sim.requests)) == (2, 0)
    assert done.err == f"another process is writing to {out}; wait for it, or name another file\n"


def test_every_mistake_is_said_with_its_line_before_anything_is_sent(
    sim: Simulator, command: Command, tmp_path: Path, out: Path
) -> None:
    openai = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions"}
    lines = [
        {"id": 1, "prompt": "Name a fish."},
        '{"id": 2, "prompt":',
        {"id": "1", "prompt": "Name a fish."},
        {"prompt": "Name a fish."},
        {"id": 3},
        {"id": 4, "prompt": "x", "bugdet": "$5"},
        {"id": 5, "prompt": "x", "api_base": "https://elsewhere.test"},
        {"id": 7, "prompt": "x", "budget": "$5"},
        {**openai, "url": "/v1/moderations", "body": {}},
        openai,
        {"id": 6, "messages": [{"role": "fish", "content": "x"}]},
    ]
    questions = written(tmp_path / "in.jsonl", lines)

    done = command("batch", str(questions), str(out), *GPT)

    assert (done.code, len(sim.requests), out.exists()) == (2, 0, False)
    *said, last = done.err.splitlines()
    assert last == "Nothing was sent."
    assert [line.removeprefix(f"{questions}, ").split(":")[0] for line in said] == [f"line {n}" for n in range(2, 12)]
    for line, expected in zip(
        said,
        [
            "not JSON: ",
            "the id '1' stands on line 1 already",
            "'id' is missing",
            "there are no messages",
            "unknown parameter 'bugdet'",
            "'api_base' belongs into the configuration",
            "'budget' is for the whole batch",
            "only POST /v1/chat/completions is known",
            "there is no 'body'",
            "messages[0]",
        ],
        strict=True,
    ):
        assert expected in line


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("no.jsonl", GPT, "no.jsonl: No such file or directory\n"),
        ("in.jsonl", (), "line 1: no model: "),
        ("out.jsonl", GPT, "out.jsonl is IN and OUT; name another file for the answers\n"),
        ("in.jsonl", (*GPT, "--budget", "5"), "'5' is no amount"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    source: str,
    options: tuple[str, ...],
    said: str,
    sim: Simulator,
    command: Command,
    questions: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(questions.parent)
    Path("out.jsonl").touch()

    done = command("batch", source, "out.jsonl", *options)

    assert (done.code, len(sim.requests)) == (2, 0)
    assert done.err.startswith(said)
    assert done.err.count("\n") == 1


def test_a_dry_run_says_what_it_costs_typically_and_at_most_and_sends_nothing(
    sim: Simulator, command: Command, questions: Path, out: Path
) -> None:
    dry = ("batch", str(questions), str(out), "--dry-run", *GPT, "--max-tokens", "100", "--budget", "$0.0001")
    first = json.loads(command(*dry, "--json").out)
    shown = command(*dry)
    assert len(sim.requests) == 0
    assert not out.exists()
    command("batch", str(questions), str(out), *GPT, "--max-tokens", "100")
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:15]))

    then = json.loads(command(*dry, "--json").out)

    assert (first["answered_before"], first["total"]["lines"], first["total"]["kept"]) == (0, 20, 0)
    assert 0 < float(first["total"]["typical_usd"]) <= float(first["total"]["worst_usd"])
    assert float(first["total"]["worst_usd"]) > 20 * 100 * 0.6e-6
    assert re.search(r"openai/gpt-4o-mini +20 +0 +\$0\.00\d+ +\$0\.00\d+", shown.out), shown.out
    assert f"Budget 'dollars for batch {out}': $0.0001 left, not enough typically.\nNothing was sent.\n" in shown.out
    assert (then["answered_before"], then["total"]["lines"], then["total"]["kept"]) == (15, 5, 5)
    assert then["total"]["worst_usd"] == "0"


def test_a_budget_that_is_held_by_others_of_the_batch_is_waited_for(
    sim: Simulator, command: Command, questions: Path, out: Path
) -> None:
    """Three worst cases fit at a time, and all actual costs."""
    sim.script(Reply(delay_s=0.05))
    worst_usd = float(explained(command, "--max-tokens", "100")["candidates"][0]["worst_usd"])

    done = command(
        "batch", str(questions), str(out), *GPT, "--max-tokens", "100", "--budget", f"${worst_usd * 3.9:.7f}"
    )

    assert done.code == 0, done.err
    assert len(sim.requests) == 20
    assert default.default().ledger.check() == []


def explained(command: Command, *options: str) -> Any:
    return json.loads(command("explain", "Name fish 10.", *GPT, *options, "--json").out)


def test_a_budget_without_a_window_is_for_all_runs_of_a_batch_and_for_no_other(
    sim: Simulator, command: Command, questions: Path, out: Path, tmp_path: Path
) -> None:
    arguments = (*GPT, "--max-tokens", "10", "--budget")
    command("batch", str(questions), str(out), *arguments, "$1")
    command("batch", str(questions), str(tmp_path / "other.jsonl"), *arguments, "$2", "--cache", "off")
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:15]))
    command("batch", str(questions), str(out), *arguments, "$3", "--cache", "off")

    settled = [(each.limit_usd, each.settled) for each in default.default().ledger.balance()]
    assert sorted(settled) == [(2, 20 * 3150), (3, 25 * 3150)]


def test_a_budget_that_is_used_up_refuses_the_rest_which_a_larger_one_lets_through(
    sim: Simulator, command: Command, questions: Path, out: Path
) -> None:
    worst_usd = float(explained(command, "--max-tokens", "10")["candidates"][0]["worst_usd"])
    arguments = ("batch", str(questions), str(out), *GPT, "--max-tokens", "10", "--budget")

    first = command(*arguments, f"${worst_usd * 2:.7f}")
    answered = len(read(out))
    again = command(*arguments, "$5")

    assert first.code == 3
    assert 2 <= answered < 20
    assert f"{20 - answered} BudgetExceeded." in first.err
    assert (again.code, len(read(out)), len(sim.requests)) == (0, 20, 20)


def test_ctrl_c_lets_those_under_way_end_and_the_same_command_asks_the_rest(
    sim: Simulator, command: Command, questions: Path, out: Path
) -> None:
    sim.script(Reply(delay_s=0.1))
    interrupter = threading.Thread(
        target=lambda: sim.wait_for_requests(5, WAIT_S) and os.kill(os.getpid(), signal.SIGINT)
    )
    interrupter.start()

    first = command("batch", str(questions), str(out), *GPT, "--concurrency", "4")
    interrupter.join()
    paid = asked(sim)
    again = command("batch", str(questions), str(out), *GPT)

    assert first.code == 130
    assert "Stopping: " in first.err
    assert f"{len(paid)} answered  {20 - len(paid)} left" in first.err
    assert again.code == 0
    assert Counter(asked(sim)) == Counter(f"Name fish {number}." for number in range(20))


def test_a_second_ctrl_c_cuts_them_off(sim: Simulator, command: Command, questions: Path, out: Path) -> None:
    sim.script(Reply(), Reply(), Fault.hang())

    def interrupt() -> None:
        sim.wait_for_requests(2 + AT_A_TIME, WAIT_S)
        os.kill(os.getpid(), signal.SIGINT)
        said.wait(WAIT_S)
        os.kill(os.getpid(), signal.SIGINT)

    said = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        stop = Batch.stop
        patch.setattr(Batch, "stop", lambda self: (stop(self), said.set()))
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        first = command("batch", str(questions), str(out), *GPT)
        interrupter.join()

    assert (first.code, len(read(out))) == (130, 2)
    assert "2 answered  18 left" in first.err
    assert default.default().ledger.check() == []


def test_a_disk_that_is_full_ends_it_without_a_traceback_and_what_came_is_kept(
    sim: Simulator, command: Command, questions: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Answers.add

    def full(self: Answers, answer: Any) -> None:
        write(self, answer)
        if len(read(out)) == 3:
            os.write(self._file, b'{"id": 7, "te')
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Answers, "add", full)
        first = command("batch", str(questions), str(out), *GPT)
    again = command("batch", str(questions), str(out), *GPT)

    assert first.code == 1
    assert "An answer could not be written: No space left on device." in first.err
    assert again.code == 0
    assert Counter(asked(sim)) == Counter(f"Name fish {number}." for number in range(20))
    assert len({each["id"] for each in read(out)}) == len(read(out)) == 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("lines", "kills"), [(120, 3), pytest.param(1000, 5, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
def test_a_batch_that_is_killed_pays_for_each_line_once_but_for_the_calls_under_way(
    lines: int, kills: int, sim: Simulator, openai_here: None, tmp_path: Path, out: Path
) -> None:
    prompts = [f"Name fish {number}." for number in range(lines)]
    questions = written(tmp_path / "in.jsonl", [{"id": text, "prompt": text} for text in prompts])
    sim.script(Reply(delay_s=0.02))
    command = ["batch", str(questions), str(out), *GPT, "--concurrency", str(AT_A_TIME), "--max-tokens", "20"]

    with Worker("batch", module="tests.batch_worker") as worker:
        assert worker.hear() == "ready"
        for kill in range(1, kills + 1):
            before = asked(sim)
            process = start(worker, command)
            assert sim.wait_for_requests(lines * kill // (kills + 1), WAIT_S)
            os.kill(process, signal.SIGKILL)
            assert worker.hear() == -signal.SIGKILL
            assert len(again := set(before) & set(asked(sim)[len(before) :])) <= AT_A_TIME, again
        before = asked(sim)
        start(worker, command)
        assert worker.hear() == 0

    assert len(set(before) & set(asked(sim)[len(before) :])) <= AT_A_TIME
    assert set(asked(sim)) == set(prompts)
    print(f"{lines} lines, {kills} kills: {len(sim.requests)} requests")
    assert len(sim.requests) <= lines + kills * AT_A_TIME
    assert Counter(each["id"] for each in read(out)) == Counter(prompts)
    with Ledger(tmp_path / "home" / "ledger.db") as ledger:
        assert ledger.check() == []


def start(worker: Worker, command: list[str]) -> int:
    """Begin a command in a process of its own; its id."""
    assert worker.process.stdin is not None
    worker.process.stdin.write(json.dumps(command) + "\n")
    worker.process.stdin.flush()
    process = worker.hear()
    assert isinstance(process, int)
    return process


def test_in_a_terminal_a_bar_shows_how_far_it_is_and_ctrl_c_stops_it(
    sim: Simulator, openai_here: None, questions: Path, out: Path
) -> None:
    sim.script(Reply(delay_s=0.3))

    with terminal("batch", str(questions), str(out), *GPT, "--concurrency", "2") as started:
        assert sim.wait_for_requests(5, WAIT_S)
        started.process.send_signal(signal.SIGINT)
        shown = started.end()
        code = started.process.wait(WAIT_S)

    assert code == 130
    assert re.search(r"━.*\b4/20\b.*\$0\.000013", shown)
    assert "Stopping: 2 under way may end, Ctrl-C again cuts them off." in shown
    assert f"{len(read(out))} answered" in shown
    assert len(read(out)) == len(sim.requests)
