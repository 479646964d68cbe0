"""What a command line captures: nodes, interfaces, networks and links."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl import topology
from labctl.cli.capture import Target, target_of
from labctl.errors import InputError
from labctl.plan.build import build
from labctl.plan.operations import Plan
from labctl.structs import replace
from labctl.timeline.events import Hop, Packet
from labctl.topology.model import Endpoint
from tests.timelines import tcp_echo

OFFICE = Path(__file__).resolve().parents[3] / "topologies" / "office.yaml"


@pytest.fixture(scope="module")
def office() -> Plan:
    return build(topology.load(OFFICE))


def ends(*texts: str) -> frozenset[Endpoint]:
    return frozenset(Endpoint(*text.split(":")) for text in texts)


@pytest.mark.parametrize(
    ("text", "nodes", "of"),
    [
        ("gw", ("gw",), ()),
        ("gw:eth0", ("gw",), ("gw:eth0",)),
        ("gw:lo", ("gw",), ("gw:lo",)),
        ("lan", ("client-1", "client-2", "client-3", "gw"),
         ("client-1:eth0", "client-2:eth0", "client-3:eth0", "gw:lan")),
        ("gw-server", ("gw", "server"), ("gw:eth0", "server:eth0")),
        ("server-gw", ("gw", "server"), ("gw:eth0", "server:eth0")),
        ("gw:eth0-server", ("gw", "server"), ("gw:eth0", "server:eth0")),
        ("client-1", ("client-1",), ()),
        ("client-1-lan", ("client-1",), ("client-1:eth0",)),
        ("gw:eth0 - server:eth0", ("gw", "server"), ("gw:eth0", "server:eth0")),
    ],
)  # fmt: skip
def test_a_target_is_a_node_an_interface_a_network_or_a_link(
    office: Plan, text: str, nodes: tuple[str, ...], of: tuple[str, ...]
) -> None:
    assert target_of(office, text) == Target(text, nodes, ends(*of))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sever", "capture sever: no node, interface, network or link; did you mean server?"),
        ("gw:eth9", "capture gw:eth9: gw has no interface eth9; did you mean eth1?"),
        (
            "client-1-server",
            "capture client-1-server: no node, interface, network or link; did you mean client-1?",
        ),
    ],
)
def test_another_target_is_refused_with_a_suggestion(office: Plan, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        target_of(office, text)
    assert str(error.value) == message


INTERFACES = Path(__file__).resolve().parents[3] / "topologies" / "interfaces.yaml"


def test_the_end_of_a_tunnel_is_a_target_and_a_device_names_the_interfaces_below_it() -> None:
    plan = build(topology.load(INTERFACES))
    assert target_of(plan, "r1:vxlan0") == Target("r1:vxlan0", ("r1",), ends("r1:vxlan0"))
    with pytest.raises(InputError, match=r"interfaces below it\. Try labctl capture h2:eth0\.$"):
        target_of(plan, "h2:br1")


def test_a_target_accepts_what_leaves_or_arrives_at_its_ends() -> None:
    packet = next(event for event in tcp_echo().events if isinstance(event, Packet))
    for end, accepted in (("client:eth0", True), ("server:eth0", True), ("client:lo", False), ("third:eth0", False)):
        assert Target("", (), ends(end)).accepts(packet) is accepted
    broadcast = replace(packet, others=(Hop(0, "third", "eth0", False),))
    assert Target("", (), ends("third:eth0")).accepts(broadcast)
    assert Target("", ("client",)).accepts(packet)
