"""`Topology`: built in code, from shapes, files and text; what comes out is what a file would have said."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from labctl import InputError, Topology, topology
from labctl.documents import DocumentError
from labctl.plan.build import build, topology_of
from labctl.topology.model import NodeKind

OFFICE = """
name: office
hosts:
  server: {sysctls: {net.core.somaxconn: 128}, environment: {COLOUR: "on", LEVEL: 3}}
  client: {count: 2}
routers:
  gw: {}
networks:
  lan: {ipv4: 10.0.1.0/24, members: [client, gw]}
links:
  - {ends: [gw, server], mtu: 9000}
"""


def office() -> Topology:
    built = Topology("office")
    built.host("server", sysctls={"net.core.somaxconn": 128}, environment={"COLOUR": "on", "LEVEL": 3})
    built.host("client", count=2).router("gw")
    built.network("lan", ipv4="10.0.1.0/24", members=["client", "gw"])
    return built.link("gw", "server", mtu=9000)


def test_a_network_object_is_not_taken_for_a_list_of_its_addresses() -> None:
    built = Topology("office").network("lan", ipv4=IPv4Network("10.0.0.0/16"))  # type: ignore[arg-type]
    with pytest.raises(yaml.YAMLError, match="IPv4Network"):  # a text is asked for; fd00::/64 would never end
        built.check()


def test_what_is_built_in_code_is_what_the_file_makes() -> None:
    written, built = Topology.parse(OFFICE, name="office"), office()
    assert built.nodes == written.nodes
    assert built.links == written.links
    assert [node.name for node in built.hosts] == ["server", "client-1", "client-2"]
    assert {node.kind for node in built.nodes} == set(NodeKind)


def test_its_file_makes_the_same_again() -> None:
    assert Topology.parse(office().to_yaml(), name="office").check() == office().check()


@pytest.mark.parametrize("shape", ["pair", "star:3", "line:2", "tree:2,2", "mesh:3"])
def test_a_shape_as_a_file_makes_the_same(shape: str) -> None:
    known = Topology.shape(shape)
    again = Topology.parse(known.to_yaml())
    assert (again.nodes, again.links) == (known.nodes, known.links)


def test_what_a_running_lab_has_with_the_machine_is_in_its_file() -> None:
    made = Topology("office").router("gw", nat=True, limits={"pids": 50, "memory": "64MiB", "cpu": "12.5%"})
    made.host("server", expose=["8080:80", "192.0.2.1:53:53/udp"], environment={"A": "b"}).link("gw", "server")
    running = Topology.of_model(topology_of(build(made.check())))
    again = Topology.parse(running.to_yaml())
    assert again.nodes == running.nodes
    assert again.hosts[0].exposures == made.hosts[0].exposures != ()


@pytest.mark.parametrize("text", ["on", "1e3", "0x10", "null", "~", "a: b", "- x", "# x", "", "ünï\n", "'\"", "true"])
def test_any_text_is_a_value_as_it_is(text: str) -> None:
    built = Topology().host("h", environment={"VALUE": text})
    assert dict(built.nodes[0].environment)["VALUE"] == text


def test_a_mistake_is_reported_as_in_a_file_with_the_near_miss() -> None:
    with pytest.raises(DocumentError, match="did you mean `server`"):
        Topology().host("server").host("client").link("client", "servr").check()
    with pytest.raises(DocumentError, match="net"):
        Topology().host("server", sysctls={"kernel.x": 1}).check()
    with pytest.raises(ValueError, match="already among its hosts"):
        Topology().host("server").host("server")


def test_links_have_faults_in_both_directions_or_in_one() -> None:
    built = Topology().host("a").host("b").link("a", "b", delay="20ms", loss="1%")
    built.link({"node": "a", "delay": "5ms"}, "b")
    impairments = [[each.impairment for each in node.interfaces] for node in built.nodes]
    assert [str(each) for each in impairments[0]] == ["delay 20ms loss 1%", "delay 5ms"]
    assert [str(each) for each in impairments[1]] == ["delay 20ms loss 1%", "None"]


def test_a_source_is_a_file_a_shape_or_a_topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = office()
    assert Topology.of(built) is built
    assert Topology.of("star:2").name == "star-2"
    (tmp_path / "office.yaml").write_text(OFFICE)
    monkeypatch.chdir(tmp_path)
    for source in ("office.yaml", tmp_path / "office.yaml"):
        assert Topology.of(source).nodes == Topology.parse(OFFICE).nodes
    with pytest.raises(InputError, match="did you mean `star`"):
        Topology.of("stra")
    with pytest.raises(DocumentError, match=r"no-such\.yaml"):
        Topology.of("no-such.yaml")


def test_what_a_lab_was_made_of_or_was_loaded_is_not_changed() -> None:
    built = office()
    built.freeze()
    for fixed in (built, Topology.shape("pair"), Topology.parse(OFFICE)):
        with pytest.raises(RuntimeError, match="cannot be changed"):
            fixed.host("other")
        with pytest.raises(RuntimeError, match="cannot be changed"):
            fixed.link("server", "gw")


def test_repr_shows_the_state() -> None:
    assert repr(Topology("office")) == "<Topology office, not checked>"
    assert repr(Topology.shape("star:2")) == "<Topology star-2, 3 nodes, 2 links>"


def test_the_room_topology_is_not_hidden_by_the_class() -> None:
    assert topology.load("pair").name == "pair"
