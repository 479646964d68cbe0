"""What hosts do of themselves, around what a reader looks for: address resolution, and lookups of the C library.

Before a program's own connect(2), getaddrinfo(3) lists the host's addresses over netlink, asks nscd(8), and connects a
UDP socket to each address to find its source address (RFC 6724). None of this is in the program's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from labctl.timeline.events import AnyEvent, Call, Packet, Source

_RESOLUTION = re.compile(
    r"who has|is at|is here|neighbo|router|multicast listener|membership|\bmld|\bigmp", re.IGNORECASE
)
_NAME_SERVICE = "/nscd/socket"
_PROBING = frozenset({"socket", "connect", "getsockname", "close"})


def upkeep(events: Iterable[AnyEvent]) -> list[int]:
    """Return the numbers of the events that are upkeep, ascending.

    Packets of ARP, neighbour discovery and group membership; calls of traced programs on a descriptor of a netlink
    socket, of one that was connected to nscd, and of a UDP socket that was connected and closed without any data.
    """
    found: list[int] = []
    open_: dict[tuple[str, int, int], list[tuple[int, Call]]] = {}
    for number, event in enumerate(events):
        if isinstance(event, Packet):
            if _RESOLUTION.search(event.header.summary):
                found.append(number)
        elif isinstance(event, Call) and event.source is Source.SYSCALLS:
            fd = event.result if event.name == "socket" else event.fd
            key = (event.host, event.pid, -1 if fd is None else fd)
            if event.name == "socket":
                found += _if_upkeep(open_.pop(key, []))  # it was closed by a call that was not recorded
                open_[key] = [(number, event)]
            elif key in open_:
                open_[key].append((number, event))
                if event.name == "close":
                    found += _if_upkeep(open_.pop(key))
    for calls in open_.values():
        found += _if_upkeep(calls)
    return sorted(found)


def _if_upkeep(calls: list[tuple[int, Call]]) -> Iterator[int]:
    """Return the numbers of the calls on a descriptor, from socket(2) to close(2), if it served for a lookup."""
    if not calls:
        return
    made = calls[0][1].arguments
    names = {call.name for _, call in calls}
    is_lookup = (
        "AF_NETLINK" in made
        or any(call.name == "connect" and _NAME_SERVICE in call.arguments for _, call in calls)
        or ("SOCK_DGRAM" in made and "AF_INET" in made and {"connect", "close"} <= names <= _PROBING)
    )
    if is_lookup:
        yield from (number for number, _ in calls)
