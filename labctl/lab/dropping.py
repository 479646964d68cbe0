"""Drop rules in the network namespace that the calling thread is in, as the keeper is asked for them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from itertools import product

from labctl.errors import InputError, KernelError, LabImpossible
from labctl.kernel.netlink import open_socket
from labctl.kernel.packetfilter import (
    FIRST_DISCOVERY_TYPE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    NETLINK_NETFILTER,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    Hook,
    Match,
    add,
    remove_all,
)
from labctl.plan.droprule import Direction, DropProtocol, DropRule, from_json
from labctl.topology.model import Address

PAIRS_MAX = 1 << 14  # of two nodes with 128 addresses each; the keeper makes a rule for each

_HINTS = {
    errno.EPERM: "It needs CAP_NET_ADMIN in the lab's user namespace.",
    errno.EOPNOTSUPP: "This kernel has no nf_tables; try `modprobe nf_tables` as root.",
    errno.EPROTONOSUPPORT: "This kernel has no netfilter; try `modprobe nf_tables` as root.",
    errno.ENOENT: "This kernel's nf_tables lacks the `inet` family or an expression; try `modprobe nf_tables` as root.",
}

_WITHOUT_NF_TABLES = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def drop(rule: str, node: str = "") -> None:
    """Drop what the rule (JSON of `labctl.plan.droprule`) describes, until `undrop`. KernelError."""
    described = from_json(rule)
    pairs = max(1, len(described.sources)) * max(1, len(described.destinations))
    if pairs > PAIRS_MAX:
        raise InputError(f"drop rule: cannot add it: {pairs} pairs of addresses are more than {PAIRS_MAX}.")
    with _socket(node) as sock:
        try:
            add(sock, matches(described))
        except OSError as error:
            raise _error(node, "drop packets", error) from error


def undrop(node: str = "") -> None:
    """Drop nothing more. KernelError."""
    with _socket(node) as sock:
        try:
            remove_all(sock)
        except OSError as error:
            raise _error(node, "remove its drop rules", error) from error


def matches(rule: DropRule) -> tuple[Match, ...]:
    """What the kernel is to look for: a match for each family, pair of addresses, protocol and end of the port."""
    return tuple(_matches(rule))


def _matches(rule: DropRule) -> Iterator[Match]:
    hook = Hook.PREROUTING if rule.direction is Direction.IN else Hook.POSTROUTING
    flags = None
    if rule.flags is not None:
        flags = (int(rule.flags.given | rule.flags.absent), int(rule.flags.given))
    for family, version in ((NFPROTO_IPV4, 4), (NFPROTO_IPV6, 6)):
        sources = _packed(rule.sources, version)
        destinations = _packed(rule.destinations, version)
        for source, destination, transport in product(sources, destinations, _transports(rule.protocol, version, rule)):
            protocol, other_than, icmp_below = transport
            for source_port, destination_port in _ports(rule.port):
                yield Match(
                    hook=hook,
                    family=family,
                    protocol=protocol,
                    other_than=other_than,
                    source=source,
                    destination=destination,
                    source_port=source_port,
                    destination_port=destination_port,
                    flags=flags,
                    icmp_below=icmp_below,
                )


def _packed(addresses: tuple[Address, ...], version: int) -> list[bytes]:
    """The addresses of that version; [b""], any address, when the rule names none at all."""
    return [address.packed for address in addresses if address.version == version] if addresses else [b""]


def _transports(
    protocol: DropProtocol | None, version: int, rule: DropRule
) -> list[tuple[int | None, int | None, int | None]]:
    """(protocol, protocol to leave alone, ICMPv6 types to stay below) of each match for one version of IP."""
    match protocol:
        case DropProtocol.TCP:
            return [(IPPROTO_TCP, None, None)]
        case DropProtocol.UDP:
            return [(IPPROTO_UDP, None, None)]
        case DropProtocol.ICMP if version == 4:
            return [(IPPROTO_ICMP, None, None)]
        case DropProtocol.ICMP:
            return [(IPPROTO_ICMPV6, None, FIRST_DISCOVERY_TYPE)]
        case None if rule.port is not None:
            return [(IPPROTO_TCP, None, None), (IPPROTO_UDP, None, None)]
        case None if version == 4:
            return [(None, None, None)]
        case None:
            return [(None, IPPROTO_ICMPV6, None), (IPPROTO_ICMPV6, None, FIRST_DISCOVERY_TYPE)]


def _ports(port: int | None) -> list[tuple[int | None, int | None]]:
    return [(None, None)] if port is None else [(port, None), (None, port)]


def _socket(node: str) -> socket.socket:
    try:
        return open_socket(NETLINK_NETFILTER)
    except OSError as error:
        raise _error(node, "open a netfilter socket", error) from error


def _error(node: str, attempted: str, error: OSError) -> KernelError | LabImpossible:
    number = error.errno or errno.ETIMEDOUT
    told = KernelError(f"node {node}" if node else "packet filter", attempted, number, hint=_HINTS.get(number, ""))
    return LabImpossible(str(told)) if number in _WITHOUT_NF_TABLES else told
