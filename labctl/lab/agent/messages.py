"""What an owner and a calling process say to each other: frozen values, and their form on the wire.

A message is four bytes of length (big-endian) and JSON. Bytes travel as base64, an address as its bytes and lengths.
The owner sends a `SystemCall`; the process answers `Begun` when it is about to enter the kernel, and then `CallResult`;
or only `Impossible`, when the call cannot be formed.
"""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from typing import Any, NamedTuple

from labctl.kernel.sockaddr import Address, decode
from labctl.structs import replace

LENGTH_BYTES = 4


class Struct(NamedTuple):
    """A structure of C's: its members in order, with their names ("" where only the place tells which it is)."""

    fields: tuple[tuple[str, Value], ...]


Value = int | str | bytes | Address | Struct | None | list["Value"]
CONTROL_BYTES = 1024  # room for control messages where recvmsg's fourth value is taken


class Stop(NamedTuple):
    """One way in which a repeated call (`until`) ends: this errno, this number, or this data."""

    errno: int | None = None
    number: int | None = None
    data: bytes | None = None


class SystemCall(NamedTuple):
    """A call with evaluated arguments; address texts are resolved on the host.

    `addrlen` is what a program gives as the length of its address (buffer); None: what fits. `until` repeats the call
    until one of these answers comes, or another failure.
    """

    name: str
    arguments: tuple[Value, ...] = ()
    addrlen: int | None = None
    until: tuple[Stop, ...] = ()
    control: Value = None  # sendmsg: the control messages; recvmsg: the room for them


class Begun(NamedTuple):
    """The process is about to make the call, for the first time; `text` lacks what the kernel will fill in."""

    started_ns: int
    text: str


class CallResult(NamedTuple):
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


class Impossible(NamedTuple):
    """The call cannot be formed: an unknown name in an address, an argument of the wrong kind."""

    reason: str


Answer = Begun | CallResult | Impossible


def frame(payload: bytes) -> bytes:
    """The payload with its length before it."""
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def encode_call(call: SystemCall) -> bytes:
    """A request's payload."""
    return _dump(
        {
            "name": call.name,
            "arguments": [_to_json(argument) for argument in call.arguments],
            "addrlen": call.addrlen,
            "until": [[stop.errno, stop.number, _to_json(stop.data)] for stop in call.until],
            "control": _to_json(call.control),
        }
    )


def decode_call(payload: bytes) -> SystemCall:
    """The inverse of `encode_call`."""
    fields = json.loads(payload)
    return SystemCall(
        fields["name"],
        tuple(_from_json(argument) for argument in fields["arguments"]),
        fields["addrlen"],
        tuple(Stop(errno, number, _data(data)) for errno, number, data in fields["until"]),
        _from_json(fields["control"]),
    )


def encode_answer(answer: Answer) -> bytes:
    """An answer's payload."""
    match answer:
        case Begun(started_ns, text):
            return _dump({"begun": started_ns, "text": text})
        case Impossible(reason):
            return _dump({"impossible": reason})
        case CallResult():
            fields = {name: getattr(answer, name) for name in CallResult._fields}
            fields["values"] = [_to_json(value) for value in answer.values]
            return _dump(fields)


def decode_answer(payload: bytes) -> Answer:
    """The inverse of `encode_answer`."""
    fields = json.loads(payload)
    if "begun" in fields:
        return Begun(fields["begun"], fields["text"])
    if "impossible" in fields:
        return Impossible(fields["impossible"])
    fields["values"] = tuple(_from_json(value) for value in fields["values"])
    return CallResult(**fields)


def _dump(fields: dict[str, Any]) -> bytes:
    # surrogateescape: a path may hold bytes that are not UTF-8; JSON escapes them (\udc80) and gives them back
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def _to_json(value: Value) -> Any:
    match value:
        case bytes():
            return {"bytes": b2a_base64(value, newline=False).decode("ascii")}
        case Address():
            raw = b2a_base64(value.raw, newline=False).decode("ascii")
            return {"raw": raw, "addrlen": value.addrlen, "name": value.name, "ifname": value.ifname}
        case list():
            return [_to_json(item) for item in value]
        case Struct(fields):
            return {"struct": [[name, _to_json(item)] for name, item in fields]}
        case _:
            return value


def _from_json(value: Any) -> Value:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value  # type: ignore[no-any-return]  # int, str or None
    if "bytes" in value:
        return a2b_base64(value["bytes"])
    if "struct" in value:
        return Struct(tuple((name, _from_json(item)) for name, item in value["struct"]))

    return replace(decode(a2b_base64(value["raw"]), value["addrlen"]), name=value["name"], ifname=value["ifname"])


def _data(value: Any) -> bytes | None:
    return None if value is None else a2b_base64(value["bytes"])
