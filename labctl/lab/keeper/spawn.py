"""Processes that the keeper forks on a host: programs, agents, and short tasks that open a file or bind a socket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import termios
from array import array
from collections.abc import Callable
from functools import partial

from labctl.errors import KernelError, LabError, LabImpossible, kernel_errors
from labctl.kernel import processes, syscalls
from labctl.kernel.processes import is_stopped
from labctl.lab.frames import TRACE_DESCRIPTOR
from labctl.lab.keeper.node_init import (
    SHARED_DIRECTORY,
    START_TIMEOUT_S,
    Host,
    LabContext,
    environment_on,
    fork_on_host,
    report_error,
    reported_error,
)
from labctl.lab.protocol import BindSocket, Identity, OpenFile, Spawn
from labctl.structs import Struct, replace

PIDS = struct.Struct("=ii")  # on its host, and in the machine's PID namespace
TASK_TIMEOUT_S = 5.0  # for what may block: opening a FIFO
COPY_BYTES = 1 << 16
IUTF8 = 0o40000  # asm-generic/termbits.h: the erase key takes a whole character
AGENT_CHANNEL = 1023  # below the usual soft limit of descriptors, above the descriptors that scenarios use


class Started(Struct, frozen=True):
    """A process on a host: its numbers in the keeper's namespace, on its host, and on the machine."""

    pid: int
    pid_on_host: int
    machine_pid: int
    terminal: int | None = None  # the master of its terminal; the receiver owns it


