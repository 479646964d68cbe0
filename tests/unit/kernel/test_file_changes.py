"""Changes of files by inotify: written, replaced by rename, and neighbours that do not matter."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from labctl.kernel.file_changes import FileWatch


def is_readable(watch: FileWatch) -> bool:
    return bool(select.select([watch], [], [], 0)[0])


def test_a_file_that_is_written_or_replaced_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("1")
    with FileWatch([path]) as watch:
        assert not is_readable(watch)
        path.write_text("2")
        assert is_readable(watch)
        assert watch.changed() == {str(path)}
        (tmp_path / "new").write_text("3")
        os.rename(tmp_path / "new", path)
        assert watch.changed() == {str(path)}
        assert watch.changed() == set()


def test_other_files_of_the_directory_do_not_matter(tmp_path: Path) -> None:
    with FileWatch([tmp_path / "a.yaml"]) as watch:
        (tmp_path / "b.yaml").write_text("1")
        assert watch.changed() == set()


def test_a_missing_directory_is_named_and_no_descriptor_stays(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match="none"):
        FileWatch([tmp_path / "none" / "a.yaml"])
    assert len(os.listdir("/proc/self/fd")) == before
