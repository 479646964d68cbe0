"""Find static routes along shortest paths, for all nodes and both families.

A router gets a route to each prefix that it is not on. A host with one interface gets a default route if it reaches
everything beyond its network through one router, as people usually configure hosts; other hosts get a route to each
prefix. Without a router nodes get no routes: connecting beyond the link fails with ENETUNREACH.

A node that needs more than `PLAIN_ROUTES` routes of a family gets one for each block of adjacent prefixes that it
reaches by the same next hop instead. A block consists of the prefixes of the lab alone, and blocks do not overlap. So
every packet takes the same path as with a route for each prefix, also while interfaces are down, and there is no
route to addresses outside those prefixes (docs/decisions/0019).

A loopback address of a router is a prefix that the router is on, and one of a host a prefix that the host forwards to.
Anycast: of several nodes with the same address, the nearest gets the packets. A router that translates addresses hides
the networks behind it: nothing outside gets a route there.

The world outside the lab is a further prefix, 0.0.0.0/0 and ::/0, that routers with `nat` are on; every node gets a
route to it through the nearest of them. Those routers get their own default route when the lab is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network

from labctl.names import LOOPBACK, OUTSIDE_INTERFACE
from labctl.structs import Struct, replace
from labctl.topology.draft import Family
from labctl.topology.model import Address, AddressOnLink, Prefix, Route

DEFAULT: dict[Family, Prefix] = {Family.IPV4: IPv4Network("0.0.0.0/0"), Family.IPV6: IPv6Network("::/0")}
PLAIN_ROUTES = 64  # `ip route` shows that many at a glance
_NOTHING: frozenset[int] = frozenset()
_UNREACHED, _OWN, _MIXED = -1, -2, -3  # instead of a gateway's number


class Port(Struct, frozen=True, gc=False):
    """An interface of a host or router on a segment."""

    ifname: str
    segment: int
    addresses: tuple[AddressOnLink, ...]

    def address(self, family: Family) -> Address | None:
        """Return its address of that family."""
        for address in self.addresses:
            if address.version == family.value:
                return address.ip
        return None


class Station(Struct, frozen=True, gc=False):
    """A host or a router, for routing."""

    name: str
    forwards: bool
    ports: tuple[Port, ...]
    nat: bool = False
    loopbacks: tuple[tuple[int, int], ...] = ()  # number of the prefix, IP version
    outside: str = ""  # the interface that it translates towards: no route leads from there to its other networks
    translates: tuple[int, ...] = (4,)  # IP versions, with `outside`
    leads_on: bool = False  # by routes of the file, besides its networks

    @property
    def has_one_interface(self) -> bool:
        """Whether it has at most one; a port stands for each network on an interface."""
        return len(self.ports) < 2 or len({port.ifname for port in self.ports}) == 1


class Routes(Struct, frozen=True):
    """The routes of every station, in the order of the stations."""

    of_stations: tuple[tuple[Route, ...], ...]
    most_routers: int  # on a path, with these routes


def find_routes(
    stations: list[Station], prefixes: dict[tuple[int, Family], Prefix], *, at_most: int, keep: bool = True
) -> Routes:
    """Find the shortest paths from every station to every prefix.

    Stops at the first path with `at_most` routers, without routes. Without `keep` the result has no routes either, and
    `most_routers` is exact only for the question whether it is below `at_most`: that takes far less time.
    """
    if not any(station.forwards or station.loopbacks for station in stations):
        return Routes(((),) * len(stations), 0)
    routes: list[list[Route]] = [[] for _ in stations]
    most_routers = 0
    for family in (Family.IPV4, Family.IPV6):
        graph = _Graph(stations, family)
        of_family = {segment: prefix for (segment, of), prefix in prefixes.items() if of is family}
        of_family = dict(sorted(of_family.items()))
        if graph.outlets:
            of_family[graph.outside] = DEFAULT[family]
        gateways: list[list[int]] = []
        near: set[int] = set()  # segments that have no path with `at_most` routers to them
        for segment in of_family:
            if segment in near:
                continue
            by_station, farthest, passed = graph.gateways_to(segment)
            most_routers = max(most_routers, farthest)
            if most_routers >= at_most:
                return Routes(((),) * len(stations), most_routers)
            if keep:
                gateways.append(by_station)
            elif 2 * farthest + 2 < at_most:  # any two of these have a path through this segment
                near |= passed
        if keep:
            table = _Table(graph, of_family)
            for number, by_prefix in enumerate(zip(*gateways, strict=True)):
                found = [*table.routes(number, by_prefix)]
                routes[graph.searched[number]] += found
                for host in graph.alike[number]:
                    ifname = stations[host].ports[0].ifname
                    routes[host] += [one if one.ifname == ifname else replace(one, ifname=ifname) for one in found]
            for host, route in graph.defaults():
                routes[host].append(route)
    return Routes(tuple(map(tuple, routes)), most_routers)


class _Graph:
    """The stations on each segment, for one family.

    Paths are searched for routers, and for hosts with several interfaces; those stations have numbers. All other hosts
    on a segment have the same routes: a default route where there is one router, else those of the first such host.
    A gateway is the number of a router's address in `addresses`.
    """

    def __init__(self, stations: list[Station], family: Family) -> None:
        self.family = family
        self.hosts: dict[int, list[tuple[int, Port]]] = defaultdict(list)  # of a segment: hosts that are on it alone
        self.searched: list[int] = []  # indexes of stations, by number
        self.alike: dict[int, list[int]] = defaultdict(list)  # indexes of hosts that have the routes of a number
        self.addresses: list[Address] = []
        self.segments: list[int] = []  # by gateway
        self.members: dict[int, dict[int, str]] = defaultdict(dict)  # of a segment: stations and their interfaces
        self.gateways: dict[int, list[int]] = defaultdict(list)  # of a router
        self.gateways_on: dict[int, list[tuple[int, int]]] = defaultdict(list)  # of a segment: gateway and router
        self.entries: dict[int, list[int]] = defaultdict(list)  # of a host with loopback addresses: its "gateways"
        self.host_gateways: set[int] = set()  # those in `entries`
        self.entered: set[int] = set()  # segments that such hosts are on
        self.owners: dict[int, list[int]] = defaultdict(list)  # of a loopback address: its stations
        self.hidden_from: dict[int, frozenset[int]] = {}  # of a translating router: segments outside
        for index, station in enumerate(stations):
            if not station.forwards and not station.loopbacks and station.has_one_interface:
                for port in station.ports[:1]:
                    if port.address(family) is not None:
                        self.hosts[port.segment].append((index, port))
                continue
            number = len(self.searched)
            self.searched.append(index)
            for port in station.ports:
                address = port.address(family)
                if address is None:
                    continue
                self.members[port.segment].setdefault(number, port.ifname)
                if station.loopbacks and not station.forwards:
                    self.entries[number].append(len(self.addresses))
                    self.host_gateways.add(len(self.addresses))
                    self.addresses.append(address)
                    self.segments.append(port.segment)
                    self.entered.add(port.segment)
                if station.outside and port.ifname == station.outside and family.value in station.translates:
                    self.hidden_from[number] = self.hidden_from.get(number, _NOTHING) | {port.segment}
                if station.forwards:
                    self.gateways[number].append(len(self.addresses))
                    self.gateways_on[port.segment].append((len(self.addresses), number))
                    self.addresses.append(address)
                    self.segments.append(port.segment)
            for segment, version in station.loopbacks:
                if version == family.value:
                    self.members[segment].setdefault(number, LOOPBACK)
                    self.owners[segment].append(number)
        for segment, ((first, port), *others) in self.hosts.items():
            routers = len(self.gateways_on[segment])
            if routers > 1 or (routers == 0 and segment in self.entered):
                number = len(self.searched)
                self.searched.append(first)
                self.members[segment][number] = port.ifname
                self.alike[number] = [index for index, _ in others]
        self.stations = [stations[index] for index in self.searched]
        numbers = [port.segment for station in stations for port in station.ports]
        self.outside = max([*numbers, *self.owners], default=0) + 1
        self.outlets = {number: OUTSIDE_INTERFACE for number, station in enumerate(self.stations) if station.nat}
        self.members[self.outside] = self.outlets

    def defaults(self) -> Iterator[tuple[int, Route]]:
        """Yield hosts whose only router leads to some other prefix, by index, each with its default route."""
        for segment, hosts in self.hosts.items():
            if len(self.gateways_on[segment]) != 1:
                continue
            ((gateway, router),) = self.gateways_on[segment]
            leads_on = any(self.segments[each] != segment for each in self.gateways[router])
            has_more = self.stations[router].loopbacks or self.stations[router].leads_on or segment in self.entered
            if router in self.outlets or leads_on or has_more:
                for index, port in hosts:
                    yield index, Route(DEFAULT[self.family], self.addresses[gateway], port.ifname)

    def gateways_to(self, segment: int) -> tuple[list[int], int, set[int]]:
        """Return the gateway to the segment by station, the most routers on a path, and the segments with a path.

        Breadth first, from the segment. Among paths of equal length, the one through the first nodes in the file wins.
        """
        found = [_UNREACHED] * len(self.stations)
        for index in self.members[segment]:
            found[index] = _OWN
        nearest = self.owners.get(segment) or [
            index for index in self.members[segment] if self.stations[index].forwards
        ]
        visited = {segment}
        routers = farthest = 0
        while nearest:
            routers += 1
            following: list[int] = []
            for router in nearest:
                hidden_from = self.hidden_from.get(router, _NOTHING)
                for gateway in self.gateways.get(router) or self.entries.get(router) or ():
                    beyond = self.segments[gateway]
                    if beyond in visited or beyond in hidden_from:
                        continue
                    visited.add(beyond)
                    if beyond in self.hosts:
                        farthest = routers
                    for index in self.members[beyond]:
                        if found[index] == _UNREACHED:
                            found[index] = gateway
                            farthest = routers
                            if index in self.gateways:
                                following.append(index)
            nearest = following
        return found, farthest, visited

    def route(self, station: int, destination: Prefix, gateway: int) -> Route:
        """Return the station's route through the gateway."""
        return Route(destination, self.addresses[gateway], self.members[self.segments[gateway]][station])