def start_program(host: Host, context: LabContext, request: Spawn, given: tuple[int, ...]) -> Started:
    """Start a program with the descriptors of the request, which stay the caller's.

    KernelError when the kernel refuses, LabImpossible when the lab lacks that user.
    """
    stdio, trace = (given[:-1], given[-1]) if request.tracer else (given, None)
    user = None if request.user is None else _checked_identity(host, context, request.argv[0], request.user)
    environment = environment_on(host, context, request.environment)
    if request.is_terminal_plain and "TERM" not in dict((*host.node.environment, *request.environment)):
        environment["TERM"] = "dumb"
    ends = socket.socketpair() if request.terminal else None

    def body(writing: int) -> None:
        processes.default_signals()
        os.setsid()
        if request.terminal is None or ends is None:
            _connect_stdio(request.stdio, stdio)
        else:
            owner = user[0] if user else None
            _connect_terminal(host, request.terminal, owner, ends[1], plain=request.is_terminal_plain)
            if request.stdio[0]:
                os.dup2(stdio[0], 0)
        if trace is not None:
            os.dup2(trace, TRACE_DESCRIPTOR)
            os.set_inheritable(TRACE_DESCRIPTOR, True)  # dup2 leaves it as it is if both are the same
        _become_program_of_host(writing, *([] if trace is None else [TRACE_DESCRIPTOR]))
        processes.set_descriptor_limit(context.descriptor_limit)
        _enter_directory(host, context, request.cwd, required=not request.is_cwd_optional)  # before the user changes
        if user is not None:
            processes.become(*user)
        if request.tracer:
            processes.check_executable(host.subject, request.argv[0], environment)
        processes.execute(host.subject, (*request.tracer, *request.argv), environment)

    what = f"{host.subject}: {request.argv[0]}"
    if ends is None:
        return _start_process(host, context, body, what)
    with ends[0], ends[1]:
        started = _start_process(host, context, body, what)
        _, (terminal,), _, _ = socket.recv_fds(ends[0], 16, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
        return replace(started, terminal=terminal)


def _checked_identity(host: Host, context: LabContext, program: str, user: Identity) -> Identity:
    """Return the identity without unmapped groups. LabImpossible when the lab's user namespace lacks the user."""
    uid, gid, groups = user
    if uid > context.highest_uid or gid > context.highest_gid:
        users = "only its owner" if context.highest_uid == 0 else f"only users 0 to {context.highest_uid}"
        raise LabImpossible(
            f"{host.subject}: cannot run {program} as user {uid}, group {gid}: the lab of an ordinary user lives in a "
            f"user namespace, and this one has {users}. See `labctl doctor` for subordinate ids; or run as root."
        )
    return uid, gid, tuple(group for group in groups if group <= context.highest_gid)


def start_agent(host: Host, context: LabContext, channel: int) -> Started:
    """Fork an agent that serves `channel`.

    Its descriptors are 0, 1 and 2 (/dev/null) and the channel at a high number, so that its own calls get 3, 4, ...
    """
    from labctl.lab.agent.server import serve  # imported before the fork

    environment = environment_on(host, context, ())

    def body(writing: int) -> None:
        processes.default_signals()
        processes.die_with_parent()
        os.setsid()
        _connect_stdio((False, False, False), ())
        _enter_directory(host, context, None)
        processes.set_environment(environment)
        high = min(AGENT_CHANNEL, max(processes.FIRST_FREE_DESCRIPTOR + 1, context.descriptor_limit[0] - 1))
        syscalls.set_process_name("labctl-agent")
        os.close(writing)
        if channel != high:
            os.dup2(channel, high, inheritable=False)
        _become_program_of_host(high)
        processes.set_descriptor_limit(context.descriptor_limit)
        serve(high)

    return _start_process(host, context, body, f"{host.subject}: agent")


class Task(Struct, frozen=True):
    """A process of a host that opens a descriptor; owns its pidfd and the socket that receives the descriptor."""

    host: Host
    attempted: str  # of a KernelError
    timeout_hint: str
    channel: socket.socket
    pidfd: int

    def fileno(self) -> int:
        """Return the socket's descriptor, readable when the process is done; -1 after `descriptor`."""
        return self.channel.fileno()

    def descriptor(self) -> int:
        """Return the opened descriptor, which the caller owns, and end the task. KernelError, also when it is late."""
        subject = self.host.subject
        try:
            with self.channel:
                report, descriptors, _, _ = socket.recv_fds(self.channel, 65536, 1, socket.MSG_CMSG_CLOEXEC)
            if descriptors:
                return descriptors[0]
            raise reported_error(report, f"{subject}: cannot {self.attempted}: the process for it was killed.")
        except BlockingIOError as error:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            raise KernelError(subject, self.attempted, errno.ETIMEDOUT, hint=self.timeout_hint) from error
        finally:
            os.close(self.pidfd)


def open_file(host: Host, context: LabContext, request: OpenFile) -> Task:
    """open(2) on the host."""
    hint = "A FIFO without a peer? Try O_NONBLOCK."
    work = partial(os.open, request.path, request.flags | os.O_CLOEXEC, request.mode)
    return _start_task(host, context, f"open {request.path}", work, hint)


def bind_socket(host: Host, context: LabContext, request: BindSocket, sock: int) -> Task:
    """bind(2) of the socket `sock`, which stays the caller's, on the host."""

    def bind() -> int:
        if not os.path.isabs(request.path):
            os.chdir(request.cwd)
        bound = socket.socket(fileno=os.dup(sock))
        bound.bind(request.path)
        return bound.detach()

    return _start_task(host, context, f"bind a socket to {request.path}", bind)


def _start_task(host: Host, context: LabContext, attempted: str, work: Callable[[], int], hint: str = "") -> Task:
    """Run `work`, which returns a descriptor, in a process of the host, which the caller reaps."""
    mine, theirs = socket.socketpair()

    def body() -> None:
        try:
            descriptor = work()
        except (OSError, ValueError) as error:
            number = error.errno or 0 if isinstance(error, OSError) else errno.EINVAL
            report_error(theirs.fileno(), KernelError(host.subject, attempted, number))
            return
        theirs.sendmsg([b"done"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))])

    with theirs, contextlib.ExitStack() as stack:
        stack.callback(mine.close)
        mine.setblocking(False)
        pidfd = os.pidfd_open(fork_on_host(host, context, body))
        stack.pop_all()
        return Task(host, attempted, hint, mine, pidfd)


