"""NAT presets behave as RFC 4787 names them: seen by UDP sockets on two hosts outside."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.plan.translation import FIRST_PORT
from labctl.topology import load
from tests.integration.nat_probe import ANSWER_S, PORTS, SILENCE_S, Outside

SERVERS = {"s1": "203.0.113.11", "s2": "203.0.113.12"}
INDEPENDENT, OF_ADDRESS, OF_PORT = "endpoint-independent", "address-dependent", "address and port-dependent"
NETWORKS = """
addresses: ipv4
hosts: {a: {}, b: {}, s1: {}, s2: {}}
routers:
  gw: {nat: {preset: %s, outside: wan%s}, forward: ["8080:a:80", "6000-6002:b:7000/udp"]}
networks:
  lan: {ipv4: 192.168.1.0/24, members: [gw, {node: a, ipv4: 192.168.1.11}, {node: b, ipv4: 192.168.1.12}]}
  wan:
    ipv4: 203.0.113.0/24
    members: [{node: gw, ipv4: 203.0.113.1}, {node: s1, ipv4: 203.0.113.11}, {node: s2, ipv4: 203.0.113.12}]
"""
OUTSIDE = "203.0.113.1"


def lab_with(preset: str, directory: Path, more: str = "") -> Lab:
    (directory / "net.yaml").write_text(NETWORKS % (preset, more))
    return Lab.open(build(load(directory / "net.yaml")))


@pytest.mark.stock_kernel
@pytest.mark.parametrize(
    ("preset", "behaviour"),
    [
        ("full-cone", (INDEPENDENT, INDEPENDENT)),
        ("address-restricted", (INDEPENDENT, OF_ADDRESS)),
        ("port-restricted", (INDEPENDENT, OF_PORT)),
        ("symmetric", (OF_PORT, OF_PORT)),
        ("cgnat", (INDEPENDENT, INDEPENDENT)),
        ("hairpin", (INDEPENDENT, OF_PORT)),
        ("masquerade", (INDEPENDENT, OF_PORT)),
    ],
)
def test_a_preset_maps_and_filters_as_its_name_says(preset: str, behaviour: tuple[str, str], tmp_path: Path) -> None:
    with lab_with(preset, tmp_path) as lab, Outside(lab, SERVERS) as outside:
        assert outside.behaviour("a") == behaviour


@pytest.mark.parametrize("preset", ["full-cone", "address-restricted", "port-restricted", "cgnat"])
def test_two_hosts_with_one_port_have_mappings_of_their_own(preset: str, tmp_path: Path) -> None:
    with lab_with(preset, tmp_path) as lab, Outside(lab, SERVERS) as outside:
        a, b = outside.inside("a", 40000), outside.inside("b", 40000)
        of_a = {outside.outer(a, host, port) for host in SERVERS for port in PORTS}
        of_b = {outside.outer(b, host, port) for host in SERVERS for port in PORTS}
        assert len(of_a) == len(of_b) == 1
        assert of_a != of_b


def test_cgnat_gives_each_host_a_block_of_ports(tmp_path: Path) -> None:
    with lab_with("cgnat", tmp_path, ", ports: 256") as lab, Outside(lab, SERVERS) as outside:
        blocks = {
            node: {
                outer[1] // 256
                for port in range(40000, 40020)
                if (outer := outside.outer(outside.inside(node, port), "s1"))
            }
            for node in ("a", "b")
        }
        assert blocks == {"a": {FIRST_PORT // 256}, "b": {FIRST_PORT // 256 + 1}}


@pytest.mark.parametrize(("preset", "hairpin"), [("hairpin", True), ("cgnat", True), ("full-cone", False)])
def test_hosts_behind_a_hairpin_reach_each_other_outside(preset: str, hairpin: bool, tmp_path: Path) -> None:
    with lab_with(preset, tmp_path) as lab, Outside(lab, SERVERS) as outside:
        a, b = outside.inside("a", 40000), outside.inside("b", 41000)
        of_a, of_b = outside.outer(a, "s1"), outside.outer(b, "s1")
        assert of_a is not None
        assert of_b is not None
        assert b.delivers(b"across", of_a, a, ANSWER_S if hairpin else SILENCE_S) == (of_b if hairpin else None)
        if hairpin:
            assert a.delivers(b"back", of_b, b, ANSWER_S) == of_a


@pytest.mark.parametrize("preset", ["masquerade", "symmetric", "full-cone"])
def test_forwarded_ports_lead_to_hosts_inside(preset: str, tmp_path: Path) -> None:
    with lab_with(preset, tmp_path) as lab, Outside(lab, SERVERS) as outside:
        with (
            lab.socket("a", socket.AF_INET, socket.SOCK_STREAM) as server,
            lab.socket("s1", socket.AF_INET, socket.SOCK_STREAM) as client,
        ):
            server.bind(("", 80))
            server.listen()
            client.settimeout(ANSWER_S)
            client.connect((OUTSIDE, 8080))
            server.settimeout(ANSWER_S)
            connection, peer = server.accept()
            connection.close()
            assert peer[0] == SERVERS["s1"]
        inside = outside.inside("b", 7001)
        assert outside.passes("s2", 3478, (OUTSIDE, 6001), inside)


def test_hosts_inside_reach_forwarded_ports_by_hairpin(tmp_path: Path) -> None:
    with (
        lab_with("masquerade", tmp_path, ", hairpin: true") as lab,
        lab.socket("a", socket.AF_INET, socket.SOCK_STREAM) as server,
        lab.socket("b", socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        server.bind(("", 80))
        server.listen()
        client.settimeout(ANSWER_S)
        client.connect((OUTSIDE, 8080))
        assert client.getpeername() == (OUTSIDE, 8080)
        server.settimeout(ANSWER_S)
        connection, peer = server.accept()
        connection.close()
        assert peer[0] == OUTSIDE


@pytest.mark.parametrize(("preset", "is_open"), [("full-cone", False), ("masquerade", True)])
def test_presets_drop_what_no_mapping_leads_inside_and_masquerade_does_not(
    preset: str, is_open: bool, tmp_path: Path
) -> None:
    with lab_with(preset, tmp_path) as lab, Outside(lab, SERVERS) as outside:
        assert outside.passes("s1", 3478, (OUTSIDE, 5000), outside.inside("gw", 5000)) is is_open
