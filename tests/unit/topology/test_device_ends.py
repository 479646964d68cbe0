from __future__ import annotations

from pathlib import Path

import pytest

from labctl import topology
from labctl.documents import DocumentError
from labctl.topology.addressing import label_ends
from labctl.topology.device_ends import find_device_ends, with_devices
from labctl.topology.devices import Tunnel, Wireguard
from labctl.topology.draft import Mistakes, from_shape, segments
from labctl.topology.model import Topology


def load(directory: Path, text: str) -> Topology:
    (directory / "t.yaml").write_text(text)
    return topology.load(directory / "t.yaml")


def test_vlan_devices_on_both_ends_of_a_link_share_a_network(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
hosts:
  a: {interfaces: {eth0.10: {vlan: 10}}}
  b: {interfaces: {eth0.10: {vlan: 10}}}
links: [[a, b]]
""",
    )

    networks = [found.node(name).interface("eth0.10").addresses[0].network for name in ("a", "b")]
    assert networks[0] == networks[1]


def test_members_of_a_bond_have_no_addresses_and_the_bond_has(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
hosts:
  a: {interfaces: {bond0: {bond: 802.3ad, members: [eth0, eth1]}}}
  b: {interfaces: {bond0: {bond: 802.3ad, members: [eth0, eth1]}}}
links: [[a, b], [a, b]]
""",
    )

    assert [bool(one.addresses) for one in found.node("a").interfaces] == [False, False, True]
    assert found.node("a").interface("bond0").addresses[0].network in [
        one.network for one in found.node("b").interface("bond0").addresses
    ]


def test_both_ends_of_a_tunnel_have_each_others_addresses(tmp_path: Path) -> None:
    found = load(tmp_path, "routers: {a: , b: }\nlinks: [[a, b]]\ntunnels: [{ends: [a, b], kind: gre}]\n")

    near, far = (found.node(name).interface("tun0") for name in ("a", "b"))
    assert near.device is not None
    assert isinstance(near.device.spec, Tunnel)
    assert far.device is not None
    assert isinstance(far.device.spec, Tunnel)
    assert (near.device.spec.local, near.device.spec.remote) == (far.device.spec.remote, far.device.spec.local)
    assert near.mtu == 1476
    assert near.addresses[0].network == far.addresses[0].network


def test_the_peer_of_a_wireguard_tunnel_is_the_device_of_the_other_node(tmp_path: Path) -> None:
    found = load(tmp_path, "routers: {a: , b: }\nlinks: [[a, b]]\ntunnels: [{ends: [a, b], kind: wireguard}]\n")

    device = found.node("a").interface("wg0").device
    assert device is not None
    assert isinstance(device.spec, Wireguard)
    (peer,) = device.spec.peers
    assert (peer.node, peer.ifname, peer.public_key) == ("b", "wg0", "")
    assert peer.endpoint == str(found.node("b").interface("eth0").addresses[0].ip)


def test_no_route_leads_through_a_tunnel(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "routers: {a: , b: , c: }\nlinks: [[a, c], [c, b]]\ntunnels: [{ends: [a, b], kind: ipip}]\n",
    )

    assert {route.ifname for route in found.node("a").routes} == {"eth0"}


