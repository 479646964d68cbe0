"""Links that a command line names, and the operations that change them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from labctl import topology
from labctl.cli.network import as_topology_file, cables_between, changed_values, check_link_change, link_operations
from labctl.errors import InputError
from labctl.observe.impairments import FoundImpairment
from labctl.observe.inspect import Drift, DriftKind, Inspection, NodeState
from labctl.plan.build import build
from labctl.plan.operations import Plan, SetDown, SetUp
from labctl.topology.netem import Impairment
from tests.unit.topology.drafts import resolved


@pytest.fixture(scope="module")
def pair() -> Plan:
    return build(topology.load("pair"))


class Clean:
    """A lab without impairments."""

    def impaired(self, nodes: Iterable[str] = ()) -> Mapping[tuple[str, str], Impairment]:
        return {}


CLEAN = Clean()


VLANS = (
    "hosts: {a: , b: , c: , d: }",
    "switches: {s: }",
    "links: [[a, {node: s, vlan: 10}], [b, {node: s, vlan: 20}], [c, {node: s, trunk: 10-11}], [d, s]]",
)


def test_ends_in_different_vlans_of_a_switch_are_no_pair() -> None:
    made = resolved(*VLANS)
    plan = build(made)
    for first, second, numbers in (("a", "b", "10 and 20"), ("b", "c", "20 and 10, 11"), ("d", "a", "1 and 10")):
        message = f"{first}:eth0 and {second}:eth0 are in different VLANs of s: {numbers}"
        with pytest.raises(InputError, match=message):
            cables_between(plan, first, second)
        with pytest.raises(InputError, match=message):
            made.neighbours(first, second)
    assert [str(one) for one in cables_between(plan, "a", "c")] == ["a:eth0 - c:eth0"]
    assert len(made.neighbours("a", "c")) == 1


def test_a_link_is_taken_down_at_its_switch_or_else_at_the_second_end(pair: Plan) -> None:
    star = build(topology.load("star:2"))
    switch = next(node.name for node in star.nodes if node.kind == "switch")
    host = next(node.name for node in star.nodes if node.kind == "host")
    (down,) = link_operations(CLEAN, star, cables_between(star, switch, host), "down")
    assert isinstance(down, SetDown)
    assert down.node == switch
    cables = cables_between(pair, "client", "server")
    assert link_operations(CLEAN, pair, cables, "down") == [SetDown("server", "eth0")]
    assert link_operations(CLEAN, pair, cables, "up") == [SetUp("client", "eth0"), SetUp("server", "eth0")]


def test_a_missing_link_names_the_links_that_exist(pair: Plan) -> None:
    star = build(topology.load("star:2"))
    hosts = [node.name for node in star.nodes if node.kind == "host"]
    line = build(topology.load("line:3"))
    with pytest.raises(InputError, match=r"no link between h1 and h2\. Links of h1:"):
        cables_between(line, "h1", "h2")
    with pytest.raises(InputError, match=rf"no link between {hosts[0]} and {hosts[0]}\. Links of {hosts[0]}: [^.]*\.$"):
        cables_between(star, hosts[0], hosts[0])
    with pytest.raises(InputError, match="no link between client:eth7 and server"):
        cables_between(pair, "client:eth7", "server")


def test_a_virtual_interface_is_no_end_of_a_link() -> None:
    tunnel = "tunnels: [{ends: [{node: a, interface: gre1}, {node: b, interface: gre1}], kind: gre}]"
    plan = build(resolved("hosts: {a: , b: }", "links: [[a, b]]", tunnel))
    with pytest.raises(InputError, match="a:gre1 is a virtual interface, not the end of a link: write its values"):
        cables_between(plan, "a:gre1", "b:gre1")


def test_hosts_on_one_network_have_values_for_each_other_but_no_link_to_take_down() -> None:
    star = build(topology.load("star:2"))
    (pair,) = cables_between(star, "h1", "h2")
    assert pair.is_pair
    assert str(pair) == "h1:eth0 - h2:eth0"
    assert [str(each) for each in changed_values(CLEAN, star, [pair], ["loss=1%"], "h1")] == [
        "impair h1:eth0: to h2: loss 1%"
    ]
    with pytest.raises(
        InputError, match=r"are on one network, not on a link of their own\. Links of h1: h1:eth0 - s1:"
    ):
        link_operations(CLEAN, star, [pair], "down")


def test_the_sender_is_an_end_of_the_link(pair: Plan) -> None:
    cables = cables_between(pair, "client", "server")
    one = link_operations(CLEAN, pair, cables, "clear", "client")
    assert len(link_operations(CLEAN, pair, cables, "clear")) == 2 * len(one)
    with pytest.raises(InputError, match="--from gw: not an end of the link client:eth0 - server:eth0"):
        link_operations(CLEAN, pair, cables, "clear", "gw")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("set", (), None), "values are missing"),
        (("down", ("loss=1%",), None), "takes no values. Try: link A B set loss=1%"),
        (("down", ("now",), None), "takes no values. Try: link A B down$"),
        (("down", (), "client"), "--from is for set and clear"),
    ],
)
def test_an_action_that_does_not_go_with_its_values_is_refused(
    change: tuple[str, tuple[str, ...], str | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_link_change(*change)


def test_an_impairment_of_a_device_is_a_comment_of_the_file_and_that_of_a_link_is_a_value() -> None:
    made = build(resolved("hosts: {a: {interfaces: {mv0: {macvlan: bridge, on: eth0}}}, b: }", "links: [[a, b]]"))
    state = NodeState(impairments={name: FoundImpairment(Impairment(rate_bit_s=8000)) for name in ("eth0", "mv0")})
    differs = tuple(Drift("a", name, DriftKind.CHANGED, "impairment", "none", "rate 8kbit") for name in ("eth0", "mv0"))
    lines = as_topology_file(Inspection("x", made, {"a": state}, (), (), differs)).splitlines()
    assert [line for line in lines if "8kbit" in line and line.startswith("#")] == [f"#   {differs[1]}"]
    assert len([line for line in lines if "rate: 8kbit" in line]) == 1
