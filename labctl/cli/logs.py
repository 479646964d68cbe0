"""`labctl logs`: what detached processes have written, and what they go on writing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli.main import Stopped
from labctl.cli.start_stop import chosen
from labctl.errors import InputError, LabGone

if TYPE_CHECKING:
    from labctl.lab.description import ProcessInfo
    from labctl.lab.handle import Lab

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
    from labctl.lab import registry

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
