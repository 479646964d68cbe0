"""Static routes: shortest paths, default routes of hosts, and blocks of prefixes instead of single ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl import topology as topologies_module
from labctl.topology import routing
from labctl.topology.draft import Family
from labctl.topology.model import Address, Node, NodeKind, Prefix, Route, Topology
from labctl.topology.routing import PLAIN_ROUTES, Port, Station, find_routes
from tests.unit.topology.drafts import resolved, topologies

MODEST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def owner(topology: Topology, address: Address) -> Node:
    return next(node for node in topology.nodes if address in tuple(node.addresses))


def is_local(node: Node, address: Address) -> bool:
    return any(address in own.network for interface in node.interfaces for own in interface.addresses)


def next_hop(node: Node, address: Address) -> Address | None:
    """The gateway of the longest matching route; None when there is no route."""
    matching = [route for route in node.routes if address in route.destination]
    return max(matching, key=lambda route: route.destination.prefixlen).gateway if matching else None


def walk(topology: Topology, start: Node, address: Address) -> list[str] | None:
    """The nodes that a packet passes through; None when it is dropped. AssertionError when it goes in a circle."""
    passed = [start.name]
    node = start
    while address not in tuple(node.addresses):
        assert node is start or node.kind is NodeKind.ROUTER, f"{node.name} does not forward: {passed}"
        if is_local(node, address):
            node = owner(topology, address)
        else:
            gateway = next_hop(node, address)
            if gateway is None:
                return None
            assert is_local(node, gateway), f"{node.name} cannot reach its gateway {gateway}"
            node = owner(topology, gateway)
        assert node.name not in passed, f"a loop: {passed} {node.name}"
        passed.append(node.name)
    return passed


def fewest_nodes(topology: Topology, start: Node, address: Address) -> int | None:
    """How many nodes the shortest path has, found without routes."""
    members: dict[Prefix, list[Node]] = {}
    for node in topology.nodes:
        for interface in node.interfaces:
            for own in interface.addresses:
                if own.version == address.version:
                    members.setdefault(own.network, []).append(node)
    distance = {start.name: 1}
    queue = deque([start])
    goal = next(prefix for prefix in members if address in prefix)
    if address in tuple(start.addresses):
        return 1
    while queue:
        node = queue.popleft()
        prefixes = {one.network for interface in node.interfaces for one in interface.addresses}
        if goal in prefixes:
            return distance[node.name] + 1
        for prefix in prefixes:
            for other in members.get(prefix, []):
                if other.name not in distance and other.kind is NodeKind.ROUTER:
                    distance[other.name] = distance[node.name] + 1
                    queue.append(other)
    return None


@MODEST
@given(topologies())
def test_every_node_reaches_every_address_along_a_shortest_path(topology: Topology) -> None:
    stations = [node for node in topology.nodes if node.kind is not NodeKind.SWITCH]
    for start in stations:
        for target in stations:
            for address in target.addresses:
                path = walk(topology, start, address)
                assert path is not None, f"{start.name} cannot reach {address} of {target.name}"
                assert path[-1] == target.name
                fewest = fewest_nodes(topology, start, address)
                assert fewest is not None
                # Fewer: the router that owns the address may be met through another of its interfaces.
                assert len(path) <= fewest


@MODEST
@given(topologies())
def test_no_node_has_two_routes_to_one_prefix_or_a_route_to_its_own(topology: Topology) -> None:
    for node in topology.nodes:
        own = {one.network for interface in node.interfaces for one in interface.addresses}
        destinations = [route.destination for route in node.routes]
        assert len(set(destinations)) == len(destinations)
        assert own.isdisjoint(destinations)


@pytest.mark.parametrize("shape", ["line:1", "line:7", "mesh:5", "tree:3,2", "star:9", "pair"])
def test_every_host_of_a_shape_reaches_every_other(shape: str) -> None:
    topology = topologies_module.load(shape)
    for start in topology.hosts:
        for target in topology.hosts:
            for address in target.addresses:
                assert walk(topology, start, address) is not None


def test_a_host_behind_one_router_has_a_default_route_in_each_family() -> None:
    left = topologies_module.load("line:3").node("h1")
    assert [str(route.destination) for route in left.routes] == ["0.0.0.0/0", "::/0"]


def test_a_router_has_a_route_for_every_prefix_and_no_default() -> None:
    first = topologies_module.load("line:3").node("r1")
    assert [str(route.destination) for route in first.routes] == [
        "10.0.2.0/24",
        "10.0.3.0/24",
        "fd00:0:0:2::/64",
        "fd00:0:0:3::/64",
    ]


def test_a_lab_without_a_router_has_no_routes() -> None:
    assert all(not node.routes for node in topologies_module.load("tree:2,3").nodes)


def test_ipv6_paths_avoid_a_router_without_ipv6() -> None:
    topology = resolved(
        "hosts: {a: , b: }", "routers: {r: }", "links:", "  - [a, r]", "  - {ends: [r, b], ipv6: false}"
    )
    assert [route.destination.version for route in topology.node("a").routes] == [4]


def test_the_longest_path_is_checked_without_keeping_routes() -> None:
    """Segments 0 to 4 in a chain: r0 joins 0 and 1, r1 joins 1 and 2, and so on."""
    prefixes = {(segment, Family.IPV4): ip_interface(f"10.0.{segment}.1/24").network for segment in range(5)}
    routers = [
        Station(
            f"r{number}",
            forwards=True,
            ports=tuple(
                Port(f"eth{side}", number + side, (ip_interface(f"10.0.{number + side}.{2 - side}/24"),))
                for side in (0, 1)
            ),
        )
        for number in range(4)
    ]
    kept = find_routes(routers, prefixes, at_most=10)
    assert kept.most_routers == 3
    assert [str(route.gateway) for route in kept.of_stations[0]] == ["10.0.1.2"] * 3
    assert find_routes(routers, prefixes, at_most=3, keep=False).most_routers == 3
    assert find_routes(routers, prefixes, at_most=10, keep=False).of_stations == ((),) * 4


# -- blocks of prefixes


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Station], dict[tuple[int, Family], Prefix]]:
    """Routers that are linked at random, hosts with at most two links, now and then an outlet; prefixes with gaps."""
    routers = draw(st.integers(1, 9))
    pairs = [(index, draw(st.integers(0, index - 1))) for index in range(1, routers) if draw(st.integers(0, 9))]
    pairs += draw(st.lists(st.tuples(st.integers(0, routers - 1), st.integers(0, routers - 1)), max_size=6))
    segments = [set(pair) for pair in pairs]
    segments += [{draw(st.integers(0, routers - 1))} for _ in range(draw(st.integers(0, 12)))]
    for host in range(routers, routers + draw(st.integers(0, 3))):
        for segment in draw(
            st.lists(st.integers(0, len(segments) - 1), max_size=2, unique=True) if segments else st.just([])
        ):
            segments[segment].add(host)
    segments = [members for members in draw(st.permutations(segments)) if members]
    prefixes: dict[tuple[int, Family], Prefix] = {}
    number = draw(st.integers(0, 3))
    for segment in range(len(segments)):
        prefixes[segment, Family.IPV4] = IPv4Network((0x0A000000 + (number << 8), 24))
        if draw(st.integers(0, 5)):
            prefixes[segment, Family.IPV6] = IPv6Network(((0xFD << 120) + (number << 64), 64))
        number += draw(st.sampled_from([1, 1, 1, 1, 2, 5]))
    outlet = draw(st.sampled_from([-1, -1, 0]))
    count = max((member for members in segments for member in members), default=0) + 1
    stations = []
    for index in range(max(routers, count)):
        ports = [
            Port(
                f"eth{segment}",
                segment,
                tuple(
                    ip_interface((int(prefix.network_address) + index + 1, prefix.prefixlen))
                    for family in Family
                    if (prefix := prefixes.get((segment, family))) is not None
                ),
            )
            for segment, members in enumerate(segments)
            if index in members
        ]
        stations.append(Station(f"n{index}", index < routers, tuple(ports), nat=index == outlet))
    return stations, prefixes


def found(station: Station, routes: Collection[Route], address: Address, down: Collection[str]) -> object:
    """What the kernel's longest match finds for the address, with these interfaces down; None if it finds nothing."""
    matching: list[tuple[int, object]] = [
        (route.destination.prefixlen, (route.gateway, route.ifname))
        for route in routes
        if route.ifname not in down and address in route.destination
    ]
    matching += [
        (own.network.prefixlen, port.ifname)
        for port in station.ports
        if port.ifname not in down
        for own in port.addresses
        if address in own.network
    ]
    return max(matching, key=lambda one: one[0], default=(0, None))[1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_blocks_lead_every_packet_where_a_route_for_each_prefix_does_whatever_interface_is_down(
    network: tuple[list[Station], dict[tuple[int, Family], Prefix]],
) -> None:
    stations, prefixes = network
    with patch.object(routing, "PLAIN_ROUTES", 1_000_000):
        plain = find_routes(stations, prefixes, at_most=255).of_stations
    with patch.object(routing, "PLAIN_ROUTES", 0):
        blocks = find_routes(stations, prefixes, at_most=255).of_stations
    addresses: list[Address] = []
    for prefix in prefixes.values():  # one in the prefix, and those next to it, which may be unassigned
        addresses += [prefix[3], prefix.network_address - 1, prefix.broadcast_address + 1]
    addresses.append(IPv4Address("192.0.2.1"))
    for station, before, after in zip(stations, plain, blocks, strict=True):
        assert len(after) <= len(before)
        assert len({route.destination for route in after}) == len(after)
        for down in ((), *((port.ifname,) for port in station.ports)):
            for address in addresses:
                expected = found(station, before, address, down)
                assert found(station, after, address, down) == expected, (station.name, address, down)


def comb(routers: int) -> Topology:
    """A chain of routers r-1, r-2, ..., with a host at each of them."""
    return resolved(
        f"hosts: {{h: {{count: {routers}}}}}",
        f"routers: {{r: {{count: {routers}}}}}",
        "links:",
        *(f"  - [r-{one}, r-{one + 1}]" for one in range(1, routers)),
        *(f"  - [h-{one}, r-{one}]" for one in range(1, routers + 1)),
    )


def test_a_node_with_many_routes_has_one_for_each_block_of_adjacent_prefixes() -> None:
    first, *_, last = (node for node in comb(40).nodes if node.kind is NodeKind.ROUTER)
    assert [str(route.destination) for route in first.routes if route.destination.version == 4] == [
        "10.0.0.0/19",
        "10.0.32.0/22",
        "10.0.36.0/23",
        "10.0.38.0/24",
        "10.0.40.0/21",
        "10.0.48.0/20",
        "10.0.64.0/21",
        "10.0.72.0/22",
        "10.0.76.0/23",
        "10.0.78.0/24",
    ]
    assert len(first.routes) + len(last.routes) < 80


def test_a_node_with_few_routes_has_one_for_each_prefix() -> None:
    first = comb(PLAIN_ROUTES // 2).node("r-1")
    assert {route.destination.prefixlen for route in first.routes} == {24, 64}


def test_the_routes_of_a_large_random_graph_are_few() -> None:
    links = [(one, (one + 1) % 100) for one in range(100)]
    links += [(one, (one * 37 + 11) % 100) for one in range(0, 100, 5)]
    topology = resolved(
        "routers: {" + ", ".join(f"r{one}: " for one in range(100)) + "}",
        "links:",
        *(f"  - [r{one}, r{other}]" for one, other in links if one != other),
    )
    assert sum(len(node.routes) for node in topology.nodes) < 100 * len(links) * 2 / 3


def searched(lines: tuple[str, ...]) -> tuple[int, dict[str, list[str]]]:
    """The number of stations that paths are searched for, and the routes of all nodes."""
    numbers: list[int] = []

    class Counted(routing._Graph):
        def __init__(self, stations: list[Station], family: Family) -> None:
            super().__init__(stations, family)
            numbers.append(len(self.searched))

    with patch.object(routing, "_Graph", Counted):
        made = resolved(*lines)
    return max(numbers), {node.name: [f"{one.destination} {one.gateway}" for one in node.routes] for node in made.nodes}


def test_no_path_is_searched_for_hosts_behind_one_router() -> None:
    number, routes = searched(
        ("hosts: {h: {count: 50}, lonely: , other: }", "routers: {r: }", "links: [[h, r], [lonely, other]]")
    )
    assert number == 1
    assert routes["h-50"] == ["0.0.0.0/0 10.0.50.1", "::/0 fd00:0:0:32::1"]
    assert routes["lonely"] == []


def test_hosts_of_one_segment_with_several_routers_share_the_search() -> None:
    number, routes = searched(
        (
            "hosts: {h: {count: 3}, unlinked: {count: 50}, a: , b: }",
            "routers: {r: , s: }",
            "networks: {lan: {members: [{node: h-2, interface: lan0}, h-1, h-3, r, s]}}",
            "links: [[r, a], [s, b]]",
        )
    )
    assert number == 3
    assert len(routes["h-1"]) == 4
    assert routes["h-1"] == routes["h-2"] == routes["h-3"]


def test_what_lies_behind_the_way_to_the_outside_needs_no_route_of_its_own() -> None:
    topology = resolved(
        "hosts: {h: {count: 40}}",
        "routers: {out: {nat: true}, r: {count: 40}}",
        "links:",
        "  - [out, r-1]",
        *(f"  - [r-{one}, r-{one + 1}]" for one in range(1, 40)),
        *(f"  - [h-{one}, r-{one}]" for one in range(1, 41)),
    )
    assert [str(route.destination) for route in topology.node("r-40").routes] == ["0.0.0.0/0", "::/0"]
