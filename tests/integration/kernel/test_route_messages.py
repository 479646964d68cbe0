"""Routes and rules on this kernel: made, changed in place, rolled back, and restored with their link."""

from __future__ import annotations

import subprocess
from functools import partial
from ipaddress import ip_address, ip_network

import pytest

from labctl.errors import KernelError
from labctl.lab.keeper.reconcile import network_changed
from labctl.observe.inspect import inspect
from labctl.observe.network import routes_to
from labctl.plan.build import build
from labctl.plan.diff import Difference, difference
from labctl.plan.operations import AddRoute, Plan, SetDown, SetUp
from labctl.structs import replace
from tests.integration.detached import becomes
from tests.integration.inside import NetworkLab, inside
from tests.unit.topology.drafts import resolved

pytestmark = pytest.mark.stock_kernel

NETWORK = (
    "routers: {r1: {loopback: 10.255.0.1}, r2: }",
    "networks: {lan: {ipv4: 10.0.1.0/24, ipv6: 'fd00:1::/64', members: [h, r1, r2]}, far: {members: [r1, r2, s]}}",
)
BEFORE = (
    "loopback: [10.255.1.1, 'fd00:ff::1']",
    "routes: [{to: default, via: r1, metric: 10}, {to: default, via: r2, metric: 20}, blackhole 192.0.2.0/24,"
    " {to: 198.51.100.0/24, hops: [r1, {via: r2, weight: 3}]}, {to: '2001:db8::/32', via: [r1, r2]},"
    " {to: 203.0.113.0/24, via: r1, table: one, src: 10.255.1.1}, {to: 203.0.114.0/24, via: 'fd00:1::fe'},"
    " {to: 9.0.0.0/8, via: 9.9.9.9, dev: eth0, onlink: true}, {to: 8.0.0.0/8, dev: eth0}, unreachable 2001:db9::/32]",
    "rules: [{from: 10.255.1.1, table: one}, not from lan lookup 7,"
    " from lan fwmark 1/3 iif eth0 prohibit, to lan oif eth0 lookup 7]",
)
AFTER = (
    "loopback: ['fd00:ff::1', 10.255.1.2]",
    "routes: [{to: default, via: r2, metric: 10}, {to: default, via: r1, metric: 30}, prohibit 192.0.2.0/24,"
    " {to: 198.51.100.0/24, hops: [r1, {via: r2, weight: 9}]}, {to: '2001:db8::/32', via: r1},"
    " {to: 203.0.113.0/24, via: r2, table: one, src: 10.255.1.2}, 2001:db9::/32 dev eth0]",
    "rules: [{from: 10.255.1.2, table: one}, to lan oif eth0 lookup 7]",
)


def plan(*keys: str) -> Plan:
    return build(resolved(f"hosts: {{s: , h: {{{', '.join(keys)}}}}}", *NETWORK))


def change(lab: NetworkLab, old: Plan, new: Plan) -> Difference:
    found = difference(old, new)
    with network_changed(found, lab.nodes):
        pass
    return found


def drift(lab: NetworkLab, made: Plan) -> list[str]:
    return [str(one) for one in inspect(lab, "x", made).differs]


@inside
def test_every_kind_is_made_changed_in_place_and_changed_back() -> None:
    plain, before, after = plan(), plan(*BEFORE), plan(*AFTER)
    with NetworkLab(*before.operations) as lab:
        assert drift(lab, before) == []
        for old, new in ((before, after), (after, plain), (plain, before)):
            change(lab, old, new)
            assert drift(lab, new) == []


@inside
def test_a_change_that_fails_leaves_all_as_it_was() -> None:
    before, after = plan(*BEFORE), plan(*AFTER)
    wrong = AddRoute("s", ip_network("192.0.2.0/24"), ip_address("198.51.100.1"), "eth0")
    with NetworkLab(*before.operations) as lab:
        found = difference(before, after)
        failing = replace(found, additions=(*found.additions, wrong))
        with pytest.raises(KernelError), network_changed(failing, lab.nodes):
            pass
        assert drift(lab, before) == []


@inside
def test_a_link_that_comes_up_has_its_routes_again() -> None:
    made = plan(*BEFORE)
    with NetworkLab(*made.operations) as lab:
        lab.apply(SetDown("h", "eth0"))
        lab.apply(SetUp("h", "eth0"))
        assert drift(lab, made) == []
        with lab.nodes.entered("h"):  # a program of the host sets it down
            subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
        lab.apply(SetUp("h", "eth0"))
        assert drift(lab, made) == []


@inside
def test_changes_by_hand_are_drift() -> None:
    made = plan(*BEFORE)
    with NetworkLab(*made.operations) as lab:
        with lab.nodes.entered("h"):
            for words in (
                "route del blackhole 192.0.2.0/24",
                "rule del priority 1000",
                "addr del 10.255.1.1/32 dev lo",
            ):
                subprocess.run(["ip", *words.split()], check=True)
        assert "h: route blackhole 192.0.2.0/24 is missing" in drift(lab, made)
        assert "h: rule 1000: from 10.255.1.1 lookup 100 is missing" in drift(lab, made)
        assert "h:lo: address 10.255.1.1/32 is missing" in drift(lab, made)


@inside
def test_the_backup_takes_over_when_the_other_end_of_the_link_goes_down() -> None:
    made = build(
        resolved(
            "hosts: {h: {routes: [{to: default, via: r1, metric: 10}, {to: default, via: r2, metric: 20}]}}",
            "routers: {r1: , r2: }",
            "links: [[h, r1], [h, r2]]",
        )
    )
    with NetworkLab(*made.operations) as lab:

        def uses(address: str, ifname: str) -> bool:
            return [hop.ifname for route in routes_to(lab, "h", address) for hop in route.hops] == [ifname]

        for address in ("192.0.2.1", "2001:db8::1"):
            assert uses(address, "eth0")
            lab.apply(SetDown("r1", "eth0"))
            assert becomes(partial(uses, address, "eth1")), (address, routes_to(lab, "h", address))
            lab.apply(SetUp("r1", "eth0"))
            assert becomes(partial(uses, address, "eth0")), (address, routes_to(lab, "h", address))
        assert drift(lab, made) == []
