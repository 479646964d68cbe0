"""What a fresh two-host lab for each test costs: pytest with the plugin, against empty tests.

    .venv/bin/python tests/benchmarks/fresh_lab_per_test.py [TESTS [ROUNDS]]

Three kinds of tests, each in a pytest of its own and in turns: empty ones; ones that have a lab; ones that run a
program in it. A test is timed from the beginning of its setup to the end of its teardown, reporting included; a kind's
figure is the median of all of its tests but each session's first, which imports what it needs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

KINDS = {
    "an empty test": "def test_{number}():\n    pass\n",
    "a test with a lab": "def test_{number}(lab):\n    pass\n",
    "... that runs a program": "def test_{number}(lab):\n    lab['client'].run(['true'])\n",
}
TIMER = """\
import time
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    started = time.perf_counter()
    result = yield
    with open("times", "a") as file:
        file.write(f"{time.perf_counter() - started}\\n")
    return result
"""


def test_times_s(folder: Path, text: str, tests: int) -> list[float]:
    """How long each test of a session took, but the first."""
    times = folder / "times"
    times.unlink(missing_ok=True)
    (folder / "conftest.py").write_text(TIMER)
    (folder / "test_it.py").write_text("\n\n".join(text.format(number=number) for number in range(tests + 1)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_it.py"]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return [float(line) for line in times.read_text().splitlines()[1:]]


def main(tests: int, rounds: int) -> int:
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for kind, text in KINDS.items():
                times[kind] += test_times_s(Path(folder), text, tests)
    empty = statistics.median(times["an empty test"])
    for kind, values in times.items():
        median, best = statistics.median(values), min(values)
        sys.stdout.write(f"{kind:26} {median * 1000:8.2f} ms {median / empty:8.0f}x  (best {best * 1000:.2f} ms)\n")
    return 0


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(given + [100, 5][len(given) :])))
