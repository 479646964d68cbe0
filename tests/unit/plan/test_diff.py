"""Differences of plans: their operations, that these are the fewest, and the changes for people."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings

from labctl import topology
from labctl.plan.build import build
from labctl.plan.diff import Difference, Sign, difference
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    DisableOffload,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    Part,
    Plan,
    RemoveAddress,
    RemoveLink,
    RemoveNode,
    RemovePart,
    RemoveRoute,
    ReplacePart,
    ResetSysctl,
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
    operations_from_json,
    operations_to_json,
)
from labctl.structs import replace
from labctl.topology.model import Address, Exposure, Impairment, Limits, Node, NodeKind, Topology, Transport
from tests.unit.topology.drafts import resolved, topologies

MODEST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Network:
    """A model of the kernel: it refuses to remove missing objects and to add existing ones."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self.nodes: dict[str, str] = {}
        self.interfaces: dict[tuple[str, str], tuple[str, int, str]] = {}
        self.peers: dict[tuple[str, str], tuple[str, str]] = {}
        self.settings: dict[tuple[str, str], str] = {}
        self.others: set[tuple[str, ...]] = set()
        self.routes: dict[str, dict[str, AddRoute]] = {}
        self.impaired: dict[tuple[str, str], Impairment] = {}
        self.parts: dict[tuple[object, ...], Part] = {}
        for operation in operations:
            self.do(operation)

    def do(self, operation: Operation) -> None:
        match operation:
            case MakeNode(node, kind):
                assert node not in self.nodes
                self.nodes[node] = kind
            case RemoveNode(node, kind):
                assert self.nodes.pop(node) == kind
                assert not [at for at in self.peers if at[0] == node], "links are removed before"
                self.interfaces = {at: one for at, one in self.interfaces.items() if at[0] != node}
                self.settings = {at: value for at, value in self.settings.items() if at[0] != node}
                self.others = {one for one in self.others if one[1] != node}
                self.parts = {key: one for key, one in self.parts.items() if one.node != node}
            case MakeBridge(node, ifname, mtu):
                self.make(node, ifname, ("", mtu, ""))
            case MakeLink(a, b):
                for end in (a, b):
                    assert not end.bridge or (end.node, end.bridge) in self.interfaces
                    self.make(end.node, end.ifname, (end.mac, end.mtu, end.bridge))
                self.peers[a.node, a.ifname] = (b.node, b.ifname)
                self.peers[b.node, b.ifname] = (a.node, a.ifname)
            case RemoveLink(a, b):
                for end in (a, b):
                    self.remove(end)
            case AddAddress() | AddRoute() | SetUp():
                assert (operation.node, operation.ifname) in self.interfaces
                fact = self.fact(operation)
                assert fact not in self.others
                self.others.add(fact)
                if isinstance(operation, AddRoute):
                    routes = self.routes.setdefault(operation.node, {})
                    assert routes.setdefault(str(operation.destination), operation) is operation
            case RemoveAddress(node, ifname, address):
                self.others.remove(self.fact(AddAddress(node, ifname, address)))
            case RemoveRoute(node, destination, gateway, ifname):
                self.others.remove(self.fact(AddRoute(node, destination, gateway, ifname)))
                del self.routes[node][str(destination)]
                if not self.routes[node]:
                    del self.routes[node]
            case SetDown(node, ifname):
                self.others.remove(self.fact(SetUp(node, ifname)))
            case SetSysctl(node, key, value):
                assert node in self.nodes
                self.settings[node, key] = value
            case ResetSysctl(node, key):
                del self.settings[node, key]
            case SetMtu(node, ifname, mtu, before):
                mac, was, bridge = self.interfaces[node, ifname]
                assert was == before
                self.interfaces[node, ifname] = (mac, mtu, bridge)
            case RemovePart(part):
                assert self.parts.pop(part.identity) == part
            case ReplacePart(part, before):
                assert self.parts.pop(before.identity) == before
                assert part.identity == before.identity
                self.parts[part.identity] = part
            case Part(node, ifname):
                assert node in self.nodes
                assert not ifname or (node, ifname) in self.interfaces
                assert operation.identity not in self.parts
                self.parts[operation.identity] = operation
            case SetImpairment(node, ifname, impairment, before):
                assert (node, ifname) in self.interfaces
                assert self.impaired.pop((node, ifname), None) == before
                if impairment:
                    self.impaired[node, ifname] = impairment

    def make(self, node: str, ifname: str, what: tuple[str, int, str]) -> None:
        assert node in self.nodes
        assert (node, ifname) not in self.interfaces
        self.interfaces[node, ifname] = what

    def remove(self, end: LinkEnd) -> None:
        at = (end.node, end.ifname)
        assert self.interfaces.pop(at) == (end.mac, end.mtu, end.bridge)
        del self.peers[at]
        self.impaired.pop(at, None)
        self.parts = {key: one for key, one in self.parts.items() if (one.node, one.ifname) != at}
        self.others = {one for one in self.others if not (one[0] == "SetUp" and one[1:3] == at)}
        assert not [one for one in self.others if one[1:3] == at], "what stood on it is removed before"

    def fact(self, operation: AddAddress | AddRoute | SetUp) -> tuple[str, ...]:
        return (type(operation).__name__, operation.node, operation.ifname, str(operation))

    def gateway_to(self, address: Address, node: str) -> Address | None:
        routes = [one for one in self.routes.get(node, {}).values() if address in one.destination]
        return max(routes, key=lambda one: one.destination.prefixlen).gateway if routes else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def between(old: Topology, new: Topology) -> Difference:
    return difference(build(old), build(new))


