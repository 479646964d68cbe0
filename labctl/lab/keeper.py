"""The keeper: process 1 of a lab. It holds every network namespace by descriptor and answers its owner's requests.

Single-threaded (docs/decisions/0001), because it forks. When it ends, the kernel ends every process of the lab and
frees all that the lab was; so it ends as soon as its owner or boot is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import traceback
from dataclasses import dataclass, field

from labctl.errors import KernelError, LabError, LabGone, MachineError
from labctl.kernel import mounts, processes, syscalls
from labctl.lab import children
from labctl.lab.executor import NodeTable, execute
from labctl.lab.host import SHARED_DIRECTORY, SHARED_PROGRAMS, Host, Surroundings
from labctl.lab.protocol import (
    Apply,
    Channel,
    Done,
    Drop,
    Failed,
    Frame,
    Message,
    Open,
    OpenFile,
    OpenSocket,
    PutFile,
    Reply,
    SignalGroup,
    Spawn,
    SpawnCaller,
    Spawned,
    Undrop,
)
from labctl.plan.codec import from_json, nodes_from_json

STATUS = struct.Struct("=i")  # on a status pipe, once: the exit status, or minus the signal's number
COPY_BYTES = 1 << 20


@dataclass(slots=True)
class Answer:
    """A reply and the descriptors that go with it, which the keeper closes once they are sent."""

    message: Reply
    descriptors: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Keeper:
    """A lab's state in its keeper. `children` maps a program's pid to the writing end of its status pipe."""

    channel: Channel
    surroundings: Surroundings
    table: NodeTable
    hosts: dict[str, Host]
    children: dict[int, int] = field(default_factory=dict)

    def serve(self, boot: int) -> None:
        """Answer requests until the owner, or boot (whose end of a pipe `boot` shows it), is gone."""
        wake_reading, wake_writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # a handler, for the wake-up byte to be written
        poller = select.poll()
        for descriptor in (self.channel.fileno(), wake_reading, boot):
            poller.register(descriptor, select.POLLIN)
        self.reap()
        while True:
            ready = {descriptor for descriptor, _ in poller.poll()}
            if boot in ready:
                return
            if wake_reading in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_reading, 4096)
                self.reap()
            if self.channel.fileno() in ready:
                frame = self.channel.receive(until=None)
                if frame is None:
                    return
                self.answer(frame)

    def answer(self, frame: Frame) -> None:
        """Do what a request asks and reply; whatever goes wrong in it is the reply."""
        try:
            try:
                answer = self.handle(frame.message, frame.descriptors)
            except (LabError, MachineError) as error:
                answer = Answer(Failed.of(error))
            except OSError as error:
                answer = Answer(Failed.of(self.error_of(frame.message, error)))
            except Exception:  # noqa: BLE001 - a bug here must reach the owner, not end every program of the lab
                answer = Answer(
                    Failed.of(LabError(f"lab: the keeper failed. This is a bug.\n{traceback.format_exc()}"))
                )
        finally:
            for descriptor in frame.descriptors:
                os.close(descriptor)
        try:
            self.channel.send(frame.number, answer.message, answer.descriptors, until=None)
        finally:
            for descriptor in answer.descriptors:
                os.close(descriptor)

    def handle(self, message: Message, descriptors: tuple[int, ...]) -> Answer:
        """The answer to one request."""
        match message:
            case Spawn():
                host = self.host(message.node)
                pid, on_host = children.start_program(host, self.surroundings, message, descriptors)
                return self.watched(host, pid, on_host)
            case SpawnCaller():
                return self.caller(self.host(message.node))
            case OpenSocket():
                return self.open_socket(self.host(message.node), message)
            case OpenFile():
                return self.open_file(self.host(message.node), message)
            case Apply():
                self.apply(message.operations)
                return Answer(Done())
            case PutFile():
                self.put_file(message, descriptors[0])
                return Answer(Done())
            case Drop() | Undrop():
                self.filter(self.host(message.node), message)
                return Answer(Done())
            case SignalGroup():
                self.signal_group(message)
                return Answer(Done())
            case _:
                raise LabError(f"lab: {type(message).__name__} is no request to a keeper.")

    def error_of(self, message: Message, error: OSError) -> KernelError:
        """What an unforeseen refusal by the kernel is to the owner."""
        number = error.errno or 0
        attempted = f"carry out {type(message).__name__}"
        subject = f"lab {self.surroundings.lab}"
        return KernelError(subject, attempted, number, detail=str(error), hint=processes.remedy(number))

    def host(self, name: str) -> Host:
        """The node of that name."""
        host = self.hosts.get(name)
        if host is None:
            raise LabError(f"lab {self.surroundings.lab}: no node {name}. Its nodes: {', '.join(self.hosts)}.")
        return host

    def watched(self, host: Host, pid: int, pid_on_host: int) -> Answer:
        """Tell the process's end on a new status pipe, whose reading end goes to the owner with a pidfd."""
        status, self.children[pid] = os.pipe2(os.O_CLOEXEC)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.close(status)
            raise
        return Answer(Spawned(pid, pid_on_host), [status, pidfd])

    def caller(self, host: Host) -> Answer:
        """Fork a caller on the host."""
        import socket

        mine, theirs = socket.socketpair()
        with theirs:
            try:
                pid, on_host = children.start_caller(host, self.surroundings, theirs.fileno())
                answer = self.watched(host, pid, on_host)
            except BaseException:
                mine.close()
                raise
        answer.descriptors.append(mine.detach())
        return answer

    def open_socket(self, host: Host, request: OpenSocket) -> Answer:
        """A socket in the host's network namespace."""
        try:
            sock = self.table.socket(host.name, request.family, request.type, request.proto)
        except OSError as error:
            raise KernelError(host.subject, "make a socket", error.errno or 0) from error
        return Answer(Done(), [sock.detach()])

    def open_file(self, host: Host, request: OpenFile) -> Answer:
        """A file as the host sees it; those of its network stack need no process there."""
        if request.path.startswith(("/proc/net/", "/proc/sys/net/")):
            path = request.path.replace("/proc/net/", "/proc/thread-self/net/", 1)
            with self.table.entered(host.name):
                try:
                    return Answer(Done(), [os.open(path, request.flags | os.O_CLOEXEC, request.mode)])
                except OSError as error:
                    raise KernelError(host.subject, f"open {request.path}", error.errno or 0) from error
        return Answer(Done(), [children.open_file(host, self.surroundings, request)])

    def apply(self, operations: str) -> None:
        """Carry out operations on the lab's nodes. KernelError for the first that the kernel refuses."""
        execute(from_json(operations), self.table)

    def put_file(self, request: PutFile, content: int) -> None:
        """Copy the file that is open at `content` into the shared directory, whole or not at all."""
        target = os.path.join(SHARED_DIRECTORY, request.name)
        if os.path.normpath(target) != target or not target.startswith(SHARED_DIRECTORY + "/"):
            raise LabError(f"lab: cannot put a file at {request.name}: it would lie outside {SHARED_DIRECTORY}.")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        unfinished = f"{target}.unfinished"
        writing = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            offset = 0
            while copied := os.sendfile(writing, content, offset, COPY_BYTES):
                offset += copied
            os.fchmod(writing, request.mode)
        finally:
            os.close(writing)
        os.rename(unfinished, target)

    def filter(self, host: Host, request: Drop | Undrop) -> None:
        """Add a packet filter rule to the host, or remove them all."""
        from labctl.lab import dropping

        with self.table.entered(host.name):
            if isinstance(request, Drop):
                dropping.drop(request.rule, host.name)
            else:
                dropping.undrop(host.name)

    def signal_group(self, request: SignalGroup) -> None:
        """Signal the process group of a process that has not been reaped; one that has ended is left alone."""
        if request.process in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(request.process, request.number)

    def reap(self) -> None:
        """Take the status of every child that has ended, and tell it on its status pipe."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = processes.exit_code(wait_status)
            if pid in self.children:
                self.tell(self.children.pop(pid), code)
            else:
                self.lose(pid, code)

    def tell(self, status: int, code: int) -> None:
        """Write how a process ended on its status pipe, and close that."""
        try:
            os.write(status, STATUS.pack(code))
        except BrokenPipeError:
            return  # the owner closed its handle of this process
        finally:
            os.close(status)

    def lose(self, pid: int, code: int) -> None:
        """If `pid` was a host's init, every process of that host has ended with it: remember why."""
        for host in self.hosts.values():
            if host.init is not None and host.init.pid == pid:
                os.close(host.init.pidfd)
                host.init, host.ended = None, code


