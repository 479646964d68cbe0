"""Messages between a lab's clients and its keeper; labctl.lab.frames carries them.

`decode` checks every message against its type, so that a handler sees only values that its annotations allow.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from enum import StrEnum
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from labctl.errors import InputError, KernelError, LabctlError, LabError, LabImpossible, MachineError
from labctl.lab.description import RECORDS, Description, FaultMoment, ProcessInfo, ProcessState
from labctl.lab.frames import FrameStream, close_all, from_json, to_json
from labctl.plan.drop_rules import DropRule
from labctl.plan.fault_effects import FaultPlan
from labctl.structs import Meta, MsgspecError, Struct, convert, to_builtins
from labctl.topology.model import Restart, read_address

if TYPE_CHECKING:
    import _socket


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


# The second argument of the nursery. The kernel sends the parent-death signal when the *thread* that started a process
# ends, so only a nursery that the main thread started can use it.
DIES_WITH_OWNER, WATCHES_OWNER = "dies-with-owner", "watches-owner"

# A request to the nursery is one of these words, with descriptors for boot: its channel, liveness pipe and stderr.
EPHEMERAL, STAYS = "ephemeral", "stays"
# Not boots: the modules whose `run` is called in the process instead.
RECORDER, LATE_ACCESS = "timeline.recorder", "lab.keeper.late_access"
BOOT_REQUEST_DESCRIPTORS = 3
BOOT_REPLY = struct.Struct("=ii")  # an errno or 0, and boot's pid; a pidfd of boot comes with it

MAX_REQUEST_BYTES = 64 << 20  # of any request but `Open`: a plan of some 1,000 routers

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


class PrepareAccess(Message, frozen=True):
    """The only request to a process that prepares access for a running lab. Answered by `AccessPrepared`."""

    lab: str
    plan: PlanJson
    environment: Pairs  # the owner's
    routers: tuple[str, ...]
    controllers: tuple[str, ...]  # all that the lab needs


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


class PreparedAccess(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Access to the machine that was prepared for a running lab (labctl.lab.keeper.late_access).

    Its descriptors: the pipe whose end shows the end of the lab, then, with outlets, the machine's network namespace,
    two netlink sockets in it, and a reservation for each outlet.
    """

    outlets: tuple[tuple[str, str, str, str], ...]  # router, interface of the machine, IPv4 and IPv6 network or ""
    mtu: int
    groups: tuple[tuple[str, int, tuple[str, ...], str], ...]  # parent's path, version and controllers; the lab's group
    resolv_conf: str

    @property
    def descriptors_needed(self) -> int:
        """The number of its descriptors."""
        return 1 + (3 + len(self.outlets) if self.outlets else 0)


class Reconcile(Request, frozen=True):
    """Change the lab to this plan, whole or not at all.

    Descriptors: a socket for each of `exposed`, which the lab has not yet; then those of `access`.
    """

    topology: str
    plan: PlanJson
    source: str
    exposed: tuple[tuple[str, int, int], ...] = ()  # as of Open
    access: PreparedAccess | None = None


# uid, gid and supplementary groups of a program
Identity = tuple[Id, Id, tuple[Id, ...]]


class StartProcess(Request, frozen=True):
    """Run a program that outlives its client and has a log. Answered by `ProcessRows` with one row.

    With `tracer`, a descriptor comes with the request, which the tracer of each of its runs finds at TRACE_DESCRIPTOR.
    """

    node: str
    name: str  # "": the keeper chooses one
    argv: Arguments
    environment: Pairs
    cwd: str | None
    user: Identity | None
    restart: Restart
    terminal: tuple[Size, Size] | None = None  # rows, columns of a terminal that replaces its pipes
    is_cwd_optional: bool = False  # as of `Spawn`
    tracer: tuple[str, ...] = ()  # as of `Spawn`


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


class Impaired(Request, frozen=True):
    """Report the impairments in force on these nodes; on all if there is none. Answered by `ImpairedInterfaces`."""

    nodes: tuple[str, ...] = ()


class SetRollback(Request, frozen=True):
    """Replace the rollback actions of this client, which the keeper executes when the client disconnects."""

    operations: PlanJson = ()
    undrop: tuple[str, ...] = ()  # nodes whose drop rules are removed


