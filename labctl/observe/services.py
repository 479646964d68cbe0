"""Services of a lab: started in dependency order, each when those that it comes after are ready.

They are detached processes, which the keeper starts again where the file says so. What is not ready in time is an
error that shows what it wrote; who asked for it then ends the lab, or has it put back (`Lab.changing`).

Whether a program is ready, as far as its node shows it: a socket that listens, a file that is there.
"""

from __future__ import annotations

import os
import selectors
import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from labctl.errors import InputError, KernelError, LabError, errno_name
from labctl.lab.protocol import ProcessInfo, ProcessState
from labctl.observe.network import Observable, Socket, Transport, sockets
from labctl.patterns import TooSlow, search_lines
from labctl.plan.operations import in_order, runs_alike, services_of
from labctl.printable import last_lines
from labctl.structs import Struct
from labctl.topology.endpoints import ListeningAt, Protocol, fits
from labctl.topology.model import BUFFERED, TERMINAL_SIZE, Command, Readiness, Service
from labctl.units import format_duration
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.process import Process
    from labctl.plan.operations import Plan


AddressesOf = Callable[[str], Collection[IPv4Address | IPv6Address]]  # of a node's name, or an address as written


def listens(lab: Observable, node: str, where: ListeningAt, addresses_of: AddressesOf) -> bool:
    """Whether a socket of the node listens (UDP: is bound) exactly there."""
    found = sockets(lab, node, (Transport(where.protocol),))
    return any(socket.listening and is_at(socket, where, addresses_of) for socket in found)


def is_at(socket: Socket, where: ListeningAt, addresses_of: AddressesOf) -> bool:
    """Whether the socket's local end is there."""
    if where.protocol is Protocol.UNIX:
        return socket.path == where.name
    if socket.local_port != where.port:
        return False
    if where.address is None:
        return True
    return any(fits(each, socket.local, socket.interface) for each in addresses_of(where.address))


def why_refused(lab: Observable, node: str, address: IPv4Address | IPv6Address, port: int) -> str:
    """Where the node listens on that TCP port when not at that address, and what to try; "" when it does, or nowhere.

    KernelError when its sockets cannot be listed.
    """
    found = [one for one in sockets(lab, node, (Transport.TCP,)) if one.listening and one.local_port == port]
    if not found or any(fits(address, one.local, one.interface) or one.takes(address) for one in found):
        return ""
    where = ", ".join(str(ListeningAt(Protocol.TCP, port, str(one.local))).removeprefix("tcp/") for one in found)
    if address.version == 6 and all(str(one.local) == "0.0.0.0" for one in found):
        return f"{node} listens at {where}, which is IPv4 only: bind it to [::]:{port} for both, or connect by IPv4"
    return f"{node} listens on port {port} at {where} only"


def is_there(lab: Observable, node: str, path: str) -> bool:
    """Whether the node has a file of that path. KernelError when that cannot be seen."""
    try:
        os.close(lab.open_file(node, path, os.O_PATH))
    except KernelError as error:
        if errno_name(error.errno) in ("ENOENT", "ENOTDIR"):
            return False
        raise
    return True


FIRST_LOOK_AGAIN_S, LAST_LOOK_AGAIN_S = 0.001, 0.05
SHOWN_CHARACTERS = 2000  # of what a command or a service wrote, in the error that reports its failure
READ_BYTES = 65536  # of what a command wrote


def visible_paths(plan: Plan) -> tuple[str, ...]:
    """The directories of services and commands, and sources of files, which hosts are to see wherever they lie."""
    of_services = [service.directory for node in plan.nodes for service in node.services]
    of_commands = [command.directory for node in plan.nodes for command in node.commands]
    sources = [source for node in plan.nodes for source in node.tree.sources]
    # Of a placed file its directory: a file that is replaced is another one. A place such as /tmp is not shown whole.
    beside = [os.path.dirname(file.source) for node in plan.nodes for file in node.tree.files if file.source]
    return tuple(dict.fromkeys([*of_services, *of_commands, *beside, *sources]))


