"""Raw mode and window size of a real pty."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator

import pytest

from labctl.cli.terminal import RawMode, set_window, window_of


@pytest.fixture
def terminal() -> Iterator[int]:
    master, slave = pty.openpty()
    yield slave
    os.close(master)
    os.close(slave)


def test_raw_mode_passes_all_keys_on_and_is_undone(terminal: int) -> None:
    before = termios.tcgetattr(terminal)
    with RawMode(terminal):
        assert not termios.tcgetattr(terminal)[3] & (termios.ISIG | termios.ICANON | termios.ECHO)
    assert termios.tcgetattr(terminal) == before


def test_the_window_is_that_of_the_first_terminal(terminal: int) -> None:
    set_window(terminal, (30, 100))
    reading, writing = os.pipe()
    try:
        assert window_of(None, reading, terminal) == (30, 100)
        assert window_of(reading) == (24, 80)
    finally:
        os.close(reading)
        os.close(writing)
