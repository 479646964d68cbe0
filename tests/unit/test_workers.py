"""Workers share the machine but for tests that need it alone."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

from tests.integration.detached import becomes
from tests.workers import holding_machine


def is_locked(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_tests_hold_the_machine_together(tmp_path: Path) -> None:
    with holding_machine(tmp_path, alone=False), holding_machine(tmp_path, alone=False):
        assert not is_locked(tmp_path / "next")


def test_a_test_that_runs_alone_waits_for_those_that_run_and_before_those_that_do_not(tmp_path: Path) -> None:
    held: list[str] = []

    def hold(name: str) -> None:
        with holding_machine(tmp_path, alone=name == "alone"):
            held.append(name)

    threads = [threading.Thread(target=hold, args=[name]) for name in ("alone", "together")]
    with holding_machine(tmp_path, alone=False):
        threads[0].start()
        assert becomes(lambda: is_locked(tmp_path / "next"))
        threads[1].start()
        assert held == []
    for thread in threads:
        thread.join()
    assert held == ["alone", "together"]
