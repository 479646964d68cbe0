"""Files of other tools, and of the other kind, get one sentence instead of a list of unknown keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.cli.files import Kind, explained, find_topology, kind_of, load_topology, nothing_in, with_way_out
from labctl.errors import InputError, LabImpossible
from tests.unit.formats.samples import DATA

SITES = DATA / "containerlab/sites.clab.yml"


def test_a_foreign_file_given_as_a_scenario_is_named_with_the_commands_that_read_it() -> None:
    message = str(explained(SITES, Kind.SCENARIO, InputError("a list of unknown keys")))
    assert message.startswith(
        f"{SITES}: is a containerlab file, not a scenario. Try: labctl up {SITES}, or labctl import "
    )


def test_a_directory_of_another_tool_is_named(tmp_path: Path) -> None:
    assert str(nothing_in([str(tmp_path)], "no scenario in there.")) == f"{tmp_path}: no scenario in there."
    (tmp_path / "lab.conf").write_text("")
    assert "is a Kathara lab, not a scenario. Try: labctl up " in str(nothing_in([str(tmp_path)], "no scenario."))


def test_a_file_of_a_tool_that_labctl_cannot_read_is_refused_with_the_formats_that_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "sample.imn"
    path.write_text("node n1 {\n")
    with pytest.raises(InputError, match=r"cannot read a CORE file\. labctl reads: GraphML graph"):
        load_topology(str(path))


def test_a_delay_that_the_kernel_refuses_names_the_import_without_it(tmp_path: Path) -> None:
    from labctl import topology

    path = tmp_path / "x.gml"
    path.write_text('graph [ node [ id 0 ] node [ id 1 ] edge [ source 0 target 1 delay "5ms" ] ]')
    refused = LabImpossible("This kernel has no netem.")
    changed = with_way_out(refused, topology.load(path))
    assert isinstance(changed, LabImpossible)
    assert f"labctl import {path} --without delay --without loss -o OUT.yaml" in str(changed)
    assert with_way_out(refused, topology.load("pair")) is refused


def test_a_foreign_file_is_of_its_own_kind() -> None:
    assert kind_of(SITES) is Kind.FOREIGN


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
