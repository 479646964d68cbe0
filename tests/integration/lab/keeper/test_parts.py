"""Parts of a plan in the kernel: made, replaced, removed, and undone when a change fails."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from array import array

import pytest

from labctl.errors import KernelError, LabImpossible
from labctl.kernel.link_state import SIOCETHTOOL
from labctl.lab.keeper.parts import PART_KINDS, PartKind, Tables
from labctl.lab.keeper.reconcile import network_changed
from labctl.plan.diff import Difference
from labctl.plan.operations import DisableOffload, MakeTable, Part, RemovePart, SetMtu
from labctl.plan.packet_tables import Chain
from tests.integration import networks
from tests.integration.inside import NetworkLab, inside


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
