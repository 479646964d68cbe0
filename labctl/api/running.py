"""Running a program on a host to its end: its output is read by the thread that waits for it."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field

from labctl.api.core import Core
from labctl.api.journal import ActivityKind, show_command, tail
from labctl.errors import LabctlError, LabGone, ProgramFailed, ProgramTimedOut
from labctl.lab.process import Process
from labctl.scenario.output import KeptOutput
from labctl.scenario.programs import CHUNK_BYTES, PATIENCE_S, SURELY_S, describe_status
from labctl.topology.service import TERMINAL_SIZE
from labctl.unpatched import monotonic

LONGEST_POLL_MS = 1e9  # poll(2) takes an int


def signal_number(which: int | str) -> int:
    """The number of `signal.SIGTERM`, 15, "TERM" or "SIGTERM". ValueError."""
    if not isinstance(which, str):
        return which
    known = signal.Signals.__members__
    name = f"SIG{which.upper().removeprefix('SIG')}"
    if name not in known:
        raise ValueError(f'`{which}` is not a signal: write "TERM" or signal.SIGTERM')
    return known[name]


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended. `returncode` is as Popen's: minus the signal's number when one ended it."""

    host: str
    args: tuple[str, ...]
    returncode: int
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)
    duration_s: float
    truncated_bytes: int = 0  # left out in the middle, where `limit_bytes` was given

    def __bool__(self) -> bool:
        """Whether it ended with status 0."""
        return self.returncode == 0

    def check(self) -> Completed:
        """Itself, if it ended with status 0. ProgramFailed, with what it wrote."""
        if self.returncode == 0:
            return self
        raise ProgramFailed(
            f"host {self.host}: `{show_command(self.args)}` {describe_status(self.returncode)}, where 0 was asked for."
            f"{written(self.stdout, self.stderr)}",
            returncode=self.returncode,
            stdout=self.stdout,
            stderr=self.stderr,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """A program that is to run to its end."""

    host: str
    argv: tuple[str, ...]
    input: str | bytes | None
    timeout_s: float | None
    env: Mapping[str, str] | None
    cwd: str | None
    user: str | None
    limit_bytes: int | None
    tty: bool = False  # both streams go to a terminal, and are stdout here

    def outputs(self) -> tuple[KeptOutput, KeptOutput]:
        """Where stdout and stderr are gathered."""
        limit = sys.maxsize if self.limit_bytes is None else max(1, self.limit_bytes // 2)
        return KeptOutput(limit), KeptOutput(limit)

    def timed_out(self, stdout: str, stderr: str) -> ProgramTimedOut:
        """The error to raise when it did not end in time."""
        return ProgramTimedOut(
            f"host {self.host}: `{show_command(self.argv)}` did not end within {self.timeout_s:g} s and was ended."
            f"{written(stdout, stderr)}",
            stdout=stdout,
            stderr=stderr,
        )


def run(core: Core, request: Request) -> Completed:
    """Run it; see `Host.run`."""
    started = monotonic()
    out, err = request.outputs()
    with core.journal.noting(request.host, ActivityKind.RUN, show_command(request.argv)) as entry, ExitStack() as stack:
        process, pipes = spawn(core, request, stack)
        gathering = _Gathering(process, {pipes[0]: out, pipes[1]: err})
        try:
            until = None if request.timeout_s is None else started + request.timeout_s
            status = gathering.until_end(until)
            if status is None:
                end(process, gathering)
                error = request.timed_out(out.text(), err.text())
                entry.end(f"not ended within {request.timeout_s:g} s", stdout=error.stdout, stderr=error.stderr)
                raise error
        except LabGone as error:
            raise core.gone(error) from error
        except ProgramTimedOut:
            raise
        except BaseException:  # Ctrl-C
            kill(process)
            raise
        completed = Completed(
            request.host,
            request.argv,
            status,
            out.text(),
            err.text(),
            monotonic() - started,
            out.truncated_bytes + err.truncated_bytes,
        )
        entry.end(describe_status(status), stdout=completed.stdout, stderr=completed.stderr)
    return completed


def spawn(core: Core, request: Request, stack: ExitStack) -> tuple[Process, tuple[int, int]]:
    """Start it with two pipes for its output, whose reading ends (non-blocking), and itself, `stack` closes.

    With a terminal, its other side takes the place of the first pipe, and the second is at its end.
    """
    with ExitStack() as theirs:
        stdin = None
        if request.input is not None:
            stdin = memory_file(request.input)
            theirs.callback(os.close, stdin)
        ends = []
        for _ in range(2):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, reading)
            theirs.callback(os.close, writing)
            os.set_blocking(reading, False)
            ends.append((reading, writing))
        process = stack.enter_context(
            closing(
                core.engine.spawn(
                    request.host,
                    request.argv,
                    env=request.env,
                    cwd=request.cwd,
                    stdin=stdin,
                    stdout=ends[0][1],
                    stderr=ends[1][1],
                    user=request.user,
                    terminal=TERMINAL_SIZE if request.tty else None,
                    is_terminal_plain=request.tty,
                )
            )
        )
    if process.terminal is None:
        return process, (ends[0][0], ends[1][0])
    os.set_blocking(process.terminal, False)
    return process, (process.terminal, ends[1][0])


def memory_file(content: str | bytes) -> int:
    """A descriptor to read `content` from: nothing has to be fed or cleaned up. The caller closes it."""
    data = content.encode() if isinstance(content, str) else content
    descriptor = os.memfd_create("labctl-stdin", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class _Gathering:
    """Reads a program's pipes until it has ended; what it left behind may go on to hold them open."""

    def __init__(self, process: Process, outputs: dict[int, KeptOutput]) -> None:
        self._process = process
        self._outputs = outputs
        self._open = set(outputs)

    def until_end(self, until: float | None) -> int | None:
        """The status, when all that it wrote has been read; None when `until` (CLOCK_MONOTONIC) comes first."""
        poller = select.poll()
        for descriptor in (*self._open, self._process.fileno()):
            poller.register(descriptor, select.POLLIN)
        while True:
            left_ms = None if until is None else min(max(0.0, until - monotonic()) * 1000, LONGEST_POLL_MS)
            ready = [descriptor for descriptor, _ in poller.poll(left_ms)]
            for descriptor in ready:
                if descriptor in self._open and not drain(descriptor, self._outputs[descriptor], once=True):
                    self._open.remove(descriptor)
                    poller.unregister(descriptor)
            if self._process.fileno() in ready:
                status = self._process.wait(0)
                if status is not None:
                    for descriptor in self._open:  # what it wrote before it ended is all there by now
                        drain(descriptor, self._outputs[descriptor])
                    return status
            if until is not None and monotonic() >= until:
                return None


def drain(descriptor: int, output: KeptOutput, *, once: bool = False) -> bool:
    """Read what is there (`once`: a piece of it); False at the end of the stream."""
    while True:
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # nobody has the terminal open any more (pty(7))
        if not data:
            return False
        output.append(data)
        if once:
            return True


def end(process: Process, gathering: _Gathering) -> None:
    """End a program and its process group: SIGTERM, and SIGKILL when that does not help within 2 s."""
    process.signal(signal.SIGTERM, group=True)
    process.signal(signal.SIGCONT, group=True)  # a stopped one acts on nothing else
    if gathering.until_end(monotonic() + PATIENCE_S) is None:
        process.signal(signal.SIGKILL, group=True)
        gathering.until_end(monotonic() + SURELY_S)


def kill(process: Process) -> None:
    """SIGKILL for the process group; for the program alone where the keeper cannot be asked any more."""
    try:
        process.signal(signal.SIGKILL, group=True)
    except (LabctlError, RuntimeError):
        with suppress(RuntimeError):
            process.signal(signal.SIGKILL)


def written(stdout: str, stderr: str) -> str:
    """What a program wrote, as the end of a message."""
    parts = [
        f"\n{name}:\n{tail(text).rstrip()}" for name, text in (("stdout", stdout), ("stderr", stderr)) if text.strip()
    ]
    return "".join(parts) or " It wrote nothing."
