"""The keeper: process 1 of a lab. It holds every network namespace by descriptor and answers its clients' requests.

Single-threaded (docs/decisions/0001), because it forks. When it ends, the kernel ends every process of the lab and
frees all that the lab was; so it ends as soon as boot is gone, and as soon as its first client, the owner, is, unless
that has said that the lab stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from labctl.errors import InputError, KernelError, LabctlError, LabError, LabGone
from labctl.kernel import mounts, processes, syscalls
from labctl.kernel.privilege import highest
from labctl.lab.client.state_dir import DIRECTORY_FLAGS, LOGS, Place
from labctl.lab.keeper import spawn as children
from labctl.lab.keeper.clients import Client, Front, Timers
from labctl.lab.keeper.executor import execute
from labctl.lab.keeper.file_tree import RunDirectories
from labctl.lab.keeper.node_init import SHARED_DIRECTORY, SHARED_PROGRAMS, Host, Surroundings
from labctl.lab.keeper.nodes import NodeTable
from labctl.lab.keeper.process_table import Roster
from labctl.lab.keeper.reconcile import Changes, Wishes
from labctl.lab.keeper.spawn import Started, Task
from labctl.lab.protocol import (
    IS_FOREIGN,
    VERSION,
    Apply,
    BeginChange,
    BindSocket,
    Channel,
    Describe,
    Described,
    Description,
    Done,
    Down,
    Drop,
    EndChange,
    Failed,
    Frame,
    Hello,
    Message,
    NodeInfo,
    Open,
    OpenFile,
    OpenLog,
    OpenNetwork,
    OpenSocket,
    Processes,
    ProcessInfo,
    ProcessRows,
    PutFile,
    Reconcile,
    Reply,
    SignalGroup,
    SignalProcess,
    Spawn,
    SpawnCaller,
    Spawned,
    StartProcess,
    Stay,
    StopProcess,
    Undrop,
    WatchProcess,
    Welcome,
    WhenGone,
)
from labctl.plan.operations import changes_from_json, plan_from_json
from labctl.structs import Struct, field, replace
from labctl.topology.model import Node

if TYPE_CHECKING:
    from labctl.lab.keeper.external import Outside


STATUS = struct.Struct("=i")  # on a status pipe, once: the exit status, or minus the signal's number
COPY_BYTES = 1 << 20
FILE_MAX_BYTES = 1 << 30  # of one file in the shared directory
LOGGED_BUGS_MAX = 20
OWN_LOGS = "/run/logs"
REGISTERED_CHECK_S = 2.0
BACKLOG = 4096  # somaxconn cuts it down


class Staying(Struct, frozen=True):
    """What a lab has that may stay: its place, the bound socket, and where boot is told that it does."""

    place: Place
    listener: int
    stay: int
    pids: str  # the PID namespace that clients have to be in, as /proc/self/ns/pid names it: pid:[4026531836]


class Answer(Struct):
    """A reply and the descriptors that go with it, which the keeper closes once they are sent."""

    message: Reply
    descriptors: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Keeper:
    """A lab's state in its keeper. `children` maps a program's pid to the writing end of its status pipe."""

    front: Front
    owner: Client
    surroundings: Surroundings
    table: NodeTable
    hosts: dict[str, Host]
    opened: Open  # what the lab was made of, or last reconciled to
    pid: int  # as the machine sees it
    staying: Staying | None
    roster: Roster
    timers: Timers
    outside: Outside | None = None
    children: dict[int, int] = dataclasses.field(default_factory=dict)
    started_at: float = dataclasses.field(default_factory=time.time)
    stays: bool = False
    published: bool = False  # others find it by its name
    is_down: bool = False
    logged_bugs: int = 0
    tasks: dict[int, Callable[[], None]] = dataclasses.field(
        default_factory=dict
    )  # by descriptor: what to call when it is ready
    changes: Changes = dataclasses.field(init=False)
    wishes: Wishes = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """The books that need this keeper."""
        self.changes = Changes(self.roster, self.timers, self.hosts, self.state, self.reconcile)
        self.wishes = Wishes(self.table, lambda node: self.filter(self.host(node), Undrop(node)))

    def serve(self, boot: int) -> None:
        """Answer requests until told to end, or boot (whose end of a pipe `boot` shows it) or the owner is gone."""
        wake_reading, wake_writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # a handler, for the wake-up byte to be written
        self.front.watch(wake_reading)
        self.front.watch(boot)
        self.guarded(self.reap)
        while not self.is_down:
            events = self.front.wait(self.timers.wait_ms())
            if boot in events.others:
                return
            if wake_reading in events.others:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_reading, 4096)
                self.guarded(self.reap)
            self.guarded(self.timers.run)
            for descriptor in events.others & self.tasks.keys():
                self.guarded(self.tasks[descriptor])
            for client in events.gone:
                if client is self.owner and not self.stays:
                    return
                for forget in (self.roster.abandon, self.changes.gone, self.wishes.gone):
                    self.guarded(partial(forget, client))
            for client, frame in events.requests:
                self.guarded(partial(self.answer, client, frame))

    def guarded(self, act: Callable[[], object]) -> None:
        """Call `act`; what it raises must not end every program of the lab, and goes to stderr."""
        try:
            act()
        except Exception:  # noqa: BLE001 - a bug
            self.log_bug()

    def log_bug(self) -> str:
        """Write the traceback of the exception that is being handled to stderr, which a client can grow; returns it."""
        text = traceback.format_exc()
        self.logged_bugs += 1
        if self.logged_bugs <= LOGGED_BUGS_MAX:
            sys.stderr.write(text)
        return text

    def answer(self, client: Client, frame: Frame) -> None:
        """Do what a request asks and reply; whatever goes wrong in it is the reply."""
        try:
            answer = self.answer_to(client, frame)
        finally:
            for descriptor in frame.descriptors:
                os.close(descriptor)
        if answer is not None:
            client.send(frame.number, answer.message, answer.descriptors)

    def answer_to(self, client: Client, frame: Frame) -> Answer | None:
        """The reply to a request, be it an error; None when it is given later."""
        try:
            if isinstance(frame.message, Hello) and frame.message.version != VERSION:
                return Answer(Welcome(VERSION, ()))  # another version shows what it shows: it reports the difference
            if len(frame.descriptors) != (needed := descriptors_needed(frame.message)):
                name = type(frame.message).__name__
                raise InputError(f"lab: {name} came with {len(frame.descriptors)} descriptors, and takes {needed}.")
            return self.handle(client, frame.number, frame.message, frame.descriptors)
        except LabctlError as error:
            return Answer(Failed.of(error))
        except OSError as error:
            return Answer(Failed.of(self.error_of(frame.message, error)))
        except MemoryError:
            return Answer(Failed.of(LabError("lab: its keeper has too little memory for this. See `ulimit -v`.")))
        except Exception:  # noqa: BLE001 - a bug here must reach the client, not end every program of the lab
            return Answer(Failed.of(LabError(f"lab: the keeper failed. This is a bug.\n{self.log_bug()}")))

    def handle(self, client: Client, number: int, message: Message, descriptors: tuple[int, ...]) -> Answer | None:
        """The answer to one request; None when it is given later."""
        if not client.is_admitted:
            self.admit(client, message, descriptors)
        match message:
            case Spawn():
                return self.spawn(client, message, descriptors)
            case SpawnCaller():
                return self.caller(client, self.host(message.node))
            case StartProcess():
                info = self.roster.start(self.host(message.node), message)
                self.changes.has_started(client, (info.node, info.name))
                return _told(info)
            case StopProcess():
                self.changes.will_stop(client, (message.node, message.name))
                self.roster.stop(
                    self.host(message.node),
                    message.name,
                    lambda info: client.send(number, _told(info).message),
                    message.number,
                )
                return None
            case SignalProcess():
                host = self.host(message.node)
                return Answer(
                    Done(int(self.roster.send_signal(host, message.name, message.number, group=message.group)))
                )
            case WatchProcess():
                host = self.host(message.node)
                return Answer(Done(), self.roster.watch(host, message.name, news=message.news))
            case OpenLog():
                self.roster.open_log(message.node, message.name, lambda opened: client.send(number, Done(), opened))
                return None
            case OpenSocket():
                return self.open_socket(self.host(message.node), message)
            case OpenNetwork():
                return Answer(Done(), [os.dup(self.host(message.node).network)])
            case OpenFile():
                return self.open_file(client, number, self.host(message.node), message)
            case BindSocket():
                task = children.bind_socket(self.host(message.node), self.surroundings, message, descriptors[0])
                self.answer_later(client, number, task, _closed)
                return None
            case Apply():
                execute(changes_from_json(message.operations), self.table)
                return Answer(Done())
            case WhenGone():
                self.wishes.note(client, message)
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
            case Hello():
                return Answer(Welcome(VERSION, tuple(self.hosts)))
            case Describe():
                return Answer(Described(self.description()))
            case Processes():
                return Answer(ProcessRows(tuple(self.roster.infos())))
            case Reconcile():
                self.changes.check(client)
                self.reconcile(message)
                return Answer(Done())
            case BeginChange():
                self.changes.begin(client, number)
                return None
            case EndChange():
                self.changes.end(client, number, keep=message.keep)
                return None
            case Stay(owned):
                self.stay(owned=owned)
                return Answer(Done())
            case Down():
                self.is_down = True
                return Answer(Done())
            case _:
                raise LabError(f"lab: {type(message).__name__} is no request to a keeper.")

    def admit(self, client: Client, message: Message, descriptors: tuple[int, ...]) -> None:
        """Serve this client from here on. LabError unless it shows that it is in the owner's PID namespace."""
        subject = f"lab {self.surroundings.lab}"
        if not isinstance(message, Hello):
            raise LabError(f"{subject}: cannot take {type(message).__name__} as a client's first request.")
        if self.staying is None or [os.readlink(f"/proc/self/fd/{each}") for each in descriptors] != [
            self.staying.pids  # no other file is called so; stat(2) of a descriptor from a client may block
        ]:
            raise LabError(f"{subject}: {IS_FOREIGN}")
        client.is_admitted = True

    def error_of(self, message: Message, error: OSError) -> KernelError:
        """What an unforeseen refusal by the kernel is to the owner."""
        number = error.errno or 0
        attempted = f"carry out {type(message).__name__}"
        subject = f"lab {self.surroundings.lab}"
        detail = str(error.filename or "") if number else str(error)
        return KernelError(subject, attempted, number, detail=detail, hint=processes.remedy(number))

    def host(self, name: str) -> Host:
        """The node of that name."""
        host = self.hosts.get(name)
        if host is None:
            raise LabError(f"lab {self.surroundings.lab}: no node {name}. Its nodes: {', '.join(self.hosts)}.")
        return host

    def spawn(self, client: Client, request: Spawn, descriptors: tuple[int, ...]) -> Answer:
        """Start a program that goes with its client."""
        host = self.host(request.node)
        started = children.start_program(host, self.surroundings, request, descriptors)
        self.roster.attach(client, host, request.argv, started)
        terminal = [] if started.terminal is None else [started.terminal]
        try:
            answer = self.watched(started)
        except BaseException:
            for descriptor in terminal:
                os.close(descriptor)
            raise
        answer.descriptors += terminal
        return answer

    def watched(self, started: Started) -> Answer:
        """Tell the process's end on a new status pipe, whose reading end goes to the owner with a pidfd."""
        status, self.children[started.pid] = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.children[started.pid], False)  # the client may open and fill it by /proc/self/fd
        try:
            pidfd = os.pidfd_open(started.pid)
        except OSError:
            os.close(status)
            raise
        return Answer(Spawned(started.pid, started.pid_on_host), [status, pidfd])

    def caller(self, client: Client, host: Host) -> Answer:
        """Fork a caller on the host."""
        mine, theirs = socket.socketpair()
        with theirs:
            try:
                started = children.start_caller(host, self.surroundings, theirs.fileno())
                self.roster.attach(client, host, ("labctl-caller",), started)
                answer = self.watched(started)
            except BaseException:
                mine.close()
                raise
        answer.descriptors.append(mine.detach())
        return answer

    def stay(self, *, owned: bool) -> None:
        """From here on the lab is found by its name, and its owner may go, unless the lab stays `owned`."""
        if self.staying is None:
            raise LabError(f"lab {self.surroundings.lab}: it was not made to stay.")
        if not self.published:
            self.staying.place.link(self.names(self.hosts), self.surroundings.machine_proc)
            if self.front.listener is not None:
                self.front.listener.listen(BACKLOG)
            self.staying.place.publish()
            self.published = True
            self.front.listen()
            self.timers.after(REGISTERED_CHECK_S, self.check_registered)
        if not (owned or self.stays):
            self.stays = True
            os.write(self.staying.stay, b"!")

    def check_registered(self) -> None:
        """End the lab when its directory has been deleted: nobody would find it any more to end it."""
        if self.staying is not None and not self.staying.place.is_registered:
            self.is_down = True
        self.timers.after(REGISTERED_CHECK_S, self.check_registered)

    def names(self, nodes: Iterable[str]) -> dict[str, str]:
        """Where the names of these nodes on the machine lead to."""
        return {node: f"/proc/{self.pid}/fd/{self.table[node].fd}" for node in nodes}

    def description(self) -> Description:
        """What there is to tell of the lab."""
        return Description(
            name=self.surroundings.lab,
            topology=self.opened.topology,
            uid=self.opened.uid,
            started_at=self.started_at,
            keeper_pid=self.pid,
            rootless=self.surroundings.rootless,
            nodes=tuple(self.node_info(host) for host in self.hosts.values()),
            processes=tuple(self.roster.infos()),
            source=self.opened.source,
            plan_json=self.opened.plan,
        )

    def node_info(self, host: Host) -> NodeInfo:
        """What there is to tell of a node."""
        path = f"/proc/{self.pid}/fd/{host.network}"
        return NodeInfo(host.name, host.node.kind.value, path, host.init.machine_pid if host.init else 0)

    def state(self) -> Reconcile:
        """What the lab is, as the request that would make it so."""
        opened = self.opened
        return Reconcile(opened.topology, opened.plan, opened.source)

    def reconcile(self, request: Reconcile) -> None:
        """Change the lab to another plan, whole or not at all."""
        from labctl.lab.keeper.reconcile import reconcile
        from labctl.plan.diff import difference, refuse_changes

        before, after = plan_from_json(self.opened.plan), plan_from_json(request.plan)
        changes = difference(before, after)
        refuse_changes(self.surroundings.lab, before.nodes, after.nodes)
        with self.limited(before.nodes, after.nodes):
            if changes:
                gone, there = set(changes.ended), {node.name for node in changes.nodes}
                reconcile(changes, self.table, self.hosts, self.end, lambda: self.rename(gone, there))
        self.opened = replace(self.opened, topology=request.topology, plan=request.plan, source=request.source)

    @contextlib.contextmanager
    def limited(self, before: tuple[Node, ...], after: tuple[Node, ...]) -> Iterator[None]:
        """Limits that are given other values have these from here on, unless the `with` is left by an exception."""
        was = {node.name: node for node in before}
        changed = [node for node in after if node.name in was and was[node.name].limits != node.limits]
        try:
            for node in changed:
                self.limit(node)
            yield
        except BaseException:
            for node in changed:
                self.limit(was[node.name])
            raise

    def limit(self, node: Node) -> None:
        """Set the limits of a node whose groups are there. KernelError."""
        if self.outside is not None:
            for descriptor in self.outside.group_descriptors(node):
                os.close(descriptor)  # its processes have those that were opened first

    def rename(self, gone: set[str], there: set[str]) -> None:
        """Some nodes have gone, others may be new: so with their names on the machine."""
        if self.staying is None or not self.published:
            return
        self.staying.place.rename(gone, self.names(there), self.surroundings.machine_proc)

    def end(self, host: Host) -> None:
        """End every program of a host that has left the lab."""
        self.changes.will_leave(host.name)
        self.roster.forget_node(host.name)
        if host.init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(host.init.pidfd, signal.SIGKILL)
            os.close(host.init.pidfd)  # it is reaped as any other child
            host.init = None

    def open_socket(self, host: Host, request: OpenSocket) -> Answer:
        """A socket in the host's network namespace."""
        try:
            sock = self.table.socket(host.name, request.family, request.type, request.proto)
        except OSError as error:
            raise KernelError(host.subject, "make a socket", error.errno or 0) from error
        return Answer(Done(), [sock.detach()])

    def open_file(self, client: Client, number: int, host: Host, request: OpenFile) -> Answer | None:
        """A file as the host sees it; those of its network stack need no process there.

        Any other is opened by a process of the host, for which nobody waits: it may block (a FIFO).
        """
        path = os.path.normpath(request.path)
        if path.startswith(("/proc/net/", "/proc/sys/net/")):
            path = path.replace("/proc/net/", "/proc/thread-self/net/", 1)
            with self.table.entered(host.name):
                try:
                    return Answer(Done(), [os.open(path, request.flags | os.O_CLOEXEC, request.mode)])
                except OSError as error:
                    raise KernelError(host.subject, f"open {request.path}", error.errno or 0) from error
        task = children.open_file(host, self.surroundings, request)
        self.answer_later(client, number, task, lambda descriptor: Answer(Done(), [descriptor]))
        return None

    def answer_later(self, client: Client, number: int, task: Task, answer_of: Callable[[int], Answer]) -> None:
        """Reply when the task is done, or late, with what `answer_of` makes of its descriptor."""
        descriptor = task.fileno()

        def done() -> None:
            if task.fileno() == -1:
                return  # it was done in time
            del self.tasks[descriptor]
            self.front.unwatch(descriptor)
            try:
                answer = answer_of(task.descriptor())
            except LabctlError as error:
                answer = Answer(Failed.of(error))
            client.send(number, answer.message, answer.descriptors)

        self.tasks[descriptor] = done
        self.front.watch(descriptor)
        self.timers.after(children.TASK_TIMEOUT_S, done)

    def put_file(self, request: PutFile, content: int) -> None:
        """Copy the file that is open at `content` into the shared directory, whole or not at all."""
        target = os.path.join(SHARED_DIRECTORY, request.name)
        if os.path.normpath(target) != target or not target.startswith(SHARED_DIRECTORY + "/"):
            raise LabError(f"lab: cannot put a file at {request.name}: it would lie outside {SHARED_DIRECTORY}.")
        size_bytes = _size_in_memory(content)
        if size_bytes > FILE_MAX_BYTES:
            raise InputError(f"lab: cannot put a file of {size_bytes} bytes; at most {FILE_MAX_BYTES} are allowed.")
        _make_shared(os.path.dirname(target))
        unfinished = f"{target}.unfinished"
        writing = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            offset = 0
            while copied := os.sendfile(writing, content, offset, min(COPY_BYTES, size_bytes - offset)):
                offset += copied
            os.fchmod(writing, request.mode)
        finally:
            os.close(writing)
        os.rename(unfinished, target)

    def filter(self, host: Host, request: Drop | Undrop) -> None:
        """Add a packet filter rule to the host, or remove them all."""
        from labctl.lab.keeper.drop_rules import drop, undrop

        with self.table.entered(host.name):
            if isinstance(request, Drop):
                drop(request.rule, host.name)
            else:
                undrop(host.name)

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
            mine = self.roster.ended(pid, code)
            if pid in self.children:
                self.tell(self.children.pop(pid), code)
            elif not mine:
                self.lose(pid, code)

    def tell(self, status: int, code: int) -> None:
        """Write how a process ended on its status pipe, and close that."""
        try:
            os.write(status, STATUS.pack(code))
        except (BrokenPipeError, BlockingIOError):
            return  # the client closed its handle of this process, or filled the pipe
        finally:
            os.close(status)

    def lose(self, pid: int, code: int) -> None:
        """If `pid` was a host's init, every process of that host has ended with it: remember why.

        In a lab that stays the host gets another init with its next program: its network is the keeper's to hold.
        """
        if self.outside is not None and self.outside.ended(pid, self.timers, self.table.home):
            return
        for host in self.hosts.values():
            if host.init is not None and host.init.pid == pid:
                os.close(host.init.pidfd)
                host.init, host.ended = None, None if self.stays else code


