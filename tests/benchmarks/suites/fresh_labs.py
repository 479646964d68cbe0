"""What a fresh lab for each test costs: pytest with labctl's plugin, against empty tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.options import Options, progress
from tests.benchmarks.results import Section, Table, median, milliseconds, ratio, with_spread

_EMPTY, _LAB = "an empty test", "a test with a lab of two hosts"
_KINDS = {
    _EMPTY: "def test_{number}():\n    pass\n",
    _LAB: "def test_{number}(lab):\n    pass\n",
    "a test that runs `true` in its lab": "def test_{number}(lab):\n    lab['client'].run(['true'])\n",
}
# A test is timed from the beginning of its setup to the end of its teardown, reporting included.
_TIMER = """\
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


def run(options: Options) -> Section:
    """Run each kind of test in a pytest of its own, in turns."""
    tests, rounds = (5, 1) if options.quick else (50, 5)
    times: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for number in range(rounds):
        for kind, text in _KINDS.items():
            progress(f"fresh-labs: {number + 1} of {rounds}: {kind}")
            times[kind] += _test_times_s(options.scratch, text, tests)
    empty = median(times[_EMPTY])
    rows = tuple(
        (kind, with_spread(values), milliseconds(median(values) - empty), ratio(median(values), empty))
        for kind, values in times.items()
    )
    table = Table("A test's setup, call and teardown", ("", "time", "over an empty test", ""), rows)
    headline = f"A fresh lab of two hosts adds {milliseconds(median(times[_LAB]) - empty)} to a test."
    samples: dict[str, object] = dict(times.items())
    return Section("fresh-labs", "A fresh lab for each test", (table,), headline=headline, samples=samples)


def _test_times_s(scratch: Path, text: str, tests: int) -> list[float]:
    """Return how long each test of a session took but the first, which imports what it needs."""
    folder = scratch / "pytest"
    folder.mkdir(exist_ok=True)
    times = folder / "times"
    times.unlink(missing_ok=True)
    (folder / "conftest.py").write_text(_TIMER)
    (folder / "test_it.py").write_text("\n\n".join(text.format(number=number) for number in range(tests + 1)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    command += [f"--basetemp={folder / 'temporary'}", "test_it.py"]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return [float(line) for line in times.read_text().splitlines()[1:]]