def changes(*files: tuple[str, ...]) -> list[str]:
    old, new = (resolved(*lines) for lines in files)
    return [str(change) for change in between(old, new).changes]


@MODEST
@given(topologies(), topologies())
def test_the_difference_applied_to_the_old_plan_gives_the_new_one(old: Topology, new: Topology) -> None:
    before, after = build(old), build(new)
    network = Network(before.operations)
    found = difference(before, after)
    for operation in found.operations:
        network.do(operation)
    assert network == Network(after.operations)
    assert {node.name for node in found.nodes} <= {node.name for node in after.nodes}


@MODEST
@given(topologies(), topologies())
def test_the_difference_and_its_reverse_restore_the_old_plan(old: Topology, new: Topology) -> None:
    before, after = build(old), build(new)
    network = Network(before.operations)
    for operation in (*difference(before, after).operations, *difference(after, before).operations):
        network.do(operation)
    assert network == Network(before.operations)


@MODEST
@given(topologies())
def test_equal_plans_have_no_difference(made: Topology) -> None:
    found = between(made, made)
    assert not found
    assert found == Difference()


@MODEST
@given(topologies(), topologies())
def test_every_operation_of_a_difference_survives_the_way_to_the_keeper(old: Topology, new: Topology) -> None:
    operations = between(old, new).operations
    assert operations_from_json(operations_to_json(operations)) == operations


def test_a_destination_that_keeps_its_gateway_has_a_route_to_it_all_the_time() -> None:
    """A host that moves splits blocks of routes."""
    routers = [f"r{number}" for number in range(70)]
    chain = [f"  - [{one}, {other}]" for one, other in pairwise(routers)]
    files = [
        (
            "hosts: {a: , b: , c: }",
            f"routers: {{{', '.join(f'{name}: ' for name in routers)}}}",
            "links:",
            *chain,
            *others,
        )
        for others in (["  - [a, r0]", f"  - [b, {near_b}]", "  - [c, r0]"] for near_b in ("r0", "r47"))
    ]
    old, new = (build(resolved(*lines)) for lines in files)
    targets = [one.address.ip for one in old.operations if isinstance(one, AddAddress) and one.ifname == "eth1"][1::6]
    network, before, after = (Network(plan.operations) for plan in (old, old, new))
    found = difference(old, new).operations
    assert sum(isinstance(one, RemoveRoute) for one in found) > 60
    for operation in found:
        network.do(operation)
        if not isinstance(operation, AddRoute | RemoveRoute) or operation.node in ("a", "b", "c"):
            continue  # their links are replaced
        for target in targets:
            gateway = before.gateway_to(target, operation.node)
            if gateway == after.gateway_to(target, operation.node):
                assert network.gateway_to(target, operation.node) == gateway


def test_another_host_at_the_end_changes_no_other() -> None:
    found = between(topology.load("star:3"), topology.load("star:4"))
    assert found.removals == ()
    assert {one.node for one in found.additions if isinstance(one, MakeNode | AddAddress)} == {"h4"}
    assert [str(change) for change in found.changes] == [
        "+ host h4",
        "+ link h4:eth0 (10.0.0.4/24, fd00::4/64) - s1:h4",
    ]
    assert [node.name for node in found.nodes] == ["h4"]
    assert found.names, "the hosts files of all have its name"


def test_a_removed_host_takes_its_link_with_it() -> None:
    found = between(topology.load("star:3"), topology.load("star:2"))
    assert [type(one) for one in found.removals[-2:]] == [RemoveLink, RemoveNode]
    assert (found.additions, found.ended) == ((), ("h3",))
    assert [str(change) for change in found.changes] == [
        "- host h3",
        "- link h3:eth0 (10.0.0.3/24, fd00::3/64) - s1:h3",
    ]


