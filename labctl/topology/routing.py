"""Find static routes along shortest paths, for all nodes and both families.

A router gets a route to each prefix that it is not on. A host with one interface gets a default route if it reaches
everything beyond its network through one router, as people usually configure hosts; other hosts get a route to each
prefix. Without a router nodes get no routes: connecting beyond the link fails with ENETUNREACH.

The world outside the lab is a further prefix, 0.0.0.0/0 and ::/0, that routers with `nat` are on; every node gets a
route to it through the nearest of them. Those routers get their own default route when the lab is made.
"""

from __future__ import annotations

from collections import deque
from ipaddress import IPv4Network, IPv6Network

from labctl.names import OUTSIDE_INTERFACE
from labctl.structs import Struct
from labctl.topology.draft import Family
from labctl.topology.model import Address, AddressOnLink, Prefix, Route

DEFAULT: dict[Family, Prefix] = {Family.IPV4: IPv4Network("0.0.0.0/0"), Family.IPV6: IPv6Network("::/0")}


class Port(Struct, frozen=True):
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


class Station(Struct, frozen=True):
    """A host or a router, for routing."""

    name: str
    forwards: bool
    ports: tuple[Port, ...]
    nat: bool = False


class Hop(Struct, frozen=True):
    """The first hop to a segment, and the number of routers on the path."""

    gateway: Address
    ifname: str
    routers: int


class Graph(Struct, frozen=True):
    """The stations on each segment and their addresses, for one family. Stations are numbers: their indexes."""

    forwards: list[bool]
    members: dict[int, list[tuple[int, str]]]  # of a segment: station and its interface
    ports: list[list[tuple[int, Address]]]  # of a station: segment and its address


def graph_of(stations: list[Station], family: Family) -> Graph:
    """Return the graph for `hops_to`."""
    members: dict[int, list[tuple[int, str]]] = {}
    ports: list[list[tuple[int, Address]]] = []
    for index, station in enumerate(stations):
        ports.append([])
        for port in station.ports:
            address = port.address(family)
            if address is not None:
                members.setdefault(port.segment, []).append((index, port.ifname))
                ports[index].append((port.segment, address))
    return Graph([station.forwards for station in stations], members, ports)


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
    routes: list[list[Route]] = [[] for _ in stations]
    most_routers = 0
    outside = max((segment for segment, _ in prefixes), default=0) + 1
    outlets = [(index, OUTSIDE_INTERFACE) for index, station in enumerate(stations) if station.nat]
    if outlets:
        prefixes = prefixes | {(outside, family): DEFAULT[family] for family in Family}
    for family in (Family.IPV4, Family.IPV6):
        graph = graph_of(stations, family)
        graph.members[outside] = outlets
        found: list[list[Route]] = [[] for _ in stations]
        near: set[int] = set()  # segments that have no path with `at_most` routers to them
        for (segment, of), prefix in sorted(prefixes.items(), key=lambda one: one[0][0]):
            if of is not family or segment in near:
                continue
            hops = hops_to(segment, graph)
            farthest = max((hop.routers for hop in hops.values()), default=0)
            most_routers = max(most_routers, farthest)
            if most_routers >= at_most:
                return Routes(((),) * len(stations), most_routers)
            if keep:
                for index, hop in hops.items():
                    found[index].append(Route(prefix, hop.gateway, hop.ifname))
            elif 2 * farthest + 2 < at_most:  # any two of these have a path through this segment
                near.update(other for index in hops for other, _ in graph.ports[index])
        for index, station in enumerate(stations):
            routes[index] += _as_default(station, found[index], family)
    return Routes(tuple(tuple(of_station) for of_station in routes), most_routers)


def hops_to(segment: int, graph: Graph) -> dict[int, Hop]:
    """Return the first hop to the segment from each station that reaches it: breadth first, from the segment.

    Among paths of equal length, the one through the first nodes in the file wins.
    """
    distance = {index: 0 for index, _ in graph.members.get(segment, [])}
    hops: dict[int, Hop] = {}
    queue = deque(index for index in distance if graph.forwards[index])
    visited = {segment}
    while queue:
        router = queue.popleft()
        for other, gateway in graph.ports[router]:
            if other in visited:
                continue
            visited.add(other)
            for index, ifname in graph.members[other]:
                if index not in distance:
                    distance[index] = distance[router] + 1
                    hops[index] = Hop(gateway, ifname, distance[index])
                    if graph.forwards[index]:
                        queue.append(index)
    return hops


def _as_default(station: Station, routes: list[Route], family: Family) -> list[Route]:
    gateways = {(route.gateway, route.ifname) for route in routes}
    if station.forwards or len(station.ports) != 1 or len(gateways) != 1:
        return routes
    return [Route(DEFAULT[family], routes[0].gateway, routes[0].ifname)]
