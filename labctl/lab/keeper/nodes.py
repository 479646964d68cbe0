"""The network namespaces of a lab by node name, and what its keeper knows of the interfaces in them.

Drop rules in the network namespace that the calling thread is in, as the keeper is asked for them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import product

from labctl.errors import InputError, KernelError, LabImpossible
from labctl.kernel.link_state import SavedLink
from labctl.kernel.namespaces import current_network, entered, new_network, socket_in
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
from labctl.kernel.rtnl import LOOPBACK_INDEX
from labctl.plan.drop_rules import Direction, DropProtocol, DropRule, from_json
from labctl.plan.operations import AddAddress, AddRoute, SetImpairment
from labctl.structs import Struct, field
from labctl.topology.model import Address, NodeKind

# The kernel gives a new namespace the fallback devices of whatever tunnels it has loaded (tunl0, sit0, ...: a dozen).
FIRST_INDEX = 21

Restorable = AddAddress | AddRoute


class Interface(Struct):
    """What the executor knows of an interface that it made; `given` is what the plan has on it."""

    index: int
    mac: bytes = b""
    peer: tuple[str, str] | None = None  # (node, interface) at the other end of a veth pair
    made_up: bool = False  # the message that made it also set it up
    was_up: bool = False
    cut: bool = False  # it was set down, and not up again since
    saved: SavedLink | None = None  # what it lost when it was set down; None where that is not known
    given: list[Restorable] = field(default_factory=list)
    impaired: SetImpairment | None = None  # what was last done to what it sends; None when nothing is


class _Retired(Struct, frozen=True):
    """A node that is out of the table, but not yet let go of."""

    node: str
    fd: int
    kind: NodeKind
    interfaces: dict[tuple[str, str], Interface]
    originals: dict[tuple[str, str], str]


class NodeTable:
    """The lab's network namespaces by node name, and what was made in them; owns every descriptor, until `close`.

    `home` is the namespace of the thread that makes the table. Indexes are never used twice in one lab: equal ones at
    the two ends of a veth pair would make the kernel put off the first packet for a second.
    """

    def __init__(self) -> None:
        self._home = current_network()
        self._fds: dict[str, int] = {}
        self._kinds: dict[str, NodeKind] = {}
        self._interfaces: dict[tuple[str, str], Interface] = {}
        self._next_index = FIRST_INDEX
        self._retired: list[_Retired] = []
        self.originals: dict[tuple[str, str], str] = {}  # by node and key: what a setting was before it was first set
        self._closed = False

    def __repr__(self) -> str:
        return f"<NodeTable, {'closed' if self._closed else f'{len(self._fds)} nodes'}>"

    def __contains__(self, node: object) -> bool:
        return node in self._fds

    def __iter__(self) -> Iterator[str]:
        return iter(self._fds)

    def __len__(self) -> int:
        return len(self._fds)

    @property
    def home(self) -> int:
        """The descriptor of the home namespace; borrowed."""
        return self._home

    def fd(self, node: str) -> int:
        """The descriptor of the node's network namespace; borrowed. KeyError when there is no such node."""
        return self._fds[node]

    def kind(self, node: str) -> NodeKind:
        """Whether the node is a host, a switch or a router. KeyError."""
        return self._kinds[node]

    def make(self, node: str, kind: NodeKind) -> None:
        """A new network namespace under that (free) name; its `lo` is known, and still down. OSError of unshare(2)."""
        self._fds[node] = new_network(self._home)
        self._kinds[node] = kind
        self._interfaces[node, "lo"] = Interface(LOOPBACK_INDEX)

    def add_interface(self, node: str, ifname: str) -> Interface:
        """What is going to be made under that (free) name, with an index of its own."""
        interface = self._interfaces[node, ifname] = Interface(self._next_index)
        self._next_index += 1
        return interface

    def interface(self, node: str, ifname: str) -> Interface:
        """What is known of the interface; KeyError when it was not made here."""
        return self._interfaces[node, ifname]

    def has_interface(self, node: str, ifname: str) -> bool:
        """Whether an interface of that name was made on the node."""
        return (node, ifname) in self._interfaces

    def remove_interface(self, node: str, ifname: str) -> None:
        """Know no more of an interface that is not there any more."""
        self._interfaces.pop((node, ifname), None)

    def interfaces_of(self, node: str) -> list[str]:
        """The names of the interfaces that were made on the node, `lo` too."""
        return [ifname for at, ifname in self._interfaces if at == node]

    def retire(self, node: str) -> None:
        """Take the node out of the table; its namespace stays until `let_go`, so that `restore` can bring it back."""
        self._retired.append(self._taken_out(node))

    def discard(self, node: str) -> None:
        """Take the node out of the table for good."""
        os.close(self._taken_out(node).fd)

    def _taken_out(self, node: str) -> _Retired:
        interfaces = {at: one for at, one in self._interfaces.items() if at[0] == node}
        originals = {at: value for at, value in self.originals.items() if at[0] == node}
        for at in interfaces:
            del self._interfaces[at]
        for at in originals:
            del self.originals[at]
        return _Retired(node, self._fds.pop(node), self._kinds.pop(node), interfaces, originals)

    def restore(self, node: str) -> None:
        """The node that was retired under that name first is back as it was. KeyError when there is none."""
        for retired in self._retired:
            if retired.node == node:
                self._retired.remove(retired)
                self._fds[node], self._kinds[node] = retired.fd, retired.kind
                self._interfaces.update(retired.interfaces)
                self.originals.update(retired.originals)
                return
        raise KeyError(node)

    def let_go(self) -> None:
        """Close the namespaces of retired nodes; the kernel frees those that nothing else holds."""
        retired, self._retired = self._retired, []
        for one in retired:
            os.close(one.fd)

    def entered(self, node: str) -> AbstractContextManager[None]:
        """The calling thread is in the node's network namespace inside the `with`."""
        return entered(self._fds[node], home=self._home)

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        """An ordinary socket that lives on the node; the caller owns it."""
        return socket_in(self._fds[node], family, type, proto, home=self._home)

    def close(self) -> None:
        """Let go of every namespace; the kernel frees those that nothing else holds. May be called again."""
        self._closed = True
        self.let_go()
        fds, self._fds = list(self._fds.values()), {}
        self._interfaces.clear()
        if self._home != -1:
            fds.append(self._home)
            self._home = -1
        for fd in fds:
            os.close(fd)


PAIRS_MAX = 1 << 14  # of two nodes with 128 addresses each; the keeper makes a rule for each

_HINTS = {
    errno.EPERM: "It needs CAP_NET_ADMIN in the lab's user namespace.",
    errno.EOPNOTSUPP: "This kernel has no nf_tables; try `modprobe nf_tables` as root.",
    errno.EPROTONOSUPPORT: "This kernel has no netfilter; try `modprobe nf_tables` as root.",
    errno.ENOENT: "This kernel's nf_tables lacks the `inet` family or an expression; try `modprobe nf_tables` as root.",
}

_WITHOUT_NF_TABLES = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def drop(rule: str, node: str = "") -> None:
    """Drop what the rule (JSON of `labctl.plan.drop_rules`) describes, until `undrop`. KernelError."""
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
