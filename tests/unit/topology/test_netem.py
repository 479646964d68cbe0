"""Impairments as values: text, JSON, and what needs netem."""

from __future__ import annotations

import pytest

from labctl.structs import json_decode, json_encode, replace
from labctl.topology.netem import (
    GilbertElliott,
    Impairment,
    Moment,
    Pair,
    Profile,
    QueueLimit,
    QueueUnit,
)

WHOLE = Impairment(
    20_000,
    gemodel=GilbertElliott(10_000, 100_000),
    rate_bit_s=8000,
    queue=QueueLimit(50_000, QueueUnit.TIME),
    pairs=(Pair("b", "02:00:00:00:00:01", Impairment(40_000)),),
    profile=Profile((Moment(0, Impairment(1)),), 2_000_000),
)


def test_it_is_short_in_text_and_whole_in_json() -> None:
    assert str(WHOLE) == (
        "delay 20ms gemodel 1% 10% 100% 0% rate 8kbit queue 50ms, to b: delay 40ms, profile of 1 moment every 2s"
    )
    assert json_decode(json_encode(WHOLE), type=Impairment) == WHOLE
    assert json_encode(Impairment(loss_ppm=1)) == b'{"loss_ppm":1}'


def test_only_a_delay_without_jitter_and_a_rate_are_not_left_to_chance() -> None:
    fixed = Impairment(20_000, rate_bit_s=8000)
    assert not fixed.is_random
    assert replace(fixed, jitter_us=1).is_random
    assert replace(fixed, pairs=(Pair("b", "02:00:00:00:00:01", Impairment(loss_ppm=1)),)).is_random
    assert replace(fixed, profile=Profile((Moment(0, Impairment(corrupt_ppm=1)),))).is_random


@pytest.mark.parametrize(
    ("impairment", "is_emulated"),
    [
        (Impairment(), False),
        (Impairment(rate_bit_s=8), False),
        (Impairment(loss_ppm=1), True),
        (Impairment(duplicate_ppm=1), True),
        (Impairment(corrupt_ppm=1), True),
        (Impairment(gemodel=GilbertElliott(1, 1)), True),
    ],
)
def test_all_but_a_rate_needs_netem(impairment: Impairment, is_emulated: bool) -> None:
    assert impairment.is_emulated is is_emulated