def keep(
    channel: Channel,
    request: Open,
    number: int,
    boot: int,
    rootless: bool,
    staying: Staying | None,
    outside: Outside | None = None,
) -> None:
    """What the keeper does, from the fork by boot to the lab's end.

    `boot` reads as ended when boot does. `rootless`: boot made a user namespace for the lab.
    """
    processes.die_with_parent()
    gone = select.poll()
    gone.register(boot, select.POLLIN)
    if gone.poll(0):
        return  # boot ended before the line above took effect
    syscalls.set_process_name("labctl-keeper")
    try:
        keeper = _build(channel, request, rootless, staying, outside)
    except LabctlError as error:
        channel.send(number, Failed.of(error), until=None)
        return
    except OSError as error:
        errno = error.errno or 0
        hint = processes.remedy(errno)
        failure = KernelError(f"lab {request.lab}", "prepare it", errno, detail=str(error), hint=hint)
        channel.send(number, Failed.of(failure), until=None)
        return
    with contextlib.suppress(LabGone):
        keeper.owner.send(number, Done())
        keeper.serve(boot)


def _build(channel: Channel, request: Open, rootless: bool, staying: Staying | None, outside: Outside | None) -> Keeper:
    limit = processes.raise_descriptor_limit()
    if outside is not None:
        outside.take()
    subject = f"lab {request.lab}"
    machine_proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    pid = processes.own_pid(machine_proc)
    view = mounts.view_of(request.visible_paths, request.hidden_paths)
    mounts.make_private()
    mounts.make_root(view, subject)
    _make_shared(SHARED_PROGRAMS)
    logs = _own_logs() if staying is None else os.open(LOGS, DIRECTORY_FLAGS, dir_fd=staying.place.directory)
    surroundings = Surroundings(
        lab=request.lab,
        view=view,
        environment=dict(request.environment),
        cwd=request.cwd,
        descriptor_limit=limit,
        own_pid_namespace=os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC),
        machine_proc=machine_proc,
        rootless=rootless,
        highest_uid=highest("uid"),
        highest_gid=highest("gid"),
        run_directories=RunDirectories(),
        resolvers=outside.resolvers if outside is not None else None,
    )
    table = NodeTable()
    plan = plan_from_json(request.plan)
    execute(plan.operations, table)
    hosts = {node.name: Host(node, table[node.name].fd) for node in plan.nodes}
    if outside is not None:
        _lead_outside(outside, table, hosts)
    timers = Timers()
    roster = Roster(surroundings, timers, logs)
    front = Front(socket.socket(fileno=staying.listener) if staying else None)
    owner = front.add(channel.detach(), is_admitted=True)
    return Keeper(front, owner, surroundings, table, hosts, request, pid, staying, roster, timers, outside)


