"""Files of other tools, and of the other kind, get one sentence instead of a list of unknown keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.cli.files import Kind, explained, find_topology, load_topology, nothing_in, recognise
from labctl.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
FILES = {
    "lab.clab.yml": ("name: x\ntopology:\n  nodes: {a: {kind: linux}}\n", "a containerlab file"),
    "compose.yaml": ("services:\n  web:\n    image: nginx\n", "a Docker Compose file"),
    "docker-compose.yml": ("version: '3'\nservices: {web: {build: .}}\nnetworks: {lan: {}}\n", "a Docker Compose file"),
    "lab.conf": ('LAB_NAME="x"\npc1[0]="A"\n', "a Kathara lab"),
    "other.conf": ('pc1[image]="kathara/base"\n', "a Kathara lab"),
    "topo.py": ("from mininet.topo import Topo\n", "a Mininet program"),
    "drawn.mn": ('{"application": {}, "hosts": [], "links": [], "switches": []}', "a MiniEdit file"),
    "topology.yml": ("provider: clab\nnodes: [r1, r2]\nlinks: [r1-r2]\n", "a netlab file"),
    "project.gns3": ('{"type": "topology", "version": "2.2", "topology": {"nodes": []}}', "a GNS3 project"),
    "sample.imn": ("node n1 {\n    type router\n}\n", "a CORE file"),
    "sample.xml": ('<?xml version="1.0"?>\n<scenario name="x"><networks/></scenario>\n', "a CORE file"),
    "pod.yaml": ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", "a Kubernetes manifest"),
    "50-cloud-init.yaml": ("network:\n  version: 2\n  ethernets: {eth0: {dhcp4: true}}\n", "a netplan file"),
    "Vagrantfile": ('Vagrant.configure("2") do |config|\nend\n', "a Vagrantfile"),
    "Abilene.gml": ("graph [\n  directed 0\n  node [\n    id 0\n  ]\n]\n", "a graph (GraphML or GML)"),
    "Abilene.graphml": (
        '<?xml version="1.0"?>\n<graphml xmlns="http://x"><graph/></graphml>\n',
        "a graph (GraphML or GML)",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_tool_is_explained_with_the_page_that_helps(tmp_path: Path, name: str) -> None:
    text, what = FILES[name]
    path = tmp_path / name
    path.write_text(text)
    for wanted in (Kind.TOPOLOGY, Kind.SCENARIO, Kind.NEITHER):
        message = str(explained(path, wanted, InputError("a list of unknown keys")))
        assert message.startswith(f"{path}: cannot read {what}. docs/")
        page = message.partition("docs/")[2].partition(" ")[0]
        assert (ROOT / "docs" / page).is_file()


@pytest.mark.parametrize("names", [("lab.conf",), ("readme.txt",)])
def test_a_directory_of_another_tool_is_recognised(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    message = str(nothing_in([str(tmp_path)], "no scenario in there."))
    kathara = f"{tmp_path}: cannot read a Kathara lab. docs/how-to/from-kathara.md "
    assert message.startswith(kathara) if "lab.conf" in names else message == f"{tmp_path}: no scenario in there."


def test_no_shipped_file_is_recognised_as_another_tools() -> None:
    ours = [*ROOT.glob("scenarios/*.yaml"), *ROOT.glob("topologies/*.yaml"), *ROOT.glob("labctl/starter/*")]
    assert len(ours) > 30
    assert [path for path in ours if recognise(path) is not None] == []


def test_a_pipe_and_a_device_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert recognise(tmp_path / "pipe") is None
    assert recognise(Path("/dev/zero")) is None


def test_a_scenario_given_as_a_topology_names_the_command_that_runs_it(tmp_path: Path) -> None:
    path = tmp_path / "hello.yaml"
    path.write_text("topology: star:3\nsteps:\n  - run: {on: h1, run: ['true']}\n")
    with pytest.raises(InputError) as caught:
        load_topology(str(path))
    assert str(caught.value) == (
        f"{path}: is a scenario, not a topology. Try: labctl run {path}. Its network: labctl up star:3"
    )


def test_suggested_commands_work_in_the_current_directory(tmp_path: Path) -> None:
    folder = tmp_path / "my lab"
    folder.mkdir()
    (folder / "net.yaml").write_text("hosts: {a: {}}\n")
    (folder / "talk.yaml").write_text("topology: net.yaml\nsteps:\n  - run: {on: a, run: ['true']}\n")
    message = str(explained(folder / "talk.yaml", Kind.TOPOLOGY, InputError("")))
    assert f"Try: labctl run '{folder}/talk.yaml'." in message
    assert message.endswith(f"labctl up '{folder}/net.yaml'")
    with pytest.raises(InputError, match=r"this is a directory, not a file\. A topology in it: '.*/my lab/net\.yaml'$"):
        load_topology(str(folder))


def test_every_shipped_topology_can_be_loaded_by_its_name() -> None:
    from labctl.cli import files

    for name in files.shipped_topologies():
        assert load_topology(name).nodes, name


def test_a_file_takes_precedence_over_a_shape_and_a_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_topology("pair") != Path("pair")
    (tmp_path / "pair").write_text("hosts: {a: {}}\n")
    assert find_topology("pair") == Path("pair")
    assert find_topology("star:3") == "star:3"


@pytest.mark.parametrize("word", ["ofice", "no/such.yaml", "nothing"])
def test_an_unknown_topology_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="no shipped topology has that name"):
        find_topology(word)
