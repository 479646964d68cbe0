from __future__ import annotations

from pathlib import Path

import pytest

from labctl.documents import DocumentError
from labctl.errors import InputError
from labctl.scenario import Scenario
from labctl.scenario.loader import has_steps, load


def written(directory: Path, text: str, name: str = "it.yaml") -> Path:
    file = directory / name
    file.write_text(text)
    return file


def loaded(directory: Path, steps: str, header: str = "topology: pair\n") -> Scenario:
    return load(written(directory, f"{header}steps:\n{steps}"))


def complaint(directory: Path, steps: str, header: str = "topology: pair\n") -> str:
    with pytest.raises(DocumentError) as caught:
        loaded(directory, steps, header)
    return str(caught.value)


def test_a_scenario_without_a_name_has_that_of_its_file(tmp_path: Path) -> None:
    steps = "steps:\n  - client: getpid()\n"
    assert load(written(tmp_path, f"topology: pair\n{steps}", "first.yaml")).name == "first"
    assert load(written(tmp_path, f"name: Second\ntopology: pair\n{steps}")).name == "Second"


def test_defaults_of_deadlines(tmp_path: Path) -> None:
    scenario = loaded(tmp_path, "  - client: getpid()\n")
    assert (scenario.within_s, scenario.timeout_s) == (10.0, 60.0)


def test_hosts_come_in_topology_order(tmp_path: Path) -> None:
    assert loaded(tmp_path, "  - h2: getpid()\n", "topology: star:3\n").hosts == ("h1", "h2", "h3")


def test_the_topology_may_be_replaced(tmp_path: Path) -> None:
    file = written(tmp_path, "topology: pair\nsteps:\n  - h1: getpid()\n")
    assert load(file, topology="star:2").hosts == ("h1", "h2")


def test_a_replaced_topology_that_is_wrong_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean `star`"):
        load(written(tmp_path, "topology: pair\nsteps:\n  - h1: getpid()\n"), topology="stra:2")


def test_a_topology_may_stand_in_the_scenario(tmp_path: Path) -> None:
    header = "topology:\n  hosts: {a: , b: }\n  links: [[a, b]]\n"
    assert loaded(tmp_path, "  - a: getpid()\n", header).hosts == ("a", "b")


def test_a_topology_path_is_relative_to_the_scenario(tmp_path: Path) -> None:
    written(tmp_path, "hosts: {left: , right: }\nlinks: [[left, right]]\n", "net.yaml")
    assert loaded(tmp_path, "  - left: getpid()\n", "topology: net.yaml\n").hosts == ("left", "right")


def test_mistakes_of_a_topology_file_are_reported_with_those_of_the_scenario(tmp_path: Path) -> None:
    written(tmp_path, "hosts: {left: , right: }\nlinks: [[left, rihgt]]\n", "net.yaml")
    said = complaint(tmp_path, "  - stpo: left\n", "topology: net.yaml\n")
    assert "net.yaml:2:" in said
    assert "unknown kind of step `stpo`\n" in said
    assert "did you mean `stop`?" in said


@pytest.mark.parametrize(
    "content", [b"steps: []\n", b"topology: pair\nsteps:\n  - x\n", b'"steps": []\n', b"'steps' : []\n"]
)
def test_a_file_with_steps_is_a_scenario(content: bytes) -> None:
    assert has_steps(content)


@pytest.mark.parametrize("content", [b"", b"hosts: {a: }\n# steps: none\n", b"a:\n  steps: []\n", b"stepsize: 1\n"])
def test_a_file_without_steps_at_its_top_is_not_a_scenario(content: bytes) -> None:
    assert not has_steps(content)