def _start_process(host: Host, context: LabContext, body: Callable[[int], None], what: str) -> Started:
    reading, low = os.pipe2(os.O_CLOEXEC)
    writing = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, TRACE_DESCRIPTOR + 1)
    os.close(low)

    def child() -> None:
        os.write(writing, PIDS.pack(os.getpid(), processes.own_pid(context.machine_proc)))
        try:
            body(writing)
        except LabError as error:
            report_error(writing, error)
        except OSError as error:
            attempted = "prepare a process" if not error.filename else f"use {error.filename} in a new process"
            number = error.errno or 0
            report_error(writing, KernelError(host.subject, attempted, number, hint=processes.remedy(number)))
        except Exception:  # noqa: BLE001 - without a report the keeper takes it for a program that has started
            import traceback

            report_error(writing, LabError(f"{what}: cannot start it. This is a bug.\n{traceback.format_exc()}"))

    try:
        try:
            pid = fork_on_host(host, context, child)
        finally:
            os.close(writing)
        try:
            report = processes.read_all(reading, START_TIMEOUT_S, what, lambda: is_stopped(pid))
        except LabError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    finally:
        os.close(reading)
    if len(report) != PIDS.size:
        os.waitpid(pid, 0)
        raise reported_error(report[PIDS.size :], f"{what}: it was killed before it had started.")
    return Started(pid, *PIDS.unpack(report))


def _become_program_of_host(*kept: int) -> None:
    """Close the keeper's descriptors except `kept`; from here on the process is like any other of its host."""
    processes.keep_only(0, 1, 2, *kept)
    processes.open_up()
    processes.be_first_out_of_memory()


def forward_terminal(master: int, pipe: int) -> None:
    """Copy the output of a terminal into a pipe, in a process of its own; takes over `master`.

    The process ends when no process has the terminal open, or none reads the pipe.
    """

    def body() -> None:
        processes.default_signals()
        processes.die_with_parent()
        syscalls.set_process_name("labctl-terminal")
        processes.keep_only(0, 1, 2, master, pipe)
        while True:
            try:
                data = memoryview(os.read(master, COPY_BYTES))
            except OSError as error:
                if error.errno == errno.EIO:  # pty(7): the last descriptor of the other side was closed
                    return
                raise
            while data:
                data = data[os.write(pipe, data) :]

    try:
        processes.fork(body)
    finally:
        os.close(master)


def _connect_terminal(
    host: Host, size: tuple[int, int], owner: int | None, channel: socket.socket, *, plain: bool
) -> None:
    """Open a terminal of the host for this session and its three streams; send the master over `channel`.

    A plain one converts no line ends and echoes nothing.
    """
    with kernel_errors(host.subject, "open a terminal", hint="Does this machine have /dev/ptmx and /dev/pts?"):
        master, terminal = os.openpty()
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        settings = termios.tcgetattr(terminal)
        settings[0] |= IUTF8
        if plain:
            settings[1] &= ~termios.OPOST
            settings[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, settings)
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        if owner is not None:
            os.fchown(terminal, owner, -1)
    socket.send_fds(channel, [b"terminal"], [master])
    for standard in range(processes.FIRST_FREE_DESCRIPTOR):
        os.dup2(terminal, standard)


def _connect_stdio(given: tuple[bool, bool, bool], descriptors: tuple[int, ...]) -> None:
    left = list(descriptors)
    for standard, is_given in enumerate(given):
        if is_given:
            os.dup2(left.pop(0), standard)
        else:
            null = os.open("/dev/null", os.O_RDONLY if standard == 0 else os.O_WRONLY)
            os.dup2(null, standard)
            os.close(null)


def _enter_directory(host: Host, context: LabContext, cwd: str | None, *, required: bool = True) -> None:
    """Enter `cwd`; without one, or when it is not required and fails, the owner's directory or else the root."""
    if cwd is not None:
        try:
            os.chdir(cwd)
            return
        except OSError as error:
            if required:
                hint = f"/tmp and /run are each host's own; {SHARED_DIRECTORY} is the lab's."
                raise KernelError(host.subject, f"enter the directory {cwd}", error.errno or 0, hint=hint) from error
    for directory in (context.cwd, "/"):
        if os.path.isdir(directory) and os.access(directory, os.X_OK):
            os.chdir(directory)
            return
