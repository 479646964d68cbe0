"""Switches beyond plain forwarding: options of bridges and ports, VLANs, forwarding entries, and the spanning tree.

Options have the names of ip-link(8) and bridge(8) and the kernel's units: times are in hundredths of a second. A port
without VLANs, on a switch with VLANs, belongs to VLAN 1 without a tag, as the kernel's ports do.

The spanning tree protocol (IEEE 802.1D) needs 4 s until a new port forwards. A lab does not wait for that: the links of
the tree that the protocol will choose are made first and forward at once, then the protocol starts, and then the other
links are made, which it blocks. `spanning_tree` therefore computes its choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from labctl.names import BRIDGE
from labctl.structs import Struct

# A bridge passes a broadcast on to all its ports at once, and the kernel drops what exceeds the queue of a processor:
# 1,000 frames (net.core.netdev_max_backlog). So a switch with more ports has a chain of bridges, which pass it on one
# after the other. (A bridge could have 1,023 ports: BR_MAX_PORTS in net/bridge/br_private.h.)
PORTS_PER_BRIDGE = 250
BRIDGES_MAX = 100
PORTS_WITH_STP = 1000  # on one bridge
DEFAULT_VLAN = 1  # of ports without VLANs (vlan_default_pvid in ip-link(8))
VLAN_MAX = 4094  # IEEE 802.1Q; 4095 is reserved
# The kernel's least values (net/bridge/br_private_stp.h), so that a broken ring heals within 4 to 10 s.
HELLO_TIME, FORWARD_DELAY, MAX_AGE = 100, 200, 600
DEFAULTS = {  # of a new bridge, for what no longer is in a plan; `address` stays
    "stp_state": 0,
    "priority": 0x8000,
    "hello_time": 200,
    "forward_delay": 1500,
    "max_age": 2000,
    "ageing_time": 30000,
    "mcast_snooping": 0,
    "mcast_querier": 0,
    "mcast_query_response_interval": 1000,
    "vlan_filtering": 0,
    "vlan_default_pvid": DEFAULT_VLAN,
}
PORT_DEFAULTS = {"isolated": 0, "learning": 1, "flood": 1, "mcast_flood": 1, "hairpin": 0, "guard": 0, "cost": 2}
PORT_COST = 2  # of a port of 10 Gbit/s, which a veth device reports
Options = tuple[tuple[str, int], ...]


class Port(Struct, frozen=True, gc=False):
    """The settings of a switch's port."""

    untagged: int = 0  # the VLAN of frames without a tag; 0 for none
    tagged: tuple[int, ...] = ()  # VLANs whose frames have a tag
    options: Options = ()

    def __bool__(self) -> bool:
        return bool(self.untagged or self.tagged or self.options)

    @property
    def has_vlans(self) -> bool:
        return bool(self.untagged or self.tagged)

    def vlan(self, tag: int) -> int:
        """Return the VLAN of frames with that tag (0: without one) at this port of a switch with VLANs; 0 for none."""
        if tag:
            return tag if tag in self.tagged else 0
        return self.untagged if self.has_vlans else DEFAULT_VLAN

    @property
    def vlans(self) -> Iterator[tuple[int, bool]]:
        """The VLANs of this port of a switch with VLANs, ascending; and whether frames have no tag."""
        untagged = self.vlan(0)
        for vlan in sorted({*self.tagged, untagged} - {0}):
            yield vlan, vlan == untagged


NO_PORT = Port()


class Forwarding(Struct, frozen=True, gc=False):
    """A static entry of a switch's forwarding table; `vlan` is 0 on a switch without VLANs."""

    mac: str
    ifname: str
    vlan: int = 0


