"""The keeper: process 1 of a lab. It holds every network namespace by descriptor and answers its clients' requests.

It is single-threaded (docs/decisions/0001), because it forks. When it ends, the kernel ends every process of the lab
and frees everything of the lab. So it ends with boot, and with its first client, the owner, unless the lab was
published to outlive it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from labctl.errors import InputError, KernelError, LabctlError, LabError, LabGone, kernel_errors
from labctl.kernel import mounts, processes, syscalls
from labctl.kernel.privilege import highest
from labctl.lab import frames, protocol
from labctl.lab.client.lab_directory import LabDirectory
from labctl.lab.client.state_dir import DIRECTORY_FLAGS, LOGS
from labctl.lab.description import Description, NodeInfo
from labctl.lab.keeper import spawn
from labctl.lab.keeper.clients import Client, Connections, Timers
from labctl.lab.keeper.executor import execute
from labctl.lab.keeper.node_init import SHARED_DIRECTORY, SHARED_PROGRAMS, Host, LabContext, start_inits
from labctl.lab.keeper.nodes import NodeTable
from labctl.lab.keeper.process_table import ProcessTable
from labctl.lab.keeper.reconcile import RollbackActions, Transactions
from labctl.plan.hosts_files import HostsFiles
from labctl.plan.operations import changes_from_json, operations_to_json, plan_from_json
from labctl.structs import Struct, field, replace
from labctl.topology.model import NO_NAME_SERVER, RESOLV_CONF, Node

if TYPE_CHECKING:
    from labctl.lab.keeper.external import ExternalAccess
    from labctl.lab.keeper.fault_table import FaultTable
    from labctl.lab.keeper.machine_access import MachineAccess
    from labctl.lab.keeper.profile_player import ProfilePlayer
    from labctl.plan.drop_rules import DropRule


COPY_BYTES = 1 << 20
FILE_MAX_BYTES = 1 << 30  # of one file in the shared directory
LOGGED_BUGS_MAX = 20
OWN_LOGS = "/run/logs"
REGISTRATION_CHECK_S = 2.0
BACKLOG = 4096  # somaxconn limits it


class Registration(Struct, frozen=True):
    """The resources of a lab that may be published."""

    directory: LabDirectory
    listener: int  # descriptor of the bound socket
    outlives_owner: int  # writing end of a pipe to boot
    pid_namespace: str  # that of clients, as /proc/self/ns/pid names it: pid:[4026531836]


class Answer(Struct):
    """A reply and its descriptors, which the keeper closes once they are sent."""

    message: protocol.Reply = protocol.Done()
    descriptors: list[int] = field(default_factory=list)


class Keeper:
    """The state of a lab in its keeper."""

    def __init__(
        self,
        request: protocol.Open,
        channel: protocol.Channel,
        context: LabContext,
        table: NodeTable,
        hosts: dict[str, Host],
        pid: int,
        logs: int,
        registration: Registration | None,
        external: MachineAccess | None,
    ) -> None:
        self.opened = request  # the plan that the lab was made of, or last reconciled to
        self.context = context
        self.table = table
        self.hosts = hosts
        self.pid = pid  # in the machine's PID namespace
        self.registration = registration
        self.external = external
        self.timers = Timers()
        self.connections = Connections(socket.socket(fileno=registration.listener) if registration else None)
        self.owner = self.connections.add(channel.detach(), is_admitted=True)
        self.processes = ProcessTable(context, self.timers, logs)
        self.status_pipes: dict[int, int] = {}  # by a program's pid: the writing end
        self.tasks: dict[int, Callable[[], None]] = {}  # by descriptor: the function to call when it is ready
        self.started_at = time.time()
        self.outlives_owner = False
        self.is_published = False
        self.is_down = False
        self.logged_bugs = 0
        self.player: ProfilePlayer | None = None
        self.played_changes = 0
        self.transactions = Transactions(
            self.processes, self.timers, hosts, self.state, self.reconcile, self.settle_access
        )
        self.rollback_actions = RollbackActions(table, self.undrop)
        self.faults: FaultTable | None = None  # until the first fault

    def serve(self, boot: int) -> None:
        """Answer requests until a client ends the lab, or boot or the owner ends; `boot` is a pipe from boot."""
        wake_reading, wake_writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # Python writes the wake-up byte for a handler only
        self.connections.watch(wake_reading)
        self.connections.watch(boot)
        self.guarded(self.reap)
        while not self.is_down:
            if self.table.profile_changes != self.played_changes:
                self.guarded(self.play_profiles)
            events = self.connections.wait(self.timers.wait_ms())
            if boot in events.ready:
                return
            if wake_reading in events.ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_reading, 4096)
                self.guarded(self.reap)
            self.guarded(self.timers.run)
            for descriptor in events.ready & self.tasks.keys():
                self.guarded(self.tasks[descriptor])
            for client in events.disconnected:
                if client is self.owner and not self.outlives_owner:
                    return
                for listener in (self.faults, self.processes, self.transactions, self.rollback_actions):
                    if listener is not None:
                        self.guarded(partial(listener.on_disconnect, client))
            for client, frame in events.requests:
                self.guarded(partial(self.answer, client, frame))

    def play_profiles(self) -> None:
        """Begin and end profiles of links as the table has them."""
        from labctl.lab.keeper.profile_player import ProfilePlayer

        self.played_changes = self.table.profile_changes
        if self.player is None:
            self.player = ProfilePlayer(self.table, self.timers)
        self.player.update()

    def guarded(self, act: Callable[[], object]) -> None:
        """Call `act`; an exception goes to stderr, since it must not end every program of the lab."""
        try:
            act()
        except Exception:  # noqa: BLE001 - a bug
            self.log_bug()

    def log_bug(self) -> str:
        """Write the current exception's traceback to stderr, a limited number of times; returns it."""
        import traceback  # with the modules that it imports, 2 ms

        text = traceback.format_exc()
        self.logged_bugs += 1
        if self.logged_bugs <= LOGGED_BUGS_MAX:
            sys.stderr.write(text)
        return text

    def answer(self, client: Client, frame: protocol.Frame) -> None:
        """Handle a request and send the reply, which may be an error."""
        try:
            answer = self.answer_to(client, frame)
        finally:
            for descriptor in frame.descriptors:
                os.close(descriptor)
        if answer is not None:
            client.send(frame.number, answer.message, answer.descriptors)

    def answer_to(self, client: Client, frame: protocol.Frame) -> Answer | None:
        """Return the reply to a request, which may be an error; None when it is sent later."""
        try:
            if isinstance(frame.message, protocol.Hello) and frame.message.version != frames.VERSION:
                return Answer(protocol.Welcome(frames.VERSION, ()))  # the client reports the difference
            if len(frame.descriptors) != (needed := descriptors_needed(frame.message)):
                name = type(frame.message).__name__
                raise InputError(f"lab: cannot take {name} with {len(frame.descriptors)} descriptors: it has {needed}.")
            return self.handle(client, frame.number, frame.message, frame.descriptors)
        except LabctlError as error:
            return _failed(error)
        except OSError as error:
            return _failed(self.error_of(frame.message, error))
        except MemoryError:
            return _failed(LabError("lab: cannot do this: out of memory. See `ulimit -v`."))
        except Exception:  # noqa: BLE001 - a bug here must reach the client, not end every program of the lab
            return _failed(LabError(f"lab: the keeper failed. This is a bug.\n{self.log_bug()}"))

    def handle(
        self, client: Client, number: int, message: protocol.Message, descriptors: tuple[int, ...]
    ) -> Answer | None:
        """Handle one request; returns None when the answer is sent later."""
        if not client.is_admitted:
            self.admit(client, message, descriptors)
        match message:
            case protocol.Spawn():
                return self.spawn_program(client, message, descriptors)
            case protocol.SpawnAgents():
                return self.spawn_agents(client, [self.host(node) for node in dict.fromkeys(message.nodes)])
            case protocol.StartProcess():
                info = self.processes.start(self.host(message.node), message, *descriptors)
                self.transactions.has_started(client, (info.node, info.name))
                return Answer(protocol.ProcessRows((info,)))
            case protocol.StopProcess():
                self.transactions.will_stop(client, (message.node, message.name))
                self.processes.stop(
                    self.host(message.node),
                    message.name,
                    lambda info: client.send(number, protocol.ProcessRows((info,))),
                    message.number,
                )
                return None
            case protocol.SignalProcess():
                host = self.host(message.node)
                is_sent = self.processes.send_signal(host, message.name, message.number, group=message.group)
                return Answer(protocol.Done(int(is_sent)))
            case protocol.WatchProcess():
                host = self.host(message.node)
                return Answer(descriptors=self.processes.watch(host, message.name, updates=message.updates))
            case protocol.OpenLog():
                self.processes.open_log(
                    message.node, message.name, lambda opened: client.send(number, protocol.Done(), opened)
                )
                return None
            case protocol.OpenSocket():
                return self.open_socket(self.host(message.node), message)
            case protocol.OpenSockets():
                return self.open_sockets(message)
            case protocol.OpenNetwork():
                return Answer(descriptors=[os.dup(self.host(message.node).network)])
            case protocol.OpenFile():
                return self.open_file(client, number, self.host(message.node), message)
            case protocol.BindSocket():
                task = spawn.bind_socket(self.host(message.node), self.context, message, descriptors[0])
                self.answer_later(client, number, task, _closed)
                return None
            case protocol.Hello():
                return Answer(protocol.Welcome(frames.VERSION, tuple(self.hosts)))
            case protocol.Describe():
                return Answer(protocol.Described(self.description()))
            case protocol.Processes():
                return Answer(protocol.ProcessRows(tuple(self.processes.infos())))
            case protocol.BeginTransaction():
                self.transactions.begin(client, number)
                return None
            case protocol.EndTransaction():
                self.transactions.end(client, number, commit=message.commit)
                return None
            case protocol.Reconcile():
                self.transactions.check(client)
                self.reconcile(message, descriptors)
            case protocol.Apply():
                execute(changes_from_json(message.operations), self.table)
            case protocol.Impaired():
                return Answer(protocol.ImpairedInterfaces(operations_to_json(self.table.impaired(message.nodes))))
            case protocol.SetRollback():
                self.rollback_actions.set(client, message)
            case protocol.PutFile():
                self.put_file(message, descriptors[0])
            case protocol.Drop():
                self.drop(message.node, message.rule)
            case protocol.Undrop():
                self.undrop(message.node)
            case protocol.BeginFault():
                return Answer(protocol.Done(self.fault_table().begin(client, message)))
            case protocol.HealFaults():
                healed = self.faults.heal(message.numbers, message.names) if self.faults else 0
                return Answer(protocol.Done(healed))
            case protocol.FaultHistory():
                return Answer(protocol.FaultMoments(self.faults.moments_after(message.after) if self.faults else ()))
            case protocol.SignalGroup():
                self.signal_group(message)
            case protocol.Publish():
                self.publish(owned=message.owned)
            case protocol.Down():
                self.is_down = True
            case _:
                raise LabError(f"lab: cannot take {type(message).__name__} from a client.")
        return Answer()

    def admit(self, client: Client, message: protocol.Message, descriptors: tuple[int, ...]) -> None:
        """Serve this client from here on. LabError unless it proves that it is in the owner's PID namespace."""
        subject = f"lab {self.context.lab}"
        if not isinstance(message, protocol.Hello):
            raise LabError(f"{subject}: cannot take {type(message).__name__} as a client's first request.")
        # No other file has that link text, and stat(2) of a client's descriptor may block.
        namespaces = [os.readlink(f"/proc/self/fd/{each}") for each in descriptors]
        if self.registration is None or namespaces != [self.registration.pid_namespace]:
            raise LabError(f"{subject}: {frames.FOREIGN_CLIENT}")
        client.is_admitted = True

    def error_of(self, message: protocol.Message, error: OSError) -> KernelError:
        """Return the error for a system call that no handler foresaw."""
        number = error.errno or 0
        attempted = f"carry out {type(message).__name__}"
        subject = f"lab {self.context.lab}"
        detail = str(error.filename or "") if number else str(error)
        return KernelError(subject, attempted, number, detail=detail, hint=processes.remedy(number))

    def host(self, name: str) -> Host:
        """Return the host of that name. LabError."""
        host = self.known(name)
        self.allow_ping_sockets(name)
        return host

    def known(self, name: str) -> Host:
        """Return the host of that name, for what is no use of it. LabError."""
        host = self.hosts.get(name)
        if host is None:
            raise LabError(f"lab {self.context.lab}: no node {name}. Its nodes: {', '.join(self.hosts)}.")
        return host

    def allow_ping_sockets(self, node: str) -> None:
        """Let the programs that may come to the node open ICMP datagram sockets. KernelError."""
        with kernel_errors(f"node {node}", "let its programs open ICMP datagram sockets"):
            self.table.allow_ping_sockets(node)

    def spawn_program(self, client: Client, request: protocol.Spawn, descriptors: tuple[int, ...]) -> Answer:
        """Start a program that ends with its client."""
        host = self.host(request.node)
        started = spawn.start_program(host, self.context, request, descriptors)
        self.processes.attach(client, host, request.argv, started)
        with contextlib.ExitStack() as stack:
            terminal = [] if started.terminal is None else [started.terminal]
            for descriptor in terminal:
                stack.callback(os.close, descriptor)
            answer = self.spawned(started)
            stack.pop_all()
        answer.descriptors += terminal
        return answer

    def spawned(self, started: spawn.Started) -> Answer:
        """Answer with a new status pipe, on which the keeper reports the exit status, and a pidfd."""
        status, self.status_pipes[started.pid] = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.status_pipes[started.pid], False)  # the client may open and fill it by /proc/self/fd
        try:
            pidfd = os.pidfd_open(started.pid)
        except OSError:
            os.close(status)
            raise
        return Answer(protocol.Spawned(started.pid, started.pid_on_host), [status, pidfd])

    def spawn_agents(self, client: Client, hosts: list[Host]) -> Answer:
        """Fork an agent on each of the hosts, whose inits start at the same time. If one fails, the others end."""
        start_inits(hosts, self.context)
        agents: list[protocol.Spawned] = []
        descriptors: list[int] = []
        with contextlib.ExitStack() as stack:
            for host in hosts:
                mine, theirs = socket.socketpair()
                with theirs, mine:
                    started = spawn.start_agent(host, self.context, theirs.fileno())
                    self.processes.attach(client, host, ("labctl-agent",), started)
                    answer = self.spawned(started)
                    for descriptor in (*answer.descriptors, mine.detach()):
                        stack.callback(os.close, descriptor)
                        descriptors.append(descriptor)
                assert isinstance(answer.message, protocol.Spawned)
                agents.append(answer.message)
            stack.pop_all()
        return Answer(protocol.AgentsSpawned(tuple(agents)), descriptors)

    def publish(self, *, owned: bool) -> None:
        """Let clients find the lab by its name; unless it is `owned`, it outlives its owner from here on."""
        registration = self.registration
        if registration is None:
            raise LabError(f"lab {self.context.lab}: cannot publish it: it was not made with a state directory.")
        if not self.is_published:
            registration.directory.link(self.network_paths(self.hosts), self.context.machine_proc)
            if self.connections.listener is not None:
                self.connections.listener.listen(BACKLOG)
            registration.directory.publish()
            self.is_published = True
            self.connections.listen()
            self.timers.after(REGISTRATION_CHECK_S, self.check_registration)
        if not (owned or self.outlives_owner):
            self.outlives_owner = True
            os.write(registration.outlives_owner, b"!")

    def check_registration(self) -> None:
        """End the lab if its directory was deleted: no command can find it any more."""
        if self.registration is not None and not self.registration.directory.is_registered:
            self.is_down = True
        self.timers.after(REGISTRATION_CHECK_S, self.check_registration)

    def network_paths(self, nodes: Iterable[str]) -> dict[str, str]:
        """Return the paths on the machine of the nodes' network namespaces, by which programs enter them."""
        nodes = tuple(nodes)
        for node in nodes:
            self.allow_ping_sockets(node)
        return {node: f"/proc/{self.pid}/fd/{self.table[node].fd}" for node in nodes}

    def description(self) -> Description:
        """Describe the lab."""
        paths = self.network_paths(self.hosts)
        nodes = (
            NodeInfo(name, host.node.kind.value, paths[name], host.init.machine_pid if host.init else 0)
            for name, host in self.hosts.items()
        )
        return Description(
            name=self.context.lab,
            topology=self.opened.topology,
            uid=self.opened.uid,
            started_at=self.started_at,
            keeper_pid=self.pid,
            rootless=self.context.rootless,
            nodes=tuple(nodes),
            processes=tuple(self.processes.infos()),
            source=self.opened.source,
            plan_json=self.opened.plan,
            faults=self.faults.infos() if self.faults else (),
            down=tuple(end for end in self.table.down() if self.faults is None or not self.faults.keeps_down(end)),
        )

    def state(self) -> protocol.Reconcile:
        """Return the lab's state as the request that restores it."""
        return protocol.Reconcile(self.opened.topology, self.opened.plan, self.opened.source)

    def reconcile(self, request: protocol.Reconcile, descriptors: tuple[int, ...] = ()) -> None:
        """Change the lab to another plan, whole or not at all."""
        from labctl.lab.keeper.reconcile import reconcile
        from labctl.plan.diff import difference

        if self.faults is not None:
            self.faults.heal()  # the plan knows nothing of them
        before, after = plan_from_json(self.opened.plan), plan_from_json(request.plan)
        changes = difference(before, after)
        hosts_files = HostsFiles(after)
        removed, named = set(changes.ended), {node.name for node in changes.nodes}
        try:
            self.take_access(request, after.nodes, descriptors)
            with self.limits_changed(before.nodes, after.nodes):
                if changes:
                    reconcile(
                        *(changes, self.table, self.hosts, self.end),
                        *(lambda: self.finish(after.nodes, removed, named), hosts_files),
                    )
            self.opened = replace(self.opened, topology=request.topology, plan=request.plan, source=request.source)
            self.use_access(after.nodes, before.nodes, hosts_files)
        finally:
            if not self.transactions.is_open:
                self.settle_access()

    def take_access(self, request: protocol.Reconcile, nodes: tuple[Node, ...], descriptors: tuple[int, ...]) -> None:
        """Take over the access to the machine that comes with a request, whose descriptors are borrowed."""
        if self.external is None and any(node.nat or node.exposures or node.limits for node in nodes):
            from labctl.lab.keeper.machine_access import MachineAccess

            self.external = MachineAccess()
        if self.external is None or not descriptors:
            return
        own = [os.dup(each) for each in descriptors]
        if request.access is not None:
            from labctl.lab.keeper.external import received

            self.external.add(received(request.access, own[len(request.exposed) :]))
        self.external.add_ports(nodes, request.exposed, own[: len(request.exposed)])

    def use_access(self, nodes: tuple[Node, ...], before: tuple[Node, ...], hosts_files: HostsFiles) -> None:
        """Limit hosts that are new, forward ports, and give hosts the name servers of the machine's network.

        KernelError, InputError.
        """
        if self.external is None:
            return
        known = {node.name for node in before}
        for node in nodes:
            if node.limits is not None and (node.name not in known or not self.hosts[node.name].groups):
                self.external.limit(self.hosts[node.name], node.limits)
        self.external.forward(nodes, hosts_files, self.table)
        text = self.external.resolv_conf if any(node.nat for node in nodes) else NO_NAME_SERVER
        if text and text != self.context.resolv_conf:
            from labctl.lab.keeper.reconcile import write_own_file

            self.context.resolv_conf = text
            for host in self.hosts.values():
                if host.init is not None and not host.node.tree.places(RESOLV_CONF):
                    write_own_file(host, host.init, RESOLV_CONF, text)

    def settle_access(self) -> None:
        """Give up access to the machine that the lab's plan does not use."""
        if self.external is not None:
            self.external.settle(plan_from_json(self.opened.plan).nodes, self.table)

    def finish(self, nodes: tuple[Node, ...], removed: set[str], named: set[str]) -> None:
        """Connect routers to the machine, and update the names of nodes there: both or neither."""
        made = [] if self.external is None else self.external.connect(nodes, self.table)
        try:
            self.rename(removed, named)
        except BaseException:
            if self.external is not None:
                self.external.disconnect(made, self.table)
            raise

    @contextlib.contextmanager
    def limits_changed(self, before: tuple[Node, ...], after: tuple[Node, ...]) -> Iterator[None]:
        """Set the limits that differ; an exception inside the `with` restores them."""
        old = {node.name: node for node in before}
        changed = [
            node
            for node in after
            if node.name in self.hosts and node.name in old and old[node.name].limits != node.limits
        ]
        try:
            for node in changed:
                self.set_limits(node)
            yield
        except BaseException:
            for node in changed:
                self.set_limits(old[node.name])
            raise

    def set_limits(self, node: Node) -> None:
        """Set the limits of a node. KernelError, InputError."""
        if self.external is not None:
            self.external.limit(self.hosts[node.name], node.limits)

    def rename(self, removed: set[str], named: set[str]) -> None:
        """Update the names of nodes on the machine."""
        if self.registration is not None and self.is_published:
            self.registration.directory.rename(removed, self.network_paths(named), self.context.machine_proc)

    def end(self, host: Host) -> None:
        """End every program of a host that has left the lab."""
        self.transactions.will_leave(host.name)
        if self.external is not None:
            self.external.forget(host.name)
        self.processes.forget_node(host.name)
        if host.init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(host.init.pidfd, signal.SIGKILL)
            os.close(host.init.pidfd)  # `reap` reaps it
            host.init = None

    def open_socket(self, host: Host, request: protocol.OpenSocket) -> Answer:
        """Make a socket in the host's network namespace."""
        with kernel_errors(host.subject, "make a socket"):
            sock = self.table.socket(host.name, request.family, request.type, request.proto)
        return Answer(descriptors=[sock.detach()])

    def open_sockets(self, request: protocol.OpenSockets) -> Answer:
        """Make sockets that observe nodes, all or none."""
        if len(request.nodes) * len(request.kinds) > frames.MAX_DESCRIPTORS:
            raise InputError(f"lab {self.context.lab}: more than {frames.MAX_DESCRIPTORS} sockets in one request.")
        with contextlib.ExitStack() as stack:
            sockets = []
            for node in request.nodes:
                subject = self.known(node).subject
                with kernel_errors(subject, "make a socket"):
                    sockets += [
                        stack.enter_context(self.table.socket(node, *kind, is_used=False)) for kind in request.kinds
                    ]
            stack.pop_all()
        return Answer(descriptors=[sock.detach() for sock in sockets])

    def open_file(self, client: Client, number: int, host: Host, request: protocol.OpenFile) -> Answer | None:
        """Open a file as the host sees it; those of its network stack without a process there.

        A process of the host opens any other, and the keeper does not wait for it: it may block (a FIFO).
        """
        path = os.path.normpath(request.path)
        if path.startswith(("/proc/net/", "/proc/sys/net/")):
            path = path.replace("/proc/net/", "/proc/thread-self/net/", 1)
            with self.table.entered(host.name), kernel_errors(host.subject, f"open {request.path}"):
                return Answer(descriptors=[os.open(path, request.flags | os.O_CLOEXEC, request.mode)])
        task = spawn.open_file(host, self.context, request)
        self.answer_later(client, number, task, lambda descriptor: Answer(descriptors=[descriptor]))
        return None

    def answer_later(self, client: Client, number: int, task: spawn.Task, answer_of: Callable[[int], Answer]) -> None:
        """Send `answer_of` the task's descriptor when the task is done, or an error when it is late."""
        descriptor = task.fileno()

        def finish() -> None:
            if task.fileno() == -1:
                return  # it was done in time
            del self.tasks[descriptor]
            self.connections.unwatch(descriptor)
            try:
                answer = answer_of(task.descriptor())
            except LabctlError as error:
                answer = _failed(error)
            client.send(number, answer.message, answer.descriptors)

        self.tasks[descriptor] = finish
        self.connections.watch(descriptor)
        self.timers.after(spawn.TASK_TIMEOUT_S, finish)

    def put_file(self, request: protocol.PutFile, content: int) -> None:
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

    def drop(self, node: str, rule: DropRule) -> None:
        """Add a drop rule on the node."""
        from labctl.lab.keeper.drop_rules import drop

        with self.table.entered(self.host(node).name):
            drop(rule, node)

    def undrop(self, node: str) -> None:
        """Remove the node's drop rules."""
        from labctl.lab.keeper.drop_rules import undrop

        with self.table.entered(self.host(node).name):
            undrop(node)

    def fault_table(self) -> FaultTable:
        """Return the table of faults, which is made with the first one."""
        if self.faults is None:
            from labctl.lab.keeper.fault_table import FaultTable

            self.faults = FaultTable(self.table, self.hosts, self.processes, self.timers)
        return self.faults

    def signal_group(self, request: protocol.SignalGroup) -> None:
        """Signal the process group of a process that was not reaped; ignore one that has ended."""
        if request.process in self.status_pipes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(request.process, request.number)

    def reap(self) -> None:
        """Reap every child that has ended, and report its exit status on its status pipe."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(wait_status)
            is_known = self.processes.ended(pid, code)
            if pid in self.status_pipes:
                self.report_status(self.status_pipes.pop(pid), code)
            elif not is_known:
                self.init_ended(pid, code)

    def report_status(self, pipe: int, code: int) -> None:
        """Write an exit status to its status pipe, and close that."""
        try:
            os.write(pipe, frames.STATUS.pack(code))
        except (BrokenPipeError, BlockingIOError):
            return  # the client closed its handle of this process, or filled the pipe
        finally:
            os.close(pipe)

    def init_ended(self, pid: int, code: int) -> None:
        """Record the end of a host's init, and with it of every process of that host.

        In a lab that outlives its owner the host gets another init with its next program: the keeper still holds its
        network.
        """
        if self.external is not None and self.external.forwarder_ended(pid, self.timers, self.table.home):
            return
        for host in self.hosts.values():
            if host.init is not None and host.init.pid == pid:
                os.close(host.init.pidfd)
                host.init, host.exit_code = None, None if self.outlives_owner else code


def keep(
    channel: protocol.Channel,
    request: protocol.Open,
    number: int,
    boot: int,
    rootless: bool,
    registration: Registration | None,
    external: ExternalAccess | None = None,
) -> None:
    """Run the keeper, from the fork by boot to the lab's end.

    Args:
        channel: to the owner.
        request: the owner's.
        number: the request's.
        boot: a pipe that is hung up when boot ends.
        rootless: boot made a user namespace for the lab.
        registration: of a lab that may be published.
        external: what boot prepared for the lab on the machine.
    """
    processes.die_with_parent()
    poller = select.poll()
    poller.register(boot, select.POLLIN)
    if poller.poll(0):
        return  # boot ended before the line above took effect
    syscalls.set_process_name("labctl-keeper")
    try:
        try:
            keeper = _build(channel, request, rootless, registration, external)
        except OSError as error:
            errno, hint = error.errno or 0, processes.remedy(error.errno or 0)
            raise KernelError(f"lab {request.lab}", "prepare it", errno, detail=str(error), hint=hint) from error
    except LabctlError as error:
        channel.send(number, protocol.Failed.of(error), until=None)
        return
    with contextlib.suppress(LabGone):
        keeper.owner.send(number, protocol.Done())
        keeper.serve(boot)


def _build(
    channel: protocol.Channel,
    request: protocol.Open,
    rootless: bool,
    registration: Registration | None,
    external: ExternalAccess | None,
) -> Keeper:
    limit = processes.raise_descriptor_limit()
    if external is not None:
        external.close_in_keeper()
    machine_proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    pid = processes.own_pid(machine_proc)
    view = mounts.view_of(request.visible_paths, request.hidden_paths)
    mounts.make_private()
    mounts.make_root(view, f"lab {request.lab}")
    _make_shared(SHARED_PROGRAMS)
    if registration is None:  # logs in the keeper's own /run, which hosts do not see
        os.mkdir(OWN_LOGS, 0o700)
        logs = os.open(OWN_LOGS, DIRECTORY_FLAGS)
    else:
        logs = os.open(LOGS, DIRECTORY_FLAGS, dir_fd=registration.directory.directory)
    context = LabContext(
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
        resolv_conf=external.resolv_conf if external is not None else NO_NAME_SERVER,
    )
    table = NodeTable()
    plan = plan_from_json(request.plan)
    execute(plan.operations, table)
    hosts_files = HostsFiles(plan)
    hosts = {node.name: Host(node, hosts_files, table[node.name].fd) for node in plan.nodes}
    access: MachineAccess | None = None
    if external is not None:
        from labctl.lab.keeper.machine_access import MachineAccess

        access = MachineAccess([external])
        access.add_ports(plan.nodes, external.exposed, external.ports)
        access.connect(plan.nodes, table)
        for host in hosts.values():
            access.limit(host, host.node.limits)
        access.forward(plan.nodes, hosts_files, table)
    return Keeper(request, channel, context, table, hosts, pid, logs, registration, access)


def descriptors_needed(message: protocol.Message) -> int:
    """Return the number of descriptors that come with a request."""
    match message:
        case protocol.Spawn(stdio=stdio, tracer=tracer):
            return sum(stdio) + bool(tracer)
        case protocol.StartProcess(tracer=tracer):
            return int(bool(tracer))
        case protocol.Reconcile(exposed=exposed, access=access):
            return len(exposed) + (access.descriptors_needed if access is not None else 0)
        case protocol.PutFile() | protocol.BindSocket() | protocol.Hello():
            return 1
        case _:
            return 0


def _size_in_memory(descriptor: int) -> int:
    """Return the size of a memfd_create(2) file; reading any other kind of file might block."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise InputError("lab: cannot put a file: its content is not in a file of memfd_create(2).") from error
    return os.fstat(descriptor).st_size


def _failed(error: LabctlError) -> Answer:
    return Answer(protocol.Failed.of(error))


def _closed(descriptor: int) -> Answer:
    os.close(descriptor)
    return Answer()


def _make_shared(directory: str) -> None:
    """Make a directory that all users of the lab may read, whatever the owner's umask."""
    before = os.umask(0o022)
    try:
        os.makedirs(directory, exist_ok=True)
    finally:
        os.umask(before)