class _Table:
    """The prefixes of one family, and the blocks that they form."""

    def __init__(self, graph: _Graph, prefixes: dict[int, Prefix]) -> None:
        self._graph = graph
        self._segments = list(prefixes)
        self._blocks = list(prefixes.values())  # the prefixes, then what two blocks before exactly cover
        self._pairs: list[tuple[int, int]] = []  # of the latter: the two
        by_length: dict[int, dict[int, int]] = defaultdict(dict)
        for number, prefix in enumerate(self._blocks):
            value = int(prefix.network_address) >> (prefix.max_prefixlen - prefix.prefixlen)
            by_length[prefix.prefixlen][value] = number
        for length in range(max(by_length, default=0), 0, -1):
            for value, number in by_length[length].items():
                if not value & 1 and (value | 1) in by_length[length]:
                    by_length[length - 1][value >> 1] = len(self._blocks)
                    self._blocks.append(self._blocks[number].supernet())
                    self._pairs.append((number, by_length[length][value | 1]))
        containing = dict.fromkeys(range(len(self._blocks)), len(self._blocks))  # that number stands for none
        for number, pair in enumerate(self._pairs, start=len(prefixes)):
            containing.update(dict.fromkeys(pair, number))
        # In the order of addresses: each block, and the block that it is one half of.
        self._containing = sorted(containing.items(), key=lambda one: int(self._blocks[one[0]].network_address))

    def routes(self, station: int, gateways: Sequence[int]) -> Iterator[Route]:
        """Yield the routes of a station, which reaches each prefix through the gateway at its place."""
        used = set(gateways) - {_UNREACHED, _OWN}
        of_station = self._graph.stations[station]
        through_hosts = used & self._graph.host_gateways
        if len(used) == len(through_hosts) + 1 and not of_station.forwards and of_station.has_one_interface:
            (default,) = used - through_hosts
            yield self._graph.route(station, DEFAULT[self._graph.family], default)
            for prefix, gateway in zip(self._blocks, gateways, strict=False) if through_hosts else ():
                if gateway in through_hosts:
                    yield self._graph.route(station, prefix, gateway)
        elif sum(gateway >= 0 for gateway in gateways) <= PLAIN_ROUTES:
            for prefix, gateway in zip(self._blocks, gateways, strict=False):
                if gateway >= 0:
                    yield self._graph.route(station, prefix, gateway)
        else:
            for number, gateway in self._summarized(station, gateways):
                yield self._graph.route(station, self._blocks[number], gateway)

    def _summarized(self, station: int, gateways: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the largest blocks that the station reaches through one gateway each.

        Such a block may contain a prefix that the station is on if the gateway is there, too: the kernel's own route
        to it is more specific, and both disappear when that interface is down. Likewise a prefix that the station
        reaches as it reaches the world outside needs no route.
        """
        found = list(gateways)
        own = [number for number, gateway in enumerate(gateways) if gateway == _OWN]
        for number in own:
            others = (
                gateway for gateway, router in self._graph.gateways_on[self._segments[number]] if router != station
            )
            found[number] = next(others, _OWN)
        for one, other in self._pairs:
            gateway = found[one]
            found.append(gateway if gateway == found[other] else _MIXED)
        found.append(_MIXED)
        outside = gateways[-1] if self._graph.outlets else _MIXED
        needless = {*own, len(gateways) - 1} if self._graph.outlets else set(own)
        for number, containing in self._containing:
            gateway = found[number]
            if gateway >= 0 and gateway not in (found[containing], outside) and number not in needless:
                yield number, gateway
        if outside >= 0:
            yield len(gateways) - 1, outside
