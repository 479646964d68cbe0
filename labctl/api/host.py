"""Nodes and links of a lab: where commands run and sockets live."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from socket import AF_INET, SOCK_STREAM
from types import FunctionType
from typing import IO, TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from labctl.api import sockets
from labctl.api.core import check_argv, check_env, not_found
from labctl.api.journal import ActivityKind, describe, show_command
from labctl.api.program import Completed, Program, listening, parse_ready, run
from labctl.plan.operations import SetDown, SetUp
from labctl.programs.program import Command

if TYPE_CHECKING:
    from socket import socket as PythonSocket

    from labctl.api.core import Core
    from labctl.api.lab import Lab
    from labctl.api.netns import Visit
    from labctl.api.program import Ready
    from labctl.kernel.sock_diag import Socket
    from labctl.plan.impairment_changes import Sending
    from labctl.plan.operations import Operation
    from labctl.topology.model import Address, Endpoint, Interface, NodeKind
    from labctl.topology.model import Link as ModelLink
    from labctl.topology.model import Node as ModelNode
    from labctl.topology.model import Topology as Model


Argv = Sequence[str | os.PathLike[str]]
StrPath = str | os.PathLike[str]


Self_ = TypeVar("Self_")
Request = TypeVar("Request")
Returned = TypeVar("Returned")
P = ParamSpec("P")


class RunRequest(NamedTuple):
    """The checked arguments of `run`."""

    command: Command
    timeout_s: float | None
    check: bool
    limit_bytes: int | None


class StartRequest(NamedTuple):
    """The checked arguments of `start`."""

    command: Command
    ready: Ready | None
    ready_timeout_s: float


def takes(
    arguments: Callable[Concatenate[Any, P], Request],
) -> Callable[[Callable[[Self_, Request], Returned]], Callable[Concatenate[Self_, P], Returned]]:
    """Give a method the parameters of `arguments`, which checks them and makes the method's request."""

    def decorate(method: Callable[[Self_, Request], Returned]) -> Callable[Concatenate[Self_, P], Returned]:
        # `arguments` under the method's name, for TypeErrors about arguments. inspect.signature() and help() show its
        # parameters, with what the method returns.
        made: Any = arguments
        checked = FunctionType(made.__code__, made.__globals__, method.__name__, made.__defaults__)
        checked.__qualname__ = method.__qualname__
        checked.__kwdefaults__ = made.__kwdefaults__
        checked.__annotations__ = {**made.__annotations__, "return": method.__annotations__["return"]}

        @wraps(method)
        def called(self: Self_, /, *args: P.args, **options: P.kwargs) -> Returned:
            return method(self, checked(self, *args, **options))

        vars(called)["__wrapped__"] = checked
        return called

    return decorate


class NodeFacts:
    """A node of a lab: what the topology says, the same for `Host` and `AsyncHost`. Objects for one node are equal."""

    def __init__(self, core: Core, name: str) -> None:
        """Used by subclasses. NotFound."""
        self.name = name
        self._core = core
        self._node = core.node(name)

    def __repr__(self) -> str:
        addresses = ", ".join(str(address) for address in self.addresses[:2])
        where = f"of lab {self._core.model.name}, {addresses or self.kind}, {self._core.state}"
        return f"<{type(self).__name__} {self.name} {where}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeFacts) or type(other) is not type(self):
            return NotImplemented
        return (self._core, self.name) == (other._core, other.name)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def kind(self) -> NodeKind:
        """host, router or switch."""
        return self._node.kind

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces of the topology, without `lo`."""
        return self._node.interfaces

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses of the topology, interface by interface."""
        return tuple(self._node.addresses)

    @property
    def ipv4(self) -> str | None:
        """The first IPv4 address, or None."""
        return next((str(address) for address in self.addresses if address.version == 4), None)

    @property
    def ipv6(self) -> str | None:
        """The first IPv6 address, or None."""
        return next((str(address) for address in self.addresses if address.version == 6), None)

    def _run_request(
        self,
        argv: Argv,
        *,
        input: str | bytes | None = None,
        timeout_s: float | None = 60.0,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: StrPath | None = None,
        user: str | None = None,
        limit_bytes: int | None = None,
        tty: bool = False,
    ) -> RunRequest:
        return RunRequest(self._command("run", argv, input, env, cwd, user, tty), timeout_s, check, limit_bytes)

    def _start_request(
        self,
        argv: Argv,
        *,
        ready: int | str | re.Pattern[str] | None = None,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: StrPath | None = None,
        user: str | None = None,
        ready_timeout_s: float = 10.0,
        name: str = "",
        tty: bool = False,
    ) -> StartRequest:
        command = self._command("start", argv, input, env, cwd, user, tty, name)
        return StartRequest(command, None if ready is None else parse_ready(ready), ready_timeout_s)

    def _command(
        self,
        what: str,
        argv: Argv,
        stdin: str | bytes | None,
        env: Mapping[str, str] | None,
        cwd: StrPath | None,
        user: str | None,
        tty: bool,
        name: str = "",
    ) -> Command:
        """Check the command to run or start (`what`) on this node. TypeError; RuntimeError if the lab is closed."""
        words = check_argv(argv)
        self._core.check_open(f"{what} {words[0] if words else 'nothing'} on {self.name}")
        name = name or (os.path.basename(words[0]) if words else "")
        return Command(
            self.name, name, words, check_env(env), None if cwd is None else os.fspath(cwd), stdin, "", user, tty
        )


