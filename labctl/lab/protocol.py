"""Messages between a lab's clients and its keeper, and the frames that carry them over a Unix stream socket.

A frame is a header (length of the body, number of the request, number of descriptors), a body in JSON, and descriptors
(SCM_RIGHTS) that travel with the header. Clients number their requests; a reply carries its request's number, so that
a client recognises and drops the reply to a request that timed out. `decode` checks every message against its type,
so that a handler sees only values that its annotations allow.
"""

from __future__ import annotations

import array
import errno
import json
import operator
import os
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, TypeVar

from labctl.errors import (
    DeadlineExceeded,
    InputError,
    KernelError,
    LabctlError,
    LabError,
    LabGone,
    LabImpossible,
    MachineError,
)
from labctl.plan.drop_rules import DropRule
from labctl.structs import Meta, MsgspecError, Struct, convert, to_builtins
from labctl.topology.model import Restart, read_address
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.plan.operations import Plan


class ProcessState(StrEnum):
    """The life cycle of a program."""

    RUNNING = "running"
    WAITING = "waiting"  # it ended, and will be restarted after a pause
    STOPPING = "stopping"  # it was sent a signal to end it
    ENDED = "ended"


class ProcessInfo(Struct, frozen=True):
    """A program on a node. Detached programs have a name; "" for one that ends with its client."""

    node: str
    name: str
    pid: int  # on its host
    argv: tuple[str, ...]
    started_at: float  # seconds since 1970, the last start
    state: ProcessState
    restarts: int = 0
    returncode: int | None = None  # of the last end, as Popen.returncode
    machine_pid: int = 0  # in the machine's PID namespace (for nsenter); 0 when it is unknown
    restart: Restart = Restart.NO
    problem: str = ""  # why it could not be restarted

    @property
    def is_detached(self) -> bool:
        """Whether it outlives the client that started it, and has a log."""
        return bool(self.name)


class ProcessUpdate(Struct, frozen=True):
    """The state of a detached program from some moment on, for clients that watch it."""

    state: ProcessState
    pid: int  # on its host; 0 when it does not run
    restarts: int
    returncode: int | None
    is_log_complete: bool  # it has ended, and its log holds everything that it wrote

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=BiI?i?")

    def pack(self) -> bytes:
        """Encode for `unpack`, in `LAYOUT.size` bytes."""
        state, code = list(ProcessState).index(self.state), self.returncode
        return self.LAYOUT.pack(state, self.pid, self.restarts, code is not None, code or 0, self.is_log_complete)

    @classmethod
    def unpack(cls, data: bytes) -> ProcessUpdate:
        """Decode the result of `pack`."""
        state, pid, restarts, has_ended, code, is_log_complete = cls.LAYOUT.unpack(data)
        return cls(list(ProcessState)[state], pid, restarts, code if has_ended else None, is_log_complete)


class NodeInfo(Struct, frozen=True):
    """A node of a running lab."""

    name: str
    kind: str  # labctl.topology.model.NodeKind's value
    network: str  # path of its network namespace on the machine, /proc/KEEPER/fd/N (for nsenter --net=)
    init_pid: int = 0  # its process 1, in the machine's PID namespace; 0 before the first program on it


class Description(Struct, frozen=True):
    """What a keeper reports about its lab."""

    name: str
    topology: str
    uid: int  # the owner's
    started_at: float  # seconds since 1970
    keeper_pid: int  # in the machine's PID namespace
    rootless: bool  # it lives in a user namespace
    nodes: tuple[NodeInfo, ...]
    processes: tuple[ProcessInfo, ...]
    source: str = ""  # the topology file's text, or what the lab was made of (`star:3`)
    plan_json: Any = None  # the plan in force, as labctl.plan.operations writes it

    @property
    def plan(self) -> Plan:
        """The plan in force: what the lab was made of, or last reconciled to."""
        from labctl.plan.operations import plan_from_json

        return plan_from_json(self.plan_json)


