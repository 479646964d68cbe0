"""The process table of a lab's keeper: programs of its clients, and detached programs with logs and restarts.

The table never waits. Its functions fork nothing but log writers and, through `spawn`, programs.

A log writer is a process that copies from two pipes to a file of two halves, the older of which is dropped. The kernel
moves pages from pipe to file (splice(2)). Both streams go into one file, in the order in which they arrive; beside it,
NAME.streams holds a `SWITCH` for each offset of the newer half where the stream changes, written before that data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable

from labctl.errors import InputError, LabctlError, LabError, kernel_errors
from labctl.kernel import processes, syscalls
from labctl.lab.client.state_dir import DIRECTORY_FLAGS
from labctl.lab.description import ProcessInfo, ProcessState
from labctl.lab.keeper.clients import Client, Timer, Timers
from labctl.lab.keeper.node_init import Host, LabContext
from labctl.lab.keeper.spawn import Started, forward_terminal, start_program
from labctl.lab.protocol import HALF_BYTES, SWITCH, ProcessUpdate, Spawn, StartProcess
from labctl.names import node_name_problem
from labctl.structs import Struct, field, replace
from labctl.topology.model import Restart

CHUNK_BYTES = 1 << 20
FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
CANNOT_WRITE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOENT,
)


class LogWriter(Struct):
    """The keeper's side of a log writer: its pipes and its pid. The writer ends after `close`."""

    directory: int  # of the node's logs; owned
    name: str
    reading: tuple[int, ...] = ()  # of stdout and stderr
    writing: tuple[int, ...] = ()
    pid: int = -1
    trace: int = -1  # where the tracer of the program writes; owned

    def start(self) -> None:
        """Make the pipes, unless they exist, and the process that empties them. OSError."""
        if not self.reading:
            for file in (f"{self.name}.log", f"{self.name}.streams"):  # both exist from the start
                os.close(os.open(file, FILE_FLAGS, 0o600, dir_fd=self.directory))
            pipes = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
            self.reading, self.writing = tuple(pipe[0] for pipe in pipes), tuple(pipe[1] for pipe in pipes)
        reading, directory, name = self.reading, self.directory, self.name

        def body() -> None:
            processes.default_signals()
            processes.die_with_parent()
            syscalls.set_process_name("labctl-log")
            copy_all(reading, directory, name)

        self.pid = processes.fork(body)

    def close(self) -> None:
        """Close the pipes: the writer ends when no process of the program has them open."""
        for descriptor in (*self.reading, *self.writing, self.directory, self.trace):
            if descriptor != -1:
                os.close(descriptor)
        self.reading = self.writing = ()
        self.directory = self.trace = -1


def copy_all(reading: tuple[int, ...], directory: int, name: str) -> None:
    """Copy from the pipes to the log `name` in the directory until the last writers have closed them."""
    processes.keep_only(0, 1, 2, *reading, directory)
    log = _Log(directory, name)
    poller = select.poll()
    for pipe in reading:
        poller.register(pipe, select.POLLIN)
    left = set(reading)
    while left:
        for pipe in sorted((pipe for pipe, _ in poller.poll()), key=reading.index):
            if not log.take(pipe, reading.index(pipe)):
                poller.unregister(pipe)
                left.remove(pipe)


