"""`labctl graph`: sources, formats by name, files."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.cli import graph
from labctl.errors import InputError


def drawn(capfd: pytest.CaptureFixture[str], source: str, format: str = "auto", labels: str = "auto") -> str:
    assert graph.graph(source, format, None, labels, every_host=False, ascii=False) == 0
    return capfd.readouterr().out


@pytest.fixture(autouse=True)
def no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "labs"))


@pytest.mark.parametrize(
    ("format", "begins"), [("text", "[client]"), ("svg", "<svg"), ("mermaid", "flowchart"), ("dot", 'graph "pair"')]
)
def test_a_shape_is_printed_in_each_format(capfd: pytest.CaptureFixture[str], format: str, begins: str) -> None:
    assert drawn(capfd, "pair", format).startswith(begins)


def test_addresses_are_shown_unless_there_are_many_lines(capfd: pytest.CaptureFixture[str]) -> None:
    assert "10.0.0.1" in drawn(capfd, "pair")
    assert "10.0.0.1" in drawn(capfd, "star:300")
    assert "10.0" not in drawn(capfd, "mesh:10")
    assert "10.0.0.1" in drawn(capfd, "mesh:10", labels="addresses")


@pytest.mark.parametrize(
    ("name", "begins"), [("a.svg", "<svg"), ("a.mmd", "flowchart"), ("a.gv", "graph"), ("a.txt", "[")]
)
def test_the_name_of_the_file_decides_the_format(tmp_path: Path, name: str, begins: str) -> None:
    graph.graph("pair", "auto", tmp_path / name, "auto", every_host=False, ascii=False)
    assert (tmp_path / name).read_text().startswith(begins)


def test_a_name_without_a_known_ending_needs_a_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Try: --format svg"):
        graph.graph("pair", "auto", tmp_path / "a.png", "auto", every_host=False, ascii=False)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/a\.svg: cannot write"):
        graph.graph("pair", "auto", tmp_path / "none" / "a.svg", "auto", every_host=False, ascii=False)


def test_an_unknown_source_is_answered_with_what_there_is() -> None:
    with pytest.raises(InputError, match="office"):
        graph.read("ofice")