# The second argument of the nursery. The kernel sends the parent-death signal when the *thread* that started a process
# ends, so only a nursery that the main thread started can use it.
DIES_WITH_OWNER, WATCHES_OWNER = "dies-with-owner", "watches-owner"

# A request to the nursery is one of these words, with descriptors for boot: its channel, liveness pipe and stderr.
EPHEMERAL, STAYS = "ephemeral", "stays"
BOOT_REQUEST_DESCRIPTORS = 3
BOOT_REPLY = struct.Struct("=ii")  # an errno or 0, and boot's pid; a pidfd of boot comes with it

HEADER = struct.Struct("=IIB")
MAX_DESCRIPTORS = 250  # SCM_MAX_FD is 253 (unix(7))
MAX_BODY_BYTES = 1 << 30  # of `Open` and of replies
MAX_REQUEST_BYTES = 64 << 20  # of any other request: a plan of some 1,000 routers

STATUS = struct.Struct("=i")  # on a status pipe, once: the exit status, or minus the signal's number
# Logs of detached processes: the size of a half, and an entry of NAME.streams: offset, 0 for stdout or 1 for stderr.
HALF_BYTES = 8 << 20
SWITCH = struct.Struct("=II")

Pairs = tuple[tuple[str, str], ...]
PlanJson = Any  # of `labctl.plan.operations`: the process that executes a plan decodes it
Int32 = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
Positive = Annotated[int, Meta(ge=1, lt=2**31)]
Id = Annotated[int, Meta(ge=0, lt=2**32 - 1)]  # of a user or group; -1 means "leave it" to setresuid(2)
Mode = Annotated[int, Meta(ge=0, le=0o7777)]
Signal = Annotated[int, Meta(ge=0, le=64)]  # signal(7)
Size = Annotated[int, Meta(ge=0, lt=2**16)]  # of a terminal: TIOCSWINSZ(2const)
Arguments = Annotated[tuple[str, ...], Meta(min_length=1)]


class Message(Struct, frozen=True, array_like=True, tag=True, tag_field="tag", forbid_unknown_fields=True):
    """A message: on the wire a list of its class's name and its fields, in order."""


class Request(Message, frozen=True):
    """A message from a client to the keeper. Unless its class names another reply, `Done` or `Failed` answers it."""


class Reply(Message, frozen=True):
    """A message from the keeper to a client."""


class Open(Request, frozen=True):
    """The first request: make the lab."""

    lab: str
    plan: PlanJson
    environment: Pairs  # the owner's
    cwd: str  # the owner's
    visible_paths: tuple[str, ...]  # to stay visible on hosts
    topology: str = ""
    source: str = ""  # what the plan was made of, for people
    uid: int = 0  # the owner's
    # The lab has a state directory and may be published; descriptors: the listening socket, those of the directory.
    is_registered: bool = False
    hidden_paths: tuple[str, ...] = ()  # directories that hosts do not see
    has_outside: bool = False  # some node has `nat`, `expose` or `limits` (labctl.lab.keeper.external)
    exposed: tuple[tuple[str, int, int], ...] = ()  # the first descriptors (labctl.lab.client.boot_process)


class Publish(Request, frozen=True):
    """Let clients find a registered lab by its name. It outlives its first client, unless it is `owned`."""

    owned: bool = False


class Hello(Request, frozen=True):
    """A client's first request; `version` is its VERSION. Answered by `Welcome`.

    Descriptor: the client's PID namespace. A keeper serves processes of the namespace in which its lab was made.
    Programs of another lab are in another one, and cannot open this one.
    """

    version: int


class Describe(Request, frozen=True):
    """Report on the lab. Answered by `Described`."""


class Processes(Request, frozen=True):
    """List the lab's programs. Answered by `ProcessRows`."""


class Down(Request, frozen=True):
    """End the lab. Answered by `Done` before it ends."""


class Reconcile(Request, frozen=True):
    """Change the lab to this plan, whole or not at all."""

    topology: str
    plan: PlanJson
    source: str


# uid, gid and supplementary groups of a program
Identity = tuple[Id, Id, tuple[Id, ...]]


