"""The messages between a lab's clients and its keeper, and the frames that carry them over a Unix stream socket.

A frame is a header (length of the body, number of the request, number of descriptors), a body in JSON, and descriptors
(SCM_RIGHTS) that travel with the header. Clients number their requests; a reply carries its request's number, so that
a client recognises and drops the reply to a request that it gave up on. `decode` checks every message against its type,
so that a handler sees only values that its annotations allow.

What a keeper reports about its lab: values that commands show.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, TypeAlias, get_args

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
from labctl.structs import Struct, msgspec
from labctl.topology.model import Restart, read_address
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.plan.operations import Plan


__all__ = ["Description", "NodeInfo", "ProcessInfo", "ProcessNews", "ProcessState", "Restart"]


class ProcessState(StrEnum):
    """How a process of a lab is doing."""

    RUNNING = "running"
    WAITING = "waiting"  # it ended, and is going to be started again after a pause
    STOPPING = "stopping"  # it was told to end
    ENDED = "ended"


class ProcessInfo(Struct, frozen=True):
    """A program on a node. Names are those of detached processes; "" for one that ends with its client."""

    node: str
    name: str
    pid: int  # on its host
    argv: tuple[str, ...]
    started_at: float  # seconds since 1970, the last start
    state: ProcessState
    restarts: int = 0
    returncode: int | None = None  # of the last end, as Popen.returncode
    machine_pid: int = 0  # as the machine sees it (for nsenter); 0 when it is not known
    restart: Restart = Restart.NO
    problem: str = ""  # why it could not be started again

    @property
    def is_detached(self) -> bool:
        """Whether it outlives the client that started it, and has a log."""
        return bool(self.name)


class ProcessNews(Struct, frozen=True):
    """How a detached process is doing from some moment on, as its watchers hear it."""

    state: ProcessState
    pid: int  # on its host; 0 when it does not run
    restarts: int
    returncode: int | None
    is_log_complete: bool  # it has ended, and all that it wrote is in its log

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=BiI?i?")

    @classmethod
    def of(cls, info: ProcessInfo, *, is_log_complete: bool) -> ProcessNews:
        """The news that there are about a process."""
        return cls(info.state, info.pid, info.restarts, info.returncode, is_log_complete)

    def pack(self) -> bytes:
        """For `unpack`, `LAYOUT.size` bytes."""
        state, code = list(ProcessState).index(self.state), self.returncode
        return self.LAYOUT.pack(state, self.pid, self.restarts, code is not None, code or 0, self.is_log_complete)

    @classmethod
    def unpack(cls, data: bytes) -> ProcessNews:
        """The news that `pack` wrote."""
        state, pid, restarts, has_ended, code, is_log_complete = cls.LAYOUT.unpack(data)
        return cls(list(ProcessState)[state], pid, restarts, code if has_ended else None, is_log_complete)


class NodeInfo(Struct, frozen=True):
    """A node of a running lab."""

    name: str
    kind: str  # labctl.topology.model.NodeKind's value
    network: str  # /proc/KEEPER/fd/N as the machine sees it: its network namespace (for nsenter --net=)
    init_pid: int = 0  # its process 1 as the machine sees it; 0 before the first program on it


class Description(Struct, frozen=True):
    """What a keeper tells of its lab."""

    name: str
    topology: str
    uid: int  # the owner's
    started_at: float  # seconds since 1970
    keeper_pid: int  # as the machine sees it
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


HEADER = struct.Struct("=IIB")
MAX_DESCRIPTORS = 250  # SCM_MAX_FD is 253 (unix(7))
MAX_BODY_BYTES = 1 << 30  # of `Open` and of replies
MAX_REQUEST_BYTES = 64 << 20  # of any other request: a plan of some 1,000 routers

# Logs of detached processes: the size of a half, and an entry of NAME.streams: offset, 0 for stdout or 1 for stderr.
HALF_BYTES = 8 << 20
SWITCH = struct.Struct("=II")

Pairs = tuple[tuple[str, str], ...]
PlanJson = Any  # what `labctl.plan.operations` makes of nodes and operations: only who carries them out decodes them
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Id = Annotated[int, msgspec.Meta(ge=0, lt=2**32 - 1)]  # of a user or group; -1 means "leave it" to setresuid(2)
Mode = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
Signal = Annotated[int, msgspec.Meta(ge=0, le=64)]  # signal(7)
Size = Annotated[int, msgspec.Meta(ge=0, lt=2**16)]  # of a terminal: TIOCSWINSZ(2const)
Arguments = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Message(Struct, frozen=True, array_like=True, tag=True, tag_field="tag", forbid_unknown_fields=True):
    """A message: on the wire a list of its class's name and its fields, in order."""


