"""Changes by hand in a lab's kernel are found, and nothing else is."""

from __future__ import annotations

import json
import subprocess
from ipaddress import ip_network
from pathlib import Path

import jsonschema
import pytest

import labctl
from labctl import topology
from labctl.kernel.routes import KernelLink, KernelRoute, NextHop
from labctl.lab.description import ProcessInfo, ProcessState
from labctl.observe.inspect import NodeState, as_data, device_settings, inspect, read_node, routes_of
from labctl.plan.build import build
from labctl.plan.operations import Plan
from labctl.topology.addressing import automatic_mac
from tests.integration.inside import NetworkLab, inside
from tests.unit.topology.drafts import resolved

ROUTED = (
    "hosts: {a: {sysctls: {net.ipv4.tcp_rmem: '4096 8192 16384'}}, b: }",
    "routers: {gw: }",
    "networks: {lan: {ipv4: 10.0.1.0/24, members: [a, gw]}}",
    "links: [[gw, b]]",
)
BY_HAND = {
    "ip link set eth0 down": ["a:eth0: state is down, not up"],
    "ip link set eth0 mtu 1400": ["a:eth0: mtu is 1400, not 1500"],
    "ip link delete eth0": ["lan:a: interface is missing", "a:eth0: interface is missing"],
    "ip link set eth0 address 02:00:00:00:00:07": [
        f"a:eth0: mac is 02:00:00:00:00:07, not {automatic_mac('a', 'eth0')}"
    ],
    "ip address add 192.0.2.1/24 dev eth0": ["a:eth0: address 192.0.2.1/24 was added"],
    "ip address del 10.0.1.1/24 dev eth0; ip address add 10.0.1.9/24 dev eth0; ip route add default via 10.0.1.254": [
        "a:eth0: address 10.0.1.1/24 is missing",
        "a:eth0: address 10.0.1.9/24 was added",
    ],
    "ip route delete default": ["a:eth0: route 0.0.0.0/0 via 10.0.1.254 is missing"],
    "ip route add 203.0.113.0/24 via 10.0.1.254": ["a:eth0: route 203.0.113.0/24 via 10.0.1.254 was added"],
    "ip route add 203.0.113.0/24 via 10.0.1.254 metric 20": [
        "a:eth0: route 203.0.113.0/24 via 10.0.1.254 metric 20 was added"
    ],
    "ip route add 10.9.0.0/16 nexthop via 10.0.1.254 weight 2 nexthop via 10.0.1.7": [
        "a: route 10.9.0.0/16 nexthop via 10.0.1.254 dev eth0 weight 2 nexthop via 10.0.1.7 dev eth0 weight 1 was added"
    ],
    "ip -6 route add 2001:db8::/32 nexthop via fd00::fe dev eth0 nexthop via fd00::77 dev eth0": [
        "a: route 2001:db8::/32 nexthop via fd00::fe dev eth0 weight 1 nexthop via fd00::77 dev eth0 weight 1 was added"
    ],
    "ip ro change default via 10.0.1.254 mtu 1400 src 10.0.1.1; ip ro add 10.8.0.0/16 via 192.0.2.9 dev eth0 onlink": [
        "a:eth0: route 0.0.0.0/0 via 10.0.1.254 is missing",
        "a:eth0: route 0.0.0.0/0 via 10.0.1.254 src 10.0.1.1 mtu 1400 was added",
        "a:eth0: route 10.8.0.0/16 via 192.0.2.9 onlink was added",
    ],
    "ip route add 203.0.113.0/24 via inet6 fe80::1 dev eth0": [
        "a:eth0: route 203.0.113.0/24 via inet6 fe80::1 was added"
    ],
    "ip -4 route replace default via inet6 fd00::fe dev eth0": [
        "a:eth0: route 0.0.0.0/0 via 10.0.1.254 is missing",
        "a:eth0: route 0.0.0.0/0 via inet6 fd00::fe was added",
    ],
    "ip route add blackhole 203.0.113.0/24; ip -6 route add unreachable 2001:db8::/32": [
        "a: route blackhole 203.0.113.0/24 was added",
        "a: route unreachable 2001:db8::/32 was added",
    ],
    "ip route add prohibit 203.0.113.0/24; ip route add throw 198.51.100.0/24 table 100": [
        "a: route prohibit 203.0.113.0/24 was added",
        "a: route throw 198.51.100.0/24 table 100 was added",
    ],
    "ip route add default via 10.0.1.254 table 300; ip rule add from 10.0.1.0/24 fwmark 7 iif lo lookup 300 pref 9": [
        "a:eth0: route 0.0.0.0/0 via 10.0.1.254 table 300 was added",
        "a: rule 9: from 10.0.1.0/24 fwmark 0x7 iif lo lookup 300 was added",
    ],
    "ip route add 203.0.113.0/24 via 10.0.1.254 proto static; ip route add 10.9.0.0/16 via 10.0.1.254 proto bgp": [
        "a:eth0: route 203.0.113.0/24 via 10.0.1.254 was added"  # what routing daemons find is no change by hand
    ],
    "ip rule del priority 32767; ip -6 rule add to 2001:db8::1 prohibit priority 5": [
        "a: rule 32767: from all lookup default is missing",
        "a: rule 5: from all to 2001:db8::1 prohibit (IPv6) was added",
    ],
    "ip link add dummy9 type veth peer name dummy8": [
        "a:dummy8: interface was added",
        "a:dummy9: interface was added",
    ],
    "ip route add local 203.0.113.0/24 dev lo table 100": ["a:lo: route local 203.0.113.0/24 table 100 was added"],
    "sysctl -qw 'net.ipv4.tcp_rmem=4096 8192 20000'": ["a: net.ipv4.tcp_rmem is 4096 8192 20000, not 4096 8192 16384"],
}


