"""A lab's owner, for tests that kill: `python -m tests.faults.owner STAGE`; says on stdout how far it is.

STAGE is the last thing that it does before it waits for its end: nursery, open, program, caller, again (caller, after
two other labs). `exit` ends at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from labctl.lab.client.handle import Lab
from labctl.lab.client.nursery import nurseries
from tests.labs import pair_plan


def main(last: str) -> None:
    held: list[object] = []  # dropping a caller would end it
    nurseries.start()
    said("nursery")
    if last == "again":  # after two labs another boot waits
        for _ in range(2):
            Lab.open(pair_plan()).close()
    if last != "nursery":
        with Lab.open(pair_plan()) as lab:
            said("open")
            if last != "open":
                lab.spawn("server", ["sh", "-c", "sleep 1000 & sleep 1000 & wait"])
                lab.spawn("client", ["sh", "-c", "trap '' TERM HUP INT; setsid sleep 1000 & wait"])
                said("program")
            if last in ("caller", "again"):
                caller = lab.start_agent("server")
                sock = lab.socket("server", socket.AF_INET, socket.SOCK_STREAM)
                said(last)
                held.extend([caller, sock])
            signal.pause()
    signal.pause()


def said(stage: str) -> None:
    """Tell the test, in one write."""
    os.write(1, f"{stage}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