class StartProcess(Request, frozen=True):
    """Run a program that outlives its client and has a log. Answered by `ProcessRows` with one row."""

    node: str
    name: str  # "": the keeper chooses one
    argv: Arguments
    environment: Pairs
    cwd: str | None
    user: Identity | None
    restart: Restart
    terminal: tuple[Size, Size] | None = None  # rows, columns of a terminal that replaces its pipes
    is_cwd_optional: bool = False  # as of `Spawn`


class StopProcess(Request, frozen=True):
    """End a detached process. Answered by `ProcessRows` with one row, when it has ended."""

    node: str
    name: str
    number: Signal = 15  # SIGTERM: the signal 2 s before SIGKILL


class SignalProcess(Request, frozen=True):
    """Signal a detached process; its `restart` still applies. Answered by `Done`: 1, or 0 when it does not run."""

    node: str
    name: str
    number: Signal
    group: bool  # its process group


class WatchProcess(Request, frozen=True):
    """Follow a detached process.

    Answered by `Done` with descriptors of the newer half of its log and of its streams
    (labctl.lab.keeper.process_table), after, if `updates`, that of a pipe that carries a `ProcessUpdate` now and at
    each change.
    """

    node: str
    name: str
    updates: bool = True


class OpenLog(Request, frozen=True):
    """Read a detached process's log. Answered by `Done` with a descriptor for each half that exists, older first."""

    node: str
    name: str


class Apply(Request, frozen=True):
    """Execute further operations on the lab's nodes."""

    operations: PlanJson


class SetRollback(Request, frozen=True):
    """Replace the rollback actions of this client, which the keeper executes when the client disconnects."""

    operations: PlanJson = ()
    undrop: tuple[str, ...] = ()  # nodes whose drop rules are removed


class Spawn(Request, frozen=True):
    """Run a program. Descriptors: those of stdin, stdout, stderr for which `stdio` is true; /dev/null for others.

    Answered by `Spawned` with two descriptors: the status pipe and the pidfd.
    """

    node: str
    argv: Arguments
    environment: Pairs  # over the node's
    cwd: str | None
    stdio: tuple[bool, bool, bool]
    user: Identity | None = None  # None: the lab's owner
    terminal: tuple[Size, Size] | None = (
        None  # rows, columns of a terminal of its own; its master is the 3rd descriptor
    )
    is_cwd_optional: bool = False  # without `cwd` on the host, use the owner's directory or the root
    is_terminal_plain: bool = False  # no line end conversion, no echo, TERM=dumb


class SpawnAgents(Request, frozen=True):
    """Fork an agent on each of these nodes.

    Answered by `AgentsSpawned` with three descriptors for each: its status pipe, its pidfd and its channel.
    """

    nodes: tuple[str, ...]


class OpenSocket(Request, frozen=True):
    """Make a socket on the node. Answered by `Done` with the descriptor."""

    node: str
    family: Int32
    type: Int32
    proto: Int32


class BeginTransaction(Request, frozen=True):
    """Lock the lab for changes by this client. Answered by `Done` when no other client holds the lock."""


class EndTransaction(Request, frozen=True):
    """Commit or roll back; a client that disconnects without it is rolled back."""

    commit: bool


class OpenNetwork(Request, frozen=True):
    """Open the node's network namespace. Answered by `Done` with the descriptor."""

    node: str


class OpenFile(Request, frozen=True):
    """open(2) in the node's mounts. Answered by `Done` with the descriptor."""

    node: str
    path: str
    flags: Int32
    mode: Mode


class BindSocket(Request, frozen=True):
    """bind(2) of an AF_UNIX socket to a path in the node's mounts. Descriptor: the socket."""

    node: str
    path: str
    cwd: str  # base of a relative path


class PutFile(Request, frozen=True):
    """Write a file of the lab's shared directory. Descriptor: its content, from offset 0."""

    name: str
    mode: Mode


class Drop(Request, frozen=True):
    """Add a drop rule on the node."""

    node: str
    rule: DropRule


class Undrop(Request, frozen=True):
    """Remove the node's drop rules."""

    node: str


