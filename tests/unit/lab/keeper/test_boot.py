"""Boot without a lab."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from labctl.lab.keeper.boot import CHANNEL, LIVENESS
from labctl.lab.protocol import DIES_WITH_OWNER

PROGRAM = f"""
import os, sys
channel, liveness = map(int, sys.argv[3:])
os.dup2(channel, 100); os.dup2(liveness, 101)
os.dup2(100, {CHANNEL}); os.dup2(101, {LIVENESS})
from labctl.lab.keeper.boot import main
main()
"""


def test_boot_ends_without_a_trace_when_its_owner_opens_no_lab() -> None:
    mine, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with mine, theirs:
        arguments = [sys.executable, "-c", PROGRAM, "labctl-boot", DIES_WITH_OWNER, str(theirs.fileno()), str(writing)]
        process = subprocess.Popen(arguments, pass_fds=(theirs.fileno(), writing), stderr=subprocess.PIPE)
        theirs.close()
        mine.close()
        assert process.communicate(timeout=20)[1] == b""
    os.close(reading)
    os.close(writing)
    assert process.returncode == 0