class Open(Message, frozen=True):
    """The first request: make the lab."""

    lab: str
    plan: PlanJson
    environment: Pairs  # the owner's
    cwd: str  # the owner's
    visible_paths: tuple[str, ...]  # to stay visible on hosts
    topology: str = ""
    source: str = ""  # what the plan was made of, for people
    uid: int = 0  # the owner's
    stays: bool = (
        False  # after `Stay`; descriptors then: those of `labctl.lab.client.state_dir.Place`, and the listening socket
    )
    hidden_paths: tuple[str, ...] = ()  # directories that hosts do not see
    has_outside: bool = False  # some node has `nat`, `expose` or `limits` (labctl.lab.keeper.external)
    exposed: tuple[
        tuple[str, int, int], ...
    ] = ()  # what the first descriptors are for (labctl.lab.client.boot_process)


class Stay(Message, frozen=True):
    """A lab that was opened to stay is found by its name from here on, and its first client may go.

    With `owned` it is found, but still ends with its first client.
    """

    owned: bool = False


class Hello(Message, frozen=True):
    """A client's first request; `version` is its VERSION. Answered by `Welcome`.

    A descriptor of the client's PID namespace goes with it: a keeper serves processes of the namespace in which its lab
    was made. Programs of another lab live in another one, and cannot open this one.
    """

    version: int


class Describe(Message, frozen=True):
    """Answered by `Described`."""


class Processes(Message, frozen=True):
    """Answered by `ProcessRows`."""


class Down(Message, frozen=True):
    """End the lab. Answered by `Done`, then by the end."""


class Reconcile(Message, frozen=True):
    """Change the lab to this plan, whole or not at all."""

    topology: str
    plan: PlanJson
    source: str


# uid, gid and supplementary groups that a program runs with
Identity = tuple[Id, Id, tuple[Id, ...]]


class StartProcess(Message, frozen=True):
    """Run a program that outlives its client and has a log. Answered by `ProcessRows` with one row."""

    node: str
    name: str  # "": to be chosen
    argv: Arguments
    environment: Pairs
    cwd: str | None
    user: Identity | None
    restart: Restart
    terminal: tuple[Size, Size] | None = None  # rows, columns of a terminal that it writes to instead of pipes


class StopProcess(Message, frozen=True):
    """End a detached process. Answered by `ProcessRows` with one row, when it has ended."""

    node: str
    name: str
    number: Signal = 15  # SIGTERM: the signal that it gets 2 s before SIGKILL


class SignalProcess(Message, frozen=True):
    """Signal a detached process, which is started again where it ends by that and its `restart` says so.

    Answered by `Done`: 1, or 0 when it does not run.
    """

    node: str
    name: str
    number: Signal
    group: bool  # its process group


class WatchProcess(Message, frozen=True):
    """Follow a detached process. Answered by `Done` with descriptors of the newer half of its log and of its streams
    (labctl.lab.keeper.process_table), and, if `news`, of a pipe that gives a `ProcessNews` now and at each change."""

    node: str
    name: str
    news: bool = True


class OpenLog(Message, frozen=True):
    """Read a detached process's log. Answered by `Done` with a descriptor for each half that is there, older first."""

    node: str
    name: str


class Apply(Message, frozen=True):
    """Further operations on the lab's nodes."""

    operations: PlanJson


class WhenGone(Message, frozen=True):
    """What the keeper is to do when this client is gone, instead of what it was told before; nothing takes it back."""

    operations: PlanJson = ()
    undrop: tuple[str, ...] = ()  # nodes that are to drop nothing more


class Spawn(Message, frozen=True):
    """Run a program. Descriptors: those of stdin, stdout, stderr that `stdio` says are there; /dev/null otherwise.

    Answered by `Spawned` with two descriptors: the status pipe and the pidfd.
    """

    node: str
    argv: Arguments
    environment: Pairs  # over the node's
    cwd: str | None
    stdio: tuple[bool, bool, bool]
    user: Identity | None = None  # None: the lab's owner
    terminal: tuple[Size, Size] | None = None  # rows, columns of a terminal of its own; its master is 3rd descriptor
    is_terminal_plain: bool = False  # its output is for programs: line ends stay, nothing is echoed, TERM=dumb


class SpawnCaller(Message, frozen=True):
    """Fork a caller. Answered by `Spawned` with three descriptors: the status pipe, the pidfd and its channel."""

    node: str
    name: str


