"""Frames on a Unix stream socket, and JSON: what carries the messages between a lab's clients and its keeper.

A frame is a header (length of the body, number of the request, number of descriptors), a body in JSON, and descriptors
(SCM_RIGHTS) that travel with the header. Clients number their requests; a reply carries its request's number, so that
a client recognises and drops the reply to a request that timed out.

Every `labctl exec` pays for the import of this module. So it uses the C modules below `socket` and `json`, whose own
imports (enum, selectors, re) take as long as a Python takes to start (docs/decisions/0017). labctl.lab.protocol has the
messages.
"""

from __future__ import annotations

import _json
import _socket
import errno
import os
import struct

from labctl.clock import monotonic
from labctl.errors import DeadlineExceeded, KernelError, LabGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

# Of the messages (labctl.lab.protocol); a test computes it. A keeper may be older than the labctl that connects to it.
VERSION = 1428003765
TRACE_DESCRIPTOR = 3  # of the process of a tracer: where it writes its output
FOREIGN_CLIENT = (
    "cannot serve this process: it is not in the PID namespace in which the lab was made. A program of another lab or "
    "of a container cannot control the lab. Run labctl where the lab was made."
)

HEADER = struct.Struct("=IIB")
STATUS = struct.Struct("=i")  # on a status pipe, once: the exit status, or minus the signal's number
CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)
MAX_DESCRIPTORS = 250  # SCM_MAX_FD is 253 (unix(7))
MAX_BODY_BYTES = 1 << 30  # of `Open` and of replies


class NotSent(KernelError):
    """The kernel refused a message before any of it was sent."""


class FrameStream:
    """One end of a stream socket, framed. It owns the socket; one thread at a time may send, one receive."""

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send_body(self, number: int, body: bytes, descriptors: Sequence[int] = (), *, until: float | None) -> None:
        """Send a frame; `until` is a deadline (CLOCK_MONOTONIC), None for none. LabGone, DeadlineExceeded, NotSent."""
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{len(descriptors)} descriptors do not fit in one message")
        data = HEADER.pack(len(body), number, len(descriptors)) + body
        with _MappedErrors():
            self._settimeout(until)
            sent = self._socket.sendmsg([data], ancillary_data(descriptors), _socket.MSG_NOSIGNAL)
            rest = memoryview(data)[sent:]
            try:
                while rest:
                    self._settimeout(until)
                    rest = rest[self._socket.send(rest, _socket.MSG_NOSIGNAL) :]
            except TimeoutError as error:
                raise LabGone("lab: the keeper stopped reading inside a message.") from error

    def receive_body(self, *, until: float | None) -> tuple[int, bytes, tuple[int, ...]] | None:
        """Return the next frame: number, body, and descriptors, which the caller owns. None at the end of the stream.

        Raises:
            DeadlineExceeded: no frame came before `until`.
            LabGone: the stream ended, or stalled until then, inside a frame.
        """
        with _MappedErrors():
            self._settimeout(until)
            ancillary = _socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
            header, control, flags, _ = self._socket.recvmsg(HEADER.size, ancillary, _socket.MSG_CMSG_CLOEXEC)
            descriptors = received_descriptors(control)
            if not header:
                return None
            try:  # from here on, an incomplete read leaves the stream out of sync
                header += self._exactly(HEADER.size - len(header), until)
                length, number, count = HEADER.unpack(header)
                if flags & _socket.MSG_CTRUNC:
                    self._exactly(length, until)
                    raise KernelError("lab", "take over a descriptor", errno.EMFILE, hint="See `ulimit -n`.")
                if length > MAX_BODY_BYTES or count != len(descriptors):
                    raise LabGone(f"lab: malformed frame: {length} bytes, {len(descriptors)} descriptors.")
                return number, self._exactly(length, until), descriptors
            except BaseException as error:
                close_all(descriptors)
                if isinstance(error, TimeoutError):
                    raise LabGone("lab: the rest of a message did not come in time.") from error
                raise

    def detach(self) -> _socket.socket:
        """Return the socket, which the caller owns from here on; do not use the stream afterwards."""
        return self._socket

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

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


class _MappedErrors:
    """A context that maps errors of the socket to labctl's."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded("lab: the keeper did not answer in time.") from error
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            raise LabGone("lab: the keeper has ended.") from error
        if isinstance(error, OSError) and error.errno == errno.ETOOMANYREFS:
            hint = "Descriptors that a user is sending count against `ulimit -n` (unix(7)). Raise it, or try again."
            raise NotSent("lab", "send it a descriptor", errno.ETOOMANYREFS, hint=hint) from error


def ancillary_data(descriptors: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that sends the descriptors (SCM_RIGHTS), for sendmsg."""
    data = struct.pack(f"{len(descriptors)}i", *descriptors)
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data)] if descriptors else []


def received_descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, ...]:
    """Return the descriptors in the ancillary data that recvmsg returned."""
    found: tuple[int, ...] = ()
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            found += struct.unpack_from(f"{len(data) // 4}i", data)
    return found


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that came with a message."""
    for descriptor in descriptors:
        os.close(descriptor)


def _refuse(value: object) -> NoReturn:
    raise ValueError(f"{value} is no JSON")


def to_json(value: object, default: Callable[[Any], object] = _refuse) -> bytes:
    """Encode lists, dicts with text as keys, text, numbers, booleans and None as ASCII JSON without blanks.

    Lone surrogates stay: they stand for bytes that are not UTF-8 in file names and arguments. ValueError for NaN.
    `default` turns other values into these.
    """
    # As json.encoder.JSONEncoder.iterencode calls it: no check for cycles, no sorting, no NaN.
    escape = _json.encode_basestring_ascii
    encode = _json.make_encoder(None, default, escape, None, ":", ",", False, False, False)
    return "".join(encode(value, 0)).encode("ascii")


def from_json(body: bytes, object_hook: Callable[[dict[str, Any]], object] | None = None) -> Any:
    """Decode JSON without blanks around it. ValueError, RecursionError. `object_hook` replaces each object."""
    text = body.decode("utf-8", "surrogatepass")
    try:
        value, end = _json.make_scanner(_Decoder(object_hook))(text, 0)  # type: ignore[arg-type]  # its attributes do
    except StopIteration as error:
        raise ValueError(f"no JSON at character {error.value}") from error
    if end != len(text):
        raise ValueError(f"more than one value: characters {end} to {len(text)}")
    return value


class _Decoder:
    """The attributes that the scanner reads (json.decoder.JSONDecoder has them, too)."""

    strict = True
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)

    def __init__(self, object_hook: Callable[[dict[str, Any]], object] | None) -> None:
        self.object_hook = object_hook
