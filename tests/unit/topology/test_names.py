"""Names of nodes and interfaces."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from labctl.names import idna_form, interface_name_problem, name_key, node_name_problem
from labctl.topology.addressing import port_name
from labctl.topology.model import Topology
from tests.unit.topology.drafts import from_lines, resolved, topologies

MODEST = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KERNEL_FORBIDS = re.compile(rb"[/:%\s\xa0]")  # dev_valid_name in net/core/dev.c; its isspace() knows Latin-1

NAMES = st.text(st.characters(categories=("L", "N"), include_characters="-_."), min_size=1, max_size=40)


def valid_for_the_kernel(name: str) -> bool:
    raw = name.encode()
    return 0 < len(raw) <= 15 and not KERNEL_FORBIDS.search(raw) and name not in (".", "..")


@MODEST
@given(topologies())
def test_interface_names_are_valid_and_unique_on_their_node(topology: Topology) -> None:
    for node in topology.nodes:
        names = [interface.name for interface in node.interfaces]
        assert len(set(names)) == len(names)
        assert all(valid_for_the_kernel(name) for name in names)


@MODEST
@given(st.lists(NAMES, min_size=1, max_size=12))
def test_ports_named_after_any_neighbours_are_valid_and_unique(peers: list[str]) -> None:
    taken = {"br0"}
    for peer in [*peers, *peers]:
        name = port_name(peer, taken)
        assert valid_for_the_kernel(name)
        assert name not in taken
        taken.add(name)


@MODEST
@given(st.lists(NAMES, min_size=1, max_size=6, unique_by=name_key))
def test_any_allowed_names_make_a_topology_with_good_ports(names: list[str]) -> None:
    assume(all(not node_name_problem(name) and name_key(name) != "lan" for name in names))
    hosts = ", ".join(f'"{name}": ' for name in names)
    members = ", ".join(f'"{name}"' for name in names)
    topology = resolved(f"hosts: {{{hosts}}}", f"networks: {{lan: {{members: [{members}]}}}}")
    ports = [interface.name for interface in topology.node("lan").interfaces]
    assert len(set(ports)) == len(names)
    assert all(valid_for_the_kernel(port) for port in ports)


@MODEST
@given(st.text(max_size=80))
def test_any_text_as_a_name_is_taken_or_refused_but_never_breaks(name: str) -> None:
    problem = node_name_problem(name)
    if not problem:
        assert 0 < len(name.encode()) <= 63
        assert "/" not in name
        assert name[0] not in "-."
    if not interface_name_problem(name):
        assert valid_for_the_kernel(name)


@pytest.mark.parametrize(
    "name", ["server", "client-1", "web.example", "R_2", "büro", "сервер", "主机", "हिन्दी", "x" * 63]
)
def test_good_node_names(name: str) -> None:
    assert node_name_problem(name) == ""


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("", "is empty"),
        ("a/b", "contains `/`"),
        ("a b", "contains a space"),
        ("a\nb", "U+000A"),
        ("-a", "starts with `-`"),
        (".hidden", "starts with `.`"),
        ("a.", "ends with `.`"),
        ("a..b", "contains `..`"),
        ("x" * 64, "64 bytes"),
        ("主" * 22, "66 bytes"),
        ("1", "IPv4 address"),
        ("127.1", "IPv4 address"),
        ("0x7f.1", "IPv4 address"),
        ("LocalHost", "every host"),
    ],
)
def test_bad_node_names(name: str, part: str) -> None:
    assert part in node_name_problem(name)


@pytest.mark.parametrize(
    "name", ["lo", "all", "default", "eth/0", "a:b", "à", "sixteen-bytes-xx", "", ".", "..", "a b", "%d"]
)
def test_bad_interface_names(name: str) -> None:
    assert interface_name_problem(name)


def test_names_that_differ_only_in_case_are_the_same() -> None:
    assert name_key("SERVER") == name_key("server")
    assert name_key("Ärger") == name_key("ä".upper() + "RGER")
    assert len(from_lines("hosts: {Straße: , STRASSE: }")[1]) == 1


def test_a_name_outside_ascii_has_an_idna_form() -> None:
    assert idna_form("büro") == "xn--bro-hoa"
    assert idna_form("server") == ""


def test_a_second_link_to_the_same_switch_has_a_port_of_its_own() -> None:
    topology = resolved("hosts: {a: }", "switches: {s: }", "links: [[a, s], [a, s]]")
    assert [interface.name for interface in topology.node("s").interfaces] == ["a", "a.2"]
    assert [interface.name for interface in topology.node("a").interfaces] == ["eth0", "eth1"]


def test_given_interface_names_are_kept_and_counted_around() -> None:
    topology = resolved(
        "hosts: {a: , b: }", "links: [[{node: a, interface: eth1}, b], [a, b], [a, {node: b, interface: wan}]]"
    )
    assert [interface.name for interface in topology.node("a").interfaces] == ["eth1", "eth0", "eth2"]
    assert [interface.name for interface in topology.node("b").interfaces] == ["eth0", "eth1", "wan"]
