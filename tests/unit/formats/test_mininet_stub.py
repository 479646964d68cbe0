"""The stand-ins for Mininet's classes, used in this process; `test_mininet` runs whole programs."""

from __future__ import annotations

import pytest

from labctl.formats.mininet_stub import (
    CLASSES,
    CLI,
    Finished,
    LinearTopo,
    Mininet,
    SingleSwitchTopo,
    TorusTopo,
    TreeTopo,
    _described,
)


@pytest.mark.parametrize(
    ("topo", "hosts", "switches", "links"),
    [
        (SingleSwitchTopo(4), 4, 1, 4),
        (LinearTopo(3, 2), 6, 3, 8),
        (TreeTopo(2, 3), 9, 4, 12),
        (TorusTopo(3, 3), 9, 9, 27),
    ],
)
def test_the_shapes_of_mininet(topo: SingleSwitchTopo, hosts: int, switches: int, links: int) -> None:
    assert (len(topo.hosts()), len(topo.switches()), len(topo.links())) == (hosts, switches, links)


def test_hosts_get_the_addresses_of_mininet() -> None:
    net = Mininet(SingleSwitchTopo(2))
    described = _described(net, [])
    assert [node["auto_ip"] for node in described["nodes"]][:2] == ["10.0.0.1/8", "10.0.0.2/8"]
    assert [end["name"] for end in described["links"][1]["ends"]] == ["h2-eth0", "s1-eth2"]


def test_what_uses_the_network_ends_the_program() -> None:
    net = Mininet(SingleSwitchTopo(2))
    for use in (net.stop, net.pingAll, lambda: CLI(net)):
        with pytest.raises(Finished):
            use()


def test_an_unknown_class_is_a_node_and_an_unknown_function_does_nothing() -> None:
    net = Mininet()
    assert net.addHost("a", cls=CLASSES["NAT"]).kind == "nat"
    assert str(net.waitConnected(timeout=5)) == ""
