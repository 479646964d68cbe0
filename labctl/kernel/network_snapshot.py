"""The lasting addresses and routes of a network namespace, as messages that add them again.

When an address or a route is removed, the kernel may remove more: further addresses of its network, routes through it,
all of IPv6 with an MTU below 1280. The difference of two snapshots is what was lost.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from labctl.kernel.link_state import is_indirect, saved_addresses, saved_routes
from labctl.kernel.netlink import HEADER, NLM_F_REQUEST, RTM_DELADDR, RTM_DELROUTE, RTM_NEWADDR, Batch, message

# Errnos of what has come back by itself, and of routes whose interface or gateway is not there any more.
_TOLERATED = (
    *(errno.EEXIST, errno.ENODEV, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EINVAL),
    errno.EADDRNOTAVAIL,
)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def snapshot(sock: socket.socket) -> dict[bytes, None]:
    """Return the messages that add all lasting addresses and routes again, in order; `sock` is borrowed. OSError.

    Addresses with a lifetime and the routes of the kernel and of routing daemons are left out, as in link_state.save.
    """
    addresses = [saved.message for family in _FAMILIES for saved in saved_addresses(sock, None, family)]
    routes = [saved.message for saved in sorted(saved_routes(sock, None), key=is_indirect)]
    return dict.fromkeys([*addresses, *routes])


def lost(before: Iterable[bytes], after: dict[bytes, None]) -> list[bytes]:
    """Return the messages of what is in the first snapshot only."""
    return [each for each in before if each not in after]


def addresses_of(sock: socket.socket, address: IPv4Address | IPv6Address) -> list[bytes]:
    """Return the messages that add this address again, wherever the namespace has it. OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return [saved.message for saved in saved_addresses(sock, None, family) if saved.address.ip == address]


def routes_to(
    sock: socket.socket, destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None
) -> list[bytes]:
    """Return the messages that add the routes to exactly this destination again. OSError.

    All of them, whoever made them; with a gateway, those through it.
    """
    return [
        saved.message
        for saved in saved_routes(sock, None, every=True)
        if saved.route.destination == destination
        and (gateway is None or gateway in [hop.gateway for hop in saved.route.hops])
    ]


def remove(sock: socket.socket, messages: Iterable[bytes]) -> None:
    """Remove what these messages add. OSError for the first that the kernel refuses."""
    batch: Batch[None] = Batch(sock)
    for each in messages:
        _, type, *_ = HEADER.unpack_from(each)
        batch.add(
            message(RTM_DELADDR if type == RTM_NEWADDR else RTM_DELROUTE, NLM_F_REQUEST, each[HEADER.size :]), None
        )
    for refused in batch.commit():
        raise OSError(refused.errno, refused.detail)


def add(sock: socket.socket, messages: Iterable[bytes]) -> None:
    """Add again what was removed; what is there already, or has lost its interface, is left out. OSError."""
    batch: Batch[None] = Batch(sock)
    for each in messages:
        batch.add(each, None)
    for refused in batch.commit():
        if refused.errno not in _TOLERATED:
            raise OSError(refused.errno, refused.detail)
