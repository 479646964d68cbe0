"""However a test or its pytest ends, its labs end with it. That nothing is left is looked for after each test here."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.plugin_project import TIMEOUT_S, Project

WAITS = """\
    def test_waits(lab):
        print("the lab is there", flush=True)
        lab["client"].run(["sleep", "1000"], timeout_s=None)


    def test_after_it(lab):
        pass
    """
SCENARIO = """\
name: Waits
topology: pair
within: 500s
timeout: 500s
steps:
  - run: {on: client, run: [sleep, "400"]}
"""
CRASHES = """\
    import os


    def test_crashes(lab):
        lab["server"].start(["sleep", "1000"])
        os._exit(7)


    def test_another(lab):
        assert lab["client"].run(["true"])
    """
TIMES_OUT = """\
    import pytest


    @pytest.mark.timeout({seconds}, method="{method}", func_only=True)
    def test_waits(lab):
        lab["client"].run(["sleep", "1000"], timeout_s=None)


    def test_after_it(lab):
        assert lab["client"].run(["true"])
    """


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """The output up to the line with these words."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} did not come:\n{seen}")


def test_a_time_limit_by_signal_fails_the_test_and_the_next_has_a_lab(tmp_path: Path) -> None:
    ran = Project(tmp_path / "project", test_it__py=TIMES_OUT.format(method="signal", seconds=5)).pytest()
    assert ran.outcomes() == "1 failed, 1 passed", ran.output
    assert ran.lines("Timeout (>5.0s) from pytest-timeout.")
    assert ran.lines("client  run sleep 1000")


def test_a_time_limit_by_thread_ends_pytest_and_the_lab(tmp_path: Path) -> None:
    ran = Project(tmp_path / "project", test_it__py=TIMES_OUT.format(method="thread", seconds=2)).pytest()
    assert ran.status == 1
    assert ran.lines("Timeout")


def test_a_time_limit_ends_a_scenario(tmp_path: Path) -> None:
    ran = Project(tmp_path / "project", waits__scenario__yaml=SCENARIO).pytest("--timeout=2")
    assert ran.outcomes() == "1 failed", ran.output
    assert ran.lines("Timeout (>2.0s) from pytest-timeout.")


def test_ctrl_c_ends_the_session_and_the_lab(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", test_it__py=WAITS)
    with project.running("-s") as process:
        wait_for(process, "the lab is there")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(TIMEOUT_S) == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_pytest_takes_its_labs_along(tmp_path: Path, number: signal.Signals) -> None:
    project = Project(tmp_path / "project", test_it__py=WAITS)
    with project.running("-s") as process:
        wait_for(process, "the lab is there")
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == -number


def test_a_worker_that_crashes_takes_its_labs_along_and_others_go_on(tmp_path: Path) -> None:
    ran = Project(tmp_path / "project", test_it__py=CRASHES).pytest("-n1")
    assert ran.outcomes() == "1 failed, 1 passed", ran.output
    assert ran.lines("crashed while running 'test_it.py::test_crashes'")


def test_the_first_failure_ends_the_session_and_shared_labs(tmp_path: Path) -> None:
    text = """\
        import pytest

        @pytest.mark.topology("pair", scope="session")
        def test_fails(lab):
            lab["server"].start(["sleep", "1000"])
            assert 0


        def test_after_it(lab):
            pass
        """
    assert Project(tmp_path / "project", test_it__py=text).pytest("-x").outcomes() == "1 failed"