class OpenSocket(Message, frozen=True):
    """A socket on the node; answered by `Done` with the descriptor."""

    node: str
    family: Int32
    type: Int32
    proto: Int32


class BeginChange(Message, frozen=True):
    """This client is going to change the lab; answered by `Done` when nobody else does."""


class EndChange(Message, frozen=True):
    """The change is done (`keep`), or to be undone, as it is when the client goes without a word."""

    keep: bool


class OpenNetwork(Message, frozen=True):
    """The node's network namespace; answered by `Done` with a descriptor of it."""

    node: str


class OpenFile(Message, frozen=True):
    """open(2) in the node's mounts; answered by `Done` with the descriptor."""

    node: str
    path: str
    flags: Int32
    mode: Mode


class BindSocket(Message, frozen=True):
    """bind(2) of an AF_UNIX socket to a path in the node's mounts. Descriptor: the socket."""

    node: str
    path: str
    cwd: str  # what a relative path is relative to


class PutFile(Message, frozen=True):
    """A file of the lab's shared directory. Descriptor: its content, from offset 0."""

    name: str
    mode: Mode


class Drop(Message, frozen=True):
    """Add a packet filter rule on the node."""

    node: str
    rule: DropRule


class Undrop(Message, frozen=True):
    """Remove the node's packet filter rules."""

    node: str


class SignalGroup(Message, frozen=True):
    """Send a signal to the process group of a spawned process that has not been reaped."""

    process: Positive  # `Spawned.process`
    number: Signal


class Done(Message, frozen=True):
    """It was done; `value` where the request asks something."""

    value: int = 0


class Spawned(Message, frozen=True):
    """`process` is its number in the keeper's PID namespace, `pid` the one on its host."""

    process: int
    pid: int


class Welcome(Message, frozen=True):
    """The lab's nodes, and what its keeper speaks."""

    version: int
    nodes: tuple[str, ...]


class Described(Message, frozen=True):
    """What the keeper reports about its lab."""

    description: Description


class ProcessRows(Message, frozen=True):
    """Programs of the lab."""

    rows: tuple[ProcessInfo, ...]


class FailureKind(Enum):
    """Which error of labctl.errors a failure is."""

    INPUT = "input"

    MACHINE = "machine"
    IMPOSSIBLE = "impossible"
    LAB = "lab"
    KERNEL = "kernel"


class Failed(Message, frozen=True):
    """It was not done. What is beside `message` is for KERNEL."""

    kind: FailureKind
    message: str = ""  # for all but KERNEL
    subject: str = ""
    attempted: str = ""
    errno: int = 0
    detail: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: LabctlError) -> Failed:
        """The failure that `error` is."""
        if isinstance(error, KernelError):
            return cls(
                FailureKind.KERNEL,
                subject=error.subject,
                attempted=error.attempted,
                errno=error.errno,
                detail=error.detail,
                hint=error.hint,
            )
        kind = FailureKind.LAB
        if isinstance(error, LabImpossible):
            kind = FailureKind.IMPOSSIBLE
        elif isinstance(error, MachineError):
            kind = FailureKind.MACHINE
        elif isinstance(error, InputError):
            kind = FailureKind.INPUT
        return cls(kind, message=str(error))

    def error(self) -> LabError | MachineError | InputError:
        """The error to raise on the other side."""
        match self.kind:
            case FailureKind.KERNEL:
                return KernelError(self.subject, self.attempted, self.errno, detail=self.detail, hint=self.hint)
            case FailureKind.INPUT:
                return InputError(self.message)
            case FailureKind.MACHINE:
                return MachineError(self.message)
            case FailureKind.IMPOSSIBLE:
                return LabImpossible(self.message)
            case FailureKind.LAB:
                return LabError(self.message)


Request: TypeAlias = (
    Open
    | Stay
    | Hello
    | Describe
    | Processes
    | Down
    | Reconcile
    | BeginChange
    | EndChange
    | Apply
    | WhenGone
    | Spawn
    | SpawnCaller
    | StartProcess
    | StopProcess
    | SignalProcess
    | WatchProcess
    | OpenLog
    | OpenSocket
    | OpenNetwork
    | OpenFile
    | BindSocket
    | PutFile
    | Drop
    | Undrop
    | SignalGroup
)
Reply: TypeAlias = Done | Spawned | Welcome | Described | ProcessRows | Failed


class Malformed(InputError):
    """The bytes are no message of the expected kind."""


