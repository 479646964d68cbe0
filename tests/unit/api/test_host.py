"""The modes of open() on a host."""

from __future__ import annotations

import pytest

from labctl.api.host import open_flags


@pytest.mark.parametrize("mode", ["", "rw", "rr", "bt", "rbt", "q", "r++"])
def test_a_mode_that_open_does_not_know_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        open_flags(mode)
