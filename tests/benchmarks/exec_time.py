"""How long `labctl exec NODE -- true` takes in a running lab, against a Python that does nothing.

    .venv/bin/python tests/benchmarks/exec_time.py [REPETITIONS]

The commands are run in turns, so that all meet the same machine; of each the median, and its ratio to the first.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LABCTL = str(Path(sys.executable).with_name("labctl"))


def wall_s(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(repetitions: int) -> int:
    name = f"bench{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LABCTL_STATE_DIR"] = str(Path(folder, "state"))
        subprocess.run([LABCTL, "up", "--topo", "pair", "--name", name], check=True, stdout=subprocess.DEVNULL)
        try:
            measure(repetitions)
        finally:
            subprocess.run([LABCTL, "down", name], check=True, stdout=subprocess.DEVNULL)
    return 0


def measure(repetitions: int) -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import pyroute2, typer": [sys.executable, "-c", "import pyroute2, typer"],
        "labctl exec client -- true": [LABCTL, "exec", "client", "--", "true"],
        "labctl ps": [LABCTL, "ps"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for argv in commands.values():
        wall_s(argv)  # once, to have everything in the page cache and compiled, and the host complete
    for _ in range(repetitions):
        for name, argv in commands.items():
            times[name].append(wall_s(argv))
    base = statistics.median(times["python -c pass"])
    for name, values in times.items():
        median = statistics.median(values)
        best = min(values) * 1000
        sys.stdout.write(f"{name:27} {median * 1000:7.1f} ms  (best {best:.1f})  ratio {median / base:5.2f}\n")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 31))
