"""What the two ends of a copy make of files that change and of streams that lie."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from labctl.cli import cp_ends
from labctl.cli.cp_ends import CUT_SHORT, DIRECTORY, FILE, HEADER, LENGTH, LINK, MAX_DEPTH, CopyProblem, receive, send

TOP = ("tree", "d", "link", "hard", "device", "program", "dir", "sub", "source", "x", "y")  # what the tests ask for


def entry(kind: bytes, name: str, content: bytes = b"", *, mode: int = 0o755, mtime_ns: int = 10**18) -> bytes:
    """An entry of a stream as the sender writes it, with any name."""
    encoded = os.fsencode(name)
    data = HEADER.pack(kind, mode, mtime_ns, len(encoded)) + encoded
    if kind == FILE:
        return data + (LENGTH.pack(len(content)) + content if content else b"") + LENGTH.pack(0)
    return data + (LENGTH.pack(len(content)) + content if kind == LINK else b"")


def received(target: Path, *entries: bytes, asked_for: Sequence[str] = TOP, several: bool = False) -> list[str]:
    return receive(str(target), io.BytesIO(b"".join(entries)), asked_for, several=several)


def sent(*paths: Path) -> tuple[bytes, list[str]]:
    stream = io.BytesIO()
    problems = send([str(path) for path in paths], stream)
    return stream.getvalue(), problems


def everything_in(directory: Path) -> list[tuple[str, int, int, str | bytes]]:
    """Each file's path, mode, times and content."""
    return [
        (str(path), seen.st_mode, seen.st_mtime_ns, path.read_bytes() if path.is_file() else "")
        for path in sorted(directory.rglob("*"))
        for seen in [path.lstat()]
    ] + [(str(directory), directory.stat().st_mode, directory.stat().st_mtime_ns, "")]


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory that must stay as it is."""
    directory = tmp_path / "victim"
    directory.mkdir(0o750)
    (directory / "file").write_text("mine")
    before = everything_in(directory)
    yield directory
    assert everything_in(directory) == before


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "target"
    directory.mkdir()
    return directory


def test_a_tree_arrives_with_modes_times_and_links(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "large").write_bytes(os.urandom(1 << 20))
    (source / "empty").touch()
    (source / "link").symlink_to("sub/large")
    (source / os.fsdecode(b"\xff\n")).write_text("odd name")
    (source / "sub").chmod(0o500)
    os.utime(source / "empty", ns=(1, 123_456_789_123_456_789))
    stream, problems = sent(source)
    assert problems == []
    assert received(target, stream) == []
    copied = target / "tree"
    assert (copied / "sub" / "large").read_bytes() == (source / "sub" / "large").read_bytes()
    assert os.readlink(copied / "link") == "sub/large"
    assert (copied / os.fsdecode(b"\xff\n")).read_text() == "odd name"
    assert (copied / "empty").stat().st_mtime_ns == 123_456_789_123_456_789
    assert stat.S_IMODE((copied / "sub").stat().st_mode) == 0o500
    assert received(target, stream) == [] or os.geteuid() != 0  # a second time: nobody but root may write to `sub`


@pytest.mark.parametrize("kind", [DIRECTORY, FILE, LINK])
def test_a_link_in_the_target_is_never_followed(kind: bytes, victim: Path, target: Path) -> None:
    (target / "d").mkdir()
    (target / "d" / "sub").symlink_to(victim)
    below = entry(kind, "d/sub/file", b"theirs", mode=0o777)
    problems = received(target, entry(DIRECTORY, "d"), entry(DIRECTORY, "d/sub", mode=0o777), below)
    assert problems == [
        f"{target}/d/sub: cannot create the directory: a symbolic link or file has its name. Remove it",
    ]
    assert received(target, entry(kind, "d/sub/file", b"theirs"))[0].startswith(f"{target}/d/sub/file: ")


def test_a_file_replaces_a_link_instead_of_writing_to_its_target(victim: Path, target: Path) -> None:
    (target / "link").symlink_to(victim / "file")
    os.link(victim / "file", target / "hard")
    (target / "device").symlink_to("/dev/null")
    (victim / "file").chmod(0o644)
    for name in ("link", "hard", "device"):
        assert received(target, entry(FILE, name, b"theirs", mode=0o600)) == []
        assert (target / name).read_bytes() == b"theirs"
        assert not (target / name).is_symlink()


def test_links_in_the_stream_are_created_last(victim: Path, target: Path) -> None:
    link = entry(LINK, "d/sub", os.fsencode(victim))
    inside = entry(FILE, "d/sub/file", b"theirs")
    assert received(target, entry(DIRECTORY, "d"), link, inside) == [f"{target}/d/sub/file: No such file or directory"]
    assert os.readlink(target / "d" / "sub") == str(victim)
    again = received(target, entry(DIRECTORY, "d"), entry(DIRECTORY, "d/sub"), inside)
    assert len(again) == 1
    assert (target / "d" / "sub").is_symlink()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", ".", "..", "", "a//b", "a/./b", "a\0b"])
def test_a_name_that_leads_outside_ends_the_copy(name: str, target: Path) -> None:
    for kind in (DIRECTORY, FILE, LINK):
        with pytest.raises(CopyProblem, match="leads outside"):
            received(target, entry(kind, name, b"x"))
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("unasked", [entry(FILE, ".bashrc"), entry(DIRECTORY, ".ssh"), entry(LINK, "x", b"/etc")])
def test_an_unrequested_name_ends_the_copy(unasked: bytes, target: Path) -> None:
    with pytest.raises(CopyProblem, match="was sent without request"):
        received(target, unasked, asked_for=["x"])
    assert list(target.iterdir()) == []


def test_setuid_and_setgid_are_not_kept(target: Path) -> None:
    assert received(target, entry(FILE, "program", b"x", mode=0o6755), entry(DIRECTORY, "dir", mode=0o7755)) == []
    assert stat.S_IMODE((target / "program").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "dir").stat().st_mode) == 0o1755


@pytest.mark.parametrize(
    "stream",
    [
        entry(FILE, "x", b"content")[:-1],
        entry(FILE, "x", b"content")[:20],
        HEADER.pack(FILE, 0, 0, 0xFFFF_FFFF),
        entry(FILE, "x")[: -LENGTH.size] + LENGTH.pack(0xFFFF_FFFE),
        HEADER.pack(b"b", 0, 0, 1) + b"x",
        entry(DIRECTORY, "/".join(["d"] * (MAX_DEPTH + 2))),
        b"garbage",
    ],
    ids=["cut", "cut in the name", "endless name", "endless chunk", "device", "deep", "garbage"],
)
def test_a_malformed_stream_ends_the_copy_and_leaves_no_file(stream: bytes, target: Path) -> None:
    with pytest.raises(CopyProblem):
        received(target, stream)
    assert list(target.iterdir()) == []


def test_a_file_that_the_sender_cannot_read_completely_is_not_written(target: Path) -> None:
    (target / "x").write_text("as it was")
    begun = entry(FILE, "x", b"part")[: -LENGTH.size] + LENGTH.pack(CUT_SHORT)
    assert received(target, begun, entry(FILE, "y", b"next")) == []
    assert (target / "x").read_text() == "as it was"
    assert sorted(os.listdir(target)) == ["x", "y"]


def test_a_source_deeper_than_allowed_is_reported(tmp_path: Path) -> None:
    (tmp_path / "deep").joinpath(*["d"] * (MAX_DEPTH + 5)).mkdir(parents=True)
    _, problems = sent(tmp_path / "deep")
    assert len(problems) == 1
    assert "nested too deeply" in problems[0]


SWAP = """
import ctypes, os, sys
exchange = ctypes.CDLL(None).renameat2
path, link = (os.fsencode(word) for word in sys.argv[1:])
print(flush=True)
while exchange(-100, path, -100, link, 2) == 0:  # AT_FDCWD, RENAME_EXCHANGE
    pass
