"""The command in the test's own process, and a ledger with known figures for it to read."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

from llmbridge import cli
from llmbridge.ledger import Asked, Budget, Charge, Ledger, Need, Reservation
from llmbridge.record import AttemptRecord, CallRecord


START = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()  # a Monday
DAY_S = 86_400.0
DAILY = Budget("$5/day")
SUPPORT = Budget("$2", name="support", per=("team", "user"))


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(*arguments: object, stdin: str = "", columns: int | None = None) -> Done:
    """`llmbridge ARGUMENTS` through a pipe, or on a screen of so many columns, without its colours."""
    out, err = io.StringIO() if columns is None else Screen(), io.StringIO()
    environment = {"COLUMNS": str(columns or 40), "TERM": "xterm"}  # a pipe has no width, whatever the shell's is
    with (
        patch.object(sys, "argv", ["llmbridge", *map(str, arguments)]),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
    printed = out.getvalue() if columns is None else re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    return Done(code, printed, err.getvalue())


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below *directory*, with its time and content; of SQLite's shared memory, which is locks, the name."""
    return {
        str(path.relative_to(directory)): (0, b"")
        if path.name.endswith("-shm")
        else (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


class Story:
    """A ledger whose calls are made at times of the test's choosing."""

    def __init__(self, path: Path, start: float = START) -> None:
        self.now = start
        self.ledger = Ledger(path, clock=lambda: self.now)

    def call(
        self,
        id: str,
        cost_usd: str,
        *,
        model: str = "openai/gpt-4o-mini",
        user: str = "alice",
        team: str = "red",
        failed: str = "",
        uncertain: bool = False,
        **fields: Any,
    ) -> None:
        """A call that cost so much, after *failed*, another model, had failed."""
        tags, attempts = {"user": user, "team": team}, []
        for number, each in enumerate((failed, model) if failed else (model,), 1):
            cost = 0 if each == failed else int(Decimal(cost_usd) * 10**9)
            asked = Asked(f"{id}.{number}", each, each.split("/")[0], tags=tags)
            held = self.ledger.reserve(asked, Need(1_000_000_000, 1000), [DAILY, SUPPORT])
            assert isinstance(held, Reservation)
            record = AttemptRecord(
                number=number,
                model=each,
                provider=asked.provider,
                reason="fallback" if number > 1 else "initial",
                outcome="failed" if each == failed else "answered",
                error_type="ProviderUnavailable" if each == failed else None,
                status=503 if each == failed else 200,
                input_tokens=None if each == failed else 900,
                output_tokens=None if each == failed else 100,
                duration_s=0.5,
            )
            attempts.append(record)
            tokens = 0 if each == failed else 1000
            self.ledger.book(attempt=(held, record, Charge(cost, tokens, uncertain=uncertain and each != failed)))
        self.ledger.book(
            CallRecord(
                **{
                    "id": id,
                    "verb": "chat",
                    "models": (failed, model) if failed else (model,),
                    "tags": tags,
                    "started_at": self.now,
                    "duration_s": 0.5 * len(attempts),
                    "outcome": "answered",
                    "model": model,
                    "provider": model.split("/")[0],
                    "input_tokens": 900,
                    "output_tokens": 100,
                    "trace_id": "ab" * 16,
                    **fields,
                }
            )
        )

    def hold(self, id: str, lease_s: float = 660.0) -> None:
        """An attempt that stays under way."""
        self.ledger.reserve(f"{id}.1", Need(10_000_000, 10), [DAILY], lease_s=lease_s)

    def __enter__(self) -> Story:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()


def three_days(path: Path) -> None:
    """Four calls on the 2nd, the 3rd and the 5th of March 2026, for $1.75 in all."""
    with Story(path) as story:
        story.call("a1" * 16, "1.00")
        story.now += DAY_S
        story.call("b2" * 16, "0.25", user="bob", model="anthropic/claude-haiku-4-5", failed="openai/gpt-4o-mini")
        story.call("b3" * 16, "0", user="bob", cached=True, saved_usd=Decimal("0.5"))
        story.now += 2 * DAY_S
        story.call("c4" * 16, "0.50", team="blue", user="[/carol]", uncertain=True)
