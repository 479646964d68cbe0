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
from labctl.plan.render import render_shell
from labctl.topology.model import Topology
from tests.skips import needs_programs

TOPOLOGIES = Path(__file__).resolve().parents[3] / "topologies"

pytestmark = needs_programs("unshare", "ip", "sysctl", "ping")


def in_sandbox(script: str) -> str:
    """Run the script with sh as root of new namespaces; return its output."""
    unshare = ["unshare", "--net", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    prepare = "set -eu\nmount -t tmpfs none /run\nmkdir /run/netns\n"
    done = subprocess.run(
        [*unshare, "sh"], input=prepare + script, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def script_of(made: Topology) -> str:
    return render_shell(build(made))


@pytest.mark.parametrize("name", ["office.yaml", "two-lans.yaml"])
def test_every_host_reaches_every_host_over_both_families(name: str) -> None:
    made = topology.load(TOPOLOGIES / name)
    pings = [
        f"ip netns exec {start.name} ping -q -n -c 1 -W 5 {address} >&2"
        for start in made.hosts
        for target in made.hosts
        for address in target.addresses
        # Where a node has no address of a family, there is no way back either.
        if any(own.version == address.version for own in start.addresses)
    ]
    in_sandbox(script_of(made) + "\n".join(pings) + "\n")


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
    in_sandbox(script_of(made) + f"ip netns exec büro-mit-sehr-langem-namen ping -q -c 1 -W 5 {target}\n")