class Link:
    """A link of a lab, or two ends on one network. Properties ask the kernel each time.

    `set` and `clear` of the latter are for packets from one end to the other; they have no `down` and `up`: ValueError.
    """

    def __init__(self, core: Core, link: ModelLink) -> None:
        """Used by `Lab.link` and `Lab.links`."""
        self._core = core
        self._link = link

    def __repr__(self) -> str:
        return f"<Link {self._link} of lab {self._core.model.name}, {self._core.state}>"

    def __str__(self) -> str:
        return str(self._link)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Link) and (self._core, self._link) == (other._core, other._link)

    def __hash__(self) -> int:
        return hash(self._link)

    @property
    def ends(self) -> tuple[Endpoint, Endpoint]:
        """Node and interface of each end."""
        return (self._link.a, self._link.b)

    @property
    def is_up(self) -> bool:
        """Whether both ends are up and have a carrier. KernelError."""
        from labctl.observe import network

        self._core.check_open(f"read link {self}")
        engine = self._core.engine
        return all(
            any(link.up and link.carrier for link in network.links(engine, end.node) if link.name == end.ifname)
            for end in self.ends
        )

    def down(self) -> None:
        """Take the link down: both ends lose their carrier. KernelError.

        This sets down the interface of a switch's port, else of the second end. The other end keeps its addresses and
        routes.
        """
        end = self._core.model.end_to_take_down(self._link, self._link.b.node)
        self._apply([SetDown(end.node, end.ifname)], "down")

    def up(self) -> None:
        """Bring the link up again, with the addresses and routes that it had before. KernelError."""
        self._apply([SetUp(end.node, end.ifname) for end in self.ends], "up")

    def set(
        self,
        /,
        *,
        delay: str | None = None,
        jitter: str | None = None,
        loss: str | None = None,
        rate: str | None = None,
        sender: str | None = None,
        **others: object,
    ) -> None:
        """Set values for both directions, or only for packets that `sender` (a node) sends. Unset values stay.

        Values are as in files: delay="20ms", jitter="2ms", loss="1%", rate="10mbit"; so are the others: preset="4g",
        gemodel="1% 10%", discipline="fq_codel", ... A preset's access is that of the link's first node. 0 removes one.
        ValueError for a wrong value; MachineError, with the package to install, if the kernel lacks netem (sch_netem)
        or tbf (sch_tbf); KernelError.
        """
        from labctl.plan.impairment_changes import change_impairments
        from labctl.topology.impairments import read_changes

        written = {"delay": delay, "jitter": jitter, "loss": loss, "rate": rate, **others}
        given = {key: value for key, value in written.items() if value is not None}
        values = read_changes(given)
        word = f"set {' '.join(f'{key} {value}' for key, value in given.items())}"
        sendings = self._sendings(sender)
        self._impair(
            f"{word} from {sender}" if sender else word,
            lambda: change_impairments(self._core.engine, self._core.plan, sendings, values),
        )

    def clear(self) -> None:
        """Remove delay, jitter, loss and rate in both directions, including those of the topology file. KernelError."""
        from labctl.plan.impairment_changes import clear_impairments

        sendings = self._sendings(None)
        self._impair("clear", lambda: clear_impairments(self._core.engine, self._core.plan, sendings))

    @property
    def _is_pair(self) -> bool:
        """Whether its ends are on one network, and have no link of their own."""
        return self._link not in self._core.model.links

    def _sendings(self, sender: str | None) -> list[Sending]:
        from labctl.plan.impairment_changes import sendings

        found = sendings(*self.ends, sender, is_pair=self._is_pair)
        if not found:
            raise not_found(
                f"link {self}: `{sender}` is not an end of it", sender or "", [end.node for end in self.ends]
            )
        return found

    def _impair(self, word: str, operations: Callable[[], Sequence[Operation]]) -> None:
        self._core.check_open(f"{word} on link {self}")
        with self._core.journal.noting("", ActivityKind.LINK, f"{self} {word}"):
            self._core.engine.apply(operations())

    def _apply(self, operations: Sequence[Operation], word: str) -> None:
        self._core.check_open(f"set link {self} {word}")
        if self._is_pair:
            raise ValueError(f"{self} cannot go {word}: the ends are on one network, not on a link of their own")
        with self._core.journal.noting("", ActivityKind.LINK, f"{self} {word}"):
            self._core.engine.apply(operations)


