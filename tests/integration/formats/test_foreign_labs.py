"""Files of other tools as labs on the real kernel: what their addresses, routes, files and commands do there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labctl import Lab, Topology
from labctl.formats import Options, Part
from labctl.topology import load
from tests.unit.formats.samples import DATA, ZOO


@contextmanager
def lab_of(path: Path, *, warns: bool = True) -> Iterator[Lab]:
    """Make a lab of a foreign file; `warns`: something of the file is left out."""
    with warnings.catch_warnings():
        if warns:
            warnings.filterwarnings("ignore", r"(?s).*left out", UserWarning)
        topology = Topology.load(path)
    with Lab(topology) as lab:
        yield lab


def reaches(lab: Lab, node: str, address: str) -> bool:
    return lab[node].run(["ping", "-c1", "-w5", address]).returncode == 0


def test_a_lab_of_kathara_has_its_addresses_routes_files_and_commands() -> None:
    with lab_of(DATA / "kathara") as lab:
        assert reaches(lab, "pc1", "200.1.1.7")
        assert reaches(lab, "web", "195.11.14.6")
        assert lab["web"].run(["cat", "/var/www/index.html"]).stdout == "hello from web\n"
        assert lab["r1"].run(["cat", "/tmp/eth1"]).stdout == "up\n"


def test_a_lab_of_containerlab_has_its_addresses_binds_and_commands() -> None:
    with lab_of(DATA / "containerlab/sites.clab.yml") as lab:
        assert reaches(lab, "user1", "10.2.0.2")
        assert reaches(lab, "user2", "10.1.0.11")
        assert lab["web"].run(["cat", "/etc/site.conf", "/tmp/ready"]).stdout == "site = lab\nready\n"
        assert "link/ether 02:00:00:00:00:12" in lab["user2"].run(["ip", "link", "show", "eth1"]).stdout


def test_a_topology_of_mininet_is_routed_as_in_mininet() -> None:
    model = load(DATA / "mininet/office.py", options=Options(choice="routed"))
    with Lab(Topology.of_model(model)) as lab:
        assert reaches(lab, "h1", "172.16.0.100")


def test_nodes_of_netlab_and_compose_reach_each_other_by_name() -> None:
    model = load(DATA / "netlab/links.yml", options=Options(without=frozenset({Part.DELAY})))
    with Lab(Topology.of_model(model)) as lab:
        assert reaches(lab, "h2", "r2")
    with lab_of(DATA / "compose/compose.yaml") as lab:
        assert lab["web"].run(["curl", "-s", "http://api:9000/"]).stdout.startswith("<!DOCTYPE")


def test_graphs_of_the_topology_zoo_are_built_on_every_kernel() -> None:
    with lab_of(ZOO / "Abilene.graphml") as lab:
        assert reaches(lab, "New-York", "Los-Angeles")
    with lab_of(ZOO / "AttMpls.gml") as lab:
        assert reaches(lab, "NY54", "SFO") or reaches(lab, "NY54", lab.topology.nodes[-1].name)


def test_parts_of_a_graph_that_are_not_joined_are_one_lab(tmp_path: Path) -> None:
    path = tmp_path / "two.gml"
    nodes = "".join(f'node [ id {number} label "{name}" ]' for number, name in enumerate("abcd"))
    path.write_text(f"graph [ {nodes} edge [ source 0 target 1 ] edge [ source 2 target 3 ] ]")
    with lab_of(path, warns=False) as lab:
        assert reaches(lab, "a", "b")
        assert reaches(lab, "c", "d")
        assert lab["a"].run(["ping", "-c1", "-W1", "c"]).returncode != 0


def test_what_is_left_out_is_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"(?s)kathara: Kathara: 3 hosts.*left out: pc1 .*image kathara/base"):
        Topology.load(DATA / "kathara")
