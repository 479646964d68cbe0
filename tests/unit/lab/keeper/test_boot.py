"""Boot without a lab."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from labctl.lab.keeper import boot

PROGRAM = f"""
import os, socket, sys
from {boot.__name__} import run
channel, liveness = map(int, sys.argv[1:])
run(socket.socket(fileno=channel), liveness, os.pidfd_open(os.getppid()), stays=False)
"""


def test_boot_ends_without_a_trace_when_its_owner_opens_no_lab() -> None:
    mine, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with mine, theirs:
        arguments = [sys.executable, "-c", PROGRAM, str(theirs.fileno()), str(writing)]
        process = subprocess.Popen(arguments, pass_fds=(theirs.fileno(), writing), stderr=subprocess.PIPE)
        theirs.close()
        mine.close()
        assert process.communicate(timeout=20)[1] == b""
    os.close(reading)
    os.close(writing)
    assert process.returncode == 0
