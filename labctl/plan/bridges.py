"""The bridges of a topology's switches as operations, and the settings of switches that a plan makes.

A switch has a bridge, and a chain of several if it has many ports (topology/switching.py). Ports go to bridges in
file order, so that a port stays where it is when others are added after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from labctl.names import BRIDGE
from labctl.plan.operations import (
    AddForwarding,
    AddVlan,
    LinkEnd,
    MakeBridge,
    MakeLink,
    Operation,
    Part,
    SetBridgeOption,
    SetImpairment,
    SetPortOption,
    SetSysctl,
    SetUp,
    interface_of_sysctl,
)
from labctl.topology.addressing import automatic_mac
from labctl.topology.model import Interface, Node, Topology
from labctl.topology.switching import (
    PORTS_PER_BRIDGE,
    Forwarding,
    Port,
    Switching,
    bridges_of,
    inner_link,
)


class SwitchBridges:
    """The bridges of one switch."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._mtu = min((interface.mtu for interface in node.interfaces), default=1500)
        self.names = (BRIDGE,) if node.switching.has_stp else bridges_of(len(node.interfaces))

    def of_ports(self) -> Iterator[tuple[str, str]]:
        """Yield (port, bridge)."""
        for number, interface in enumerate(self._node.interfaces):
            yield interface.name, self.names[min(number // PORTS_PER_BRIDGE, len(self.names) - 1)]

    def make(self) -> Iterator[Operation]:
        """Make the bridges, with the options that must be set before they have ports or come up."""
        for bridge in self.names:
            yield MakeBridge(self._node.name, bridge, self._mtu)
        yield from (one for one in self._options() if one.name != "stp_state")

    def _options(self) -> Iterator[SetBridgeOption]:
        for bridge in self.names:
            for name, value in self._node.switching.options:
                yield SetBridgeOption(self._node.name, bridge, name, value)

    def join(self) -> Iterator[Operation]:
        """Link the bridges."""
        node = self._node.name
        for bridges in pairwise(self.names):
            ends = zip(inner_link(*bridges), bridges, strict=True)
            yield MakeLink(*(LinkEnd(node, name, automatic_mac(node, name), self._mtu, of) for name, of in ends))
        every = {vlan for interface in self._node.interfaces for vlan, _ in interface.port.vlans}
        for bridges in pairwise(self.names) if self._node.switching.has_vlans else ():
            yield from (AddVlan(node, name, vlan, True) for name in inner_link(*bridges) for vlan in sorted(every))

    def set_up(self) -> Iterator[Operation]:
        """Set the bridges up, after their ports."""
        for bridges in pairwise(self.names):
            yield from (SetUp(self._node.name, name) for name in inner_link(*bridges))
        yield from (SetUp(self._node.name, bridge) for bridge in self.names)

    def start_spanning_tree(self) -> Iterator[Operation]:
        """Start the protocol, when all links of the tree pass packets."""
        yield from (one for one in self._options() if one.name == "stp_state")

    def forward(self) -> Iterator[Operation]:
        """Add the static forwarding entries."""
        for one in self._node.switching.forwarding:
            yield AddForwarding(self._node.name, one.ifname, one.mac, one.vlan)


def port_operations(node: Node, interface: Interface) -> Iterator[Operation]:
    """Set the options and VLANs of a port."""
    for name, value in interface.port.options:
        yield SetPortOption(node.name, interface.name, name, value)
    for vlan, is_untagged in interface.port.vlans if node.switching.has_vlans else ():
        yield AddVlan(node.name, interface.name, vlan, not is_untagged)


def without_blocked_links(operations: list[Operation], topology: Topology) -> tuple[list[Operation], list[Operation]]:
    """Divide the operations: those on the links that the spanning tree protocol will block follow its start."""
    if not any(node.switching.has_stp for node in topology.nodes):
        return operations, []
    from labctl.topology.switches import tree_of

    late = {(end.node, end.ifname) for link in tree_of(topology.nodes, topology.links)[1] for end in (link.a, link.b)}
    if not late:
        return operations, []
    names: dict[str, set[str]] = {}
    for node, ifname in late:
        names.setdefault(node, set()).add(ifname)

    def is_late(operation: Operation) -> bool:
        match operation:
            case MakeLink(a):
                return (a.node, a.ifname) in late
            case SetSysctl(node, key):
                return bool(interface_of_sysctl(key, names.get(node, ())))
            case Part(node, ifname) | SetUp(node, ifname) | SetImpairment(node, ifname):
                return (node, ifname) in late
            case _:
                return False

    return [one for one in operations if not is_late(one)], [one for one in operations if is_late(one)]


class FoundSwitching:
    """The settings of switches and ports in a plan."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._options: dict[str, list[tuple[str, int]]] = {}
        self._port_options: dict[tuple[str, str], list[tuple[str, int]]] = {}
        self._untagged: dict[tuple[str, str], int] = {}
        self._tagged: dict[tuple[str, str], list[int]] = {}
        self._forwarding: dict[str, list[Forwarding]] = {}
        for operation in operations:
            match operation:
                case SetBridgeOption(node, "br0", name, value):
                    self._options.setdefault(node, []).append((name, value))
                case SetPortOption(node, ifname, name, value):
                    self._port_options.setdefault((node, ifname), []).append((name, value))
                case AddVlan(node, ifname, vlan, tagged):
                    if tagged:
                        self._tagged.setdefault((node, ifname), []).append(vlan)
                    else:
                        self._untagged[node, ifname] = vlan
                case AddForwarding(node, ifname, mac, vlan):
                    self._forwarding.setdefault(node, []).append(Forwarding(mac, ifname, vlan))
                case _:
                    pass

    def of_switch(self, node: str) -> Switching:
        """Return the settings of a switch."""
        return Switching(tuple(self._options.get(node, ())), tuple(self._forwarding.get(node, ())))

    def of_port(self, node: str, ifname: str) -> Port:
        """Return the settings of a port."""
        at = (node, ifname)
        options = tuple(self._port_options.get(at, ()))
        return Port(self._untagged.get(at, 0), tuple(self._tagged.get(at, ())), options)
