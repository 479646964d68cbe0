"""The script of `labctl plan --format sh`, executed: it makes the network of the plan.

It runs in its own network and mount namespaces, with a private /run for `ip netns`, so that nothing remains.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from labctl import topology
from labctl.plan.build import build
from labctl.plan.operations import AddRule, AddStaticRoute, RemovePart
from labctl.plan.render import render_shell
from labctl.structs import replace
from labctl.topology.model import Topology
from tests.patience import patient
from tests.skips import needs_programs
from tests.unit.topology.drafts import resolved

TOPOLOGIES = Path(__file__).resolve().parents[3] / "topologies"

pytestmark = needs_programs("unshare", "ip", "sysctl", "ping")


def in_sandbox(script: str) -> str:
    """Run the script with sh as root of new namespaces; return its output."""
    unshare = ["unshare", "--net", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    prepare = "set -eu\nmount -t tmpfs none /run\nmkdir /run/netns\n"
    done = subprocess.run(
        [*unshare, "sh"], input=prepare + script, capture_output=True, text=True, timeout=patient(120), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def script_of(made: Topology) -> str:
    return render_shell(build(made))


def ping(node: str, address: str) -> str:
    """A line that asks until the address answers: the kernel puts IPv6 addresses into use when it gets to it."""
    return f"until ip netns exec {node} ping -q -n -c 1 -w 5 {address} >&2; do sleep 0.2; done\n"


@pytest.mark.parametrize(
    "name", ["office.yaml", "two-lans.yaml", "two-uplinks.yaml", "leaf-spine.yaml", "two-isps.yaml"]
)
def test_every_host_reaches_every_host_over_both_families(name: str) -> None:
    made = topology.load(TOPOLOGIES / name)
    pings = [
        ping(start.name, str(address))
        for start in made.hosts
        for target in made.hosts
        for address in target.addresses
        # Where a node has no address of a family, there is no way back either.
        if any(own.version == address.version for own in start.addresses)
    ]
    in_sandbox(script_of(made) + "".join(pings))


def test_the_kernel_has_the_names_macs_mtus_and_addresses_of_the_topology() -> None:
    made = topology.load(TOPOLOGIES / "office.yaml")
    node = made.node("backup")
    shown = json.loads(in_sandbox(script_of(made) + "ip -n backup -json address show\n"))
    (device,) = [one for one in shown if one["ifname"] != "lo"]
    (interface,) = node.interfaces
    assert (device["ifname"], device["address"], device["mtu"]) == (interface.name, interface.mac, interface.mtu)
    addresses = {f"{one['local']}/{one['prefixlen']}" for one in device["addr_info"]}
    assert addresses == {*map(str, interface.addresses), "fe80::ff:fe00:7/64"}


def test_names_from_other_scripts_and_long_names_work(tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    file.write_text(
        "hosts: {büro-mit-sehr-langem-namen: , 主机: }\n"
        "networks: {lan: {members: [büro-mit-sehr-langem-namen, 主机]}}\n"
    )
    made = topology.load(file)
    target = next(iter(made.node("主机").addresses))
    in_sandbox(script_of(made) + ping("büro-mit-sehr-langem-namen", str(target)))


def test_routes_and_rules_of_every_kind_are_commands_and_so_are_their_removals() -> None:
    keys = (
        "routes: [{to: default, via: r1, metric: 10}, blackhole 192.0.2.0/24, {to: '2001:db8::/32', via: [r1, r2]},"
        " {to: 203.0.113.0/24, via: r1, table: one, src: 10.255.1.1}, {to: 203.0.114.0/24, via: 'fd00:1::fe'},"
        " {to: 9.0.0.0/8, via: 9.9.9.9, dev: eth0, onlink: true},"
        " {to: 198.51.100.0/24, hops: [r1, {via: r2, weight: 3}]}]",
        "rules: [{from: 10.255.1.1, table: one}, not from lan lookup 7, from lan fwmark 1/3 iif eth0 prohibit]",
    )
    lan = "{ipv4: 10.0.1.0/24, ipv6: 'fd00:1::/64', members: [h, r1, r2]}"
    made = resolved(
        f"hosts: {{h: {{loopback: 10.255.1.1, {', '.join(keys)}}}}}",
        "routers: {r1: , r2: }",
        f"networks: {{lan: {lan}}}",
    )
    node, plan = made.node("h"), build(made)
    removal = [RemovePart(one) for one in plan.operations if isinstance(one, AddStaticRoute | AddRule)]
    commands = render_shell(replace(plan, operations=tuple(removal))).partition("set -eu\n")[2]
    show = "ip -n h -o route show table all; ip -n h -o -6 route show table all; ip -n h rule; ip -n h -6 rule\n"
    before, after = in_sandbox(f"{render_shell(plan)}{show}echo ----\n{commands}{show}").split("----\n")
    destinations = [str(route.destination) for route in node.static_routes if route.destination.prefixlen]
    for found in (*destinations, "default via 10.0.1.254 dev eth0 metric 10"):
        assert found in before
        assert found not in after
    for rule in node.rules:
        assert f"{rule.priority}:\t{rule.selector} {rule.what}" in before
        assert f"{rule.priority}:\t" not in after
