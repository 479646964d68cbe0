"""The line that a person sees while a command works."""

from __future__ import annotations

import io
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from labctl.report.terminal import Look, Screen, waiting


@contextmanager
def terminal() -> Iterator[tuple[int, TextIO]]:
    """The master's descriptor, and the terminal as a stream."""
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as stream:
        try:
            yield master, stream
        finally:
            os.close(master)


def test_after_half_a_second_a_line_shows_the_work_and_it_is_erased_at_the_end() -> None:
    with terminal() as (master, stream):
        shown = b""
        with waiting("making lab x: 60 nodes", Screen(stream, Look(width=60))) as line:
            while b"making lab x: 60 nodes" not in shown:
                shown += os.read(master, 4096)
            line.does("starting 2 services")
            while b"starting 2 services" not in shown:
                shown += os.read(master, 4096)
        shown += os.read(master, 4096)
    assert shown.endswith(b"\x1b[1F\x1b[J")


def test_short_work_shows_nothing() -> None:
    with terminal() as (master, stream):
        with waiting("reading x", Screen(stream)):
            pass
        os.set_blocking(master, False)
        with suppress(BlockingIOError):
            assert os.read(master, 10) == b""


def test_without_a_terminal_nothing_is_shown_and_no_thread_runs() -> None:
    stream = io.StringIO()
    with waiting("reading x", Screen(stream)):
        assert [each.name for each in threading.enumerate() if each.name == "labctl-waiting"] == []
    assert stream.getvalue() == ""
