"""What an interface loses when it is set down: saved before, and given back when it comes up again.

The kernel removes the interface's IPv6 addresses (unless net.ipv6.conf.*.keep_addr_on_down is set) and the routes of
both families that lead through it (net/ipv4/fib_frontend.c, net/ipv6/addrconf.c). Saved are the messages of its own
dumps, so that what was there comes back as it was, whoever had made it: labctl, or a program of the host.

Not saved is what others give again: routes that the kernel makes of addresses, those of routing daemons (protocols
above RTPROT_STATIC), and addresses with a lifetime, which are a router's (RFC 4862) or a DHCP client's.

The neighbour tables (arp(7), RFC 4861): a namespace's entries, and the limits that all namespaces share.

The kernel has one table for IPv4 and one for IPv6. An entry belongs to a namespace's interface, but entries of all
namespaces count against the table's limit, gc_thresh3. Where it is reached, no namespace gets a new entry, and packets
to new neighbours are lost.

An interface tells its neighbours its addresses: gratuitous ARP (RFC 5227) and unsolicited advertisements (RFC 4861).

Who asked for an address while a link was down asks again only after a second; told by its owner, it need not ask.

A link's carrier, brought up to date now instead of when the kernel's link watch gets to it.

When both ends of a veth pair are up, the kernel starts their queues and lets a bridge forward on a port only in a
deferred work item; what is sent before is dropped without a word, and a lost first ARP request costs a second. Asking a
device for its link state through ethtool carries out what is deferred for it (net/core/link_watch.c,
linkwatch_sync_dev).
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from labctl.kernel.icmp import checksum
from labctl.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    Batch,
    attribute,
    attributes,
    dump,
    message,
)
from labctl.kernel.routes import (
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
from labctl.structs import Struct, replace

RTM_DELNEIGH = 29  # linux/rtnetlink.h
RTM_GETNEIGH = 30
_NDMSG = struct.Struct("=BxxxiHBB")  # struct ndmsg (linux/neighbour.h): family, index, state, flags, type
_NDA_DST = 1
_TABLES = {4: ("/proc/net/stat/arp_cache", "ipv4"), 6: ("/proc/net/stat/ndisc_cache", "ipv6")}
_DEFAULT_LIMIT = 1024  # NEIGH_GC_THRESH3 in net/ipv4/arp.c and net/ipv6/ndisc.c


class Neighbour(Struct, frozen=True):
    """An entry's key: the interface's index, and the packed address of the neighbour."""

    index: int
    address: bytes

    @property
    def version(self) -> int:
        """Of IP: 4 or 6."""
        return 4 if len(self.address) == 4 else 6


def neighbours(sock: socket.socket) -> frozenset[Neighbour]:
    """Every entry of both tables that belongs to the namespace of `sock` (NETLINK_ROUTE, borrowed); OSError."""
    found = set()
    for _, payload in dump(sock, RTM_GETNEIGH, _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, index, _, _, _ = _NDMSG.unpack_from(payload)
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        for kind, start, length in attributes(payload, _NDMSG.size):
            if kind == _NDA_DST:
                found.add(Neighbour(index, bytes(payload[start : start + length])))
    return frozenset(found)


def remove(sock: socket.socket, entries: Iterable[Neighbour]) -> None:
    """Remove entries of the namespace of `sock` (borrowed); those that are no longer there are ignored. OSError."""
    batch: Batch[Neighbour] = Batch(sock)
    for each in entries:
        family = socket.AF_INET if each.version == 4 else socket.AF_INET6
        payload = _NDMSG.pack(family, each.index, 0, 0, 0) + attribute(_NDA_DST, each.address)
        batch.add(message(RTM_DELNEIGH, NLM_F_REQUEST | NLM_F_ACK, payload), each)
    batch.commit()


class Table(Struct, frozen=True):
    """What the machine reports of one of the tables. `refused` counts the entries that were not made: it was full."""

    version: int
    limit: int  # gc_thresh3
    is_limit_known: bool
    entries: int
    refused: int

    @property
    def setting(self) -> str:
        """The sysctl of the limit; only the machine's own network namespace has it."""
        return limit_setting(self.version)


