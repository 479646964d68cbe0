"""The pairs of nodes that `labctl ping` tests."""

from __future__ import annotations

from collections import Counter

import pytest

from labctl import topology
from labctl.errors import InputError
from labctl.observe.ping import choose_pairs, pingable_nodes
from labctl.plan.build import build


def test_every_pair_is_tried_in_both_families() -> None:
    tries = choose_pairs(build(topology.load("pair")), ["client", "server"])
    assert [(each.source, each.target, each.family) for each in tries] == [
        ("client", "server", "4"),
        ("client", "server", "6"),
        ("server", "client", "4"),
        ("server", "client", "6"),
    ]


def test_one_host_has_nobody_to_ask() -> None:
    with pytest.raises(InputError, match="Try: ping with two hosts or more"):
        choose_pairs(build(topology.load("pair")), ["client"])


@pytest.mark.parametrize("count", [101, 300, 1000])
def test_of_many_hosts_each_pings_and_is_pinged_by_equally_many_others(count: int) -> None:
    planned = build(topology.load(f"star:{count}"))
    nodes = pingable_nodes(planned, routers=False)
    tries = [each for each in choose_pairs(planned, nodes) if each.family == "4"]
    asks, asked = Counter(each.source for each in tries), Counter(each.target for each in tries)
    assert asks == asked
    assert set(asks) == set(nodes)
    assert len(set(asks.values())) == 1
    assert len(tries) < 5000
    assert len({(each.source, each.target) for each in tries}) == len(tries)
    assert ("h1", "h2") in {(each.source, each.target) for each in tries}


def test_on_a_switch_with_a_thousand_ports_each_host_pings_its_two_neighbours_in_the_list() -> None:
    planned = build(topology.load("star:1000"))
    tries = choose_pairs(planned, pingable_nodes(planned, routers=False))
    assert {each.target for each in tries if each.source == "h1"} == {"h2", "h1000"}


def test_every_pair_of_many_hosts_is_chosen_on_request() -> None:
    planned = build(topology.load("star:101"))
    assert len(choose_pairs(planned, pingable_nodes(planned, routers=False), every_pair=True)) == 101 * 100 * 2
