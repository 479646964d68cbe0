"""The network namespaces of a lab by node name, and the interfaces that the executor made in them."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, suppress

from labctl.kernel.link_state import SavedLink
from labctl.kernel.namespaces import current_network, entered, new_network, open_ping_sockets, socket_in
from labctl.kernel.netlink import LOOPBACK_INDEX
from labctl.plan.operations import AddAddress, AddRoute, AddStaticRoute, SetImpairment
from labctl.structs import Struct, field, replace
from labctl.topology.model import NodeKind
from labctl.topology.netem import Impairment, Profile

# A new namespace has the fallback devices of every tunnel module that is loaded (tunl0, sit0, ...: a dozen).
FIRST_INDEX = 21


class Interface(Struct):
    """The state of an interface that the executor made."""

    index: int
    mac: bytes = b""
    peer: tuple[str, str] | None = None  # (node, interface) at the other end of a veth pair; itself for a device
    is_created_up: bool = False  # the message that created it also set it up
    was_up: bool = False
    is_down: bool = False  # it was set down, and not up again since
    saved: SavedLink | None = None  # what it lost when it was set down; None where that is unknown
    assigned: list[AddAddress | AddRoute] = field(default_factory=list)  # the plan's addresses and routes on it
    static_routes: tuple[AddStaticRoute, ...] = ()  # those of the file through it, which its node has now
    impairment: SetImpairment | None = None  # the one in force
    moment: Impairment | None = None  # of the profile in force: the present one
    shown: Impairment | None = None  # what its disciplines are made for: a moment of a profile, or without loss
    has_loss_rule: bool = False  # nftables loses packets that it sends, because the kernel has no netem
    finds_neighbours: bool = True  # False: it has no neighbour discovery, and its addresses are in use at once


class Node(Struct):
    """A node of the table; `fd` is the descriptor of its network namespace."""

    fd: int
    kind: NodeKind
    interfaces: dict[str, Interface]
    sysctls_before: dict[str, str] = field(default_factory=dict)  # by key, for `ResetSysctl`
    allows_ping_sockets: bool = False


class NodeTable:
    """The lab's nodes by name; owns the descriptors of their network namespaces until `close`.

    `home` is the namespace of the thread that makes the table (a borrowed descriptor). The table never uses an index
    twice in one lab: equal indexes at both ends of a veth pair make the kernel delay the first packet by a second.
    """

    def __init__(self) -> None:
        self.home = current_network()
        self._nodes: dict[str, Node] = {}
        self._retired: list[tuple[str, Node]] = []
        self._next_index = FIRST_INDEX
        self.allows_ping_sockets = False  # on some node
        self.wireguard_keys: dict[tuple[str, str], bytes] = {}  # that the lab has generated, by node and interface
        self.has_netem: bool | None = None  # None: unknown
        self.netem_miscounts: bool | None = None  # None: unknown
        self.profile_changes = 0
        self.profiled: dict[tuple[str, str], Profile] = {}  # by interface: those that are in force

    def impaired(self, nodes: Collection[str] = ()) -> list[SetImpairment]:
        """Return the impairments in force on these nodes; on all if there is none.

        One with a profile has the values of the present moment.
        """
        return [
            replace(interface.impairment, impairment=replace(interface.moment, profile=impairment.profile))
            if interface.moment is not None and (impairment := interface.impairment.impairment)
            else interface.impairment
            for name in nodes or self._nodes
            if name in self._nodes
            for interface in self._nodes[name].interfaces.values()
            if interface.impairment
        ]

    def down(self) -> tuple[tuple[str, str], ...]:
        """Return the interfaces (node, interface) that were set down, and not up again since."""
        return tuple(
            (name, ifname)
            for name, node in self._nodes.items()
            for ifname, interface in node.interfaces.items()
            if interface.is_down
        )

    def note_profile(self, interface: Interface, node: str, ifname: str) -> None:
        """Record whether the interface's impairment has a profile."""
        impairment = interface.impairment.impairment if interface.impairment else None
        if impairment and impairment.profile:
            self.profiled[node, ifname] = impairment.profile
        elif self.profiled.pop((node, ifname), None) is None:
            return
        self.profile_changes += 1

    def __repr__(self) -> str:
        return f"<NodeTable, {'closed' if self.home == -1 else f'{len(self._nodes)} nodes'}>"

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, node: str) -> Node:
        return self._nodes[node]

    def make(self, node: str, kind: NodeKind) -> None:
        """Make a network namespace under that (free) name; its `lo` is still down. OSError of unshare(2)."""
        self._nodes[node] = Node(new_network(self.home), kind, {"lo": Interface(LOOPBACK_INDEX)})

    def add_interface(self, node: str, ifname: str) -> Interface:
        """Reserve an index for an interface that will be made under that (free) name."""
        interface = self._nodes[node].interfaces[ifname] = Interface(self._next_index)
        self._next_index += 1
        return interface

    def interface(self, node: str, ifname: str) -> Interface | None:
        """Return the interface; None when the executor did not make one of that name."""
        return self._nodes[node].interfaces.get(ifname) if node in self._nodes else None

    def retire(self, node: str) -> None:
        """Take the node out of the table; its namespace stays until `close_retired`, for `restore`."""
        self._retired.append((node, self._nodes.pop(node)))

    def discard(self, node: str) -> None:
        """Take the node out of the table for good."""
        os.close(self._nodes.pop(node).fd)

    def restore(self, name: str) -> None:
        """Put back the node that was first retired under that name, as it was. KeyError when there is none."""
        for retired in self._retired:
            if retired[0] == name:
                self._retired.remove(retired)
                self._nodes[name] = retired[1]
                return
        raise KeyError(name)

    def close_retired(self) -> None:
        """Close the namespaces of retired nodes; the kernel frees those that nothing else holds."""
        retired, self._retired = self._retired, []
        for _, node in retired:
            os.close(node.fd)

    def allow_ping_sockets(self, name: str) -> None:
        """Let every program of a host or router open ICMP datagram sockets, as distributions do on their machines.

        It takes a tenth of the time that a host takes, so it is done before the node's first use. OSError.
        """
        node = self._nodes[name]
        if not node.allows_ping_sockets and node.kind is not NodeKind.SWITCH:
            with self.entered(name), suppress(FileNotFoundError):  # a kernel without IPv4
                open_ping_sockets()
            node.allows_ping_sockets = self.allows_ping_sockets = True

    def entered(self, node: str) -> AbstractContextManager[None]:
        """Keep the calling thread in the node's network namespace inside the `with`."""
        return entered(self._nodes[node].fd, home=self.home)

    def socket(self, node: str, family: int, type: int, proto: int = 0, *, is_used: bool = True) -> socket.socket:
        """Make an ordinary socket in the node's namespace; the caller owns it. OSError.

        A node is not used yet (`allow_ping_sockets`) when the socket only observes it.
        """
        if is_used:
            self.allow_ping_sockets(node)
        return socket_in(self._nodes[node].fd, family, type, proto, home=self.home)

    def close(self) -> None:
        """Close every namespace; the kernel frees those that nothing else holds. Idempotent."""
        self.close_retired()
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            os.close(node.fd)
        home, self.home = self.home, -1
        if home != -1:
            os.close(home)