class SignalGroup(Request, frozen=True):
    """Send a signal to the process group of a spawned process that has not been reaped."""

    process: Positive  # `Spawned.process`
    number: Signal


class Done(Reply, frozen=True):
    """The request succeeded; `value` is its result if it has one."""

    value: int = 0


class Spawned(Reply, frozen=True):
    """The program's numbers: `process` in the keeper's PID namespace, `pid` on its host."""

    process: int
    pid: int


class AgentsSpawned(Reply, frozen=True):
    """The agents, in the order of the request."""

    agents: tuple[Spawned, ...]


class Welcome(Reply, frozen=True):
    """The keeper's VERSION and the lab's nodes."""

    version: int
    nodes: tuple[str, ...]


class Described(Reply, frozen=True):
    description: Description


class ProcessRows(Reply, frozen=True):
    rows: tuple[ProcessInfo, ...]


class FailureKind(StrEnum):
    """The error class of a failure."""

    KERNEL = "kernel"
    INPUT = "input"
    IMPOSSIBLE = "impossible"
    MACHINE = "machine"
    LAB = "lab"


_ERRORS: dict[FailureKind, type[InputError | LabError | MachineError]] = {  # subclasses first
    FailureKind.INPUT: InputError,
    FailureKind.IMPOSSIBLE: LabImpossible,
    FailureKind.MACHINE: MachineError,
    FailureKind.LAB: LabError,
}


class Failed(Reply, frozen=True):
    """The request failed. KERNEL has all fields but `message`, the other kinds only `message`."""

    kind: FailureKind
    message: str = ""
    subject: str = ""
    attempted: str = ""
    errno: int = 0
    detail: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: LabctlError) -> Failed:
        """Return the message for an error."""
        if isinstance(error, KernelError):
            return cls(FailureKind.KERNEL, "", error.subject, error.attempted, error.errno, error.detail, error.hint)
        kinds = (kind for kind, error_class in _ERRORS.items() if isinstance(error, error_class))
        return cls(next(kinds, FailureKind.LAB), str(error))

    def error(self) -> LabError | MachineError | InputError:
        """Return the error to raise on the other side."""
        if self.kind is FailureKind.KERNEL:
            return KernelError(self.subject, self.attempted, self.errno, detail=self.detail, hint=self.hint)
        return _ERRORS[self.kind](self.message)


_UNIONS: dict[Any, Any] = {base: reduce(operator.or_, base.__subclasses__()) for base in (Request, Reply)}

# Changes with any message: a keeper may be older than the labctl that connects to it.
VERSION = zlib.crc32(
    repr([(kind.__name__, kind.__annotations__) for base in _UNIONS for kind in base.__subclasses__()]).encode()
)

FOREIGN_CLIENT = (
    "cannot serve this process: it is not in the PID namespace in which the lab was made. A program of another lab or "
    "of a container cannot control the lab. Run labctl where the lab was made."
)


M = TypeVar("M", bound=Message)


class Malformed(InputError):
    """The bytes are not a message of the expected class."""


def encode(message: Message) -> bytes:
    """Encode a message as JSON."""
    return json.dumps(to_builtins(message, enc_hook=str), separators=(",", ":")).encode("ascii")


def decode(body: bytes, kind: type[M]) -> M:
    """Decode the result of `encode`: a message of that class, which may be `Request` or `Reply`.

    The standard library parses JSON, since msgspec refuses the surrogates that stand for bytes that are not UTF-8 in
    file names and arguments.

    Raises:
        Malformed: the bytes are not such a message.
    """
    try:
        message: M = convert(json.loads(body, parse_constant=_refuse), _UNIONS.get(kind, kind), dec_hook=read_address)
        return message
    except (ValueError, RecursionError, MsgspecError) as error:
        raise Malformed(f"lab: cannot read a message of {len(body)} bytes: {error}.") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


class Frame(Struct, frozen=True):
    """A message as it arrived; the receiver owns `descriptors` (all close-on-exec)."""

    number: int
    message: Message
    descriptors: tuple[int, ...]


class NotSent(KernelError):
    """The kernel refused a message before any of it was sent."""


