"""Every file in tests/bad-input/topologies gives the text beside it: all of its mistakes, each at its place."""

from __future__ import annotations

import os
import socket
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
    assert "the file is larger than 4 MiB" in complaint(file)
    assert time.process_time() - before < 2


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_within_the_size_limit_is_an_ordinary_message_too(
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
        ("star:x", "the number of hosts must be a whole number, not `x`"),
        ("star:0", "the number of hosts must be from 1 to 1023, not 0"),
        ("star:1024", "must be from 1 to 1023"),
        ("star:-3", "must be a whole number"),
        ("star:999999999999999999999", "must be a whole number"),
        ("star", "`star` takes the number of hosts; write for example `star:10`"),
        ("pair:2", "`pair` takes no numbers"),
        ("tree:2", "`tree` takes the depth, the fan-out"),
        ("tree:9,9", "at most 5000 nodes"),
        ("stra:3", "did you mean `star`?"),
        ("piar", "did you mean `pair`?"),
        ("ring:3", "shapes are `pair`, `star:10`"),
        ("star:٣", "must be a whole number"),
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
def test_what_is_too_much_is_refused_before_it_is_worked_on(text: str, part: str, tmp_path: Path) -> None:
    said = load_in_time(tmp_path / "much.yaml", text)
    assert part in said
    assert len(said) < 100_000


@pytest.mark.parametrize("count", [400, 1500])
def test_a_ring_of_many_routers_is_checked_without_its_routes(count: int, tmp_path: Path) -> None:
    file = tmp_path / "ring.yaml"
    names = [f"r{n}" for n in range(count)]
    links = "".join(f"  - [{a}, {b}]\n" for a, b in zip(names, [*names[1:], names[0]], strict=True))
    file.write_text("routers: {" + ": , ".join(names) + ": }\nlinks:\n" + links)
    before = time.process_time()
    if count == 400:
        assert len(topology.load(file, routes=False).links) == 400
    else:
        assert "routers between some nodes" in complaint(file)
    assert time.process_time() - before < 3


def test_includes_end_at_a_depth(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"f{number}.yaml").write_text(f"include: [f{number + 1}.yaml]\nhosts: {{h{number}: }}\n")
    assert "nested at most 32 deep" in complaint(tmp_path / "f0.yaml")


@pytest.mark.parametrize("target", ["fifo", "socket", "/dev/zero", "/proc/kmsg", "."])
def test_only_regular_files_are_read(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABCTL_INCLUDE_DIRS", "/")
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
            allowed.setenv("LABCTL_INCLUDE_DIRS", f"/nowhere:{tmp_path}")
            assert "a" in topology.load(lab)


def test_no_line_of_somebody_else_s_file_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("root:*:19000:0:99999:7:::\nme:$y$hash: {\n")
    (tmp_path / "labs").mkdir()
    monkeypatch.chdir(tmp_path / "labs")
    monkeypatch.setenv("LABCTL_INCLUDE_DIRS", str(tmp_path))
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
