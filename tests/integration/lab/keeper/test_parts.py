"""Parts of a plan in the kernel: made, replaced, removed, and undone when a change fails."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import subprocess
from array import array

import pytest

from labctl.errors import KernelError, LabImpossible
from labctl.kernel.link_state import SIOCETHTOOL
from labctl.lab.keeper.parts import PART_KINDS, PartKind, Tables
from labctl.lab.keeper.reconcile import network_changed
from labctl.observe.inspect import inspect
from labctl.plan.build import build
from labctl.plan.diff import Difference, difference
from labctl.plan.operations import AddAddress, DisableOffload, MakeTable, Part, Plan, RemovePart, SetMtu
from labctl.plan.packet_tables import Chain
from tests import skips
from tests.integration import networks
from tests.integration.inside import NetworkLab, inside
from tests.patience import patient
from tests.unit.topology.drafts import resolved


def checksums(lab: NetworkLab, node: str) -> str:
    """Return whether the device computes checksums of packets that it sends (ETHTOOL_GTXCSUM)."""
    argument = array("I", [0x16, 0])
    with lab.nodes.entered(node), socket.socket() as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", b"eth0", argument.buffer_info()[0]))
    return "on" if argument[1] else "off"


@inside
def test_a_part_is_made_and_removed() -> None:
    part = DisableOffload("client", "eth0")
    with NetworkLab(*networks.pair()) as lab:
        assert checksums(lab, "client") == "on"
        for operation, shown in ((part, "off"), (RemovePart(part), "on")):
            with network_changed(Difference(additions=(operation,)), lab.nodes):
                assert checksums(lab, "client") == shown
            assert checksums(lab, "client") == shown


@inside
def test_a_failed_change_undoes_parts() -> None:
    part = DisableOffload("client", "eth0")
    fails = SetMtu("client", "eth0", 1, 1500)  # the kernel allows 68 bytes and more
    with NetworkLab(*networks.pair()) as lab:
        with pytest.raises(KernelError, match="MTU"), network_changed(Difference(additions=(part, fails)), lab.nodes):
            pass
        assert checksums(lab, "client") == "on"


OVERLAY = (
    "hosts:",
    "  a: {{interfaces: {{mv0: {{macvlan: bridge, on: eth0{more}}}}}}}",
    "  b: {{interfaces: {{br1: {{bridge: true, members: [eth0]}}}}}}",
    "routers: {{r: }}",
    "links: [[a, r], [b, r]]",
    "tunnels: [{tunnels}{{ends: [a, b], kind: vxlan, id: {vni}, ipv4: 10.9{vni}.0.0/24, ipv6: false}}]",
)


def overlay(vni: int, more: str = "", tunnels: str = "") -> Plan:
    return build(resolved(*(line.format(vni=vni, more=more, tunnels=tunnels) for line in OVERLAY)))


def reaches(lab: NetworkLab, node: str, address: str) -> bool:
    with lab.nodes.entered(node):
        command = ["ping", "-c1", "-i0.2", "-w", str(round(patient(10))), address]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def address_of(plan: Plan, node: str, ifname: str) -> str:
    added = (one for one in plan.operations if isinstance(one, AddAddress))
    ends = (one.address for one in added if (one.node, one.ifname) == (node, ifname))
    return next(str(each.ip) for each in ends if each.version == 4)


@inside
@skips.needs_programs("ping")
def test_macvlan_bridge_and_vxlan_carry_packets_and_change_in_a_running_network() -> None:
    before = overlay(1)
    after = overlay(2, more="}, mv1: {macvlan: bridge, on: eth0, mtu: 1400")
    with NetworkLab(*before.operations) as lab:
        for old, new in ((before, before), (before, after), (after, before)):
            with network_changed(difference(old, new), lab.nodes):
                pass
            assert inspect(lab, "x", new).differs == ()
            for node, other, ifname in (
                ("r", "a", "mv0"),
                ("a", "b", "br1"),
                ("a", "b", "vxlan0"),
                ("b", "a", "vxlan0"),
            ):
                assert reaches(lab, node, address_of(new, other, ifname)), (node, ifname)


@inside
@skips.needs_programs("ping")
def test_a_change_of_devices_that_fails_half_way_leaves_none_of_it() -> None:
    before = overlay(1)
    clash = "{ends: [a, b], kind: vxlan, id: 7, ipv6: false}, {ends: [a, b], kind: vxlan, id: 7, ipv6: false}, "
    fails = overlay(3, more=", mtu: 1300", tunnels=clash)  # the kernel has each VNI once
    with NetworkLab(*before.operations) as lab:
        with pytest.raises(KernelError, match="EEXIST"), network_changed(difference(before, fails), lab.nodes):
            pass
        assert inspect(lab, "x", before).differs == ()
        for ifname in ("vxlan0", "br1"):
            assert reaches(lab, "a", address_of(before, "b", ifname))


def test_every_part_has_a_kind() -> None:
    assert set(PART_KINDS) == set(Part.__subclasses__())
    assert all(isinstance(kind, PartKind) for kind in PART_KINDS.values())


def test_a_kernel_without_connection_tracking_is_an_error_that_names_the_feature() -> None:
    kind = PART_KINDS[MakeTable]
    assert isinstance(kind, Tables)
    chains = {"nat": Chain("c", "nat", "prerouting", 0, ()), "conntrack": Chain("c", "filter", "input", 0, ())}
    for feature, chain in chains.items():
        table = MakeTable("gw", "", "t", "nat full-cone", (), (chain,))
        error = kind.refused(table, table, errno.ENOENT)
        assert isinstance(error, LabImpossible)
        assert f"the kernel lacks {feature}" in str(error)
        assert isinstance(kind.refused(table, table, errno.EPERM), KernelError)
