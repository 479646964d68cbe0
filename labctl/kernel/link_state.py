"""An interface's state: whether it is up, its carrier, and what the kernel removes when it is set down.

When both ends of a veth pair are up, the kernel starts their queues, and lets a bridge forward on a port, in a deferred
work item. It drops what is sent before, and a lost first ARP request costs a second. Reading a device's link state
through ethtool runs the work that is deferred for it (linkwatch_sync_dev() in net/core/link_watch.c).

Setting an interface down removes its IPv6 addresses (unless net.ipv6.conf.*.keep_addr_on_down is set) and the routes of
both families through it (net/ipv4/fib_frontend.c, net/ipv6/addrconf.c). `save` turns the kernel's own dumps into
messages that add these again, whether labctl or a program on the host had added them. It leaves out what something else
adds again: the kernel's routes for addresses, the routes of routing daemons (protocols above RTPROT_STATIC), and
addresses with a lifetime, which come from a router (RFC 4862) or a DHCP client.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from array import array
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface

from labctl.kernel import netlink
from labctl.kernel.netlink import attribute, attribute_values, attributes, dump, message, u32
from labctl.kernel.routes import (
    CLONED,
    KERNEL,
    NEXT_HOP,
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
)
from labctl.structs import Struct, replace

SIOCGIFFLAGS, SIOCETHTOOL = 0x8913, 0x8946  # linux/sockios.h
ETHTOOL_GLINK = 0x0000_000A  # linux/ethtool.h
_CREATE = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
_KEPT_FLAGS = 0x6  # RTNH_F_PERVASIVE, RTNH_F_ONLINK; the other flags are states, which the kernel refuses in a request


def is_up(sock: socket.socket, ifname: str) -> bool:
    """Whether the interface, in the namespace of any socket `sock`, is set up. OSError: ENODEV."""
    request = struct.pack("16s24x", ifname.encode())  # struct ifreq (netdevice(7))
    (flags,) = struct.unpack_from("=H", fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, request), 16)
    return bool(flags & netlink.IFF_UP)


def has_carrier(sock: socket.socket, ifname: str) -> bool:
    """Run the interface's deferred changes, and return whether it has a carrier; `sock` as above. OSError: ENODEV.

    A device whose driver cannot report its carrier counts as having one.
    """
    value = array("I", [ETHTOOL_GLINK, 0])
    request = struct.pack("16sP16x", ifname.encode(), value.buffer_info()[0])  # struct ifreq with a pointer
    try:
        fcntl.ioctl(sock.fileno(), SIOCETHTOOL, request)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return True
        raise
    return bool(value[1])


class SavedAddress(Struct, frozen=True):
    """An IPv6 address and the message that adds it again, without duplicate address detection."""

    address: IPv6Interface
    message: bytes


class SavedRoute(Struct, frozen=True):
    """A route and the message that adds it again."""

    route: KernelRoute
    message: bytes


class SavedLink(Struct, frozen=True):
    """The addresses of an interface, and the routes of its namespace through it, on-link routes first.

    `daemon_routes` are the (destination, table) of the routing daemons' routes through any interface.
    """

    addresses: tuple[SavedAddress, ...] = ()
    routes: tuple[SavedRoute, ...] = ()
    daemon_routes: frozenset[tuple[object, int]] = frozenset()

    def without_address(self, address: IPv4Interface | IPv6Interface) -> SavedLink:
        """Return a copy without an address that has been removed since."""
        return replace(self, addresses=tuple(saved for saved in self.addresses if saved.address != address))

    def without_route(self, destination: Prefix, gateway: Address | None) -> SavedLink:
        """Return a copy without a route of the main table that has been removed since."""

        def is_removed(route: KernelRoute) -> bool:
            gateways = [hop.gateway for hop in route.hops]
            return route.is_plain and (route.destination, gateways) == (destination, [gateway])

        return replace(self, routes=tuple(saved for saved in self.routes if not is_removed(saved.route)))


def save(sock: socket.socket, index: int) -> SavedLink:
    """Save what an interface loses when it is set down; `sock` (NETLINK_ROUTE) is borrowed. OSError."""
    routes = sorted(_routes(sock, index), key=lambda saved: any(hop.gateway for hop in saved.route.hops))
    return SavedLink(tuple(_addresses(sock, index)), tuple(routes), _daemon_routes(sock))


def routes_to_restore(saved: SavedLink, sock: socket.socket) -> list[SavedRoute]:
    """Return the saved routes, except to destinations that a routing daemon has found a route to since. OSError."""
    since = _daemon_routes(sock) - saved.daemon_routes
    return [each for each in saved.routes if (each.route.destination, each.route.table) not in since]


def _daemon_routes(sock: socket.socket) -> frozenset[tuple[object, int]]:
    parsed = (parse_route(payload, {}) for payload in route_payloads(sock))
    return frozenset((route.destination, route.table) for route in parsed if route and route.protocol > STATIC)


def _addresses(sock: socket.socket, index: int) -> Iterator[SavedAddress]:
    for _, payload in dump(sock, netlink.RTM_GETADDR, netlink.IFADDR.pack(socket.AF_INET6, 0, 0, 0, 0)):
        family, length, header_flags, scope, address_index = netlink.IFADDR.unpack_from(payload)
        values = attribute_values(payload, netlink.IFADDR.size)
        flags = u32(values, netlink.IFA_FLAGS, header_flags)
        if family != socket.AF_INET6 or address_index != index or not flags & netlink.IFA_F_PERMANENT:
            continue
        flags |= netlink.IFA_F_NODAD
        values[netlink.IFA_FLAGS] = netlink.U32.pack(flags)
        values.pop(netlink.IFA_CACHEINFO, None)
        body = b"".join(attribute(type, data) for type, data in values.items())
        fixed = netlink.IFADDR.pack(family, length, flags & 0xFF, scope, index)
        packed = values.get(netlink.IFA_LOCAL, values[netlink.IFA_ADDRESS])
        yield SavedAddress(IPv6Interface((packed, length)), message(netlink.RTM_NEWADDR, _CREATE, fixed + body))


def _routes(sock: socket.socket, index: int) -> Iterator[SavedRoute]:
    for payload in route_payloads(sock):
        *fixed, protocol, scope, kind, flags = netlink.RTMSG.unpack_from(payload)
        if protocol == KERNEL or protocol > STATIC or flags & CLONED or not _leads_through(payload, index):
            continue
        route = parse_route(payload, {})
        if route is None:
            continue
        body = netlink.RTMSG.pack(*fixed, protocol, scope, kind, flags & _KEPT_FLAGS)
        for type, start, length in attributes(payload, netlink.RTMSG.size):
            if type not in (RTA_CACHEINFO, RTA_NH_ID):  # times; a nexthop object may be removed, its hops are here
                data = bytes(payload[start : start + length])
                body += attribute(type, _without_state(data) if type == RTA_MULTIPATH else data)
        yield SavedRoute(route, message(netlink.RTM_NEWROUTE, _CREATE, body))


def _leads_through(payload: memoryview, index: int) -> bool:
    values = attribute_values(payload, netlink.RTMSG.size)
    if RTA_MULTIPATH in values:
        return any(hop_index == index for _, _, hop_index in hops_in(values[RTA_MULTIPATH]))
    return u32(values, RTA_OIF) == index


def _without_state(hops: bytes) -> bytes:
    """Return an RTA_MULTIPATH without the flags of its hops that are states."""
    data = bytearray(hops)
    for start, _, _ in hops_in(hops):
        length, flags, more, index = NEXT_HOP.unpack_from(hops, start)
        NEXT_HOP.pack_into(data, start, length, flags & _KEPT_FLAGS, more, index)
    return bytes(data)
