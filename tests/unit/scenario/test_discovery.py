from __future__ import annotations

import pytest

from labctl.scenario.loader import has_steps


@pytest.mark.parametrize(
    "content", [b"steps: []\n", b"topology: pair\nsteps:\n  - x\n", b'"steps": []\n', b"'steps' : []\n"]
)
def test_what_has_steps_is_a_scenario(content: bytes) -> None:
    assert has_steps(content)


@pytest.mark.parametrize("content", [b"", b"hosts: {a: }\n# steps: none\n", b"a:\n  steps: []\n", b"stepsize: 1\n"])
def test_what_has_none_at_its_top_is_not(content: bytes) -> None:
    assert not has_steps(content)
