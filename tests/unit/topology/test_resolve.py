"""From a draft to a topology: order, groups, includes, and limits of the kernel."""

from __future__ import annotations

import time
from collections import deque
from ipaddress import ip_interface
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from labctl import topology
from labctl import topology as topologies_module
from labctl.errors import InputError
from labctl.plan.build import build
from labctl.topology.draft import Family
from labctl.topology.model import Address, Node, NodeKind, Prefix, Topology
from labctl.topology.resolve import PORTS_LIMIT, Port, Station, find_routes
from tests.unit.topology.drafts import from_lines, resolved, topologies


def test_the_kinds_of_nodes_come_in_the_order_hosts_routers_switches() -> None:
    made = resolved("networks: {n: {members: [a, r]}}", "routers: {r: }", "hosts: {a: }")
    assert [node.kind for node in made.nodes] == [NodeKind.HOST, NodeKind.ROUTER, NodeKind.SWITCH]


def test_a_link_to_a_network_joins_it() -> None:
    made = resolved("hosts: {a: , b: }", "networks: {n: {members: [a], mtu: 1400}}", "links: [[b, n]]")
    interface = made.node("b").interfaces[0]
    assert (interface.network, interface.mtu) == ("n", 1400)


def test_a_group_in_a_link_stands_for_all_its_nodes() -> None:
    made = resolved("hosts: {h: {count: 3}}", "routers: {r: }", "links: [[r, h]]")
    assert [str(link) for link in made.links] == ["r:eth0 - h-1:eth0", "r:eth1 - h-2:eth0", "r:eth2 - h-3:eth0"]


def test_an_anchor_may_give_settings_to_several_hosts() -> None:
    made = resolved(
        "hosts:", "  a: &tuned {sysctls: {net.core.somaxconn: 9}}", "  b: *tuned", "  c: {<<: *tuned, count: 1}"
    )
    assert all(node.sysctls == (("net.core.somaxconn", "9"),) for node in made.nodes)


def test_a_file_that_is_included_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("hosts: {a: , b: }\nlinks: [[a, b]]\n")
    (tmp_path / "one.yaml").write_text("include: [base.yaml]\n")
    (tmp_path / "main.yaml").write_text("include: [one.yaml, base.yaml]\n")
    assert len(topology.load(tmp_path / "main.yaml").links) == 1


def test_references_to_nodes_with_mistakes_are_valid() -> None:
    made, mistakes = from_lines("hosts: {a: {cuont: 3}, b: }", "links: [[a, c]]")
    assert made is not None
    assert "a" in made
    assert "b" in made
    assert len(mistakes) == 2


def test_a_small_mtu_is_valid_without_ipv6() -> None:
    made = resolved("hosts: {a: , b: }", "links: [{ends: [a, b], mtu: 576, ipv6: false}]")
    operations = build(made).operations
    assert not any("fe80" in str(operation) for operation in operations)


def complaint(source: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        topology.load(source)
    return str(caught.value)


def test_an_exhausted_pool_is_reported_once(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    links = "\n".join("  - [a, b]" for _ in range(5))
    file.write_text(f"ipv4_pool: 10.0.0.0/23\nhosts: {{a: , b: }}\nlinks:\n{links}\n")
    said = complaint(file)
    assert said.count("the pool 10.0.0.0/23 has no room for a /24") == 1
    assert "pool.yaml:6:5" in said


def test_a_bridge_with_more_ports_than_linux_allows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text(f"hosts: {{h: {{count: {PORTS_LIMIT + 1}}}}}\nnetworks: {{lan: {{members: [h]}}}}\n")
    assert "the switch lan has 1024 ports; a Linux bridge has at most 1023" in complaint(file)


@pytest.mark.parametrize("count", [400, 1500])
def test_a_ring_of_many_routers_is_checked_without_its_routes(count: int, tmp_path: Path) -> None:
    file = tmp_path / "ring.yaml"
    names = [f"r{n}" for n in range(count)]
    links = "".join(f"  - [{a}, {b}]\n" for a, b in zip(names, [*names[1:], names[0]], strict=True))
    file.write_text("routers: {" + ": , ".join(names) + ": }\nlinks:\n" + links)
    before = time.process_time()
    if count == 400:
        assert len(topology.load(file, routes=False).links) == 400
    else:
        assert "routers between some nodes" in complaint(file)
    assert time.process_time() - before < 3


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


def test_a_host_between_two_networks_does_not_forward() -> None:
    topology = resolved("hosts: {a: , b: , c: }", "links:", "  - [a, b]", "  - [b, c]")
    assert ("net.ipv4.ip_forward", "0") in topology.node("b").sysctls
    assert not topology.node("a").routes


def test_routers_forward_both_families_unless_the_file_says_otherwise() -> None:
    topology = resolved(
        "hosts: {a: }", "routers: {r: , q: {sysctls: {net.ipv4.ip_forward: 0}}}", "links: [[a, r], [r, q]]"
    )
    assert {("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")} <= set(topology.node("r").sysctls)
    assert ("net.ipv4.ip_forward", "0") in topology.node("q").sysctls
    assert ("net.ipv4.ip_forward", "1") not in topology.node("q").sysctls


FAR = {
    ("net.ipv4.ip_default_ttl", "255"),
    ("net.ipv6.conf.all.hop_limit", "255"),
    ("net.ipv6.conf.default.hop_limit", "255"),
}


@pytest.mark.parametrize(("routers", "raised"), [(63, set()), (64, FAR), (250, FAR)])
def test_paths_longer_than_the_usual_ttl_raise_it_on_all_hosts_and_routers(
    routers: int, raised: set[tuple[str, str]]
) -> None:
    for node in topologies_module.load(f"line:{routers}").nodes:
        assert FAR & set(node.sysctls) == raised


def chain(routers: int) -> list[str]:
    links = ", ".join(["[h1, r-1]", *(f"[r-{one}, r-{one + 1}]" for one in range(1, routers)), f"[r-{routers}, h2]"])
    return [
        "hosts: {h1: {sysctls: {net.ipv4.ip_default_ttl: 99}}, h2: }",
        f"routers: {{r: {{count: {routers}}}}}",
        f"links: [{links}]",
    ]


def test_a_ttl_that_the_file_gives_stays() -> None:
    topology = resolved(*chain(64))
    assert ("net.ipv4.ip_default_ttl", "99") in topology.node("h1").sysctls
    assert ("net.ipv4.ip_default_ttl", "255") not in topology.node("h1").sysctls
    assert ("net.ipv4.ip_default_ttl", "255") in topology.node("h2").sysctls


def test_a_path_longer_than_the_largest_ttl_is_refused() -> None:
    assert not from_lines(*chain(254))[1]
    (mistake,) = from_lines(*chain(255))[1]
    assert mistake.message == "there are 255 routers between some nodes; a packet passes at most 254"


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
