"""Types a line and Tab at an interactive shell on a terminal of its own: press_tab.py SHELL LINE EXPECTED.

Run inside the machine, by its own Python. Ends with 0 as soon as EXPECTED stands on the terminal after the line, with
1 when it does not within a minute; the terminal's text is printed.
"""

from __future__ import annotations

import os
import pty
import select
import sys
import time

PATIENCE_S = 60.0
READY = "the shell is ready"


def main() -> int:
    shell, line, expected = sys.argv[1:]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(shell, [shell, "-l", "-i"])
    # The quotes keep the typed line itself from looking like what it prints.
    os.write(terminal, b"echo 'the shell'\" is ready\"\n")
    before = read_until(terminal, READY)
    os.write(terminal, line.encode() + b"\t")
    after = read_until(terminal, expected)
    os.close(terminal)  # the shell gets SIGHUP
    os.waitpid(pid, 0)
    sys.stdout.write(before + after)
    return 0 if expected in after else 1


def read_until(terminal: int, expected: str) -> str:
    """What stands on the terminal until then, or until patience or the shell ends."""
    text = ""
    until = time.monotonic() + PATIENCE_S
    while expected not in text and (left := until - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                text += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                break
    return text


if __name__ == "__main__":
    sys.exit(main())