"""


@contextmanager
def swapped_all_the_time(path: Path, victim: Path) -> Iterator[None]:
    """Another process lets the directory `path` and a link to `victim` take turns under the one name."""
    link = path.parent.with_name("link")
    link.symlink_to(victim)
    with subprocess.Popen([sys.executable, "-c", SWAP, path, link], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
            assert process.poll() is None
        finally:
            process.kill()


def test_a_directory_that_is_swapped_with_a_link_leads_no_write_outside(victim: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "sub").mkdir(parents=True)
    entries = [entry(FILE, f"sub/{number}", b"theirs", mode=0o777) for number in range(50)]
    stream = entry(DIRECTORY, "sub", mode=0o777) + b"".join(entries) + entry(LINK, "sub/link", b"x")
    with swapped_all_the_time(target / "sub", victim):
        for _ in range(100):
            received(target, stream)


def test_a_directory_that_is_swapped_with_a_link_leads_no_read_outside(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    check = cp_ends._check_kind

    def swapped_when_seen(seen: os.stat_result) -> None:
        check(seen)
        if seen.st_ino == (source / "sub").lstat().st_ino:
            (source / "sub").rmdir()
            (source / "sub").symlink_to(victim)

    monkeypatch.setattr(cp_ends, "_check_kind", swapped_when_seen)
    stream, problems = sent(source)
    assert b"mine" not in stream
    assert len(problems) == 1


def test_a_file_that_shrinks_during_the_copy_does_not_affect_the_others(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"x" * 1000)
    (source / "b").write_text("whole")
    check = cp_ends._check_kind

    def shrunk_when_seen(seen: os.stat_result) -> None:
        check(seen)
        os.truncate(source / "a", 10)

    monkeypatch.setattr(cp_ends, "_check_kind", shrunk_when_seen)
    stream, problems = sent(source)
    assert (problems, received(target, stream)) == ([], [])
    assert (target / "source" / "b").read_text() == "whole"
