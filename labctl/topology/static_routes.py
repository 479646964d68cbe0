"""The routes and policy rules that a topology file writes, resolved: names become addresses, prefixes and interfaces.

A gateway or a destination may be the name of a node or a network, and then a route or a rule is one of each family
that both ends have. Tables with names of their own get numbers from 100 on, in the order of their first use on a node.

A route with `vrf` is in the table of that VRF, and its gateways, interfaces and source addresses are those of the VRF.
With the number of that table instead, it may leave the VRF, whose network is preferred if several have the gateway.

Written routes replace automatic ones (`without_replaced`): to the same destination; on a host also to every destination
inside theirs; on a router to those inside that have the same gateway, so that a backup can take over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

from labctl.documents.diagnostics import Hint, suggestion
from labctl.documents.schema import PlacedText, Reading, Unusable
from labctl.names import LOOPBACK, name_key
from labctl.structs import Struct, field, replace
from labctl.topology.devices import Vrf
from labctl.topology.draft import Draft, DraftNode, Family, Mistakes, Named, Place, Segment
from labctl.topology.model import (
    MAIN_TABLE,
    TABLES,
    Address,
    AddressOnLink,
    Interface,
    NextHop,
    NodeKind,
    PolicyRule,
    Prefix,
    Route,
    RouteKind,
    RuleAction,
    StaticRoute,
)
from labctl.topology.routing_schema import HopFile, RouteFile, RuleFile

if TYPE_CHECKING:
    from labctl.documents.schema import Shape
    from labctl.topology.addressing import Addressing
    from labctl.topology.model import Topology

FIRST_TABLE = 100  # of tables with names of their own
_TABLE_MAX = 0xFFFF_FFFF
_FIRST_PRIORITY = 1000
_DEFAULTS: dict[Family, Prefix] = {Family.IPV4: ip_network("0.0.0.0/0"), Family.IPV6: ip_network("::/0")}
_WORDS_HINT = "write a mapping, or words as ip(8) takes them: default via r1"
_EXAMPLE = "write for example 10.0.2.0/24, default, or the name of a network"


class Written(Struct):
    """What a node's `routes`, `gateway` and `rules` ask for."""

    routes: list[StaticRoute] = field(default_factory=list)
    rules: list[PolicyRule] = field(default_factory=list)
    without_automatic: bool = False  # `gateway: none`

    @property
    def has_alternatives(self) -> bool:
        """Whether another route or next hop can take over where one has lost its carrier."""
        ways: set[tuple[Prefix, int]] = set()
        for route in self.routes:
            if len(route.hops) > 1 or (route.destination, route.table) in ways:
                return True
            ways.add((route.destination, route.table))
        return False


def without_replaced(
    automatic: Sequence[Route], written: Iterable[StaticRoute], *, is_host: bool, table: int = MAIN_TABLE
) -> list[Route]:
    """Return the automatic routes of the table that the written ones leave."""
    plain = [route for route in written if route.table == table]

    def is_replaced(one: Route) -> bool:
        for route in plain:
            if route.destination == one.destination:
                return True
            if route.kind is not RouteKind.UNICAST or route.destination.version != one.destination.version:
                continue
            if one.destination.subnet_of(route.destination):  # type: ignore[arg-type]  # of one family
                gateways = {hop.gateway for hop in route.hops}
                if is_host or one.gateway in gateways:
                    return True
        return False

    return [one for one in automatic if not is_replaced(one)]


def default_gateways(draft: Draft) -> dict[str, frozenset[Address]]:
    """Return the addresses that the file names as default gateways of hosts, by host."""
    found: dict[str, frozenset[Address]] = {}
    of_models: dict[int, frozenset[Address]] = {}  # nodes of a group share their keys
    for node in draft.nodes:
        if node.routing is None or node.kind is not NodeKind.HOST:
            continue
        if id(node.routing) not in of_models:
            gateway = node.routing.gateway
            texts = [*gateway] if isinstance(gateway, list) else [gateway] if isinstance(gateway, str) else []
            for route in node.routing.routes if isinstance(node.routing.routes, list) else ():
                texts += _default_vias(route)
            of_models[id(node.routing)] = frozenset(filter(None, map(_address, texts)))
        if gateways := of_models[id(node.routing)]:
            found[node.name] = gateways
    return found


