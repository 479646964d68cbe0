"""Programs on hosts: started, their output drained into bounded stores, watched until they end, stopped for sure.

A `Program` does not care which thread reads its output: `attach` registers its descriptors with a `Watcher` (a thread),
a `Poller` (the calling thread) or an event loop.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import TYPE_CHECKING, Protocol

from labctl.clock import monotonic_ns
from labctl.errors import InputError, LabGone
from labctl.lab.description import ProcessState
from labctl.lab.protocol import ProcessUpdate
from labctl.programs.output import KEPT_BYTES, KeptOutput, LineWatch, OutputRecord, Stream
from labctl.programs.waiting import Scope, Watcher
from labctl.structs import Struct
from labctl.topology.model import BUFFERED, TERMINAL_SIZE

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.watched_process import WatchedProcess
    from labctl.plan.operations import Plan
    from labctl.topology.model import Service as PlannedService

CHUNK_BYTES = 1 << 16
TERM_TIMEOUT_S = 2.0  # between SIGTERM and SIGKILL
KILL_TIMEOUT_S = 5.0  # a process that SIGKILL has not ended by then hangs in the kernel
LOG_STREAMS = (Stream.STDOUT, Stream.STDERR)  # as the log of a service numbers them
FAILED_RUNS_MAX = 3  # of a service, that no step caused, since the scenario began or a step last found it running

TAKE_TRACE_CHUNKS_MAX = 16  # at a time, before the watcher looks at other descriptors

OnOutput = Callable[[str, str, Stream, bytes], None]  # host, program, stream, data


class Command(Struct, frozen=True):
    """How to start a program. `name` is its name among the programs of a scenario or a lab."""

    host: str
    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    stdin: str | bytes | None = None  # its standard input; None: /dev/null
    where: str = ""  # file:line of the step
    user: str | None = None
    tty: bool = False  # both streams go to a terminal and are stdout here; it reads from the terminal without `stdin`
    trace: bool = False  # its system calls are recorded, if there is a `Tracer`


class Handle(Protocol):
    """What `Program` needs of a process: `Process` or `WatchedProcess`."""

    @property
    def pid(self) -> int:
        """Process ID on its host."""

    def fileno(self) -> int:
        """A descriptor that is readable when the state of the process has changed."""

    def signal(self, number: int, *, group: bool = False) -> object:
        """Send a signal to the process, or to its process group."""

    def close(self) -> None:
        """Close the descriptors; the process goes on."""


class Tracer(Protocol):
    """Records the system calls of programs, which run under its command (labctl.timeline.sources.strace)."""

    @property
    def command(self) -> Sequence[str]:
        """The command that runs the program that follows it, and writes to TRACE_DESCRIPTOR (labctl.lab.frames)."""

    def consumer(self, host: str, program: str) -> Callable[[bytes], None]:
        """Return a function that takes the output of the command in pieces; b"" if it ended before the program."""


class Watches(Protocol):
    """Calls back when descriptors become readable."""

    def add(self, fd: int, readable: Callable[[], bool]) -> None:
        """Call `readable()` whenever `fd` is readable, until it returns False."""


class Trace:
    """The output of a program's tracer. Owns the descriptor of its pipe.

    `consume` gets it in pieces; b"" if it ended no later than the program.
    """

    def __init__(self, descriptor: int, consume: Callable[[bytes], None]) -> None:
        """Take over the (non-blocking) descriptor."""
        self.descriptor = descriptor
        self.consume = consume
        self.has_ended = False

    def take(self) -> bool:
        """Read what the pipe holds; False at its end."""
        for _ in range(TAKE_TRACE_CHUNKS_MAX):
            if self.has_ended:
                return False
            try:
                data = os.read(self.descriptor, CHUNK_BYTES)
            except BlockingIOError:
                return True
            self.has_ended = not data
            if data:
                self.consume(data)
        return True

    def close(self) -> None:
        """Close the pipe. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor != -1:
            os.close(descriptor)


