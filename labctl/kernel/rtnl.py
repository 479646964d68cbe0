"""The rtnetlink(7) messages that make a lab, as bytes ready to be sent.

The codec is pyroute2's. A message takes it 50 to 1000 us, so each shape of message is encoded once, with placeholder
values, and then filled in: the place of every value is found by walking the encoded attributes, and a test compares
filled messages with freshly encoded ones. All messages ask for an acknowledgement.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from socket import AF_INET, AF_INET6, AF_UNSPEC
from typing import Any

from labctl.kernel.netlink import HEADER, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, attributes
from labctl.kernel.pyroute2_messages import address_message, link_message, route_message
from labctl.structs import Struct

NETLINK_ROUTE = 0  # linux/netlink.h
RTM_NEWLINK = 16  # linux/rtnetlink.h
RTM_DELLINK = 17
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
IFF_UP = 1  # linux/if.h
IFLA_ADDRESS = 1  # linux/if_link.h
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_INFO_DATA = 2
IFLA_GROUP = 27
IFLA_NET_NS_FD = 28
VETH_INFO_PEER = 1  # linux/veth.h
IFA_ADDRESS = 1  # linux/if_addr.h
IFA_LOCAL = 2
IFA_F_NODAD = 0x02
RTA_DST = 1  # linux/rtnetlink.h
RTA_OIF = 4
RTA_GATEWAY = 5
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3  # what ip-route(8) gives routes by default
RTN_UNICAST = 1
RT_SCOPE_LINK = 253
RTNLGRP_IPV6_IFADDR = 9
IN6_ADDR_GEN_MODE_NONE = 1  # linux/if_link.h

LOOPBACK_INDEX = 1  # `lo` is the first device of every network namespace
IFINFO_BYTES = 16  # sizeof(struct ifinfomsg)
IFADDR_BYTES = 8
RTMSG_BYTES = 12

_SET = NLM_F_REQUEST | NLM_F_ACK
_MAKE = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_PLACEHOLDER_MAC = "02:00:00:00:00:00"


class VethEnd(Struct, frozen=True):
    """One end of a veth pair to be made: its name, index and hardware address in the namespace open at `netns_fd`."""

    ifname: str
    index: int
    mac: str
    mtu: int  # bytes
    netns_fd: int


class _Place(Struct, frozen=True):
    offset: int
    packing: struct.Struct


class _Template(Struct, frozen=True):
    encoded: bytes
    places: tuple[_Place, ...]

    def filled(self, values: Sequence[Any]) -> bytearray:
        data = bytearray(self.encoded)
        for place, value in zip(self.places, values, strict=True):
            place.packing.pack_into(data, place.offset, value)
        return data


_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")
_U8 = struct.Struct("=B")
_MAC = struct.Struct("6s")
_TYPE_AND_FLAGS = struct.Struct("=HH")  # of struct nlmsghdr, after the length


def new_veth(first: VethEnd, second: VethEnd, master: int = 0) -> bytearray:
    """Make a veth pair in place, one queue each way; both ends are down.

    `master` is the index of a bridge in the first end's namespace (0: none); a bridge's port is made up, which does
    no harm while the bridge is down and saves a message.
    """
    values = [first.index, first.ifname.encode(), _mac_bytes(first.mac), first.mtu, first.netns_fd]
    values += [second.index, second.ifname.encode(), _mac_bytes(second.mac), second.mtu, second.netns_fd]
    if master:
        values.append(master)
    template = _veth_template(len(first.ifname.encode()), len(second.ifname.encode()), bool(master))
    return template.filled(values)


def new_bridge(ifname: str, index: int, mtu: int) -> bytearray:
    """Make a bridge, down, without multicast snooping, in the namespace of the socket that this is sent on."""
    name = ifname.encode()
    return _bridge_template(len(name)).filled((index, name, mtu))


def set_up(index: int, up: bool) -> bytearray:
    """Set a link up, or down."""
    return _flags_template().filled((index, IFF_UP if up else 0))


def set_master(index: int, master: int) -> bytearray:
    """Make a link a port of the bridge with index `master`."""
    return _master_template().filled((index, master))


def without_generated_addresses(index: int) -> bytearray:
    """No link-local address of the kernel's own making when the link comes up (it would run DAD for 2 s)."""
    return _generation_template().filled((index,))