def _default_vias(model: PlacedText | RouteFile) -> list[str]:
    """Return the gateways of a default route; none of other routes, and of those that cannot be read."""
    if isinstance(model, RouteFile):
        return [*(model.via or ()), *(hop.via or "" for hop in model.hops or ())] if model.to == "default" else []
    words = model.text.split()
    return [after for word, after in pairwise(words) if word == "via"] if "default" in words[:2] else []


def absent_gateways(topology: Topology) -> list[str]:
    """Return a line for each gateway of a written default route that no node has.

    Networks with a node that runs commands or services are left out: these may add the address, as VRRP does.
    """
    owners = {one.ip for node in topology.nodes for one in node.loopback}
    may_appear: set[Prefix] = set()
    for node in topology.nodes:
        addresses = [one for interface in node.interfaces for one in interface.addresses]
        owners.update(one.ip for one in addresses)
        if node.services or node.commands:
            may_appear.update(one.network for one in addresses)
    hosts: dict[Address, list[str]] = {}
    for node in topology.hosts:
        for route in node.static_routes:
            for hop in route.hops if not route.destination.prefixlen else ():
                networks = [one.network for one in node.interface(hop.ifname).addresses] if hop.gateway else []
                inside = [one for one in networks if hop.gateway in one]
                if hop.gateway and inside and hop.gateway not in owners and may_appear.isdisjoint(inside):
                    hosts.setdefault(hop.gateway, []).append(node.name)
    return [
        f"no node has the address {gateway}, the default gateway of {', '.join(names[:3])}"
        + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for gateway, names in hosts.items()
    ]


class _Neighbour(Struct, frozen=True):
    """A node on a network of another: its addresses there, and the other's interface."""

    ifname: str
    addresses: tuple[AddressOnLink, ...]


class WrittenRoutes:
    """Resolves the written routes and rules of a draft's nodes.

    Args:
        interfaces: those of each node, with their addresses.
        labels: of both ends of each link, with the interface's name.
        loopbacks: the addresses of `lo` of each node that has some.
    """

    def __init__(
        self,
        draft: Draft,
        segments: Sequence[Segment],
        addressing: Addressing,
        interfaces: Mapping[str, Sequence[Interface]],
        labels: Sequence[Sequence[Named]],
        loopbacks: Mapping[str, tuple[AddressOnLink, ...]],
        mistakes: Mistakes,
    ) -> None:
        self.families = draft.families
        self.nodes = {name_key(node.name): node for node in draft.nodes}
        self.segments = segments
        self.addressing = addressing
        self.interfaces = interfaces
        self.loopbacks = loopbacks
        of_switches = {name_key(switch.name): at for at, one in enumerate(segments) for switch in one.switches}
        self.indexes = {**of_switches, **{name_key(one.name): at for at, one in enumerate(segments) if one.name}}
        self._mistakes = mistakes
        self._reported: set[tuple[Place, str]] = set()
        self._on: dict[str, list[tuple[str, int, tuple[AddressOnLink, ...]]]] = {}
        for index, segment in enumerate(segments):
            for end in segment.ends:
                there = (end.ifname(labels), index, addressing.of((end.link, end.side)))
                self._on.setdefault(end.draft.node, []).append(there)

    def report(self, place: Place, message: str, hint: Hint = "") -> None:
        """Report a mistake once: the nodes of a group share their keys."""
        if (place, message) not in self._reported:
            self._reported.add((place, message))
            self._mistakes.add(place, message, hint)

    def of(self, node: DraftNode) -> Written:
        """Return what the node's keys ask for."""
        if node.routing is None or node.place is None:
            return Written()
        return _NodeRoutes(self, node, node.place).read()

    def neighbours(self, node: str, name: str) -> list[_Neighbour]:
        """Return the node `name` as `node` sees it, once for each network of both; none if they share none."""
        other = self.nodes.get(name_key(name))
        if other is None:
            return []
        own = self._on.get(node, [])
        return [
            _Neighbour(ifname, addresses)
            for ifname, index, _ in own
            for _, there, addresses in self._on.get(other.name, [])
            if there == index and other.name != node
        ]

    def owner(self, node: str, address: Address) -> str:
        """Return the node with that address on a network of `node`; "" if there is none."""
        indexes = {index for _, index, _ in self._on.get(node, [])}
        for name, ends in self._on.items():
            if any(index in indexes and any(address == one.ip for one in there) for _, index, there in ends):
                return name
        return ""

    def prefixes_of(self, name: str) -> tuple[Prefix, ...] | None:
        """Return the prefixes of a network, or the loopback addresses of a node; None if there is neither."""
        node = self.nodes.get(name_key(name))
        if node is not None and node.kind is not NodeKind.SWITCH:
            return tuple(address.network for address in self.loopbacks.get(node.name, ()))
        index = self.indexes.get(name_key(name))
        if index is None:
            return None
        own = (self.addressing.prefixes.get((index, family)) for family in Family)
        more = (prefix for at, prefix in self.addressing.networks if at == index)
        return (*(prefix for prefix in own if prefix is not None), *more)