LAB = "hosts: {a: , b: }"


def test_offload_is_set_in_place_in_both_directions() -> None:
    on, off = (resolved(LAB, f"links: [{{ends: [a, b], offload: {value}}}]") for value in ("true", "false"))
    ends = [DisableOffload(node, "eth0") for node in ("a", "b")]
    assert set(between(on, off).operations) == set(ends)
    assert set(between(off, on).operations) == {RemovePart(end) for end in ends}
    for sign, found in (("+", between(on, off)), ("-", between(off, on))):
        assert [str(change) for change in found.changes] == [f"{sign} offload off on {node}:eth0" for node in "ab"]
    assert between(off, off).operations == ()


def test_another_mtu_is_set_in_place() -> None:
    old, new = (resolved(LAB, f"links: [{{ends: [a, b], mtu: {mtu}}}]") for mtu in (1500, 1400))
    found = between(old, new)
    assert found.operations == (SetMtu("a", "eth0", 1400, 1500), SetMtu("b", "eth0", 1400, 1500))
    assert [str(change) for change in found.changes] == ["~ mtu of a:eth0 - b:eth0: 1500 to 1400 bytes"]


def test_an_mtu_below_that_of_ipv6_replaces_the_link() -> None:
    old, new = (resolved(LAB, "addresses: ipv4", f"links: [{{ends: [a, b], mtu: {mtu}}}]") for mtu in (1500, 1000))
    found = between(old, new)
    assert sum(isinstance(one, MakeLink) for one in found.additions) == 1
    text = "link a:eth0 - b:eth0: replaced, because its MTU changes from 1500 to 1000, across the 1280 that IPv6 needs"
    assert [str(change) for change in found.changes] == [f"~ {text}"]


def test_another_mac_replaces_the_link_with_its_addresses() -> None:
    old = resolved(LAB, "links: [[a, b]]")
    new = resolved(LAB, "links: [{ends: [{node: a, mac: '02:00:00:00:00:09'}, b]}]")
    found = between(old, new)
    assert sum(isinstance(one, RemoveAddress) for one in found.removals) == 6
    assert sum(isinstance(one, AddAddress) for one in found.additions) == 6
    assert [change.sign for change in found.changes] == [Sign.CHANGED]
    assert "replaced, because the MAC address of a:eth0 becomes 02:00:00:00:00:09" in found.changes[0].text


def test_a_link_inserted_before_others_with_addresses_of_their_own_changes_none_of_them() -> None:
    nodes = "hosts: {a: , b: , c: , d: }"
    old = ("links: [{ends: [c, d], ipv4: 10.2.0.0/24, ipv6: 'fd02::/64'}]",)
    new = ("links: [{ends: [a, b], ipv4: 10.1.0.0/24}, {ends: [c, d], ipv4: 10.2.0.0/24, ipv6: 'fd02::/64'}]",)
    assert changes((nodes, *old), (nodes, *new)) == [
        "+ link a:eth0 (10.1.0.1/24, fd00::1/64) - b:eth0 (10.1.0.2/24, fd00::2/64)"
    ]


def test_a_change_of_an_address_keeps_the_link() -> None:
    def at(number: int) -> tuple[str, ...]:
        ends = f"[{{node: a, ipv4: 10.9.0.{number}}}, {{node: b, ipv4: 10.9.0.2}}]"
        return (LAB, "addresses: ipv4", f"links: [{{ends: {ends}, ipv4: 10.9.0.0/24}}]")

    assert changes(at(1), at(7)) == ["- address 10.9.0.1/24 on a:eth0", "+ address 10.9.0.7/24 on a:eth0"]


def test_settings_are_added_changed_and_removed() -> None:
    old = ("hosts: {a: {sysctls: {net.core.somaxconn: 7, net.ipv4.tcp_sack: 0}}, b: }", "links: [[a, b]]")
    new = ("hosts: {a: {sysctls: {net.core.somaxconn: 8, net.ipv4.tcp_syn_retries: 2}}, b: }", "links: [[a, b]]")
    assert changes(old, new) == [
        "- net.ipv4.tcp_sack=0 on a",
        "~ net.core.somaxconn on a: 7 to 8",
        "+ net.ipv4.tcp_syn_retries=2 on a",
    ]
    found = between(resolved(*old), resolved(*new))
    assert found.removals == (ResetSysctl("a", "net.ipv4.tcp_sack"),)
    assert set(found.additions) == {
        SetSysctl("a", "net.core.somaxconn", "8"),
        SetSysctl("a", "net.ipv4.tcp_syn_retries", "2"),
    }


