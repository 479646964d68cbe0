"""How long `labctl run` of a two-host scenario of ten calls takes, against a Python that imports pyroute2 and typer.

    .venv/bin/python tests/benchmarks/run_time.py [REPETITIONS]

The two are run in turns, so that both meet the same machine; the ratio of the medians is to be at most 2.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2.0
SCENARIO = """\
name: Ten calls
topology: pair
steps:
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "server:5000")
      listen(s, 2)
  - client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:5000")
      send(c, b"hello") -> 5
  - server: |
      conn, peer = accept(s)
      recv(conn, 100) -> b"hello"
      close(conn)
  - client: |
      recv(c, 100) -> b""
"""


def wall_s(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(repetitions: int) -> int:
    labctl = str(Path(sys.executable).with_name("labctl"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ten-calls.yaml")
        path.write_text(SCENARIO)
        commands = {
            "import pyroute2, typer": [sys.executable, "-c", "import pyroute2, typer"],
            "labctl run": [labctl, "run", str(path)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for argv in commands.values():
            wall_s(argv)  # once, to have everything in the page cache and compiled
        for _ in range(repetitions):
            for name, argv in commands.items():
                times[name].append(wall_s(argv))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        sys.stdout.write(f"{name:24} {median * 1000:7.1f} ms  (best {min(times[name]) * 1000:.1f})\n")
    base, run = medians.values()
    sys.stdout.write(f"{'ratio':24} {run / base:7.2f}     (limit {LIMIT:g})\n")
    return int(run / base > LIMIT)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 21))
