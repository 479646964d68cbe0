"""A node of a lab, as a program holds it: where commands run and sockets live.

What the topology says of a node: the same for `Host` and `AsyncHost`.

A link between two nodes: the cable, pulled and plugged in again.
"""

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
    from labctl.plan.operations import Operation
    from labctl.topology.model import Address, Endpoint, Impairment, Interface, NodeKind
    from labctl.topology.model import Link as ModelLink


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
    condition: Ready | None
    ready_timeout_s: float


def takes(
    arguments: Callable[Concatenate[Any, P], Request],
) -> Callable[[Callable[[Self_, Request], Returned]], Callable[Concatenate[Self_, P], Returned]]:
    """Give a method the parameters of `arguments`, which checks them and makes the request that the method takes."""

    def decorate(method: Callable[[Self_, Request], Returned]) -> Callable[Concatenate[Self_, P], Returned]:
        @wraps(method)
        def called(self: Self_, /, *args: P.args, **options: P.kwargs) -> Returned:
            return method(self, arguments(self, *args, **options))

        # What inspect.signature() and help() show: the parameters of `arguments`, and what the method returns.
        made: Any = arguments
        shown = FunctionType(made.__code__, made.__globals__, method.__name__, made.__defaults__)
        shown.__kwdefaults__ = made.__kwdefaults__
        shown.__annotations__ = {**made.__annotations__, "return": method.__annotations__["return"]}
        vars(called)["__wrapped__"] = shown
        return called

    return decorate


class NodeFacts:
    """A node of a lab. It has no state of its own: two objects for the same node are equal."""

    def __init__(self, core: Core, name: str) -> None:
        """For the classes that build on it. NotFound."""
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
        """As the topology has them, without `lo`."""
        return self._node.interfaces

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Interface by interface, as the topology has them."""
        return tuple(self._node.addresses)

    @property
    def ipv4(self) -> str | None:
        """The first IPv4 address, None when it has none."""
        return next((str(address) for address in self.addresses if address.version == 4), None)

    @property
    def ipv6(self) -> str | None:
        """The first IPv6 address, None when it has none."""
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
        """Check the command to run or start (`what`) on this node. TypeError; RuntimeError for a closed lab."""
        words = check_argv(argv)
        self._core.check_open(f"{what} {words[0] if words else 'nothing'} on {self.name}")
        name = name or (os.path.basename(words[0]) if words else "")
        return Command(self.name, name, words, check_env(env), path_text(cwd), stdin, "", user, tty)


class Link:
    """A link of a lab. Values that describe the kernel's state are asked for each time."""

    def __init__(self, core: Core, link: ModelLink) -> None:
        """For `Lab.link` and `Lab.links`."""
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

        self._core.check_open(f"look at link {self}")
        states = [
            any(
                link.up and link.carrier
                for link in network.links(self._core.engine, end.node)
                if link.name == end.ifname
            )
            for end in self.ends
        ]
        return all(states)

    def down(self) -> None:
        """Pull the cable: both ends lose their carrier. KernelError.

        The interface of a switch's port, else of the second end, is set down; the other keeps addresses and routes.
        """
        end = self._core.model.end_to_take_down(self._link, self._link.b.node)
        self._apply([SetDown(end.node, end.ifname)], "down")

    def up(self) -> None:
        """Plug the cable in again, with the addresses and routes that it had when it was pulled. KernelError."""
        self._apply([SetUp(end.node, end.ifname) for end in self.ends], "up")

    def set(
        self,
        *,
        delay: str | None = None,
        jitter: str | None = None,
        loss: str | None = None,
        rate: str | None = None,
        sender: str | None = None,
    ) -> None:
        """What happens to packets on the link from now on, in each direction or in what `sender` (a node) sends.

        As files have it: delay="20ms", jitter="2ms", loss="1%", rate="10mbit"; what is not said does not happen any
        more. ValueError for a value that is none; MachineError, with the package that brings it, on a kernel without
        netem (sch_netem) or tbf (sch_tbf); KernelError.
        """
        from labctl.topology.impairments import parse

        impairment = parse({"delay": delay, "jitter": jitter, "loss": loss, "rate": rate})
        self._impair(impairment, sender, f"set {impairment}" + (f" from {sender}" if sender else ""))

    def clear(self) -> None:
        """Nothing happens to packets any more, in either direction, whatever the topology says. KernelError."""
        self._impair(None, None, "clear")

    def _impair(self, impairment: Impairment | None, sender: str | None, word: str) -> None:
        from labctl.plan.build import set_impairments

        self._core.check_open(f"{word} on link {self}")
        ends = [(end.node, end.ifname) for end in self.ends if sender in (None, end.node)]
        if not ends:
            raise not_found(f"link {self}: `{sender}` is at neither end", sender or "", [end.node for end in self.ends])
        with self._core.journal.noting("", ActivityKind.LINK, f"{self} {word}"):
            self._core.engine.apply(set_impairments(self._core.plan, ends, impairment))

    def _apply(self, operations: Sequence[Operation], word: str) -> None:
        self._core.check_open(f"set link {self} {word}")
        with self._core.journal.noting("", ActivityKind.LINK, f"{self} {word}"):
            self._core.engine.apply(operations)


