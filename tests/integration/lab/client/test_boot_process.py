"""A boot process that waits for its lab."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from labctl.lab.client.boot_process import Boot
from tests.integration.detached import becomes, state_of


def test_a_boot_process_that_is_never_used_made_no_namespace_and_ends_when_closed() -> None:
    boot = Boot.start()
    own = {os.readlink(entry) for entry in Path("/proc/self/ns").iterdir()}
    assert {os.readlink(entry) for entry in Path(f"/proc/{boot.pid}/ns").iterdir()} == own
    boot.close()


def test_a_stopped_boot_is_ended_when_closed() -> None:
    boot = Boot.start()
    os.kill(boot.pid, signal.SIGSTOP)
    assert becomes(lambda: state_of(boot.pid) == "T")
    boot.close(deadline_s=0.1)
    assert boot.ended
