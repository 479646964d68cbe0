"""Logs of background programs, read while the programs write."""

from __future__ import annotations

from pathlib import Path

from labctl.cli.programs import Log


def test_a_log_is_read_across_a_change_of_its_halves(tmp_path: Path) -> None:
    older, current = tmp_path / "log.1", tmp_path / "log"
    log = Log("h1/web", older, current)
    assert log.all_so_far() == b""
    current.write_bytes(b"one\ntw")
    assert log.lines(log.more()) == [b"one"]
    with current.open("ab") as file:
        file.write(b"o\n")
    current.rename(older)
    current.write_bytes(b"three")
    assert log.lines(log.more()) == [b"two"]
    assert log.lines(log.more(), final=True) == [b"three"]
    assert log.more() == b""


def test_both_halves_are_shown_first(tmp_path: Path) -> None:
    older, current = tmp_path / "log.1", tmp_path / "log"
    older.write_bytes(b"one\n")
    current.write_bytes(b"two\n")
    assert Log("h1/web", older, current).all_so_far() == b"one\ntwo\n"