class _NodeRoutes:
    """Reads the keys of one node."""

    def __init__(self, lab: WrittenRoutes, node: DraftNode, place: Place) -> None:
        self.lab = lab
        self.node = node
        self.place = place
        self.interfaces = {interface.name: interface for interface in lab.interfaces[node.name]}
        devices = ((interface.name, interface.device) for interface in lab.interfaces[node.name])
        vrfs = {name: (made.spec, made.members) for name, made in devices if made is not None}
        self.vrfs = {name: spec.table for name, (spec, _) in vrfs.items() if isinstance(spec, Vrf)}
        self.vrf_of = {member: name for name, (_, members) in vrfs.items() if name in self.vrfs for member in members}
        self.tables: dict[str, int] = dict(self.vrfs)  # by name
        self.written = Written()
        self.taken: dict[tuple[Prefix, int, int], tuple[int, bool]] = {}  # index of the route, whether it may grow

    def read(self) -> Written:
        model = self.node.routing
        assert model is not None
        for number, one in enumerate(model.routes if isinstance(model.routes, list) else ()):
            if (route := _shape(one, RouteFile, _route_words, self.place.at("routes", number), self.lab)) is not None:
                self.route(route, self.place.at("routes", number))
        if model.gateway is not None:
            self.gateway(model.gateway, self.place.at("gateway"))
        for number, rule_model in enumerate(model.rules):
            place = self.place.at("rules", number)
            if (rule := _shape(rule_model, RuleFile, _rule_words, place, self.lab)) is not None:
                self.rule(rule, place, _FIRST_PRIORITY + number)
        return self.written

    # -- routes ------------------------------------------------------------------------------------------------------

    def gateway(self, written: str | bool | list[str], place: Place) -> None:
        """Add a default route of each family: through an address in the list, else through its first node."""
        texts = written if isinstance(written, list) else [written] if isinstance(written, str) else ["none"]
        if "none" in texts:
            self.written.without_automatic = True
            return
        addresses = {address.version: text for text in texts if (address := _address(text)) is not None}
        nodes = [text for text in texts if _address(text) is None]
        owners = (self.lab.owner(self.node.name, ip_address(text)) for text in addresses.values())
        through = next(filter(None, (*nodes, *owners)), "")
        made = False
        for family in self.lab.families:
            via = _Via(addresses.get(family.value, through))
            hop = self.hop(via, family, place, exact=True) if via.gateway else None
            if hop is not None:
                made = True
                self.add(StaticRoute(_DEFAULTS[family], (hop,)), place, grows=False)
        for name in nodes:
            if not self.reported_unknown(name, place) and not made:
                self.lab.report(place, f"{self.node.name} shares no network with {name}")

    def route(self, model: RouteFile, place: Place) -> None:
        destinations = self.destinations(model.to, place.at("to"))
        if destinations is None:
            return
        table = self.table(model.table, model.vrf, place)
        source = self.source(model.src, model.vrf, place.at("src"))
        if table is None or (model.src and source is None):
            return
        scope = _Scope(table, model.vrf or "")
        vias = self.vias(model)
        if any(not via.gateway and not via.dev for via in vias):
            return
        is_exact = len({one.version for one in destinations}) > 1  # of a name: a family for each
        made = False
        before = len(self.lab._mistakes.diagnostics)
        for destination in destinations:
            family = Family(destination.version)
            if is_exact and source is not None and source.version != family.value:
                continue
            is_pair = is_exact and model.kind is not RouteKind.LOCAL
            hops = [self.hop(via, family, place, exact=is_pair, scope=scope) for via in vias]
            if None in hops:
                continue
            route = StaticRoute(
                destination,
                tuple(hop for hop in hops if hop is not None),
                model.kind,
                model.metric or 0,
                table,
                source,
                next((name for name, own in self.vrfs.items() if own == table), ""),
            )
            made = True
            self.add(route, place, grows=model.weight is not None)
        if not made and len(self.lab._mistakes.diagnostics) == before:
            wanted = ", ".join(via.gateway or f"dev {via.dev}" for via in vias)
            if not any(self.reported_unknown(via.gateway, place.at("via")) for via in vias if via.gateway):
                families = " or ".join(str(Family(one.version)) for one in destinations)
                where = f"in the VRF {model.vrf}" if model.vrf else "on a network of its own"
                message = f"{self.node.name} does not reach {wanted} over {families} {where}"
                self.lab.report(place, message, self.networks(scope))

    def vias(self, model: RouteFile) -> list[_Via]:
        if model.kind is RouteKind.LOCAL:
            return [_Via("", model.dev or LOOPBACK)]
        if model.kind is not RouteKind.UNICAST:
            return []
        if model.hops is not None:
            return [_via_of(hop) for hop in model.hops]
        weight = model.weight or 1
        if model.via is None:
            return [_Via("", model.dev or "", weight, model.onlink)]
        return [_Via(one, model.dev or "", weight, model.onlink) for one in model.via]

    def hop(
        self, via: _Via, family: Family, place: Place, *, exact: bool, scope: _Scope | None = None
    ) -> NextHop | None:
        """Return the next hop for destinations of that family; None if there is none, or after a report.

        With `exact` the gateway must have the same family: the route is one of a pair.
        """
        scope = scope or _Scope()
        if via.dev and via.dev not in self.interfaces and via.dev != LOOPBACK:
            hint = suggestion(via.dev, self.interfaces)
            self.lab.report(place, f"{self.node.name} has no interface `{via.dev[:40]}`", hint)
            return None
        if scope.vrf and via.dev and via.dev not in self.vrfs and self.vrf_of.get(via.dev) != scope.vrf:
            hint = (
                f"{self.members(scope.vrf)}; for a route that leaves it write `table: {scope.table}` instead of `vrf`"
            )
            self.lab.report(place, f"{via.dev} is not an interface of the VRF {scope.vrf} of {self.node.name}", hint)
            return None
        if not via.gateway:
            into_vrf = (ifname for ifname, vrf in self.vrf_of.items() if vrf == via.dev)
            reached = (one for ifname in (via.dev, *into_vrf) for one in self.addresses(ifname))
            has_family = any(one.version == family.value for one in reached)
            return NextHop(via.dev, None, via.weight) if has_family or not exact else None
        address = _address(via.gateway)
        if address is None:
            return self.hop_to_node(via, family, scope, exact=exact)
        if address.version != family.value and (exact or family is Family.IPV6):
            if not exact:
                self.lab.report(place, f"an IPv6 route cannot have the IPv4 gateway {address}")
            return None
        ifname = via.dev or self.interface_to(address, scope)
        beside = (name for name in self.interfaces if ifname and self.vrf_of.get(name) == self.vrf_of.get(ifname))
        if any(address == one.ip for name in beside for one in self.addresses(name)):
            self.lab.report(place, f"the gateway {address} is an address of {self.node.name} itself")
            return None
        if not ifname and address.is_link_local:
            self.lab.report(place, f"the gateway {address} is link-local", "name its interface: write `dev`")
            return None
        if not ifname:
            where = f"on no network of {f'the VRF {scope.vrf} of ' if scope.vrf else ''}{self.node.name}"
            self.lab.report(place, f"the gateway {address} is {where}", self.networks(scope))
            return None
        if via.dev and not via.onlink and not address.is_link_local and not self.is_on(address, via.dev, scope):
            hint = "write `onlink: true` if it is on the link all the same"
            self.lab.report(place, f"the gateway {address} is on no network of {self.node.name}:{via.dev}", hint)
            return None
        return NextHop(ifname, address, via.weight, via.onlink)

    def hop_to_node(self, via: _Via, family: Family, scope: _Scope, *, exact: bool) -> NextHop | None:
        there = self.lab.neighbours(self.node.name, via.gateway)
        there = [one for ifname in self.reached(scope) for one in there if one.ifname == ifname]
        if via.dev:
            there = [one for one in there if one.ifname == via.dev]
        for version in (family.value,) if exact or family is Family.IPV6 else (4, 6):
            for one in there:
                for address in one.addresses:
                    if address.version == version:
                        return NextHop(one.ifname, address.ip, via.weight, via.onlink)
        return None

    def reached(self, scope: _Scope) -> list[str]:
        """Return the interfaces that a route may use: those of its table's VRF first, or alone with `vrf`."""
        vrf = scope.vrf or next((name for name, table in self.vrfs.items() if table == scope.table), "")
        own = [ifname for ifname in self.interfaces if self.vrf_of.get(ifname, "") == vrf]
        return own if scope.vrf else [*own, *(ifname for ifname in self.interfaces if ifname not in own)]

    def interface_to(self, address: Address, scope: _Scope) -> str:
        """Return the interface on whose network the address is; "" for none."""
        found = self.reached(scope)
        if address.is_link_local:
            return found[0] if len(found) == 1 else ""
        return next((ifname for ifname in found if self.is_on(address, ifname, scope)), "")

    def is_on(self, address: Address, ifname: str, scope: _Scope) -> bool:
        """Return whether the address is on a network of the interface, or an earlier route leads to it on the link."""
        if any(address in one.network for one in self.addresses(ifname)):
            return True
        return any(
            route.table in (scope.table, *(() if scope.vrf else (MAIN_TABLE,)))
            and address in route.destination
            and any(hop.ifname == ifname and hop.gateway is None for hop in route.hops)
            for route in self.written.routes
        )

    def members(self, vrf: str) -> str:
        found = [ifname for ifname, name in self.vrf_of.items() if name == vrf]
        return f"its interfaces are {', '.join(found[:6])}"

    def addresses(self, ifname: str) -> tuple[AddressOnLink, ...]:
        if ifname == LOOPBACK:
            return self.lab.loopbacks.get(self.node.name, ())
        return self.interfaces[ifname].addresses

    def networks(self, scope: _Scope) -> str:
        found = [str(one.network) for ifname in self.reached(scope) for one in self.addresses(ifname)]
        return f"its networks are {', '.join(found[:6])}" if found else "it has no network"

    def reported_unknown(self, name: str, place: Place) -> bool:
        """Report a gateway that is neither an address nor a node."""
        if _address(name) is not None or name_key(name) in self.lab.nodes:
            return False
        known = [node.name for node in self.lab.nodes.values() if node.kind is not NodeKind.SWITCH]
        self.lab.report(place, f"`{name[:40]}` is neither an address nor a node", suggestion(name, known))
        return True

    def add(self, route: StaticRoute, place: Place, *, grows: bool) -> None:
        """Add the route; one with a weight to the one that differs only in the next hops."""
        key = (route.destination, route.table, route.metric)
        if key not in self.taken:
            self.taken[key] = (len(self.written.routes), grows)
            self.written.routes.append(route)
            return
        index, may_grow = self.taken[key]
        first = self.written.routes[index]
        if grows and may_grow and first.source == route.source:
            self.written.routes[index] = replace(first, hops=first.hops + route.hops)
            return
        to = "default" if route.destination.prefixlen == 0 else route.destination
        hint = "give one of them a larger `metric`, as a backup, or both a `weight`, to use both"
        self.lab.report(place, f"{self.node.name} has two routes to {to}", hint)

    # -- what both have ------------------------------------------------------------------------------------------------

    def destinations(self, written: str, place: Place) -> tuple[Prefix, ...] | None:
        """Return the prefixes of a text; None after a report."""
        if written in ("default", "any", "all"):
            return tuple(_DEFAULTS[family] for family in self.lab.families)
        try:
            interface = ip_interface(written)
        except ValueError:
            prefixes = self.lab.prefixes_of(written)
            if prefixes:
                return prefixes
            if prefixes is not None:
                self.lab.report(place, f"{written} has no prefix that a route could lead to", _EXAMPLE)
                return None
            near = suggestion(written, [node.name for node in self.lab.nodes.values()])
            message = f"`{written[:40]}` is neither a prefix, an address, a network nor a node"
            self.lab.report(place, message, near or _EXAMPLE)
            return None
        if interface.ip != interface.network.network_address:
            hint = f"did you mean `{interface.network}`, or `{interface.ip}`?"
            self.lab.report(place, f"{written} is an address in a prefix", hint)
            return None
        return (interface.network,)

    def table(self, written: str | None, vrf: str | None, place: Place) -> int | None:
        """Return the number of a table, or of that of a VRF; None after a report."""
        if vrf is not None and vrf not in self.vrfs:
            example = "write for example `interfaces: {red: {vrf: 10, members: [eth0]}}` on the node"
            hint = suggestion(vrf, self.vrfs) if self.vrfs else example
            self.lab.report(place.at("vrf"), f"{self.node.name} has no VRF `{vrf[:40]}`", hint)
            return None
        if vrf is not None:
            return self.vrfs[vrf]
        if written is None:
            return MAIN_TABLE
        if written in TABLES:
            return TABLES[written]
        if written.isascii() and written.isdigit():
            if 1 <= int(written) <= _TABLE_MAX:
                return int(written)
            self.lab.report(place.at("table"), f"{written} is not the number of a table", "write 1 to 4294967295")
            return None
        if written not in self.tables:
            taken = self.tables.values()
            self.tables[written] = next(number for number in count(FIRST_TABLE) if number not in taken)
        return self.tables[written]

    def source(self, written: str | None, vrf: str | None, place: Place) -> Address | None:
        if written is None:
            return None
        address = _address(written)
        inside = [one for one in self.interfaces if vrf is None or vrf in (one, self.vrf_of.get(one))]
        own = [one.ip for ifname in (*inside, LOOPBACK) for one in self.addresses(ifname)]
        if address is None or address not in own:
            hint = f"its addresses are {', '.join(map(str, own[:6]))}" if own else ""
            where = f"the VRF {vrf} of {self.node.name}" if vrf else self.node.name
            self.lab.report(place, f"`{written[:60]}` is not an address of {where}", hint)
            return None
        return address

    # -- rules ---------------------------------------------------------------------------------------------------------

    def rule(self, model: RuleFile, place: Place, priority: int) -> None:
        is_lookup = model.action is RuleAction.LOOKUP
        table = self.table(model.table or model.lookup, model.vrf, place) if is_lookup else 0
        mark = self.mark(model.fwmark, place.at("fwmark"))
        sources = self.selected(model.source, place.at("from"))
        destinations = self.selected(model.to, place.at("to"))
        for key, ifname in (("iif", model.iif), ("oif", model.oif)):
            if ifname and ifname not in self.interfaces and ifname != LOOPBACK:
                hint = suggestion(ifname, [*self.interfaces, LOOPBACK])
                self.lab.report(place.at(key), f"{self.node.name} has no interface `{ifname[:40]}`", hint)
                return
        if table is None or mark is None or sources is None or destinations is None:
            return
        made = False
        for family in self.lab.families:
            for source in sources.get(family, ()):
                for destination in destinations.get(family, ()):
                    made = True
                    self.written.rules.append(
                        PolicyRule(
                            version=family.value,
                            priority=priority if model.priority is None else model.priority,
                            action=model.action,
                            table=table,
                            source=source,
                            destination=destination,
                            mark=mark[0],
                            mark_mask=mark[1],
                            iif=model.iif or "",
                            oif=model.oif or "",
                            inverted=model.invert,
                        )
                    )
        if not made:
            self.lab.report(place, "`from` and `to` are of different families")

    def selected(self, written: str | None, place: Place) -> dict[Family, list[Prefix | None]] | None:
        """Return the prefixes by family, None for all packets; None instead of all after a report."""
        if written is None or written in ("all", "any", "default"):
            return {family: [None] for family in Family}
        node = self.lab.nodes.get(name_key(written))
        if node is not None and node.kind is not NodeKind.SWITCH:  # all its addresses
            addresses = [one for interface in self.lab.interfaces[node.name] for one in interface.addresses]
            addresses += self.lab.loopbacks.get(node.name, ())
            prefixes: tuple[Prefix, ...] = tuple(ip_network(one.ip) for one in addresses)
        else:
            found = self.destinations(written, place)
            if found is None:
                return None
            prefixes = found
        return {family: [one for one in prefixes if one.version == family.value] for family in Family}

    def mark(self, written: str | None, place: Place) -> tuple[int | None, int] | None:
        if written is None:
            return None, _TABLE_MAX
        value, slash, mask = written.partition("/")
        try:
            numbers = int(value, 0), int(mask, 0) if slash else _TABLE_MAX
        except ValueError:
            numbers = -1, 0
        if not all(0 <= number <= _TABLE_MAX for number in numbers):
            self.lab.report(place, f"`{written[:40]}` is not a mark", "write for example 1, 0x10 or 0x10/0xff")
            return None
        return numbers


