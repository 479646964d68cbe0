from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import InputError
from labctl.scenario import discover


def test_a_directory_gives_its_scenarios_sorted_and_no_topologies(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name, text in {
        "b.yaml": "topology: pair\nsteps: []\n",
        "a.yml": "steps:\n  - x\n",
        "net.yaml": "hosts: {a: }\n# steps: none\n",
        "deep/c.yaml": '"steps": []\n',
        ".hidden/d.yaml": "steps: []\n",
        "notes.txt": "steps: []\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert [str(path.relative_to(tmp_path)) for path in discover([tmp_path])] == ["a.yml", "b.yaml", "deep/c.yaml"]


def test_a_file_is_taken_as_given_and_only_once(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("")
    assert discover([file, str(file)]) == (file,)


def test_what_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file or directory"):
        discover([tmp_path / "nothing"])


def test_a_directory_without_scenarios_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scenario in this directory"):
        discover([tmp_path])