class Program:
    """A program that was started. Owns its process handle and pipes.

    Its fields change while `condition` is held, which is notified of each change.
    """

    kind = "program"

    def __init__(
        self,
        command: Command,
        process: Handle,
        condition: threading.Condition,
        pipes: Mapping[Stream, int] | None = None,
        limit_bytes: int = KEPT_BYTES,
        trace: Trace | None = None,
    ) -> None:
        """Take over `process`, `pipes` (non-blocking) and `trace`; keep `limit_bytes` of begin and end of a stream."""
        self.command = command
        self.process = process
        self.output = {stream: KeptOutput(limit_bytes) for stream in Stream}
        self.status: int | None = None  # as Popen.returncode
        self.ended_ns: int | None = None  # when its end was seen (CLOCK_MONOTONIC)
        self.gone: LabGone | None = None  # the lab has ended, and the program with it
        self.asked_to_end = False  # a step has signalled it
        self.ended_by_labctl = False  # it was still running when labctl cleaned up
        self.accounted_for = False  # a step has looked at how it ended
        self.is_in_a_result = False  # a step's result has its output
        self._condition = condition
        self._pipes = dict(pipes or {})
        self._trace = trace
        self._open = set(self._pipes)  # streams whose end has not been read
        self._line_watches: list[LineWatch] = []

    def __repr__(self) -> str:
        return f"<Program {self.command.name} on {self.command.host}, {self.state}>"

    @property
    def state(self) -> str:
        """`running`, `exited with status 0`, `was ended by SIGTERM`."""
        if self.status is None:
            return "running"
        if self.ended_by_labctl:
            how = "" if self.status < 0 else f": it exited with status {self.status}"
            return f"was still running, and labctl ended it{how}"
        return describe_status(self.status)

    @property
    def ended(self) -> bool:
        """Whether it has ended for good; all its output has been read then."""
        return self.status is not None or self.gone is not None

    @property
    def is_silent_for_good(self) -> bool:
        """Whether it has ended and no process that it left behind can write to its pipes."""
        return self.ended and not self._open

    @property
    def is_running(self) -> bool:
        """Whether it runs at this moment."""
        return not self.ended

    @property
    def is_ending(self) -> bool:
        """Whether its process has ended and its output has not been read to the end."""
        return False

    @property
    def has_failed(self) -> bool:
        """Whether it has ended with another status than 0."""
        return self.status not in (None, 0)

    def reset_failures(self) -> None:
        """Forget the failed runs of a service: a step has found it running."""

    @property
    def failure(self) -> str:
        """How it failed, to follow `it`."""
        return self.state

    @property
    def exit_status(self) -> int | None:
        """As a shell has it: 128 + n when signal n ended it; None when it runs, or ran until labctl ended it."""
        if self.ended_by_labctl or self.status is None:
            return None
        return self.status if self.status >= 0 else 128 - self.status

    @property
    def truncated_bytes(self) -> int:
        """How many bytes of both streams were dropped."""
        return sum(kept.truncated_bytes for kept in self.output.values())

    def record(self) -> OutputRecord:
        with self._condition:
            return OutputRecord(self.text(Stream.STDOUT), self.text(Stream.STDERR), self.truncated_bytes)

    def text(self, stream: Stream) -> str:
        with self._condition:
            return self.output[stream].text()

    @property
    def hint(self) -> str:
        """Why a running program may have printed nothing so far, and what to try; or ""."""
        if self.command.tty or not self.is_running or self.text(Stream.STDOUT):
            return ""
        return BUFFERED

    def watch_lines(self, pattern: str | re.Pattern[str]) -> LineWatch:
        """A watch for a line of either stream that matches."""
        watch = LineWatch(pattern)
        with self._condition:
            self._line_watches.append(watch)
        return watch

    def wait_end(self, scope: Scope) -> bool:
        """Whether it has ended within the scope's deadline; all its output has then been read. LabGone."""
        scope.wait_for(lambda: self.ended)
        if self.gone is not None:
            raise LabGone(f"the lab has ended, and {self.command.name} on {self.command.host} with it")
        return self.ended

    def signal(self, number: int, *, group: bool) -> bool:
        """Send a signal; False when the program has ended already."""
        if self.ended:
            return False
        self.process.signal(number, group=group)
        return True

    def ask_to_end(self, number: int = SIGTERM) -> None:
        """Send a signal to the process group, and SIGCONT, since a stopped process handles no other signal."""
        self.asked_to_end = True
        self.signal(number, group=True)
        self.signal(SIGCONT, group=True)

    def ending(self, number: int = SIGTERM) -> Iterator[float]:
        """Send a signal, and SIGKILL if the program still runs; yield the seconds to wait for its end after each."""
        self.ask_to_end(number)
        yield TERM_TIMEOUT_S
        if self.signal(SIGKILL, group=True):
            yield KILL_TIMEOUT_S

    def stop(self, number: int, scope: Scope) -> bool:
        """Send a signal and wait; SIGKILL if it still runs, and wait. False when it runs even then."""
        return any(self.wait_end(scope.within(wait_s)) for wait_s in self.ending(number)) or self.ended

    def attach(self, watcher: Watches, on_output: OnOutput | None = None) -> None:
        """Let `watcher` call back when there is output to read or the process has ended; attach once."""
        for stream, fd in self._pipes.items():
            watcher.add(fd, lambda stream=stream: self._drain(stream, on_output))  # type: ignore[misc]
        if self._trace is not None:
            watcher.add(self._trace.descriptor, self._trace.take)
        watcher.add(self.process.fileno(), lambda: self._reap(on_output))

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that the watcher watches."""
        trace = [] if self._trace is None or self._trace.descriptor == -1 else [self._trace.descriptor]
        return (*self._pipes.values(), *trace, self.process.fileno())

    def close(self) -> None:
        """Close all descriptors, which no watcher may watch any more. Idempotent."""
        pipes, self._pipes = self._pipes, {}
        for fd in pipes.values():
            os.close(fd)
        if self._trace is not None:
            self._trace.close()
        self.process.close()

    def _drain(self, stream: Stream, on_output: OnOutput | None, *, once: bool = True) -> bool:
        """Read what the pipe holds (`once`: one chunk of it); False at the end of the stream."""
        while True:
            try:
                data = os.read(self._pipes[stream], CHUNK_BYTES)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                data = b""  # no process has the terminal open any more (pty(7))
            if not data:
                self._open.discard(stream)
                return False
            self._store(stream, data, on_output)
            if once:
                return True

    def _store(self, stream: Stream, data: bytes, on_output: OnOutput | None) -> None:
        with self._condition:
            self.output[stream].append(data)
            for watch in self._line_watches:
                watch.feed(stream, data)
            self._condition.notify_all()
        if on_output is not None:
            on_output(self.command.host, self.command.name, stream, data)

    def _reap(self, on_output: OnOutput | None) -> bool:
        gone, status = None, None
        try:
            status = self.process.wait(0)  # type: ignore[attr-defined]  # a service has its own `_reap`
        except LabGone as error:
            gone = error
        if status is None and gone is None:
            return True
        for stream in self._pipes if gone is None else ():  # all that it wrote before it ended is in the pipes
            self._drain(stream, on_output, once=False)
        if self._trace is not None and gone is None:
            self._trace.take()
            if self._trace.has_ended:  # before the program has: then strace was killed
                self._trace.consume(b"")
        with self._condition:
            self.status, self.gone, self.ended_ns = status, gone, monotonic_ns()
            self._condition.notify_all()
        return False


class Service(Program):
    """A program that the topology file declares. The keeper restarts it as its `restart` requires.

    It has ended when it will not be restarted. It has failed when it does not run and its last run failed, or when
    `FAILED_RUNS_MAX` of its runs failed: whether the next run has begun at the end of a scenario is chance.
    """

    kind = "service"

    def __init__(self, command: Command, process: WatchedProcess, condition: threading.Condition) -> None:
        super().__init__(command, process, condition)
        self._process = process
        self._latest = process.update
        self._failures = 0
        self._last_failure = ""

    @property
    def state(self) -> str:
        """As a program's; while it waits for its restart, how the last run ended."""
        if self._latest.state is ProcessState.WAITING:
            return f"{_described(self._latest)} and is waiting to be started again"
        return _described(self._latest) if self._latest.state is ProcessState.ENDED else "running"

    @property
    def is_running(self) -> bool:
        return self.gone is None and self._latest.state in (ProcessState.RUNNING, ProcessState.STOPPING)

    @property
    def is_ending(self) -> bool:
        return self._latest.state is ProcessState.ENDED and not self.ended

    @property
    def has_failed(self) -> bool:
        return self._failures >= FAILED_RUNS_MAX or (not self.is_running and self._latest.returncode not in (None, 0))

    def reset_failures(self) -> None:
        self._failures = 0

    @property
    def failure(self) -> str:
        if self.is_running and self._failures >= FAILED_RUNS_MAX:
            return f"{self._last_failure}, was started again, and failed {self._failures} times"
        return self.state

    @property
    def restarts(self) -> int:
        """How often the keeper has restarted it."""
        return self._latest.restarts

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._process.fileno(),)

    def signal(self, number: int, *, group: bool) -> bool:
        return self.is_running and self._process.signal(number, group=group)

    def stop(self, number: int, scope: Scope) -> bool:
        """The keeper ends it, and does not restart it."""
        self.asked_to_end = True
        self._process.stop(number)
        return self.wait_end(scope)

    def follow(self, watcher: Watcher, on_output: OnOutput | None) -> None:
        """Read what it has written, and watch what it writes and its state from now on."""
        self._apply(self._process.update, on_output)
        self._read_log(on_output)
        watcher.add(self._process.fileno(), lambda: self._take_updates(on_output), lambda: self._read_log(on_output))

    def _take_updates(self, on_output: OnOutput | None) -> bool:
        if self._process.take_updates(lambda update: self._apply(update, on_output)):
            return True
        if self.status is None:
            with self._condition:
                self.gone = LabGone(f"the lab has ended, and {self.command.name} on {self.command.host} with it")
                self._condition.notify_all()
        return False

    def _apply(self, update: ProcessUpdate, on_output: OnOutput | None) -> None:
        if update.is_log_complete:
            self._read_log(on_output)
        with self._condition:
            has_just_failed = update.state is ProcessState.WAITING and self._latest.state is not ProcessState.WAITING
            if has_just_failed and update.returncode not in (None, 0) and not self.asked_to_end:
                self._failures, self._last_failure = self._failures + 1, _described(update)
            if update.restarts > self._latest.restarts:  # a signal was for the run before
                self.asked_to_end = self.accounted_for = False
            self._latest = update
            if update.is_log_complete:
                self.status = update.returncode if update.returncode is not None else 0
                self.ended_ns = self.ended_ns or monotonic_ns()
            self._condition.notify_all()

    def _read_log(self, on_output: OnOutput | None) -> None:
        for stream, data in self._process.read():
            self._store(LOG_STREAMS[stream], data, on_output)


