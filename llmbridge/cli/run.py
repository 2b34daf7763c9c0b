"""llmbridge run: a program, with a budget around every call in it."""

from __future__ import annotations

import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from llmbridge.cli import asking, printing
from llmbridge.money import show_usd


if TYPE_CHECKING:
    from llmbridge.ledger import Budget
    from llmbridge.record import CallRecord

EXCEEDED = 3
CONTEXT = {"ignore_unknown_options": True}  # they are the script's


def run(
    script: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="SCRIPT.py", help="What to run.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="The script's own.")] = None,
    budget: asking.OwnBudgets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say what it took as JSON, on stderr.")] = False,
) -> None:
    """Run a Python program with a budget around every llmbridge call in it.

    What it took is said on stderr. What this command does not know is the script's; after --, everything is. The
    script's exit code is kept; it is 3 if BudgetExceeded ended it. Programs that the script starts are not capped.

    Example: llmbridge run enrich.py --budget '$5' -- input.csv --verbose
    """
    from llmbridge.everywhere import cap_every_call, hear_every_call

    began = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    caps = asking.own_budgets(budget, f"{script.name} at {began} [{os.getpid()}]")
    records: list[CallRecord] = []
    cap_every_call(caps)
    stop = hear_every_call(records.append)
    try:
        code = _run(script, arguments or [])
    finally:
        stop()
        _say(records, caps, as_json=as_json)
    raise typer.Exit(code)


def _run(script: Path, arguments: list[str]) -> int:
    """Run *script* as Python would, and return its exit code."""
    import runpy

    before = sys.argv, sys.path[:]
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as exit:
        return _code(exit.code)
    except Exception as error:
        return _failed(error, script)
    finally:
        sys.argv, sys.path[:] = before
    return 0


def _code(code: object) -> int:
    """As Python does it: a number is the code, a text is said and means 1."""
    if code is None or isinstance(code, int):
        return code or 0
    typer.echo(str(code), err=True)
    return 1


def _failed(error: Exception, script: Path) -> int:
    """Say what Python would, without our own frames above the script's; a budget's refusal in one line."""
    from llmbridge.errors import BudgetExceeded

    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename != str(script):
        tb = tb.tb_next
    if isinstance(error, BudgetExceeded):
        where = f" ({script.name}, line {_line(tb, script)})" if tb is not None else ""
        typer.echo(f"BudgetExceeded: {error}{where}", err=True)
        return EXCEEDED
    # a script that cannot be compiled has no frame, and its error says the line by itself
    traceback.print_exception(type(error), error, tb)
    return 1


def _line(tb: TracebackType | None, script: Path) -> int:
    line = 0
    while tb is not None:
        line = tb.tb_lineno if tb.tb_frame.f_code.co_filename == str(script) else line
        tb = tb.tb_next
    return line


def _say(records: list[CallRecord], caps: list[Budget], *, as_json: bool) -> None:
    from llmbridge.record import sum_usd

    cost_usd, cached = sum_usd(each.cost_usd for each in records), sum(each.cached for each in records)
    refused = sum(each.refused_by in {cap.name for cap in caps} for each in records)
    if as_json:
        found = {"calls": len(records), "cached": cached, "refused": refused, "cost_usd": cost_usd}
        printing.as_json({**found, "budgets": [cap.name for cap in caps]}, err=True)
        return
    said = [f"{len(records)} call{'s' * (len(records) != 1)}", f"{cached} cached" if cached else "", show_usd(cost_usd)]
    said += [f"of {cap.limit}" for cap in caps]
    typer.secho("  ".join(filter(None, said)), err=True, dim=True)
    if refused:
        how = "a call was" if refused == 1 else f"{refused} calls were"
        typer.secho(
            f"The budget of {' and '.join(cap.limit for cap in caps)} was exceeded: {how} refused.", err=True, fg="red"
        )