@pytest.mark.parametrize(
    ("interfaces", "message"),
    [
        ("{v: {vlan: 10}}", "is on another interface"),
        ("{v: {dummy: false}}", "makes no interface"),
        ("{v: {vlan: 10, on: eth7}}", "has no interface `eth7`"),
        ("{eth0: {dummy: true}}", "have the name `eth0`"),
        ("{gre0: {gre: b}}", "it makes an interface of that name itself"),
        ("{v: {dummy: true, members: [eth0]}}", "has no `members`"),
        ("{v: {gre: 10.0.0.1, ipip: 10.0.0.1}}", "takes only one of"),
        ("{w: {wireguard: {private_key: abc}}}", "not a key of WireGuard"),
        ("{w: {wireguard: [nobody]}}", "no node `nobody`"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, interfaces: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        load(tmp_path, f"hosts: {{a: {{interfaces: {interfaces}}}, b: }}\nlinks: [[a, b]]\n")


def test_a_draft_without_devices_keeps_its_segments() -> None:
    draft = from_shape("pair")
    parts = segments(draft)

    assert with_devices(parts, find_device_ends(draft, label_ends(draft, Mistakes()), Mistakes())) is parts


VRFS = """
addresses: ipv4
routing: none
hosts: {red: , blue: }
routers: {pe: {interfaces: {r: {vrf: 100, members: [eth0]}, b: {vrf: 200, members: [%s]}}}}
links:
  - {ends: [{node: pe, ipv4: 10.0.0.1/24}, {node: red, ipv4: 10.0.0.2/24}]}
  - {ends: [{node: pe, ipv4: 10.0.0.1/24}, {node: blue, ipv4: 10.0.0.2/24}]}
"""


def test_prefixes_may_repeat_in_vrfs_but_not_in_one_table(tmp_path: Path) -> None:
    found = load(tmp_path, VRFS % "eth1")
    assert [str(one.addresses[0]) for one in found.node("pe").interfaces[:2]] == ["10.0.0.1/24"] * 2

    with pytest.raises(DocumentError, match=r"overlaps 10\.0\.0\.0/24"):
        load(tmp_path, VRFS.replace("members: [eth0]", "members: [eth0, eth1]") % "")


def test_a_tunnel_uses_the_addresses_on_the_path_between_its_ends(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
addresses: ipv4
hosts: {h1: , h2: }
routers: {r1: , isp: , r2: }
links: [[h1, r1], [r1, isp], [isp, r2], [r2, h2]]
tunnels: [{ends: [r1, r2], kind: gre}, {ends: [r2, r1], kind: wireguard}]
""",
    )
    near, far = (
        str(found.node(name).interface(ifname).addresses[0].ip) for name, ifname in (("r1", "eth1"), ("r2", "eth0"))
    )
    gre, wireguard = (found.node("r2").interface(name).device for name in ("tun0", "wg0"))
    assert gre is not None
    assert isinstance(gre.spec, Tunnel)
    assert (gre.spec.local, gre.spec.remote) == (far, near)
    assert wireguard is not None
    assert isinstance(wireguard.spec, Wireguard)
    assert wireguard.spec.peers[0].endpoint == near


def test_a_peer_may_wait_for_packets_and_an_endpoint_may_have_a_port(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
hosts:
  a: {interfaces: {wg0: {wireguard: {port: 1000, peers: [{node: b, endpoint: false}]}}}}
  b: {interfaces: {wg0: {wireguard: {peers: [{node: a, endpoint: "203.0.113.7:4000"}]}}}}
  c: {interfaces: {wg0: {wireguard: {peers: [{node: a, endpoint: 203.0.113.7}]}}}}
networks: {lan: {members: [a, b, c]}}
""",
    )
    peers = []
    for name in "abc":
        device = found.node(name).interface("wg0").device
        assert device is not None
        assert isinstance(device.spec, Wireguard)
        peers += [(peer.endpoint, peer.port) for peer in device.spec.peers]
    assert peers == [("", 51820), ("203.0.113.7", 4000), ("203.0.113.7", 1000)]


def test_an_ipvlan_device_may_have_a_network_of_its_own(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
hosts:
  a: {interfaces: {iv0: {ipvlan: l3, on: eth0, ipv4: 10.200.0.1/24}, mv0: {macvlan: bridge, on: eth0}}}
  b: {interfaces: {mv0: {macvlan: bridge, on: eth0, ipv4: 10.1.0.9/24}}}
networks: {lan: {ipv4: 10.1.0.0/24, members: [a, b]}}
""",
    )
    addresses = [
        str(found.node(node).interface(name).addresses[0]) for node, name in (("a", "iv0"), ("a", "mv0"), ("b", "mv0"))
    ]
    assert addresses == ["10.200.0.1/24", "10.1.0.3/24", "10.1.0.9/24"]


def test_hosts_of_a_vrf_have_a_default_route_if_the_file_writes_routes_there(tmp_path: Path) -> None:
    text = (
        (VRFS % "eth1")
        .replace("routing: none\n", "")
        .replace("10.0.0.1/24}, {node: blue, ipv4: 10.0.0.2", "10.0.1.1/24}, {node: blue, ipv4: 10.0.1.2")
    )
    assert load(tmp_path, text).node("red").routes == ()
    text = text.replace("{pe: {", "{pe: {routes: [{to: 10.0.1.0/24, dev: b, table: 100}], ")
    assert [str(one.gateway) for one in load(tmp_path, text).node("red").routes] == ["10.0.0.1"]
