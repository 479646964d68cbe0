"""Static routes along shortest paths, for every node and both families.

Routers get a route to every prefix that they are not on. A host with one interface gets a default route when all that
lies beyond its network is reached through one router, which is how people set hosts up; other hosts get a route for
every prefix. Without a router nobody gets a route: what is not on the link is ENETUNREACH.

What lies outside the lab is one more prefix, 0.0.0.0/0 and ::/0, that the routers with `nat` are on; everybody has a
route to it by way of the nearest. Those routers get theirs when the lab is made.
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
        """Its address of that family."""
        for address in self.addresses:
            if address.version == family.value:
                return address.ip
        return None


class Station(Struct, frozen=True):
    """A host or a router, as routing sees it."""

    name: str
    forwards: bool
    ports: tuple[Port, ...]
    nat: bool = False


class Hop(Struct, frozen=True):
    """The first step to a segment, and how many routers lie on the way."""

    gateway: Address
    ifname: str
    routers: int


class Map(Struct, frozen=True):
    """The stations of one family: who is on which segment, under which address. Stations go by their index."""

    forwards: list[bool]
    members: dict[int, list[tuple[int, str]]]  # of a segment: station and the name of its interface there
    ports: list[list[tuple[int, Address]]]  # of a station: segments and its address there


def map_of(stations: list[Station], family: Family) -> Map:
    """What `hops_to` walks."""
    members: dict[int, list[tuple[int, str]]] = {}
    ports: list[list[tuple[int, Address]]] = []
    for index, station in enumerate(stations):
        ports.append([])
        for port in station.ports:
            address = port.address(family)
            if address is not None:
                members.setdefault(port.segment, []).append((index, port.ifname))
                ports[index].append((port.segment, address))
    return Map([station.forwards for station in stations], members, ports)


class Routes(Struct, frozen=True):
    """The routes of every station, in the order of the stations."""

    of_stations: tuple[tuple[Route, ...], ...]
    most_routers: int  # on the way of a packet, by these routes


def find_routes(
    stations: list[Station], prefixes: dict[tuple[int, Family], Prefix], *, at_most: int, keep: bool = True
) -> Routes:
    """Find the shortest paths from every station to every prefix.

    Ends as soon as a way has `at_most` routers, without routes. Without `keep` there are no routes either, and
    `most_routers` is only sure to be below `at_most` when it should be: that takes far less time.
    """
    routes: list[list[Route]] = [[] for _ in stations]
    most_routers = 0
    outside = max((segment for segment, _ in prefixes), default=0) + 1
    outlets = [(index, OUTSIDE_INTERFACE) for index, station in enumerate(stations) if station.nat]
    if outlets:
        prefixes = prefixes | {(outside, family): DEFAULT[family] for family in Family}
    for family in (Family.IPV4, Family.IPV6):
        reach = map_of(stations, family)
        reach.members[outside] = outlets
        found: list[list[Route]] = [[] for _ in stations]
        near: set[int] = set()  # segments that have no way of `at_most` routers to them
        for (segment, of), prefix in sorted(prefixes.items(), key=lambda one: one[0][0]):
            if of is not family or segment in near:
                continue
            hops = hops_to(segment, reach)
            farthest = max((hop.routers for hop in hops.values()), default=0)
            most_routers = max(most_routers, farthest)
            if most_routers >= at_most:
                return Routes(((),) * len(stations), most_routers)
            if keep:
                for index, hop in hops.items():
                    found[index].append(Route(prefix, hop.gateway, hop.ifname))
            elif 2 * farthest + 2 < at_most:  # any two of these can meet by way of this segment
                near.update(other for index in hops for other, _ in reach.ports[index])
        for index, station in enumerate(stations):
            routes[index] += _as_default(station, found[index], family)
    return Routes(tuple(tuple(of_station) for of_station in routes), most_routers)


def hops_to(segment: int, reach: Map) -> dict[int, Hop]:
    """The first hop to the segment of every station that is not on it and can reach it: breadth first from there.

    Among paths of equal length the one through what stands first in the file is taken.
    """
    distance = {index: 0 for index, _ in reach.members.get(segment, [])}
    hops: dict[int, Hop] = {}
    queue = deque(index for index in distance if reach.forwards[index])
    visited = {segment}
    while queue:
        router = queue.popleft()
        for other, gateway in reach.ports[router]:
            if other in visited:
                continue
            visited.add(other)
            for index, ifname in reach.members[other]:
                if index not in distance:
                    distance[index] = distance[router] + 1
                    hops[index] = Hop(gateway, ifname, distance[index])
                    if reach.forwards[index]:
                        queue.append(index)
    return hops


def _as_default(station: Station, routes: list[Route], family: Family) -> list[Route]:
    gateways = {(route.gateway, route.ifname) for route in routes}
    if station.forwards or len(station.ports) != 1 or len(gateways) != 1:
        return routes
    return [Route(DEFAULT[family], routes[0].gateway, routes[0].ifname)]
