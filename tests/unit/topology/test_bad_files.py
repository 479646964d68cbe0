"""Every file in tests/bad-input/topologies gives the text beside it: all of its mistakes, each at its place."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from labctl import topology
from labctl.documents import DocumentError
from labctl.errors import InputError

FILES = Path(__file__).resolve().parents[2] / "bad-input" / "topologies"
NAMES = sorted(path.name for path in FILES.glob("*.yaml"))


def complaint(source: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        topology.load(source)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_file_gives_exactly_the_text_beside_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES)
    expected = FILES / f"{name}.txt"
    said = complaint(name) + "\n"
    if os.environ.get("LABCTL_WRITE_EXPECTED"):
        expected.write_text(said)
    assert said == expected.read_text()


def test_ten_megabytes_of_nesting_are_refused_at_once_with_an_ordinary_message(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("[" * 10_000_000)
    before = time.process_time()
    assert "the file is too large: at most 4 MiB are read" in complaint(file)
    assert time.process_time() - before < 2


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_within_the_size_limit_is_an_ordinary_message_too(opening: str, tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text(opening * (4_000_000 // len(opening)))
    before = time.process_time()
    with pytest.raises(DocumentError) as caught:
        topology.load(file)
    assert caught.value.diagnostics[0].position is not None
    assert time.process_time() - before < 5


def test_a_file_that_is_not_utf8_is_told_with_the_place_of_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"hosts:\n  caf\xe9: {}\n")
    said = complaint(file)
    assert "latin.yaml:2:6: the file is not UTF-8: the byte 0xe9" in said


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    assert "this is a directory" in complaint(tmp_path)


def test_a_misspelt_file_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "office.yaml").write_text("hosts: {a: }\n")
    assert "there is no such file\n  did you mean `office.yaml`?" in complaint(tmp_path / "ofice.yaml")


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ("star:x", "the number of hosts is to be a whole number, not `x`"),
        ("star:0", "the number of hosts must be from 1 to 1023, not 0"),
        ("star:1024", "must be from 1 to 1023"),
        ("star:-3", "is to be a whole number"),
        ("star:999999999999999999999", "is to be a whole number"),
        ("star", "`star` takes the number of hosts; write for example `star:10`"),
        ("pair:2", "`pair` takes no numbers"),
        ("tree:2", "`tree` takes the depth, the fan-out"),
        ("tree:9,9", "at most 5000 nodes"),
        ("stra:3", "did you mean `star`?"),
        ("piar", "did you mean `pair`?"),
        ("ring:3", "shapes are `pair`, `star:10`"),
        ("star:٣", "is to be a whole number"),
    ],
)
def test_a_bad_shape_says_how_shapes_are_written(
    shape: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in complaint(shape)


def test_a_prefix_too_many_for_its_pool_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    links = "\n".join("  - [a, b]" for _ in range(5))
    file.write_text(f"ipv4_pool: 10.0.0.0/23\nhosts: {{a: , b: }}\nlinks:\n{links}\n")
    said = complaint(file)
    assert said.count("the pool 10.0.0.0/23 has no room for a /24") == 1
    assert "pool.yaml:6:5" in said


def test_a_bridge_with_more_ports_than_linux_allows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text("hosts: {h: {count: 1024}}\nnetworks: {lan: {members: [h]}}\n")
    assert "the switch lan has 1024 ports; a Linux bridge has at most 1023" in complaint(file)
