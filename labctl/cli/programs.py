"""Background programs on nodes: `labctl start`, `stop` and `logs`."""

from __future__ import annotations

import os

from labctl.cli.exec import ExecRequest, check_request, start_in_background
from labctl.cli.exit import Stopped, write_bytes
from labctl.cli.lab_selection import attach_as, attach_client, suggestion
from labctl.errors import InputError, LabGone
from labctl.lab.client.lab_client import LabClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from labctl.lab.description import ProcessInfo

POLL_S = 0.2


def start(
    node: str,
    command: tuple[str, ...],
    name: str | None,
    restart: str,
    lab: str | None,
    environment: tuple[str, ...],
    directory: str | None,
    user: str | None,
) -> int:
    """Run `labctl start`: print NODE/NAME. Return 0, or 126 or 127 if the program cannot run."""
    request = ExecRequest(node, command, environment, directory, user, name)
    check_request(request)
    with attach_as(LabClient, node, lab) as attached:
        return start_in_background(attached, request, restart)


def stop(processes: Sequence[str], lab: str | None) -> int:
    """Run `labctl stop`: print how each program ended."""
    from labctl.cli.ps import state_of
    from labctl.report.terminal import standard_output, waiting

    screen = standard_output()
    with attach_client(lab) as attached:
        for process in chosen(attached, processes, only_running=True):
            with waiting(f"stopping {process.node}/{process.name}"):
                ended = attached.stop_process(process.node, process.name)
            screen.line(f"{process.node}/{process.name} {state_of(ended)}")
    return 0


def chosen(lab: LabClient, targets: Sequence[str], *, only_running: bool) -> tuple[ProcessInfo, ...]:
    """Return the background programs that the words name, each once. InputError for a word that names none."""
    there = [
        process
        for process in lab.processes()
        if process.is_detached and (not only_running or process.state.value != "ended")
    ]
    if not targets:
        return tuple(there)
    found: set[tuple[str, str]] = set()
    for target in targets:
        node, slash, name = target.partition("/")
        if slash:
            matching = [process for process in there if (process.node, process.name) == (node, name)]
        else:
            matching = [process for process in there if process.node == target]
            named = [process for process in there if process.name == target]
            if len({process.node for process in named}) > 1 and not matching:
                names = " or ".join(f"{process.node}/{process.name}" for process in named)
                raise InputError(f"lab {lab.name}: several nodes run a program {target}. Choose {names}.")
            matching = matching or named
        if not matching:
            if target in lab.nodes:
                running = "running " * only_running
                raise InputError(f"lab {lab.name}: {target} has no {running}background program.")
            known = [f"{process.node}/{process.name}" for process in there] + [process.name for process in there]
            raise InputError(f"lab {lab.name} has no process {target}; {suggestion(target, known)}")
        found |= {(process.node, process.name) for process in matching}
    return tuple(process for process in there if (process.node, process.name) in found)


class Log:
    """A program's log, read incrementally. It has two halves: a full current half becomes the older one."""

    def __init__(self, label: str, older: Path, current: Path) -> None:
        self.label = label
        self.older = older
        self.current = current
        self._offset = 0  # in the current half
        self._inode = 0
        self._unfinished = b""  # a line without its end

    def all_so_far(self) -> bytes:
        """Return both halves."""
        return self._read(self.older, 0)[0] + self.more()

    def more(self) -> bytes:
        """Return what was written since the last call, also across a change of halves."""
        data = b""
        try:
            inode = self.current.stat().st_ino
        except FileNotFoundError:
            return data
        if self._inode not in (0, inode):
            older, older_inode = self._read(self.older, self._offset)
            data += older if older_inode == self._inode else b""
            self._offset = 0
        read, self._inode = self._read(self.current, self._offset)
        self._offset += len(read)
        return data + read

    def lines(self, data: bytes, *, final: bool = False) -> list[bytes]:
        """Return the whole lines of the last remainder and `data`; with `final` the remainder, too."""
        *whole, self._unfinished = (self._unfinished + data).split(b"\n")
        if final and self._unfinished:
            whole.append(self._unfinished)
            self._unfinished = b""
        return whole

    @staticmethod
    def _read(path: Path, offset: int) -> tuple[bytes, int]:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(), os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            return b"", 0


def logs(processes: Sequence[str], follow: bool, lines: int | None, lab: str | None) -> int:
    """Run `labctl logs`: each line begins with its program's name if there are several programs."""
    from labctl.lab.client.lab_directory import log_paths

    with attach_client(lab) as attached:
        programs = chosen(attached, processes, only_running=False)
        if not programs:
            raise InputError(f"lab {attached.name}: it has no background programs. Try: labctl start NODE -- COMMAND")
        shown = [Log(f"{each.node}/{each.name}", *log_paths(attached.name, each.node, each.name)) for each in programs]
        width = max(len(log.label) for log in shown) if len(shown) > 1 else 0
        try:
            for log in shown:
                _print(log, log.all_so_far(), width, last=lines, final=not follow)
            if follow:
                _follow(attached, programs, shown, width)
        except Stopped as stopped:
            if not follow:
                raise
            return 128 + stopped.number  # Ctrl-C is the usual end of following a log
    return 0


def _follow(lab: LabClient, processes: Sequence[ProcessInfo], logs: Sequence[Log], width: int) -> None:
    """Show new output until the programs or the lab end."""
    import threading

    pause = threading.Event()
    wanted = {(process.node, process.name) for process in processes}
    while True:
        try:
            running = any((each.node, each.name) in wanted and each.state.value != "ended" for each in lab.processes())
        except LabGone:
            running = False
        for log in logs:
            _print(log, log.more(), width, final=not running)
        if not running:
            return
        pause.wait(POLL_S)


def _print(log: Log, data: bytes, width: int, *, last: int | None = None, final: bool = False) -> None:
    whole = log.lines(data, final=final)
    if last is not None:
        whole = whole[-last:] if last else []
    if not whole:
        return
    prefix = f"{log.label:<{width}} | ".encode() if width else b""
    write_bytes(b"".join(prefix + line + b"\n" for line in whole))
