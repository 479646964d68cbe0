"""The neighbour tables (arp(7), RFC 4861), and announcements of an interface's addresses to its neighbours.

The kernel has one table for IPv4 and one for IPv6. An entry belongs to the interface of one namespace, but the entries
of all namespaces count against the table's limit, gc_thresh3. When it is reached, no namespace gets a new entry, and
packets to new neighbours are lost.

An announcement is a gratuitous ARP request (RFC 5227) or an unsolicited neighbour advertisement (RFC 4861). A neighbour
that requested an address while the link was down repeats its request only after a second, unless it gets one.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from labctl.kernel.icmp import checksum
from labctl.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    Batch,
    attribute,
    attribute_values,
    dump,
    message,
)
from labctl.structs import Struct

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
        batch.add(message(RTM_DELNEIGH, NLM_F_REQUEST | NLM_F_ACK, payload), entry)
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


def announce(sock: socket.socket, ifname: str, mac: bytes, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
    """Announce each address once on the interface; `sock` (AF_PACKET, SOCK_RAW) is borrowed. OSError."""
    for address in addresses:
        if isinstance(address, IPv4Address):
            sock.sendto(arp_announcement(mac, address), (ifname, ETH_P_ARP))
        else:
            sock.sendto(advertisement(mac, address), (ifname, ETH_P_IPV6))


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