def found(lab: NetworkLab, made: Plan) -> list[str]:
    return [str(one) for one in inspect(lab, "x", made).differs]


@inside
@pytest.mark.parametrize("source", ["pair", "star:3", "line:2", "tree:2,2", "mesh:3"])
def test_an_unchanged_lab_has_no_drift(source: str) -> None:
    made = build(topology.load(source))
    with NetworkLab(*made.operations) as lab:
        assert found(lab, made) == []
        assert all(link.up for link in inspect(lab, "x", made).links)


@inside
@pytest.mark.parametrize("command", BY_HAND)
def test_a_change_by_hand_is_reported(command: str) -> None:
    made = build(resolved(*ROUTED))
    with NetworkLab(*made.operations) as lab:
        assert found(lab, made) == []
        with lab.nodes.entered("a"):
            subprocess.run(["sh", "-ec", command], check=True)
        assert sorted(found(lab, made)) == sorted(BY_HAND[command])


@inside
def test_an_address_with_a_lifetime_is_no_change_by_hand() -> None:
    made = build(resolved(*ROUTED))
    with NetworkLab(*made.operations) as lab:
        with lab.nodes.entered("a"):
            command = "ip address add 192.0.2.1/24 dev eth0 valid_lft 1000 preferred_lft 1000"
            subprocess.run(command.split(), check=True)
        assert "192.0.2.1/24" in [str(one.address) for one in read_node(lab, "a").addresses]
        assert found(lab, made) == []


@inside
def test_a_port_removed_from_its_bridge_is_reported() -> None:
    made = build(topology.load("star:2"))
    with NetworkLab(*made.operations) as lab:
        with lab.nodes.entered("s1"):
            subprocess.run(["ip", "link", "set", "h1", "nomaster"], check=True)
        assert found(lab, made) == ["s1:h1: bridge is none, not br0"]


OVERLAY = (
    "hosts:",
    "  a: {interfaces: {mv0: {macvlan: bridge, on: eth0}}}",
    "  b: {interfaces: {br1: {bridge: true, members: [eth1]}}}",
    "links: [[a, b], [a, b]]",
    "tunnels: [{ends: [a, b], kind: vxlan, id: 42, ipv6: false}]",
)


@inside
def test_devices_are_shown_and_their_changes_are_reported() -> None:
    made = build(resolved(*OVERLAY))
    with NetworkLab(*made.operations) as lab:
        seen = inspect(lab, "x", made)
        assert seen.differs == ()
        settings = {row[0]: row[1:] for node in ("a", "b") for row in device_settings(seen.found[node], {})}
        vxlan = ("vxlan", "id 42, local 10.0.0.2, remotes 10.0.0.1")
        assert settings == {
            "mv0": ("macvlan", "mode bridge, on eth0"),
            "vxlan0": vxlan,
            "br1": ("bridge", "members eth1"),
        }
        schema = json.loads((Path(labctl.__file__).parent / "schemas" / "inspect.schema.json").read_text("utf-8"))
        jsonschema.validate(as_data(seen), schema)
        commands = (
            "bridge fdb append 00:00:00:00:00:00 dev vxlan0 dst 10.0.7.7",
            "bridge fdb del 00:00:00:00:00:00 dev vxlan0 dst 10.0.0.2",
            "ip link delete mv0",
            f"ip link add link eth1 name mv0 address {automatic_mac('a', 'mv0')} type macvlan mode bridge",
        )
        with lab.nodes.entered("a"):
            for command in commands:
                subprocess.run(command.split(), check=True)
        assert set(found(lab, made)) >= {
            "a:mv0: on is eth1, not eth0",
            "a:vxlan0: remote 10.0.0.2 is missing",
            "a:vxlan0: remote 10.0.7.7 was added",
        }


@inside
def test_the_data_matches_the_published_schema() -> None:
    made = build(topology.load("line:1"))
    schema = json.loads((Path(labctl.__file__).parent / "schemas" / "inspect.schema.json").read_text("utf-8"))
    with NetworkLab(*made.operations) as lab:
        with lab.nodes.entered("h1"):
            subprocess.run(["ip", "address", "add", "192.0.2.1/24", "dev", "eth0"], check=True)
        program = ProcessInfo("h1", "web", 7, ("python3", "-m", "http.server"), 0.0, ProcessState.RUNNING)
        data = as_data(inspect(lab, "office", made, [program]))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)
    first = data["nodes"][0]
    assert (data["name"], first["name"], first["kind"]) == ("office", "h1", "host")
    eth0 = next(one for one in first["interfaces"] if one["name"] == "eth0")
    assert "10.0.0.1/24" in eth0["addresses"]
    assert first["processes"][0]["command"] == ["python3", "-m", "http.server"]
    assert data["links"][0]["ends"][0] == {"node": "h1", "interface": "eth0"}
    assert data["differs"][0]["text"] == "h1:eth0: address 192.0.2.1/24 was added"


def test_a_route_in_the_table_of_a_vrf_has_its_name() -> None:
    links = (
        KernelLink("red", 5, "02:00:00:00:00:01", 1500, True, True, kind="vrf", options=(("table", 100),)),
        KernelLink("eth0", 6, "02:00:00:00:00:02", 1500, True, True, master=5),
    )
    found = tuple(KernelRoute(ip_network("10.0.2.0/24"), (NextHop(None, "eth0"),), table=n) for n in (100, 200))
    assert list(routes_of(NodeState(links, routes=found))) == [
        ("10.0.2.0/24 vrf red", "-", "eth0"),
        ("10.0.2.0/24 table 200", "-", "eth0"),
    ]
