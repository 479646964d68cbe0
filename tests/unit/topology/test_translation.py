"""`nat` and `forward` in files; which network is outside of a router; realms."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.documents import parse
from labctl.topology.addressing import label_ends
from labctl.topology.draft import Draft, Family, Mistakes, segments
from labctl.topology.filter_schema import NatFile
from labctl.topology.packet_rules import FlowProtocol, NatPreset, PortForward, Translation
from labctl.topology.parse import draft_of
from labctl.topology.translation import outside_segments, parse_ports, realms
from tests.unit.topology.drafts import from_lines, resolved

NO_HAIRPIN = "`symmetric` has no mapping that a host inside could be reached at"
HOME = ("hosts: {a: , web: }", "networks: {lan: {members: [gw, a]}, wan: {members: [gw, isp, web]}}")


def with_gw(*values: str) -> Translation | None:
    return resolved(*HOME, f"routers: {{isp: , gw: {{{', '.join(values)}}}}}").node("gw").translation


def mistakes(*values: str) -> list[str]:
    return [one.message for one in from_lines(*HOME, f"routers: {{isp: , gw: {{{', '.join(values)}}}}}")[1]]


def test_a_preset_has_a_short_and_a_long_form() -> None:
    expected = Translation(NatPreset.FULL_CONE, "eth1")
    assert with_gw("nat: full-cone") == with_gw("nat: {preset: full-cone}") == expected
    assert with_gw("nat: {outside: wan}") == Translation(NatPreset.MASQUERADE, "eth1")
    assert NatFile.KEYS["preset"].default is NatPreset.MASQUERADE


def test_true_is_the_machine_and_translates_nothing_between_networks_of_the_lab() -> None:
    assert with_gw("nat: true") is None
    assert resolved(*HOME, "routers: {isp: , gw: {nat: true}}").node("gw").nat


def test_presets_have_defaults_of_their_own() -> None:
    cgnat, hairpin = with_gw("nat: cgnat"), with_gw("nat: hairpin")
    assert cgnat is not None
    assert (cgnat.hairpin, cgnat.ports_per_host) == (True, 1024)
    assert hairpin is not None
    assert hairpin.hairpin


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"8080:web:80"', PortForward(FlowProtocol.TCP, 8080, 8080, "web", 80)),
        ('"53:WEB/udp"', PortForward(FlowProtocol.UDP, 53, 53, "web", 53)),
        ('"5000-5010:web:6000"', PortForward(FlowProtocol.TCP, 5000, 5010, "web", 6000)),
        ('"5000-5010:web:5000-5010"', PortForward(FlowProtocol.TCP, 5000, 5010, "web", 5000)),
        ("{port: 8080, to: web, to_port: 80}", PortForward(FlowProtocol.TCP, 8080, 8080, "web", 80)),
        ("{port: 8080, to: 'web:80'}", PortForward(FlowProtocol.TCP, 8080, 8080, "web", 80)),
    ],
)
def test_a_forwarded_port_has_a_short_and_a_long_form(written: str, expected: PortForward) -> None:
    found = with_gw(f"forward: [{written}]")
    assert found is not None
    assert (found.preset, found.forwards) == (None, (expected,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ('forward: ["80"]', "`80` is not PORTS:HOST:PORTS"),
        ('forward: ["80:web:80/icmp"]', "cannot forward ports of the protocol `icmp`"),
        ('forward: ["80:wbe"]', "there is no host `wbe`"),
        ('forward: ["80:lan"]', "there is no host `lan`"),
        ('forward: ["80-90:web:1-5"]', "`80-90:web:1-5` has 80-90 and 1-5, which are not as many ports"),
        ('forward: ["1-5000:web:2"]', "`1-5000:web:2` shifts more than 1000 ports"),
        ("nat: nat64", "the kernel's nftables cannot translate between IPv6 and IPv4 (NAT64)"),
        ("nat: {preset: nat64}", "the kernel's nftables cannot translate between IPv6 and IPv4 (NAT64)"),
        ("nat: {outside: nowhere}", "`nowhere` is none of its networks, neighbours or interfaces"),
        ("nat: {preset: full-cone, ports: 10}", "only `preset: cgnat` has port blocks"),
        ("nat: {preset: symmetric, hairpin: true}", NO_HAIRPIN),
        ("nat: cone", f"expected one of {', '.join(NatPreset)}, got the text `cone`"),
    ],
)  # fmt: skip
def test_mistakes(values: str, message: str) -> None:
    assert mistakes(values)[:1] == [message]


def test_an_unknown_host_is_reported_at_its_entry() -> None:
    lines = (
        "hosts: {web: }",
        "routers: {gw: {forward: ['80:web', '81:wbe', {port: 82, to: wbb}],",
        "  firewall: {allow: [tcp/80, {from: [web, wba]}], deny: [udp from wbd]}}}",
        "links: [[gw, web]]",
    )
    places = [one.position for one in from_lines(*lines)[1] if "`w" in one.message and one.position is not None]
    assert [lines[place.line - 1][place.column - 1 :].split("}")[0].split("]")[0] for place in places] == [
        *("'81:wbe', {port: 82, to: wbb", "wbb", "wba", "udp from wbd")
    ]


def test_ports_are_a_number_or_a_range() -> None:
    assert [parse_ports(text) for text in ("80", "80-90", "0", "90-80", "65536", "http")] == [
        (80, 80),
        (80, 90),
        *[None] * 4,
    ]


@pytest.mark.parametrize("outside", ["lan", "a", "eth0"])
def test_outside_is_a_network_a_neighbour_or_an_interface(outside: str) -> None:
    found = with_gw(f"nat: {{outside: {outside}}}")
    assert found is not None
    assert found.outside == "eth0"


def test_outside_is_where_other_routers_are_but_not_those_that_translate_towards_it() -> None:
    topology = resolved(
        "hosts: {a: , b: }",
        "routers: {home: {nat: port-restricted}, carrier: {nat: cgnat}, isp: }",
        "links: [[a, home], [home, carrier], [carrier, isp], [isp, b]]",
    )
    found = [topology.node(name).translation for name in ("home", "carrier")]
    assert [one.outside for one in found if one] == ["eth1", "eth1"]


def test_an_outside_that_cannot_be_derived_is_a_mistake() -> None:
    _, found = from_lines("hosts: {a: , b: }", "routers: {gw: {nat: full-cone}}", "links: [[a, gw], [gw, b]]")
    assert [one.message for one in found] == ["cannot tell which of its networks is outside of gw"]


def draft(*lines: str) -> Draft:
    found, diagnostics = draft_of(parse("\n".join(lines) + "\n", "test.yaml"), (), Path(), "test")
    assert found is not None
    assert diagnostics == []
    return found


def test_networks_behind_translating_routers_are_realms_of_their_own() -> None:
    homes = draft(
        "hosts: {a: , b: , web: }",
        "routers: {h1: {nat: full-cone}, h2: {nat: masquerade}, isp: }",
        "links: [[a, h1], [b, h2], [h1, isp], [h2, isp], [isp, web]]",
    )
    parts, found = segments(homes), Mistakes()
    outsides = outside_segments(homes, parts, label_ends(homes, found), found)
    a, b, *public = realms(homes, parts, outsides, {})[Family.IPV4]
    assert len({a, b, *public}) == 3
    assert len(set(public)) == 1
