"""The topology of a running lab, which is made from its plan."""

from __future__ import annotations

from labctl import topology
from labctl.plan.build import build, topology_of


def test_a_plan_gives_back_its_topology() -> None:
    for shape in ("pair", "star:3", "line:2"):
        made = topology.load(shape)
        again = topology_of(build(made))
        assert [node.name for node in again.nodes] == [node.name for node in made.nodes]
        assert again.links == made.links
        for node in made.nodes:
            found = again.node(node.name)
            assert (found.kind, found.routes) == (node.kind, node.routes)
            assert {(one.name, one.mac, one.addresses) for one in found.interfaces} == {
                (one.name, one.mac, one.addresses) for one in node.interfaces
            }
