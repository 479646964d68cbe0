"""Samples of sockets, from values that sock_diag(7) reports."""

from __future__ import annotations

import pytest

from labctl.kernel.sock_diag import State
from labctl.timeline.sources.sockets import unread_bytes


@pytest.mark.parametrize(
    ("state", "queue", "unread"),
    [(State.ESTABLISHED, 1, 1), (State.CLOSE_WAIT, 3, 2), (State.CLOSE_WAIT, 1, 0), (State.CLOSE_WAIT, 0, 0)],
)
def test_a_fin_is_no_unread_byte(state: State, queue: int, unread: int) -> None:
    assert unread_bytes(state, queue) == unread
