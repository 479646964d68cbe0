"""From a draft to a topology: order, groups, includes, and limits of the kernel."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from labctl import topology
from labctl import topology as topologies_module
from labctl.documents import parse
from labctl.errors import InputError
from labctl.plan.build import build
from labctl.topology.draft import Draft, DraftEnd, DraftLink, DraftNode, Mistakes, Place
from labctl.topology.model import Node, NodeKind
from labctl.topology.resolve import PORTS_LIMIT, check_ports
from labctl.topology.switching import PORTS_WITH_STP
from tests.unit.topology.drafts import from_lines, resolved


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


def test_a_switch_with_a_spanning_tree_has_one_bridge(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    members = f"hosts: {{h: {{count: {PORTS_WITH_STP + 1}}}}}\nnetworks: {{lan: {{members: [h]%s}}}}\n"
    file.write_text(members % ", stp: true")
    assert "the switch lan has 1001 ports; with `stp`, at most 1000 are possible" in complaint(file)
    file.write_text(members % "")
    assert len(topology.load(file).links) == PORTS_WITH_STP + 1


def test_a_switch_has_as_many_ports_as_its_bridges() -> None:
    link = DraftLink(DraftEnd("h"), DraftEnd("s"), 1500)
    place = Place(parse("switches: {s: }\n", "wide.yaml"), ("switches", "s"))
    switch = DraftNode(Node("s", NodeKind.SWITCH), place=place)
    mistakes = Mistakes()
    check_ports(Draft("wide", "", (switch,), (link,) * PORTS_LIMIT), mistakes)
    assert mistakes.diagnostics == []
    check_ports(Draft("wide", "", (switch,), (link,) * (PORTS_LIMIT + 1)), mistakes)
    assert [one.message for one in mistakes.diagnostics] == ["the switch s has 25001 ports; at most 25000 are possible"]


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