class Host(NodeFacts):
    """A node of a lab: where commands run and sockets live. Two objects for the same node are equal. Thread-safe."""

    def __init__(self, lab: Lab, core: Core, name: str) -> None:
        """For `Lab`. NotFound."""
        super().__init__(core, name)
        self.lab = lab

    @takes(NodeFacts._run_request)
    def run(self, request: RunRequest) -> Completed:
        """Run a program to its end. Its output is text: other bytes than UTF-8 become U+FFFD.

        `input` is its standard input (None: /dev/null). `env` is over this process's environment, as it was when the
        lab was made, and the node's. `user` is a name or number of this machine. All that it writes is kept in memory,
        or of each stream the first and last `limit_bytes / 2`. After `timeout_s` (None: no limit) its process group
        gets SIGTERM, and SIGKILL 2 s later. With `tty` it writes to a terminal, and `stdout` has both streams.

        ProgramTimedOut has what it wrote till then. With `check`, ProgramFailed when it does not end with status 0.
        KernelError when it cannot be run (ENOENT: there is no such program).
        """
        completed = run(self._core, request.command, request.timeout_s, request.limit_bytes)
        return completed.check() if request.check else completed

    @takes(NodeFacts._start_request)
    def start(self, request: StartRequest) -> Program:
        """Start a program and return when it is ready; a context manager, which ends it.

        `ready` is a port that it is to listen on (8000, "tcp/8000", "udp/53", "unix:/run/x"), or a compiled pattern
        that a line of its output is to match; None: as soon as it runs. A socket that listened there before is not its
        own and does not count. Without `with` it runs as long as the lab.

        With `tty` it writes to a terminal, and `stdout` has both streams: C programs hold back nothing that they print.
        ProgramNotReady, with what it wrote, when it is not ready within `ready_timeout_s` or ends before; it has been
        ended then. KernelError when it cannot be run.
        """
        command, condition, ready_timeout_s = request
        line = condition if isinstance(condition, re.Pattern) else ""
        with self._core.journal.noting(self.name, ActivityKind.START, show_command(command.argv)) as entry:
            before = listening(self._core, self.name, condition)
            running, watch = self._core.programs.launch(command, line=line)
            program = Program(self, self._core, running, entry)
            try:
                if condition is not None:
                    program._await_ready(condition, before, watch, ready_timeout_s)
            except BaseException as error:
                entry.end(describe(error), stdout=program.stdout, stderr=program.stderr)
                program.close()
                raise
        return program

    def socket(self, family: int = AF_INET, type: int = SOCK_STREAM, proto: int = 0) -> PythonSocket:
        """An ordinary socket of this process that lives on the host; the caller owns it.

        In the addresses that it is given, names, interfaces (`fe80::1%eth0`) and paths of AF_UNIX sockets are the
        host's. OSError as of socket(2).
        """
        what = f"{sockets.family_name(family)} {sockets.type_name(type)}"
        with self._core.journal.noting(self.name, ActivityKind.SOCKET, what):
            return sockets.make(self._core, self.name, family, type, proto)

    def listen(
        self, port: int | str = 0, *, address: str | None = None, family: int | None = None, backlog: int = 128
    ) -> PythonSocket:
        """A listening TCP socket on the host (port 0: one of the kernel's choice); the caller owns it.

        `address` is one of the host's, or a name that it knows; None: all of that family. Without a `family` it is
        that of `address`, else AF_INET. "unix:/run/x" instead of a port is an AF_UNIX stream socket bound to that path
        of the host ("unix:@x": to an abstract name). OSError as of bind(2).
        """
        return sockets.listen(self._core, self.name, port, address, family, backlog)

    def connect(
        self, to: str | tuple[Any, ...], *, timeout_s: float | None = 10.0, family: int | None = None
    ) -> PythonSocket:
        """A TCP socket on the host, connected to "server:5000", "[fd00::2]:80" or ("server", 5000); the caller owns it.

        "unix:/run/x" is an AF_UNIX stream socket, connected to that path of the host. A link-local address is written
        with the host's interface: "[fe80::2%eth0]:80". The addresses of a name are tried in turn, IPv4 first, or those
        of `family`. `timeout_s` holds for each, and stays the socket's timeout. OSError as of connect(2), of the last
        one; NotFound for an unknown name.
        """
        return sockets.connect(self._core, self.name, to, timeout_s, family)

    def netns(self, *, strict: bool = False) -> Visit:
        """A context manager: what this thread does inside is done on the host, its names and network.

        Where this process has the right, the thread enters the host's network namespace, has its hostname, and sees
        this process's own files with the host's /etc/hosts and /etc/resolv.conf; programs and threads that it starts
        inside are there, too. An ordinary user's thread could not come back: there the Python sockets that it makes are
        the host's, and so is what functions of `socket` answer (names, addresses, interfaces). `strict` refuses that
        with MachineError. In both cases the paths of Python's AF_UNIX sockets are the host's. Contexts nest; other
        threads are not concerned. Not for coroutines, whose thread goes on with others while they wait.
        """
        self._core.check_open(f"enter {self.name}")
        return self._core.visits.visit(self.name, strict=strict)

    def sockets(self) -> tuple[Socket, ...]:
        """The host's sockets, as the kernel (sock_diag(7)) tells them: TCP, UDP, AF_UNIX. KernelError."""
        from labctl.observe.network import sockets as observed

        self._core.check_open(f"list the sockets of {self.name}")
        return observed(self._core.engine, self.name)

    def open(self, path: StrPath, mode: str = "r", *, encoding: str | None = None) -> IO[Any]:
        """open() on the host's file system, whose /tmp and /run are its own; the caller closes it. OSError."""
        flags = open_flags(mode)
        with self._core.journal.noting(self.name, ActivityKind.FILE, f"open {os.fspath(path)} {mode}"):
            descriptor = sockets.open_file(self._core, self.name, os.fspath(path), flags)
            try:
                text = None if "b" in mode else encoding or "utf-8"
                return open(descriptor, mode.replace("x", "w"), encoding=text)
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, IsADirectoryError):
                    raise sockets.told(error, f"host {self.name}: cannot open {os.fspath(path)}") from None
                raise

    def read_text(self, path: StrPath) -> str:
        """The content of a file on the host, as UTF-8. OSError."""
        with self.open(path) as file:
            return str(file.read())

    def write_text(self, path: StrPath, text: str) -> None:
        """Write a file on the host; what was in it is gone. OSError."""
        with self.open(path, "w") as file:
            file.write(text)


def path_text(path: StrPath | None) -> str | None:
    """A path as text."""
    return None if path is None else os.fspath(path)


def open_flags(mode: str) -> int:
    """open(2)'s flags for open()'s mode. ValueError."""
    kinds = set(mode) - set("bt+")
    if len(kinds) != 1 or not kinds <= set("rwax") or len(set(mode)) != len(mode) or {"b", "t"} <= set(mode):
        raise ValueError(f"mode {mode!r}: one of r, w, a and x, with b for bytes and + for both ways")
    made = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT | os.O_APPEND, "x": os.O_CREAT | os.O_EXCL}
    (kind,) = kinds
    access = os.O_RDWR if "+" in mode else os.O_RDONLY if kind == "r" else os.O_WRONLY
    return access | made[kind]
