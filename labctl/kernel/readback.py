"""The addresses and routes of the network namespace that an rtnetlink(7) socket lives in, as the kernel has them.

The structures are those of linux/rtnetlink.h and linux/if_addr.h, unpacked here: a reader need not import pyroute2.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import (
    IPv4Interface,
    IPv6Interface,
    ip_interface,
)

from labctl.kernel.netlink import dump
from labctl.kernel.routing import KernelRoute, parse_route, route_payloads, values_of

RTM_GETLINK = 18  # linux/rtnetlink.h
RTM_GETADDR = 22
_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_U32 = struct.Struct("=I")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_TENTATIVE = 0x40  # IFA_F_TENTATIVE
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000


@dataclass(frozen=True, slots=True)
class KernelLink:
    """An interface as the kernel has it."""

    name: str
    index: int
    mac: str  # "" when it has none
    mtu: int  # bytes
    up: bool  # set up
    carrier: bool  # and connected to something that is up
    master: int = 0  # index of the bridge that it is a port of, 0 for none


@dataclass(frozen=True, slots=True)
class KernelAddress:
    """An address as the kernel has it."""

    ifname: str
    address: IPv4Interface | IPv6Interface
    tentative: bool = False  # still being checked for duplicates, not in use

    def __str__(self) -> str:
        return f"{self.address} on {self.ifname}"


def links(sock: socket.socket) -> tuple[KernelLink, ...]:
    """Every interface; `sock` (NETLINK_ROUTE) is borrowed, here and below. OSError when the kernel refuses."""
    found = []
    for _, payload in dump(sock, RTM_GETLINK, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, _, index, flags, _ = _IFINFO.unpack_from(payload)
        values = values_of(payload, _IFINFO.size)
        found.append(
            KernelLink(
                name=values[_IFLA_IFNAME].rstrip(b"\0").decode(),
                index=index,
                mac=values.get(_IFLA_ADDRESS, b"").hex(":"),
                mtu=_u32(values.get(_IFLA_MTU, bytes(4))),
                up=bool(flags & _IFF_UP),
                carrier=bool(flags & _IFF_LOWER_UP),
                master=_u32(values.get(_IFLA_MASTER, bytes(4))),
            )
        )
    return tuple(found)


def addresses(sock: socket.socket) -> tuple[KernelAddress, ...]:
    """Every address of both families, `lo`'s included."""
    names = _names(sock)
    found = []
    for _, payload in dump(sock, RTM_GETADDR, _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, prefix_length, flags, _, index = _IFADDR.unpack_from(payload)
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        values = values_of(payload, _IFADDR.size)
        packed = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS, b""))
        if _IFA_FLAGS in values:
            flags = _u32(values[_IFA_FLAGS])
        address = ip_interface((packed, prefix_length))
        found.append(KernelAddress(names.get(index, str(index)), address, bool(flags & _TENTATIVE)))
    return tuple(found)


def routes(sock: socket.socket) -> tuple[KernelRoute, ...]:
    """Every route of both families and all tables but `local`."""
    names = _names(sock)
    found = (parse_route(payload, names) for payload in route_payloads(sock))
    return tuple(route for route in found if route is not None)


def _names(sock: socket.socket) -> dict[int, str]:
    return {link.index: link.name for link in links(sock)}


def _u32(data: bytes) -> int:
    (value,) = _U32.unpack(data)
    return int(value)