def new_address(index: int, address: IPv4Interface | IPv6Interface) -> bytearray:
    """Add an address to a link; an IPv6 one without duplicate address detection."""
    packed = address.ip.packed
    return _address_template(address.version).filled((address.network.prefixlen, index, packed, packed))


def new_route(
    index: int, destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None
) -> bytearray:
    """Add a unicast route to the main table through the link; `gateway` None: the destination is on the link.

    ValueError when the gateway is of another family than the destination.
    """
    packed = destination.network_address.packed
    if gateway is None:
        return _route_template(destination.version, False).filled((destination.prefixlen, packed, index))
    if gateway.version != destination.version:
        raise ValueError(f"gateway {gateway} is of another family than {destination}")
    template = _route_template(destination.version, True)
    return template.filled((destination.prefixlen, packed, index, gateway.packed))


def set_mtu(index: int, mtu: int) -> bytearray:
    """Give a link another MTU (bytes)."""
    return _mtu_template().filled((index, mtu))


def set_group(index: int, group: int) -> bytearray:
    """Put a link into a group of interfaces of its namespace (ip-link(8)); without one they are in group 0."""
    return _group_template().filled((index, group))


def remove_group(group: int) -> bytearray:
    """Remove all links of a group at once, with the other ends of veth pairs.

    The kernel waits some 15 ms for those who may still use a link, and for all links of a group together.
    """
    return _instead(set_group(0, group), RTM_DELLINK)


def remove_address(index: int, address: IPv4Interface | IPv6Interface) -> bytearray:
    """Take from a link what `new_address` gave it."""
    return _instead(new_address(index, address), RTM_DELADDR)


def remove_route(
    index: int, destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None
) -> bytearray:
    """Remove what `new_route` added."""
    return _instead(new_route(index, destination, gateway), RTM_DELROUTE)


def _instead(message: bytearray, type: int) -> bytearray:
    """The message for another type of request: removing takes the attributes that making does (rtnetlink(7))."""
    _TYPE_AND_FLAGS.pack_into(message, 4, type, _SET)
    return message


def told_address(kind: int, payload: memoryview) -> tuple[int, bytes] | None:
    """(link's index, packed address) of an RTM_NEWADDR notification; None when it is another one."""
    if kind != RTM_NEWADDR:
        return None
    found = {type: bytes(payload[start : start + length]) for type, start, length in attributes(payload, IFADDR_BYTES)}
    packed = found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
    return None if packed is None else (_U32.unpack_from(payload, 4)[0], packed)


# -- shapes: what pyroute2 encodes once, and where the values go ----------------------------------------------------


def encode_veth(first: VethEnd, second: VethEnd, master: int) -> bytes:
    """`new_veth` as pyroute2 encodes it."""
    peer = {"index": second.index, "attrs": _veth_end(second)}
    attrs = _veth_end(first)
    if master:
        attrs.append(("IFLA_MASTER", master))
    info = {"attrs": [("VETH_INFO_PEER", peer)]}
    attrs.append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", info)]}))
    flags = IFF_UP if master else 0
    return _encode_link(RTM_NEWLINK, _MAKE, first.index, attrs, flags=flags, change=flags)


def _veth_end(end: VethEnd) -> list[tuple[str, Any]]:
    return [
        ("IFLA_IFNAME", end.ifname),
        ("IFLA_ADDRESS", end.mac),
        ("IFLA_MTU", end.mtu),
        ("IFLA_NUM_TX_QUEUES", 1),
        ("IFLA_NUM_RX_QUEUES", 1),
        ("IFLA_NET_NS_FD", end.netns_fd),
    ]


