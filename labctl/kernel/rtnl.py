"""The rtnetlink(7) messages that create and change a lab's links, addresses and routes, as bytes ready to be sent.

pyroute2 encodes the messages that create something. Encoding takes it 50 to 1000 us, so each shape of message is
encoded once, with placeholder values, and this template is filled in for each message. The templates of the tested
version of pyroute2 are stored (`message_templates.py`), because its message classes take 20 ms to import; they are
imported for any other version. Messages that change a link are a fixed part and at most one attribute, and are packed
here. Tests compare all of them with pyroute2's encoding. `Batch` requests acknowledgements.

pyroute2's message classes are imported without its `__init__`, which takes 100 to 190 ms (docs/decisions/0014).

The structures are those of linux/rtnetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from socket import AF_INET, AF_INET6, AF_UNSPEC
from typing import Any

from labctl.kernel import message_templates
from labctl.kernel.netlink import (
    HEADER,
    I32,
    IFA_ADDRESS,
    IFA_F_NODAD,
    IFA_LOCAL,
    IFADDR,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTM_SETLINK,
    RTMSG,
    U32,
    attribute,
    attribute_values,
    attributes,
    dump,
    message,
)
from labctl.structs import Struct
from labctl.submodules import import_submodule

IFLA_INFO_DATA = 2  # linux/if_link.h
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
VETH_INFO_PEER = 1  # linux/veth.h
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5  # linux/rtnetlink.h
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3  # the protocol that ip-route(8) sets by default
RTN_UNICAST = 1
RT_SCOPE_LINK = 253
RTNLGRP_IPV6_IFADDR = 9
RTM_GETMULTICAST, IFA_MULTICAST = 58, 7
RTM_NEWNSID, NETNSA_NSID, NETNSA_FD = 88, 1, 3  # linux/net_namespace.h

_CHANGE = NLM_F_REQUEST
_CREATE = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL


class VethEnd(Struct, frozen=True):
    """One end of a veth pair to create: its name, index and hardware address in the namespace open at `netns_fd`."""

    ifname: str
    index: int
    mac: str
    mtu: int  # bytes
    netns_fd: int


# -- links


def new_veth(first: VethEnd, second: VethEnd, master: int = 0) -> bytes:
    """Create a veth pair with both ends in their namespaces, down, with one queue in each direction.

    `master` is the index of a bridge in the first end's namespace (0: none). A port of a bridge is created up, which
    saves a message; it forwards nothing while the bridge is down.
    """
    near, far = (
        (end.index, end.ifname.encode(), bytes.fromhex(end.mac.replace(":", "")), end.mtu, end.netns_fd)
        for end in (first, second)
    )
    return _veth_template(bool(master)).fill((*near, *((master,) if master else ()), *far))


def new_bridge(ifname: str, index: int, mtu: int) -> bytes:
    """Create a bridge, down, without multicast snooping, in the namespace of the socket that sends this."""
    return _bridge_template().fill((index, ifname.encode(), mtu))


def set_up(index: int, up: bool) -> bytes:
    """Set a link up or down."""
    return message(RTM_NEWLINK, _CHANGE, IFINFO.pack(AF_UNSPEC, 0, index, IFF_UP if up else 0, IFF_UP))


def set_master(index: int, master: int) -> bytes:
    """Make a link a port of the bridge with index `master`."""
    return _set_link(index, attribute(IFLA_MASTER, U32.pack(master)))


def set_mtu(index: int, mtu: int) -> bytes:
    """Set a link's MTU in bytes."""
    return _set_link(index, attribute(IFLA_MTU, U32.pack(mtu)))


def set_group(index: int, group: int) -> bytes:
    """Put a link into a group of interfaces of its namespace (ip-link(8)); a new link is in group 0."""
    return _set_link(index, attribute(IFLA_GROUP, U32.pack(group)))


