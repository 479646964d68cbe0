"""The table of a lab's nodes."""

from __future__ import annotations

import os

import pytest

from labctl.kernel.namespaces import PING_GROUPS, read_sysctl
from labctl.lab.keeper.executor import execute
from labctl.lab.keeper.nodes import NodeTable
from labctl.plan.operations import ResetSysctl, SetSysctl
from labctl.topology.model import NodeKind
from tests.integration.inside import inside
from tests.integration.networks import star


@inside
def test_a_table_closes_every_descriptor_and_may_be_closed_twice() -> None:
    before = set(os.listdir("/proc/self/fd"))
    nodes = NodeTable()
    execute(star(3), nodes)
    assert len(nodes) == 4
    home = os.stat("/proc/thread-self/ns/net").st_ino
    nodes.close()
    nodes.close()
    assert os.stat("/proc/thread-self/ns/net").st_ino == home
    assert set(os.listdir("/proc/self/fd")) == before


@inside
def test_a_retired_node_keeps_its_namespace_until_it_is_closed() -> None:
    nodes = NodeTable()
    nodes.make("a", NodeKind.HOST)
    namespace = os.fstat(nodes["a"].fd).st_ino
    nodes.retire("a")
    assert "a" not in nodes
    nodes.restore("a")
    assert os.fstat(nodes["a"].fd).st_ino == namespace
    nodes.retire("a")
    nodes.close_retired()
    with pytest.raises(KeyError):
        nodes.restore("a")
    nodes.close()


@inside
def test_a_range_of_groups_that_the_plan_sets_is_not_replaced_when_the_node_is_used() -> None:
    nodes = NodeTable()
    execute([*star(3), SetSysctl("h3", PING_GROUPS, "0 0")], nodes)
    nodes.allow_ping_sockets("h3")
    with nodes.entered("h3"):
        assert read_sysctl(PING_GROUPS).split() == ["0", "0"]
    execute([ResetSysctl("h3", PING_GROUPS)], nodes)
    nodes.allow_ping_sockets("h1")
    values = set()
    for node in ("h1", "h3"):
        with nodes.entered(node):
            values.add(read_sysctl(PING_GROUPS))
    assert len(values) == 1
    nodes.close()
