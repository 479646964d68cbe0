"""Durations, sizes, rates and percentages."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.units import (
    duration_s,
    format_duration,
    format_rate,
    format_size,
    format_us,
    fraction,
    rate_bit_s,
    size_bytes,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("2s", 2),
        ("1m", 60),
        ("1.5 s", 1.5),
        ("1m30s", 90),
        ("1h", 3600),
        ("50us", 5e-5),
        (0, 0),
        ("0", 0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("10", "did you mean `10s`?"),
        (10, "did you mean `10s`?"),
        ("10 sec", "unknown unit; did you mean `10s`?"),
        ("10MS", "did you mean `10ms`?"),
        ("fast", "is not a duration; write for example 200ms"),
        ("", "is not a duration"),
        ("-1s", "negative"),
        (True, "expected a duration such as"),
        (None, "expected a duration"),
        ("999h", "a week"),
        ("1s!", "is not a duration"),
    ],
)
def test_a_bad_duration_is_refused_with_the_right_form(text: object, part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        duration_s(text)


@given(st.one_of(st.integers(1, 10**5).map(lambda ms: ms / 1000), st.sampled_from([60.0, 120.0, 3600.0, 0.0])))
def test_a_formatted_duration_reads_back(seconds: float) -> None:
    assert duration_s(format_duration(seconds)) == pytest.approx(seconds, rel=0.01)


def test_sizes_rates_and_percentages() -> None:
    assert size_bytes("64KiB") == 65536
    assert size_bytes(1500) == 1500
    assert size_bytes("1500") == 1500
    assert size_bytes("2MB") == 2_000_000
    assert rate_bit_s("10Mbit") == 10_000_000
    assert rate_bit_s("10mbit") == 10_000_000
    assert rate_bit_s("1Gbit/s") == rate_bit_s("1 gbitps") == 10**9
    assert fraction("0.5%") == 0.005
    assert fraction("100%") == 1


def test_formats_use_the_largest_unit_that_is_exact() -> None:
    assert [format_size(size) for size in (65536, 1500, 0)] == ["64KiB", "1500B", "0B"]
    assert [format_us(time) for time in (20_000, 1500, 2_000_000, 0)] == ["20ms", "1500us", "2s", "0us"]
    assert [format_rate(rate) for rate in (10**7, 1_500_000, 1001)] == ["10mbit", "1500kbit", "1001bit"]


@pytest.mark.parametrize(
    ("read", "text", "part"),
    [
        (size_bytes, "64KB/s", "unknown unit"),
        (size_bytes, "0.5B", "not a whole number of bytes"),
        (size_bytes, "9" * 400 + "KiB", "not a whole number of bytes"),
        (rate_bit_s, "10MB", "unknown unit"),
        (rate_bit_s, "10mbit /s", "is not a rate"),
        (rate_bit_s, 10, "did you mean `10mbit`?"),
        (fraction, "5", "did you mean `5%`?"),
        (fraction, 0.01, "did you mean `0.01%` or `1%`?"),
        (fraction, "5percent", "did you mean `5%`?"),
        (fraction, "5 of 100", "unknown unit `of`; allowed: %"),
        (rate_bit_s, "1.5Mbps", "did you mean `1.5mbit`, or `12mbit`: tc(8) reads Mbps as bytes"),
        (rate_bit_s, "100KB/s", "did you mean `800kbit`?"),
        (rate_bit_s, "10M", "did you mean `10mbit`?"),
        (rate_bit_s, "10,5mbit", "`10,5mbit` is not a rate"),
        (size_bytes, "64K", "did you mean `64KiB`?"),
        (duration_s, "20msec", "did you mean `20ms`?"),
        (duration_s, "20ms 5ms", "`20ms 5ms` is not a duration"),
        (duration_s, "5ms 1s", "is not a duration"),
        (fraction, "101%", "more than 100%"),
        (fraction, 0.5, "did you mean `0.5%` or `50%`?"),
    ],
)
def test_a_bad_quantity_is_refused_with_the_reason(read: object, text: object, part: str) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match=re.escape(part)):
        read(text)