def start(lab: Lab, plan: Plan, keys: Iterable[str] | None = None) -> None:
    """Start those services (NODE/SERVICE; None: all) of the plan, and wait until all of them are ready.

    With all of them, the commands of all nodes are run before.

    Those that they come after and that are not among them are taken to be ready. LabError shows the output of the one
    that was not in time; the others go on.
    """
    if keys is None:
        run_commands(lab, plan)
    services = services_of(plan.nodes)
    order = in_order(services if keys is None else keys, services)
    if order:
        _Start(lab, plan, {key: services[key] for key in order}).carry_out()


def run_commands(lab: Lab, plan: Plan, nodes: Iterable[str] | None = None) -> None:
    """Run the commands (`exec`) of those nodes of the plan (None: all), each to its end, those of one node in order.

    Nodes do not wait for each other. LabError shows the output of the first command that failed; those of other nodes
    are then ended, too.
    """
    chosen = None if nodes is None else frozenset(nodes)
    queues = [
        _Commands(lab, node.name, node.commands)
        for node in plan.nodes
        if node.commands and (chosen is None or node.name in chosen)
    ]
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for queue in queues:
            stack.callback(queue.close)
            queue.begin(selector)
        while selector.get_map():
            left_s = min(key.data.until for key in selector.get_map().values()) - monotonic()
            ended = {key.data.node: key.data for key, _ in selector.select(max(left_s, 0))}
            for queue in queues:
                if queue.process is not None:
                    queue.look(selector, ended=queue.node in ended)


def commands_changed(old: Plan, new: Plan, gone: Iterable[str] = ()) -> tuple[str, ...]:
    """The nodes whose commands are to be run after a change: new ones, and those that have other commands."""
    anew = frozenset(gone)
    before = {node.name: node.commands for node in old.nodes if node.name not in anew}
    return tuple(node.name for node in new.nodes if node.commands and node.commands != before.get(node.name))


class _Commands:
    """The commands of one node: one after the other, their output in memory."""

    def __init__(self, lab: Lab, node: str, commands: Iterable[Command]) -> None:
        self.lab = lab
        self.node = node
        self.left = deque(commands)
        self.process: Process | None = None
        self.output = -1
        self.until = 0.0  # CLOCK_MONOTONIC

    def begin(self, selector: selectors.BaseSelector) -> None:
        """Start the first of those that are left. LabError when it cannot be started."""
        command = self.left[0]
        self.output = os.memfd_create("labctl-exec", os.MFD_CLOEXEC)  # no pipe: what it leaves behind may go on writing
        argv = (_located(command.argv[0], command.directory), *command.argv[1:])
        environment = dict(command.environment)
        try:
            self.process = self.lab.spawn(
                self.node,
                argv,
                env=environment,
                cwd=command.directory,
                user=command.user,
                stdout=self.output,
                stderr=self.output,
            )
        except (InputError, LabError) as error:
            raise LabError(f"exec of {self.node}: `{command}` cannot be started: {error}") from error
        self.until = monotonic() + command.within_s
        selector.register(self.process, selectors.EVENT_READ, self)

    def look(self, selector: selectors.BaseSelector, *, ended: bool) -> None:
        """Go on with the next command when this one has ended well. LabError when it failed, or is late."""
        assert self.process is not None
        status = self.process.wait(0) if ended else None
        if status is None:
            if not ended and monotonic() >= self.until:
                raise self._failure(f"has not ended within {format_duration(self.left[0].within_s)}")
            return
        if status:
            raise self._failure(f"was ended by signal {-status}" if status < 0 else f"exited with status {status}")
        selector.unregister(self.process)
        self.close()
        self.left.popleft()
        if self.left:
            self.begin(selector)

    def close(self) -> None:
        """Let go of the command that runs; it is ended."""
        process, self.process = self.process, None
        if process is not None:
            _end_process(process)
        if self.output != -1:
            os.close(self.output)
            self.output = -1

    def _failure(self, how: str) -> LabError:
        written = os.pread(self.output, READ_BYTES, max(0, os.fstat(self.output).st_size - READ_BYTES))
        return LabError(f"exec of {self.node}: `{self.left[0]}` {how}. {_said(written)}")


