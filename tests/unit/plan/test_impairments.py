"""Impairments in plans: order, rendering, differences and seeds."""

from __future__ import annotations

import json

import pytest

from labctl.plan.build import build, set_impairments, topology_of, with_seed
from labctl.plan.diff import Difference, difference
from labctl.plan.operations import (
    AddAddress,
    MakeLink,
    Plan,
    SetImpairment,
    SetUp,
    operations_from_json,
    operations_to_json,
)
from labctl.plan.render import render_json, render_shell, render_text
from labctl.topology.model import Impairment
from tests.unit.topology.drafts import resolved

BAD = Impairment(20_000, 2_000, 10_000, 10_000_000)


def built(link: str, hosts: str = "hosts: {a: , b: }") -> Plan:
    return build(resolved(hosts, f"links: [{{ends: [a, b], {link}}}]"))


def impairments(made: Plan) -> list[SetImpairment]:
    return [one for one in made.operations if isinstance(one, SetImpairment)]


def changed(old: str, new: str) -> Difference:
    return difference(built(old), built(new))


WHOLE = built("delay: 20ms, jitter: 2ms, loss: 1%, rate: 10mbit")


def test_links_are_impaired_when_they_are_made_and_before_they_are_up() -> None:
    kinds = [type(one) for one in WHOLE.operations]
    first = kinds.index(SetImpairment)
    assert impairments(WHOLE) == [SetImpairment("a", "eth0", BAD), SetImpairment("b", "eth0", BAD)]
    assert max(at for at, kind in enumerate(kinds) if kind in (MakeLink, AddAddress)) < first < kinds.index(SetUp)


def test_impairments_survive_the_way_to_the_keeper_and_back_to_a_topology() -> None:
    seeded = with_seed(WHOLE, 7)
    cleared = SetImpairment("a", "eth0", None, BAD, 9000)
    assert operations_from_json(operations_to_json([*seeded.operations, cleared])) == (
        *seeded.operations,
        cleared,
    )
    assert topology_of(WHOLE).node("a").interface("eth0").impairment == BAD


def test_a_plan_shows_impairments_as_text_and_json() -> None:
    assert "impair a:eth0: delay 20ms jitter 2ms loss 1% rate 10mbit\n" in render_text(WHOLE)
    found = [one for one in json.loads(render_json(WHOLE))["operations"] if one["operation"] == "set_impairment"]
    assert [one["impairment"] for one in found] == [
        {"delay_us": 20_000, "jitter_us": 2_000, "loss_ppm": 10_000, "rate_bit_s": 10_000_000}
    ] * 2


def test_a_plan_shows_impairments_as_tc_commands() -> None:
    on_a = [line for line in render_shell(WHOLE).splitlines() if line.startswith("tc -n a ")]
    assert on_a == [
        "tc -n a qdisc replace dev eth0 root handle f3: tbf rate 10000000bit burst 5000 limit 117500",
        "tc -n a qdisc replace dev eth0 parent f3:1 handle f4: netem limit 24797 delay 20000us 2000us loss 1%",
        "tc -n a qdisc replace dev eth0 parent f4:1 handle f5: bfifo limit 117500",
    ]


def test_an_unchanged_impairment_stays_whatever_its_seed() -> None:
    assert not changed("delay: 20ms", "delay: 20ms")
    assert not difference(with_seed(WHOLE, 1), with_seed(WHOLE, 2))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("delay: 20ms", "delay: 30ms, loss: 1%", "~ impairment of a:eth0 - b:eth0: delay 20ms to delay 30ms loss 1%"),
        ("mtu: 1500", "delay: 20ms", "+ delay 20ms on a:eth0 - b:eth0"),
        ("delay: 20ms", "mtu: 1500", "- delay 20ms on a:eth0 - b:eth0"),
    ],
)
def test_a_change_of_both_directions_is_one_line_and_two_operations(old: str, new: str, said: str) -> None:
    found = changed(old, new)
    assert [str(one) for one in found.changes] == [said]
    assert [type(one) for one in found.operations] == [SetImpairment] * 2


def test_a_change_for_one_neighbour_shows_both_values_once_each() -> None:
    def plan(delay: str) -> Plan:
        between = f"between: [{{nodes: [a, b], delay: {delay}}}]"
        return build(resolved("hosts: {a: , b: , c: }", f"networks: {{n: {{members: [a, b, c], {between}}}}}"))

    assert [str(one) for one in difference(plan("10ms"), plan("20ms")).changes] == [
        "~ impairment of packets from a:eth0: to b: delay 20ms (was to b: delay 10ms)",
        "~ impairment of packets from b:eth0: to a: delay 20ms (was to a: delay 10ms)",
    ]


