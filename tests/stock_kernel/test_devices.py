"""Devices of topology files with traffic: needs the kinds that a distribution's kernel has."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from labctl.kernel import wireguard
from labctl.lab.client.handle import Lab
from labctl.lab.keeper.reconcile import network_changed
from labctl.observe.inspect import device_settings, inspect, key_owners
from labctl.observe.machine import without_feature
from labctl.plan.build import build
from labctl.plan.diff import difference
from labctl.plan.operations import AddAddress, Plan, SetDown, SetUp
from tests import skips
from tests.integration.detached import becomes
from tests.integration.inside import NetworkLab, inside
from tests.patience import patient
from tests.unit.topology.drafts import resolved

KINDS = ("vlan", "bond", "vrf", "wireguard", "gre", "ipip", "sit", "ip6tnl", "ipvlan", "dummy")
LACKS = next((text for kind in KINDS if (text := without_feature(kind))), "")
pytestmark = [
    skips.needs_feature("virtual interfaces", not LACKS, LACKS),
    skips.needs_programs("ping", "ip"),
    pytest.mark.stock_kernel,
]
ETH_P_ALL, ETH_P_IP, UDP = 3, 0x0800, 17
NOBODY = "00:00:00:00:00:00"


def reaches(lab: NetworkLab, node: str, address: str, *options: str) -> bool:
    """Whether an address replies; asked again until it does."""
    with lab.nodes.entered(node):
        command = ["ping", "-c1", "-i0.2", "-w", str(round(patient(10))), *options, address]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def is_apart(lab: NetworkLab, node: str, address: str, *options: str) -> bool:
    """Whether an address does not reply in a second."""
    with lab.nodes.entered(node):
        return (
            subprocess.run(["ping", "-c2", "-i0.2", "-W1", *options, address], stdout=subprocess.DEVNULL).returncode
            != 0
        )


def round_trip_ms(lab: NetworkLab, node: str, address: str) -> float:
    with lab.nodes.entered(node):
        command = ["ping", "-c3", "-i0.2", "-w", str(round(patient(10))), address]
        shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return min(float(found) for found in re.findall(r"time=([\d.]+)", shown))


def drift(lab: NetworkLab, plan: Plan) -> list[str]:
    return [str(one) for one in inspect(lab, "x", plan).differs]


def address(plan: Plan, node: str, ifname: str, version: int = 4) -> str:
    """Return the address of an interface."""
    added = [one for one in plan.operations if isinstance(one, AddAddress)]
    found = [one.address.ip for one in added if (one.node, one.ifname) == (node, ifname)]
    return str(next(ip for ip in found if ip.version == version and not ip.is_link_local))


@inside
def test_bonds_carry_vlans_and_survive_a_cut_link() -> None:
    bonds = {"a": "active-backup", "l": "802.3ad", "x": "balance-xor, hash: layer3+4"}
    hosts = [
        f"  {name}{end}: {{interfaces: {{b: {{bond: {bond}, members: [eth0, eth1]}}, b.10: {{vlan: 10}}}}}}"
        for name, bond in bonds.items()
        for end in (1, 2)
    ]
    links = [f"  - [{name}1, {name}2]" for name in bonds for _ in (1, 2)]
    plan = build(resolved("hosts:", *hosts, "links:", *links))
    with NetworkLab(*plan.operations) as lab:
        for name in bonds:
            for ifname in ("b", "b.10"):
                assert reaches(lab, f"{name}1", address(plan, f"{name}2", ifname)), (name, ifname)
                assert reaches(lab, f"{name}1", address(plan, f"{name}2", ifname, 6)), (name, ifname)
        assert drift(lab, plan) == []

        def partners() -> list[str]:
            with open(lab.open_file("l1", "/proc/net/bonding/b"), encoding="ascii") as file:
                return re.findall(r"Partner Mac Address: (\S+)", file.read())

        assert becomes(lambda: NOBODY not in partners() != [], patient(30))
        for cut, other in (("eth0", "eth1"), ("eth1", "eth0")):
            lab.apply(*(SetDown(f"{name}1", cut) for name in bonds))
            for name in bonds:
                assert reaches(lab, f"{name}1", address(plan, f"{name}2", "b")), (name, "through", other)
            lab.apply(*(SetUp(f"{name}1", cut) for name in bonds))


@inside
def test_vlans_double_tags_ipvlan_and_dummies_carry_packets_and_delays() -> None:
    plan = build(
        resolved(
            "routers:",
            "  a:",
            "    routes: [{to: 192.0.2.2/32, via: b}]",
            "    interfaces:",
            "      eth0.10: {vlan: 10, delay: 200ms}",
            "      eth0.20: {vlan: 20}",
            "      outer: {vlan: 100, protocol: 802.1ad, on: eth0, ipv4: false, ipv6: false}",
            "      outer.7: {vlan: 7}",
            "      iv0: {ipvlan: l2, on: eth0}",
            "  b:",
            "    interfaces:",
            "      eth0.10: {vlan: 10}",
            "      eth0.20: {vlan: 20}",
            "      outer: {vlan: 100, protocol: 802.1ad, on: eth0, ipv4: false, ipv6: false}",
            "      outer.7: {vlan: 7}",
            "      d0: {dummy: true, ipv4: 192.0.2.2/32}",
            "networks: {lan: {members: [a, b]}}",
        )
    )
    with NetworkLab(*plan.operations) as lab:
        assert drift(lab, plan) == []
        for ifname in ("eth0", "eth0.10", "eth0.20", "outer.7"):
            for version in (4, 6):
                assert reaches(lab, "a", address(plan, "b", ifname, version)), (ifname, version)
        assert reaches(lab, "b", address(plan, "a", "iv0"))
        assert reaches(lab, "a", "192.0.2.2")
        assert round_trip_ms(lab, "a", address(plan, "b", "eth0.10")) >= 200
        assert round_trip_ms(lab, "a", address(plan, "b", "eth0.20")) < 200
        with lab.nodes.entered("a"):
            subprocess.run(["ip", "link", "delete", "eth0.20"], check=True)
            subprocess.run(
                ["ip", "link", "add", "link", "eth0", "name", "eth0.20", "type", "vlan", "id", "21"], check=True
            )
        assert "a:eth0.20: id is 21, not 20" in drift(lab, plan)


VRFS = (
    "routing: none",
    "hosts:",
    *(f"  {name}: {{routes: [{{to: default, via: 10.0.{number}.1}}]"
      f"{', loopback: {address: 192.0.2.1, anycast: true}' if number else ''}}}"
      for name, number in (("red1", 0), ("red2", 1), ("blue1", 0), ("blue2", 1))),
    "routers:",
    "  pe:",
    "    interfaces: {r: {vrf: 100, members: [eth0, eth1]}, b: {vrf: 200, members: [eth2, eth3]}}",
    "    routes: [{to: 192.0.2.1, via: red2, vrf: r}, {to: 192.0.2.1, via: 10.0.1.3, vrf: b}]",
    "    rules: [{to: 192.0.2.1, vrf: b}]",
    "links:",
    *(f"  - {{ends: [{{node: pe, ipv4: 10.0.{net}.1/24, ipv6: 'fd0{net}::1/64'}},"
      f" {{node: {name}, ipv4: 10.0.{net}.{host}/24, ipv6: 'fd0{net}::{host}/64'}}]}}"
      for name, net, host in (("red1", 0, 2), ("red2", 1, 2), ("blue1", 0, 3), ("blue2", 1, 3))),
)  # fmt: skip


@inside
def test_vrfs_with_the_same_prefixes_are_apart_in_both_directions() -> None:
    plan = build(resolved(*VRFS))
    with NetworkLab(*plan.operations) as lab:
        assert drift(lab, plan) == []
        for name, own, other in (("red", 2, 3), ("blue", 3, 2)):
            assert reaches(lab, f"{name}1", "192.0.2.1")  # a route that the file writes, in each VRF another
            for here, there in ((0, 1), (1, 0)):
                assert reaches(lab, f"{name}{here + 1}", f"10.0.{there}.{own}")
                assert is_apart(lab, f"{name}{here + 1}", f"10.0.{there}.{other}")
            assert reaches(lab, "pe", f"10.0.0.{own}", "-I", name[0])
            assert is_apart(lab, "pe", f"10.0.0.{other}", "-I", name[0])
            assert reaches(lab, "pe", f"fd00::{own}", "-I", name[0])
            assert is_apart(lab, "pe", f"fd00::{other}", "-I", name[0])
        with lab.nodes.entered("pe"):  # a rule looks up the table of a VRF
            shown = subprocess.run(["ip", "route", "get", "192.0.2.1"], stdout=subprocess.PIPE, text=True, check=True)
        assert "via 10.0.1.3 dev eth3 table 200" in shown.stdout


TUNNELS = {
    "gre": (4, 6), "gretap": (4, 6), "ip6gre": (4, 6), "ip6gretap": (4, 6), "ipip": (4,), "sit": (6,), "ip6tnl": (4, 6),
    "vxlan": (4, 6), "wireguard": (4, 6),
}  # fmt: skip


def udp_ports(frame: bytes) -> tuple[int, int] | None:
    """Return the ports of an IPv4 frame with UDP."""
    if frame[12:14] != ETH_P_IP.to_bytes(2, "big") or frame[23] != UDP:
        return None
    source, target = struct.unpack_from("!HH", frame, 14 + 4 * (frame[14] & 15))
    return int(source), int(target)


def waiting(sock: socket.socket) -> Iterator[bytes]:
    sock.setblocking(False)
    while True:
        try:
            yield sock.recv(65536)
        except BlockingIOError:
            return


@inside
def test_tunnels_of_every_kind_carry_their_families_and_wireguard_hides_them() -> None:
    plan = build(
        resolved(
            "routers: {r1: , isp: , r2: }",
            "links: [[r1, isp], [isp, r2]]",
            "tunnels:",
            *(
                f"  - {{ends: [{{node: r1, interface: {kind}, delay: {'200ms' if kind == 'gre' else '0ms'}}}, "
                f"{{node: r2, interface: {kind}}}], kind: {kind}{', key: 42' if kind == 'gre' else ''}}}"
                for kind in TUNNELS
            ),
        )
    )
    with NetworkLab(*plan.operations) as lab:
        for kind, versions in TUNNELS.items():
            for version in versions:
                assert reaches(lab, "r1", address(plan, "r2", kind, version)), (kind, version)
        largest = address(plan, "r2", "gre")
        assert reaches(lab, "r1", largest, "-s", str(1500 - 20 - 8 - 28), "-M", "do")
        assert round_trip_ms(lab, "r1", largest) >= 200
        assert drift(lab, plan) == []
        with lab.socket("isp", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
            inside_address = address(plan, "r2", "wireguard")
            assert reaches(lab, "r1", inside_address, "-p", "5ec4e7", "-s", "99")
            frames = [*waiting(sock)]
        assert (51820, 51820) in {udp_ports(frame) for frame in frames}
        assert not [
            frame for frame in frames if ip_address(inside_address).packed in frame or b"\x5e\xc4\xe7" * 3 in frame
        ]


ROAMING = (
    "addresses: ipv4",
    "hosts:",
    "  laptop: {interfaces: {wg0: {wireguard: {peers: [{node: hub, keepalive: 5s}]}, ipv4: 10.9.0.2/24}}}",
    "  hub: {interfaces: {wg0: {wireguard: {peers: [{node: laptop, endpoint: false}]}, ipv4: 10.9.0.1/24}}}",
    "links: [{ends: [laptop, hub], ipv4: 10.0.0.0/24}]",
)


@inside
def test_a_roaming_peer_is_followed_and_changed_keys_are_drift() -> None:
    plan = build(resolved(*ROAMING))
    with NetworkLab(*plan.operations) as lab:
        assert reaches(lab, "laptop", "10.9.0.1")
        with lab.nodes.entered("laptop"):
            for command in ("address add 10.0.0.77/24 dev eth0", "address del 10.0.0.1/24 dev eth0"):
                subprocess.run(["ip", *command.split()], check=True)
            subprocess.run(["ip", "address", "replace", "10.0.0.77/24", "dev", "eth0"], check=True)
        assert reaches(lab, "laptop", "10.9.0.1")
        assert reaches(lab, "hub", "10.9.0.2")
        seen = inspect(lab, "x", plan)
        assert not [one for one in seen.differs if one.interface == "wg0"]
        own, peer = (" ".join(row) for row in device_settings(seen.found["hub"], key_owners(seen.found)))
        assert "port 51820, public key " in own
        assert peer.strip() == "peer laptop:wg0 at 10.0.0.77:51820: 0.0.0.0/0 ::/0"
        with lab.nodes.entered("hub"):
            wireguard.set_device("wg0", bytes(range(32)), 51821, [])
        assert [text for text in drift(lab, plan) if "wg0" in text and "added" not in text] == [
            "laptop:wg0: peer hub:wg0 is missing",
            "hub:wg0: port is 51821, not 51820",
            "hub:wg0: peer laptop:wg0 is missing",
        ]


@inside
def test_devices_change_in_a_running_lab_and_a_change_that_fails_leaves_none() -> None:
    def plan(more: str, vlan: int, port: int) -> Plan:
        one = f"b: {{bond: active-backup, members: [eth0]}}, b.1: {{vlan: {vlan}}}"
        tunnel = f"{{ends: [p, q], kind: wireguard, port: {port}, ipv6: false}}"
        hosts = f"hosts: {{p: {{interfaces: {{{one}{more}}}}}, q: {{interfaces: {{{one}}}}}}}"
        return build(resolved(hosts, "links: [[p, q]]", f"tunnels: [{tunnel}]"))

    before, after = plan("", 10, 1000), plan(", d0: {dummy: true, ipv4: 192.0.2.1/32}", 20, 2000)
    fails = plan(", b.2: {vlan: 20, on: b}, b.3: {vlan: 20, on: b}", 30, 3000)
    with Lab.open(before) as lab:
        for old, new in ((before, after), (after, before)):
            changed = difference(old, new)
            assert changed.changes
            lab.reconcile(new)
            assert [str(one) for one in inspect(lab, "x", new).differs] == []
    with NetworkLab(*before.operations) as network:
        with pytest.raises(Exception, match="EEXIST"), network_changed(difference(before, fails), network.nodes):
            pass
        assert drift(network, before) == []
        for ifname in ("b", "b.1", "wg0"):
            assert reaches(network, "p", address(before, "q", ifname))