def test_another_environment_is_for_programs_started_later() -> None:
    old, new = ("hosts: {a: {environment: {X: '1'}}, b: }", "links: [[a, b]]"), (LAB, "links: [[a, b]]")
    assert changes(old, new) == ["~ environment of a, for programs started from now on"]


def test_a_host_that_becomes_a_router_is_replaced() -> None:
    found = between(resolved(LAB, "links: [[a, b]]"), resolved("hosts: {b: }", "routers: {a: }", "links: [[a, b]]"))
    assert found.ended == ("a",)
    assert str(found.changes[0]) == "~ host a becomes a router: replaced, its programs end"


def test_automatic_addresses_that_shift_are_shown() -> None:
    nodes = "hosts: {a: , b: , c: }"
    lines = changes((nodes, "links: [[a, b]]"), (nodes, "links: [[a, c], [a, b]]"))
    assert [line for line in lines if line.startswith(("-", "+", "~"))] == lines
    assert any("replaced" in line or line.startswith("- link") for line in lines)


@pytest.mark.parametrize("kind", ["text", "json"])
def test_equal_plans_render_as_nothing_to_change(kind: str) -> None:
    from labctl.plan.render import render_difference_json, render_difference_text

    found = between(topology.load("pair"), topology.load("pair"))
    if kind == "text":
        assert render_difference_text(found) == "nothing to change\n"
    else:
        assert '"changes": []' in render_difference_json(found)


def test_access_to_the_machine_changes_at_once() -> None:
    plain = Plan("lab", (Node("a", NodeKind.HOST),), (MakeNode("a", NodeKind.HOST),))
    exposed = Node("a", NodeKind.HOST, limits=Limits(pids=5), exposures=(Exposure(Transport.TCP, None, 8080, 80),))
    found = difference(plain, replace(plain, nodes=(exposed,)))
    assert [str(change) for change in found.changes] == ["~ expose of a, at once", "~ limits of a, at once"]


KEYS = ("QAJ/BvwpDW8q0BTGqi7ZUDWcXyDKMCZfVLGDUUgW/EM=", "aAJ/BvwpDW8q0BTGqi7ZUDWcXyDKMCZfVLGDUUgW/EM=")


def tunnelled(more: str, prefix: str, key: str) -> Plan:
    wireguard = f"{{private_key: {key}, peers: [{{public_key: {KEYS[1]}}}]}}"
    lines = (
        f"hosts: {{h: {{interfaces: {{mv0: {{macvlan: bridge, on: eth0{more}}}}}}}}}",
        f"routers: {{r: , q: {{interfaces: {{wg0: {{wireguard: {wireguard}}}}}}}}}",
        "links: [{ends: [h, r], ipv4: 10.0.0.0/24}, [r, q]]",
        f"tunnels: [{{ends: [r, q], kind: vxlan, ipv4: {prefix}, ipv6: false}}]",
    )
    return build(resolved(*lines))


def test_addresses_impairments_and_keys_of_devices_are_listed() -> None:
    before = tunnelled("", "10.99.0.0/24", KEYS[0])
    after = tunnelled(", ipv4: 10.0.0.9, delay: 5ms", "10.98.0.0/24", KEYS[1])
    assert sorted(str(one) for one in difference(before, after).changes) == [
        "+ address 10.0.0.9/24 on h:mv0",
        "+ address 10.98.0.1/24 on r:vxlan0",
        "+ address 10.98.0.2/24 on q:vxlan0",
        "+ address fd00::9/64 on h:mv0",
        "+ delay 5ms on packets from h:mv0",
        "- address 10.0.0.3/24 on h:mv0",
        "- address 10.99.0.1/24 on r:vxlan0",
        "- address 10.99.0.2/24 on q:vxlan0",
        "- address fd00::3/64 on h:mv0",
        f"~ q:wg0, wireguard on port 51820 with {KEYS[1]}, mtu 1420: private_key changed",
    ]


def test_a_new_device_is_listed_with_its_addresses_and_impairment() -> None:
    ends = "b: }", "links: [[a, b]]"
    with_device = f"hosts: {{a: {{interfaces: {{mv0: {{macvlan: vepa, on: eth0, loss: 1%}}}}}}, {ends[0]}"
    before, after = (build(resolved(one, ends[1])) for one in (f"hosts: {{a: , {ends[0]}", with_device))
    changes = [str(one) for one in difference(before, after).changes]
    assert changes[0] == "+ a:mv0, macvlan vepa on eth0, mtu 1500, 10.0.0.3/24, fd00::3/64: loss 1%"