class Switching(Struct, frozen=True, gc=False):
    """The settings of a switch."""

    options: Options = ()
    forwarding: tuple[Forwarding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.options or self.forwarding)

    def option(self, name: str) -> int:
        """Return the value of an option, or its default."""
        return dict(self.options).get(name, DEFAULTS[name])

    @property
    def has_stp(self) -> bool:
        return ("stp_state", 1) in self.options

    @property
    def has_vlans(self) -> bool:
        return ("vlan_filtering", 1) in self.options


NO_SWITCHING = Switching()


class SwitchLink(Struct, frozen=True, gc=False):
    """A link between two switches, with the cost of each port."""

    a: str
    b: str
    cost_a: int = PORT_COST
    cost_b: int = PORT_COST


def bridges_of(ports: int) -> tuple[str, ...]:
    """Return the bridges of a switch with so many ports: `br0`, and perhaps `br1`, ..."""
    return (BRIDGE, *(f"br{number}" for number in range(1, -(-ports // PORTS_PER_BRIDGE))))


def inner_link(first: str, second: str) -> tuple[str, str]:
    """Return the names of both ends of the link that joins two bridges of a switch."""
    return f"{first}-{second}", f"{second}-{first}"


def own_interfaces(ports: int) -> Iterator[str]:
    """Yield the names of all interfaces of a switch with so many ports that are not ports of its own."""
    bridges = bridges_of(ports)
    yield from bridges
    for first, second in pairwise(bridges):
        yield from inner_link(first, second)


BridgeId = tuple[int, str]  # priority and MAC: the lowest becomes the root


class SpanningTree(Struct, frozen=True):
    """The numbers of the links that forward, and the most links between a switch and its root."""

    links: frozenset[int]
    depth: int

    @property
    def forward_delay(self) -> int:
        """Hundredths of a second that suffice for the tree to be known before a new port forwards.

        A switch sends once a second, so that what the root sends takes up to a second for each link; then the other
        end of a new link must hear about it.
        """
        return max(FORWARD_DELAY, (self.depth + 3) * HELLO_TIME // 2)


def spanning_tree(switches: Mapping[str, BridgeId | None], links: Iterable[SwitchLink]) -> SpanningTree:
    """Return the tree that the protocol chooses; None is a switch without it.

    Each switch takes the path of the least cost to the root; of several, that through the switch of the lowest
    identifier, and of parallel links the first (802.1D-1998, section 8.6.8). A switch without the protocol is like a
    hub. Links through it are no part of that computation: the first that close no ring are taken.
    """
    from heapq import heappop, heappush

    numbered = list(enumerate(links))
    neighbours: dict[str, list[tuple[int, str, int]]] = {name: [] for name in switches}  # link, far switch, its cost
    for number, link in numbered:
        if switches[link.a] is not None and switches[link.b] is not None:
            neighbours[link.a].append((number, link.b, link.cost_b))
            neighbours[link.b].append((number, link.a, link.cost_a))
    tree: set[int] = set()
    depths: dict[str, int] = {}
    root_of = {name: name for name in switches}
    for root_id, root in sorted((known, name) for name, known in switches.items() if known is not None):
        waiting: list[tuple[int, BridgeId, int, int, str]] = [(0, root_id, -1, 0, root)] if root not in depths else []
        while waiting:
            cost, _, number, depth, name = heappop(waiting)
            if name in depths:
                continue
            depths[name] = depth
            root_of[name] = root
            if number >= 0:
                tree.add(number)
            for link_number, far, far_cost in neighbours[name]:
                own = switches[name]
                if far not in depths and own is not None:
                    heappush(waiting, (cost + far_cost, own, link_number, depth + 1, far))
    for number, link in numbered:
        if switches[link.a] is None or switches[link.b] is None:
            one, other = _first(root_of, link.a), _first(root_of, link.b)
            if one != other:
                root_of[one] = other
                tree.add(number)
    return SpanningTree(frozenset(tree), max(depths.values(), default=0))


def _first(root_of: Mapping[str, str], name: str) -> str:
    while root_of[name] != name:
        name = root_of[name]
    return name
