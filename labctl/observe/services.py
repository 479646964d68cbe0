"""Services and commands of a lab: commands run first, then services start in dependency order, each when ready.

Services are detached processes, which the keeper restarts as the file declares. A command that fails, or
a service that is not ready in time, is an error that shows its output; the caller then ends the lab or rolls it back
(`Lab.changing`). Those with `may_fail` are returned as failures instead.
"""

from __future__ import annotations

import os
import selectors
import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Protocol

from labctl.clock import monotonic
from labctl.errors import InputError, KernelError, LabError, errno_name
from labctl.lab.description import ProcessInfo, ProcessState
from labctl.observe.network import Observable, Socket, Transport, sockets
from labctl.patterns import TooSlow, search_lines
from labctl.plan.hosts_files import HostsFiles
from labctl.plan.operations import in_order, runs_alike, services_of
from labctl.printable import last_lines
from labctl.structs import Struct
from labctl.topology.endpoints import ListeningAt, fits
from labctl.topology.endpoints import Protocol as SocketProtocol
from labctl.topology.model import BUFFERED, TERMINAL_SIZE, Command, Readiness, Service
from labctl.units import format_duration

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.process import Process
    from labctl.plan.operations import Plan


AddressesOf = Callable[[str], Collection[IPv4Address | IPv6Address]]  # the argument: a node's name or an address


def listens(lab: Observable, node: str, where: ListeningAt, addresses_of: AddressesOf) -> bool:
    """Whether a socket of the node listens (UDP: is bound) at `where`."""
    found = sockets(lab, node, (Transport(where.protocol),))
    return any(socket.listening and is_at(socket, where, addresses_of) for socket in found)


def is_at(socket: Socket, where: ListeningAt, addresses_of: AddressesOf) -> bool:
    """Whether the socket's local address is `where`."""
    if where.protocol is SocketProtocol.UNIX:
        return socket.path == where.name
    if socket.local_port != where.port:
        return False
    if where.address is None:
        return True
    return any(fits(each, socket.local, socket.interface) for each in addresses_of(where.address))


def why_refused(lab: Observable, node: str, address: IPv4Address | IPv6Address, port: int) -> str:
    """Return at which other addresses the node listens on that TCP port, and the remedy.

    "" if it listens at that address, or nowhere. KernelError.
    """
    found = [one for one in sockets(lab, node, (Transport.TCP,)) if one.listening and one.local_port == port]
    if not found or any(fits(address, one.local, one.interface) or one.takes(address) for one in found):
        return ""
    where = ", ".join(str(ListeningAt(SocketProtocol.TCP, port, str(one.local))).removeprefix("tcp/") for one in found)
    if address.version == 6 and all(str(one.local) == "0.0.0.0" for one in found):
        return f"{node} listens at {where}, which is IPv4 only: bind it to [::]:{port} for both, or connect by IPv4"
    return f"{node} listens on port {port} at {where} only"


def file_exists(lab: Observable, node: str, path: str) -> bool:
    """Whether the node has a file of that path. KernelError if the kernel does not report it."""
    try:
        os.close(lab.open_file(node, path, os.O_PATH))
    except KernelError as error:
        if errno_name(error.errno) in ("ENOENT", "ENOTDIR"):
            return False
        raise
    return True


MIN_POLL_INTERVAL_S, MAX_POLL_INTERVAL_S = 0.001, 0.05
SHOWN_CHARACTERS = 2000  # of the output of a command or a service, in the error that reports its failure
READ_BYTES = 65536  # of the output of a command


def visible_paths(plan: Plan) -> tuple[str, ...]:
    """Return the paths that hosts must see: directories of services and commands, and sources of files."""
    of_services = [service.directory for node in plan.nodes for service in node.services]
    of_commands = [command.directory for node in plan.nodes for command in node.commands]
    sources = [source for node in plan.nodes for source in node.tree.sources]
    # The directory of a placed file, because an editor replaces the file itself. /tmp and the like stay private.
    beside = [os.path.dirname(file.source) for node in plan.nodes for file in node.tree.files if file.source]
    return tuple(dict.fromkeys([*of_services, *of_commands, *beside, *sources]))


class Traces(Protocol):
    """Records the system calls of services (labctl.programs.program.ServiceTraces)."""

    def open(self, node: str, service: Service) -> tuple[Sequence[str], int] | None:
        """Return the tracer's command, and the descriptor of its output, which the caller closes; None: not traced."""


