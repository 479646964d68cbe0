"""Views of the machine's files, and mounts, in mount namespaces of a child."""

from __future__ import annotations

import os
from pathlib import Path

from labctl.kernel import mounts, syscalls
from tests.integration.inside import inside


def test_a_view_hides_covered_directories_but_not_the_visible_paths_in_them(tmp_path: Path) -> None:
    visible = tmp_path / "visible"
    visible.mkdir()
    view = mounts.view_of([str(visible), "/tmp"])
    assert view.hides("/tmp/x")
    assert not view.hides(str(visible / "x"))
    assert not view.hides("/etc")


def test_a_hidden_directory_is_hidden_wherever_it_is_and_never_made_visible(tmp_path: Path) -> None:
    view = mounts.view_of([str(tmp_path)], [str(tmp_path)])
    assert (view.visible, view.hides(str(tmp_path / "x"))) == ((), True)
    assert mounts.view_of([], ["/etc"]).hides("/etc/hosts")


@inside
def test_a_file_is_replaced_in_the_mount_namespace_only(tmp_path: Path) -> None:
    store, target = tmp_path / "store", Path("/etc/hostname")
    before = target.read_text()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY)  # of this user namespace, so that setns(2) may return to it
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_private()
    assert mounts.is_replaceable(str(target))
    assert mounts.replace_file(str(target), "h1\n", str(store), "host h1")
    assert target.read_text() == "h1\n"
    assert not mounts.replace_file("/etc/no-such-file", "", str(store), "host h1")
    syscalls.setns(own, syscalls.CLONE_NEWNS)
    assert target.read_text() == before


@inside
def test_a_bind_can_be_read_only(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_private()
    mounts.mount_tmpfs(str(source), "755")
    mounts.bind(str(source), str(target), read_only=True)
    (source / "x").write_text("x")
    assert (target / "x").read_text() == "x"
    assert not os.access(target, os.W_OK)
    assert set(mounts.mounted_below(str(tmp_path))) == {str(source), str(target)}
    mounts.detach(str(target))
    assert not (target / "x").exists()


@inside
def test_contents_are_mounted_over_existing_files_and_the_others_are_returned() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.follow_machine()
    assert mounts.mount_files({"/etc/hostname": "h1\n", "/etc/no-such-file": ""}) == ("/etc/no-such-file",)
    assert Path("/etc/hostname").read_text() == "h1\n"
    assert Path("/sys/kernel").is_dir()


@inside
def test_a_directory_that_the_machine_has_removed_is_left_out_of_a_copy(tmp_path: Path) -> None:
    source, tree, removed = tmp_path / "source", tmp_path / "tree", tmp_path / "removed"
    for directory in (source / "kept", source / "gone", removed, tree):
        directory.mkdir(parents=True)
    os.makedirs(f"{tree}{source}")
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_private()
    mounts.bind(str(removed), str(source / "gone"))
    removed.rmdir()  # the mount of it stays, and cannot be bound again
    mounts._copy_tree(str(source), str(tree), set())
    assert os.listdir(f"{tree}{source}") == ["kept"]
