"""An owner that records its lab again and again, for tests that kill: `python -m tests.faults.recording_owner`.

It prints `ready` when its first recording has ended. When its lab has ended, it waits for its own end.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import suppress

from labctl.errors import LabctlError
from labctl.lab.client.handle import Lab
from labctl.timeline.recording import Recording, RecordOptions
from tests.labs import pair_plan

PAUSES_MS = (0, 1, 30, 60)  # with and without a ring, and while it is made


def main() -> None:
    plan = pair_plan()
    with suppress(LabctlError), Lab.open(plan) as lab, lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
        turn = 0
        while lab.is_open:
            with Recording.start(lab, RecordOptions(limit_bytes=0), plan=plan) as recording:
                recording.wait_ready()
                for _ in range(20):
                    sock.sendto(bytes(1000), ("10.0.0.2", 5353))
                select.poll().poll(PAUSES_MS[turn % len(PAUSES_MS)])
                if turn % 3:
                    recording.stop()
            turn += 1
            if turn == 1:
                os.write(1, b"ready\n")
    signal.pause()


if __name__ == "__main__":
    main()
