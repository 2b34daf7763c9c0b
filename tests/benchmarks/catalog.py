"""A question to the catalogue in fresh processes, after `import llmbridge`: python -m tests.benchmarks.catalog [N]"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys


SCRIPT = """
import json, sys, time
import llmbridge
started, cpu = time.perf_counter(), time.process_time()
found = llmbridge.models.find(capability="vision", sort="cost")
first_s, first_cpu_s = time.perf_counter() - started, time.process_time() - cpu
again = time.perf_counter()
everything = llmbridge.models.find()
again_s = time.perf_counter() - again
assert "litellm" not in sys.modules
print(json.dumps([first_s, first_cpu_s, again_s, len(found), len(everything)]))
"""


def main(runs: int) -> None:
    """Print medians: of the first query, with the modules that it imports and the table that it reads, and another."""
    rows = [
        json.loads(subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stdout)
        for _ in range(runs + 1)
    ][1:]  # the first run compiles and fills the page cache
    first, cpu, again = (statistics.median(row[index] for row in rows) * 1000 for index in range(3))
    print(f"first query   {first:6.1f} ms, {cpu:.1f} ms of CPU, {min(row[0] for row in rows) * 1000:.1f} ms at best")
    print(f"another one   {again:6.1f} ms, all {rows[0][4]:,} models of the mode")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
