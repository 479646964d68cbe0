"""Faults: the forms that people write, and their effects on a topology."""

from __future__ import annotations

from typing import Any

import pytest

from labctl import topology
from labctl.plan.fault_effects import (
    AddressRemoved,
    FaultKind,
    FramesDropped,
    InterfaceDown,
    MtuChanged,
    NamesHidden,
    ProgramSignalled,
    RouteRemoved,
)
from labctl.plan.faults import kind_of, read
from labctl.topology.model import Topology
from tests.unit.topology.drafts import resolved


@pytest.fixture(scope="module")
def star() -> Topology:
    return topology.load("star:3")


@pytest.fixture(scope="module")
def line() -> Topology:
    return topology.load("line:1")


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("partition", [["h1", "h2"], ["h3"]], "partition h1 h2 | h3"),
        ("partition", [["h1"], ["h2"], ["h3"]], "partition h1 | h2 | h3"),
        ("partition", ["h1", "h2"], "partition h1 h2 | all others"),
        ("partition", "h1", "partition h1 | all others"),
        ("partition", {"groups": [["h1"], ["h2"]], "one_way": True}, "partition h1 -> h2"),
        ("partition", {"from": "h1", "to": ["h2", "h3"]}, "partition h1 -> h2 h3"),
        ("partition", {"from": "h1"}, "partition h1 -> all others"),
        ("isolate", "h1", "isolate h1"),
        ("isolate", ["h1", "h2"], "isolate h1 h2"),
        ("blackhole", "h1", "blackhole h1"),
        ("blackhole", {"to": "10.9.0.0/16", "on": "h1"}, "blackhole 10.9.0.0/16 on h1"),
        ("blackhole", {"to": "h2", "port": 53}, "blackhole h2 port 53"),
        ("down", ["h1", "s1"], "down h1 - s1"),
        ("flap", ["h1", "s1"], "flap h1 - s1 every 1s"),
        ("flap", {"link": ["h1", "s1"], "period": "200ms", "times": 3}, "flap h1 - s1 every 200ms, 3 times"),
        ("mtu", {"link": ["h1", "s1"], "to": 1280}, "mtu h1 - s1 1280"),
        ("remove-address", {"on": "h1", "address": "10.0.0.1/24"}, "remove_address 10.0.0.1/24 on h1"),
        ("remove_route", {"on": "h1", "to": "default", "via": "10.0.0.9"}, "remove_route default via 10.0.0.9 on h1"),
        ("pause", "h1/web", "pause h1/web"),
        ("kill", ["h1/web", "h2/7"], "kill h1/web h2/7"),
        ("dns", "h1", "dns h1"),
        ("dns", {"name": "h1", "on": ["h2"]}, "dns h1 on h2"),
    ],
)
def test_forms_of_a_fault(star: Topology, kind: str, value: object, text: str) -> None:
    fault = read(kind, value)
    assert str(fault) == text
    plan = fault.plan(star)
    assert plan.effects
    assert (plan.kind, plan.text) == (kind_of(kind), text)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("unplug", "h1", "kinds are partition, isolate"),
        ("partition", 5, r"`\[\[a, b\], \[c\]\]`"),
        ("partition", {"groups": [["h1"]], "oneway": True}, "unknown key `oneway`; allowed: groups, one_way"),
        ("flap", {"link": ["h1", "s1"], "period": "1ms"}, "at least 20ms"),
        ("flap", {"link": ["h1", "s1"], "times": -1}, "`times` must be a whole number"),
        ("down", ["h1"], "the two nodes of a link"),
        ("mtu", {"link": ["h1", "s1"], "to": 5}, "`to` must be a whole number from 68 to 65535"),
        ("mtu", {"link": ["h1", "s1"]}, r"`mtu` takes `\{link"),
        ("remove_address", {"on": "h1", "address": "10.0.0"}, "10.0.0"),
        ("isolate", [], "a node or a list of nodes"),
    ],
)
def test_a_wrong_form_shows_the_right_one(kind: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(kind, value)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("isolate", "h9", "no node or group `h9`"),
        ("partition", [["h1"], ["h1", "h2"]], "`h1` is in two groups"),
        ("partition", [["h1"], ["s1"]], "`s1` is a switch"),
        ("partition", ["h1", "h2", "h3"], "nodes on both sides"),
        ("down", ["h1", "h2"], "no link between h1 and h2"),
        ("blackhole", {"to": "h1", "on": "h1"}, "`on` names another node"),
        ("blackhole", "10.0.0.1/24", "not a prefix"),
        ("blackhole", {"to": "h2", "port": "dns"}, "`dns` is not a port"),
        ("blackhole", {"to": "h2", "port": "icmp/1"}, "is not a port"),
        ("blackhole", {"to": "h2", "port": "/53"}, "is not a port"),
        ("blackhole", {"to": "h2", "port": 65536}, "is not a port"),
        ("pause", "web", "no node has a service `web`; write NODE/NAME"),
    ],
)
def test_a_fault_that_does_not_fit_the_topology(star: Topology, kind: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(kind, value).plan(star)


def effects(kind: str, value: object, of: Topology) -> Any:
    return read(kind, value).plan(of).effects


def test_a_partition_drops_at_each_receiver_what_the_other_side_sends(star: Topology) -> None:
    first, second = effects("partition", [["h1"], ["h2", "h3"]], star)
    macs = [star.node(f"h{n}").interfaces[0].mac for n in (1, 2, 3)]
    assert (first.at, first.macs) == ((("h1", "eth0"),), (macs[1], macs[2]))
    assert (second.at, second.macs) == ((("h2", "eth0"), ("h3", "eth0")), (macs[0],))
    assert set(second.sources) == set(star.node("h1").addresses)
    assert not first.resolves


def test_one_way_drops_only_at_the_other_groups_and_lets_addresses_be_resolved(star: Topology) -> None:
    (only,) = effects("partition", {"from": "h1", "to": "h2"}, star)
    assert (only.at, only.resolves) == ((("h2", "eth0"),), True)


def test_an_isolated_node_drops_all_frames_and_so_does_the_other_end_of_its_link(star: Topology) -> None:
    assert effects("isolate", "h1", star) == (FramesDropped((("h1", "eth0"), ("s1", "h1"))),)


def test_a_blackhole_on_a_node_is_at_both_ends_of_its_links(line: Topology) -> None:
    (drop,) = effects("blackhole", {"to": "10.9.0.0/16", "on": "r1"}, line)
    assert {node for node, _ in drop.at} == {"h1", "r1", "h2"}


def test_a_link_goes_down_as_labctl_link_takes_it_down(star: Topology, line: Topology) -> None:
    assert effects("down", ["h1", "s1"], star) == (InterfaceDown("s1", "h1"),)
    assert effects("flap", {"link": ["h1", "r1"], "times": 2}, line) == (InterfaceDown("r1", "eth0", 1.0, 2),)


def test_other_effects(star: Topology) -> None:
    assert effects("mtu", {"link": ["h1", "s1"], "to": 900}, star) == (
        MtuChanged("h1", "eth0", 900),
        MtuChanged("s1", "h1", 900),
    )
    (address,) = effects("remove_address", {"on": "h1", "address": "10.0.0.1/24"}, star)
    assert isinstance(address, AddressRemoved)
    assert str(address.address) == "10.0.0.1"
    routes = effects("remove_route", {"on": "h1", "to": "default"}, star)
    assert [(type(one), str(one.destination)) for one in routes] == [
        (RouteRemoved, "0.0.0.0/0"),
        (RouteRemoved, "::/0"),
    ]
    assert effects("pause", "h1/web", star) == (ProgramSignalled("h1", "web"),)
    assert effects("kill", "h1/web", star) == (ProgramSignalled("h1", "web", kills=True),)
    assert effects("dns", {"name": "h1", "on": "h2"}, star) == (NamesHidden(("h2",), ("h1",)),)


def test_several_links_need_an_interface() -> None:
    double = resolved("hosts: {a: , b: }", "links: [[a, b], [a, b]]")
    with pytest.raises(ValueError, match=r"there are 2 links between a and b: .*; name an interface"):
        effects("down", ["a", "b"], double)
    assert effects("down", ["a:eth1", "b"], double) == (InterfaceDown("b", "eth1"),)


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_refuses_a_value_of_another_type(kind: FaultKind) -> None:
    with pytest.raises(ValueError, match=r"takes|needs"):
        read(kind, 3.5)
