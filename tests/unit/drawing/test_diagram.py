"""What a drawing shows: networks as symbols, hosts alike as one, the state of a running lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.documents import parse
from labctl.drawing.diagram import Diagram, Edge, Labels, Live, State, Symbol, counted, diagram_of, last_part, shortened
from labctl.drawing.markup import dot, mermaid
from labctl.drawing.outline import outline
from labctl.topology import load, resolve_inline
from labctl.topology.model import Impairment, Topology

HOME = """
hosts: {phone: , laptop: , web: }
routers: {gw: , isp: }
networks: {home: {members: [phone, laptop, gw]}}
links:
  - {ends: [{node: gw, rate: 2mbit}, {node: isp, rate: 20mbit}]}
  - {ends: [isp, web], delay: 5ms}
"""


def topology(text: str) -> Topology:
    made, diagnostics = resolve_inline(parse(text, "test.yaml"), (), Path())
    assert made is not None
    assert not diagnostics
    return made


def edge(diagram: Diagram, a: str, b: str) -> Edge:
    (found,) = [each for each in diagram.edges if {each.a, each.b} == {a, b}]
    return found


def test_a_switch_on_its_own_is_a_network_and_linked_switches_are_switches() -> None:
    star = {each.name: each.symbol for each in diagram_of(load("star:2")).vertices}
    tree = {each.name: each.symbol for each in diagram_of(load("tree:2,2")).vertices}
    assert star["s1"] is Symbol.NETWORK
    assert {tree[name] for name in ("s1", "s2", "s3")} == {Symbol.SWITCH}


def test_a_host_has_its_addresses_and_a_network_its_prefixes() -> None:
    lines = {each.name: each.lines for each in diagram_of(topology(HOME)).vertices}
    assert lines["phone"] == ("10.0.0.1", "fd00::1")
    assert lines["home"] == ("10.0.0.0/24", "fd00::/64")
    assert lines["gw"] == ()


def test_a_link_has_its_impairments_with_their_sender_and_its_prefix() -> None:
    diagram = diagram_of(topology(HOME))
    assert edge(diagram, "gw", "isp").labels == ("2mbit from gw", "20mbit from isp", "10.0.1.0/24")
    assert edge(diagram, "isp", "web").labels == ("5ms", "10.0.2.0/24")
    assert edge(diagram, "isp", "web").state is State.IMPAIRED


def test_labels_decide_how_much_the_texts_show() -> None:
    names = diagram_of(topology(HOME), Labels.NAMES)
    interfaces = diagram_of(topology(HOME), Labels.INTERFACES)
    assert not any(each.lines for each in names.vertices)
    assert edge(names, "isp", "web").labels == ("5ms",)
    assert edge(interfaces, "isp", "web").a_text == "eth1 10.0.2.1"
    assert edge(interfaces, "isp", "web").b_text == "eth0 10.0.2.2"


def test_hosts_that_differ_in_nothing_are_one_symbol() -> None:
    diagram = diagram_of(load("star:300"))
    hosts, network = diagram.vertices
    assert (hosts.symbol, hosts.title, network.name) == (Symbol.HOSTS, "h1 \u2026 h300", "s1")
    assert hosts.lines == ("300 hosts", "10.0.0.1 \u2026 10.0.1.44", "fd00::1 \u2026 ::12c")
    assert len(hosts.members) == 300
    assert len(diagram.edges) == 1


def test_a_host_with_an_impairment_stays_apart() -> None:
    text = "hosts: {h: {count: 20}, slow: }\nnetworks: {lan: {members: [h, {node: slow, rate: 1mbit}]}}"
    assert [each.title for each in diagram_of(topology(text)).vertices] == ["h-1 \u2026 h-20", "slow", "lan"]


def test_every_host_is_drawn_on_request_and_in_a_small_network() -> None:
    assert len(diagram_of(load("star:300"), every_host=True).vertices) == 301
    assert len(diagram_of(load("star:8")).vertices) == 9


def test_a_router_with_nat_is_linked_to_the_machine() -> None:
    diagram = diagram_of(topology("hosts: {h: }\nrouters: {gw: {nat: true}}\nlinks: [[h, gw]]"))
    assert diagram.vertices[-1].symbol is Symbol.MACHINE
    assert (diagram.edges[-1].a, diagram.edges[-1].b) == ("gw", diagram.vertices[-1].name)


def test_a_running_lab_has_its_links_impairments_and_services() -> None:
    live = Live(
        down=frozenset({("web", "eth0")}),
        impairments={("gw", "home"): ("1ms", "delay 1ms")},
        notes={"web": ("http does not run",)},
    )
    diagram = diagram_of(topology(HOME), live=live)
    assert edge(diagram, "isp", "web").labels[0] == "down"
    assert edge(diagram, "isp", "web").state is State.BAD
    assert edge(diagram, "gw", "isp").state is State.GOOD
    (web,) = [each for each in diagram.vertices if each.name == "web"]
    assert (web.state, web.notes) == (State.BAD, ("http does not run",))


def test_nodes_are_counted_in_words() -> None:
    assert counted(diagram_of(topology(HOME)).vertices) == "3 hosts, 2 routers and 1 network"
    assert counted(diagram_of(load("star:300")).vertices) == "300 hosts and 1 network"
    assert counted(()) == "No nodes"


@pytest.mark.parametrize(("address", "part"), [("10.0.0.7", ".7"), ("fd00::7", "::7")])
def test_the_last_part_of_an_address(address: str, part: str) -> None:
    assert last_part(address) == part


@pytest.mark.parametrize(
    ("impairment", "text"),
    [
        (Impairment(delay_us=2882), "2.9ms"),
        (Impairment(delay_us=150, jitter_us=20, loss_ppm=10_000), "150us \u00b120us, 1% loss"),
        (Impairment(delay_us=12_345_000, rate_bit_s=10_000_000), "12s, 10mbit"),
        (Impairment(duplicate_ppm=20_000), "duplicate 2%"),
    ],
)
def test_an_impairment_is_short_on_a_line(impairment: Impairment, text: str) -> None:
    assert shortened(impairment) == text


def test_the_exact_values_stay_for_the_title_of_the_line() -> None:
    diagram = diagram_of(topology("hosts: {a: , b: }\nlinks: [{ends: [a, b], delay: 2882us}]"))
    assert edge(diagram, "a", "b").details == ("delay 2882us",)


def test_ports_of_switches_have_their_vlans() -> None:
    diagram = diagram_of(topology(
        "hosts: {a: , b: }\nswitches: {s: , t: }\n"
        "links: [[a, {node: s, vlan: 10}], [b, {node: t, vlan: 10}], "
        "{ends: [{node: s, trunk: [10, 20]}, {node: t, trunk: [10, 20]}]}]"
    ))  # fmt: skip
    assert "vlan 10" in edge(diagram, "a", "s").labels
    assert edge(diagram, "s", "t").labels == ("trunk 10,20",)
    assert edge(diagram, "s", "t").state is State.GOOD


def test_a_tunnel_is_drawn_once_across_the_links() -> None:
    overlay = """
routers: {a: , b: , c: }
links: [[a, b], [b, c]]
tunnels:
  - {ends: [a, c], kind: wireguard, ipv4: 10.9.0.0/24}
  - {ends: [c, a], kind: gre, key: 7, ipv4: 10.8.0.0/24}
"""
    found = diagram_of(topology(overlay))
    assert [(edge.a, edge.b, edge.labels) for edge in found.tunnels] == [
        ("a", "c", ("wireguard", "10.9.0.0/24")),
        ("a", "c", ("gre with key 7", "10.8.0.0/24")),
    ]
    assert found.notes == ("a - c: wireguard, 10.9.0.0/24", "a - c: gre with key 7, 10.8.0.0/24")
    assert [line.text for line in outline(found)][-1] == "(a) \u2500 gre with key 7 \u2500 10.8.0.0/24 \u2500 (c)"
    assert 'n0 -.-|"wireguard<br>10.9.0.0/24"| n2' in mermaid(found)
    assert '"a" -- "c" [label="wireguard\\n10.9.0.0/24", style=dotted, constraint=false]' in dot(found)
