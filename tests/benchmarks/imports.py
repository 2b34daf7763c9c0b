"""`import llmbridge` against `import litellm`, and `llmbridge --version` against a bare interpreter.

In fresh processes, in turn: python -m tests.benchmarks.imports [N]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time


VERSION = "import sys; sys.argv[1:] = ['--version']; from llmbridge.cli import main; main()"
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}


def seconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs *statement*."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", statement], check=True, stdout=subprocess.DEVNULL, env={**environment, **QUIET}
    )
    return time.perf_counter() - started


def main(runs: int) -> None:
    """Print medians, and the median, least and greatest of the paired ratios; a bare interpreter's start taken off."""
    seconds("import litellm, llmbridge")  # the first run compiles and fills the page cache
    ratios, ours, theirs, commands = [], [], [], []
    for _ in range(runs):
        bare, our, their = seconds("pass"), seconds("import llmbridge"), seconds("import litellm")
        ours.append(our - bare)
        theirs.append(their - bare)
        ratios.append((our - bare) / (their - bare))
        commands.append((seconds(VERSION), bare))
    print(f"import llmbridge  {statistics.median(ours) * 1000:7.1f} ms")
    print(f"import litellm    {statistics.median(theirs) * 1000:7.1f} ms")
    print(f"ratio             {statistics.median(ratios):7.4f}  ({min(ratios):.4f} to {max(ratios):.4f}, {runs} pairs)")
    times = [command / bare for command, bare in commands]
    print(f"llmbridge --version {statistics.median(command for command, _ in commands) * 1000:5.1f} ms")
    print(f"of bare Python    {statistics.median(times):7.1f}  ({min(times):.1f} to {max(times):.1f}, {runs} pairs)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