def stop(lab: Lab, plan: Plan, keys: Iterable[str]) -> None:
    """Stop those services of the plan, each before what it comes after; one that does not run is left alone."""
    services = services_of(plan.nodes)
    running = {(info.node, info.name) for info in lab.processes() if _runs(info)}
    for key in reversed(in_order(keys, services)):
        node, service = services[key]
        if (node, service.name) in running:
            lab.stop_process(node, service.name)


def not_running(lab: Lab, plan: Plan) -> tuple[str, ...]:
    """The services of the plan that do not run: ended, stopped by hand, or never started."""
    running = {(info.node, info.name) for info in lab.processes() if _runs(info)}
    return tuple(key for key, (node, service) in services_of(plan.nodes).items() if (node, service.name) not in running)


@contextmanager
def replacing(
    lab: Lab, old: Plan, new: Plan, gone: Iterable[str] = (), restarted: Iterable[str] = ()
) -> Iterator[None]:
    """Around `lab.reconcile(new)`: services that are gone or not the same are stopped before, new ones started after.

    All services of `restarted` nodes are started again. Services of the new plan that do not run are started, too. To
    be used within `lab.changing()`, which puts all back when one is not ready, or what is inside fails.
    """
    before, after, ended, anew = services_of(old.nodes), services_of(new.nodes), frozenset(gone), frozenset(restarted)
    down = set(not_running(lab, old))
    same = {
        key
        for key in before.keys() & after.keys()
        if before[key][0] not in ended | anew and _alike(before[key], after[key])
    }
    stop(lab, old, [key for key in before if key not in same and key not in down and before[key][0] not in ended])
    yield
    run_commands(lab, new, commands_changed(old, new, ended | anew))
    start(lab, new, [key for key in after if key not in same or key in down])


def _alike(one: tuple[str, Service], other: tuple[str, Service]) -> bool:
    return runs_alike(one[1], other[1])


def _runs(info: ProcessInfo) -> bool:
    return info.state is not ProcessState.ENDED


class _Starting(Struct):
    """A service that was started and is not ready yet."""

    key: str
    node: str
    service: Service
    until: float  # CLOCK_MONOTONIC
    probe: Process | None = None


