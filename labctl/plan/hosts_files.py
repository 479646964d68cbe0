"""The /etc/hosts of each node of a plan: all names with all addresses, near addresses first.

getaddrinfo(3) keeps the file's order among addresses that RFC 6724 ranks equal, so the address on a shared network
comes first, then those behind few routers.

Where routers translate addresses, prefixes may repeat behind them, and so may those of VRFs. A file then has only those
addresses of a repeating prefix that its node reaches, because the others are those of other nodes there.

A lab of n nodes has n such files of n lines, so neither a plan nor a message contains them. They follow from the plan's
addresses, and each process computes those that it needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TypeVar

from labctl.names import idna_form, name_key
from labctl.plan.operations import AddAddress, MakeDevice, MakeLink, Plan, SetMaster
from labctl.structs import Struct
from labctl.topology.devices import Ipvlan, Macvlan, Tunnel, Vlan, Vrf, Vxlan
from labctl.topology.model import AddressOnLink, NodeKind, Prefix

Line = tuple[str, str]  # address, names
View = tuple[int, ...]  # the numbers of the prefixes that a node is on

LOCALHOST: tuple[Line, ...] = (("127.0.0.1", "localhost"), ("::1", "localhost ip6-localhost ip6-loopback"))
At = tuple[str, str]  # node, interface
Wire = tuple[str, ...]
V = TypeVar("V")

_UNREACHABLE = 1 << 30
_KEPT = 8  # views whose lines are kept: nodes of one network start their programs one after the other


class _Table(Struct, frozen=True):
    """The addresses of all nodes, and the prefixes that routers join. Prefixes have numbers."""

    addresses: dict[str, list[tuple[str, int]]]  # of a node: each address, and the number of its prefix
    joined: list[list[int]]  # of a router or one of its VRFs, in one family: its prefixes
    routers: list[list[int]]  # of a prefix: indexes into `joined`
    spellings: dict[str, tuple[str, ...]]  # of a node: its names
    outside: dict[int, int]  # by index into `joined`: the prefix from which a router hides the others
    repeated: frozenset[str]  # addresses that are in several places


class HostsFiles:
    """The hosts files of a plan, computed on demand. Equal if all files are equal."""

    def __init__(self, plan: Plan) -> None:
        self._kinds = {node.name: node.kind for node in plan.nodes}
        self._added = [one for one in plan.operations if isinstance(one, AddAddress)]
        self._translations = {
            node.name: node.translation
            for node in plan.nodes
            if node.translation is not None and node.translation.preset is not None
        }
        self._wiring = [one for one in plan.operations if isinstance(one, MakeLink | MakeDevice | SetMaster)]
        vrfs = {
            (one.node, one.name) for one in self._wiring if isinstance(one, MakeDevice) and isinstance(one.spec, Vrf)
        }
        self._vrf_of = {
            (one.node, one.ifname): one.master
            for one in self._wiring
            if isinstance(one, SetMaster) and (one.node, one.master) in vrfs
        }
        self._distances: dict[View, dict[int, int]] = {}
        self._lines: dict[View, tuple[Line, ...]] = {}

    def __repr__(self) -> str:
        return f"<HostsFiles of {len(self._kinds)} nodes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HostsFiles):
            return NotImplemented
        is_alike = [*self._kinds.items()] == [*other._kinds.items()] and self._added == other._added
        if is_alike and self._translations == other._translations and self._wiring == other._wiring:
            return True
        mine, others = self._table, other._table
        if (mine.joined, mine.outside, mine.repeated) != (others.joined, others.outside, others.repeated):
            return False
        return [*mine.addresses.items()] == [*others.addresses.items()]

    def lines(self, node: str) -> tuple[Line, ...]:
        """Return the lines of the node's file. KeyError. Nodes on the same networks share one tuple."""
        view = self._view(node)
        lines = self._lines.get(view)
        if lines is None:
            found = list(LOCALHOST)
            for name, spellings in self._table.spellings.items():
                found += [(address, one) for address in self._seen_from(view, name) for one in spellings]
            lines = _keep(self._lines, view, tuple(found))
        return lines

    def find(self, name: str, on: str) -> list[str]:
        """Return the addresses of a name, in any case, in the file of the node `on`. KeyError if there is no such node.

        The result is empty if the file does not have the name.
        """
        key = name_key(name)
        found = [address for node in self._nodes.get(key, ()) for address in self.addresses(node, on)]
        return [*(address for address, names in LOCALHOST if key in names.split()), *found]

    @property
    def names(self) -> list[str]:
        """All names in the files."""
        local = [name for _, names in LOCALHOST for name in names.split()]
        return list(dict.fromkeys([*local, *(one for names in self._table.spellings.values() for one in names)]))

    def addresses(self, of: str, on: str) -> list[str]:
        """Return the addresses of the node `of` in the order of the file of the node `on`. KeyError."""
        return self._seen_from(self._view(on), of)

    @cached_property
    def _table(self) -> _Table:
        numbers: dict[tuple[Prefix, object], int] = {}
        repeated = self._repeated
        wires = _wires(self._wiring, self._vrf_of) if repeated else {}
        addresses: dict[str, list[tuple[str, int]]] = {name: [] for name in self._kinds}
        joined: dict[tuple[str, int, str], list[int]] = {}
        outside: dict[tuple[str, int, str], int] = {}
        for one in self._added:
            address = one.address
            if address.version == 6 and address.ip.is_link_local:
                continue
            wire = wires.get((one.node, one.ifname)) if address.network in repeated else None
            number = numbers.setdefault((address.network, wire), len(numbers))
            addresses[one.node].append((str(address.ip), number))
            if self._kinds[one.node] is NodeKind.ROUTER:
                table = (one.node, address.version, self._vrf_of.get((one.node, one.ifname), ""))
                joined.setdefault(table, []).append(number)
                translation = self._translations.get(one.node)
                hides = translation is not None and (address.version == 4 or translation.ipv6)
                if translation is not None and hides and translation.outside == one.ifname:
                    outside.setdefault(table, number)
        routers: list[list[int]] = [[] for _ in numbers]
        for index, prefixes in enumerate(joined.values()):
            for number in prefixes:
                routers[number].append(index)
        spellings = {name: tuple(filter(None, (name, idna_form(name)))) for name in self._kinds}
        prefixes_of: dict[str, set[int]] = {}
        for text, number in (each for own in addresses.values() for each in own) if repeated else ():
            prefixes_of.setdefault(text, set()).add(number)
        return _Table(
            addresses,
            [*joined.values()],
            routers,
            spellings,
            {index: outside[router] for index, router in enumerate(joined) if router in outside},
            frozenset(text for text, found in prefixes_of.items() if len(found) > 1),
        )

    @property
    def _repeated(self) -> set[Prefix]:
        """The prefixes with an address that several interfaces have, where prefixes may repeat."""
        found: dict[AddressOnLink, At] = {}
        several: set[Prefix] = set()
        for one in self._added if self._translations or self._vrf_of else ():
            at = (one.node, one.ifname)
            if not one.address.ip.is_link_local and found.setdefault(one.address, at) != at:
                several.add(one.address.network)
        return several

    @cached_property
    def _nodes(self) -> dict[str, list[str]]:
        """The nodes with a name, by `name_key`."""
        nodes: dict[str, list[str]] = {}
        for name, names in self._table.spellings.items():
            for key in dict.fromkeys(map(name_key, names)):
                nodes.setdefault(key, []).append(name)
        return nodes

    def _view(self, node: str) -> View:
        return tuple(dict.fromkeys(number for _, number in self._table.addresses[node]))

    def _seen_from(self, view: View, node: str) -> list[str]:
        """Return the node's addresses, the nearest first."""
        distance = self._distances.get(view)
        if distance is None:
            distance = _keep(self._distances, view, _distances(view, self._table))
        found, repeated = self._table.addresses[node], self._table.repeated
        if repeated:
            found = [one for one in found if one[1] in distance or one[0] not in repeated]
        return [address for address, _ in sorted(found, key=lambda one: distance.get(one[1], _UNREACHABLE))]


