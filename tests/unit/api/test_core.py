"""Commands are lists of words."""

from __future__ import annotations

import pytest

from labctl.api.core import check_argv


def test_a_command_is_a_list_of_words() -> None:
    assert check_argv(["a", "b"]) == ("a", "b")
    for wrong in ("ls -l", b"ls"):
        with pytest.raises(TypeError, match="list of words"):
            check_argv(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="are str"):
        check_argv([b"ls"])  # type: ignore[list-item]
