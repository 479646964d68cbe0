"""Nodes that are a bridge become switches: of ip(8) or brctl(8), with STP and VLANs; all others stay as they are."""

from __future__ import annotations

from typing import Any

import pytest

from labctl.formats.bridges import fold_bridges
from labctl.formats.sketch import Device, Port, Role, Sketch

BRIDGE = ["ip link add name br0 type bridge", "ip link set eth0 master br0", "ip link set dev eth1 master br0 up"]


def folded(*commands: str, **settings: Any) -> tuple[Device, list[Port]]:
    sketch = Sketch("x", "tool")
    device = sketch.device("s")
    for name in ("a", "b"):
        sketch.device(name)
    ports = [Port("s", "eth0"), Port("s", "eth1")]
    sketch.connect(ports[0], Port("a", "eth0"))
    sketch.connect(ports[1], Port("b", "eth0"))
    device.commands = list(commands)
    device.settings = dict(settings)
    fold_bridges(sketch)
    return device, ports


def test_a_bridge_of_all_interfaces_is_a_switch() -> None:
    device, ports = folded(*BRIDGE, "ip link set br0 up", sysctls={"net.ipv4.ip_forward": 1})
    assert (device.role, device.settings, device.commands) == (Role.SWITCH, {}, [])
    assert [port.name for port in ports] == ["", ""]


def test_brctl_makes_a_switch_with_the_spanning_tree_protocol() -> None:
    commands = ["brctl addbr br0", "brctl addif br0 eth0 eth1", "brctl stp br0 on", "brctl setbridgeprio br0 4096"]
    device, _ = folded(
        *commands, "brctl setfd br0 0", "brctl sethello br0 2", "brctl setageing br0 60", "ifconfig br0 up"
    )
    assert device.settings == {"stp": {"priority": 4096, "hello_time": "2s"}, "ageing": "60s"}


def test_vlans_are_those_of_the_ports() -> None:
    vlans = ["ip link set br0 type bridge vlan_filtering 1", "bridge vlan del dev eth0 vid 1"]
    vlans += ["bridge vlan add dev eth0 vid 10 pvid untagged", "bridge vlan add vid 10-12 dev eth1"]
    _, ports = folded(*BRIDGE, *vlans, "bridge vlan add dev br0 vid 10 self")
    assert [port.settings for port in ports] == [{"vlan": 10}, {"trunk": [10, 11, 12], "native": 1}]


def test_without_vlan_filtering_there_are_no_vlans() -> None:
    _, ports = folded(*BRIDGE, "bridge vlan add dev eth0 vid 10 pvid untagged")
    assert [port.settings for port in ports] == [{}, {}]


@pytest.mark.parametrize(
    "commands",
    [
        BRIDGE[:2],  # not all interfaces
        [*BRIDGE, "ip addr add 10.0.0.1/24 dev br0"],
        [*BRIDGE, "ip link add br1 type bridge"],
        [*BRIDGE, "ip link set br0 type bridge group_fwd_mask 8"],
        [*BRIDGE, "bridge vlan add dev eth0 vid x"],
        [*BRIDGE, "bridge vlan add dev eth7 vid 7"],
        [*BRIDGE, "ip link set eth0 master br7"],
        [*BRIDGE, "ip link set br0 type bridge vlan_filtering"],
        [*BRIDGE, "for i in 1; do true; done"],
        ["true"],
    ],
)
def test_a_node_that_does_more_or_less_stays_as_it_is(commands: list[str]) -> None:
    device, _ = folded(*commands)
    assert (device.role, device.commands) == (None, commands)


def test_a_node_with_programs_or_files_stays_as_it_is() -> None:
    assert folded(*BRIDGE, files={"/": {"source": "s"}})[0].role is None
