from __future__ import annotations

from pathlib import Path

from labctl import topology
from labctl.topology.devices import Bond, Macvlan, Vrf, Vxlan
from labctl.topology.parse_devices import KEYS_OF
from labctl.topology.schema import DeviceFile


def test_a_group_has_the_interfaces_on_each_node(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "hosts: {h: {count: 2, interfaces: {m: {macvlan: private, on: eth0, mtu: 1400}}}}\n"
        "networks: {lan: {members: [h]}}"
    )
    found = topology.load(tmp_path / "t.yaml")

    for name in ("h-1", "h-2"):
        interface = found.node(name).interface("m")
        assert interface.device is not None
        assert (interface.mtu, interface.device.on) == (1400, "eth0")
        assert isinstance(interface.device.spec, Macvlan)


def test_kinds_with_their_keys(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        """
hosts:
  a:
    interfaces:
      bond0: {bond: 802.3ad, members: [eth0, eth1], hash: layer3+4, miimon: 50ms}
      blue: {vrf: 100, members: [eth2]}
      vx: {vxlan: 7, remotes: [b], port: 8472, learning: false}
  b:
links: [[a, b], [a, b], [a, b]]
"""
    )
    node = topology.load(tmp_path / "t.yaml").node("a")

    specs = [one.device.spec for one in node.interfaces if one.device is not None]
    assert [type(spec) for spec in specs] == [Bond, Vrf, Vxlan]


def test_every_kind_has_a_list_of_its_keys() -> None:
    assert set(KEYS_OF) <= set(DeviceFile.KEYS)