class _Via(Struct, frozen=True):
    """A next hop as the file writes it."""

    gateway: str  # a node or an address; "" for a destination on the link
    dev: str = ""
    weight: int = 1
    onlink: bool = False


class _Scope(Struct, frozen=True):
    """Where the next hops of a route are looked up."""

    table: int = MAIN_TABLE
    vrf: str = ""  # with one: its interfaces alone


def _via_of(hop: HopFile) -> _Via:
    return _Via(hop.via or "", hop.dev or "", hop.weight, hop.onlink)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


# -- routes and rules as texts of ip(8) --------------------------------------------------------------------------------


def _shape(
    model: Any, shape: type[Any], words: Callable[[list[str]], dict[str, Any]], place: Place, lab: WrittenRoutes
) -> Any:
    """Return the mapping, or the one that a text stands for; None after a report."""
    if not isinstance(model, PlacedText):
        return model
    try:
        values = words(model.text.split())
    except ValueError as error:
        command = re.match(r"(ip\s+(-[46]\s+)?)?((route|rule)\s+)?add\s+", model.text)
        hint = f"leave out `{command[0].strip()}`" if command else _WORDS_HINT
        lab.report(place, f"`{model.text[:60]}`: {error}", hint)
        return None
    reading = Reading(final=True)
    try:
        read: Shape = shape.read(values, reading, ())
    except Unusable:
        read = shape({})
    for problem in reading.problems:
        lab.report(place, f"`{model.text[:60]}`: {problem.message}", problem.hint)
    return None if reading.problems else read


