"""`Lab`: a handle of a running lab, which sends requests to its keeper; see docs/architecture.md."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from labctl.errors import InputError, LabctlError, LabError, LabGone
from labctl.lab import protocol
from labctl.lab.client import lab_directory, registry, state_dir
from labctl.lab.client.boot_process import Boot, open_ports
from labctl.lab.client.lab_client import (
    REPLY_TIMEOUT_S,
    LabClient,
    portable,
    portable_pairs,
    working_directory,
)
from labctl.lab.client.nursery import search_path
from labctl.lab.frames import close_all
from labctl.structs import replace
from labctl.unpatched import Socket

if TYPE_CHECKING:
    from labctl.lab.agent.client import AgentClient
    from labctl.lab.client.connection import Connection
    from labctl.lab.client.lab_directory import LabDirectory
    from labctl.lab.client.watched_process import WatchedProcess
    from labctl.lab.description import FaultMoment
    from labctl.lab.protocol import Open, Request
    from labctl.plan.drop_rules import DropRule
    from labctl.plan.fault_effects import FaultPlan
    from labctl.plan.operations import Operation, Plan
    from labctl.topology.netem import Impairment


_OPERATION_TIMEOUT_S = 0.01
_LONGEST_MAKING_S = 900.0
_OPERATIONS_PER_NODE = 6  # that remove or change it, as a rule


def open_request(plan: Plan, visible_paths: Iterable[str | os.PathLike[str]]) -> Open:
    """The request to make the lab of that plan, with the environment and working directory of this process."""
    from labctl.plan.operations import plan_to_json

    cwd = working_directory()
    visible = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *search_path(), cwd]
    visible += [os.path.abspath(path) for path in visible_paths]
    return protocol.Open(
        lab=plan.topology,
        topology=plan.topology,
        uid=os.geteuid(),
        plan=plan_to_json(plan),
        environment=portable_pairs(os.environ.items()),
        cwd=portable(cwd),
        hidden_paths=tuple(map(portable, state_dir.hidden_directories(visible))),
        visible_paths=tuple(map(portable, dict.fromkeys(visible))),
    )


def with_ports(request: Open, plan: Plan, stack: ExitStack) -> tuple[Open, tuple[int, ...]]:
    """The request, and the sockets for what the plan exposes on the machine, which `stack` closes."""
    if not any(node.nat or node.exposures or node.limits for node in plan.nodes):
        return request, ()
    exposed, descriptors = open_ports(plan.nodes, stack)
    return replace(request, has_outside=True, exposed=exposed), descriptors


class Lab(LabClient):
    """A topology that exists in the kernel. Thread-safe.

    A lab from `open` ends with `close`, and when the process that owns it ends, for whatever reason.
    """

    def __init__(self, boot: Boot | Connection, name: str, nodes: tuple[str, ...], timeout_s: float) -> None:
        """For `open`, `up` and `attach`: takes over `boot`."""
        super().__init__(boot, name, nodes, timeout_s)
        self._unfinished: ExitStack | None = None  # locks that `up` holds until `stay` or `publish`
        self._unfinished_state = -1
        self._published = False  # other clients find the lab, which ends with this handle

    @classmethod
    def open(
        cls,
        plan: Plan,
        *,
        visible_paths: Iterable[str | os.PathLike[str]] = (),
        deadline_s: float | None = None,
    ) -> Self:
        """Make the lab that `plan` describes; the caller closes it.

        `visible_paths` stay visible on hosts although they lie under /tmp, /run or /dev/shm, as do this Python, labctl
        and the working directory. MachineError if this machine cannot have labs, KernelError for a refused operation,
        DeadlineExceeded after `deadline_s`; None: 30 s and 10 ms for each operation.
        """
        timeout_s = making_timeout_s(plan) if deadline_s is None else deadline_s
        lab = cls(Boot.start(), plan.topology, tuple(node.name for node in plan.nodes), REPLY_TIMEOUT_S)
        try:
            with ExitStack() as ports:
                request, descriptors = with_ports(open_request(plan, visible_paths), plan, ports)
                lab._done(request, descriptors, what="open the lab", timeout_s=timeout_s)
        except BaseException:
            lab.close()
            raise
        return lab

    @classmethod
    def up(
        cls,
        plan: Plan,
        name: str,
        *,
        source: str = "",
        visible_paths: Iterable[str | os.PathLike[str]] = (),
        deadline_s: float | None = None,
    ) -> Self:
        """Make a lab that stays once `stay` is called; `close` before that ends it.

        Start services between `up` and `stay`, so that other clients find the lab with them. `describe` reports
        `source`, the origin of the plan. InputError if the name is bad or in use.
        """

        if problem := state_dir.lab_name_problem(name):
            raise InputError(f"The name `{name}` of a lab {problem}. Try --name.")
        timeout_s = making_timeout_s(plan) if deadline_s is None else deadline_s
        with ExitStack() as stack:
            state = stack.enter_context(state_dir.opened_state())
            stack.enter_context(lab_directory.transition(state, name))
            registry.check_free(state, name)
            directory, listener = lab_directory.reserve(state, name)
            with ExitStack() as theirs:
                theirs.callback(directory.close)
                theirs.callback(os.close, listener)
                try:
                    boot = _boot_that_stays(directory)
                except BaseException:
                    with contextlib.suppress(OSError):  # short of descriptors, perhaps: the next command sweeps it
                        directory.clear()
                    raise
                lab = cls(boot, name, tuple(node.name for node in plan.nodes), REPLY_TIMEOUT_S)
                lab._unfinished = stack.pop_all()
                lab._unfinished_state = state
                try:
                    request = replace(open_request(plan, visible_paths), lab=name, source=source, is_registered=True)
                    request, descriptors = with_ports(request, plan, theirs)
                    descriptors += (listener, *directory.descriptors)
                    lab._done(request, descriptors, what="make the lab", timeout_s=timeout_s)
                except BaseException:
                    theirs.close()
                    lab.close()
                    raise
        return lab

    def stay(self) -> None:
        """Keep the lab that `up` made: other clients find it, and only `down` ends it."""
        self._done(protocol.Publish(), what="let the lab stay")
        if isinstance(self._boot, Boot):
            self._boot.close_liveness()
        self._finish()

    def publish(self) -> None:
        """Let other clients find the lab that `up` made; unlike a lab that stays, it ends with this handle."""
        self._done(protocol.Publish(owned=True), what="publish the lab")
        self._published = True
        self._finish()

    def _finish(self) -> None:
        if self._unfinished is not None:
            unfinished, self._unfinished = self._unfinished, None
            unfinished.close()

    def signal_process(self, node: str, name: str, number: int, *, group: bool = False) -> bool:
        """Send a signal to a detached process (`group`: to its process group); False if it does not run.

        If the signal ends it, the keeper restarts it as its `restart` requires.
        """
        return bool(self._done(protocol.SignalProcess(node, name, int(number), group), what=f"signal {name} on {node}"))

    def watch_process(self, node: str, name: str) -> WatchedProcess:
        """Follow a detached process; the caller closes the handle. InputError if none has that name."""
        from labctl.lab.client.watched_process import WatchedProcess

        def watch(*, updates: bool) -> tuple[int, ...]:
            return self._ask(protocol.WatchProcess(node, name, updates), what=f"watch {name} on {node}")[1]

        return WatchedProcess(self, node, name, watch)

    def read_log(self, node: str, name: str) -> bytes:
        """The output of a detached process that its log still has."""
        _, halves = self._ask(protocol.OpenLog(node, name), what=f"read the log of {name} on {node}")
        parts = []
        for descriptor in halves:
            with open(descriptor, "rb") as file:
                parts.append(file.read())
        return b"".join(parts)

    def reconcile(self, plan: Plan, *, source: str = "") -> None:
        """Change the running lab to `plan`, all or nothing; nodes and links of both plans stay as they are.

        Returns when the ports of switches with a spanning tree have settled. Ports of the machine, links to its network
        and control groups that the plan needs more are prepared here, and given up if the lab cannot have them.
        MachineError, KernelError.
        """
        from labctl.plan.operations import SetBridgeOption, plan_to_json

        request = protocol.Reconcile(plan.topology, plan_to_json(plan), source)
        descriptors: tuple[int, ...] = ()
        with ExitStack() as stack:
            if any(node.nat or node.exposures or node.limits for node in plan.nodes):
                from labctl.lab.client.late_access import with_access

                request, descriptors = with_access(request, self.name, self.describe().plan, plan, stack)
            self._done(request, descriptors, what="reconcile the lab", timeout_s=making_timeout_s(plan, self.nodes))
        self.nodes = tuple(node.name for node in plan.nodes)
        trees = [one.node for one in plan.operations if isinstance(one, SetBridgeOption) and one.name == "stp_state"]
        if trees:
            from labctl.lab.client.port_states import await_forwarding

            await_forwarding(self, trees)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Make several requests change the lab as one transaction: no other client changes it, and all or nothing.

        When an exception leaves the `with`, or this process ends in it, the keeper undoes the `reconcile`,
        `start_process` and `stop_process` in it. It does not wait for the programs that it restarts.
        """
        self._done(protocol.BeginTransaction(), what="begin a change, as another client changes it")
        try:
            yield
        except Exception as error:
            try:
                self._done(protocol.EndTransaction(commit=False), what="undo the change")
            except LabctlError as problem:
                raise LabError(f"{error} Rollback also failed: {problem}") from error
            raise
        except BaseException:  # interrupted, perhaps during a request: the keeper undoes when this client disconnects
            self.close()
            raise
        self._done(protocol.EndTransaction(commit=True), what="end the change")

    def down(self, *, force: bool = False, deadline_s: float = 10.0) -> None:
        """End the lab, also if other clients use it; return when keeper and boot have ended."""
        self.close()
        registry.take_down(self.name, force=force, deadline_s=deadline_s)

    def start_agent(self, node: str, name: str = "") -> AgentClient:
        """Start a process on the node that makes socket calls; the caller closes its client."""
        return self.start_agents((node,), name)[0]

    def start_agents(self, nodes: Iterable[str], name: str = "") -> list[AgentClient]:
        """Start a process on each of the nodes, as `start_agent`, all at the same time. Either all or none starts."""
        from labctl.lab.agent.client import AgentClient

        nodes = tuple(nodes)
        what = f"start an agent on {', '.join(nodes)}"
        reply, received = self._ask(protocol.SpawnAgents(nodes), what=what)
        if not isinstance(reply, protocol.AgentsSpawned):
            raise self._unexpected(reply, what)
        agents = []
        for index, (node, spawned) in enumerate(zip(nodes, reply.agents, strict=True)):
            status, pidfd, channel = received[3 * index : 3 * index + 3]
            argv = ("agent", name) if name else ("agent",)
            process = self._process(spawned.process, spawned.pid, (status, pidfd), node, argv)
            agents.append(AgentClient(process=process, channel=Socket(fileno=channel), name=name))
        return agents

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        """An ordinary socket that lives in the node's network namespace; the caller owns it."""
        request = protocol.OpenSocket(node, int(family), int(type), proto)
        _, (descriptor,) = self._ask(request, what=f"make a socket on {node}")
        return Socket(fileno=descriptor)

    def sockets(self, nodes: Iterable[str], kinds: Iterable[tuple[int, int, int]]) -> list[Socket]:
        """Sockets of each kind (family, type, protocol) on each node, that observe it; the caller owns them.

        All of the first node come first. At most labctl.lab.frames.MAX_DESCRIPTORS at a time.
        """
        request = protocol.OpenSockets(tuple(nodes), tuple(kinds))
        _, descriptors = self._ask(request, what=f"make sockets on {', '.join(request.nodes)}")
        return [Socket(fileno=descriptor) for descriptor in descriptors]

    def network(self, node: str) -> int:
        """A (close-on-exec) descriptor of the node's network namespace, for setns(2); the caller owns it."""
        _, (descriptor,) = self._ask(protocol.OpenNetwork(node), what=f"open the network namespace of {node}")
        return descriptor

    def open_file(self, node: str, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """open(2) as a process on the node would; the caller owns the (close-on-exec) descriptor. KernelError."""
        request = protocol.OpenFile(node, portable(path), flags, mode)
        _, (descriptor,) = self._ask(request, what=f"open {path} on {node}")
        return descriptor

    def bind_socket(self, node: str, descriptor: int, path: str) -> None:
        """bind(2) of an AF_UNIX socket to a path of the node, which may be relative to the working directory.

        The descriptor stays the caller's. KernelError.
        """
        what = f"bind a socket to {path} on {node}"
        request = protocol.BindSocket(node, portable(path), portable(working_directory()))
        self._done(request, (descriptor,), what=what)

    def apply(self, operations: Iterable[Operation]) -> None:
        """Execute operations on the lab's nodes, in order. KernelError for the first that the kernel refuses.

        Returns when links that come up pass packets, also through switches with a spanning tree.
        """
        from labctl.plan.operations import SetUp, operations_to_json

        operations = tuple(operations)
        self._done(protocol.Apply(operations_to_json(operations)), what="apply operations")
        if raised := [one.node for one in operations if isinstance(one, SetUp)]:
            from labctl.lab.client.port_states import await_forwarding

            await_forwarding(self, raised)

    def impaired(self, nodes: Iterable[str] = ()) -> dict[tuple[str, str], Impairment]:
        """Return the impairments in force, by node and interface, of these nodes; of all if there is none."""
        from labctl.plan.operations import SetImpairment, operations_from_json

        reply, _ = self._ask(protocol.Impaired(tuple(nodes)), what="list its impairments")
        assert isinstance(reply, protocol.ImpairedInterfaces)
        operations = operations_from_json(reply.operations)
        return {
            (one.node, one.ifname): one.impairment
            for one in operations
            if isinstance(one, SetImpairment) and one.impairment
        }

    def fileno(self) -> int:
        """Return a descriptor on which poll(2) reports POLLHUP when the lab has ended."""
        return self._boot.channel.fileno()

    def open_lifetime(self) -> int:
        """Return a descriptor that is readable when the lab has ended: a pidfd, for a process that outlives it.

        The caller owns it. LabGone.
        """
        if isinstance(self._boot, Boot):
            return os.dup(self._boot.pidfd)
        try:
            return os.pidfd_open(self._boot.keeper_pid)
        except ProcessLookupError as error:
            raise LabGone(f"lab {self.name}: it has just ended.") from error

    def when_gone(self, operations: Iterable[Operation] = (), undrop: Iterable[str] = ()) -> None:
        """Set the rollback that a lab that stays executes when this client disconnects, even if it is killed.

        Replaces the earlier rollback. The keeper skips operations on interfaces and nodes that no longer exist.
        `undrop` names the nodes whose drop rules to remove.
        """
        from labctl.plan.operations import operations_to_json

        self._done(
            protocol.SetRollback(operations_to_json(operations), tuple(undrop)),
            what="set rollback actions",
        )

    def drop(self, node: str, rule: DropRule) -> None:
        """Drop the packets of the node that `rule` describes, until `undrop`."""
        self._done(protocol.Drop(node, rule), what=f"drop packets on {node}")

    def undrop(self, node: str) -> None:
        """Remove all drop rules of the node."""
        self._done(protocol.Undrop(node), what=f"undo drops on {node}")

    def begin_fault(
        self, fault: FaultPlan, *, name: str = "", duration_s: float | None = None, is_owned: bool = True
    ) -> int:
        """Inject a fault; return its number. It lasts until `heal`, or `duration_s`, or the lab changes by `up`.

        With `is_owned` it also ends with this client, even if that is killed. KernelError, LabImpossible, InputError.
        """
        request = protocol.BeginFault(fault, name, duration_s, is_owned)
        return self._done(request, what=f"inject {fault.text}")

    def heal(self, numbers: Iterable[int] = (), names: Iterable[str] = ()) -> int:
        """Heal faults by number or name, or all if none is named; return how many were in force. LabError."""
        return self._done(protocol.HealFaults(tuple(numbers), tuple(names)), what="heal faults")

    def fault_moments(self, after: int = 0) -> tuple[FaultMoment, ...]:
        """Return what happened to faults of the lab, whoever injected them, after the moment with this number."""
        reply, _ = self._ask(protocol.FaultHistory(after), what="read the history of faults")
        return reply.moments if isinstance(reply, protocol.FaultMoments) else ()

    def put_file(self, name: str, data: bytes, mode: int = 0o644) -> str:
        """Write a file into the directory that all hosts share; return its path there.

        `bin/` in it is on the PATH of every host: write programs there, with mode 0o755.
        """
        content = os.memfd_create("labctl-file", os.MFD_CLOEXEC)
        try:
            with open(content, "wb", closefd=False) as file:
                file.write(data)
            self._done(protocol.PutFile(name, mode), (content,), what=f"put the file {name}")
        finally:
            os.close(content)
        return f"/run/lab/{name}"

    def close(self) -> None:
        """End the lab and every process in it; return when the keeper has been reaped. Idempotent.

        The kernel frees namespaces and interfaces some 100 ms later. A lab that stays goes on, without the programs
        that were spawned with this handle. In a process that the lab's owner forked, only close the copied descriptors.
        """
        super().close()

    def _ended(self) -> None:
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            with unfinished:
                registry.end_unfinished(self._unfinished_state, self.name)
        elif self._published:
            self._published = False
            with contextlib.suppress(InputError):  # it has ended already
                registry.take_down(self.name, force=True)

    def _done(
        self, request: Request, descriptors: tuple[int, ...] = (), *, what: str, timeout_s: float | None = None
    ) -> int:
        reply, _ = self._ask(request, descriptors, what=what, timeout_s=timeout_s)
        return reply.value if isinstance(reply, protocol.Done) else 0

    def _ask(
        self, request: Request, descriptors: tuple[int, ...] = (), *, what: str, timeout_s: float | None = None
    ) -> tuple[protocol.Reply, tuple[int, ...]]:
        reply, received = self._client.ask(protocol.encode(request), descriptors, what=what, timeout_s=timeout_s)
        try:
            return protocol.decode(reply, protocol.Reply), received
        except BaseException:
            close_all(received)
            raise


def making_timeout_s(plan: Plan, before: Sized = ()) -> float:
    """Return the time that a keeper gets to make the plan, in a lab that has the nodes `before`.

    An idle machine takes a fiftieth. A keeper that has ended or is stopped is noticed sooner, whatever this is.
    """
    operations = len(plan.operations) + _OPERATIONS_PER_NODE * len(before)
    return REPLY_TIMEOUT_S + min(_OPERATION_TIMEOUT_S * operations, _LONGEST_MAKING_S)


def _boot_that_stays(directory: LabDirectory) -> Boot:
    """Start boot for a lab that stays, with stderr in the lab's directory. LabError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        words = os.open(state_dir.LAST_WORDS, flags, 0o600, dir_fd=directory.directory)
    except OSError as error:
        raise state_dir.cannot("make a file in it", error) from error
    return Boot.start(protocol.STAYS, errors=words)
