"""`labctl start` and `labctl stop`: programs on hosts that go on when the command that started them is done.

`labctl logs`: what detached processes have written, and what they go on writing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli import arguments as words
from labctl.cli.exec import ExecRequest, check_command, current_directory, environment_of, status_of_refusal
from labctl.cli.labs import having
from labctl.cli.main import Stopped
from labctl.errors import InputError, KernelError, LabGone

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.protocol import ProcessInfo
    from labctl.report.terminal import Screen


OPTIONS = {
    "lab": words.Option(("--lab",), "LAB"),
    "name": words.Option(("--name",), "NAME"),
    "restart": words.Option(("--restart",), "no|on-failure|always"),
    "environment": words.Option(("-e", "--env"), "K=V"),
    "directory": words.Option(("-w", "--workdir"), "DIR"),
    "user": words.Option(("-u", "--user"), "USER"),
}


def main(arguments: Sequence[str]) -> int:
    """The exit status of `labctl start` with these words after it."""
    given = words.read("start", arguments, OPTIONS)
    request = ExecRequest(
        node=given.node,
        command=given.command,
        lab=given.last("lab"),
        detach=True,
        environment=given.all("environment"),
        directory=given.last("directory"),
        user=given.last("user"),
        name=given.last("name"),
    )
    return start(request, given.last("restart") or "no")


def start(request: ExecRequest, restart: str = "no") -> int:
    """Starts it and says what it is called: 0, or 126 and 127 when it cannot be run."""
    check_command("start", request.command)
    with having(request.node, request.lab) as lab:
        return start_detached(lab, request, environment_of(request.environment), restart)


def start_detached(lab: Lab, request: ExecRequest, environment: Mapping[str, str], restart: str = "no") -> int:
    """As `start`, in a lab that is attached already."""
    try:
        process = _started(lab, request, environment, restart)
    except KernelError as error:
        return status_of_refusal(error, request.command[0])
    from labctl.report.terminal import standard_output

    standard_output().line(f"{process.node}/{process.name}")
    return 0


def _started(lab: Lab, request: ExecRequest, environment: Mapping[str, str], restart: str) -> ProcessInfo:
    from labctl.topology.model import Restart

    if restart not in {each.value for each in Restart}:
        allowed = ", ".join(each.value for each in Restart)
        raise InputError(f"labctl start: --restart {restart} is none of {allowed}.")
    is_given = request.directory is not None
    return lab.start_process(
        request.node,
        request.command,
        name=request.name or "",
        env=environment,
        cwd=request.directory if is_given else current_directory(),
        is_cwd_optional=not is_given,
        user=request.user,
        restart=Restart(restart),
    )


def stop(targets: Sequence[str], lab_name: str | None) -> int:
    """Ends the processes that are named: NODE/NAME, NAME, or NODE for all that was started there."""
    from labctl.cli.labs import attach
    from labctl.report.terminal import standard_output

    with attach(lab_name) as lab:
        stop_in(lab, targets, standard_output())
    return 0


def stop_in(lab: Lab, targets: Sequence[str], screen: Screen) -> None:
    """As `stop`, in a lab that is attached already."""
    from labctl.cli.ps import state_of
    from labctl.report.terminal import waiting

    for process in chosen(lab, targets, only_running=True):
        with waiting(f"stopping {process.node}/{process.name}"):
            ended = lab.stop_process(process.node, process.name)
        screen.line(f"{process.node}/{process.name} {state_of(ended)}")


def chosen(lab: Lab, targets: Sequence[str], *, only_running: bool) -> tuple[ProcessInfo, ...]:
    """The detached processes that the words mean, each once, in the lab's order. InputError for a word without any."""
    from labctl.cli.labs import suggestion

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
                places = " and ".join(f"{process.node}/{process.name}" for process in named)
                raise InputError(f"several nodes of lab {lab.name} run a {target}: say {places}.")
            matching = matching or named
        if not matching:
            if target in lab.nodes:
                raise InputError(f"lab {lab.name}: nothing was started on {target}{' that still runs' * only_running}.")
            words_known = [f"{process.node}/{process.name}" for process in there] + [process.name for process in there]
            raise InputError(f"lab {lab.name} has no process {target}; {suggestion(target, words_known)}")
        found |= {(process.node, process.name) for process in matching}
    return tuple(process for process in there if (process.node, process.name) in found)


POLL_S = 0.2
CHUNK_BYTES = 1 << 16


@dataclass(slots=True)
class Log:
    """A process's log as far as it has been shown. Its current half becomes the older one when it is full."""

    label: str
    older: Path
    current: Path
    _at: int = 0  # bytes of the current half that have been shown
    _inode: int = 0
    _unfinished: bytes = field(default=b"", repr=False)  # a line whose end has not come yet

    def all_so_far(self) -> bytes:
        """Both halves."""
        return self._read(self.older, 0)[0] + self.more()

    def more(self) -> bytes:
        """What has been written since, also across a change of halves."""
        data = b""
        try:
            inode = self.current.stat().st_ino
        except FileNotFoundError:
            return data
        if self._inode not in (0, inode):
            older, older_inode = self._read(self.older, self._at)
            data += older if older_inode == self._inode else b""
            self._at = 0
        read, self._inode = self._read(self.current, self._at)
        self._at += len(read)
        return data + read

    def lines(self, data: bytes, *, final: bool = False) -> list[bytes]:
        """Whole lines of `data` after what was left the last time; `final` gives the rest too."""
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


def show_logs(targets: Sequence[str], *, follow: bool, lab_name: str | None, lines: int | None = None) -> int:
    """Shows the logs of the processes named (of all when none is), each line with its process's name if several."""
    from labctl.cli.labs import attach

    with attach(lab_name) as lab:
        try:
            show_in(lab, targets, follow=follow, lines=lines)
        except Stopped as stopped:
            if not follow:
                raise
            return 128 + stopped.number  # the usual end of following a log, which needs no message
    return 0


def show_in(lab: Lab, targets: Sequence[str], *, follow: bool = False, lines: int | None = None) -> None:
    """As `show_logs`, in a lab that is attached already."""
    from labctl.lab.client import registry

    processes = chosen(lab, targets, only_running=False)
    if not processes:
        raise InputError(f"lab {lab.name}: nothing was started there. Try: labctl start NODE -- COMMAND")
    logs = [Log(f"{each.node}/{each.name}", *registry.log_paths(lab.name, each.node, each.name)) for each in processes]
    width = max(len(log.label) for log in logs) if len(logs) > 1 else 0
    for log in logs:
        _print(log, log.all_so_far(), width, last=lines, final=not follow)
    if follow:
        _follow(lab, processes, logs, width)


def _follow(lab: Lab, processes: Sequence[ProcessInfo], logs: Sequence[Log], width: int) -> None:
    """Until everything that is followed has ended, or the lab has."""
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
    sys.stdout.buffer.write(b"".join(prefix + line + b"\n" for line in whole))
    sys.stdout.buffer.flush()
