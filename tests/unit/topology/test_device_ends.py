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
