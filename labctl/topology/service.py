"""Services: programs that a topology file names, and that run as long as their lab does. Values; imports nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

READY_WITHIN_S = 10.0
BUFFERED = "Its stdout may be buffered: try `tty: true` or `stdbuf -oL`."  # of one that runs and wrote nothing
TERMINAL_SIZE = (24, 200)  # rows and columns of a `tty: true`: wide, so that programs do not cut their lines
COMMAND_WITHIN_S = 30.0
SHELL = ("sh", "-c")  # what runs the text of `shell`


class Restart(StrEnum):
    """When a detached process is started again after it ended (never after it was told to)."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Readiness:
    """How a service shows that it is ready: exactly one of these is given."""

    listening: str = ""  # as labctl.topology.endpoints.parse_listening reads it
    line: str = ""  # a regular expression that some line of its output matches
    file: str = ""  # an absolute path on its node
    command: tuple[str, ...] = ()  # succeeds on its node

    def __str__(self) -> str:
        if self.listening:
            return f"{self.listening} listening"
        if self.line:
            return f"a line that matches /{self.line}/"
        return f"the file {self.file}" if self.file else f"the command `{' '.join(self.command)}` succeeding"


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is run to its end on a node, once, before its services are started."""

    argv: tuple[str, ...]
    directory: str  # absolute: where it runs
    environment: tuple[tuple[str, str], ...] = ()
    within_s: float = COMMAND_WITHIN_S  # how long it may take
    user: str | None = None  # a name or number of this machine; None: root of the lab

    def __str__(self) -> str:
        import shlex

        return self.argv[2] if self.argv[:2] == SHELL and len(self.argv) == 3 else shlex.join(self.argv)


@dataclass(frozen=True, slots=True)
class Service:
    """A program on a node. `after` are those that have to be ready before it is started, as `NODE/SERVICE`."""

    name: str
    argv: tuple[str, ...]
    directory: str  # absolute: where it runs
    environment: tuple[tuple[str, str], ...] = ()
    ready: Readiness | None = None
    within_s: float = READY_WITHIN_S  # how long it may take to be ready
    restart: Restart = Restart.NO
    after: tuple[str, ...] = ()
    tty: bool = False  # whether it writes to a terminal
    user: str | None = None  # as of Command