def launch(
    lab: Lab,
    command: Command,
    condition: threading.Condition,
    *,
    stdout: int | None = None,
    limit_bytes: int = KEPT_BYTES,
    tracer: Tracer | None = None,
) -> Program:
    """Start a program; the caller attaches and closes it. KernelError, InputError when it cannot be started.

    `stdout` (which stays the caller's) replaces the pipe for standard output. With `tracer`, it runs under that.
    """
    pipes: dict[Stream, int] = {}
    theirs: dict[Stream, int] = {}
    trace, writing = (None, None) if tracer is None else trace_pipe(tracer.consumer(command.host, command.name))
    stdin = None if command.stdin is None else memory_file(command.stdin)
    try:
        for stream in () if command.tty else (Stream.STDERR,) if stdout is not None else Stream:
            pipes[stream], theirs[stream] = os.pipe2(os.O_CLOEXEC)
        process = lab.spawn(
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
            tracer=() if tracer is None else tracer.command,
            trace=writing,
        )
    except BaseException:
        for fd in pipes.values():
            os.close(fd)
        if trace is not None:
            trace.close()
        raise
    finally:
        for each in (*theirs.values(), stdin, writing):
            if each is not None:
                os.close(each)
    if process.terminal is not None:
        pipes[Stream.STDOUT], process.terminal = process.terminal, None
    for fd in pipes.values():
        os.set_blocking(fd, False)
    return Program(command, process, condition, pipes, limit_bytes, trace)


