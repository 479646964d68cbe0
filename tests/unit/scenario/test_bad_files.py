"""Every file in tests/bad-input/scenarios gives the text beside it: all of its mistakes, each at its place."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from labctl.documents import DocumentError
from labctl.scenario import load

FILES = Path(__file__).resolve().parents[2] / "bad-input" / "scenarios"
NAMES = sorted(path.name for path in FILES.glob("*.yaml"))


def complaint(source: str | Path) -> str:
    with pytest.raises(DocumentError) as caught:
        load(source)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_file_gives_exactly_the_text_beside_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES)
    expected = FILES / f"{name}.txt"
    said = complaint(name) + "\n"
    if os.environ.get("LABCTL_WRITE_EXPECTED"):
        expected.write_text(said)
    assert said == expected.read_text()


def test_ten_megabytes_of_nesting_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("topology: pair\nsteps: " + "[" * 10_000_000)
    before = time.process_time()
    assert "the file is too large" in complaint(file)
    assert time.process_time() - before < 2


def test_steps_nested_as_deep_as_is_read_are_an_ordinary_mistake(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("topology: pair\nsteps:\n- " + "parallel: [{" * 40 + "x: 1" + "}]" * 40 + "\n")
    assert "deep.yaml:3:" in complaint(file)


def test_the_same_mistake_in_many_steps_does_not_flood_the_screen(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text("topology: pair\nsteps:\n" + "  - sever: getpid()\n" * 1000)
    said = complaint(file)
    assert said.count("did you mean `server`?") == 100
    assert "and 900 more mistakes" in said
