"""The neighbour tables (arp(7), RFC 4861): a namespace's entries, and the limits that all namespaces share.

The kernel has one table for IPv4 and one for IPv6. An entry belongs to a namespace's interface, but entries of all
namespaces count against the table's limit, gc_thresh3. Where it is reached, no namespace gets a new entry, and packets
to new neighbours are lost.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from labctl.kernel.netlink import NLM_F_ACK, NLM_F_REQUEST, Batch, attribute, attributes, dump, message

RTM_DELNEIGH = 29  # linux/rtnetlink.h
RTM_GETNEIGH = 30
_NDMSG = struct.Struct("=BxxxiHBB")  # struct ndmsg (linux/neighbour.h): family, index, state, flags, type
_NDA_DST = 1
_TABLES = {4: ("/proc/net/stat/arp_cache", "ipv4"), 6: ("/proc/net/stat/ndisc_cache", "ipv6")}
_DEFAULT_LIMIT = 1024  # NEIGH_GC_THRESH3 in net/ipv4/arp.c and net/ipv6/ndisc.c


@dataclass(frozen=True, slots=True)
class Neighbour:
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


@dataclass(frozen=True, slots=True)
class Table:
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
