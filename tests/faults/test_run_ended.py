"""`labctl run`, ended from outside at many moments: the fixture finds nothing of it afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from select import POLLIN, poll

import pytest

from tests.faults.rounds import KILLS

ROOT = Path(__file__).parents[2]
MOMENTS = -(-KILLS // 3)
LATEST_MS = 700  # by then the scenario below waits in its last step
WAIT_S = 20.0

SCENARIO = """\
name: Something to interrupt
topology: pair
steps:
  - start: {on: server, run: [sleep, "1000"]}
  - start: {on: client, shell: "trap '' TERM INT HUP; setsid sleep 1000 & sleep 1000"}
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "server:5000")
      listen(s, 1)
  - run: {on: client, run: [sleep, "1000"]}
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`labctl run` of a scenario that goes on until it is ended."""
    file = tmp_path / "interrupt.yaml"
    file.write_text(SCENARIO)
    process = subprocess.Popen(
        [sys.executable, "-m", "labctl", "run", str(file)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.communicate(timeout=WAIT_S)


def after(process: subprocess.Popen[bytes], delay_ms: float) -> None:
    """Let the process run for so long, or until it ends."""
    pidfd = os.pidfd_open(process.pid)
    try:
        poller = poll()
        poller.register(pidfd, POLLIN)
        poller.poll(delay_ms)
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_sigkill_of_a_run_leaves_nothing(run: subprocess.Popen[bytes], moment: int) -> None:
    after(run, LATEST_MS * moment / MOMENTS)
    run.kill()
    assert run.wait(WAIT_S) == -signal.SIGKILL


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_ctrl_c_and_sigterm_of_a_run_leave_nothing(run: subprocess.Popen[bytes], moment: int) -> None:
    after(run, LATEST_MS * moment / MOMENTS)
    number = (signal.SIGINT, signal.SIGTERM)[moment % 2]
    os.killpg(run.pid, number)  # as a terminal does: the whole foreground group
    _, said = run.communicate(timeout=WAIT_S)
    # -number: before Python, or labctl, had a handler for it; 1: Python was just importing its `site`.
    starting = number == signal.SIGINT and run.returncode == 1 and b"KeyboardInterrupt" in said
    assert run.returncode in (128 + number, -number) or starting, said.decode()
