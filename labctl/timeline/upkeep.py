"""Upkeep: traffic and calls that no program asked for: address resolution, and lookups of the C library.

Before a program's own connect(2), getaddrinfo(3) lists the host's addresses over netlink, asks nscd(8), and connects a
UDP socket to each address to find its source address (RFC 6724). None of this is in the program's source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from labctl.timeline.events import AnyEvent, Call, Drop, Header, Packet, Source
from labctl.timeline.protocol_names import TUNNELS, inner, is_dhcp, is_vxlan, quoted_packet

_FILTERED = "NETFILTER_DROP"  # the reason of a rule's drop (enum skb_drop_reason)
_RESOLUTION = re.compile(r"who has|is at|is here|neighbo|router|multicast listener|membership|mld|igmp", re.IGNORECASE)


def upkeep(events: Sequence[AnyEvent]) -> list[int]:
    """Return the numbers of the events that are upkeep, ascending.

    These are packets of `is_resolution`, calls of `Lookups`, and drops of `is_harmless`.
    """
    lookups = Lookups().of(traced_calls(events))
    return [
        number
        for number, event in enumerate(events)
        if (isinstance(event, Packet) and is_resolution(event.header))
        or (isinstance(event, Call) and event.key in lookups)
        or (isinstance(event, Drop) and is_harmless(event))
    ]


def is_harmless(drop: Drop) -> bool:
    """Return whether nothing was lost: announcements of hosts to a link, and DHCP, that no rule of nftables dropped.

    A client of DHCP takes packets with a packet socket, before the kernel drops them: it does not have the address yet.
    """
    header = drop.header
    return header is not None and drop.reason != _FILTERED and (is_resolution(header) or is_dhcp(header))


def is_resolution(header: Header) -> bool:
    """Return whether a packet is of ARP, neighbour or router discovery, or group membership.

    A tunnel's packet that carries one is, too, and an ICMP error that quotes such a packet.
    """
    if header.quoted is not None:
        found = quoted_packet(header)
        return found is not None and is_resolution(found)
    if header.protocol in ("arp", "icmpv6", "igmp"):
        return header.protocol == "igmp" or _RESOLUTION.search(header.summary) is not None
    if header.protocol in TUNNELS or is_vxlan(header):
        carried = inner(header)
        return carried is not None and is_resolution(carried[1])
    return False


def traced_calls(events: Iterable[AnyEvent]) -> Iterable[Call]:
    """Return the calls of traced programs, and not those of scenario steps."""
    return (event for event in events if isinstance(event, Call) and event.source is Source.SYSCALLS)


class Lookups:
    """Finds the calls by which the C library looks up names and sorts addresses (getaddrinfo(3)).

    These are the lives of netlink sockets, of those to nscd(8), and of datagram sockets that are only connected.
    """

    def __init__(self) -> None:
        self._lives: dict[tuple[str, int, int], tuple[str, list[tuple[str | int, ...]]]] = {}

    def of(self, calls: Iterable[Call]) -> set[tuple[str | int, ...]]:
        """Return the keys of such calls; `calls` are further calls of programs, in order of time."""
        found: set[tuple[str | int, ...]] = set()
        for call in calls:
            if call.name == "socket" and call.result is not None and call.result >= 0:
                self._lives.pop((call.host, call.pid, call.result), None)  # its close was not recorded
                family, kind = (*call.arguments.split(", "), "")[:2]
                if family == "AF_NETLINK" or family == "AF_UNIX" or "SOCK_DGRAM" in kind:
                    self._lives[call.host, call.pid, call.result] = family, [call.key]
                if family == "AF_NETLINK":
                    found.add(call.key)
                continue
            place = (call.host, call.pid, -1 if call.fd is None else call.fd)
            if place not in self._lives or call.result is None:
                continue
            family, keys = self._lives[place]
            keys.append(call.key)
            is_nscd = family == "AF_UNIX" and "/nscd/" in call.arguments
            is_over = call.name == "close" and family.startswith("AF_INET")
            if family == "AF_NETLINK" or is_nscd or is_over:
                found.update(keys)
                self._lives[place] = "AF_NETLINK", keys
            if call.name == "close" or (family != "AF_NETLINK" and call.name not in ("connect", "getsockname")):
                del self._lives[place]
        return found