class Failure(Struct, frozen=True):
    """A command (`program` is exec) or service that failed and may fail, as a sentence with its output."""

    node: str
    program: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def start(
    lab: Lab,
    plan: Plan,
    keys: Iterable[str] | None = None,
    traces: Traces | None = None,
    *,
    strict: bool = False,
) -> tuple[Failure, ...]:
    """Start services of the plan (`keys`: NODE/SERVICE; None: all, after all commands), and wait until they are ready.

    Services in `after` that are not among them count as ready. Returns the failures of commands and services that
    may fail. LabError, with the output, for any other failure (with `strict`: for all); other services keep running.
    """
    failures = list(run_commands(lab, plan, strict=strict)) if keys is None else []
    services = services_of(plan.nodes)
    order = in_order(services if keys is None else keys, services)
    if order:
        startup = _Startup(lab, plan, {key: services[key] for key in order}, traces, strict=strict)
        startup.run()
        failures += startup.failures
    return tuple(failures)


def run_commands(
    lab: Lab, plan: Plan, nodes: Iterable[str] | None = None, *, strict: bool = False
) -> tuple[Failure, ...]:
    """Run the commands (`exec`) of nodes of the plan (None: all): of each node in order, of all nodes in parallel.

    Returns the failures of commands that may fail (`strict`: none may). LabError, with the output, for the first other
    command that failed; the commands of other nodes are then ended.
    """
    chosen = None if nodes is None else frozenset(nodes)
    queues = [
        _CommandQueue(lab, node.name, node.commands, strict=strict)
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
                    queue.check(selector, ended=queue.node in ended)
    return tuple(failure for queue in queues for failure in queue.failures)


def _nodes_with_new_commands(old: Plan, new: Plan, replaced: Collection[str]) -> tuple[str, ...]:
    """Return the nodes whose commands run after a change: new nodes, and those that have other commands."""
    before = {node.name: node.commands for node in old.nodes if node.name not in replaced}
    return tuple(node.name for node in new.nodes if node.commands and node.commands != before.get(node.name))


class _CommandQueue:
    """The commands of one node, which run one after the other, with their output in memory."""

    def __init__(self, lab: Lab, node: str, commands: Iterable[Command], *, strict: bool) -> None:
        self.lab = lab
        self.node = node
        self.strict = strict
        self.failures: list[Failure] = []
        self.remaining = deque(commands)
        self.process: Process | None = None
        self.output = -1
        self.until = 0.0  # CLOCK_MONOTONIC

    def begin(self, selector: selectors.BaseSelector) -> None:
        """Start the next command that can be started. LabError."""
        while self.remaining and self.process is None:
            command = self.remaining[0]
            self.output = os.memfd_create(
                "labctl-exec", os.MFD_CLOEXEC
            )  # not a pipe: processes that it leaves behind may go on writing
            argv = (_resolve(command.argv[0], command.directory), *command.argv[1:])
            try:
                self.process = self.lab.spawn(
                    self.node,
                    argv,
                    env=dict(command.environment),
                    cwd=command.directory,
                    user=command.user,
                    stdout=self.output,
                    stderr=self.output,
                )
            except (InputError, LabError) as error:
                self._failed(f"cannot start `{_shown(command)}`: {error}", error)
                self.close()
                self.remaining.popleft()
                continue
            self.until = monotonic() + command.within_s
            selector.register(self.process, selectors.EVENT_READ, self)

    def check(self, selector: selectors.BaseSelector, *, ended: bool) -> None:
        """Start the next command if this one has ended. LabError if it failed or timed out, and must not."""
        assert self.process is not None
        status = self.process.wait(0) if ended else None
        if status is None and (ended or monotonic() < self.until):
            return
        if status != 0:
            how = f"timed out after {format_duration(self.remaining[0].within_s)}"
            written = os.pread(self.output, READ_BYTES, max(0, os.fstat(self.output).st_size - READ_BYTES))
            described = how if status is None else _described(status)
            self._failed(f"`{_shown(self.remaining[0])}` {described}. {_output(written)}")
        selector.unregister(self.process)
        self.close()
        self.remaining.popleft()
        self.begin(selector)

    def close(self) -> None:
        """End the command that runs."""
        process, self.process = self.process, None
        if process is not None:
            _end_process(process)
        if self.output != -1:
            os.close(self.output)
            self.output = -1

    def _failed(self, problem: str, cause: Exception | None = None) -> None:
        """Note the failure of the current command. LabError if it must not fail."""
        command = self.remaining[0]
        sentence = f"exec of {self.node}{_place(command.origin)}: {problem}"
        if self.strict or not command.may_fail:
            raise LabError(sentence) from cause
        self.failures.append(Failure(self.node, "exec", sentence))


def stop(lab: Lab, plan: Plan, keys: Iterable[str]) -> None:
    """Stop the services that run, each before those that it depends on."""
    services = services_of(plan.nodes)
    running = _running(lab)
    for key in reversed(in_order(keys, services)):
        node, service = services[key]
        if (node, service.name) in running:
            lab.stop_process(node, service.name)


def not_running(lab: Lab, plan: Plan) -> tuple[str, ...]:
    """Return the services of the plan that do not run: they ended, were stopped, or were never started."""
    running = _running(lab)
    return tuple(key for key, (node, service) in services_of(plan.nodes).items() if (node, service.name) not in running)


@contextmanager
def replacing(
    lab: Lab,
    old: Plan,
    new: Plan,
    removed: Collection[str] = (),
    restarted: Collection[str] = (),
    *,
    strict: bool = False,
) -> Iterator[list[Failure]]:
    """Wrap `lab.reconcile(new)`: stop services that are removed or changed before it, and start services after it.

    Yields the list to which it adds failures as `start` returns them. It starts new and changed services, those that
    do not run, and all services of `restarted` nodes; `removed` are nodes. Use it within `lab.changing()`, which rolls
    back if a service is not ready or the body fails.
    """
    before, after = services_of(old.nodes), services_of(new.nodes)
    replaced = {*removed, *restarted}
    down = set(not_running(lab, old))
    same = {
        key
        for key in before.keys() & after.keys()
        if before[key][0] not in replaced and runs_alike(before[key][1], after[key][1])
    }
    stop(lab, old, [key for key in before if key not in same and key not in down and before[key][0] not in removed])
    failures: list[Failure] = []
    yield failures
    failures += run_commands(lab, new, _nodes_with_new_commands(old, new, replaced), strict=strict)
    failures += start(lab, new, [key for key in after if key not in same or key in down], strict=strict)


def _running(lab: Lab) -> set[tuple[str, str]]:
    """Return (node, name) of the processes that run."""
    return {(info.node, info.name) for info in lab.processes() if _runs(info)}


def _runs(info: ProcessInfo) -> bool:
    return info.state is not ProcessState.ENDED


class _Starting(Struct):
    """A service that has been started and is not ready yet."""

    key: str
    node: str
    service: Service
    until: float  # CLOCK_MONOTONIC
    probe: Process | None = None


class _Startup:
    """Starts services when those that they depend on are ready, and polls until all are."""

    def __init__(
        self,
        lab: Lab,
        plan: Plan,
        services: dict[str, tuple[str, Service]],
        traces: Traces | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.lab = lab
        self.strict = strict
        self.failures: list[Failure] = []
        self.traces = traces
        self.hosts_files = HostsFiles(plan)
        self.waiting = services
        self.starting: dict[str, _Starting] = {}

    def run(self) -> None:
        pause = threading.Event()
        interval_s = MIN_POLL_INTERVAL_S
        try:
            while self.waiting or self.starting:
                if self._start_next() | self._check():
                    interval_s = MIN_POLL_INTERVAL_S
                elif self.starting:
                    pause.wait(interval_s)
                    interval_s = min(interval_s * 2, MAX_POLL_INTERVAL_S)
        finally:
            for one in self.starting.values():
                _end(one)

    def _start_next(self) -> bool:
        """Start the services whose dependencies are ready; return whether there was one."""
        not_ready = self.waiting.keys() | self.starting.keys()
        now = [key for key, (_, service) in self.waiting.items() if not not_ready & set(service.after)]
        for key in now:
            node, service = self.waiting.pop(key)
            if self._launch(key, node, service) and service.ready is not None:
                self.starting[key] = _Starting(key, node, service, monotonic() + service.within_s)
        return bool(now)

    def _launch(self, key: str, node: str, service: Service) -> bool:
        """Start the service; return whether it was started. LabError if it was not, and must not fail."""
        tracer, trace = (self.traces and self.traces.open(node, service)) or ((), None)
        try:
            self.lab.start_process(
                node,
                (_resolve(service.argv[0], service.directory), *service.argv[1:]),
                name=service.name,
                env=dict(service.environment),
                cwd=service.directory,
                user=service.user,
                restart=service.restart,
                terminal=TERMINAL_SIZE if service.tty else None,
                tracer=tracer,
                trace=trace,
            )
        except (InputError, LabError) as error:
            self._failed(key, service, f"cannot start it: {error}", error)
            return False
        finally:
            if trace is not None:
                os.close(trace)
        return True

    def _failed(self, key: str, service: Service, problem: str, cause: Exception | None = None) -> None:
        """Note the failure of the service. LabError if it must not fail."""
        sentence = f"service {key}{_place(service.origin)}: {problem}"
        if self.strict or not service.may_fail:
            raise LabError(sentence) from cause
        self.failures.append(Failure(key.partition("/")[0], service.name, sentence))

    def _check(self) -> bool:
        """Check the started services; return whether one has become ready. LabError if one ended or is late."""
        if not self.starting:
            return False
        infos = {(info.node, info.name): info for info in self.lab.processes()}
        ready = []
        for key, one in self.starting.items():
            late = monotonic() >= one.until  # read before the last check
            info = infos.get((one.node, one.service.name))
            ended = info is None or not _runs(info)
            assert one.service.ready is not None
            if self._is_ready(one, one.service.ready):
                ready.append(key)
            elif ended or late:
                self._failed(key, one.service, self._problem(one, info, ended=ended))
                ready.append(key)  # services after it start
        for key in ready:
            _end(self.starting.pop(key))
        return bool(ready)

    def _is_ready(self, one: _Starting, wanted: Readiness) -> bool:
        from labctl.topology.endpoints import parse_listening

        if wanted.listening:
            addresses_of = partial(self._addresses_of, on=one.node)
            return listens(self.lab, one.node, parse_listening(wanted.listening), addresses_of)
        if wanted.line:
            text = self.lab.read_log(one.node, one.service.name).decode(errors="replace")
            try:
                return search_lines(wanted.line, text.splitlines())
            except TooSlow as error:
                raise LabError(f"{one.node}/{one.service.name}: {error}") from error
        if wanted.file:
            return file_exists(self.lab, one.node, wanted.file)
        return self._succeeds(one, wanted.command)

    def _succeeds(self, one: _Starting, command: tuple[str, ...]) -> bool:
        """Run the readiness command again and again; this never waits for it."""
        if one.probe is None:
            argv = (_resolve(command[0], one.service.directory), *command[1:])
            environment, user = dict(one.service.environment), one.service.user
            one.probe = self.lab.spawn(one.node, argv, env=environment, cwd=one.service.directory, user=user)
        status = one.probe.wait(0)
        if status is not None:
            _end(one)
        return status == 0

    def _addresses_of(self, name: str, on: str) -> tuple[IPv4Address | IPv6Address, ...]:
        from labctl.topology.endpoints import parse_address

        address = parse_address(name)
        return (address,) if address is not None else tuple(map(ip_address, self.hosts_files.find(name, on)))

    def _problem(self, one: _Starting, info: ProcessInfo | None, *, ended: bool) -> str:
        problem = f"not ready within {format_duration(one.service.within_s)}"
        if ended:
            code = info.returncode if info is not None else None
            problem = f"it {'ended' if code is None else _described(code)} before it was ready"
        written = self.lab.read_log(one.node, one.service.name)
        output = _output(written)
        if not written and not ended and not one.service.tty:
            output += f" {BUFFERED}"
        return f"{problem}: expected {one.service.ready}. {output}"


def _place(origin: str) -> str:
    return f" ({origin})" if origin else ""


def _shown(command: Command) -> str:
    """Return the command, or the first line of a script."""
    first, newline, _ = str(command).strip().partition("\n")
    return f"{first} ..." if newline else first


def _described(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


def _output(written: bytes) -> str:
    """Return the end of a program's output, and the remedy if it could not change its user."""
    from labctl.observe.machine import hint_without_users

    whole = written.decode(errors="replace").strip()
    if not whole:
        return "It printed nothing."
    hint = hint_without_users(whole)
    return f"It printed:\n{last_lines(whole, SHOWN_CHARACTERS)}" + (f"\n{hint}" if hint else "")


def _end(one: _Starting) -> None:
    """End a readiness command."""
    probe, one.probe = one.probe, None
    if probe is not None:
        _end_process(probe)


def _end_process(process: Process) -> None:
    import signal

    if process.returncode is None:
        process.signal(signal.SIGKILL, group=True)
    process.close()


def _resolve(program: str, directory: str) -> str:
    """Return the path of a program that is in the directory and not in PATH, else its name."""
    if "/" in program or shutil.which(program):
        return program
    beside = os.path.join(directory, program)
    return beside if os.path.isfile(beside) and os.access(beside, os.X_OK) else program
