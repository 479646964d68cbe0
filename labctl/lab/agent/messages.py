"""The messages between an agent and its client, and their form on the wire.

A frame is four bytes of length (big-endian) and JSON. The client sends a `SystemCall`. The agent answers `Begun` before
it enters the kernel, then `CallResult`; or only `Impossible`, when the arguments cannot be turned into C's.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Any, TypeVar

from labctl.kernel.sockaddr import Address
from labctl.lab.frames import from_json, to_json
from labctl.structs import Struct, convert, to_builtins

LENGTH_BYTES = 4
CONTROL_BYTES = 1024  # buffer for control messages of a recvmsg whose fourth value is assigned

T = TypeVar("T")


class CStruct(Struct, frozen=True, tag=True):
    """A structure of C: its members in order, with their names ("" where the position gives the member)."""

    fields: tuple[tuple[str, Value], ...]


if TYPE_CHECKING:
    Value = int | str | bytes | Address | CStruct | None | list["Value"]
else:
    Value = Any  # msgspec has no union of str and bytes; `_value` reads what JSON lacks


class Stop(Struct, frozen=True):
    """One way in which a repeated call (`until`) ends: this errno, this number, or this data."""

    errno: int | None = None
    number: int | None = None
    data: bytes | None = None


class SystemCall(Struct, frozen=True):
    """A call with evaluated arguments; the agent resolves names in addresses.

    `addrlen` is what a program passes as the length of its address (buffer); None: the length that fits. `until`
    repeats the call until it returns one of these, or another failure.
    """

    name: str
    arguments: tuple[Value, ...] = ()
    addrlen: int | None = None
    until: tuple[Stop, ...] = ()
    control: Value = None  # sendmsg: the control messages; recvmsg: the size of the buffer for them


class Begun(Struct, frozen=True, tag=True):
    """The agent is about to make the call, for the first time; `text` lacks what the kernel will fill in."""

    started_ns: int
    text: str


class CallResult(Struct, frozen=True, tag=True):
    """A call that returned (with `until`: the last of `calls` calls).

    `number` is what `->` compares with an integer: the return value, or the option's value of getsockopt and ioctl.
    `values` are what the targets on the left of the call take, in order. Times are CLOCK_MONOTONIC, nanoseconds, of the
    first call's start and the last one's end. `stopped` is false when `until` ended without the answer it waited for.
    """

    text: str
    returned: int
    errno: int
    started_ns: int
    ended_ns: int
    number: int
    values: tuple[Value, ...]
    summary: str = ""  # what came back besides the number, for people
    calls: int = 1
    stopped: bool = True


class Impossible(Struct, frozen=True, tag=True):
    """The call cannot be formed: an unknown name in an address, an argument of the wrong kind."""

    reason: str


Answer = Begun | CallResult | Impossible


def encode(message: SystemCall | Answer) -> bytes:
    """A frame."""
    payload = to_json(to_builtins(message, builtin_types=(bytes,)), _base64)
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def decode(payload: bytes, kind: type[T]) -> T:
    """The message of that kind in the payload of a frame. msgspec.ValidationError."""
    return convert(from_json(payload, _value), kind, builtin_types=(bytes,))


def decode_answer(payload: bytes) -> Answer:
    """The answer in the payload of a frame. msgspec.ValidationError."""
    return decode(payload, Answer)  # type: ignore[arg-type]  # a union is no type


def _base64(data: bytes) -> dict[str, str]:
    return {"base64": b2a_base64(data, newline=False).decode("ascii")}


def _value(found: dict[str, Any]) -> Any:
    """Bytes, addresses and structures; other objects are left to msgspec."""
    if "base64" in found:
        return a2b_base64(found["base64"])
    kind = _VALUE_TYPES.get(found.get("type", ""))
    return found if kind is None else convert(found, kind, builtin_types=(bytes,))


_VALUE_TYPES = {"Address": Address, "CStruct": CStruct}
