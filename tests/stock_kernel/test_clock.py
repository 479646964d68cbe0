"""A clock that jumps under a running lab, in a virtual machine: there is no namespace for it (time_namespaces(7))."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.command import labctl
from tests.integration.detached import becomes
from tests.patience import patient
from tests.skips import for_machines_without, for_root, for_stock_kernels

YEAR_S = 365 * 86400.0
NAME = f"j{os.getpid()}"

pytestmark = [
    pytest.mark.stock_kernel,
    for_stock_kernels("a clock that may be set"),
    for_root("who sets the clock"),
    for_machines_without("other users of its clock", is_there=not Path("/run/image").is_mount()),
]


@contextmanager
def clock_jumped(by_s: float) -> Iterator[None]:
    began, at = time.monotonic(), time.time()
    time.clock_settime(time.CLOCK_REALTIME, at + by_s)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, at + time.monotonic() - began)


def done(*arguments: str) -> str:
    ran = labctl(*arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def told() -> dict[str, int]:
    """How often the program was started again, and how old the lab is said to be."""
    (lab,) = json.loads(done("ps", "--format", "json"))
    return {"restarts": sum(one["restarts"] for one in lab["processes"]), "age": lab["age_s"]}


def test_a_lab_is_used_and_ended_though_the_clock_jumps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    done("up", "--topo", "pair", "--name", NAME)
    try:
        done("start", "client", "--name", "again", "--restart", "always", "--", "sh", "-c", "echo run; sleep 0.1")
        with clock_jumped(YEAR_S):
            assert told()["age"] > YEAR_S / 2
            assert done("exec", "server", "--", "hostname") == "server\n"
        with clock_jumped(-YEAR_S):
            before = told()
            assert before["age"] == 0
            assert becomes(lambda: told()["restarts"] > before["restarts"], patient(20))
            assert "run\n" in done("logs", "again")
            done("stop", "again")
            done("down", NAME)
    finally:
        labctl("down", "--all")