def trace_pipe(consume: Callable[[bytes], None]) -> tuple[Trace, int]:
    """Make the pipe of a tracer. Return the reader, and the descriptor to write to, which the caller owns."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    os.fchmod(writing, 0o622)  # the tracer opens it by its path in /proc, perhaps as another user
    return Trace(reading, consume), writing


class ServiceTraces:
    """The tracers of services (labctl.observe.services.Traces). Owns their pipes, and a thread that reads them."""

    def __init__(self, tracer: Callable[[], Tracer | None], *, everything: bool = False) -> None:
        """Trace the services that have `trace`, or (`everything`) all of them."""
        self._tracer = tracer
        self._everything = everything
        self._watcher = Watcher()
        self._traces: list[Trace] = []

    def open(self, node: str, service: PlannedService) -> tuple[Sequence[str], int] | None:
        """Return the tracer's command and the descriptor of its output; None if the service is not traced."""
        tracer = self._tracer() if service.trace or self._everything else None
        if tracer is None:
            return None
        trace, writing = trace_pipe(tracer.consumer(node, service.name))
        self._traces.append(trace)
        self._watcher.add(trace.descriptor, trace.take)
        return tracer.command, writing

    def close(self) -> None:
        """End the thread and close the pipes, when the lab has ended. Idempotent."""
        self._watcher.close()
        for trace in self._traces:
            trace.close()


