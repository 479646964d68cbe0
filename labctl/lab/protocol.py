"""What a lab's owner and its keeper say to each other: frames over a Unix stream socket.

A frame is a header (length of the body, number of the exchange, number of descriptors), a body in JSON, and descriptors
(SCM_RIGHTS) that travel with the header. The owner numbers its requests; a reply carries its request's number, so that
the reply to a request that was given up on is recognised and dropped. Both sides are the same version of labctl.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, get_args

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

HEADER = struct.Struct("=IIB")
MAX_DESCRIPTORS = 250  # SCM_MAX_FD is 253 (unix(7))
MAX_BODY = 1 << 30  # bytes

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Open:
    """The first request: make the lab. Nodes and operations as `labctl.plan.codec` writes them."""

    lab: str
    nodes: str
    operations: str
    environment: Pairs  # the owner's
    cwd: str  # the owner's
    visible_paths: tuple[str, ...]  # to stay visible on hosts
    topology: str = ""
    source: str = ""  # what the plan was made of, for people
    uid: int = 0  # the owner's
    stays: bool = False  # after `Stay`; descriptors then: those of `labctl.lab.place.Place`, and the listening socket
    hidden_paths: tuple[str, ...] = ()  # directories that hosts do not see
    has_outside: bool = False  # some node has `nat`, `expose` or `limits` (labctl.lab.outside)
    exposed: tuple[tuple[str, int, int], ...] = ()  # what the first descriptors are for (labctl.lab.ports)


@dataclass(frozen=True, slots=True)
class Stay:
    """A lab that was opened to stay does, from here on: it is found by its name, and its first client may go."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A client's first request; `version` is its VERSION. Answered by `Welcome`.

    A descriptor of the client's PID namespace goes with it: a keeper serves processes of the namespace in which its lab
    was made. Programs of another lab live in another one, and cannot open this one.
    """

    version: int


@dataclass(frozen=True, slots=True)
class Describe:
    """Answered by `Described`."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Answered by `ProcessRows`."""


@dataclass(frozen=True, slots=True)
class Down:
    """End the lab. Answered by `Done`, then by the end."""


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Change the lab to this plan, whole or not at all. Nodes and operations as `labctl.plan.codec` writes them."""

    topology: str
    nodes: str
    operations: str
    source: str


# uid, gid and supplementary groups that a program runs with
Identity = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Run a program that outlives its client and has a log. Answered by `ProcessRows` with one row."""

    node: str
    name: str  # "": to be chosen
    argv: tuple[str, ...]
    environment: Pairs
    cwd: str | None
    user: Identity | None
    restart: str  # labctl.lab.description.Restart's value
    terminal: tuple[int, int] | None = None  # rows, columns of a terminal that it writes to instead of pipes


@dataclass(frozen=True, slots=True)
class StopProcess:
    """End a detached process. Answered by `ProcessRows` with one row, when it has ended."""

    node: str
    name: str
    number: int = 15  # SIGTERM: the signal that it gets 2 s before SIGKILL


@dataclass(frozen=True, slots=True)
class SignalProcess:
    """Signal a detached process, which is started again where it ends by that and its `restart` says so.

    Answered by `Done`: 1, or 0 when it does not run.
    """

    node: str
    name: str
    number: int
    group: bool  # its process group


@dataclass(frozen=True, slots=True)
class WatchProcess:
    """Follow a detached process. Answered by `Done` with descriptors of the newer half of its log and of its streams
    (labctl.lab.log_writer), and, if `news`, of a pipe that gives a `ProcessNews` now and at each change."""

    node: str
    name: str
    news: bool = True


@dataclass(frozen=True, slots=True)
class OpenLog:
    """Read a detached process's log. Answered by `Done` with a descriptor for each half that is there, older first."""

    node: str
    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Further operations (`labctl.plan.codec`) on the lab's nodes."""

    operations: str


@dataclass(frozen=True, slots=True)
class WhenGone:
    """What the keeper is to do when this client is gone, instead of what it was told before; nothing takes it back."""

    operations: str = "[]"  # `labctl.plan.codec`
    undrop: tuple[str, ...] = ()  # nodes that are to drop nothing more


@dataclass(frozen=True, slots=True)
class Spawn:
    """Run a program. Descriptors: those of stdin, stdout, stderr that `stdio` says are there; /dev/null otherwise.

    Answered by `Spawned` with two descriptors: the status pipe and the pidfd.
    """

    node: str
    argv: tuple[str, ...]
    environment: Pairs  # over the node's
    cwd: str | None
    stdio: tuple[bool, bool, bool]
    user: tuple[int, int, tuple[int, ...]] | None = None  # Identity; None: the lab's owner
    terminal: tuple[int, int] | None = (
        None  # rows, columns of a terminal of its own, whose master is the 3rd descriptor
    )
    is_terminal_plain: bool = False  # for programs to read: it changes nothing that is written, and hangs up nobody