def disable_address_generation(index: int) -> bytes:
    """Keep the kernel from adding a link-local address when the link comes up; it would run DAD for 2 s."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    return _set_link(index, attribute(IFLA_AF_SPEC, attribute(AF_INET6, mode)))


def remove_link(index: int) -> bytes:
    """Remove a link; of a veth pair, both ends."""
    return _as_removal(_set_link(index, b""), RTM_DELLINK)


def remove_group(group: int) -> bytes:
    """Remove all links of a group at once, with the other ends of veth pairs.

    The kernel waits some 15 ms until nothing uses a link any more, and does so once for the links of a group.
    """
    return _as_removal(set_group(0, group), RTM_DELLINK)


def _set_link(index: int, attrs: bytes) -> bytes:
    return message(RTM_SETLINK, _CHANGE, IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + attrs)


def number_namespace(netns_fd: int) -> bytes:
    """Number a network namespace in that of the sending socket, which may then listen to it; EEXIST if it has one."""
    attrs = attribute(NETNSA_NSID, I32.pack(-1)) + attribute(NETNSA_FD, U32.pack(netns_fd))
    return message(RTM_NEWNSID, NLM_F_REQUEST, bytes(4) + attrs)  # struct rtgenmsg, padded


# -- addresses and routes


def new_address(index: int, address: IPv4Interface | IPv6Interface) -> bytes:
    """Add an address to a link; an IPv6 address without duplicate address detection."""
    packed = address.packed
    return _address_template(address.version).fill((address.network.prefixlen, index, packed, packed))


def new_route(index: int, destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None) -> bytes:
    """Add a unicast route through the link to the main table; without a gateway, the destination is on the link.

    ValueError if the families of gateway and destination differ.
    """
    to = (destination.prefixlen, destination.network_address.packed, index)
    if gateway is None:
        return _route_template(destination.version, False).fill(to)
    if gateway.version != destination.version:
        raise ValueError(f"gateway {gateway} is of another family than {destination}")
    return _route_template(destination.version, True).fill((*to, gateway.packed))


def remove_address(index: int, address: IPv4Interface | IPv6Interface) -> bytes:
    """Remove what `new_address` added."""
    return _as_removal(new_address(index, address), RTM_DELADDR)


def remove_route(
    index: int, destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None
) -> bytes:
    """Remove what `new_route` added, and not a route with another metric: without one, IPv6 takes any."""
    removal = _as_removal(new_route(index, destination, gateway), RTM_DELROUTE)
    if destination.version == 4:
        return removal
    return U32.pack(len(removal) + len(_USUAL_METRIC)) + removal[U32.size :] + _USUAL_METRIC


_RTA_PRIORITY = 6  # linux/rtnetlink.h
_USUAL_METRIC = attribute(_RTA_PRIORITY, U32.pack(1024))  # IP6_RT_PRIO_USER (linux/ipv6_route.h)


def _as_removal(message: bytes, type: int) -> bytes:
    """Change the type of a message: a removal has the same attributes as what it undoes (rtnetlink(7))."""
    return message[:4] + struct.pack("=HH", type, _CHANGE) + message[8:]  # type and flags of struct nlmsghdr


def notified_address(type: int, payload: memoryview) -> tuple[int, bytes] | None:
    """Return (link's index, packed address) of an RTM_NEWADDR notification, None for any other notification."""
    if type != RTM_NEWADDR:
        return None
    values = attribute_values(payload, IFADDR.size)
    packed = values.get(IFA_LOCAL, values.get(IFA_ADDRESS))
    return None if packed is None else (IFADDR.unpack_from(payload)[-1], packed)


SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")  # of a group; an address's last 3 bytes follow (RFC 4291)


def multicast_groups(sock: socket.socket) -> set[tuple[int, bytes]]:
    """Return the IPv6 groups (link's index, packed group) that the kernel has joined in the namespace of `sock`."""
    found = set()
    for _, payload in dump(sock, RTM_GETMULTICAST, IFADDR.pack(AF_INET6, 0, 0, 0, 0)):
        values = attribute_values(payload, IFADDR.size)
        if IFA_MULTICAST in values:
            found.add((int(IFADDR.unpack_from(payload)[-1]), values[IFA_MULTICAST]))
    return found


def ipv6_addresses(sock: socket.socket) -> set[tuple[int, bytes]]:
    """Return the IPv6 addresses (link's index, packed address) in the namespace of `sock`."""
    dumped = dump(sock, RTM_GETADDR, IFADDR.pack(AF_INET6, 0, 0, 0, 0))
    return {address for kind, payload in dumped if (address := notified_address(kind, payload))}


# -- templates: a message encoded by pyroute2, and where the values go

_Slot = tuple[int, str]  # offset in the message, format of struct


class _Template(Struct, frozen=True):
    """The parts of a message: constant ones and values in turn; the latter are None here."""

    packing: struct.Struct
    parts: tuple[bytes | None, ...]

    def fill(self, values: Sequence[Any]) -> bytes:
        """Return the message with these values, in the order of their slots."""
        parts: list[Any] = list(self.parts)
        parts[1::2] = values
        return self.packing.pack(*parts)


def _template(encoded: bytes, slots: Iterable[_Slot]) -> _Template:
    """Make a template with slots in the order of their offsets."""
    parts: list[bytes | None] = []
    packing, end = "=", 0
    for offset, form in slots:
        parts += [encoded[end:offset], None]
        packing += f"{offset - end}s{form}"
        end = offset + struct.calcsize(f"={form}")
    return _Template(struct.Struct(f"{packing}{len(encoded) - end}s"), (*parts, encoded[end:]))


_LINK_ATTRIBUTES = HEADER.size + IFINFO.size
_LINK_INDEX: _Slot = (HEADER.size + 4, "i")
_PREFIX_LENGTH: _Slot = (HEADER.size + 1, "B")  # of struct ifaddrmsg, and of struct rtmsg
_ADDRESS_FORMS = {4: "4s", 6: "16s"}
_NAME_BYTES = 16  # IFNAMSIZ (linux/if.h); the kernel accepts zero bytes after a name


def _offsets(encoded: bytes, start: int, end: int | None = None) -> dict[int, tuple[int, int]]:
    """Return start and end of the payload of each attribute of `encoded[start:end]`, by type."""
    return {type: (offset, offset + length) for type, offset, length in attributes(encoded, start, end)}


def _encoded(shape: str) -> bytes:
    """Return a message of that shape, a key of `PLACEHOLDERS`: the stored one if it is of the installed pyroute2."""
    return message_templates.ENCODED[shape] if _are_stored() else PLACEHOLDERS[shape]()


@cache
def _are_stored() -> bool:
    """Whether the stored messages are of the installed pyroute2, and of a machine like this one."""
    metadata = f"pyroute2-{message_templates.PYROUTE2}.dist-info"
    return sys.byteorder == "little" and any(os.path.isdir(os.path.join(directory, metadata)) for directory in sys.path)


def encode_veth(first: VethEnd, second: VethEnd, master: int) -> bytes:
    """Encode what `new_veth` fills in."""
    peer = {"index": second.index, "attrs": _veth_end(second)}
    attrs = _veth_end(first) + ([("IFLA_MASTER", master)] if master else [])
    attrs.append(_link_info("veth", ("VETH_INFO_PEER", peer)))
    flags = IFF_UP if master else 0
    return _encode("ifinfmsg", RTM_NEWLINK, {"index": first.index, "flags": flags, "change": flags}, attrs)


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
def _veth_template(has_master: bool) -> _Template:
    encoded = _encoded("port" if has_master else "veth")
    own = _offsets(encoded, _LINK_ATTRIBUTES)
    data = _offsets(encoded, *_offsets(encoded, *own[IFLA_LINKINFO])[IFLA_INFO_DATA])
    peer, end = data[VETH_INFO_PEER]  # a struct ifinfomsg and its attributes
    slots = [_LINK_INDEX, *_veth_end_slots(own), *([(own[IFLA_MASTER][0], "I")] if has_master else [])]
    return _template(encoded, (*slots, (peer + 4, "i"), *_veth_end_slots(_offsets(encoded, peer + IFINFO.size, end))))


def _veth_end_slots(offsets: dict[int, tuple[int, int]]) -> list[_Slot]:
    forms = {IFLA_IFNAME: f"{_NAME_BYTES}s", IFLA_ADDRESS: "6s", IFLA_MTU: "I", IFLA_NET_NS_FD: "I"}
    return [(offsets[type][0], form) for type, form in forms.items()]


def encode_bridge(ifname: str, index: int, mtu: int) -> bytes:
    """Encode what `new_bridge` fills in."""
    info = _link_info("bridge", ("IFLA_BR_MCAST_SNOOPING", 0))
    return _encode("ifinfmsg", RTM_NEWLINK, {"index": index}, [("IFLA_IFNAME", ifname), ("IFLA_MTU", mtu), info])


@cache
def _bridge_template() -> _Template:
    encoded = _encoded("bridge")
    offsets = _offsets(encoded, _LINK_ATTRIBUTES)
    return _template(encoded, (_LINK_INDEX, (offsets[IFLA_IFNAME][0], f"{_NAME_BYTES}s"), (offsets[IFLA_MTU][0], "I")))


def _link_info(kind: str, data: tuple[str, Any]) -> tuple[str, Any]:
    return "IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": [data]})]}


