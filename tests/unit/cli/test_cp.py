"""Locations that the words of `labctl cp` name."""

from __future__ import annotations

import pytest

from labctl.cli.cp import Location, cp, location
from labctl.errors import InputError


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("h1:/tmp/x", Location("h1", "/tmp/x")),
        ("h1:", Location("h1", "/")),
        ("./h1:x", Location("", "./h1:x")),
        ("/a:b", Location("", "/a:b")),
        ("file", Location("", "file")),
    ],
)
def test_a_node_stands_before_the_first_colon(word: str, expected: Location) -> None:
    assert location(word) == expected


@pytest.mark.parametrize(
    ("paths", "message"), [(("h1:/x",), "TARGET is missing"), (("a", "b"), "neither SOURCE nor TARGET is on a node")]
)
def test_a_copy_needs_a_target_and_a_node(paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cp(paths, None)
