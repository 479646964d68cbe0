"""Mistakes in topology files: each file in tests/bad-input/topologies gives the text beside it; limits; includes."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from labctl import topology
from labctl.documents import DocumentError
from labctl.errors import InputError
from labctl.topology.parse import INCLUDE_DIRS

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


def test_ten_megabytes_of_nesting_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("[" * 10_000_000)
    before = time.process_time()
    assert "the file is larger than 4 MiB" in complaint(file)
    assert time.process_time() - before < 2


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_within_the_size_limit_is_refused_with_a_position(
    opening: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "deep.yaml"
    file.write_text(opening * (4_000_000 // len(opening)))
    before = time.process_time()
    with pytest.raises(DocumentError) as caught:
        topology.load(file)
    assert caught.value.diagnostics[0].position is not None
    assert time.process_time() - before < 5


def test_a_file_that_is_not_utf8_is_reported_with_the_position_of_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"hosts:\n  caf\xe9: {}\n")
    said = complaint(file)
    assert "latin.yaml:2:6: the file is not UTF-8: the byte 0xe9" in said


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    assert "this is a directory" in complaint(tmp_path)


def test_a_misspelt_file_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "office.yaml").write_text("hosts: {a: }\n")
    assert "there is no such file\n  did you mean `office.yaml`?" in complaint(tmp_path / "ofice.yaml")


def load_in_time(file: Path, text: str, *, within_s: float = 3) -> str:
    """What is wrong with the text, found within that much processor time."""
    file.write_text(text)
    before = time.process_time()
    said = complaint(file)
    assert time.process_time() - before < within_s
    return said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("hosts: {a: {count: 250}, b: {count: 250}}\nlinks: [[a, b]]\n", "there are more than 50000 links"),
        ("hosts: {a: {count: 5000}}\nlinks:\n" + "  - [a, a]\n" * 1000, "the link would join a-1 to itself"),
        ("hosts: {a: {count: 5000}, b: {}}\nlinks:\n" + "  - [a, b]\n" * 1000, "there are more than 50000 links"),
        ("hosts:\n" + "".join(f"  h{n}:\n" for n in range(60_000)), "there are more than 10000 nodes"),
        ("hosts: {a: {count: 5000, services: {x: {shell: x}, y: {shell: x}, z: {shell: x}}}}", "10000 services"),
        ("hosts: {a: {count: 5000, exec: [" + ", ".join(f"ls {n}" for n in range(99)) + "]}}\n", "99 commands, files"),
        ("hosts: {a: }\n" + "".join(f"key{n}: 1\n" for n in range(60_000)), "and 59900 more mistakes"),
        (
            "hosts: {" + ", ".join(f"host{n}: " for n in range(1000)) + "}\nlinks:\n"
            + "".join(f"  - [hots{n}, hsot{n}]\n" for n in range(1000)),
            "and 1900 more mistakes",
        ),
        (
            "routers: {" + ", ".join(f"r{n}: " for n in range(2500)) + "}\nlinks:\n"
            + "".join(f"  - [r{n}, r{n + 1}]\n" for n in range(2499)),
            "too many routes",
        ),
        ("hosts: {" + "a" * 1_000_000 + "b: 5}\nlinks: []\n", "not YAML"),
    ],
)  # fmt: skip
def test_too_large_input_is_refused_before_its_processing(text: str, part: str, tmp_path: Path) -> None:
    said = load_in_time(tmp_path / "much.yaml", text)
    assert part in said
    assert len(said) < 100_000


def test_includes_have_a_depth_limit(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"f{number}.yaml").write_text(f"include: [f{number + 1}.yaml]\nhosts: {{h{number}: }}\n")
    assert "nested at most 32 deep" in complaint(tmp_path / "f0.yaml")


@pytest.mark.parametrize("target", ["fifo", "socket", "/dev/zero", "/proc/kmsg", "."])
def test_only_regular_files_are_read(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(INCLUDE_DIRS, "/")
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        Path("lab.yaml").write_text(f"include: [{target}]\nhosts: {{a: }}\n")
        said = complaint("lab.yaml")
        assert f"cannot include `{target}`" in said or "expected a mapping, got nothing" in said
        assert complaint(Path(target))


def test_a_file_includes_what_lies_below_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labs" / "parts").mkdir(parents=True)
    (tmp_path / "common.yaml").write_text("hosts: {a: }\n")
    (tmp_path / "labs" / "parts" / "b.yaml").write_text("hosts: {b: }\n")
    (tmp_path / "labs" / "link.yaml").symlink_to(tmp_path / "common.yaml")
    lab = tmp_path / "labs" / "lab.yaml"
    lab.write_text("include: [parts/b.yaml]\n")
    assert "b" in topology.load(lab)
    for outside in ("../common.yaml", str(tmp_path / "common.yaml"), "link.yaml"):
        lab.write_text(f"include: [{outside}]\n")
        assert "it lies outside the directory of lab.yaml" in complaint(lab)
        with monkeypatch.context() as allowed:
            allowed.setenv(INCLUDE_DIRS, f"/nowhere:{tmp_path}")
            assert "a" in topology.load(lab)


def test_no_line_of_another_program_s_file_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("root:*:19000:0:99999:7:::\nme:$y$hash: {\n")
    (tmp_path / "labs").mkdir()
    monkeypatch.chdir(tmp_path / "labs")
    monkeypatch.setenv(INCLUDE_DIRS, str(tmp_path))
    Path("lab.yaml").write_text(f"include: [{secret}]\nhosts: {{a: }}\n")
    for source in (secret, Path("lab.yaml")):
        said = complaint(source)
        assert "this is not a labctl file" in said
        assert ":*:" not in said
        assert "hash" not in said


def test_exposures_of_many_addresses_are_compared_quickly(tmp_path: Path) -> None:
    exposed = ", ".join(f'"127.{n // 250}.{n % 250}.1:80:80"' for n in range(5000))
    said = load_in_time(tmp_path / "ports.yaml", f'hosts: {{a: {{expose: [{exposed}, "80:81", "127.1.1.1:80:82"]}}}}\n')
    assert said.count("exposed twice") == 2
