"""A lab's access to the machine without any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labctl.errors import InputError
from labctl.lab.keeper.machine_access import MachineAccess
from labctl.lab.keeper.node_init import Host
from labctl.lab.keeper.nodes import NodeTable
from labctl.plan.hosts_files import HostsFiles
from labctl.plan.operations import MakeNode, Plan
from labctl.topology.model import Exposure, Limits, Node, NodeKind, Transport
from tests.skips import for_root

EXPOSED = Node("a", NodeKind.HOST, exposures=(Exposure(Transport.TCP, None, 8080, 80),))


@contextmanager
def descriptor() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(writing)
    yield reading


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@for_root("a table of nodes opens the machine's network, as the keeper may in its user namespace")
def test_sockets_of_a_port_are_closed_when_no_node_exposes_it() -> None:
    access, table = MachineAccess(), NodeTable()
    with descriptor() as one:
        access.add_ports([EXPOSED], [("a", 0, 80)], [one])
        access.settle([EXPOSED], table)
        assert is_open(one)
        access.settle([], table)
        assert not is_open(one)


def test_limits_without_a_prepared_group_are_an_error() -> None:
    plan = Plan("lab", (EXPOSED,), (MakeNode("a", NodeKind.HOST),))
    host = Host(EXPOSED, HostsFiles(plan), -1)
    access = MachineAccess()
    access.limit(host, None)
    with pytest.raises(InputError, match="no control group was prepared"):
        access.limit(host, Limits(pids=5))
    assert access.resolv_conf == ""