class _Log(Struct):
    directory: int
    name: str
    file: int = -1
    streams: int = -1
    offset: int = 0
    stream: int = -1  # of what was written last

    def take(self, pipe: int, stream: int) -> bool:
        """Move the content of the pipe; False at its end."""
        try:
            self._open()
            if stream != self.stream:
                os.write(self.streams, SWITCH.pack(self.offset, stream))
                self.stream = stream
            moved = os.splice(pipe, self.file, min(CHUNK_BYTES, HALF_BYTES - self.offset), offset_dst=self.offset)
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            return bool(os.read(pipe, CHUNK_BYTES))  # the program continues, though its output is lost
        self.offset += moved
        return bool(moved)

    def _open(self) -> None:
        if self.file != -1 and self.offset < HALF_BYTES:
            return
        if self.file != -1:
            self._begin_half()
            return
        log = f"{self.name}.log"
        streams = os.open(f"{self.name}.streams", FILE_FLAGS | os.O_APPEND, 0o600, dir_fd=self.directory)
        try:
            self.file = os.open(log, FILE_FLAGS, 0o600, dir_fd=self.directory)
        except OSError:
            os.close(streams)
            raise
        self.streams = streams
        self.offset = os.fstat(self.file).st_size

    def _begin_half(self) -> None:
        """Replace the full file by a new one; a file of that name exists at any moment."""
        log = f"{self.name}.log"
        new = os.open(f"{log}.new", FILE_FLAGS | os.O_TRUNC, 0o600, dir_fd=self.directory)
        streams = -1
        try:
            streams = self._new_streams()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{log}.full", dir_fd=self.directory)
            full = f"{log}.full"
            try:
                os.link(log, full, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            except PermissionError:
                full = log  # a file system without hard links: the name is missing for a moment
            for old, name in ((full, f"{log}.1"), (f"{log}.new", log)):
                os.rename(old, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except OSError:
            for descriptor in (new, streams):
                if descriptor != -1:
                    os.close(descriptor)
            raise
        os.close(self.file)
        os.close(self.streams)
        self.file, self.streams, self.offset, self.stream = new, streams, 0, -1

    def _new_streams(self) -> int:
        """Make an empty file of switches; readers of the full half still have the old one open."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.name}.streams", dir_fd=self.directory)
        return os.open(f"{self.name}.streams", FILE_FLAGS | os.O_APPEND, 0o600, dir_fd=self.directory)


HANG_UP_S = 1.0  # from SIGHUP to SIGKILL for the programs of a client that disconnected
STOP_S = 2.0  # from SIGTERM to SIGKILL
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
WRITER_PAUSE_S = 0.1  # before a log's writer that was killed is replaced
REMEMBERED = 200  # detached processes that have ended, with their logs

WRITER_TIMEOUT_S = 1.0  # for the log writer of a program that has ended

OnEnd = Callable[[ProcessInfo], None]
OnLogOpened = Callable[[list[int]], None]


class AttachedProgram(Struct):
    """A program that goes with its client."""

    client: Client
    info: ProcessInfo


class DetachedProgram(Struct):
    """A program that outlives its client."""

    host: Host
    request: StartProcess
    log: LogWriter
    info: ProcessInfo
    process: int = 0  # its pid in the keeper's PID namespace, 0 when it does not run
    started: float = 0.0  # CLOCK_MONOTONIC of its last start
    pause_s: float = FIRST_PAUSE_S
    timer: Timer | None = None
    leaves: bool = False  # its node has left the lab
    on_end: list[OnEnd] = field(default_factory=list)
    watchers: list[int] = field(default_factory=list)  # writing ends of pipes (non-blocking) for its updates

    def update(self, info: ProcessInfo) -> None:
        """Set the info and send it to the watchers."""
        self.info = info
        self.notify()

    def notify(self, *, is_log_complete: bool = False) -> None:
        """Send an update to the watchers; close a pipe whose reader is closed, or has not read for 4,000 updates."""
        info = self.info
        update = ProcessUpdate(info.state, info.pid, info.restarts, info.returncode, is_log_complete).pack()
        for pipe in list(self.watchers):
            try:
                os.write(pipe, update)
            except OSError:
                self.watchers.remove(pipe)
                os.close(pipe)

    def cancel_timer(self) -> None:
        """Cancel its restart or its SIGKILL. Idempotent."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def close_watchers(self) -> None:
        """Close the pipes: no more updates will come."""
        watchers, self.watchers = self.watchers, []
        for pipe in watchers:
            os.close(pipe)


class ProcessTable:
    """The programs of a lab; `logs` is a descriptor of the directory of their logs."""

    def __init__(self, context: LabContext, timers: Timers, logs: int) -> None:
        self._context = context
        self._timers = timers
        self._logs = logs
        self._attached: dict[int, AttachedProgram] = {}
        self._detached: dict[tuple[str, str], DetachedProgram] = {}
        self._writers: dict[int, LogWriter] = {}
        self._readers: dict[int, list[Timer]] = {}  # by the log writer that they wait for

    def infos(self) -> list[ProcessInfo]:
        """Return all programs, detached ones first."""
        return [*(each.info for each in self._detached.values()), *(each.info for each in self._attached.values())]

    def attach(self, client: Client, host: Host, argv: tuple[str, ...], started: Started) -> None:
        """Add a program that was started for a client."""
        info = ProcessInfo(
            host.name, "", started.pid_on_host, argv, time.time(), ProcessState.RUNNING, machine_pid=started.machine_pid
        )
        self._attached[started.pid] = AttachedProgram(client, info)

    def on_disconnect(self, client: Client) -> None:
        """End the programs of a client that disconnected."""
        for pid, each in list(self._attached.items()):
            if each.client is client:
                _signal(pid, signal.SIGHUP, signal.SIGCONT)
                self._timers.after(HANG_UP_S, lambda pid=pid, each=each: self._kill_attached(pid, each))  # type: ignore[misc]

    def start(self, host: Host, request: StartProcess, trace: int | None = None) -> ProcessInfo:
        """Start a detached program, traced if the descriptor for that, which stays the caller's, is given.

        InputError when its name is bad or in use, KernelError when it cannot be run.
        """
        name = self._free_name(host, request)
        key = (host.name, name)
        if (before := self._detached.get(key)) is not None:
            self._forget(key, before)
        log = LogWriter(self._directory(host.name), name)
        detached = DetachedProgram(host, request, log, _about_to_start(host, name, request))
        try:
            if trace is not None:
                log.trace = os.dup(trace)
            self._start_writer(log)
            self._run(detached)
        except BaseException:
            log.close()
            raise
        self._detached[key] = detached
        self._forget_oldest()
        return detached.info

    def stop(self, host: Host, name: str, on_end: OnEnd, number: int = signal.SIGTERM) -> None:
        """End a detached program by this signal, and call `on_end` when it has ended."""
        detached = self._named(host, name)
        if not detached.process:
            self._has_ended(detached)
            on_end(detached.info)
            return
        detached.on_end.append(on_end)
        if detached.info.state is not ProcessState.STOPPING:
            detached.update(detached.info.replaced(state=ProcessState.STOPPING))
            _signal(detached.process, number, signal.SIGCONT)
            process = detached.process
            detached.timer = self._timers.after(STOP_S, lambda: self._kill_detached(detached, process))

    def send_signal(self, host: Host, name: str, number: int, *, group: bool) -> bool:
        """Signal a detached program, or its process group; False when it does not run."""
        detached = self._named(host, name)
        if not detached.process:
            return False
        if group:
            _signal(detached.process, number)
        else:
            os.kill(detached.process, number)
        return True

    def process_of(self, node: str, name: str) -> int | None:
        """Return the running program of a node, by its name or its pid there, as its pid in the keeper's namespace."""
        detached = self._detached.get((node, name))
        if detached is not None and detached.process:
            return detached.process
        pids = {process: each.info for process, each in self._attached.items()}
        pids |= {each.process: each.info for each in self._detached.values() if each.process}
        return next((process for process, info in pids.items() if (info.node, str(info.pid)) == (node, name)), None)

    def signal_group(self, process: int, number: int) -> None:
        """Signal the process group of `process_of`, if it still runs."""
        if process in self._attached or self._is_detached(process):
            _signal(process, number)

    def start_again(self, node: str, name: str) -> None:
        """Start a detached program that has ended once more, without a tracer. KernelError."""
        detached = self._detached.get((node, name))
        if detached is not None and detached.info.state is ProcessState.ENDED and not detached.leaves:
            self.start(detached.host, replace(detached.request, name=name, tracer=()))

    def watch(self, host: Host, name: str, *, updates: bool) -> list[int]:
        """Open the newer half of the program's log and its streams, before them, if `updates`, a pipe of updates.

        The caller owns the descriptors.
        """
        detached = self._named(host, name)
        opened: list[int] = []
        try:
            if updates:
                reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                opened.append(reading)
                detached.watchers.append(writing)
            for file in (f"{host.name}/{name}.log", f"{host.name}/{name}.streams"):
                opened.append(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._logs))
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        if updates and detached.info.state is ProcessState.ENDED:
            self._notify_end(detached)
        elif updates:
            detached.notify()
        return opened

    def _named(self, host: Host, name: str) -> DetachedProgram:
        detached = self._detached.get((host.name, name))
        if detached is None:
            names = ", ".join(key[1] for key in self._detached if key[0] == host.name) or "none"
            raise InputError(f"{host.subject}: cannot find a process {name}. Processes started there: {names}.")
        return detached

    def _notify_end(self, detached: DetachedProgram) -> None:
        """Notify the watchers at once that it has ended, and again when its log is complete."""
        detached.notify()

        def complete() -> None:
            if detached.info.state is ProcessState.ENDED:
                detached.notify(is_log_complete=True)
                detached.close_watchers()

        self._when_written(detached, complete)

    def end(self, key: tuple[str, str], on_end: OnEnd) -> bool:
        """End a detached program if it runs; returns False, and never calls `on_end`, when it does not."""
        detached = self._detached.get(key)
        if detached is None or detached.info.state is ProcessState.ENDED:
            return False
        if detached.leaves:
            detached.on_end.append(on_end)
        else:
            self.stop(detached.host, key[1], on_end)
        return True

    def running_on(self, node: str) -> list[tuple[str, str]]:
        """Return the detached programs of a node that run."""
        return [key for key, each in self._detached.items() if key[0] == node and self.request_of(key) is not None]

    def request_of(self, key: tuple[str, str]) -> StartProcess | None:
        """Return the request that started a detached program; None unless it runs."""
        detached = self._detached.get(key)
        if detached is None or detached.info.state in (ProcessState.ENDED, ProcessState.STOPPING):
            return None
        return detached.request

    def open_log(self, node: str, name: str, on_opened: OnLogOpened) -> None:
        """Call `on_opened` with descriptors of the existing halves of a program's log, the older first; it owns them.

        For a program that has ended, that is when its log writer has ended, or WRITER_TIMEOUT_S later where a process
        that it left behind still has its output open.
        """
        detached = self._detached.get((node, name))
        if detached is None:
            raise InputError(f"node {node}: cannot find a process {name}.")

        def open_halves() -> None:
            opened: list[int] = []
            for file in (f"{node}/{name}.log.1", f"{node}/{name}.log"):
                with contextlib.suppress(OSError):  # a missing half; or EMFILE: an empty answer beats the lab's end
                    opened.append(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._logs))
            on_opened(opened)

        self._when_written(detached, open_halves)

    def _when_written(self, detached: DetachedProgram, then: Callable[[], None]) -> None:
        """Call `then` now; for a program that has ended, when its log writer has, or WRITER_TIMEOUT_S later."""
        if detached.process or detached.log.pid not in self._writers:
            then()
            return
        timer = self._timers.after(WRITER_TIMEOUT_S, then)
        self._readers.setdefault(detached.log.pid, []).append(timer)

    def ended(self, pid: int, code: int) -> bool:
        """Record the end of a child of the keeper; returns whether it was in this table."""
        if self._attached.pop(pid, None) is not None:
            return True
        writer = self._writers.pop(pid, None)
        if writer is not None:
            writer.pid = -1
            for timer in self._readers.pop(pid, ()):
                timer.run_now()
            self._timers.after(WRITER_PAUSE_S, lambda: self._replace_writer(writer))
            return True
        for detached in self._detached.values():
            if detached.process == pid:
                detached.process = 0
                self._after_end(detached, pid, code)
                return True
        return False

    def forget_node(self, node: str) -> None:
        """Forget the programs of a node that has left the lab."""
        for key, detached in list(self._detached.items()):
            if key[0] == node:
                detached.leaves = True
                if not detached.process:
                    self._has_ended(detached)

    def _after_end(self, detached: DetachedProgram, pid: int, code: int) -> None:
        detached.cancel_timer()
        stopped = detached.info.state is ProcessState.STOPPING
        detached.info = detached.info.replaced(returncode=code, pid=0, machine_pid=0)
        restart = detached.request.restart
        again = restart is Restart.ALWAYS or (restart is Restart.ON_FAILURE and code != 0)
        if stopped or not again or detached.leaves or detached.host.exit_code is not None:
            if stopped:
                _signal(pid, signal.SIGKILL)  # the rest of its process group
            self._has_ended(detached)
            return
        if time.monotonic() - detached.started > LONGEST_PAUSE_S:
            detached.pause_s = FIRST_PAUSE_S
        self._try_later(detached)

    def _try_later(self, detached: DetachedProgram) -> None:
        detached.update(detached.info.replaced(state=ProcessState.WAITING))
        detached.timer = self._timers.after(detached.pause_s, lambda: self._run_again(detached))
        detached.pause_s = min(detached.pause_s * 2, LONGEST_PAUSE_S)

    def _run_again(self, detached: DetachedProgram) -> None:
        detached.timer = None
        detached.info = detached.info.replaced(restarts=detached.info.restarts + 1)
        try:
            self._run(detached)
        except (LabctlError, OSError) as error:
            detached.info = detached.info.replaced(problem=str(error))
            if detached.host.exit_code is not None:
                self._has_ended(detached)
            else:
                self._try_later(detached)

    def _run(self, detached: DetachedProgram) -> None:
        request, log = detached.request, detached.log
        spawn = Spawn(
            request.node,
            request.argv,
            request.environment,
            request.cwd,
            (False, not request.terminal, not request.terminal),
            user=request.user,
            terminal=request.terminal,
            is_terminal_plain=request.terminal is not None,
            is_cwd_optional=request.is_cwd_optional,
            tracer=request.tracer if log.trace != -1 else (),
        )
        given = (*(() if request.terminal else log.writing), *([] if log.trace == -1 else [log.trace]))
        started = start_program(detached.host, self._context, spawn, given)
        detached.process, detached.started = started.pid, time.monotonic()
        if started.terminal is not None:
            forward_terminal(started.terminal, log.writing[0])
        detached.update(
            detached.info.replaced(
                pid=started.pid_on_host,
                machine_pid=started.machine_pid,
                started_at=time.time(),
                state=ProcessState.RUNNING,
                problem="",
            )
        )

    def _has_ended(self, detached: DetachedProgram) -> None:
        detached.cancel_timer()
        detached.info = detached.info.replaced(state=ProcessState.ENDED, pid=0, machine_pid=0)
        detached.log.close()
        self._notify_end(detached)
        callbacks, detached.on_end = detached.on_end, []
        if detached.leaves:  # before the callbacks, which may start another program of that name
            self._forget((detached.host.name, detached.info.name), detached)
        for on_end in callbacks:
            on_end(detached.info)

    def _kill_attached(self, pid: int, attached: AttachedProgram) -> None:
        # The pid of a process that was reaped may be reused; that of its group is not as long as a process is in it.
        if self._attached.get(pid, attached) is attached and not self._is_detached(pid):
            _signal(pid, signal.SIGKILL)

    def _kill_detached(self, detached: DetachedProgram, process: int) -> None:
        if detached.process == process:
            _signal(process, signal.SIGKILL)

    def _is_detached(self, pid: int) -> bool:
        return any(each.process == pid for each in self._detached.values())

    def _free_name(self, host: Host, request: StartProcess) -> str:
        if request.name:
            if problem := node_name_problem(request.name):
                raise InputError(f"{host.subject}: the name `{request.name}` of a process {problem}.")
            other = self._detached.get((host.name, request.name))
            if other is not None and other.info.state is not ProcessState.ENDED:
                raise InputError(
                    f"{host.subject}: cannot start {request.name}: a process of that name runs already "
                    f"({' '.join(other.info.argv)}). Stop it first, or choose another name."
                )
            return request.name
        base = os.path.basename(request.argv[0])
        base = base if not node_name_problem(base) else "process"
        number = 1
        while (name := base if number == 1 else f"{base}-{number}") and (host.name, name) in self._detached:
            number += 1
        return name

    def _start_writer(self, log: LogWriter) -> None:
        with kernel_errors(f"log {log.name}", "start its writer", hint={errno.EAGAIN: processes.remedy(errno.EAGAIN)}):
            log.start()
        self._writers[log.pid] = log

    def _replace_writer(self, log: LogWriter) -> None:
        """Start another log writer if one was killed while its program runs."""
        if not log.reading or log.pid != -1:
            return
        try:
            self._start_writer(log)
        except LabError:  # out of processes; the program waits when its pipe is full
            self._timers.after(LONGEST_PAUSE_S, lambda: self._replace_writer(log))

    def _directory(self, node: str) -> int:
        hint = "Is the disk that holds the state directory full or read-only?"
        with kernel_errors(f"logs of {node}", "make a directory for them", hint=hint):
            with contextlib.suppress(FileExistsError):
                os.mkdir(node, 0o700, dir_fd=self._logs)
            return os.open(node, DIRECTORY_FLAGS, dir_fd=self._logs)

    def _forget(self, key: tuple[str, str], detached: DetachedProgram) -> None:
        del self._detached[key]
        detached.close_watchers()
        node, name = key
        if detached.log.pid in self._writers:  # a process outside its process group still writes to the log
            os.kill(detached.log.pid, signal.SIGKILL)
        for file in (f"{node}/{name}.log", f"{node}/{name}.log.1", f"{node}/{name}.streams"):
            with contextlib.suppress(OSError):
                os.unlink(file, dir_fd=self._logs)

    def _forget_oldest(self) -> None:
        ended = [key for key, each in self._detached.items() if each.info.state is ProcessState.ENDED]
        for key in ended[: max(0, len(ended) - REMEMBERED)]:
            self._forget(key, self._detached[key])


def _about_to_start(host: Host, name: str, request: StartProcess) -> ProcessInfo:
    return ProcessInfo(host.name, name, 0, request.argv, time.time(), ProcessState.RUNNING, restart=request.restart)


def _signal(group: int, *numbers: int) -> None:
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