def _route_words(words: list[str]) -> dict[str, Any]:
    """Return the keys of `[KIND] PREFIX [via A] [dev D] [metric N] [table T] [src A] [onlink] [nexthop ...]...`.

    `vrf V` stands for a table; both may also come before the prefix.
    """
    values: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        if word in set(RouteKind) and not values:
            values["kind"] = word
        elif "to" not in values and word not in ("table", "vrf"):
            values["to"] = next(left, "") if word == "to" else word
        elif word == "nexthop":
            values.setdefault("hops", []).append({})
        elif word == "onlink":
            _target(values, word)[word] = True
        elif word in ("via", "dev", "weight", "metric", "table", "vrf", "src"):
            value = next(left, None)
            if value in ("inet", "inet6") and word == "via":
                value = next(left, None)
            if value is None:
                raise ValueError(f"`{word}` has no value")
            _target(values, word)[word] = value
        else:
            raise ValueError(f"`{word}` is not a word of a route")
    return values


def _target(values: dict[str, Any], word: str) -> dict[str, Any]:
    is_hop = word in ("via", "dev", "weight", "onlink") and "hops" in values
    target: dict[str, Any] = values["hops"][-1] if is_hop else values
    return target


def _rule_words(words: list[str]) -> dict[str, Any]:
    """Return the keys of `[not] [from P] [to P] [fwmark M] [iif D] [oif D] [priority N] (table T | vrf V | ACTION)`."""
    values: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        name = {"pref": "priority", "prio": "priority", "preference": "priority", "order": "priority"}.get(word, word)
        if word == "not":
            values["not"] = True
        elif word in (RuleAction.BLACKHOLE, RuleAction.UNREACHABLE, RuleAction.PROHIBIT):
            values["action"] = word
        elif name in ("from", "to", "fwmark", "iif", "oif", "priority", "table", "lookup", "vrf"):
            value = next(left, None)
            if value is None:
                raise ValueError(f"`{word}` has no value")
            values[name] = value
        else:
            raise ValueError(f"`{word}` is not a word of a rule")
    return values