class Programs:
    """All programs of a running scenario or lab; it stops and closes them. Thread-safe."""

    def __init__(
        self, lab: Lab, condition: threading.Condition, watcher: Watcher, on_output: OnOutput | None = None
    ) -> None:
        self.tracer: Callable[[], Tracer | None] | None = None  # of the programs with `Command.trace`
        self.traces_everything = False  # whether all programs count as such
        self._lab = lab
        self._condition = condition
        self._watcher = watcher
        self._on_output = on_output
        self._all: list[Program] = []
        self._background: dict[str, Program] = {}
        self._services: dict[str, Service] = {}  # by NODE/SERVICE
        self._lock = threading.Lock()

    def tracer_for(self, command: Command) -> Tracer | None:
        """Return what records the system calls of that program; None if nothing does."""
        return self.tracer() if self.tracer and (command.trace or self.traces_everything) else None

    def launch(
        self, command: Command, *, stdout: int | None = None, line: str | re.Pattern[str] = ""
    ) -> tuple[Program, LineWatch | None]:
        """Start a program; KernelError when it cannot be started. `stdout` is as for `launch`.

        With `line`, return a watch that sees every line from the very first byte.
        """
        program = launch(self._lab, command, self._condition, stdout=stdout, tracer=self.tracer_for(command))
        watch = program.watch_lines(line) if line else None
        with self._lock:
            self._all.append(program)
        program.attach(self._watcher, self._on_output)
        return program, watch

    def add_background(self, program: Program) -> None:
        program.kind = "background program"
        key = f"{program.command.host}/{program.command.name}"
        with self._lock:
            self._background.pop(key, None)
            self._background[key] = program  # the last one

    def add_services(self, plan: Plan, *, may_have_ended: bool) -> None:
        """Follow the plan's services that have been started; the lab ends them.

        With `may_have_ended`, a service that has ended already does not count as a failure.
        """
        from labctl.plan.operations import services_of

        for key, (node, planned) in services_of(plan.nodes).items():
            try:
                process = self._lab.watch_process(node, planned.name)
            except InputError:
                continue  # it ended, and the lab has forgotten it since
            command = Command(
                node,
                planned.name,
                planned.argv,
                dict(planned.environment),
                planned.directory,
                where="the topology's services",
                user=planned.user,
                tty=planned.tty,
            )
            service = Service(command, process, self._condition)
            service.accounted_for = may_have_ended and not service.is_running
            self._services[key] = service
            service.follow(self._watcher, self._on_output)

    @property
    def services(self) -> Mapping[str, Service]:
        """By NODE/SERVICE, in file order."""
        return self._services

    def find(self, name: str) -> Program | None:
        """The background program last started under that name, or the service, or None.

        Both are NODE/NAME, or NAME where only one node has one of that name; of background programs, one that runs.
        """
        with self._lock:
            program = self._background.get(name) or self._services.get(name)
            named = [each for each in self._background.values() if each.command.name == name]
        if program is not None:
            return program
        found = [each for each in named if not each.ended] or named[-1:]
        found = found or [service for key, service in self._services.items() if key.partition("/")[2] == name]
        return found[0] if len(found) == 1 else None

    def running_as(self, name: str) -> list[str]:
        """The background programs of that name that run, as NODE/NAME."""
        with self._lock:
            return sorted(k for k, one in self._background.items() if one.command.name == name and not one.ended)

    def background(self) -> list[Program]:
        """Background programs and services, in the order in which they were started."""
        with self._lock:
            return [*self._services.values(), *self._background.values()]

    def everything(self) -> list[Program]:
        """Services, and all programs that have not been released."""
        with self._lock:
            return [*self._services.values(), *self._all]

    def unaccounted(self) -> list[Program]:
        """Those that failed although no step signalled them, and whose end no step looked at."""
        return [p for p in self.background() if p.has_failed and not p.asked_to_end and not p.accounted_for]

    def stop_all(self, scope: Scope) -> list[Program]:
        """End all running programs at once; return those that SIGKILL has not ended."""
        with self._lock:
            running = [program for program in self._all if not program.ended]
        for program in running:
            program.ended_by_labctl = True
            program.ask_to_end()
        if not scope.within(TERM_TIMEOUT_S).wait_for(lambda: all(program.ended for program in running)):
            for program in running:
                program.signal(SIGKILL, group=True)
            scope.within(KILL_TIMEOUT_S).wait_for(lambda: all(program.ended for program in running))
        return [program for program in running if not program.ended]

    def release(self, program: Program) -> None:
        """Close a program that has ended; output of processes that it left behind is not read any more."""
        with self._lock:
            if program not in self._all:
                return
            self._all.remove(program)
        self._watcher.drop(program.descriptors, program.close)

    def close(self) -> None:
        """Close all programs; the watcher must have ended before."""
        for program in (*self._all, *self._services.values()):
            program.close()


def _described(update: ProcessUpdate) -> str:
    return "ended" if update.returncode is None else describe_status(update.returncode)


def describe_status(status: int) -> str:
    """`exited with status 1`, `was ended by SIGTERM`."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def memory_file(content: str | bytes) -> int:
    """A descriptor to read `content` from; the caller closes it."""
    fd = os.memfd_create("labctl-stdin", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
