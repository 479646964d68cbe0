"""Programs on hosts: started with their output drained into bounded stores, watched to their end, stopped for sure.

What a program writes: a bounded store that keeps the beginning and the end, and a scanner for a line to wait for.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from labctl.errors import LabGone
from labctl.patterns import TooSlow, search_lines
from labctl.programs.waiting import Scope, Watcher
from labctl.scenario.results import OutputRecord, Stream
from labctl.structs import Struct
from labctl.topology.model import BUFFERED, TERMINAL_SIZE

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.process import Process
    from labctl.plan.operations import Plan
    from labctl.scenario.program_steps import Service


KEPT_BYTES = 1 << 20  # of the beginning, and of the end, of each stream


class KeptOutput:
    """The first and last `limit` bytes of a stream; what lies between is counted and dropped.

    Not locked: the owner serialises access (the output pump does so under the scenario's condition).
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.total_bytes = 0

    def append(self, data: bytes) -> None:
        self.total_bytes += len(data)
        room = self._limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= self._limit:
            self._tail_bytes -= len(self._tail.popleft())

    @property
    def truncated_bytes(self) -> int:
        """How many bytes were dropped from the middle."""
        return self.total_bytes - len(self._head) - min(self._tail_bytes, self._limit)

    def text(self) -> str:
        """What was kept, as UTF-8 (other bytes become U+FFFD); a line in the middle says how much is missing."""
        tail = b"".join(self._tail)
        tail = tail[max(0, len(tail) - self._limit) :]
        if not self.truncated_bytes:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        head_text, tail_text = (part.decode("utf-8", "replace") for part in (bytes(self._head), tail))
        return f"{head_text}\n[... {self.truncated_bytes} bytes left out ...]\n{tail_text}"


class LineWatch:
    """Looks for a line that a pattern matches in data that arrives in pieces; an unfinished last line counts too."""

    MAX_LINE_BYTES = 1 << 16  # of a line without an end: longer ones are searched in pieces

    def __init__(self, pattern: str | re.Pattern[str]) -> None:
        self._pattern = re.compile(pattern)
        self._partial = b""
        self.found = False
        self.problem = ""  # why it cannot be told whether a line matches; then no more are looked at

    @property
    def decided(self) -> bool:
        """Whether to wait no longer."""
        return self.found or bool(self.problem)

    def feed(self, data: bytes) -> None:
        if self.decided:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        texts = [line.decode("utf-8", "replace") for line in (*lines, self._partial)]
        try:
            self.found = search_lines(self._pattern, texts)
        except TooSlow as error:
            self.problem = str(error)
        if len(self._partial) > self.MAX_LINE_BYTES:
            self._partial = b""


CHUNK_BYTES = 1 << 16
PATIENCE_S = 2.0  # between the polite signal and SIGKILL
SURELY_S = 5.0  # a process that SIGKILL has not ended by then hangs in the kernel

Heard = Callable[[str, str, Stream, bytes], None]  # host, process, stream, data


class Command(Struct, frozen=True):
    """A program to be started."""

    host: str
    name: str  # what it goes by among the scenario's steps
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None
    stdin: str | None
    where: str  # file:line of the step
    user: str | None = None
    tty: bool = False  # it writes both streams to a terminal, which is stdout here, and reads from it without `stdin`


class Handle(Protocol):
    """What a program is signalled by."""

    @property
    def pid(self) -> int:
        """Its number on its host."""

    def fileno(self) -> int:
        """Readable when there is news of it."""

    def signal(self, number: int, *, group: bool = False) -> object:
        """Send a signal to it, or to its process group."""

    def close(self) -> None:
        """Let go of it."""


class Program:
    """A program that was started. Its fields change under the scenario's condition, which is notified."""

    kind = "program"

    def __init__(self, command: Command, process: Handle, condition: threading.Condition) -> None:
        self.command = command
        self.process = process
        self.output = {Stream.STDOUT: KeptOutput(), Stream.STDERR: KeptOutput()}
        self.status: int | None = None  # as Popen.returncode
        self.gone = False  # the lab has ended, and the program with it
        self.asked_to_end = False  # a step has signalled it
        self.ended_by_labctl = False  # it was still running when labctl cleaned up
        self.accounted_for = False  # a step has looked at how it ended
        self.is_in_a_result = False  # a step's, with what it wrote
        self._condition = condition
        self._pipes: dict[Stream, int] = {}
        self._open: set[Stream] = set()  # whose end has not been read
        self._watches: list[LineWatch] = []

    def __repr__(self) -> str:
        return f"<Program {self.command.name} on {self.command.host}, {self.state}>"

    @property
    def state(self) -> str:
        """`running`, `exited with status 0`, `was ended by SIGTERM`."""
        if self.status is None:
            return "running"
        if self.ended_by_labctl:
            return f"was still running, and labctl ended it{_after_signal(self.status)}"
        return describe_status(self.status)

    @property
    def ended(self) -> bool:
        """Whether it will not run any more; all that it wrote has been read then."""
        return self.status is not None or self.gone

    @property
    def is_silent_for_good(self) -> bool:
        """Whether neither it nor what it has left behind writes any more."""
        return self.ended and not self._open

    @property
    def is_running(self) -> bool:
        """Whether it runs at this moment."""
        return not self.ended

    @property
    def has_failed(self) -> bool:
        """Whether it has ended with something else than status 0."""
        return self.status not in (None, 0)

    def seen_running(self) -> None:
        """A step has looked, and it runs: what was before does not count against it."""

    @property
    def failure(self) -> str:
        """How it has failed, to follow `it`."""
        return self.state

    @property
    def exit_status(self) -> int | None:
        """As a shell has it: 128 + n when signal n ended it; None when it runs, or did until labctl ended it."""
        if self.ended_by_labctl:
            return None
        return None if self.status is None else self.status if self.status >= 0 else 128 - self.status

    def record(self) -> OutputRecord:
        with self._condition:
            out, err = self.output[Stream.STDOUT], self.output[Stream.STDERR]
            return OutputRecord(out.text(), err.text(), out.truncated_bytes + err.truncated_bytes)

    def text(self, stream: Stream) -> str:
        with self._condition:
            return self.output[stream].text()

    @property
    def hint(self) -> str:
        """What to try when nothing is seen of what it prints although it runs; or ""."""
        if self.command.tty or not self.is_running or self.text(Stream.STDOUT):
            return ""
        return BUFFERED

    def watch(self, pattern: str | re.Pattern[str]) -> LineWatch:
        """A watch for a line of either stream that matches."""
        line = LineWatch(pattern)
        with self._condition:
            self._watches.append(line)
        return line

    def wait_end(self, scope: Scope) -> bool:
        """Whether it has ended within the scope's deadline; all that it wrote has then been read."""
        scope.wait_for(lambda: self.ended)
        if self.gone:
            raise LabGone(f"the lab has ended, and {self.command.name} on {self.command.host} with it")
        return self.ended

    def signal(self, number: int, *, group: bool) -> bool:
        """False when it has ended already."""
        if self.ended:
            return False
        self.process.signal(number, group=group)
        return True

    def stop(self, number: int, scope: Scope) -> bool:
        """Signal, wait a little, SIGKILL, wait; False when it outlives even that."""
        self.asked_to_end = True
        self.signal(number, group=True)
        self.signal(signal.SIGCONT, group=True)
        if self.wait_end(scope.within(PATIENCE_S)):
            return True
        self.signal(signal.SIGKILL, group=True)
        return self.wait_end(scope.within(SURELY_S))

    # called in the watcher's thread

    def attach(self, watcher: Watcher, process: Process, pipes: dict[Stream, int], heard: Heard) -> None:
        """Begin to drain `pipes` (taken over, non-blocking) and to watch for the program's end."""
        self._pipes = pipes
        self._open = set(pipes)
        for stream, fd in pipes.items():
            watcher.add(fd, lambda stream=stream: self._drain(stream, heard))  # type: ignore[misc]
        watcher.add(process.fileno(), lambda: self._reap(process, heard))

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the watcher looks at."""
        return (*self._pipes.values(), self.process.fileno())

    def close(self) -> None:
        """Let go of all descriptors; the watcher has ended before."""
        for fd in self._pipes.values():
            os.close(fd)
        self._pipes = {}
        self.process.close()

    def _drain(self, stream: Stream, heard: Heard, *, once: bool = True) -> bool:
        """Read what is there; False at the end of the stream. The descriptor is closed with the program."""
        fd = self._pipes[stream]
        while True:
            try:
                data = os.read(fd, CHUNK_BYTES)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                data = b""  # nobody has the terminal open any more (pty(7))
            if not data:
                self._open.discard(stream)
                return False
            self._take(stream, data, heard)
            if once:
                return True

    def _take(self, stream: Stream, data: bytes, heard: Heard) -> None:
        """It has written this."""
        with self._condition:
            self.output[stream].append(data)
            for watch in self._watches:
                watch.feed(data)
            self._condition.notify_all()
        heard(self.command.host, self.command.name, stream, data)

    def _reap(self, process: Process, heard: Heard) -> bool:
        try:
            status = process.wait(0)
        except LabGone:
            with self._condition:
                self.gone = True
                self._condition.notify_all()
            return False
        if status is None:
            return True
        for stream in self._pipes:  # what it wrote before it ended is all there by now
            self._drain(stream, heard, once=False)
        with self._condition:
            self.status = status
            self._condition.notify_all()
        return False


class Programs:
    """All programs of a running scenario; it stops and closes them. Thread-safe."""

    def __init__(self, lab: Lab, condition: threading.Condition, watcher: Watcher, heard: Heard) -> None:
        self._lab = lab
        self._condition = condition
        self._watcher = watcher
        self._heard = heard
        self._all: list[Program] = []
        self._background: dict[str, Program] = {}
        self._services: dict[str, Service] = {}  # by NODE/SERVICE
        self._lock = threading.Lock()

    def launch(
        self, command: Command, *, stdout: int | None = None, line: str | re.Pattern[str] = ""
    ) -> tuple[Program, LineWatch | None]:
        """Start a program; KernelError when it cannot be run. `stdout` (not taken over) replaces the pipe that is kept.

        With `line`, a watch that sees every line from the very first byte.
        """
        pipes: dict[Stream, int] = {}
        theirs: dict[Stream, int] = {}
        stdin = _text_descriptor(command.stdin) if command.stdin is not None else None
        try:
            piped = () if command.tty else (Stream.STDERR,) if stdout is not None else tuple(Stream)
            for stream in piped:
                pipes[stream], theirs[stream] = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(pipes[stream], False)
            process = self._lab.spawn(
                command.host,
                command.argv,
                env=command.env,
                cwd=command.cwd,
                stdin=stdin,
                stdout=theirs.get(Stream.STDOUT, stdout),
                stderr=theirs.get(Stream.STDERR),
                user=command.user,
                terminal=TERMINAL_SIZE if command.tty else None,
                is_terminal_plain=command.tty,
            )
            if process.terminal is not None:
                pipes[Stream.STDOUT] = os.dup(process.terminal)
                os.set_blocking(pipes[Stream.STDOUT], False)
        except BaseException:
            for fd in pipes.values():
                os.close(fd)
            raise
        finally:
            for fd in (*theirs.values(), *([stdin] if stdin is not None else [])):
                os.close(fd)
        program = Program(command, process, self._condition)
        watch = program.watch(line) if line else None
        with self._lock:
            self._all.append(program)
        program.attach(self._watcher, process, pipes, self._heard)
        return program, watch

    def add_background(self, program: Program) -> None:
        program.kind = "background program"
        with self._lock:
            self._background[program.command.name] = program

    def add_services(self, plan: Plan, *, may_have_ended: bool) -> None:
        """The services of the plan are programs, too, which others have started and will end.

        One that has ended already is not held against the scenario if that `may_have` happened before it began.
        """
        from labctl.scenario.program_steps import watched

        for key, service in watched(self._lab, plan, self._condition):
            service.accounted_for = may_have_ended and not service.is_running
            self._services[key] = service
            service.follow(self._watcher, self._heard)

    @property
    def services(self) -> Mapping[str, Service]:
        """By NODE/SERVICE, in file order."""
        return self._services

    def find(self, name: str) -> Program | None:
        """The background program of that name (the last that was started), or the service, or None.

        A service is NODE/SERVICE, or SERVICE where only one node has one of that name.
        """
        with self._lock:
            program = self._background.get(name) or self._services.get(name)
        if program is not None:
            return program
        found = [service for key, service in self._services.items() if key.partition("/")[2] == name]
        return found[0] if len(found) == 1 else None

    def background(self) -> list[Program]:
        """Background programs and services, in the order in which they were started."""
        with self._lock:
            return [*self._services.values(), *self._background.values()]

    def everything(self) -> list[Program]:
        """Background programs, services, and all others that have not been let go of."""
        with self._lock:
            return [*self._services.values(), *self._all]

    def unaccounted(self) -> list[Program]:
        """Those that had ended by themselves, with a status other than 0, and that no step looked at."""
        return [p for p in self.background() if p.has_failed and not p.asked_to_end and not p.accounted_for]

    def stop_all(self, scope: Scope) -> list[Program]:
        """End whatever still runs, all at once; returns those that outlived even SIGKILL."""
        with self._lock:
            running = [program for program in self._all if not program.ended]
        for program in running:
            program.asked_to_end = program.ended_by_labctl = True
            program.signal(signal.SIGTERM, group=True)
            program.signal(signal.SIGCONT, group=True)  # a paused one acts on nothing else
        everyone_ended = scope.within(PATIENCE_S).wait_for(lambda: all(program.ended for program in running))
        if not everyone_ended:
            for program in running:
                program.signal(signal.SIGKILL, group=True)
            scope.within(SURELY_S).wait_for(lambda: all(program.ended for program in running))
        return [program for program in running if not program.ended]

    def release(self, program: Program) -> None:
        """Let go of one that has ended; what it left behind and still writes is not read any more."""
        with self._lock:
            if program not in self._all:
                return
            self._all.remove(program)
        self._watcher.drop(program.descriptors, program.close)

    def close(self) -> None:
        """Let go of everything; the watcher has ended before."""
        for program in (*self._all, *self._services.values()):
            program.close()


def _after_signal(status: int) -> str:
    return "" if status < 0 else f": it exited with status {status}"


def describe_status(status: int) -> str:
    """`exited with status 1`, `was ended by SIGTERM`."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _text_descriptor(text: str) -> int:
    """A descriptor to read `text` from: memory, so that nothing has to be fed or cleaned up."""
    fd = os.memfd_create("labctl-stdin", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
