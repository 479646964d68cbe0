"""The calls of a timeline, against what strace(1) groups them by."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest

from labctl.timeline.call_table import MAY_BLOCK, RECEIVES, SENDS, SOCKET_CALLS, TRACED, option_text


def test_data_is_moved_and_waited_for_only_by_traced_calls() -> None:
    assert SENDS | RECEIVES | MAY_BLOCK <= TRACED
    assert not SENDS & RECEIVES
    assert {"connect", "accept4", "recvfrom", "epoll_wait"} <= MAY_BLOCK
    assert not {"socket", "bind", "close", "epoll_ctl"} & MAY_BLOCK


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("SO_RCVTIMEO", struct.pack("=qq", 1, 500_000), "{tv_sec=1, tv_usec=500000}"),
        ("SO_SNDTIMEO_OLD", struct.pack("=qq", 0, 1), "{tv_sec=0, tv_usec=1}"),
        ("SO_LINGER", struct.pack("=ii", 1, 3), "{l_onoff=1, l_linger=3}"),
        ("IP_ADD_MEMBERSHIP", bytes((239, 1, 2, 3, 10, 0, 0, 1)), "{imr_multiaddr=239.1.2.3, imr_interface=10.0.0.1}"),
        (
            "IP_DROP_MEMBERSHIP",
            bytes((239, 1, 2, 3, 0, 0, 0, 0)) + struct.pack("=i", 2),
            "{imr_multiaddr=239.1.2.3, imr_interface=0.0.0.0, imr_ifindex=2}",
        ),
        ("SO_RCVTIMEO", b"cut", ""),
        ("SO_REUSEADDR", struct.pack("=i", 1), ""),
    ],
)
def test_options_that_are_structures(name: str, data: bytes, text: str) -> None:
    assert option_text(name, data) == text


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
