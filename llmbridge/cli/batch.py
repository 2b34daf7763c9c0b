"""llmbridge batch: many questions in a file, their answers in another."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmbridge.cli import asking, pricing, printing
from llmbridge.money import show_usd


if TYPE_CHECKING:
    import asyncio

    from llmbridge.batch import Arguments, Batch, Line, Tally
    from llmbridge.bridge import Bridge

INTERRUPTED = 130
REFRESH_S = 0.1


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="The questions; '-' is standard input.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", dir_okay=False, help="Where answers are added.")],
    model: asking.Models = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many to ask at a time.")] = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it can cost, and send nothing.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer, for lines that do not say.")] = None,
    temperature: asking.Temperature = None,
    schema: asking.Schema = None,
    budget: asking.OwnBudgets = None,
    cache: asking.Cache = "on",
    tag: asking.Tags = None,
    deadline_s: asking.Deadline = None,
    as_json: asking.AsJson = False,
) -> None:
    """Ask what stands in a file, and add each answer to another as it comes.

    Stopped by whatever, the same command goes on: what is in OUT is not asked again, and what was answered but not
    written comes from the cache.

    A line of IN is one of OpenAI's batches, or {"id": 1, "prompt": "Name a fish."}, or has "messages", with "model",
    "tags" and parameters as it likes. -m goes before the lines' models. What failed is in OUT.errors.jsonl, and is
    asked again by the same command.

    Exit code 0: all are answered; 1: some failed; 3: some failed, and a budget refused each; 130: it was interrupted.

    Example: llmbridge batch questions.jsonl answers.jsonl -m openai/gpt-4o-mini --max-tokens 200 --budget '$5'
    """
    from llmbridge.batch import Answers, Batch, errors_path
    from llmbridge.default import default

    lines, bridge = _read(source, out), default()
    others: Any = {"max_tokens": max_tokens, "temperature": temperature, "deadline_s": deadline_s, "cache": cache}
    caps = asking.own_budgets(budget, f"batch {out.resolve()}")
    arguments = _arguments(model, tag, asking.arguments(None, schema=schema, budget=caps, **others))
    _check(bridge, lines, arguments)
    if dry_run:
        pricing.show(pricing.quote(bridge, lines, _answered(out), arguments), as_json=as_json)
        return
    with Answers(out) as answers, Answers(errors_path(out)) as failures:
        failures.clear()
        work = Batch(bridge, lines, answers, failures, arguments, concurrency)
        with _no_empty_file(failures.path):
            code = _run(work)
    _say(work.tally, out, as_json=as_json)
    raise typer.Exit(code)


def _arguments(model: list[str] | None, tag: list[str] | None, common: dict[str, Any]) -> Arguments:
    """What each line is asked with."""
    named, labels = asking.named(model or []), asking.tags(tag or [])
    return lambda line: line.arguments(named, labels, common)


def _read(source: Path, out: Path) -> list[Line]:
    from llmbridge.batch import read_lines

    if str(source) == "-":
        return read_lines(sys.stdin, "standard input")
    if out.exists() and source.exists() and source.samefile(out):
        raise ValueError(f"{source} is IN and OUT; name another file for the answers")
    try:
        with source.open(encoding="utf-8") as file:
            return read_lines(file, str(source))
    except OSError as error:
        raise ValueError(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8: {error.reason} at byte {error.start}") from None


def _check(bridge: Bridge, lines: list[Line], arguments: Arguments) -> None:
    """Raise what the first question to each model would raise before it is sent: there is no model, no ledger..."""
    firsts = {repr(arguments(line)["model"]): line for line in reversed(lines)}
    for line in firsts.values():
        try:
            bridge.plan(line.messages, **pricing.planned(arguments(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"line {line.number}: {error}") from None


def _answered(out: Path) -> set[str]:
    from llmbridge.batch import Answers

    if not out.exists():
        return set()
    with Answers(out) as answers:
        return answers.done


@contextmanager
def _no_empty_file(path: Path) -> Iterator[None]:
    """Leave no empty file behind."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _run(work: Batch) -> int:
    """Ask, and return the exit code."""
    import asyncio

    try:
        asking.run(_watched(work))
    except OSError as error:
        typer.echo(f"An answer could not be written: {error.strerror}. What came is in the cache.", err=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    tally = work.tally
    if tally.left:
        return INTERRUPTED
    return 0 if not tally.failed else 3 if tally.refused == tally.failed else 1


async def _watched(work: Batch) -> None:
    """Run it, with a bar, until it ends or is told to."""
    import asyncio

    task = asyncio.ensure_future(work.run())
    with ExitStack() as stack:
        draw = stack.enter_context(_bar(work.tally)) if sys.stderr.isatty() else None
        stack.enter_context(_interruptible(work, task, draw))
        if draw is not None:
            while not task.done():
                draw("")
                await asyncio.wait([task], timeout=REFRESH_S)
            draw("")
        await task


@contextmanager
def _interruptible(work: Batch, task: asyncio.Future[None], draw: Callable[[str], None] | None) -> Iterator[None]:
    """Ctrl-C lets those under way end, since they are paid; a second one cuts them off."""
    import asyncio

    loop = asyncio.get_running_loop()
    pressed = 0

    def interrupt() -> None:
        nonlocal pressed
        pressed += 1
        work.stop()
        if pressed > 1:
            task.cancel()
        elif work.under_way:
            said = f"Stopping: {work.under_way} under way may end, Ctrl-C again cuts them off."
            draw(said) if draw is not None else typer.echo(said, err=True)

    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for each in signals:
            loop.add_signal_handler(each, interrupt)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        yield
        return
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


@contextmanager
def _bar(tally: Tally) -> Iterator[Callable[[str], None]]:
    """A line that shows how far it is, what it has cost, how quick it is and how long it will take."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        BarColumn(bar_width=24),  # short of the edge, or the ^C that a terminal echoes would begin another line
        MofNCompleteColumn(),
        TextColumn("[green]{task.fields[cost]}[/]"),
        TextColumn("{task.fields[failed]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=Console(stderr=True, highlight=False),
        auto_refresh=False,
    )
    task = progress.add_task("", total=tally.lines, completed=tally.before, cost="", failed="", rate="")

    def draw(said: str) -> None:
        if said:
            progress.console.print(said, style="yellow")
        speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
        progress.update(
            task,
            completed=tally.before + tally.answered + tally.failed,
            cost=cost_of(tally),
            failed=f"[red]{tally.failed} failed[/]" if tally.failed else "",
            rate=f"{speed:.1f}/s" if speed else "",
            refresh=True,
        )

    with progress:
        yield draw


def cost_of(tally: Tally) -> str:
    """What a batch has cost, with what is unknown of it."""
    more = f" and {tally.unknown} of unknown cost" if tally.unknown else ""
    return f"{show_usd(tally.cost_usd)}{more}"


def _say(tally: Tally, out: Path, *, as_json: bool) -> None:
    from llmbridge.batch import errors_path

    failures = errors_path(out)
    if as_json:
        found = {**dataclasses.asdict(tally), "left": tally.left, "out": str(out)}
        found["failures"] = str(failures) if tally.failed else None
        printing.as_json(found)
        return
    said = [
        f"{tally.answered} answered"
        + (f" ({tally.cached} cached, saved {show_usd(tally.saved_usd)})" * bool(tally.cached)),
        f"{tally.before} before" if tally.before else "",
        f"{tally.failed} failed" if tally.failed else "",
        f"{tally.left} left" if tally.left else "",
        cost_of(tally),
        f"{tally.duration_s:.1f} s",
    ]
    typer.secho("  ".join(filter(None, said)), err=True, dim=True)
    if tally.failed:
        each = ", ".join(f"{count} {name}" for name, count in tally.errors.most_common())
        typer.secho(f"{failures}: {each}.", err=True, fg="red")
    if tally.left or tally.failed:
        who = "With a larger --budget, the" if tally.refused else "The"
        what = "asks the rest" if tally.left else "asks what failed again"
        typer.echo(f"{who} same command {what}.", err=True)
