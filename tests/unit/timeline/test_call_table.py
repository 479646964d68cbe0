"""The calls of a timeline, against what strace(1) groups them by."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from labctl.timeline.call_table import MAY_BLOCK, RECEIVES, SENDS, SOCKET_CALLS, TRACED


def test_data_is_moved_and_waited_for_only_by_traced_calls() -> None:
    assert SENDS | RECEIVES | MAY_BLOCK <= TRACED
    assert not SENDS & RECEIVES
    assert {"connect", "accept4", "recvfrom", "epoll_wait"} <= MAY_BLOCK
    assert not {"socket", "bind", "close", "epoll_ctl"} & MAY_BLOCK


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_every_call_on_sockets_is_one_that_strace_has_as_well(tmp_path: object) -> None:
    given = ",".join(sorted(TRACED))
    ran = subprocess.run(["strace", f"--trace={given}", "--output=/dev/null", "true"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    network = subprocess.run(
        ["strace", "--trace=%network", "--trace=!" + ",".join(sorted(SOCKET_CALLS)), "true"],
        capture_output=True,
        text=True,
    )
    assert network.returncode == 0
