"""The arguments of a call: checked by kind and converted to C's; the buffers of ioctl(2) (netdevice(7))."""

from __future__ import annotations

import socket
import struct

from labctl.kernel import socket_calls
from labctl.kernel.sockaddr import decode, inet
from labctl.kernel.socket_calls import FilterProgram
from labctl.lab.agent.addresses import CannotForm, describe, encode, host_bytes, plain_address
from labctl.lab.agent.constants import CONSTANTS, flags_of
from labctl.lab.agent.messages import CStruct, SystemCall, Value
from labctl.lab.agent.options import Request, option_at
from labctl.lab.agent.values import INT_RANGE, duration, pack, show_value

_IFREQ = struct.Struct("@16s24s")  # struct ifreq


def pack_request(request: Request, value: Value) -> bytes:
    """The buffer for the kernel; CannotForm for a value of another kind."""
    if not request.member:
        if value is not None and not isinstance(value, int):
            raise CannotForm(f"ioctl: {request.name} takes a number, not {show_value(None, value)}")
        return struct.pack("@i", value or 0)
    parts = [item for _, item in value.fields] if isinstance(value, CStruct) else value
    match parts:
        case str(name) if request.gives and request.code != "name":
            return _ifreq(name, b"")
        case [int(index)] if request.code == "name":
            return _ifreq("", struct.pack("@i", index))
        case [str(name), setting] if not request.gives:
            return _ifreq(name, _setting(request, setting))
    raise CannotForm(f"ioctl: {request.name} takes {request.usage}, not {show_value(None, value)}")


def unpack_request(request: Request, buffer: bytes) -> Value:
    """The value that the kernel wrote: a number, an address, a name, or a hardware address as text."""
    if not request.member:
        return int(struct.unpack("@i", buffer)[0])
    name, union = _IFREQ.unpack(buffer)
    match request.code:
        case "name":
            return str(name.split(b"\0", 1)[0].decode())
        case "ipv4":
            return describe(decode(union[:16]))
        case "mac":
            return str(union[2:8].hex(":"))
        case "h":
            return int(struct.unpack_from("@H", union)[0])
        case _:
            return int(struct.unpack_from("@i", union)[0])


def show_request(request: Request, given: Value, got: Value) -> str:
    """`{ifr_name="eth0", ifr_mtu=1500}`, `[5]`."""
    if not request.member:
        number = got if request.gives else given
        return "value" if number is None else f"[{show_value(None, number)}]"
    parts = [item for _, item in given.fields] if isinstance(given, CStruct) else [given]
    name = got if request.code == "name" else parts[0]
    shown = [f'ifr_name="{name}"'] if isinstance(name, str) else []
    value = parts[-1] if not request.gives or request.code == "name" else got
    if value is not None:
        is_flags = bool(request.names) and isinstance(value, int)
        text = flags_of(value, request.names) if is_flags and isinstance(value, int) else _plain(value)
        shown.append(f"{'ifr_ifindex' if request.code == 'name' else request.member}={text}")
    return "{" + ", ".join(shown) + "}"


def _plain(value: Value) -> str:
    from labctl.kernel.sockaddr import Address

    return plain_address(value).removesuffix(":0") if isinstance(value, Address) else show_value(None, value)


def _ifreq(name: str, union: bytes) -> bytes:
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > 15:
        raise CannotForm(f'ioctl: "{name}" is longer than the 15 bytes of an interface\'s name')
    return _IFREQ.pack(encoded, union)


def _setting(request: Request, value: Value) -> bytes:
    match request.code, value:
        case "i", int():
            return struct.pack("@I", value & 0xFFFF_FFFF)
        case "h", int():
            return struct.pack("@H", value & 0xFFFF)
        case "ipv4", str():
            return inet(socket.inet_ntoa(host_bytes(value, socket.AF_INET)), 0)
        case "mac", str():
            hardware = bytes.fromhex(value.replace(":", "")) if len(value) == 17 else b""
            return struct.pack("@H", CONSTANTS["ARPHRD_ETHER"]) + hardware
    raise CannotForm(f"ioctl: {request.name} takes {request.usage}, not {show_value(None, value)}")


MAX_BUFFER_BYTES = 64 * 1024 * 1024
# sizeof(struct sockaddr_...)
_ADDRESS_SIZES: dict[int, int] = {
    socket.AF_INET: 16, socket.AF_INET6: 28, socket.AF_UNIX: 110, socket.AF_PACKET: 20, socket.AF_NETLINK: 12
}  # fmt: skip


