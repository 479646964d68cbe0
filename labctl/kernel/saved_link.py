"""What an interface loses when it is set down: saved before, and given back when it comes up again.

The kernel removes the interface's IPv6 addresses (unless net.ipv6.conf.*.keep_addr_on_down is set) and the routes of
both families that lead through it (net/ipv4/fib_frontend.c, net/ipv6/addrconf.c). Saved are the messages of its own
dumps, so that what was there comes back as it was, whoever had made it: labctl, or a program of the host.

Not saved is what others give again: routes that the kernel makes of addresses, those of routing daemons (protocols
above RTPROT_STATIC), and addresses with a lifetime, which are a router's (RFC 4862) or a DHCP client's.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface

from labctl.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    attribute,
    attributes,
    dump,
    message,
)
from labctl.kernel.routing import (
    CLONED,
    KERNEL,
    NEXT_HOP,
    ROUTE,
    RTA_CACHEINFO,
    RTA_MULTIPATH,
    RTA_NH_ID,
    RTA_OIF,
    STATIC,
    Address,
    KernelRoute,
    Prefix,
    hops_in,
    parse_route,
    route_payloads,
    values_of,
)

SIOCGIFFLAGS = 0x8913  # linux/sockios.h, netdevice(7)
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE = 20, 22, 24  # linux/rtnetlink.h
_MAKE = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_IFF_UP = 1
_IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_IFA_F_NODAD, _IFA_F_PERMANENT = 0x02, 0x80
_KEPT_FLAGS = 0x6  # RTNH_F_PERVASIVE, RTNH_F_ONLINK; the others tell a state
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class SavedAddress:
    """An IPv6 address and the message that adds it again, without duplicate address detection."""

    address: IPv6Interface
    message: bytes


@dataclass(frozen=True, slots=True)
class SavedRoute:
    """A route and the message that adds it again."""

    route: KernelRoute
    message: bytes


@dataclass(frozen=True, slots=True)
class SavedLink:
    """What there was on an interface. `routes` are those of all its namespace that lead through it, on-link ones first.

    `by_daemons` are the destinations to which routing daemons had routes, through any interface.
    """

    addresses: tuple[SavedAddress, ...] = ()
    routes: tuple[SavedRoute, ...] = ()
    by_daemons: frozenset[tuple[object, int]] = frozenset()

    def without_address(self, address: IPv4Interface | IPv6Interface) -> SavedLink:
        """The same when that address has been removed meanwhile."""
        return replace(self, addresses=tuple(each for each in self.addresses if each.address != address))

    def without_route(self, destination: Prefix, gateway: Address | None) -> SavedLink:
        """The same when the route of the main table to there has been removed meanwhile."""
        return replace(
            self,
            routes=tuple(
                each
                for each in self.routes
                if (each.route.destination, [hop.gateway for hop in each.route.hops]) != (destination, [gateway])
                or not each.route.is_plain
            ),
        )


def save(sock: socket.socket, index: int) -> SavedLink:
    """What the interface of that index would lose; `sock` (NETLINK_ROUTE) is borrowed. OSError."""
    routes = sorted(_routes(sock, index), key=lambda saved: any(hop.gateway for hop in saved.route.hops))
    return SavedLink(tuple(_addresses(sock, index)), tuple(routes), daemons_destinations(sock))


def is_up(sock: socket.socket, ifname: str) -> bool:
    """Whether the interface, in the namespace of any socket `sock`, is set up. OSError (ENODEV) when there is none."""
    request = struct.pack("16s24x", ifname.encode())
    (flags,) = struct.unpack_from("=H", fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, request), 16)
    return bool(flags & _IFF_UP)


def daemons_destinations(sock: socket.socket) -> frozenset[tuple[object, int]]:
    """(destination, table) of every route that a routing daemon has made; OSError."""
    parsed = (parse_route(payload, {}) for payload in route_payloads(sock))
    return frozenset((route.destination, route.table) for route in parsed if route and route.protocol > STATIC)


def not_taken(
    saved: Sequence[SavedRoute], before: frozenset[tuple[object, int]], sock: socket.socket
) -> list[SavedRoute]:
    """The saved routes but those to where a routing daemon has found a way since; OSError."""
    since = daemons_destinations(sock) - before
    return [each for each in saved if (each.route.destination, each.route.table) not in since]


def _addresses(sock: socket.socket, index: int) -> Iterator[SavedAddress]:
    for _, payload in dump(sock, RTM_GETADDR, _IFADDR.pack(socket.AF_INET6, 0, 0, 0, 0)):
        family, length, short_flags, scope, of = _IFADDR.unpack_from(payload)
        if family != socket.AF_INET6 or of != index:
            continue
        values = values_of(payload, _IFADDR.size)
        flags = _U32.unpack(values[_IFA_FLAGS])[0] if _IFA_FLAGS in values else short_flags
        if not flags & _IFA_F_PERMANENT:
            continue
        flags |= _IFA_F_NODAD
        kept = {kind: data for kind, data in values.items() if kind not in (_IFA_CACHEINFO, _IFA_FLAGS)}
        body = b"".join(attribute(kind, data) for kind, data in kept.items())
        body += attribute(_IFA_FLAGS, _U32.pack(flags))
        fixed = _IFADDR.pack(family, length, flags & 0xFF, scope, index)
        packed = values.get(_IFA_LOCAL, values[_IFA_ADDRESS])
        yield SavedAddress(IPv6Interface((packed, length)), message(RTM_NEWADDR, _MAKE, fixed + body))


def _routes(sock: socket.socket, index: int) -> Iterator[SavedRoute]:
    for payload in route_payloads(sock):
        family, dst_len, src_len, tos, table, protocol, scope, kind, flags = ROUTE.unpack_from(payload)
        if protocol == KERNEL or protocol > STATIC or flags & CLONED or not _leads_through(payload, index):
            continue
        route = parse_route(payload, {})
        if route is None:
            continue
        body = bytearray()
        for type, start, length in attributes(payload, ROUTE.size):
            if type in (RTA_CACHEINFO, RTA_NH_ID):
                continue  # times, and an object that may have gone: the hops themselves are there, too
            data = bytes(payload[start : start + length])
            body += attribute(type, _without_state(data) if type == RTA_MULTIPATH else data)
        fixed = ROUTE.pack(family, dst_len, src_len, tos, table, protocol, scope, kind, flags & _KEPT_FLAGS)
        yield SavedRoute(route, message(RTM_NEWROUTE, _MAKE, fixed + bytes(body)))


def _leads_through(payload: memoryview, index: int) -> bool:
    values = values_of(payload, ROUTE.size)
    if RTA_MULTIPATH in values:
        return any(through == index for _, _, through in hops_in(values[RTA_MULTIPATH]))
    return RTA_OIF in values and _U32.unpack(values[RTA_OIF])[0] == index


def _without_state(hops: bytes) -> bytes:
    """An RTA_MULTIPATH whose hops have no flags that tell a state, which the kernel refuses."""
    data = bytearray(hops)
    for start, _, _ in hops_in(hops):
        length, flags, more, index = NEXT_HOP.unpack_from(hops, start)
        NEXT_HOP.pack_into(data, start, length, flags & _KEPT_FLAGS, more, index)
    return bytes(data)