def test_a_change_of_one_direction_names_the_sender() -> None:
    one = build(resolved("hosts: {a: , b: }", "links: [{ends: [a, {node: b, loss: 2%}], loss: 1%}]"))
    found = difference(built("loss: 1%"), one)
    assert [str(change) for change in found.changes] == ["~ impairment of packets from b:eth0: loss 1% to loss 2%"]
    assert found.operations == (SetImpairment("b", "eth0", Impairment(loss_ppm=20_000), Impairment(loss_ppm=10_000)),)


def test_a_new_link_is_shown_with_its_impairment() -> None:
    old = build(resolved("hosts: {a: , b: }"))
    said = [str(change) for change in difference(old, built("ipv4: false, ipv6: false, rate: 1mbit")).changes]
    assert said == ["+ link a:eth0 - b:eth0: rate 1mbit"]


def test_the_impairment_of_a_removed_link_is_not_mentioned() -> None:
    found = difference(built("rate: 1mbit"), build(resolved("hosts: {a: , b: }")))
    assert not [one for one in found.operations if isinstance(one, SetImpairment)]
    assert not [one for one in found.changes if "rate" in str(one)]


def test_queues_of_a_rate_follow_the_mtu() -> None:
    found = changed("rate: 1mbit, mtu: 1500", "rate: 1mbit, mtu: 9000")
    assert [one.mtu for one in found.operations if isinstance(one, SetImpairment)] == [9000, 9000]
    found = changed("delay: 1ms, mtu: 1500", "delay: 1ms, mtu: 9000")
    assert not [one for one in found.operations if isinstance(one, SetImpairment)]


def test_a_replaced_link_is_impaired_again() -> None:
    old = build(resolved("hosts: {a: , b: }", "links: [{ends: [a, b], loss: 1%}]"))
    new = build(resolved("hosts: {a: , b: }", "links: [{ends: [{node: a, mac: '02:00:00:00:00:77'}, b], loss: 1%}]"))
    assert [one for one in difference(old, new).operations if isinstance(one, SetImpairment)] == impairments(new)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rate: 1gbit", "rate: 2gbit", "~ impairment of a:eth0 - b:eth0: rate 1gbit to rate 2gbit"),
        ("mtu: 1500", "rate: 2gbit", "+ rate 2gbit on a:eth0 - b:eth0"),
        ("rate: 1gbit", "mtu: 1500", "- rate 1gbit on a:eth0 - b:eth0"),
    ],
)
def test_changes_on_a_replaced_link_are_shown(old: str, new: str, said: str) -> None:
    other = build(
        resolved("hosts: {a: , b: }", f"links: [{{ends: [{{node: a, mac: '02:00:00:00:00:77'}}, b], {new}}}]")
    )
    told = [str(one) for one in difference(built(old), other).changes]
    assert told == [
        "~ link a:eth0 - b:eth0: replaced, because the MAC address of a:eth0 becomes 02:00:00:00:00:77",
        said,
    ]


def test_a_link_to_another_node_is_another_link() -> None:
    old, new = (
        build(resolved("hosts: {a: , b: , c: }", f"links: [{{ends: [a, {end}], rate: {rate}}}]"))
        for end, rate in (("b", "1gbit"), ("c", "2gbit"))
    )
    assert not [one for one in difference(old, new).changes if "impairment" in str(one)]


def test_a_seed_gives_each_interface_the_same_seed_of_its_own() -> None:
    seeds = [one.seed for one in impairments(with_seed(WHOLE, 42))]
    assert len(set(seeds)) == 2
    assert all(seed is not None and 0 <= seed < 1 << 64 for seed in seeds)
    assert seeds == [one.seed for one in impairments(with_seed(WHOLE, 42))]
    assert seeds != [one.seed for one in impairments(with_seed(WHOLE, 43))]
    assert [one.impairment for one in impairments(with_seed(WHOLE, 42))] == [BAD, BAD]


def test_an_impairment_set_later_has_the_seed_of_one_in_the_plan() -> None:
    later = set_impairments(built("mtu: 1500"), [("a", "eth0"), ("b", "eth0")], BAD, seed=42)
    assert list(later) == impairments(with_seed(WHOLE, 42))


def test_an_impairment_set_later_has_the_previous_one_and_the_mtu() -> None:
    wanted = Impairment(rate_bit_s=8000)
    (later,) = set_impairments(built("loss: 1%, mtu: 9000"), [("b", "eth0")], wanted)
    assert later == SetImpairment("b", "eth0", wanted, Impairment(loss_ppm=10_000), 9000)
