"""The shapes of routes and rules: what belongs together."""

from __future__ import annotations

from typing import Any

import pytest

from labctl.documents.schema import Reading, Shape, Unusable
from labctl.topology.routing_schema import LoopbackFile, RouteFile, RuleFile


def problems(shape: type[Shape], value: Any) -> list[str]:
    reading = Reading(final=True)
    try:
        shape.read(value, reading)
    except Unusable:
        assert reading.problems
    return [one.message for one in reading.problems]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"via": "r1"}, "the key `to` is missing"),
        ({"to": "default"}, "a route needs `via`, `dev` or `hops`, or another `kind`, such as blackhole"),
        ({"to": "default", "kind": "prohibit", "via": "r1"}, "a route of the kind prohibit has no next hop"),
        ({"to": "default", "via": "r1", "hops": [{"via": "r2"}]}, "inside `hops`"),
        ({"to": "default", "hops": [{"via": "r2", "weight": 257}]}, "256"),
        ({"to": "default", "via": "r1", "metric": 0}, "at least 1"),
    ],
)
def test_a_route_has_next_hops_or_another_kind(value: dict[str, Any], message: str) -> None:
    (found,) = problems(RouteFile, value)
    assert message in found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"from": "lan"}, "a rule needs a `table` or a `vrf`, or another `action`, such as prohibit"),
        ({"table": 1, "action": "prohibit"}, "looks up no table: remove `table`"),
        ({"vrf": "red", "action": "prohibit"}, "looks up no table: remove `vrf`"),
        ({"lookup": 1, "vrf": "red"}, "a rule looks up one table: `vrf` is that of the VRF"),
        ({"table": 1, "lookup": 2}, "remove one of `lookup` and `table`"),
        ({"table": 1, "priority": 32766}, "32765"),
    ],
)
def test_a_rule_has_a_table_or_another_action(value: dict[str, Any], message: str) -> None:
    (found,) = problems(RuleFile, value)
    assert message in found


def test_numbers_are_names_of_tables_too() -> None:
    assert RuleFile.read({"table": 100}, Reading(final=True)).table == "100"
    assert LoopbackFile.read({"address": "10.0.0.1"}, Reading(final=True)).anycast is False
