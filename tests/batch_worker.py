"""A process that has loaded LiteLLM, and forks one for each command line that it reads: python -m tests.batch_worker

It says the process id of each, and, once that has ended, its exit code, negative for a signal. So a test that kills
several commands waits for LiteLLM once.
"""

from __future__ import annotations

import json
import os
import sys

import llmbridge
from llmbridge import cli
from tests.ledger_worker import say


def main() -> None:
    """Fork until the input ends."""
    llmbridge.warm()
    say("ready")
    for line in sys.stdin:
        process = os.fork()
        if not process:
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
            sys.argv = ["llmbridge", *json.loads(line)]
            cli.main()
        say(process)
        _, status = os.waitpid(process, 0)
        say(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