class Spawn(Request, frozen=True):
    """Run a program. Descriptors: those of stdin, stdout, stderr for which `stdio` is true; /dev/null for others.
    With `tracer`, one more follows, which the tracer finds at TRACE_DESCRIPTOR.

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
    tracer: tuple[str, ...] = ()  # a command that runs `argv`, which follows it


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


class OpenSockets(Request, frozen=True):
    """Make sockets of each kind (family, type, protocol) on each node, to observe it. At most MAX_DESCRIPTORS.

    Answered by `Done` with the descriptors: all of the first node, then those of the next.
    """

    nodes: tuple[str, ...]
    kinds: tuple[tuple[Int32, Int32, Int32], ...]


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


class BeginFault(Request, frozen=True):
    """Inject a fault. Answered by `Done` with its number, from 1.

    It lasts until it is healed or `duration_s` is over; with `is_owned`, at most until this client disconnects.
    """

    fault: FaultPlan
    name: str = ""  # to heal it by
    duration_s: Annotated[float, Meta(ge=0.0, le=1e9)] | None = None
    is_owned: bool = False


class HealFaults(Request, frozen=True):
    """Heal faults by number or name; all, if there are neither. Answered by `Done` with how many were in force."""

    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


class FaultHistory(Request, frozen=True):
    """Ask what happened to faults after the moment with this number. Answered by `FaultMoments`."""

    after: Annotated[int, Meta(ge=0)] = 0


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


class AccessPrepared(Reply, frozen=True):
    """The access, with its descriptors."""

    access: PreparedAccess


class Welcome(Reply, frozen=True):
    """The keeper's VERSION and the lab's nodes."""

    version: int
    nodes: tuple[str, ...]


class Described(Reply, frozen=True):
    description: Description


class ImpairedInterfaces(Reply, frozen=True):
    """Operations that set the impairments in force."""

    operations: PlanJson


class ProcessRows(Reply, frozen=True):
    rows: tuple[ProcessInfo, ...]


class FaultMoments(Reply, frozen=True):
    """Moments in order; of a long history, the last ones."""

    moments: tuple[FaultMoment, ...]


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

M = TypeVar("M", bound=Message)


class Malformed(InputError):
    """The bytes are not a message of the expected class."""


def _builtin(value: object) -> object:
    """The `enc_hook` of msgspec: a record as a dict of its fields, an address as text."""
    return vars(value) if isinstance(value, RECORDS) else str(value)


def _read(kind: Any, value: Any) -> Any:
    """The `dec_hook` of msgspec."""
    return kind.read(value) if kind in RECORDS else read_address(kind, value)


def encode(message: Message) -> bytes:
    """Encode a message as JSON. InputError for a plan that the keeper would not take."""
    body = to_json(to_builtins(message, enc_hook=_builtin))
    if len(body) > MAX_REQUEST_BYTES and isinstance(message, Reconcile):
        raise InputError(
            f"lab: cannot reconcile it to this plan: a plan of {len(body)} bytes is more than {MAX_REQUEST_BYTES}. "
            f"Take the lab down and up again."
        )
    return body


def decode(body: bytes, kind: type[M]) -> M:
    """Decode the result of `encode`: a message of that class, which may be `Request` or `Reply`.

    msgspec does not parse the JSON, since it refuses the surrogates that stand for bytes that are not UTF-8 in file
    names and arguments.

    Raises:
        Malformed: the bytes are not such a message.
    """
    try:
        message: M = convert(from_json(body), _UNIONS.get(kind, kind), dec_hook=_read)
        return message
    except (ValueError, KeyError, RecursionError, MsgspecError) as error:
        raise Malformed(f"lab: cannot read a message of {len(body)} bytes: {error}.") from error


class Frame(Struct, frozen=True):
    """A message as it arrived; the receiver owns `descriptors` (all close-on-exec)."""

    number: int
    message: Message
    descriptors: tuple[int, ...]


class Channel(FrameStream):
    """One end of a stream of frames with messages. `receives` is the class of the messages that the other end sends."""

    def __init__(self, sock: _socket.socket, receives: type[Message] = Reply) -> None:
        super().__init__(sock)
        self._receives = receives

    def send(self, number: int, message: Message, descriptors: Sequence[int] = (), *, until: float | None) -> None:
        """Send a message as `send_body` does. InputError for a plan that is too large."""
        self.send_body(number, encode(message), descriptors, until=until)

    def receive(self, *, until: float | None) -> Frame | None:
        """Return the next message, None at the end of the stream. As `receive_body`; Malformed."""
        received = self.receive_body(until=until)
        if received is None:
            return None
        number, body, descriptors = received
        try:
            return Frame(number, decode(body, self._receives), descriptors)
        except BaseException:
            close_all(descriptors)
            raise
