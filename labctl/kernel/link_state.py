"""An interface's state: whether it is up, its carrier, and what the kernel removes when it is set down.

When both ends of a veth pair are up, the kernel starts their queues, and lets a bridge forward on a port, in a deferred
work item. It drops what is sent before, and a lost first ARP request costs a second. Reading a device's link state
through ethtool runs the work that is deferred for it (linkwatch_sync_dev() in net/core/link_watch.c).

Setting an interface down removes its IPv6 addresses (unless net.ipv6.conf.*.keep_addr_on_down is set) and the routes of
both families through it (net/ipv4/fib_frontend.c, net/ipv6/addrconf.c). `save` turns the kernel's own dumps into
messages that add these again, whether labctl or a program on the host had added them. It leaves out what something else
adds again: the kernel's routes for addresses, the routes of routing daemons (protocols above RTPROT_STATIC), and
addresses with a lifetime, which come from a router (RFC 4862) or a DHCP client.

The neighbour tables (arp(7), RFC 4861), and announcements of an interface's addresses to its neighbours.

The kernel has one table for IPv4 and one for IPv6. An entry belongs to the interface of one namespace, but the entries
of all namespaces count against the table's limit, gc_thresh3. When it is reached, no namespace gets a new entry, and
packets to new neighbours are lost.

An announcement is a gratuitous ARP request (RFC 5227) or an unsolicited neighbour advertisement (RFC 4861). A neighbour
that requested an address while the link was down repeats its request only after a second, unless it gets one.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
from array import array
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from labctl.kernel import netlink
from labctl.kernel.icmp import checksum
from labctl.kernel.netlink import (
    NLM_F_REQUEST,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    Batch,
    attribute,
    attribute_values,
    attributes,
    dump,
    message,
    u32,
)
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

_NDMSG = struct.Struct("=BxxxiHBB")  # struct ndmsg (linux/neighbour.h): family, index, state, flags, type
_NDA_DST = 1
_TABLES = {4: ("/proc/net/stat/arp_cache", "ipv4"), 6: ("/proc/net/stat/ndisc_cache", "ipv6")}
_DEFAULT_LIMIT = 1024  # NEIGH_GC_THRESH3 in net/ipv4/arp.c and net/ipv6/ndisc.c


class Neighbour(Struct, frozen=True):
    """The key of an entry: the interface's index and the neighbour's packed address."""

    index: int
    address: bytes

    @property
    def version(self) -> int:
        """The IP version: 4 or 6."""
        return 4 if len(self.address) == 4 else 6


def neighbours(sock: socket.socket) -> frozenset[Neighbour]:
    """Return the entries of both tables in the namespace of `sock` (NETLINK_ROUTE, borrowed). OSError."""
    found = set()
    for _, payload in dump(sock, RTM_GETNEIGH, _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, index, _, _, _ = _NDMSG.unpack_from(payload)
        values = attribute_values(payload, _NDMSG.size)
        if family in (socket.AF_INET, socket.AF_INET6) and _NDA_DST in values:
            found.add(Neighbour(index, values[_NDA_DST]))
    return frozenset(found)


def remove_neighbours(sock: socket.socket, entries: Iterable[Neighbour]) -> None:
    """Remove entries from the namespace of `sock` (borrowed); entries that no longer exist are ignored. OSError."""
    batch: Batch[Neighbour] = Batch(sock)
    for entry in entries:
        family = socket.AF_INET if entry.version == 4 else socket.AF_INET6
        payload = _NDMSG.pack(family, entry.index, 0, 0, 0) + attribute(_NDA_DST, entry.address)
        batch.add(message(RTM_DELNEIGH, NLM_F_REQUEST, payload), entry)
    batch.commit()


class NeighbourTable(Struct, frozen=True):
    """The state of one table. `refused` counts the entries that were not added because it was full."""

    version: int
    limit: int  # gc_thresh3
    is_limit_known: bool
    entries: int
    refused: int

    @property
    def setting(self) -> str:
        """The sysctl of the limit; only the machine's own network namespace has it."""
        return f"net.{_TABLES[self.version][1]}.neigh.default.gc_thresh3"


