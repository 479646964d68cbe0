from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.scenario.file_schema import Requires
from labctl.scenario.requirements import FEATURES, KnownPrograms, located, unmet
from labctl.topology.model import Bind, FileTree, PlacedFile


def test_every_missing_program_is_a_reason() -> None:
    assert unmet(Requires({"programs": ["sh"]})) == ""
    reason = unmet(Requires({"programs": ["no-such-1", "sh", "no-such-2"]}))
    assert reason == "the program `no-such-1` is not installed; the program `no-such-2` is not installed"


def test_root_is_a_requirement_for_other_users_only() -> None:
    expected = "" if os.geteuid() == 0 else "needs root: not run as root"
    assert unmet(Requires({"root": True})) == expected


@pytest.mark.parametrize("name", FEATURES)
def test_a_missing_feature_is_named_in_the_reason(name: str) -> None:
    problem = FEATURES[name]()
    assert unmet(Requires({"features": [name]})) == (f"needs {name}: {problem}" if problem else "")


def program(directory: Path, name: str, mode: int) -> Path:
    file = directory / name
    file.write_text("#!/bin/sh\n")
    file.chmod(mode)
    return file


def test_a_program_beside_the_scenario_is_located_by_its_path(tmp_path: Path) -> None:
    beside = program(tmp_path, "beside", 0o755)
    program(tmp_path, "not-executable", 0o644)
    assert located("beside", tmp_path) == str(beside)
    assert located("not-executable", tmp_path) is None
    assert located("sh", tmp_path) == "sh"


def test_a_path_that_is_missing_or_not_executable_is_a_problem(tmp_path: Path) -> None:
    program(tmp_path, "file", 0o644)
    known = KnownPrograms(tmp_path, (), ())
    assert known.missing("./none", None)[0] == "there is no program ./none"
    assert known.missing("./file", None)[0] == "./file is not executable"
    assert known.missing("../file", "sub") == ("../file is not executable", known.missing("../file", "sub")[1])


def test_programs_of_steps_and_of_the_topology_are_known(tmp_path: Path) -> None:
    tree = FileTree(files=(PlacedFile("/opt/tool", content="x"),))
    known = KnownPrograms(tmp_path, ("required",), (tree,))
    known.add_name("built")
    known.add_path("/tmp/placed")
    for name in ("required", "built", "/tmp/placed", "/opt/tool", "tool"):
        assert known.missing(name, None) == ("", "")
    assert known.missing("no-such-program", None)[0] == "the program `no-such-program` is not installed on this machine"


def test_a_node_with_binds_may_have_any_program(tmp_path: Path) -> None:
    tree = FileTree(binds=(Bind("/opt", "/opt"),))
    assert KnownPrograms(tmp_path, (), (tree,)).missing("no-such-program", None) == ("", "")
