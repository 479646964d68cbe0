"""What a fresh two-host lab for each test costs: pytest with the plugin, against the same number of empty tests.

    .venv/bin/python tests/benchmarks/fresh_lab_per_test.py [TESTS [ROUNDS]]

Three kinds of tests, each in a pytest of its own and in turns: empty ones; ones that have a lab; ones that run a
program in it. What a session costs without them (interpreter, plugins, imports, the first lab) is measured with one
test and subtracted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = {
    "an empty test": "def test_{number}():\n    pass\n",
    "a test with a lab": "def test_{number}(lab):\n    pass\n",
    "... that runs a program": "def test_{number}(lab):\n    lab['client'].run(['true'])\n",
}


def session_s(folder: Path, text: str, tests: int) -> float:
    """How long pytest takes for so many tests of a kind."""
    path = folder / "test_it.py"
    path.write_text("\n\n".join(text.format(number=number) for number in range(tests)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", str(path)]
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(tests: int, rounds: int) -> int:
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for text in KINDS.values():
            session_s(Path(folder), text, 1)  # once, to have everything in the page cache and compiled
        for _ in range(rounds):
            for kind, text in KINDS.items():
                whole, start = session_s(Path(folder), text, tests + 1), session_s(Path(folder), text, 1)
                times[kind].append((whole - start) / tests)
    empty = statistics.median(times["an empty test"])
    for kind, values in times.items():
        median = statistics.median(values)
        sys.stdout.write(
            f"{kind:26} {median * 1000:8.2f} ms  {median / empty:8.1f}x  (best {min(values) * 1000:.2f})\n"
        )
    return 0


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(given + [100, 5][len(given) :])))