def encode(message: Message) -> bytes:
    """A message as JSON."""
    return json.dumps(msgspec.to_builtins(message, enc_hook=str), separators=(",", ":")).encode("ascii")


def decode(body: bytes, kind: Any) -> Any:
    """The message of that kind (`Request`, `Reply`) that `encode` made these bytes of. Malformed for any other bytes.

    JSON is read by the standard library, since msgspec refuses the surrogates that stand for bytes that are no UTF-8
    in file names and arguments.
    """
    try:
        return msgspec.convert(json.loads(body, parse_constant=_refuse), kind, dec_hook=read_address)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise Malformed(f"lab: cannot read a message of {len(body)} bytes: {error}.") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


IS_FOREIGN = (
    "cannot serve this process: it is not in the PID namespace in which the lab was made. A program of another lab or "
    "of a container cannot control the lab. Run labctl where the lab was made."
)

# Changes with any message: a keeper may be older than the labctl that reaches it.
VERSION = zlib.crc32(repr([(kind.__name__, kind.__annotations__) for kind in get_args(Request | Reply)]).encode())


class Frame(Struct, frozen=True):
    """A message as it arrived; the receiver owns `descriptors` (all close-on-exec)."""

    number: int
    message: Message
    descriptors: tuple[int, ...]


class Channel:
    """One end of a stream socket, framed. It owns the socket; one thread at a time may send, one receive.

    `receives` is the kind of messages that the other end sends.
    """

    def __init__(self, sock: socket.socket, receives: Any = Reply) -> None:
        self._socket = sock
        self._receives = receives

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, number: int, message: Message, descriptors: Sequence[int] = (), *, until: float | None) -> None:
        """Send a frame; `until` is a deadline on CLOCK_MONOTONIC, None for none. LabGone, DeadlineExceeded."""
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{len(descriptors)} descriptors do not fit in one message")
        body = encode(message)
        if len(body) > MAX_REQUEST_BYTES and isinstance(message, Reconcile):
            raise InputError(
                f"lab: cannot be reconciled to this plan: it is {len(body)} bytes long, and {MAX_REQUEST_BYTES} are "
                f"allowed. Take the lab down and up again."
            )
        header = HEADER.pack(len(body), number, len(descriptors))
        with self._guarded(until):
            self._settimeout(until)
            sent = self._sendmsg(header + body, descriptors)
            rest = memoryview(header + body)[sent:]
            try:
                while rest:
                    self._settimeout(until)
                    rest = rest[self._socket.send(rest, socket.MSG_NOSIGNAL) :]
            except TimeoutError as error:
                raise LabGone("lab: the keeper stopped listening half-way.") from error

    def receive(self, *, until: float | None) -> Frame | None:
        """The next frame, None at the end of the stream.

        Raises: DeadlineExceeded. LabGone when the stream ends inside a frame. Malformed.
        """
        with self._guarded(until):
            self._settimeout(until)
            ancillary = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
            header, control, flags, _ = self._socket.recvmsg(HEADER.size, ancillary, socket.MSG_CMSG_CLOEXEC)
            descriptors = descriptors_in(control)
            if not header:
                return None
            try:  # from here on, to stop half-way is to lose track
                header += self._exactly(HEADER.size - len(header), until)
                length, number, count = HEADER.unpack(header)
                if flags & socket.MSG_CTRUNC:
                    self._exactly(length, until)
                    raise KernelError("lab", "take over a descriptor", errno.EMFILE, hint="See `ulimit -n`.")
                if length > MAX_BODY_BYTES or count != len(descriptors):
                    raise LabGone(f"lab: a garbled message came ({length} bytes, {len(descriptors)} descriptors).")
                return Frame(number, decode(self._exactly(length, until), self._receives), descriptors)
            except BaseException as error:
                for descriptor in descriptors:
                    os.close(descriptor)
                if isinstance(error, TimeoutError):
                    raise LabGone("lab: a message stopped half-way.") from error
                raise

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def detach(self) -> socket.socket:
        """The socket, which the caller owns from here on; the channel is not to be used again."""
        return self._socket

    def _sendmsg(self, data: bytes, descriptors: Sequence[int]) -> int:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        return self._socket.sendmsg([data], control, socket.MSG_NOSIGNAL)

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
    def _guarded(self, until: float | None) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise DeadlineExceeded("lab: the keeper did not answer in time.") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise LabGone("lab: the keeper has ended.") from error


def descriptors_in(control: Sequence[tuple[int, int, bytes]]) -> tuple[int, ...]:
    """The descriptors that came with a message, as recvmsg gives its control data."""
    found = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return tuple(found)
