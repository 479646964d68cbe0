"""A shell in which a page's commands are typed one after the other."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TIMEOUT_S = 120.0

# `$?` of a command is that of the one before it, as at a prompt. Commands do not see the two pipes.
_LOOP = r"""
last=0
while IFS= read -r -d '' command <&COMMANDS; do
    (exit "$last")
    eval "$command" </dev/null STATUSES>&- COMMANDS<&-
    last=$?
    printf '%s\n' "$last" >&STATUSES
done
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed, standard output and error together, and its exit status."""

    status: int
    output: str


class Terminal:
    """Runs bash in `folder`; a context manager that ends all that was started in it."""

    def __init__(self, folder: Path, environment: dict[str, str], output: Path) -> None:
        self._output = output.open("wb+", buffering=0)
        commands, self._commands = os.pipe()
        self._statuses, statuses = os.pipe()
        loop = _LOOP.replace("COMMANDS", str(commands)).replace("STATUSES", str(statuses))
        argv = ["bash", "--norc", "--noprofile", "-c", loop]
        try:
            self._shell = subprocess.Popen(
                argv,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=(commands, statuses),
                start_new_session=True,
            )
        finally:
            os.close(commands)
            os.close(statuses)

    def enter(self, command: str) -> Answer:
        """Runs a command to its end. AssertionError when that does not come in TIMEOUT_S."""
        begin = os.fstat(self._output.fileno()).st_size
        os.write(self._commands, command.encode() + b"\0")
        ended, _, _ = select.select([self._statuses], [], [], TIMEOUT_S)
        status = os.read(self._statuses, 16) if ended else b""
        end = os.fstat(self._output.fileno()).st_size
        printed = os.pread(self._output.fileno(), end - begin, begin).decode(errors="replace")
        assert status, f"`{command}` {'ended the shell' if ended else 'does not end'}; it printed:\n{printed}"
        return Answer(int(status), printed)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)
        os.close(self._statuses)
        # Its process group is its session's: what was started in the background goes with it.
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        self._output.close()
