"""The network namespaces of a lab by node name, and what its keeper knows of the interfaces in them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from labctl.kernel.namespaces import current_network, entered, new_network, socket_in
from labctl.kernel.rtnl import LOOPBACK_INDEX
from labctl.plan.operations import AddAddress, AddRoute
from labctl.topology.model import NodeKind

# The kernel gives a new namespace the fallback devices of whatever tunnels it has loaded (tunl0, sit0, ...: a dozen).
FIRST_INDEX = 21

Restorable = AddAddress | AddRoute


@dataclass(slots=True)
class Interface:
    """What the executor knows of an interface that it made; `given` is what a link that was down needs again."""

    index: int
    mac: bytes = b""
    peer: tuple[str, str] | None = None  # (node, interface) at the other end of a veth pair
    made_up: bool = False  # the message that made it also set it up
    was_up: bool = False
    cut: bool = False  # it was set down, and not up again since
    given: list[Restorable] = field(default_factory=list)


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

    def entered(self, node: str) -> AbstractContextManager[None]:
        """The calling thread is in the node's network namespace inside the `with`."""
        return entered(self._fds[node], home=self._home)

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        """An ordinary socket that lives on the node; the caller owns it."""
        return socket_in(self._fds[node], family, type, proto, home=self._home)

    def close(self) -> None:
        """Let go of every namespace; the kernel frees those that nothing else holds. May be called again."""
        self._closed = True
        fds, self._fds = list(self._fds.values()), {}
        self._interfaces.clear()
        if self._home != -1:
            fds.append(self._home)
            self._home = -1
        for fd in fds:
            os.close(fd)
