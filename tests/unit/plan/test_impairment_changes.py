"""Values of links change key by key: those that are not mentioned stay, in each direction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from labctl.plan.build import build
from labctl.plan.impairment_changes import change_impairments, clear_impairments, sendings
from labctl.plan.operations import MakeLink, Plan, SetImpairment
from labctl.topology.impairments import parse, read_changes
from labctl.topology.model import Endpoint
from labctl.topology.netem import Impairment
from tests.unit.topology.drafts import resolved

A, B = Endpoint("a", "eth0"), Endpoint("b", "eth0")
PLAN = build(resolved("hosts: {a: , b: }", "links: [{ends: [a, b], mtu: 9000}]"))
LAN = build(resolved("hosts: {a: , b: , c: }", "networks: {lan: {members: [a, b, c]}}"))


class Lab:
    def __init__(self, **present: str) -> None:
        self.present = {
            (node, "eth0"): parse(dict(word.split() for word in text.split(", "))) for node, text in present.items()
        }

    def impaired(self, nodes: Iterable[str] = ()) -> Mapping[tuple[str, str], Impairment]:
        return {end: one for end, one in self.present.items() if end[0] in nodes}


def after(lab: Lab, **values: object) -> dict[str, str]:
    made = change_impairments(lab, PLAN, sendings(A, B, None, is_pair=False), read_changes(values))
    assert [one.mtu for one in made] == [9000, 9000]
    return {one.node: str(one.impairment or "none") for one in made}


def test_each_direction_keeps_its_other_values() -> None:
    lab = Lab(a="delay 20ms, rate 8mbit", b="loss 1%")
    assert after(lab, loss="2%") == {"a": "delay 20ms loss 2% rate 8mbit", "b": "loss 2%"}


def test_0_removes_a_value_with_those_that_only_vary_it() -> None:
    lab = Lab(a="delay 20ms, jitter 2ms, distribution normal, loss 1%", b="delay 1ms")
    assert after(lab, delay=0) == {"a": "loss 1%", "b": "none"}


def test_each_model_of_loss_replaces_the_other() -> None:
    assert after(Lab(a="loss 1%"), gemodel="1% 10%")["a"] == "gemodel 1% 10% 100% 0%"
    assert after(Lab(a="gemodel 1%,10%"), loss="3%")["a"] == "loss 3%"


def test_a_preset_replaces_all_and_its_access_is_that_of_the_near_end() -> None:
    lab = Lab(a="loss 1%", b="jitter 1ms, delay 2ms")
    assert after(lab, preset="dsl", loss="2%") == {
        "a": "delay 25ms loss 2% rate 384kbit",
        "b": "delay 25ms loss 2% rate 1500kbit",
    }


def test_values_that_do_not_fit_those_of_one_end_are_refused() -> None:
    with pytest.raises(ValueError, match="the jitter 5ms is more than the delay 1ms"):
        after(Lab(a="delay 10ms", b="delay 1ms"), jitter="5ms")


def test_members_of_a_network_get_values_for_each_other_in_both_directions_or_one() -> None:
    lab = Lab(a="loss 1%")
    both, one = sendings(A, B, None, is_pair=True), sendings(A, Endpoint("c", "eth0"), "a", is_pair=True)

    def step(change: tuple[SetImpairment, ...]) -> dict[str, str]:
        lab.present |= {(each.node, each.ifname): each.impairment or Impairment() for each in change}
        return {each.node: str(each.impairment or "none") for each in change}

    assert step(change_impairments(lab, LAN, both, read_changes({"delay": "5ms"}))) == {
        "a": "loss 1%, to b: delay 5ms loss 1%",
        "b": "to a: delay 5ms",
    }
    assert step(change_impairments(lab, LAN, one, read_changes({"loss": 0, "rate": "1mbit"}))) == {
        "a": "loss 1%, to b: delay 5ms loss 1%, to c: rate 1mbit"
    }
    assert (
        step(change_impairments(lab, LAN, both, read_changes({"jitter": "1ms"})))["b"] == "to a: delay 5ms jitter 1ms"
    )
    assert step(clear_impairments(lab, LAN, both)) == {"a": "loss 1%, to c: rate 1mbit", "b": "none"}
    assert {pair.mac for pair in lab.present["a", "eth0"].pairs} == {mac_of(LAN, "c")}
    with pytest.raises(ValueError, match="a cannot have both a profile and values for its neighbours"):
        change_impairments(lab, LAN, one, read_changes({"profile": [{"at": 0, "loss": "1%"}]}))
    whole = sendings(A, Endpoint("lan", "a"), "a", is_pair=False)
    with pytest.raises(ValueError, match="a cannot have both"):
        change_impairments(lab, LAN, whole, read_changes({"profile": [{"at": 0, "loss": "1%"}]}))


def mac_of(plan: Plan, node: str) -> str:
    links = (one for one in plan.operations if isinstance(one, MakeLink))
    return next(end.mac for link in links for end in (link.a, link.b) if end.node == node)
