"""Drop rules in the network namespace of the calling thread: `DropRule`s as nftables matches."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from labctl.errors import InputError, KernelError, LabImpossible
from labctl.kernel.netlink import open_socket
from labctl.kernel.nftables import (
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
from labctl.plan.drop_rules import Direction, DropProtocol, DropRule
from labctl.topology.model import Address

PAIRS_MAX = 1 << 14  # of two nodes with 128 addresses each; each pair takes a rule

_HINTS = {
    errno.EPERM: "It needs CAP_NET_ADMIN in the lab's user namespace.",
    errno.EOPNOTSUPP: "This kernel has no nf_tables; try `modprobe nf_tables` as root.",
    errno.EPROTONOSUPPORT: "This kernel has no netfilter; try `modprobe nf_tables` as root.",
    errno.ENOENT: "This kernel's nf_tables lacks the `inet` family or an expression; try `modprobe nf_tables` as root.",
}
_WITHOUT_NF_TABLES = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)

# (protocol, protocol to leave alone, ICMPv6 types to stay below): of each match for one version of IP
_Transport = tuple[int | None, int | None, int | None]
_TCP, _UDP = (IPPROTO_TCP, None, None), (IPPROTO_UDP, None, None)
_ICMPV6: _Transport = (IPPROTO_ICMPV6, None, FIRST_DISCOVERY_TYPE)
_TRANSPORTS: dict[tuple[DropProtocol | None, int], list[_Transport]] = {
    (DropProtocol.TCP, 4): [_TCP],
    (DropProtocol.TCP, 6): [_TCP],
    (DropProtocol.UDP, 4): [_UDP],
    (DropProtocol.UDP, 6): [_UDP],
    (DropProtocol.ICMP, 4): [(IPPROTO_ICMP, None, None)],
    (DropProtocol.ICMP, 6): [_ICMPV6],
    (None, 4): [(None, None, None)],
    (None, 6): [(None, IPPROTO_ICMPV6, None), _ICMPV6],
}


def drop(rule: DropRule, node: str = "") -> None:
    """Drop the packets that match the rule, until `undrop`. KernelError."""
    pairs = max(1, len(rule.sources)) * max(1, len(rule.destinations))
    if pairs > PAIRS_MAX:
        raise InputError(f"drop rule: cannot add it: {pairs} pairs of addresses are more than {PAIRS_MAX}.")
    with _netfilter_socket(node, "drop packets") as sock:
        add(sock, matches(rule))


def undrop(node: str = "") -> None:
    """Remove every drop rule. KernelError."""
    with _netfilter_socket(node, "remove its drop rules") as sock:
        remove_all(sock)


def matches(rule: DropRule) -> Iterator[Match]:
    """Yield a match for each family, pair of addresses, protocol and end of the port."""
    hook = Hook.PREROUTING if rule.direction is Direction.IN else Hook.POSTROUTING
    flags = None if rule.flags is None else (int(rule.flags.given | rule.flags.absent), int(rule.flags.given))
    ports = [(None, None)] if rule.port is None else [(rule.port, None), (None, rule.port)]
    for family, version in ((NFPROTO_IPV4, 4), (NFPROTO_IPV6, 6)):
        transports = _TRANSPORTS[rule.protocol, version]
        if rule.protocol is None and rule.port is not None:
            transports = [_TCP, _UDP]
        sources, destinations = _packed(rule.sources, version), _packed(rule.destinations, version)
        for source, destination, transport, (source_port, destination_port) in product(
            sources, destinations, transports, ports
        ):
            protocol, excluded_protocol, icmp_type_below = transport
            yield Match(
                hook=hook,
                family=family,
                protocol=protocol,
                excluded_protocol=excluded_protocol,
                source=source,
                destination=destination,
                source_port=source_port,
                destination_port=destination_port,
                flags=flags,
                icmp_type_below=icmp_type_below,
            )


def _packed(addresses: tuple[Address, ...], version: int) -> list[bytes]:
    """Return the addresses of that version; [b""], any address, when the rule names none at all."""
    return [address.packed for address in addresses if address.version == version] if addresses else [b""]


@contextmanager
def _netfilter_socket(node: str, attempted: str) -> Iterator[socket.socket]:
    try:
        with open_socket(NETLINK_NETFILTER) as sock:
            yield sock
    except OSError as error:
        number = error.errno or errno.ETIMEDOUT
        subject = f"node {node}" if node else "packet filter"
        refused = KernelError(subject, attempted, number, hint=_HINTS.get(number, ""))
        raise (LabImpossible(str(refused)) if number in _WITHOUT_NF_TABLES else refused) from error
