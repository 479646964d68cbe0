"""Values of socket options and control messages: from the call language to the bytes of C and back.

The agent packs them, since names of hosts and interfaces are its host's own. `options` has the types.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from labctl.errors import errno_name
from labctl.kernel.sockaddr import Address, decode
from labctl.kernel.socket_calls import FilterProgram
from labctl.lab.agent.addresses import (
    CannotForm,
    data_text,
    describe,
    encode,
    host_bytes,
    interface_index,
    interface_name,
    is_host,
    is_interface,
    plain_address,
)
from labctl.lab.agent.constants import TCP_STATES, flags_of, name_of
from labctl.lab.agent.messages import CStruct, Value
from labctl.lab.agent.options import (
    MREQN,
    SOCK_FILTER,
    TIMEVAL,
    Field,
    StructType,
    ValueKind,
    ValueType,
    control_at,
    level_name,
    wants,
)
from labctl.units import duration_s

INT_RANGE = range(-(2**31), 2**32)
SHOWN_FIELDS = 12
_NUMERIC = "bBhHiIlLqQ"
_LAYOUT = {  # size and alignment of a member, by its code
    **{code: (struct.calcsize("@" + code), struct.calcsize("@" + code)) for code in _NUMERIC},
    **dict.fromkeys(("low4", "high4", "low1"), (1, 1)),
    **dict.fromkeys(("ipv4", "group4"), (4, 1)),
    **dict.fromkeys(("ipv6", "group6"), (16, 1)),
    "interface": (4, 4),
    "be16": (2, 2),
    "mac": (8, 1),
    "timespec": (16, 8),
    "sockaddr": (128, 8),
    "sockaddr_rest": (128, 4),
}
_CMSG_HEADER = struct.Struct("@Nii")  # struct cmsghdr, cmsg(3)


def pack(name: str, kind: ValueType, value: Value) -> bytes | FilterProgram:
    """The bytes of an option's value; CannotForm for another type. `bytes` are returned unchanged."""
    if isinstance(value, bytes):
        return value
    match kind.kind, value:
        case ValueKind.DURATION, str():
            seconds = duration(value)
            return struct.pack("@ll", int(seconds), round((seconds - int(seconds)) * 1_000_000))
        case ValueKind.DURATION, 0:
            return struct.pack("@ll", 0, 0)
        case ValueKind.DURATION, list() | CStruct():
            return pack_struct(name, TIMEVAL, value)
        case ValueKind.DURATION, int():
            raise CannotForm(f'{name}: a timeout carries its unit; write "{value}ms" or "{value}s"')
        case (ValueKind.NUMBER, int()) if value in INT_RANGE:
            return struct.pack("@I", value & 0xFFFF_FFFF)
        case ValueKind.WIDE, int():
            return struct.pack("@Q", value & 0xFFFF_FFFF_FFFF_FFFF)
        case ValueKind.INTERFACE, int() | str():
            return struct.pack("@I", interface_index(value))
        case ValueKind.INTERFACE_BE, int() | str():
            return struct.pack("!I", interface_index(value))
        case ValueKind.TEXT, str():
            return value.encode("utf-8", "surrogateescape") + b"\0"
        case ValueKind.NUMBERS, [*items] if all(isinstance(item, int) and item in INT_RANGE for item in items):
            return b"".join(struct.pack("@I", item & 0xFFFF_FFFF) for item in items if isinstance(item, int))
        case ValueKind.STRUCT, list() | CStruct():
            assert kind.struct is not None
            return pack_struct(name, kind.struct, value)
        case ValueKind.MEMBERSHIP, list() | CStruct():
            return _membership(name, value)
        case ValueKind.MULTICAST_IF, CStruct():
            return pack_struct(name, MREQN, value)
        case ValueKind.MULTICAST_IF, str():
            return _address_or_interface(name, value, "0.0.0.0")
        case ValueKind.FILTER, list():
            return FilterProgram(b"".join(_instruction(name, item) for item in value))
    raise _wrong(name, kind, value)