class Channel:
    """One end of a stream socket, framed. It owns the socket; one thread at a time may send, one receive.

    `receives` is the class of the messages that the other end sends.
    """

    def __init__(self, sock: socket.socket, receives: type[Message] = Reply) -> None:
        self._socket = sock
        self._receives = receives

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, number: int, message: Message, descriptors: Sequence[int] = (), *, until: float | None) -> None:
        """Send a frame; `until` is a deadline (CLOCK_MONOTONIC), None for none. LabGone, DeadlineExceeded."""
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{len(descriptors)} descriptors do not fit in one message")
        body = encode(message)
        if len(body) > MAX_REQUEST_BYTES and isinstance(message, Reconcile):
            raise InputError(
                f"lab: cannot reconcile it to this plan: a plan of {len(body)} bytes is more than {MAX_REQUEST_BYTES}. "
                f"Take the lab down and up again."
            )
        header = HEADER.pack(len(body), number, len(descriptors))
        with self._mapped_errors():
            self._settimeout(until)
            sent = self._socket.sendmsg([header + body], ancillary_data(descriptors), socket.MSG_NOSIGNAL)
            rest = memoryview(header + body)[sent:]
            try:
                while rest:
                    self._settimeout(until)
                    rest = rest[self._socket.send(rest, socket.MSG_NOSIGNAL) :]
            except TimeoutError as error:
                raise LabGone("lab: the keeper stopped reading inside a message.") from error

    def receive(self, *, until: float | None) -> Frame | None:
        """Return the next frame, None at the end of the stream.

        Raises:
            DeadlineExceeded: no frame came before `until`.
            LabGone: the stream ended, or stalled until then, inside a frame.
            Malformed: the body is not a message that the other end may send.
        """
        with self._mapped_errors():
            self._settimeout(until)
            ancillary = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
            header, control, flags, _ = self._socket.recvmsg(HEADER.size, ancillary, socket.MSG_CMSG_CLOEXEC)
            descriptors = received_descriptors(control)
            if not header:
                return None
            try:  # from here on, an incomplete read leaves the stream out of sync
                header += self._exactly(HEADER.size - len(header), until)
                length, number, count = HEADER.unpack(header)
                if flags & socket.MSG_CTRUNC:
                    self._exactly(length, until)
                    raise KernelError("lab", "take over a descriptor", errno.EMFILE, hint="See `ulimit -n`.")
                if length > MAX_BODY_BYTES or count != len(descriptors):
                    raise LabGone(f"lab: malformed frame: {length} bytes, {len(descriptors)} descriptors.")
                return Frame(number, decode(self._exactly(length, until), self._receives), descriptors)
            except BaseException as error:
                for descriptor in descriptors:
                    os.close(descriptor)
                if isinstance(error, TimeoutError):
                    raise LabGone("lab: the rest of a message did not come in time.") from error
                raise

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def detach(self) -> socket.socket:
        """Return the socket, which the caller owns from here on; do not use the channel afterwards."""
        return self._socket

    def _exactly(self, size: int, until: float | None) -> bytes:
        received = bytearray()
        while len(received) < size:
            self._settimeout(until)
            part = self._socket.recv(min(size - len(received), 1 << 20))
            if not part:
                raise LabGone("lab: the stream ended inside a message.")
            received += part
        return bytes(received)

    def _settimeout(self, until: float | None) -> None:
        if until is None:
            self._socket.settimeout(None)
            return
        left = until - monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    @contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise DeadlineExceeded("lab: the keeper did not answer in time.") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise LabGone("lab: the keeper has ended.") from error
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            hint = "Descriptors that a user is sending count against `ulimit -n` (unix(7)). Raise it, or try again."
            raise NotSent("lab", "send it a descriptor", error.errno, hint=hint) from error


def ancillary_data(descriptors: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """Return the ancillary data that sends the descriptors (SCM_RIGHTS), for sendmsg."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def received_descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, ...]:
    """Return the descriptors in the ancillary data that recvmsg returned."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return tuple(found)