class _Start:
    def __init__(self, lab: Lab, plan: Plan, services: dict[str, tuple[str, Service]]) -> None:
        self.lab = lab
        self.plan = plan
        self.waiting = services
        self.starting: dict[str, _Starting] = {}

    def carry_out(self) -> None:
        pause = threading.Event()
        interval_s = FIRST_LOOK_AGAIN_S
        try:
            while self.waiting or self.starting:
                if self._begin() | self._look():
                    interval_s = FIRST_LOOK_AGAIN_S
                elif self.starting:
                    pause.wait(interval_s)
                    interval_s = min(interval_s * 2, LAST_LOOK_AGAIN_S)
        finally:
            for one in self.starting.values():
                _end(one)

    def _begin(self) -> bool:
        """Start what waits for nothing more; whether there was any."""
        not_ready = self.waiting.keys() | self.starting.keys()
        now = [key for key, (_, service) in self.waiting.items() if not not_ready & set(service.after)]
        for key in now:
            node, service = self.waiting.pop(key)
            self._launch(key, node, service)
            if service.ready is not None:
                self.starting[key] = _Starting(key, node, service, monotonic() + service.within_s)
        return bool(now)

    def _launch(self, key: str, node: str, service: Service) -> None:
        try:
            self.lab.start_process(
                node,
                (_located(service.argv[0], service.directory), *service.argv[1:]),
                name=service.name,
                env=dict(service.environment),
                cwd=service.directory,
                user=service.user,
                restart=service.restart,
                terminal=TERMINAL_SIZE if service.tty else None,
            )
        except (InputError, LabError) as error:
            raise LabError(f"service {key}: cannot be started: {error}") from error

    def _look(self) -> bool:
        """Look at all that have been started; whether one has become ready. LabError when one cannot any more."""
        if not self.starting:
            return False
        infos = {(info.node, info.name): info for info in self.lab.processes()}
        ready = []
        for key, one in self.starting.items():
            late = monotonic() >= one.until  # before the last look
            info = infos.get((one.node, one.service.name))
            ended = info is None or not _runs(info)
            assert one.service.ready is not None
            if self._is_ready(one, one.service.ready):
                ready.append(key)
            elif ended or late:
                raise self._failure(one, info, ended=ended)
        for key in ready:
            _end(self.starting.pop(key))
        return bool(ready)

    def _is_ready(self, one: _Starting, wanted: Readiness) -> bool:
        from labctl.topology.endpoints import parse_listening

        if wanted.listening:
            return listens(self.lab, one.node, parse_listening(wanted.listening), self._addresses_of)
        if wanted.line:
            text = self.lab.read_log(one.node, one.service.name).decode(errors="replace")
            try:
                return search_lines(wanted.line, text.splitlines())
            except TooSlow as error:
                raise LabError(f"{one.node}/{one.service.name}: {error}") from error
        if wanted.file:
            return is_there(self.lab, one.node, wanted.file)
        return self._succeeds(one, wanted.command)

    def _succeeds(self, one: _Starting, command: tuple[str, ...]) -> bool:
        """One attempt after the other; a look never waits for one."""
        if one.probe is None:
            argv = (_located(command[0], one.service.directory), *command[1:])
            environment, user = dict(one.service.environment), one.service.user
            one.probe = self.lab.spawn(one.node, argv, env=environment, cwd=one.service.directory, user=user)
        status = one.probe.wait(0)
        if status is not None:
            _end(one)
        return status == 0

    def _addresses_of(self, name: str) -> tuple[IPv4Address | IPv6Address, ...]:
        from labctl.names import name_key
        from labctl.plan.operations import AddAddress
        from labctl.topology.endpoints import parse_address

        address = parse_address(name)
        if address is not None:
            return (address,)
        return tuple(
            one.address.ip
            for one in self.plan.operations
            if isinstance(one, AddAddress) and name_key(one.node) == name_key(name) and not one.address.ip.is_link_local
        )

    def _failure(self, one: _Starting, info: ProcessInfo | None, *, ended: bool) -> LabError:
        how = f"not seen within {format_duration(one.service.within_s)}"
        if ended:
            code = info.returncode if info is not None else None
            told = "" if code is None else f", by signal {-code}" if code < 0 else f", with status {code}"
            how = f"it ended before{told}"
        written = self.lab.read_log(one.node, one.service.name)
        said = _said(written)
        if not written and not ended and not one.service.tty:
            said += f" {BUFFERED}"
        return LabError(f"service {one.key}: expected {one.service.ready}; {how}. {said}")


def _said(written: bytes) -> str:
    """The last of what a program wrote, and what to try when it could not change its user."""
    from labctl.observe.machine import hint_without_users

    whole = written.decode(errors="replace").strip()
    if not whole:
        return "It wrote nothing."
    hint = hint_without_users(whole)
    return f"It wrote:\n{last_lines(whole, SHOWN_CHARACTERS)}" + (f"\n{hint}" if hint else "")


def _end(one: _Starting) -> None:
    """Let go of a readiness command; one that still runs is ended."""
    probe, one.probe = one.probe, None
    if probe is not None:
        _end_process(probe)


def _end_process(process: Process) -> None:
    import signal

    if process.returncode is None:
        process.signal(signal.SIGKILL, group=True)
    process.close()


def _located(program: str, directory: str) -> str:
    """`program` as it is to be started: its path when it is not in PATH but lies in the directory."""
    if "/" in program or shutil.which(program):
        return program
    beside = os.path.join(directory, program)
    return beside if os.path.isfile(beside) and os.access(beside, os.X_OK) else program
