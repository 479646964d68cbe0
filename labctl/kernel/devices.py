"""The rtnetlink(7) messages that make and change virtual interfaces, and what the kernel reports about those.

Options have the names and values of ip-link(8). The attributes are those of linux/if_link.h and linux/if_tunnel.h. A
test compares the messages with pyroute2's.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from types import MappingProxyType

from labctl.kernel.netlink import (
    IFINFO,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_LINKINFO,
    IFLA_MTU,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    RTM_GETNEIGH,
    RTM_NEWLINK,
    U32,
    attribute,
    attribute_values,
    dump,
    message,
)
from labctl.structs import Struct

IFLA_LINK = 5
_INFO_KIND, _INFO_DATA = 1, 2  # IFLA_INFO_*
RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29  # linux/rtnetlink.h
_NDMSG = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT_NOARP, _NTF_SELF, _AF_BRIDGE = 0xC0, 0x2, 7  # linux/neighbour.h

Value = str | int


class _Attribute(Struct, frozen=True):
    """An option as an attribute: its type, and the way to pack and unpack its value."""

    type: int
    pack: Callable[[Value], bytes]
    unpack: Callable[[bytes], Value]


def _number(type: int, form: str) -> _Attribute:
    packing = struct.Struct(form)
    return _Attribute(type, lambda value: packing.pack(int(value)), lambda data: int(packing.unpack_from(data)[0]))


def _choice(type: int, form: str, names: Mapping[str, int]) -> _Attribute:
    packing, by_number = struct.Struct(form), {number: name for name, number in names.items()}

    def unpack(data: bytes) -> Value:
        (number,) = packing.unpack_from(data)
        return by_number.get(number, int(number))

    return _Attribute(type, lambda value: packing.pack(names[str(value)]), unpack)


def _address(type: int) -> _Attribute:
    return _Attribute(type, lambda value: ip_address(value).packed, lambda data: str(ip_address(data)))


def _numbered(*names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


_SWITCHED = _numbered("off", "on")
_MODES = _numbered(
    *("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
)
_HASHES = _numbered("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac")
_GRE = {"local": _address(6), "remote": _address(7), "ttl": _number(8, "=B"), "key": _number(5, ">I")}


def _without_encap_limit(type: int) -> _Attribute:
    """Return the option `encaplimit none`: the flag IP6_TNL_F_IGN_ENCAP_LIMIT, beside others that the kernel sets."""
    return _Attribute(type, lambda value: U32.pack(1), lambda data: "none" if U32.unpack_from(data)[0] & 1 else "4")


_GRE6 = {**_GRE, "encaplimit": _without_encap_limit(13)}
_IPTUN = {"local": _address(2), "remote": _address(3), "ttl": _number(4, "=B")}
_ATTRIBUTES: Mapping[str, Mapping[str, _Attribute]] = MappingProxyType(
    {
        "vlan": {"id": _number(1, "=H"), "protocol": _choice(5, ">H", {"802.1q": 0x8100, "802.1ad": 0x88A8})},
        "bond": {
            "mode": _choice(1, "=B", _MODES),
            "miimon": _number(3, "=I"),
            "xmit_hash_policy": _choice(14, "=B", _HASHES),
            "lacp_rate": _choice(21, "=B", _numbered("slow", "fast")),
        },
        "macvlan": {"mode": _choice(1, "=I", {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8})},
        "ipvlan": {"mode": _choice(1, "=H", _numbered("l2", "l3", "l3s"))},
        "vrf": {"table": _number(1, "=I")},
        "vxlan": {
            "id": _number(1, "=I"),
            "group": _address(2),
            "local": _address(4),
            "ttl": _number(5, "=B"),
            "learning": _choice(7, "=B", _SWITCHED),
            "dstport": _number(15, ">H"),
        },
        "gre": _GRE,
        "gretap": _GRE,
        "ip6gre": _GRE6,
        "ip6gretap": _GRE6,
        "ipip": _IPTUN,
        "sit": _IPTUN,
        "ip6tnl": {**_IPTUN, "encaplimit": _without_encap_limit(8)},
        "bridge": {
            "forward_delay": _number(1, "=I"),
            "stp_state": _number(5, "=I"),
            "mcast_snooping": _number(23, "=B"),
        },
        "wireguard": {},
        "dummy": {},
    }
)
KINDS = frozenset(_ATTRIBUTES)
_IPV6_TYPES = {("vxlan", 2): 16, ("vxlan", 4): 17}  # IFLA_VXLAN_GROUP6 for IFLA_VXLAN_GROUP, LOCAL6 for LOCAL
_GRE_IFLAGS, _GRE_OFLAGS, _GRE_IKEY, _GRE_KEY = 2, 3, 4, b"\x20\x00"  # IFLA_GRE_*; the flag GRE_KEY, big-endian
_LINKS = {"vxlan": 3, **dict.fromkeys(("gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl"), 1)}


def new_device(
    kind: str,
    options: Iterable[tuple[str, Value]],
    ifname: str,
    index: int,
    *,
    on: int = 0,
    mac: str = "",
    mtu: int = 0,
) -> bytes:
    """Create a device, down, in the namespace of the socket that sends this.

    `on` is the index of the interface that it is on; `mac` and `mtu` (bytes) are the kernel's choice if not given.
    """
    attrs = attribute(IFLA_IFNAME, ifname.encode() + b"\0")
    attrs += attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))) if mac else b""
    attrs += attribute(IFLA_MTU, U32.pack(mtu)) if mtu else b""
    attrs += attribute(IFLA_LINK, U32.pack(on)) if on and kind not in _LINKS else b""
    attrs += _info(kind, options, on)
    flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
    return message(RTM_NEWLINK, flags, IFINFO.pack(0, 0, index, 0, 0) + attrs)


def change_device(kind: str, options: Iterable[tuple[str, Value]], index: int, *, on: int = 0) -> bytes:
    """Change the options of a device."""
    return message(RTM_NEWLINK, NLM_F_REQUEST, IFINFO.pack(0, 0, index, 0, 0) + _info(kind, options, on))


def _info(kind: str, options: Iterable[tuple[str, Value]], on: int) -> bytes:
    data = attribute(_LINKS[kind], U32.pack(on)) if on and kind in _LINKS else b""
    for name, value in options:
        one = _ATTRIBUTES[kind][name]
        packed = one.pack(value)
        data += attribute(_IPV6_TYPES.get((kind, one.type), one.type) if len(packed) == 16 else one.type, packed)
        if name == "key":
            data += attribute(_GRE_IKEY, packed)
            data += attribute(_GRE_IFLAGS, _GRE_KEY) + attribute(_GRE_OFLAGS, _GRE_KEY)
    info = attribute(_INFO_KIND, kind.encode() + b"\0")
    return attribute(IFLA_LINKINFO, info + (attribute(_INFO_DATA, data) if data else b""))


def reported(values: Mapping[int, bytes]) -> tuple[str, tuple[tuple[str, Value], ...], int]:
    """Return kind and options of a link from its attributes in RTM_GETLINK, and the index of the interface it is on.

    The options are those that `new_device` sets. The index is 0 for links that are on none.
    """
    info = attribute_values(values.get(IFLA_LINKINFO, b""))
    kind = info.get(_INFO_KIND, b"").rstrip(b"\0").decode()
    known = _ATTRIBUTES.get(kind, {})
    data = attribute_values(info.get(_INFO_DATA, b"")) if known else {}
    found: list[tuple[str, Value]] = []
    for name, one in known.items():
        packed = data.get(_IPV6_TYPES.get((kind, one.type), -1)) or data.get(one.type)
        if packed is not None:
            found.append((name, one.unpack(packed)))
    on = data.get(_LINKS[kind], b"") if kind in _LINKS else values.get(IFLA_LINK, b"") if known else b""
    return kind, tuple(found), U32.unpack(on)[0] if len(on) == U32.size else 0


def flooded(sock: socket.socket) -> dict[int, tuple[str, ...]]:
    """Return where each VXLAN device sends frames for unknown stations, by index; `sock` is borrowed. OSError."""
    found: dict[int, tuple[str, ...]] = {}
    for _, payload in dump(sock, RTM_GETNEIGH, _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0)):
        family, index, *_ = _NDMSG.unpack_from(payload)
        values = attribute_values(payload, _NDMSG.size)
        if family == _AF_BRIDGE and not any(values.get(_NDA_LLADDR, b"\1")) and _NDA_DST in values:
            found[index] = (*found.get(index, ()), str(ip_address(values[_NDA_DST])))
    return found


def flood(index: int, remote: str, *, remove: bool = False) -> bytes:
    """Add (or remove) an address that a VXLAN device sends frames for unknown stations to (`bridge fdb append`)."""
    body = _NDMSG.pack(_AF_BRIDGE, index, _NUD_PERMANENT_NOARP, _NTF_SELF, 0)
    body += attribute(_NDA_LLADDR, bytes(6)) + attribute(_NDA_DST, ip_address(remote).packed)
    if remove:
        return message(_RTM_DELNEIGH, NLM_F_REQUEST, body)
    return message(RTM_NEWNEIGH, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND, body)
