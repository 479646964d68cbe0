"""The table that `labctl ping` shows."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from labctl.observe.ping import PingPair
from labctl.report.terminal import Look, cells, render


def test_the_matrix_says_who_was_not_reached_and_why() -> None:
    four, six = ip_address("10.0.0.2"), ip_address("fd00::2")
    tries = [PingPair("a", "b", four), PingPair("a", "b", six, "no answer"), PingPair("b", "a", four)]
    assert render(["a", "b"], tries, Look()) == [
        "from \\ to a   b",
        "a         ·   4 -",
        "b         4   ·",
        "a -> b (fd00::2): no answer",
        "reached: IPv4 2 of 2, IPv6 0 of 1",
    ]


@pytest.mark.parametrize("count", [2, 12, 60])
def test_a_matrix_fits_into_eighty_columns_or_is_left_out(count: int) -> None:
    nodes = [f"a-rather-long-name-{number}" for number in range(count)]
    tries = [PingPair(a, b, ip_address("10.0.0.1")) for a in nodes for b in nodes if a != b]
    lines = render(nodes, tries, Look())
    assert max(map(cells, lines)) <= 80
    assert len(lines) == (count + 2 if count < 60 else 1)