@cache
def _veth_template(first_length: int, second_length: int, has_master: bool) -> _Template:
    first = VethEnd("x" * first_length, 1, _PLACEHOLDER_MAC, 1500, 1)
    second = VethEnd("x" * second_length, 1, _PLACEHOLDER_MAC, 1500, 1)
    encoded = encode_veth(first, second, 1 if has_master else 0)
    start = HEADER.size + IFINFO_BYTES
    info, length = _inside(encoded, start, len(encoded), IFLA_LINKINFO)
    data, length = _inside(encoded, info, info + length, IFLA_INFO_DATA)
    peer, length = _inside(encoded, data, data + length, VETH_INFO_PEER)
    places = [_Place(HEADER.size + 4, _I32), *_veth_end_places(encoded, start, len(encoded), first_length)]
    places += [_Place(peer + 4, _I32), *_veth_end_places(encoded, peer + IFINFO_BYTES, peer + length, second_length)]
    if has_master:
        places.append(_Place(_inside(encoded, start, len(encoded), IFLA_MASTER)[0], _U32))
    return _Template(encoded, tuple(places))


def _veth_end_places(encoded: bytes, start: int, end: int, name_length: int) -> list[_Place]:
    return [
        _Place(_inside(encoded, start, end, IFLA_IFNAME)[0], struct.Struct(f"{name_length}s")),
        _Place(_inside(encoded, start, end, IFLA_ADDRESS)[0], _MAC),
        _Place(_inside(encoded, start, end, IFLA_MTU)[0], _U32),
        _Place(_inside(encoded, start, end, IFLA_NET_NS_FD)[0], _U32),
    ]


def encode_bridge(ifname: str, index: int, mtu: int) -> bytes:
    """`new_bridge` as pyroute2 encodes it."""
    info = {"attrs": [("IFLA_BR_MCAST_SNOOPING", 0)]}
    attrs = [
        ("IFLA_IFNAME", ifname),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", info)]}),
    ]
    return _encode_link(RTM_NEWLINK, _MAKE, index, attrs)


@cache
def _bridge_template(name_length: int) -> _Template:
    encoded = encode_bridge("x" * name_length, 1, 1500)
    start = HEADER.size + IFINFO_BYTES
    name = _Place(_inside(encoded, start, len(encoded), IFLA_IFNAME)[0], struct.Struct(f"{name_length}s"))
    mtu = _Place(_inside(encoded, start, len(encoded), IFLA_MTU)[0], _U32)
    return _Template(encoded, (_Place(HEADER.size + 4, _I32), name, mtu))


def encode_up(index: int, up: bool) -> bytes:
    """`set_up` as pyroute2 encodes it."""
    return _encode_link(RTM_NEWLINK, _SET, index, [], flags=IFF_UP if up else 0, change=IFF_UP)


@cache
def _flags_template() -> _Template:
    return _Template(encode_up(1, False), (_Place(HEADER.size + 4, _I32), _Place(HEADER.size + 8, _U32)))


def encode_master(index: int, master: int) -> bytes:
    """`set_master` as pyroute2 encodes it."""
    return _encode_link(RTM_SETLINK, _SET, index, [("IFLA_MASTER", master)])


@cache
def _master_template() -> _Template:
    encoded = encode_master(1, 1)
    offset, _ = _inside(encoded, HEADER.size + IFINFO_BYTES, len(encoded), IFLA_MASTER)
    return _Template(encoded, (_Place(HEADER.size + 4, _I32), _Place(offset, _U32)))


def encode_mtu(index: int, mtu: int) -> bytes:
    """`set_mtu` as pyroute2 encodes it."""
    return _encode_link(RTM_SETLINK, _SET, index, [("IFLA_MTU", mtu)])


@cache
def _mtu_template() -> _Template:
    encoded = encode_mtu(1, 1500)
    offset, _ = _inside(encoded, HEADER.size + IFINFO_BYTES, len(encoded), IFLA_MTU)
    return _Template(encoded, (_Place(HEADER.size + 4, _I32), _Place(offset, _U32)))


def encode_group(index: int, group: int) -> bytes:
    """`set_group` as pyroute2 encodes it."""
    return _encode_link(RTM_SETLINK, _SET, index, [("IFLA_GROUP", group)])


@cache
def _group_template() -> _Template:
    encoded = encode_group(1, 1)
    offset, _ = _inside(encoded, HEADER.size + IFINFO_BYTES, len(encoded), IFLA_GROUP)
    return _Template(encoded, (_Place(HEADER.size + 4, _I32), _Place(offset, _U32)))


