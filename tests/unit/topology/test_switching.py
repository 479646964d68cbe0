"""The values of switches: VLANs of ports, several bridges, and the tree that the spanning tree protocol chooses."""

from __future__ import annotations

import pytest

from labctl.topology.switching import (
    FORWARD_DELAY,
    PORTS_PER_BRIDGE,
    Port,
    SwitchLink,
    bridges_of,
    own_interfaces,
    spanning_tree,
)

IDS = {"s1": (0x8000, "01"), "s2": (0x8000, "02"), "s3": (0x8000, "03")}
RING = [SwitchLink("s1", "s2"), SwitchLink("s2", "s3"), SwitchLink("s3", "s1")]


def test_a_ring_blocks_the_link_farthest_from_the_lowest_identifier() -> None:
    assert spanning_tree(IDS, RING).links == {0, 2}


def test_the_lowest_priority_is_the_root() -> None:
    assert spanning_tree({**IDS, "s3": (4096, "03")}, RING).links == {1, 2}


def test_a_cost_moves_the_path() -> None:
    links = [SwitchLink("s1", "s2"), SwitchLink("s2", "s3"), SwitchLink("s1", "s3", cost_b=100)]
    assert spanning_tree(IDS, links).links == {0, 1}


def test_of_parallel_links_the_first_forwards() -> None:
    assert spanning_tree(IDS, [SwitchLink("s1", "s2"), SwitchLink("s2", "s1"), SwitchLink("s2", "s3")]).links == {0, 2}


def test_equal_paths_go_through_the_lowest_identifier() -> None:
    switches = {**IDS, "s4": (0x8000, "04")}
    links = [SwitchLink("s1", "s3"), SwitchLink("s1", "s2"), SwitchLink("s3", "s4"), SwitchLink("s2", "s4")]
    assert spanning_tree(switches, links).links == {0, 1, 3}


def test_a_ring_through_a_switch_without_the_protocol_has_one_link_left_out() -> None:
    assert spanning_tree({**IDS, "s3": None}, RING).links == {0, 1}


def test_the_forward_delay_grows_with_the_depth_of_the_tree() -> None:
    def ring(count: int) -> int:
        names = [f"s{number:02}" for number in range(count)]
        links = [SwitchLink(a, b) for a, b in zip(names, [*names[1:], names[0]], strict=True)]
        return spanning_tree({name: (0x8000, name) for name in names}, links).forward_delay

    assert (ring(3), ring(5), ring(24)) == (FORWARD_DELAY, 250, 750)


@pytest.mark.parametrize(
    ("port", "vlans"),
    [
        (Port(), [(1, True)]),
        (Port(10), [(10, True)]),
        (Port(0, (10, 20)), [(10, False), (20, False)]),
        (Port(5, (10,)), [(5, True), (10, False)]),
    ],
)
def test_vlans_of_a_port(port: Port, vlans: list[tuple[int, bool]]) -> None:
    assert [*port.vlans] == vlans


def test_a_trunk_without_a_native_vlan_drops_frames_without_a_tag() -> None:
    assert [Port(0, (10,)).vlan(tag) for tag in (0, 10, 20)] == [0, 10, 0]


def test_a_switch_has_a_further_bridge_for_each_250_ports() -> None:
    assert bridges_of(0) == bridges_of(PORTS_PER_BRIDGE) == ("br0",)
    assert bridges_of(PORTS_PER_BRIDGE + 1) == ("br0", "br1")
    assert [*own_interfaces(PORTS_PER_BRIDGE + 1)] == ["br0", "br1", "br0-br1", "br1-br0"]