def limit_setting(version: int) -> str:
    """The sysctl that has the limit of the table of that IP version."""
    return f"net.{_TABLES[version][1]}.neigh.default.gc_thresh3"


def table(version: int) -> Table:
    """The table as it is now; in a network namespace that does not show it (a container's), the kernel's default."""
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
            return Table(version, int(file.read()), True, entries, refused)
    except (OSError, ValueError):
        return Table(version, _DEFAULT_LIMIT, False, entries, refused)


ETH_P_ARP = 0x0806  # linux/if_ether.h
ETH_P_IPV6 = 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1").packed
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200
_ADVERTISEMENT = struct.Struct("!BBHI16sBB6s")  # RFC 4861, section 4.4, with the target's link-layer address
_OVERRIDE = 0x2000_0000
_IPPROTO_ICMPV6 = 58


def announce(sock: socket.socket, ifname: str, mac: bytes, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
    """Send one announcement of each address on the interface; `sock` (AF_PACKET, SOCK_RAW) is borrowed. OSError."""
    for address in addresses:
        if isinstance(address, IPv4Address):
            sock.sendto(arp_announcement(mac, address), (ifname, ETH_P_ARP))
        else:
            sock.sendto(advertisement(mac, address), (ifname, ETH_P_IPV6))


def arp_announcement(mac: bytes, address: IPv4Address) -> bytes:
    """The Ethernet frame of an ARP request for one's own address."""
    arp = _ARP.pack(1, 0x0800, 6, 4, 1, mac, address.packed, bytes(6), address.packed)
    return _BROADCAST + mac + struct.pack("!H", ETH_P_ARP) + arp


def advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """The Ethernet frame of an unsolicited neighbour advertisement to all nodes."""
    size = _ADVERTISEMENT.size
    fields = (_OVERRIDE, address.packed, 2, 1, mac)
    pseudo_header = address.packed + _ALL_NODES + struct.pack("!II", size, _IPPROTO_ICMPV6)
    total = checksum(pseudo_header + _ADVERTISEMENT.pack(136, 0, 0, *fields))
    header = _IPV6.pack(6 << 28, size, _IPPROTO_ICMPV6, 255, address.packed, _ALL_NODES)
    frame = _ALL_NODES_MAC + mac + struct.pack("!H", ETH_P_IPV6)
    return frame + header + _ADVERTISEMENT.pack(136, 0, total, *fields)


SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GLINK = 0x0000_000A  # linux/ethtool.h
_IFREQ = struct.Struct("16sP16x")  # struct ifreq: name, pointer (netdevice(7))


def settle(sock: socket.socket, ifname: str) -> bool:
    """True when the interface, in the namespace of any socket `sock`, has a carrier; deferred changes are done first.

    OSError (ENODEV) when there is no such interface. A device whose driver cannot tell has one.
    """
    value = array("I", [ETHTOOL_GLINK, 0])
    request = _IFREQ.pack(ifname.encode(), value.buffer_info()[0])
    try:
        fcntl.ioctl(sock.fileno(), SIOCETHTOOL, request)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return True
        raise
    return bool(value[1])


SIOCGIFFLAGS = 0x8913  # linux/sockios.h, netdevice(7)
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE = 20, 22, 24  # linux/rtnetlink.h
_MAKE = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_IFF_UP = 1
_IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_IFA_F_NODAD, _IFA_F_PERMANENT = 0x02, 0x80
_KEPT_FLAGS = 0x6  # RTNH_F_PERVASIVE, RTNH_F_ONLINK; the others tell a state
_U32 = struct.Struct("=I")


class SavedAddress(Struct, frozen=True):
    """An IPv6 address and the message that adds it again, without duplicate address detection."""

    address: IPv6Interface
    message: bytes


class SavedRoute(Struct, frozen=True):
    """A route and the message that adds it again."""

    route: KernelRoute
    message: bytes


class SavedLink(Struct, frozen=True):
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