def descriptors_needed(message: Message) -> int:
    """How many descriptors come with a request."""
    match message:
        case Spawn(stdio=stdio):
            return sum(stdio)
        case PutFile() | BindSocket():
            return 1
        case Hello():
            return 1  # of its PID namespace
        case _:
            return 0


def _size_in_memory(descriptor: int) -> int:
    """The size of a file that lies in memory, as those of memfd_create(2) do: reading any other might block."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise InputError("lab: cannot put a file: its content is not in a file of memfd_create(2).") from error
    return os.fstat(descriptor).st_size


def _closed(descriptor: int) -> Answer:
    os.close(descriptor)
    return Answer(Done())


def _make_shared(directory: str) -> None:
    """Make a directory that all users of the lab may read, whatever umask its owner has."""
    before = os.umask(0o022)
    try:
        os.makedirs(directory, exist_ok=True)
    finally:
        os.umask(before)


def _own_logs() -> int:
    """The directory for logs of a lab that does not stay: in the keeper's own /run, which hosts do not see."""
    os.mkdir(OWN_LOGS, 0o700)
    return os.open(OWN_LOGS, DIRECTORY_FLAGS)


def _lead_outside(outside: Outside, table: NodeTable, hosts: dict[str, Host]) -> None:
    """The nodes have what they are to have outside the lab."""
    outside.connect(table)
    for host in hosts.values():
        host.groups = outside.group_descriptors(host.node)
    outside.start_forwarder({name: host.node for name, host in hosts.items()}, table)


def _told(info: ProcessInfo) -> Answer:
    return Answer(ProcessRows((info,)))
