"""The keeper's requests."""

from __future__ import annotations

import pytest

from labctl.lab.keeper.keeper import descriptors_needed
from labctl.lab.protocol import BindSocket, Describe, Hello, PutFile, Request, Spawn


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        (Hello(1), 1),
        (Describe(), 0),
        (PutFile("x", 0o644), 1),
        (BindSocket("h", "/x", "/"), 1),
        (Spawn("h", ("true",), (), None, (True, False, True)), 2),
        (Spawn("h", ("true",), (), None, (True, False, True), tracer=("strace",)), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_request_has_the_descriptors_of_its_kind(request_: Request, count: int) -> None:
    assert descriptors_needed(request_) == count
