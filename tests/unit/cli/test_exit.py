"""Messages and exit statuses of signals, of exhausted resources, and of bugs."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest

from labctl.cli.exit import EXIT_BUG, Stopped, complain, report_bug, stopped_status


def test_a_signal_while_a_class_is_created_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("Error calling __set_name__ on 'Key' instance")  # as Python 3.11 raises it
    error.__cause__ = Stopped(signal.SIGTERM)
    assert report_bug(error) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "labctl: interrupted by SIGTERM.\n"


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (MemoryError(), "ulimit -v"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    ],
)
def test_an_exhausted_resource_is_no_bug(error: Exception, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_bug(error) == EXIT_BUG
    assert limit in (said := capsys.readouterr().err)
    assert "bug" not in said


def test_a_bug_is_reported_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_bug(ZeroDivisionError("x")) == EXIT_BUG
    assert "ZeroDivisionError: x" in (said := capsys.readouterr().err)
    assert said.endswith("labctl: this is a bug (ZeroDivisionError). Please report it with this output.\n")


def test_an_interruption_reports_its_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped_status(Stopped(signal.SIGINT, "lab x was removed")) == 130
    assert capsys.readouterr().err == "labctl: interrupted by SIGINT; lab x was removed.\n"


def test_a_message_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a\x1b[2Jb")
    assert capsys.readouterr().err == "a\\x1b[2Jb\n"


def test_a_long_message_wraps_at_word_boundaries_without_source_lines_and_long_paths(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    source, located = "  | " + "x " * 60 + "x", "/a/long/path" * 5 + ":3:1: there is no host `b`, it was renamed"
    complain("\n".join(["word " * 30, located, source]))
    *lines, last_but_one, last = capsys.readouterr().err.splitlines()
    assert (last_but_one, last) == (located, source)
    assert " ".join(lines).split() == ["word"] * 30
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80


def test_a_removed_current_directory_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    removed = tmp_path / "removed"
    removed.mkdir()
    monkeypatch.chdir(removed)
    removed.rmdir()
    assert report_bug(FileNotFoundError(errno.ENOENT, "")) == EXIT_BUG
    assert capsys.readouterr().err == "labctl: the current directory was removed. Try: cd DIRECTORY\n"