class Host(NodeFacts):
    """A node of a lab: runs commands and holds sockets. Two objects for the same node are equal. Thread-safe."""

    def __init__(self, lab: Lab, core: Core, name: str) -> None:
        """Used by `Lab`. NotFound."""
        super().__init__(core, name)
        self.lab = lab

    @takes(NodeFacts._run_request)
    def run(self, request: RunRequest) -> Completed:
        """Run a program to its end. Its output is text: bytes that are not UTF-8 become U+FFFD.

        `input` is its standard input (None: /dev/null). `env` is added to the environment that this process had when it
        made the lab, and to the node's. `user` is a name or number on this machine. The result has the whole output, or
        the first and last `limit_bytes / 2` of each stream. After `timeout_s` (None: no limit) the process group gets
        SIGTERM, and SIGKILL 2 s later. With `tty` the program has a terminal, and `stdout` has both streams.

        ProgramTimedOut has the output so far. With `check`, ProgramFailed if the exit status is not 0. KernelError if
        the kernel cannot run the program (ENOENT: there is no such program).
        """
        completed = run(self._core, request.command, request.timeout_s, request.limit_bytes)
        return completed.check() if request.check else completed

    @takes(NodeFacts._start_request)
    def start(self, request: StartRequest) -> Program:
        """Start a program and return when it is ready. The result is a context manager, which ends the program.

        `ready` is a port to listen on (8000, "tcp/8000", "udp/53", "unix:/run/x") or a compiled pattern for a line of
        output; None: ready as soon as it runs. A socket that listened before the start does not count. Without `with`,
        the program runs until the lab ends.

        With `tty` the program has a terminal, so that C programs print each line at once, and `stdout` has both
        streams. ProgramNotReady, with the output, if the program is not ready within `ready_timeout_s` or ends before;
        labctl then ends it. KernelError if the kernel cannot run it.
        """
        command, ready, ready_timeout_s = request
        line = ready if isinstance(ready, re.Pattern) else ""
        with self._core.journal.noting(self.name, ActivityKind.START, show_command(command.argv)) as entry:
            before = listening(self._core, self.name, ready)
            running, watch = self._core.programs.launch(command, line=line)
            program = Program(self, self._core, running, entry)
            try:
                if ready is not None:
                    program._await_ready(ready, before, watch, ready_timeout_s)
            except BaseException as error:
                entry.end(describe(error), stdout=program.stdout, stderr=program.stderr)
                program.close()
                raise
        return program

    def set_nat(
        self, preset: str | None = "masquerade", /, *, forward: Sequence[str] | None = None, **settings: Any
    ) -> None:
        """Translate addresses from now on as `nat` of a file with that preset and those settings; None: not at all.

        `forward` has ports that lead to hosts ("8080:web:80"); without it, and without `outside`, those from before
        stay. The router forgets its connections. InputError, KernelError.
        """
        from labctl.scenario.table_changes import read_settings, with_nat
        from labctl.topology.filter_schema import FORWARD, NatFile

        wanted = None if preset is None else read_settings(NatFile.read, {"preset": preset, **settings})
        ports = None if forward is None else read_settings(FORWARD.read, list(forward))
        self._change_table(f"nat {preset or 'off'}", lambda topology: with_nat(topology, self.name, wanted, ports))

    def set_firewall(self, preset: str | None = "open", /, **settings: Any) -> None:
        """Accept packets from now on as `firewall` of a file with that preset and those settings; None: all packets.

        Settings are `policy`, `allow`, `deny` and `outside`. InputError, KernelError.
        """
        from labctl.scenario.table_changes import read_settings, with_firewall
        from labctl.topology.filter_schema import FirewallFile

        wanted = None if preset is None else read_settings(FirewallFile.read, {"preset": preset, **settings})
        self._change_table(f"firewall {preset or 'off'}", lambda topology: with_firewall(topology, self.name, wanted))

    def _change_table(self, what: str, changed: Callable[[Model], ModelNode]) -> None:
        self._core.check_open(f"set {what} on {self.name}")
        with self._core.journal.noting(self.name, ActivityKind.LINK, what):
            self._core.changes.table(self._core.engine, self._core.plan, self._core.model, changed)

    def socket(self, family: int = AF_INET, type: int = SOCK_STREAM, proto: int = 0) -> PythonSocket:
        """Return an ordinary socket of this process that lives on the host. The caller owns it.

        Names, interfaces (`fe80::1%eth0`) and paths of AF_UNIX sockets in its addresses are the host's. OSError as of
        socket(2).
        """
        what = f"{sockets.family_name(family)} {sockets.type_name(type)}"
        with self._core.journal.noting(self.name, ActivityKind.SOCKET, what):
            return sockets.make(self._core, self.name, family, type, proto)

    def listen(
        self, port: int | str = 0, *, address: str | None = None, family: int | None = None, backlog: int = 128
    ) -> PythonSocket:
        """Return a listening TCP socket on the host. The caller owns it. With port 0, the kernel chooses the port.

        `address` is an address of the host or a name that it knows; None: all addresses of the family. `family` is by
        default that of `address`, else AF_INET. "unix:/run/x" instead of a port binds an AF_UNIX stream socket to that
        path of the host ("unix:@x": to an abstract name). OSError as of bind(2).
        """
        return sockets.listen(self._core, self.name, port, address, family, backlog)

    def connect(
        self, to: str | tuple[Any, ...], *, timeout_s: float | None = 10.0, family: int | None = None
    ) -> PythonSocket:
        """Return a TCP socket on the host, connected to "server:5000", "[fd00::2]:80" or ("server", 5000). The caller
        owns it.

        "unix:/run/x" connects an AF_UNIX stream socket to that path of the host. A link-local address needs an
        interface of the host: "[fe80::2%eth0]:80". The addresses of a name are tried in turn, IPv4 first, or those of
        `family`. `timeout_s` holds for each address, and is then the socket's timeout. OSError as of connect(2), of the
        last address; NotFound for an unknown name.
        """
        return sockets.connect(self._core, self.name, to, timeout_s, family)

    def netns(self, *, strict: bool = False) -> Visit:
        """Return a context manager inside which this thread uses the host's network and names.

        With the privilege, the thread enters the host's network namespace, has its hostname, and sees this process's
        files with the host's /etc/hosts and /etc/resolv.conf; programs and threads that it starts inside do so, too. A
        thread of an ordinary user could not return from there, so only Python's sockets made inside live on the host,
        and functions of `socket` (names, addresses, interfaces) answer as on the host; `strict` refuses this with
        MachineError. In both cases paths of Python's AF_UNIX sockets are the host's. Contexts nest, and do not affect
        other threads. Do not use it in coroutines: their thread runs others meanwhile.
        """
        from labctl.api.netns import Visit

        self._core.check_open(f"enter {self.name}")
        return Visit(self._core, self.name, strict)

    def sockets(self) -> tuple[Socket, ...]:
        """Return the host's TCP, UDP and AF_UNIX sockets, from sock_diag(7). KernelError."""
        from labctl.observe.network import sockets as observed

        self._core.check_open(f"list the sockets of {self.name}")
        return observed(self._core.engine, self.name)

    def open(self, path: StrPath, mode: str = "r", *, encoding: str | None = None) -> IO[Any]:
        """Call open() on the host's file system, whose /tmp and /run are its own. The caller closes it. OSError."""
        flags = open_flags(mode)
        with self._core.journal.noting(self.name, ActivityKind.FILE, f"open {os.fspath(path)} {mode}"):
            descriptor = sockets.open_file(self._core, self.name, os.fspath(path), flags)
            try:
                text = None if "b" in mode else encoding or "utf-8"
                return open(descriptor, mode.replace("x", "w"), encoding=text)
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, IsADirectoryError):
                    raise sockets.error_about(error, f"host {self.name}: cannot open {os.fspath(path)}") from None
                raise

    def read_text(self, path: StrPath) -> str:
        """Return the content of a file on the host, as UTF-8. OSError."""
        with self.open(path) as file:
            return str(file.read())

    def write_text(self, path: StrPath, text: str) -> None:
        """Write a file on the host, replacing its content. OSError."""
        with self.open(path, "w") as file:
            file.write(text)


def open_flags(mode: str) -> int:
    """Return the flags of open(2) for a mode of open(). ValueError."""
    kinds = set(mode) - set("bt+")
    if len(kinds) != 1 or not kinds <= set("rwax") or len(set(mode)) != len(mode) or {"b", "t"} <= set(mode):
        raise ValueError(f"mode {mode!r}: one of r, w, a and x, with b for bytes and + for both ways")
    made = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT | os.O_APPEND, "x": os.O_CREAT | os.O_EXCL}
    (kind,) = kinds
    access = os.O_RDWR if "+" in mode else os.O_RDONLY if kind == "r" else os.O_WRONLY
    return access | made[kind]
