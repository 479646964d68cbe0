"""The pictures of networks in the documentation are those that labctl draws."""

from __future__ import annotations

import pytest

from tests.docs import drawings


@pytest.mark.parametrize("name", drawings.NETWORKS)
def test_a_picture_is_what_labctl_draws_now(name: str) -> None:
    assert (drawings.PICTURES / f"{name}.svg").read_text() == drawings.drawn(name), "run tools/docs --networks"


def test_there_is_no_other_picture() -> None:
    assert {path.stem for path in drawings.PICTURES.iterdir()} == set(drawings.NETWORKS)
