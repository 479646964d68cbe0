"""The buffers of ioctl(2): of requests that fill in an int, and of those on interfaces (struct ifreq, netdevice(7))."""

from __future__ import annotations

import socket
import struct

from labctl.kernel.sockaddr import decode, inet
from labctl.lab.call_addresses import CannotForm, describe, host_bytes
from labctl.lab.call_messages import Struct, Value
from labctl.lab.call_text import plain_address
from labctl.lab.call_values import show_value
from labctl.lab.socket_constants import CONSTANTS, flags_of
from labctl.lab.socket_options import Request

_IFREQ = struct.Struct("@16s24s")  # struct ifreq


def pack_request(request: Request, value: Value) -> bytes:
    """The buffer that the kernel is given; CannotForm for a value of another kind."""
    if not request.member:
        if value is not None and not isinstance(value, int):
            raise CannotForm(f"ioctl: {request.name} takes a number, not {show_value(None, value)}")
        return struct.pack("@i", value or 0)
    parts = [item for _, item in value.fields] if isinstance(value, Struct) else value
    match parts:
        case str(name) if request.gives and request.code != "name":
            return _ifreq(name, b"")
        case [int(index)] if request.code == "name":
            return _ifreq("", struct.pack("@i", index))
        case [str(name), setting] if not request.gives:
            return _ifreq(name, _setting(request, setting))
    raise CannotForm(f"ioctl: {request.name} takes {request.usage}, not {show_value(None, value)}")


def unpack_request(request: Request, buffer: bytes) -> Value:
    """What the kernel has filled in: a number, the address, the name, or the hardware address as text."""
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
    parts = [item for _, item in given.fields] if isinstance(given, Struct) else [given]
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