class Arguments:
    """The arguments of one call; every method raises CannotForm for an argument of another kind."""

    def __init__(self, call: SystemCall) -> None:
        self.call = call
        self.values = call.arguments

    def __len__(self) -> int:
        return len(self.values)

    def _at(self, index: int) -> Value:
        if index >= len(self.values):
            raise CannotForm(f"{self.call.name} lacks its argument {index + 1}")
        return self.values[index]

    def _wrong(self, index: int, wanted: str) -> CannotForm:
        return CannotForm(f"{self.call.name}: argument {index + 1} is {self.values[index]!r}, not {wanted}")

    def integer(self, index: int, default: int | None = None) -> int:
        """An int of C's, signed or unsigned."""
        if default is not None and index >= len(self.values):
            return default
        value = self._at(index)
        if not isinstance(value, int) or value not in INT_RANGE:
            raise self._wrong(index, "an integer of 32 bits")
        return value

    def is_integer(self, index: int) -> bool:
        """Whether that argument exists and is an integer."""
        return index < len(self.values) and isinstance(self.values[index], int)

    def size(self, index: int) -> int:
        """The length of a buffer, bytes."""
        value = self._at(index)
        if not isinstance(value, int) or not 0 <= value <= MAX_BUFFER_BYTES:
            raise self._wrong(index, f"a buffer length from 0 to {MAX_BUFFER_BYTES} bytes")
        return value

    def data(self, index: int) -> bytes:
        """Bytes to send."""
        value = self._at(index)
        if not isinstance(value, bytes):
            raise self._wrong(index, 'bytes; write b"..."')
        return value

    def buffers(self, index: int) -> list[bytes]:
        """One or several buffers to send together."""
        value = self._at(index)
        if isinstance(value, bytes):
            return [value]
        items = [item for item in value if isinstance(item, bytes)] if isinstance(value, list) else []
        if not isinstance(value, list) or len(items) < len(value):
            raise self._wrong(index, 'a list of bytes; write [b"a", b"b"]')
        return items

    def text(self, index: int) -> str:
        """A path."""
        value = self._at(index)
        if not isinstance(value, str):
            raise self._wrong(index, "a text")
        return value

    def integers(self, index: int) -> list[int]:
        """A list of integers."""
        value = self._at(index)
        items = [item for item in value if isinstance(item, int)] if isinstance(value, list) else []
        if not isinstance(value, list) or len(items) < len(value):
            raise self._wrong(index, "a list of integers")
        return items

    def address(self, index: int, family: int) -> tuple[bytes, int]:
        """A sockaddr and its length: the call's `addrlen` if it has one."""
        raw = encode(self._at(index), family)
        length = len(raw) if self.call.addrlen is None else self.call.addrlen
        return raw.ljust(min(length, 256), b"\0"), length

    def address_length(self, family: int) -> int:
        """The length of the call's address buffer: its `addrlen`, or the size of the family's struct."""
        if self.call.addrlen is not None:
            if not 0 <= self.call.addrlen <= 4096:
                raise CannotForm(f"{self.call.name}: addrlen {self.call.addrlen} is not from 0 to 4096")
            return self.call.addrlen
        return _ADDRESS_SIZES.get(family, 128)

    def timeout_ms(self, index: int) -> int:
        """A timeout in milliseconds, or a duration such as "1s"; -1 (no limit) if omitted."""
        if index >= len(self.values):
            return -1
        value = self.values[index]
        if isinstance(value, str):
            return round(duration(value) * 1000)
        return self.integer(index)

    def poll_entries(self, index: int) -> list[tuple[int, int]]:
        """`[fd, events]` or a list of such pairs."""
        value = self._at(index)
        pairs = [value] if isinstance(value, list) and value and isinstance(value[0], int) else value
        if not isinstance(pairs, list):
            raise self._wrong(index, "a list of [descriptor, events]")
        entries = []
        for pair in pairs:
            match pair:
                case [int(fd), int(events)]:
                    entries.append((fd, events))
                case _:
                    raise self._wrong(index, "a list of [descriptor, events]")
        return entries

    def option_value(self, index: int, level: int, option: int) -> bytes | FilterProgram:
        """The bytes of an option's value; any value for an option of unknown type."""
        value = self._at(index)
        known = option_at(level, option)
        if known is not None:
            return pack(f"{self.call.name}: {known.name}", known.type, value)
        match value:
            case int() if value in INT_RANGE:
                return struct.pack("@I", value & 0xFFFF_FFFF)
            case bytes():
                return value
            case str():
                return value.encode() + b"\0"
            case list() | CStruct():
                items = [item for _, item in value.fields] if isinstance(value, CStruct) else value
                numbers = [item & 0xFFFF_FFFF for item in items if isinstance(item, int)]
                if items and len(numbers) == len(items):
                    return struct.pack(f"@{len(numbers)}I", *numbers)
        raise self._wrong(index, "an option's value; write an integer, bytes, or a structure such as {1, 0}")

    def control_room(self) -> int:
        """The size of recvmsg's buffer for control messages, bytes."""
        room = self.call.control
        if room is None:
            return 0
        if not isinstance(room, int) or not 0 <= room <= MAX_BUFFER_BYTES:
            raise CannotForm(f"{self.call.name}: control= is the room for control messages, a number of bytes")
        return room


def family_of(fd: int) -> int:
    """The address family of a socket (SO_DOMAIN); AF_INET if the descriptor is no socket."""
    buffer, length = socket_calls.new_buffer(4), socket_calls.UnsignedInt(4)
    made = socket_calls.getsockopt(fd, socket.SOL_SOCKET, CONSTANTS["SO_DOMAIN"], buffer, length)
    return int(struct.unpack("@i", buffer.raw)[0]) if made.returned == 0 else int(socket.AF_INET)