def encode_address(index: int, address: IPv4Interface | IPv6Interface) -> bytes:
    """Encode what `new_address` fills in."""
    text = str(address.ip)
    fields = {
        "family": AF_INET if address.version == 4 else AF_INET6,
        "prefixlen": address.network.prefixlen,
        "flags": 0 if address.version == 4 else IFA_F_NODAD,
        "index": index,
    }
    return _encode("ifaddrmsg", RTM_NEWADDR, fields, [("IFA_LOCAL", text), ("IFA_ADDRESS", text)])


@cache
def _address_template(version: int) -> _Template:
    encoded = _encoded(f"address{version}")
    offsets = _offsets(encoded, HEADER.size + IFADDR.size)
    both = [(offsets[type][0], _ADDRESS_FORMS[version]) for type in (IFA_LOCAL, IFA_ADDRESS)]
    return _template(encoded, (_PREFIX_LENGTH, (HEADER.size + 4, "I"), *both))


def encode_route(
    index: int, destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None
) -> bytes:
    """Encode what `new_route` fills in."""
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
    return _encode("rtmsg", RTM_NEWROUTE, fields, attrs)


@cache
def _route_template(version: int, has_gateway: bool) -> _Template:
    encoded = _encoded(f"{'route' if has_gateway else 'direct'}{version}")
    packed = _ADDRESS_FORMS[version]
    offsets = _offsets(encoded, HEADER.size + RTMSG.size)
    slots = [_PREFIX_LENGTH, (offsets[RTA_DST][0], packed), (offsets[RTA_OIF][0], "I")]
    return _template(encoded, (*slots, *([(offsets[RTA_GATEWAY][0], packed)] if has_gateway else [])))