def _wires(wiring: Iterable[MakeLink | MakeDevice | SetMaster], vrf_of: Mapping[At, str]) -> dict[At, Wire]:
    """Return what each interface is connected to: equal for all interfaces on one network."""
    parent: dict[Wire, Wire] = {}
    ends: list[At] = []

    def first(wire: Wire) -> Wire:
        while (above := parent.get(wire, wire)) != wire:
            wire = above
        return wire

    def join(one: Wire, other: Wire) -> None:
        parent[first(one)] = first(other)

    devices = [one for one in wiring if isinstance(one, MakeDevice)]
    for operation in wiring:
        if isinstance(operation, MakeLink):
            a, b = ((end.node, end.bridge or end.ifname) for end in (operation.a, operation.b))
            ends += [a, b]
            join(a, b)
        elif isinstance(operation, SetMaster) and (operation.node, operation.ifname) not in vrf_of:
            join((operation.node, operation.ifname), (operation.node, operation.master))
    for device in devices:
        at, on, spec = (device.node, device.name), (device.node, device.ifname), device.spec
        ends.append(at)
        if isinstance(spec, Macvlan | Ipvlan):
            join(at, on)
        elif isinstance(spec, Vlan):
            join(at, (*map(str, first(on)), str(spec.id)))
        elif isinstance(spec, Vxlan):
            join(at, ("vxlan", str(spec.id)))
        elif isinstance(spec, Tunnel):
            join(at, (spec.kind, *sorted((spec.local, spec.remote)), str(spec.key)))
    return {at: first(at) for at in ends}


def _keep(kept: dict[View, V], view: View, value: V) -> V:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[view] = value
    return value


def _distances(view: View, table: _Table) -> dict[int, int]:
    """Return the number of routers between the prefixes of the view and each reachable prefix."""
    distance = dict.fromkeys(view, 0)
    queue = deque(view)
    passed: set[int] = set()
    while queue:
        at = queue.popleft()
        for router in table.routers[at]:
            if router in passed or table.outside.get(router) == at:
                continue
            passed.add(router)
            for number in table.joined[router]:
                if number not in distance:
                    distance[number] = distance[at] + 1
                    queue.append(number)
    return distance