def keep(channel: Channel, request: Open, number: int, boot: int) -> None:
    """What the keeper does, from the fork by boot to the lab's end. `boot` reads as ended when boot does."""
    processes.die_with_parent()
    gone = select.poll()
    gone.register(boot, select.POLLIN)
    if gone.poll(0):
        return  # boot ended before the line above took effect
    syscalls.set_process_name("labctl-keeper")
    try:
        keeper = _build(channel, request)
    except (LabError, MachineError) as error:
        channel.send(number, Failed.of(error), until=None)
        return
    except OSError as error:
        errno = error.errno or 0
        hint = processes.remedy(errno)
        failure = KernelError(f"lab {request.lab}", "prepare it", errno, detail=str(error), hint=hint)
        channel.send(number, Failed.of(failure), until=None)
        return
    with contextlib.suppress(LabGone):
        channel.send(number, Done(), until=None)
        keeper.serve(boot)


def _build(channel: Channel, request: Open) -> Keeper:
    limit = processes.raise_descriptor_limit()
    subject = f"lab {request.lab}"
    view = mounts.view_of(request.visible_paths)
    mounts.make_private()
    mounts.mount_proc(subject)
    mounts.cover(view, subject)
    os.makedirs(SHARED_PROGRAMS)
    surroundings = Surroundings(
        lab=request.lab,
        view=view,
        environment=dict(request.environment),
        cwd=request.cwd,
        descriptor_limit=limit,
        own_pid_namespace=os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC),
    )
    keeper = Keeper(channel, surroundings, NodeTable(), {})
    keeper.apply(request.operations)
    for node in nodes_from_json(request.nodes):
        keeper.hosts[node.name] = Host(node, keeper.table.fd(node.name))
    return keeper
