"""The pictures of the shipped scenarios are of their present files."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from labctl.scenario import load
from tests.docs import ladders


@pytest.mark.parametrize("name", ladders.SCENARIOS)
def test_a_picture_is_of_the_present_scenario(name: str) -> None:
    picture = (ladders.PICTURES / f"{name}.svg").read_text()
    assert ladders.drawn_digest(picture) == ladders.digest(name), f"run tools/docs --ladders {name}"
    title = ElementTree.fromstring(picture).findtext("{http://www.w3.org/2000/svg}title")
    assert title == load(ladders.scenario_file(name)).name


def test_there_is_no_other_picture() -> None:
    assert {path.stem for path in ladders.PICTURES.iterdir()} == set(ladders.SCENARIOS)


def test_the_page_has_all_pictures() -> None:
    scenarios = [load(ladders.scenario_file(name)) for name in ladders.SCENARIOS]
    assert ladders.PAGE.read_text() == ladders.page(scenarios), "run tools/docs --ladders"
