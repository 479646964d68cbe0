"""`labctl import`: the file on standard output or in OUT, the report on standard error."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl import topology
from labctl.cli.file_commands import plan, validate
from labctl.cli.files import show_report
from labctl.cli.importing import import_file
from labctl.errors import InputError
from labctl.topology.model import Imported
from tests.unit.formats.samples import DATA, ZOO

SITES = DATA / "containerlab/sites.clab.yml"


def test_the_file_goes_to_standard_output_and_the_report_to_standard_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert import_file(str(ZOO / "Abilene.graphml"), None, (), False, None, False) == 0
    printed = capsys.readouterr()
    assert "GraphML: 11 routers, 14 links" in printed.err
    (tmp_path / "abilene.yaml").write_text(printed.out)
    assert len(topology.load(tmp_path / "abilene.yaml").links) == 14


def test_a_file_is_written_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "sites.yaml"
    assert import_file(str(SITES), out, (), False, None, False) == 0
    binds = [[bind.source for bind in node.tree.binds] for node in topology.load(out).nodes]
    assert binds == [[bind.source for bind in node.tree.binds] for node in topology.load(SITES).nodes]
    with pytest.raises(InputError, match="the file exists"):
        import_file(str(SITES), out, (), False, None, False)
    assert import_file(str(SITES), out, ("commands",), False, None, True) == 0
    assert "exec" not in out.read_text()


def test_a_part_that_does_not_exist_and_a_file_of_labctl_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--without: dealy is not one of delay, rate, loss, commands"):
        import_file(str(SITES), None, ("dealy",), False, None, False)
    own = tmp_path / "own.yaml"
    own.write_text("hosts: {a: {}}\n")
    with pytest.raises(InputError, match="is a topology of labctl already"):
        import_file(str(own), None, (), False, None, False)
    with pytest.raises(InputError, match="no such file"):
        import_file(str(tmp_path / "none"), None, (), False, None, False)


def test_a_long_report_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    report = tuple(f"left out: {number}" for number in range(20))
    show_report(Imported("x", "tool: 1 host", "", report, False))
    assert capsys.readouterr().err.splitlines()[-1] == "  and 9 more; labctl import x lists all"


def test_plan_and_validate_read_foreign_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(str(ZOO / "Arpanet196912.graphml"), None, "text", None) == 0
    assert validate([str(SITES), str(DATA / "kathara")]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("topology Arpanet196912: 4 routers, 4 links")
    assert "sites.clab.yml: topology, 7 nodes, 5 links" in printed.out
    assert "kathara: topology, 5 nodes, 4 links" in printed.out


def test_plan_and_validate_run_no_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scenario = tmp_path / "s.yaml"
    scenario.write_text(f"topology: {DATA / 'mininet/office.py'}\nsteps: []\n")
    with pytest.raises(InputError, match=r"this command runs nothing. Try: labctl import"):
        plan(str(DATA / "mininet/office.py"), None, "text", None)
    assert validate([str(DATA / "mininet/office.py"), str(scenario)]) == 2
    assert capsys.readouterr().err.count("this command runs nothing") == 2