_END = VethEnd("x" * (_NAME_BYTES - 1), 1, "02:00:00:00:00:00", 1500, 1)
_ADDRESSES = (IPv4Interface("192.0.2.1/24"), IPv6Interface("2001:db8::1/64"))
# Each encodes a message of one shape, with placeholder values.
PLACEHOLDERS: dict[str, Callable[[], bytes]] = {
    "veth": partial(encode_veth, _END, _END, 0),
    "port": partial(encode_veth, _END, _END, 1),
    "bridge": partial(encode_bridge, _END.ifname, 1, 1500),
    **{f"address{one.version}": partial(encode_address, 1, one) for one in _ADDRESSES},
    **{f"route{one.version}": partial(encode_route, 1, one.network, one.ip) for one in _ADDRESSES},
    **{f"direct{one.version}": partial(encode_route, 1, one.network, None) for one in _ADDRESSES},
}


def _encode(message_class_name: str, type: int, fields: dict[str, int], attrs: list[tuple[str, Any]]) -> bytes:
    """Encode one message with pyroute2, header included, sequence number 0."""
    message = message_class(message_class_name)()
    message["header"]["type"] = type
    message["header"]["flags"] = _CREATE
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)


# -- pyroute2's message classes, without its __init__


def load_message_classes() -> None:
    """Load the classes that templates are encoded with before they are needed, unless the templates are stored."""
    if not _are_stored():
        for name in ("ifinfmsg", "ifaddrmsg", "rtmsg"):
            message_class(name)


@cache
def message_class(name: str) -> Any:
    """Return one of pyroute2's classes of rtnetlink(7) messages, which has the name of its module."""
    return getattr(import_submodule(f"pyroute2.netlink.rtnl.{name}"), name)