@dataclass(frozen=True, slots=True)
class SpawnCaller:
    """Fork a caller. Answered by `Spawned` with three descriptors: the status pipe, the pidfd and its channel."""

    node: str
    name: str


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A socket on the node; answered by `Done` with the descriptor."""

    node: str
    family: int
    type: int
    proto: int


@dataclass(frozen=True, slots=True)
class BeginChange:
    """This client is going to change the lab; answered by `Done` when nobody else does."""


@dataclass(frozen=True, slots=True)
class EndChange:
    """The change is done (`keep`), or to be undone, as it is when the client goes without a word."""

    keep: bool


@dataclass(frozen=True, slots=True)
class OpenNetwork:
    """The node's network namespace; answered by `Done` with a descriptor of it."""

    node: str


@dataclass(frozen=True, slots=True)
class OpenFile:
    """open(2) in the node's mounts; answered by `Done` with the descriptor."""

    node: str
    path: str
    flags: int
    mode: int


@dataclass(frozen=True, slots=True)
class BindSocket:
    """bind(2) of an AF_UNIX socket to a path in the node's mounts. Descriptor: the socket."""

    node: str
    path: str
    cwd: str  # what a relative path is relative to


@dataclass(frozen=True, slots=True)
class PutFile:
    """A file of the lab's shared directory. Descriptor: its content, from offset 0."""

    name: str
    mode: int


@dataclass(frozen=True, slots=True)
class Drop:
    """A packet filter rule (`labctl.plan.droprule`, as JSON) on the node."""

    node: str
    rule: str


@dataclass(frozen=True, slots=True)
class Undrop:
    """Remove the node's packet filter rules."""

    node: str


@dataclass(frozen=True, slots=True)
class SignalGroup:
    """Send a signal to the process group of a spawned process that has not been reaped."""

    process: int  # `Spawned.process`
    number: int


@dataclass(frozen=True, slots=True)
class Done:
    """It was done; `value` where the request asks something."""

    value: int = 0


@dataclass(frozen=True, slots=True)
class Spawned:
    """`process` is its number in the keeper's PID namespace, `pid` the one on its host."""

    process: int
    pid: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """The lab's nodes, and what its keeper speaks."""

    version: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Described:
    """A `labctl.lab.description.Description`, as that module writes it."""

    text: str


@dataclass(frozen=True, slots=True)
class ProcessRows:
    """Each a `labctl.lab.description.ProcessInfo`, as that module writes it."""

    rows: tuple[tuple[Any, ...], ...]


class FailureKind(Enum):
    """Which error of labctl.errors a failure is."""

    INPUT = "input"

    MACHINE = "machine"
    IMPOSSIBLE = "impossible"
    LAB = "lab"
    KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class Failed:
    """It was not done. What is beside `message` is for KERNEL."""

    kind: str  # FailureKind's value
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
                FailureKind.KERNEL.value,
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
        return cls(kind.value, message=str(error))

    def error(self) -> LabError | MachineError | InputError:
        """The error to raise on the other side."""
        match FailureKind(self.kind):
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


Request = (
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
Reply = Done | Spawned | Welcome | Described | ProcessRows | Failed
Message = Request | Reply


def encode(message: Message) -> bytes:
    """A message as JSON: its class's name, then its fields in order."""
    return json.dumps(
        [type(message).__name__, *(getattr(message, field.name) for field in fields(message))], separators=(",", ":")
    ).encode("ascii")


def decode(body: bytes) -> Message:
    """The message that `encode` made these bytes of."""
    name, *values = json.loads(body)
    arguments = [_frozen(value) for value in values]
    message: Message = _CLASSES[name](*arguments)
    return message


_CLASSES: dict[str, type[Any]] = {message.__name__: message for message in (*get_args(Request), *get_args(Reply))}

# Changes with any message: a keeper may be older than the labctl that reaches it.
IS_FOREIGN = (
    "cannot serve this process: it is not in the PID namespace in which the lab was made. A program of another lab or "
    "of a container cannot control the lab. Run labctl where the lab was made."
)
VERSION = zlib.crc32(repr([(name, [field.name for field in fields(kind)]) for name, kind in _CLASSES.items()]).encode())


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Frame:
    """A message as it arrived; the receiver owns `descriptors` (all close-on-exec)."""

    number: int
    message: Message
    descriptors: tuple[int, ...]


class Channel:
    """One end of a stream socket, framed. It owns the socket; one thread at a time may send, one receive."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, number: int, message: Message, descriptors: Sequence[int] = (), *, until: float | None) -> None:
        """Send a frame; `until` is a deadline on CLOCK_MONOTONIC, None for none. LabGone, DeadlineExceeded."""
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{len(descriptors)} descriptors do not fit in one message")
        body = encode(message)
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
        """The next frame, None at the end of the stream. DeadlineExceeded; LabGone when it ends inside a frame."""
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
                if length > MAX_BODY or count != len(descriptors):
                    raise LabGone(f"lab: a garbled message came ({length} bytes, {len(descriptors)} descriptors).")
                return Frame(number, decode(self._exactly(length, until)), descriptors)
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
        left = until - time.monotonic()
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
