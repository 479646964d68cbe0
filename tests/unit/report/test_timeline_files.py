"""The format of a timeline's file by its name; a file is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labctl.errors import InputError, LabError
from labctl.report.timeline_files import format_named, format_of, save
from tests.timelines import tcp_echo


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.html", "html"), ("a.HTM", "html"), ("a.pcap", "pcap"), ("a.pcapng", "pcap"), ("a.svg", "svg"),
     ("a.json", "json"), ("a.perfetto.json", "perfetto")],
)  # fmt: skip
def test_the_end_of_the_name_chooses_the_format(name: str, format: str) -> None:
    assert format_of(Path(name)).name == format


@pytest.mark.parametrize("name", ["a", "a.txt", "html"])
def test_another_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"no known ending. Try one of .html, .pcapng, .svg, .perfetto.json, .json."):
        format_of(Path(name))


@pytest.mark.parametrize("name", ["html", "json", "perfetto"])
def test_a_format_writes_a_timeline(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    save(tcp_echo(), path, format_named(name))
    assert path.stat().st_size > 500


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    save(tcp_echo(), path)
    assert json.loads(path.read_text())["title"] == "A TCP server and a client on two hosts"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"there/a.json: cannot write the report"):
        save(tcp_echo(), tmp_path / "there" / "a.json", format_named("json"))