def pack_struct(name: str, kind: StructType, value: Value) -> bytes:
    """A structure's bytes, from its members in order or by name."""
    given = _members(name, kind, value)
    packed = b""
    for field in kind.fields:
        packed = _pack_field(packed, name, field, given.get(field.name))
    return packed.ljust(-(-len(packed) // _alignment(kind)) * _alignment(kind), b"\0")


def unpack(kind: ValueType, data: bytes) -> Value:
    """The value of the kernel's bytes; the bytes themselves if they are not of that type."""
    match kind.kind:
        case ValueKind.DURATION if len(data) == 16:
            seconds, microseconds = struct.unpack("@ll", data)
            return int(seconds * 1000 + microseconds // 1000)
        case ValueKind.INTERFACE if len(data) == 4:
            return interface_name(int(struct.unpack("@I", data)[0]))
        case ValueKind.INTERFACE_BE if len(data) == 4:
            return interface_name(int(struct.unpack("!I", data)[0]))
        case ValueKind.NUMBER | ValueKind.WIDE if len(data) in (1, 2, 4, 8):
            return int.from_bytes(data, "little", signed=len(data) >= 4 and kind.kind is ValueKind.NUMBER)
        case ValueKind.TEXT:
            return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        case ValueKind.NUMBERS if len(data) % 4 == 0:
            return list(struct.unpack(f"@{len(data) // 4}i", data))
        case ValueKind.MULTICAST_IF if len(data) == 4:
            return socket.inet_ntoa(data)
        case ValueKind.STRUCT if kind.struct is not None:
            return unpack_struct(kind.struct, data)
    return data


def unpack_struct(kind: StructType, data: bytes) -> Value:
    """The members that `data` has: structures of older kernels are shorter."""
    found: list[tuple[str, Value]] = []
    offset = 0
    for field in kind.fields:
        start, size = _layout(offset, field)
        if field.code == "sockaddr_rest":
            size = len(data) - start
        if size <= 0 or start + size > len(data):
            break
        found.append((field.name, _unpack_field(field, data[start : start + size])))
        offset = start if field.code == "low4" else start + size
    return CStruct(tuple(found)) if found else data


def show_value(kind: ValueType | None, value: Value) -> str:
    """An option's value as C and strace(1) write it."""
    if kind is not None and kind.kind is ValueKind.FILTER and isinstance(value, list):
        return f"{{len={len(value)}, filter=[...]}}"
    if isinstance(value, int) and kind is not None and kind.names:
        return _named(value, kind.names)
    names = {field.name: field.names for field in kind.struct.fields} if kind is not None and kind.struct else {}
    match value:
        case bytes():
            return data_text(value)
        case str():
            return f'"{value}"'
        case Address():
            return plain_address(value)
        case list():
            return "[" + ", ".join(show_value(None, item) for item in value) + "]"
        case CStruct(fields):
            positions = list(names.values())
            shown = []
            for index, (name, item) in enumerate(fields[:SHOWN_FIELDS]):
                prefix = names.get(name, "") if name else positions[index] if index < len(positions) else ""
                text = _named(item, prefix) if isinstance(item, int) and prefix else show_value(None, item)
                shown.append(f"{name}={text}" if name else text)
            return "{" + ", ".join([*shown, *(["..."] if len(fields) > SHOWN_FIELDS else [])]) + "}"
    return str(value)


def pack_control(messages: Value) -> bytes:
    """The control messages of sendmsg(2), cmsg(3): a list of {level, type, data}, or bytes."""
    if isinstance(messages, bytes):
        return messages
    if not isinstance(messages, list):
        raise CannotForm("sendmsg: control= takes a list, [{SOL_SOCKET, SCM_RIGHTS, [fd]}]")
    packed = b""
    for message in messages:
        match _plain(message):
            case [int(level), int(number), data]:
                known = control_at(level, number)
                if known is None and not isinstance(data, bytes | int):
                    raise CannotForm(f"sendmsg: the control message {number} of {level_name(level)} takes bytes")
                body = pack(known.name, known.type, data) if known else _raw(data)
                assert isinstance(body, bytes)
                if known is not None and known.name == "UDP_SEGMENT":
                    body = body[:2]  # a __u16, udp(7)
                header = _CMSG_HEADER.pack(_CMSG_HEADER.size + len(body), level, number)
                packed += header + body.ljust(-(-len(body) // 8) * 8, b"\0")
            case _:
                raise CannotForm("sendmsg: a control message is {level, type, data}: {SOL_SOCKET, SCM_RIGHTS, [fd]}")
    return packed


def unpack_control(data: bytes) -> list[Value]:
    """The control messages that recvmsg(2) has filled in, in order."""
    found: list[Value] = []
    offset = 0
    while offset + _CMSG_HEADER.size <= len(data):
        length, level, number = _CMSG_HEADER.unpack_from(data, offset)
        if length < _CMSG_HEADER.size:
            break
        body = data[offset + _CMSG_HEADER.size : offset + length]
        known = control_at(level, number)
        value = unpack(known.type, body) if known is not None else body
        found.append(CStruct((("cmsg_level", level), ("cmsg_type", number), ("cmsg_data", value))))
        offset += -(-length // 8) * 8
    return found


def show_control(messages: Value) -> str:
    """`[{SOL_SOCKET, SCM_RIGHTS, [4]}]`."""
    if not isinstance(messages, list):
        return show_value(None, messages)
    shown = []
    for message in messages:
        match _plain(message):
            case [int(level), int(number), data]:
                known = control_at(level, number)
                name = known.name if known else str(number)
                shown.append(f"{{{level_name(level)}, {name}, {show_value(known.type if known else None, data)}}}")
    return "[" + ", ".join(shown) + "]"


def _plain(value: Value) -> list[Value]:
    if isinstance(value, CStruct):
        return [item for _, item in value.fields]
    return value if isinstance(value, list) else []


def _raw(data: Value) -> bytes:
    return data if isinstance(data, bytes) else struct.pack("@I", data & 0xFFFF_FFFF) if isinstance(data, int) else b""


def _wrong(name: str, kind: ValueType, value: Value) -> CannotForm:
    return CannotForm(f"{name} takes {kind.meaning}, not {show_value(None, value)}; write {kind.usage}")


def _named(value: int, prefix: str) -> str:
    if prefix == "E":
        return f"{value} {errno_name(value)}" if value else "0"
    if prefix in ("SOF_TIMESTAMPING_", "TP_STATUS_"):
        return flags_of(value, prefix)
    if value == 0 and prefix == "IPTOS_":
        return "0"
    return name_of(value, *(TCP_STATES if prefix == "TCP_" else (prefix,)))


def _members(name: str, kind: StructType, value: Value) -> dict[str, Value]:
    """The members given, by name."""
    if not isinstance(value, CStruct):
        fields = tuple(("", item) for item in value) if isinstance(value, list) else ()
    else:
        fields = value.fields
    names = [field.name for field in kind.fields]
    given: dict[str, Value] = {}
    for position, (member, item) in enumerate(fields):
        if member and member not in names:
            raise CannotForm(f"{name}: {kind.name} has no {member}; it has {', '.join(names)}")
        if not member and position >= len(names):
            raise CannotForm(f"{name}: {kind.name} has {len(names)} members, not {len(fields)}: {', '.join(names)}")
        given[member or names[position]] = item
    # A group and an interface are enough where an address may stand between them.
    interface = given.get("imr_address")
    if kind is MREQN and isinstance(interface, str) and "imr_ifindex" not in given and not _is_of_host(interface):
        given["imr_ifindex"] = given.pop("imr_address")
    if len(fields) < kind.required and not any(member for member, _ in fields):
        raise CannotForm(f"{name} takes {kind.name}; write {kind.usage}")
    return given


def _membership(name: str, value: Value) -> bytes:
    """struct ip_mreq for a group and an address of the interface, else struct ip_mreqn: ip(7)."""
    if isinstance(value, CStruct):
        value = CStruct(tuple(("imr_address" if key == "imr_interface" else key, item) for key, item in value.fields))
    packed = pack_struct(name, MREQN, value)
    return packed if packed[8:] != bytes(4) else packed[:8]


def _address_or_interface(name: str, value: str, group: str) -> bytes:
    """struct in_addr for an address, struct ip_mreqn for an interface's name."""
    if _numeric(value) is not None:
        return host_bytes(value, socket.AF_INET)
    return pack_struct(name, MREQN, CStruct((("imr_multiaddr", group), ("imr_ifindex", value))))


def _instruction(name: str, value: Value) -> bytes:
    if not isinstance(value, CStruct | list):
        raise CannotForm(f"{name}: an instruction is {{code, jt, jf, k}}, not {show_value(None, value)}")
    return pack_struct(name, SOCK_FILTER, value)


def _is_of_host(text: str) -> bool:
    """Whether the text is an address or a host's name, not an interface's."""
    return _numeric(text) is not None or (not is_interface(text) and is_host(text))


def _numeric(text: str) -> int | None:
    try:
        return ip_address(text.partition("%")[0]).version
    except ValueError:
        return None


def _size_and_alignment(code: str) -> tuple[int, int]:
    if code.startswith("bytes:"):
        return int(code[6:]), 1
    return _LAYOUT[code]


def _layout(offset: int, field: Field) -> tuple[int, int]:
    """The offset of a member that follows `offset` bytes, and its size."""
    size, alignment = _size_and_alignment(field.code)
    return -(-offset // alignment) * alignment, size


def _alignment(kind: StructType) -> int:
    return max((_size_and_alignment(field.code)[1] for field in kind.fields), default=1)


def _pack_field(before: bytes, name: str, field: Field, value: Value) -> bytes:
    start, size = _layout(len(before), field)
    before = before.ljust(start, b"\0")
    if value is None:
        return before + bytes(size)
    try:
        body = _field_bytes(field, value, size)
    except (struct.error, OSError, ValueError) as error:
        raise CannotForm(f"{name}: {field.name} cannot be {show_value(None, value)}: {error}") from error
    if body is None or len(body) > size:
        raise CannotForm(f"{name}: {field.name} cannot be {show_value(None, value)}; {wants(field)}")
    return before + body.ljust(size, b"\0")


def _field_bytes(field: Field, value: Value, size: int) -> bytes | None:
    """The member's bytes; None for a value of another kind."""
    if isinstance(value, bytes):
        return value
    match field.code, value:
        case code, int() if code in _NUMERIC:
            return struct.pack("@" + code, value)
        case "ipv4" | "group4", str():
            return host_bytes(value, socket.AF_INET)
        case "ipv4" | "group4", 0 | 0xFFFF_FFFF:
            return struct.pack("@I", value)
        case "ipv6" | "group6", str():
            return host_bytes(value, socket.AF_INET6)
        case "interface", int() | str():
            return struct.pack("@I", interface_index(value))
        case "be16", int():
            return struct.pack("@H", value)
        case "mac", str():
            return bytes.fromhex(value.replace(":", ""))
        case "sockaddr", Address():
            return value.raw
        case "sockaddr", str():
            version = 6 if _numeric(value.strip("[]")) == 6 or value.startswith("[") else 4
            text = value if _with_port(value) else f"[{value}]:0" if version == 6 else f"{value}:0"
            return encode(text, socket.AF_INET6 if version == 6 else socket.AF_INET)
        case "sockaddr", CStruct() | list():
            return encode(value, socket.AF_INET)
    return None


def _with_port(text: str) -> bool:
    return text.startswith("[") or text.count(":") == 1


def _unpack_field(field: Field, data: bytes) -> Value:
    match field.code:
        case code if code in _NUMERIC:
            return int(struct.unpack("@" + code, data)[0])
        case "ipv4" | "group4":
            return socket.inet_ntop(socket.AF_INET, data)
        case "ipv6" | "group6":
            return socket.inet_ntop(socket.AF_INET6, data)
        case "interface":
            return interface_name(int(struct.unpack("@I", data)[0]))
        case "low4":
            return data[0] & 0xF
        case "high4":
            return data[0] >> 4
        case "low1":
            return data[0] & 1
        case "timespec":
            seconds, nanoseconds = struct.unpack("@ll", data)
            return CStruct((("tv_sec", int(seconds)), ("tv_nsec", int(nanoseconds))))
        case "sockaddr" | "sockaddr_rest":
            return describe(decode(data))
    return data


def duration(text: str) -> float:
    """A duration in seconds. CannotForm."""
    try:
        return duration_s(text)
    except ValueError as error:
        raise CannotForm(str(error)) from error
