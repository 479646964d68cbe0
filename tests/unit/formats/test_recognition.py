"""The format follows from the content: the content of each tool's own files, and nothing of labctl's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.errors import InputError
from labctl.formats import translate
from labctl.formats.recognition import Format, recognise

ROOT = Path(__file__).resolve().parents[3]
FILES = {
    "lab.clab.yml": ("name: x\ntopology:\n  nodes: {a: {kind: linux}}\n", Format.CONTAINERLAB),
    "compose.yaml": ("services:\n  web:\n    image: nginx\n", Format.COMPOSE),
    "docker-compose.yml": ("version: '3'\nservices: {web: {build: .}}\nnetworks: {lan: {}}\n", Format.COMPOSE),
    "lab.conf": ('LAB_NAME="x"\npc1[0]="A"\n', Format.KATHARA),
    "other.conf": ('pc1[image]="kathara/base"\n', Format.KATHARA),
    "topo.py": ("from mininet.topo import Topo\n", Format.MININET),
    "drawn.mn": ('{"application": {}, "hosts": [], "links": [], "switches": []}', Format.MINIEDIT),
    "topology.yml": ("provider: clab\nnodes: [r1, r2]\nlinks: [r1-r2]\n", Format.NETLAB),
    "project.gns3": ('{"type": "topology", "version": "2.2", "topology": {"nodes": []}}', Format.GNS3),
    "sample.imn": ("node n1 {\n    type router\n}\n", Format.CORE),
    "sample.xml": ('<?xml version="1.0"?>\n<scenario name="x"><networks/></scenario>\n', Format.CORE),
    "pod.yaml": ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", Format.KUBERNETES),
    "50-cloud-init.yaml": ("network:\n  version: 2\n  ethernets: {eth0: {dhcp4: true}}\n", Format.NETPLAN),
    "Vagrantfile": ('Vagrant.configure("2") do |config|\nend\n', Format.VAGRANT),
    "Abilene.gml": ("graph [\n  directed 0\n  node [\n    id 0\n  ]\n]\n", Format.GML),
    "Abilene.graphml": ('<?xml version="1.0"?>\n<graphml xmlns="http://x"><graph/></graphml>\n', Format.GRAPHML),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_tool_is_recognised(tmp_path: Path, name: str) -> None:
    text, format = FILES[name]
    (tmp_path / name).write_text(text)
    assert recognise(tmp_path / name) is format


def test_no_shipped_file_is_recognised_as_another_tools() -> None:
    ours = [*ROOT.glob("scenarios/*.yaml"), *ROOT.glob("topologies/*.yaml"), *ROOT.glob("labctl/starter/*")]
    assert len(ours) > 30
    assert [path for path in ours if recognise(path) is not None] == []


def test_a_pipe_and_a_device_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert recognise(tmp_path / "pipe") is None
    assert recognise(Path("/dev/zero")) is None


def test_a_directory_is_a_lab_of_kathara_if_it_has_a_lab_conf(tmp_path: Path) -> None:
    assert recognise(tmp_path) is None
    (tmp_path / "lab.conf").write_text("")
    assert recognise(tmp_path) is Format.KATHARA


def test_a_format_that_labctl_cannot_read_is_refused_with_those_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "x.imn").write_text("node n1 {\n")
    with pytest.raises(InputError, match=r"cannot read a CORE file. labctl reads: GraphML graph, GML graph, "):
        translate(tmp_path / "x.imn")
