"""The keeper's book of a lab's programs: which run for which client, and which are detached: with a log, started again.

It forks nothing itself but by the functions that it is given, and never waits.

A detached process's log: a process of its own copies from two pipes to a file of two halves, the older dropped.

The keeper is not in the data's way, and holds none of it: the kernel moves pages from pipe to file (splice(2)). Both
streams go into one file, in the order in which they arrive; beside it, NAME.streams tells which is which: a `SWITCH`
for each place of the newer half where the stream changes, written before the data that it is about.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable

from labctl.errors import InputError, LabctlError, LabError, describe_errno
from labctl.kernel import processes, syscalls
from labctl.lab.client.state_dir import DIRECTORY_FLAGS
from labctl.lab.keeper.clients import Client, Timer, Timers
from labctl.lab.keeper.node_init import Host, Surroundings
from labctl.lab.keeper.spawn import Started, forward_terminal, start_program
from labctl.lab.protocol import HALF_BYTES, SWITCH, ProcessInfo, ProcessNews, ProcessState, Restart, Spawn, StartProcess
from labctl.names import node_name_problem
from labctl.structs import Struct, field, replace

CHUNK = 1 << 20
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
    """The keeper's side: the pipes that the process writes to, and who reads them. `close` lets the writer finish."""

    directory: int  # of the logs of one node; owned
    name: str
    reading: tuple[int, ...] = ()  # of stdout and stderr
    writing: tuple[int, ...] = ()
    pid: int = -1

    def start(self) -> None:
        """Make the pipes, if there are none, and the process that empties them. OSError."""
        if not self.reading:
            for file in (f"{self.name}.log", f"{self.name}.streams"):  # there from the start
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
        """Nobody of ours writes any more: the writer ends when nobody else does."""
        for descriptor in (*self.reading, *self.writing, *([self.directory] if self.directory != -1 else [])):
            os.close(descriptor)
        self.reading = self.writing = ()
        self.directory = -1


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
        """Move what is in the pipe; False when nobody will write to it any more."""
        try:
            self._open()
            if stream != self.stream:
                os.write(self.streams, SWITCH.pack(self.offset, stream))
                self.stream = stream
            moved = os.splice(pipe, self.file, min(CHUNK, HALF_BYTES - self.offset), offset_dst=self.offset)
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            return bool(os.read(pipe, CHUNK))  # the process goes on, though its output is lost
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
        """A new file in the full one's place, without a moment in which there is none."""
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
                full = log  # a file system without hard links: then there is such a moment
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
        """An empty file of switches; who follows the full half still has the old one open."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.name}.streams", dir_fd=self.directory)
        return os.open(f"{self.name}.streams", FILE_FLAGS | os.O_APPEND, 0o600, dir_fd=self.directory)


HANG_UP_S = 1.0  # from SIGHUP to SIGKILL for the programs of a client that has gone
STOP_S = 2.0  # from SIGTERM to SIGKILL
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
WRITER_PAUSE_S = 0.1  # before a log's writer that was killed is replaced
REMEMBERED = 200  # detached processes that have ended, with their logs

LAST_WORDS_S = 1.0  # how long somebody who reads the log of a program that has ended waits for its writer's end

Told = Callable[[ProcessInfo], None]
LogTold = Callable[[list[int]], None]


class Attached(Struct):
    """A program that goes with its client."""

    client: Client
    info: ProcessInfo


class Detached(Struct):
    """A program that outlives its client."""

    host: Host
    request: StartProcess
    log: LogWriter
    info: ProcessInfo
    process: int = 0  # its number in the keeper's PID namespace, 0 when it does not run
    since: float = 0.0  # CLOCK_MONOTONIC of its last start
    pause_s: float = FIRST_PAUSE_S
    timer: Timer | None = None
    leaves: bool = False  # its node has left the lab
    waiting: list[Told] = field(default_factory=list)  # who wants to know that it has ended
    watchers: list[int] = field(default_factory=list)  # writing ends of pipes (non-blocking) for its news

    def become(self, info: ProcessInfo) -> None:
        """Something about it has changed, which its watchers hear."""
        self.info = info
        self.tell_watchers(is_log_complete=False)

    def tell_watchers(self, *, is_log_complete: bool) -> None:
        """News for each; a pipe whose reader has gone, or has not read for 4,000 changes, is closed."""
        news = ProcessNews.of(self.info, is_log_complete=is_log_complete).pack()
        for pipe in list(self.watchers):
            try:
                os.write(pipe, news)
            except OSError:
                self.watchers.remove(pipe)
                os.close(pipe)

    def forget_watchers(self) -> None:
        """There will be no more news."""
        watchers, self.watchers = self.watchers, []
        for pipe in watchers:
            os.close(pipe)


class _Reader(Struct):
    """Somebody who wants a log that is still being written."""

    then: Callable[[], None]
    is_told: bool = False

    def tell(self) -> None:
        if not self.is_told:
            self.is_told = True
            self.then()


class Roster:
    """The programs of a lab. `logs` is the directory of their logs."""

    def __init__(self, surroundings: Surroundings, timers: Timers, logs: int) -> None:
        self._surroundings = surroundings
        self._timers = timers
        self._logs = logs
        self._attached: dict[int, Attached] = {}
        self._detached: dict[tuple[str, str], Detached] = {}
        self._writers: dict[int, LogWriter] = {}
        self._readers: dict[int, list[_Reader]] = {}  # by the writer that they wait for

    def infos(self) -> list[ProcessInfo]:
        """All of them, detached ones first."""
        return [*(each.info for each in self._detached.values()), *(each.info for each in self._attached.values())]

    def attach(self, client: Client, host: Host, argv: tuple[str, ...], started: Started) -> None:
        """A program that was started for a client."""
        info = ProcessInfo(
            host.name, "", started.pid_on_host, argv, time.time(), ProcessState.RUNNING, machine_pid=started.machine_pid
        )
        self._attached[started.pid] = Attached(client, info)

    def abandon(self, client: Client) -> None:
        """A client has gone, and its programs are to go, too."""
        for pid, each in list(self._attached.items()):
            if each.client is client:
                _signal(pid, signal.SIGHUP, signal.SIGCONT)
                self._timers.after(HANG_UP_S, lambda pid=pid, each=each: self._kill_attached(pid, each))  # type: ignore[misc]

    def start(self, host: Host, request: StartProcess) -> ProcessInfo:
        """Start a detached program. InputError when its name is bad or in use, KernelError when it cannot be run."""
        name = self._free_name(host, request)
        key = (host.name, name)
        if (before := self._detached.get(key)) is not None:
            self._forget(key, before)
        log = LogWriter(self._directory(host.name), name)
        detached = Detached(host, request, log, _about_to_start(host, name, request))
        try:
            self._start_writer(log)
            self._run(detached)
        except BaseException:
            log.close()
            raise
        self._detached[key] = detached
        self._forget_oldest()
        return detached.info

    def stop(self, host: Host, name: str, told: Told, number: int = signal.SIGTERM) -> None:
        """End a detached program by this signal; `told` hears of it when it has ended."""
        detached = self._named(host, name)
        if not detached.process:
            self._has_ended(detached)
            told(detached.info)
            return
        detached.waiting.append(told)
        if detached.info.state is not ProcessState.STOPPING:
            detached.become(replace(detached.info, state=ProcessState.STOPPING))
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

    def watch(self, host: Host, name: str, *, news: bool) -> list[int]:
        """Descriptors of its log's newer half and of the streams of that, before them a pipe with its news if wanted.

        They are the caller's to close.
        """
        detached = self._named(host, name)
        opened: list[int] = []
        try:
            if news:
                reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                opened.append(reading)
                detached.watchers.append(writing)
            for file in (f"{host.name}/{name}.log", f"{host.name}/{name}.streams"):
                opened.append(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._logs))
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        if news and detached.info.state is ProcessState.ENDED:
            self._tell_end(detached)
        elif news:
            detached.tell_watchers(is_log_complete=False)
        return opened

    def _named(self, host: Host, name: str) -> Detached:
        detached = self._detached.get((host.name, name))
        if detached is None:
            names = ", ".join(key[1] for key in self._detached if key[0] == host.name) or "none"
            raise InputError(f"{host.subject}: no process {name} was started there. Those that were: {names}.")
        return detached

    def _tell_end(self, detached: Detached) -> None:
        """Its watchers hear at once that it has ended, and again when its log is complete."""
        detached.tell_watchers(is_log_complete=False)

        def complete() -> None:
            if detached.info.state is ProcessState.ENDED:
                detached.tell_watchers(is_log_complete=True)
                detached.forget_watchers()

        self._when_written(detached, complete)

    def end(self, key: tuple[str, str], told: Told) -> bool:
        """End a detached program if it runs; False when it does not, and `told` will not hear of it."""
        detached = self._detached.get(key)
        if detached is None or detached.info.state is ProcessState.ENDED:
            return False
        if detached.leaves:
            detached.waiting.append(told)
        else:
            self.stop(detached.host, key[1], told)
        return True

    def running_on(self, node: str) -> list[tuple[str, str]]:
        """The detached programs of a node that have not ended."""
        return [key for key, each in self._detached.items() if key[0] == node and self.request_of(key) is not None]

    def request_of(self, key: tuple[str, str]) -> StartProcess | None:
        """What a detached program was started with; None when it has ended, or was never started."""
        detached = self._detached.get(key)
        if detached is None or detached.info.state in (ProcessState.ENDED, ProcessState.STOPPING):
            return None
        return detached.request

    def open_log(self, node: str, name: str, told: LogTold) -> None:
        """Hand `told` descriptors of the halves of a detached program's log that are there, the older first.

        Of a program that has ended, once its last words are written down: that is its writer's end, or LAST_WORDS_S
        later where something that it left behind still has its output. What `told` gets is its to close.
        """
        detached = self._detached.get((node, name))
        if detached is None:
            raise InputError(f"node {node}: no process {name} was started there.")

        def tell() -> None:
            try:
                opened = self._opened_log(node, name)
            except OSError:  # EMFILE: an empty answer here is better than the end of the lab
                opened = []
            told(opened)

        self._when_written(detached, tell)

    def _when_written(self, detached: Detached, then: Callable[[], None]) -> None:
        """Call it now, but for a program that has ended once its log's writer has, or LAST_WORDS_S later."""
        if detached.process or detached.log.pid not in self._writers:
            then()
            return
        reader = _Reader(then)
        self._readers.setdefault(detached.log.pid, []).append(reader)
        self._timers.after(LAST_WORDS_S, reader.tell)

    def _opened_log(self, node: str, name: str) -> list[int]:
        opened: list[int] = []
        for file in (f"{node}/{name}.log.1", f"{node}/{name}.log"):
            with contextlib.suppress(FileNotFoundError):
                opened.append(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._logs))
        return opened

    def ended(self, pid: int, code: int) -> bool:
        """A child of the keeper has ended; whether it was one of these."""
        if self._attached.pop(pid, None) is not None:
            return True
        writer = self._writers.pop(pid, None)
        if writer is not None:
            writer.pid = -1
            for reader in self._readers.pop(pid, ()):
                reader.tell()
            self._timers.after(WRITER_PAUSE_S, lambda: self._replace_writer(writer))
            return True
        for detached in self._detached.values():
            if detached.process == pid:
                detached.process = 0
                self._after_end(detached, pid, code)
                return True
        return False

    def forget_node(self, node: str) -> None:
        """The node is gone from the lab, and every program on it."""
        for key, detached in list(self._detached.items()):
            if key[0] == node:
                detached.leaves = True
                if not detached.process:
                    self._has_ended(detached)

    def _after_end(self, detached: Detached, pid: int, code: int) -> None:
        if detached.timer is not None:
            detached.timer.cancel()
            detached.timer = None
        stopped = detached.info.state is ProcessState.STOPPING
        detached.info = replace(detached.info, returncode=code, pid=0, machine_pid=0)
        restart = detached.request.restart
        again = restart is Restart.ALWAYS or (restart is Restart.ON_FAILURE and code != 0)
        if stopped or not again or detached.leaves or detached.host.ended is not None:
            if stopped:
                _signal(pid, signal.SIGKILL)  # what is left of its process group
            self._has_ended(detached)
            return
        if time.monotonic() - detached.since > LONGEST_PAUSE_S:
            detached.pause_s = FIRST_PAUSE_S
        self._try_later(detached)

    def _try_later(self, detached: Detached) -> None:
        detached.become(replace(detached.info, state=ProcessState.WAITING))
        detached.timer = self._timers.after(detached.pause_s, lambda: self._run_again(detached))
        detached.pause_s = min(detached.pause_s * 2, LONGEST_PAUSE_S)

    def _run_again(self, detached: Detached) -> None:
        detached.timer = None
        detached.info = replace(detached.info, restarts=detached.info.restarts + 1)
        try:
            self._run(detached)
        except (LabctlError, OSError) as error:
            detached.info = replace(detached.info, problem=str(error))
            if detached.host.ended is not None:
                self._has_ended(detached)
            else:
                self._try_later(detached)

    def _run(self, detached: Detached) -> None:
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
        )
        started = start_program(detached.host, self._surroundings, spawn, () if request.terminal else log.writing)
        detached.process, detached.since = started.pid, time.monotonic()
        if started.terminal is not None:
            forward_terminal(started.terminal, log.writing[0])
        detached.become(
            replace(
                detached.info,
                pid=started.pid_on_host,
                machine_pid=started.machine_pid,
                started_at=time.time(),
                state=ProcessState.RUNNING,
                problem="",
            )
        )

    def _has_ended(self, detached: Detached) -> None:
        if detached.timer is not None:
            detached.timer.cancel()
            detached.timer = None
        detached.info = replace(detached.info, state=ProcessState.ENDED, pid=0, machine_pid=0)
        detached.log.close()
        self._tell_end(detached)
        waiting, detached.waiting = detached.waiting, []
        if detached.leaves:  # before anybody is told, who may start another one of that name
            self._forget((detached.host.name, detached.info.name), detached)
        for told in waiting:
            told(detached.info)

    def _kill_attached(self, pid: int, attached: Attached) -> None:
        # The number of a process that has been reaped may be that of a later one; that of its group is not given away
        # as long as there is a process in it.
        if self._attached.get(pid, attached) is attached and not self._is_detached(pid):
            _signal(pid, signal.SIGKILL)

    def _kill_detached(self, detached: Detached, process: int) -> None:
        if detached.process == process:
            _signal(process, signal.SIGKILL)

    def _is_detached(self, pid: int) -> bool:
        return any(each.process == pid for each in self._detached.values())

    def _free_name(self, host: Host, request: StartProcess) -> str:
        if request.name:
            if problem := node_name_problem(request.name):
                raise InputError(f"The name `{request.name}` of a process {problem}.")
            there = self._detached.get((host.name, request.name))
            if there is not None and there.info.state is not ProcessState.ENDED:
                raise InputError(
                    f"{host.subject}: a process {request.name} is there already ({' '.join(there.info.argv)}). "
                    f"Stop it first, or choose another name."
                )
            return request.name
        base = os.path.basename(request.argv[0])
        base = base if not node_name_problem(base) else "process"
        number = 1
        while (name := base if number == 1 else f"{base}-{number}") and (host.name, name) in self._detached:
            number += 1
        return name

    def _start_writer(self, log: LogWriter) -> None:
        try:
            log.start()
        except OSError as error:
            raise LabError(f"log {log.name}: cannot start its writer: {describe_errno(error.errno or 0)}.") from error
        self._writers[log.pid] = log

    def _replace_writer(self, log: LogWriter) -> None:
        """The writer was killed, and its process still runs."""
        if not log.reading or log.pid != -1:
            return
        try:
            self._start_writer(log)
        except LabError:  # the machine is short of processes; the program waits meanwhile
            self._timers.after(LONGEST_PAUSE_S, lambda: self._replace_writer(log))

    def _directory(self, node: str) -> int:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(node, 0o700, dir_fd=self._logs)
            return os.open(node, DIRECTORY_FLAGS, dir_fd=self._logs)
        except OSError as error:
            hint = "Is the disk that holds the state directory full or read-only?"
            raise LabError(f"logs of {node}: cannot make them: {describe_errno(error.errno or 0)}. {hint}") from error

    def _forget(self, key: tuple[str, str], detached: Detached) -> None:
        del self._detached[key]
        detached.forget_watchers()
        node, name = key
        if detached.log.pid in self._writers:  # something that has left its process group still writes to the log
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
