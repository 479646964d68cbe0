"""A running lab for a module's tests, the command line on it, and a person at a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.e2e.command import LABCTL, TIMEOUT_S, environment

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")
_DURATION = re.compile(r" +\[[\d.]+ m?s\]")


def give(*arguments: object, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Runs `labctl` to its end with `text` on its standard input."""
    return subprocess.run(
        [LABCTL, *map(str, arguments)],
        env=environment(**more),
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`labctl` while it runs, its output in a pipe; ended with the `with`."""
    process = subprocess.Popen(
        [LABCTL, *map(str, arguments)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


class Person:
    """Somebody at a terminal in which a command runs: types, and waits for what is to be seen."""

    def __init__(self, *arguments: object, **more: str) -> None:
        """Starts `labctl` with its own controlling terminal of 24 by 80."""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            termios.tcsetwinsize(0, (24, 80))  # before the command can look
            os.execve(LABCTL, [LABCTL, *map(str, arguments)], environment(TERM="xterm", **more))
        self._seen = ""
        self.status: int | None = None

    def resize(self, rows: int, columns: int) -> None:
        """The window gets another size."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Types; a line ends with `\\r`."""
        os.write(self._fd, keys.encode())

    def presses_until(self, keys: str, pattern: str, tries: int = 8, pause_s: float = 3.0) -> re.Match[str]:
        """Presses the keys, and again when what matches does not come, as people do."""
        for _ in range(tries - 1):
            self.type(keys)
            with suppress(AssertionError):
                return self.sees(pattern, pause_s)
        self.type(keys)
        return self.sees(pattern)

    def sees(self, pattern: str, within_s: float = 20.0) -> re.Match[str]:
        """Waits for what matches, after what was seen before; what came until then is forgotten.

        Durations are left out: a busy machine has more of them.
        """
        until = time.monotonic() + within_s
        while True:
            text = _DURATION.sub("", _ESCAPE.sub("", self._seen))
            if found := re.search(pattern, text):
                self._seen = text[found.end() :]
                return found
            left = until - time.monotonic()
            assert left > 0, f"{pattern!r} is not to be seen in:\n{text}"
            if select.select([self._fd], [], [], left)[0]:
                try:
                    data = os.read(self._fd, 65536)
                except OSError:
                    data = b""
                assert data, f"{pattern!r} did not come; all that did:\n{text}"
                self._seen += data.decode(errors="replace")

    def is_raw(self) -> bool:
        """Whether keys are passed on at once, without echo."""
        return not termios.tcgetattr(self._fd)[3] & (termios.ICANON | termios.ECHO)

    def ends(self, within_s: float = 20.0) -> int:
        """The exit status of the command, which ends by itself."""
        until = time.monotonic() + within_s
        pidfd = os.pidfd_open(self.pid)
        try:
            while not select.select([pidfd], [], [], 0.01)[0]:
                assert time.monotonic() < until, f"it goes on; last seen:\n{self._seen}"
                if select.select([self._fd], [], [], 0)[0]:
                    with suppress(OSError):
                        self._seen += os.read(self._fd, 65536).decode(errors="replace")
        finally:
            os.close(pidfd)
        _, wait_status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(wait_status)
        return self.status

    def close(self) -> None:
        """Ends the command if it has not ended, and the terminal."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        os.close(self._fd)