def neighbour_table(version: int) -> NeighbourTable:
    """Read a table's state; in a network namespace that hides it (a container's), assume the kernel's default limit."""
    path, family = _TABLES[version]
    entries = refused = 0
    try:
        with open(path, encoding="ascii") as file:
            names, *rows = [line.split() for line in file]
        entries = int(rows[0][names.index("entries")], 16)
        refused = sum(int(row[names.index("table_fulls")], 16) for row in rows)  # a row for each processor
    except (OSError, ValueError, IndexError):
        pass
    try:
        with open(f"/proc/sys/net/{family}/neigh/default/gc_thresh3", encoding="ascii") as file:
            return NeighbourTable(version, int(file.read()), True, entries, refused)
    except (OSError, ValueError):
        return NeighbourTable(version, _DEFAULT_LIMIT, False, entries, refused)


# -- announcements

ETH_P_ARP = 0x0806  # linux/if_ether.h
ETH_P_IPV6 = 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1").packed
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200
_ADVERTISEMENT = struct.Struct("!BBHI16sBB6s")  # RFC 4861, section 4.4, with the target's link-layer address
_OVERRIDE = 0x2000_0000
_ANNOUNCE_ATTEMPTS, _ANNOUNCE_PAUSE_MS = 20, 5


def announce(sock: socket.socket, ifname: str, mac: bytes, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
    """Announce each address once on the interface; `sock` (AF_PACKET, SOCK_RAW) is borrowed. OSError.

    On a large network many announcements fill the queue of a processor (net.core.netdev_max_backlog), and the kernel
    refuses one. It is repeated for 0.1 s, and then left out: a neighbour that misses it asks a second later.
    """
    for address in addresses:
        if isinstance(address, IPv4Address):
            _send(sock, arp_announcement(mac, address), (ifname, ETH_P_ARP))
        else:
            _send(sock, advertisement(mac, address), (ifname, ETH_P_IPV6))


def _send(sock: socket.socket, frame: bytes, to: tuple[str, int]) -> None:
    for _ in range(_ANNOUNCE_ATTEMPTS):
        try:
            sock.sendto(frame, to)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            select.poll().poll(_ANNOUNCE_PAUSE_MS)
        else:
            return


def arp_announcement(mac: bytes, address: IPv4Address) -> bytes:
    """Build the Ethernet frame of an ARP request for the sender's own address."""
    arp = _ARP.pack(1, 0x0800, 6, 4, 1, mac, address.packed, bytes(6), address.packed)
    return _BROADCAST + mac + struct.pack("!H", ETH_P_ARP) + arp


def advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """Build the Ethernet frame of an unsolicited neighbour advertisement to all nodes."""
    size = _ADVERTISEMENT.size
    fields = (_OVERRIDE, address.packed, 2, 1, mac)
    pseudo_header = address.packed + _ALL_NODES + struct.pack("!II", size, socket.IPPROTO_ICMPV6)
    total = checksum(pseudo_header + _ADVERTISEMENT.pack(136, 0, 0, *fields))
    header = _IPV6.pack(6 << 28, size, socket.IPPROTO_ICMPV6, 255, address.packed, _ALL_NODES)
    frame = _ALL_NODES_MAC + mac + struct.pack("!H", ETH_P_IPV6)
    return frame + header + _ADVERTISEMENT.pack(136, 0, total, *fields)


SIOCGIFFLAGS, SIOCETHTOOL = 0x8913, 0x8946  # linux/sockios.h
ETHTOOL_GLINK, ETHTOOL_STXCSUM = 0x0A, 0x17  # linux/ethtool.h
_CREATE = netlink.NLM_F_REQUEST | netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
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
    try:
        return bool(_ethtool(sock, ifname, ETHTOOL_GLINK))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return True
        raise


def set_offload(sock: socket.socket, ifname: str, on: bool) -> None:
    """Let the device compute checksums, or not; `sock` as above. OSError: ENODEV, EOPNOTSUPP.

    A device that computes no checksums cuts no segments either (netdev_fix_features() in net/core/dev.c): the kernel
    does both before a packet reaches the wire.
    """
    _ethtool(sock, ifname, ETHTOOL_STXCSUM, int(on))


def _ethtool(sock: socket.socket, ifname: str, command: int, value: int = 0) -> int:
    """Execute a command with a struct ethtool_value; return its value. OSError."""
    argument = array("I", [command, value])
    request = struct.pack("16sP16x", ifname.encode(), argument.buffer_info()[0])  # struct ifreq with a pointer
    fcntl.ioctl(sock.fileno(), SIOCETHTOOL, request)
    return argument[1]


class SavedAddress(Struct, frozen=True):
    """An address and the message that adds it again, of IPv6 without duplicate address detection."""

    address: IPv4Interface | IPv6Interface
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
    routes = sorted(saved_routes(sock, index), key=is_indirect)
    return SavedLink(tuple(saved_addresses(sock, index)), tuple(routes), _daemon_routes(sock))


def is_indirect(saved: SavedRoute) -> bool:
    """Return whether the route has a gateway, so that it must be added after the route to that."""
    return any(hop.gateway for hop in saved.route.hops)


def routes_to_restore(saved: SavedLink, sock: socket.socket) -> list[SavedRoute]:
    """Return the saved routes, except to destinations that a routing daemon has found a route to since. OSError."""
    since = _daemon_routes(sock) - saved.daemon_routes
    return [each for each in saved.routes if (each.route.destination, each.route.table) not in since]


def _daemon_routes(sock: socket.socket) -> frozenset[tuple[object, int]]:
    parsed = (parse_route(payload, {}) for payload in route_payloads(sock))
    return frozenset((route.destination, route.table) for route in parsed if route and route.protocol > STATIC)


def saved_addresses(sock: socket.socket, index: int | None, family: int = socket.AF_INET6) -> Iterator[SavedAddress]:
    """Yield the lasting addresses of an interface (None: all). OSError."""
    for _, payload in dump(sock, netlink.RTM_GETADDR, netlink.IFADDR.pack(family, 0, 0, 0, 0)):
        found, length, header_flags, scope, address_index = netlink.IFADDR.unpack_from(payload)
        values = attribute_values(payload, netlink.IFADDR.size)
        flags = u32(values, netlink.IFA_FLAGS, header_flags)
        if found != family or index not in (None, address_index) or not flags & netlink.IFA_F_PERMANENT:
            continue
        if family == socket.AF_INET6:
            flags |= netlink.IFA_F_NODAD
        values[netlink.IFA_FLAGS] = netlink.U32.pack(flags)
        values.pop(netlink.IFA_CACHEINFO, None)
        body = b"".join(attribute(type, data) for type, data in values.items())
        fixed = netlink.IFADDR.pack(family, length, flags & 0xFF, scope, address_index)
        packed = values.get(netlink.IFA_LOCAL, values.get(netlink.IFA_ADDRESS, b""))
        made: type[IPv4Interface | IPv6Interface] = IPv6Interface if family == socket.AF_INET6 else IPv4Interface
        yield SavedAddress(made((packed, length)), message(netlink.RTM_NEWADDR, _CREATE, fixed + body))


def saved_routes(sock: socket.socket, index: int | None, *, every: bool = False) -> Iterator[SavedRoute]:
    """Yield the routes through an interface (None: all) that nothing else adds again; with `every`, those as well.

    OSError.
    """
    for payload in route_payloads(sock):
        *fixed, protocol, scope, kind, flags = netlink.RTMSG.unpack_from(payload)
        if flags & CLONED or (index is not None and not _leads_through(payload, index)):
            continue
        if not every and (protocol == KERNEL or protocol > STATIC):
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
