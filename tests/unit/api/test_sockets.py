"""The targets of connections."""

from __future__ import annotations

import pytest

from labctl.api.sockets import target


def test_a_target_is_text_or_a_pair() -> None:
    assert target("server:80") == target(("server", 80)) == ("server", 80)
    assert target("[fd00::2]:80") == ("fd00::2", 80)
    for wrong in ("server", "server:http", ":80", "server:*"):
        with pytest.raises(ValueError, match=r"80|port"):
            target(wrong)
    with pytest.raises(TypeError, match="server"):
        target(80)  # type: ignore[arg-type]
