"""The table of a lab's nodes."""

from __future__ import annotations

import os

import pytest

from labctl.lab.keeper.executor import execute
from labctl.lab.keeper.nodes import NodeTable
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
