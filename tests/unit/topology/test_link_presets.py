"""Every preset is an impairment, asymmetric where its source is, and names its source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.topology.impairments import changed, read_changes
from labctl.topology.link_presets import PRESETS
from labctl.units import format_rate, format_us
from tests.unit.topology.drafts import resolved


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_an_impairment_with_a_source(name: str) -> None:
    preset = PRESETS[name]
    assert preset.source
    near, far = (changed(None, read_changes({"preset": name}), is_far=is_far) for is_far in (False, True))
    assert (near.rate_bit_s, far.rate_bit_s) == (preset.up_bit_s, preset.down_bit_s)
    assert near.delay_us == far.delay_us == preset.delay_us


def test_a_link_s_preset_is_the_access_of_its_first_end_and_other_values_replace_it() -> None:
    topology = resolved(
        "hosts: {home: , isp: }", "links: [{ends: [home, {node: isp, rate: 2mbit}], preset: dsl, delay: 5ms}]"
    )
    assert str(topology.node("home").interface("eth0").impairment) == "delay 5ms rate 384kbit"
    assert str(topology.node("isp").interface("eth0").impairment) == "delay 5ms rate 2mbit"


def test_a_wrong_name_is_answered_with_the_near_one() -> None:
    with pytest.raises(ValueError, match="there is no preset `4gg`; did you mean `4g`"):
        read_changes({"preset": "4gg"})


PAGE = Path(__file__).parents[3] / "docs" / "impairments.md"
BEGIN, END = "<!-- presets: begin -->\n", "<!-- presets: end -->"


def table() -> str:
    rows = ["| preset | down | up | delay | what, and from where |", "|---|---|---|---|---|"]
    for name, one in PRESETS.items():
        rates = [format_rate(rate) if rate else "-" for rate in (one.down_bit_s, one.up_bit_s)]
        delay = format_us(one.delay_us) if one.delay_us else "-"
        rows.append(f"| {' | '.join((f'`{name}`', *rates, delay, f'{one.about}. {one.source}'))} |")
    return "\n".join(rows) + "\n"


def test_the_page_lists_the_presets() -> None:
    """To write the table: LABCTL_WRITE_EXPECTED=1."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    there, end, after = rest.partition(END)
    if os.environ.get("LABCTL_WRITE_EXPECTED"):
        PAGE.write_text(before + BEGIN + table() + end + after)
    assert there == table()