def encode_without_generated_addresses(index: int) -> bytes:
    """`without_generated_addresses` as pyroute2 encodes it."""
    inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", IN6_ADDR_GEN_MODE_NONE)]}
    return _encode_link(RTM_SETLINK, _SET, index, [("IFLA_AF_SPEC", {"attrs": [("AF_INET6", inet6)]})])


@cache
def _generation_template() -> _Template:
    return _Template(encode_without_generated_addresses(1), (_Place(HEADER.size + 4, _I32),))


def encode_address(index: int, address: IPv4Interface | IPv6Interface) -> bytes:
    """`new_address` as pyroute2 encodes it."""
    text = str(address.ip)
    fields = {
        "family": AF_INET if address.version == 4 else AF_INET6,
        "prefixlen": address.network.prefixlen,
        "flags": 0 if address.version == 4 else IFA_F_NODAD,
        "index": index,
    }
    return _encode(address_message(), RTM_NEWADDR, _MAKE, fields, [("IFA_LOCAL", text), ("IFA_ADDRESS", text)])


@cache
def _address_template(version: int) -> _Template:
    any_address = IPv4Interface("192.0.2.1/24") if version == 4 else IPv6Interface("2001:db8::1/64")
    encoded = encode_address(1, any_address)
    packing = struct.Struct(f"{len(any_address.ip.packed)}s")
    start = HEADER.size + IFADDR_BYTES
    return _Template(
        encoded,
        (
            _Place(HEADER.size + 1, _U8),
            _Place(HEADER.size + 4, _U32),
            _Place(_inside(encoded, start, len(encoded), IFA_LOCAL)[0], packing),
            _Place(_inside(encoded, start, len(encoded), IFA_ADDRESS)[0], packing),
        ),
    )


def encode_route(
    index: int, destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None
) -> bytes:
    """`new_route` as pyroute2 encodes it."""
    fields = {
        "family": AF_INET if destination.version == 4 else AF_INET6,
        "dst_len": destination.prefixlen,
        "table": RT_TABLE_MAIN,
        "proto": RTPROT_BOOT,
        "scope": RT_SCOPE_LINK if gateway is None and destination.version == 4 else 0,
        "type": RTN_UNICAST,
    }
    attrs: list[tuple[str, Any]] = [("RTA_DST", str(destination.network_address)), ("RTA_OIF", index)]
    if gateway is not None:
        attrs.append(("RTA_GATEWAY", str(gateway)))
    return _encode(route_message(), RTM_NEWROUTE, _MAKE, fields, attrs)


@cache
def _route_template(version: int, has_gateway: bool) -> _Template:
    any_destination = IPv4Network("192.0.2.0/24") if version == 4 else IPv6Network("2001:db8::/64")
    encoded = encode_route(1, any_destination, any_destination[1] if has_gateway else None)
    packing = struct.Struct(f"{len(any_destination.network_address.packed)}s")
    start = HEADER.size + RTMSG_BYTES
    places = [
        _Place(HEADER.size + 1, _U8),
        _Place(_inside(encoded, start, len(encoded), RTA_DST)[0], packing),
        _Place(_inside(encoded, start, len(encoded), RTA_OIF)[0], _U32),
    ]
    if has_gateway:
        places.append(_Place(_inside(encoded, start, len(encoded), RTA_GATEWAY)[0], packing))
    return _Template(encoded, tuple(places))


def _encode_link(
    type: int, request: int, index: int, attrs: list[tuple[str, Any]], *, flags: int = 0, change: int = 0
) -> bytes:
    fields = {"family": AF_UNSPEC, "index": index, "flags": flags, "change": change}
    return _encode(link_message(), type, request, fields, attrs)


def _encode(message_class: Any, type: int, flags: int, fields: dict[str, int], attrs: list[tuple[str, Any]]) -> bytes:
    """One message by pyroute2's codec, header included, sequence number 0."""
    message = message_class()
    message["header"]["type"] = type
    message["header"]["flags"] = flags
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)


def _inside(encoded: bytes, start: int, end: int, type: int) -> tuple[int, int]:
    """Offset and length of the payload of the attribute `type` among those of `encoded[start:end]`."""
    for found, offset, length in attributes(encoded, start, end):
        if found == type:
            return offset, length
    raise LookupError(f"pyroute2 encoded a message without attribute {type}")


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
