"""Firewalls pass what their presets and lists say, and nothing else."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from labctl.lab.client.handle import Lab
from labctl.observe.ping import reach
from labctl.plan.build import build
from labctl.plan.firewall import ends, firewall_table
from labctl.topology import load
from tests.labs import arrives
from tests.patience import patient

NETWORKS = """
hosts:
  a: {firewall: %s}
  b: {}
  c: {}
routers:
  gw: {firewall: %s}
  isp: {}
networks:
  lan: {ipv4: 10.0.1.0/24, ipv6: fd00:1::/64, members: [gw, {node: a, ipv4: 10.0.1.11, ipv6: fd00:1::11}, b]}
  wan: {members: [gw, isp]}
  far: {ipv4: 10.0.2.0/24, ipv6: fd00:2::/64, members: [isp, {node: c, ipv4: 10.0.2.12, ipv6: fd00:2::12}]}
"""
A, C = {4: "10.0.1.11", 6: "fd00:1::11"}, {4: "10.0.2.12", 6: "fd00:2::12"}
SILENT, REFUSED = 0, errno.ECONNREFUSED


def lab_with(of_a: str, of_gw: str, directory: Path) -> Lab:
    (directory / "net.yaml").write_text(NETWORKS % (of_a, of_gw))
    return Lab.open(build(load(directory / "net.yaml")))


def connect(lab: Lab, node: str, target: str, port: int, expected: int) -> int:
    """The errno of a connect to a port without a listener: 0 if no answer comes, ECONNREFUSED if all passes."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with lab.socket(node, family, socket.SOCK_STREAM) as sock:
        sock.settimeout(patient(0.5 if expected == SILENT else 20))  # a lost SYN is sent again
        try:
            sock.connect((target, port))
        except TimeoutError:
            return SILENT
        except OSError as error:
            return error.errno or -1
    return -1


def ways(lab: Lab, version: int, expected: tuple[int, ...]) -> tuple[int, ...]:
    """Connects to a from its neighbour and from afar, and from a to afar, to two ports."""
    tried = (("b", A[version], 80), ("c", A[version], 80), ("a", C[version], 80), ("a", C[version], 8080))
    # An output chain that drops gives EPERM on some kernels, and silence for a SYN on others.
    return tuple(
        SILENT if error == errno.EPERM else error
        for error in (connect(lab, *way, errno_expected) for way, errno_expected in zip(tried, expected, strict=True))
    )


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("of_a", "of_gw", "expected"),
    [
        ("open", "open", (REFUSED, REFUSED, REFUSED, REFUSED)),
        ("stateful", "open", (SILENT, SILENT, REFUSED, REFUSED)),
        ("open", "stateful", (REFUSED, SILENT, REFUSED, REFUSED)),
        ("drop-in", "open", (SILENT, SILENT, SILENT, SILENT)),
        ("lockdown", "open", (SILENT, SILENT, SILENT, SILENT)),
        ("corporate", "open", (SILENT, SILENT, REFUSED, SILENT)),
        ("open", "corporate", (REFUSED, SILENT, REFUSED, SILENT)),
        ("{policy: drop, allow: [tcp/80 from c]}", "open", (SILENT, REFUSED, REFUSED, REFUSED)),
        ("{deny: [{from: far, port: 80}]}", "open", (REFUSED, SILENT, REFUSED, REFUSED)),
        ("{deny: [{to: c, port: 8080, direction: out}]}", "open", (REFUSED, REFUSED, REFUSED, SILENT)),
        ("open", "{policy: drop, allow: [tcp/80 from lan]}", (REFUSED, SILENT, REFUSED, SILENT)),
        ("open", "{preset: stateful, allow: [{from: c, to: a, port: 80}]}", (REFUSED, REFUSED, REFUSED, REFUSED)),
    ],
)
def test_a_firewall_passes_what_it_says(
    of_a: str, of_gw: str, expected: tuple[int, ...], version: int, tmp_path: Path
) -> None:
    with lab_with(of_a, of_gw, tmp_path) as lab:
        assert ways(lab, version, expected) == expected


@pytest.mark.stock_kernel
def test_reject_answers_at_once(tmp_path: Path) -> None:
    with lab_with("{policy: reject, allow: [icmp]}", "open", tmp_path) as lab:
        assert connect(lab, "b", A[4], 80, REFUSED) == REFUSED
        assert reach(lab, "b", ip_address(A[4]), deadline_s=patient(5)).reached
        with lab.socket("b", socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((A[4], 5000))
            with pytest.raises(ConnectionRefusedError):
                arrives(lambda: sock.send(b"question"), sock, b"answer")


def test_names_stand_for_addresses_and_prefixes(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(NETWORKS % ("open", "open"))
    topology = load(tmp_path / "net.yaml")
    assert ends(["a", "far", "10.0.2.7"], topology, 4) == ("10.0.1.11", "10.0.2.0/24")
    assert ends(["a", "10.0.0.0/8"], topology, 6) == ("fd00:1::11",)


def test_groups_and_switches_stand_for_what_is_on_them(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(
        "addresses: ipv4\nhosts: {a: , b: , c: }\ngroups: {staff: [a, b]}\nswitches: {s1: , s2: , s3: }\n"
        "routers: {gw: {firewall: {policy: drop, allow: [tcp/80 from staff to c, icmp from s2]}}}\n"
        "links: [[a, s1], [s1, s2], [s2, s3], [gw, s3], [b, gw], [c, gw]]\n"
    )
    topology = load(tmp_path / "net.yaml")
    firewall = topology.node("gw").firewall
    assert firewall is not None
    assert firewall.allow[0].sources == ("a", "b")
    assert {ends([switch], topology, 4) for switch in ("s1", "s2", "s3")} == {("10.0.0.0/24",)}


VLANS = """
addresses: ipv4
vlans: {red: {id: 10, ipv4: 10.0.10.0/24}, blue: {id: 20, ipv4: 10.0.20.0/24}}
hosts: {a: , b: }
routers:
  gw: {nat: {outside: blue}, firewall: {policy: drop, allow: [tcp/80 from red to blue]}}
switches: {s: }
links:
  - {ends: [a, s], vlan: red}
  - {ends: [b, s], vlan: blue}
  - {ends: [gw, s], vlan: red}
  - {ends: [gw, s], vlan: blue}
"""


def test_a_vlan_stands_for_its_prefixes(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(VLANS)
    topology = load(tmp_path / "net.yaml")
    assert ends(["red"], topology, 4) == ("10.0.10.0/24",)
    gw = topology.node("gw")
    assert gw.translation is not None
    assert gw.translation.outside == "eth1"
    table = firewall_table(gw, topology)
    assert table is not None
    rules = [str(rule) for chain in table.chains for rule in chain.rules if "10.0.10.0/24" in str(rule)]
    passed = "meta nfproto ipv4 ip saddr 10.0.10.0/24 ip daddr 10.0.20.0/24 meta l4proto tcp th dport 80 accept"
    assert rules == [passed, passed]  # in, and through
