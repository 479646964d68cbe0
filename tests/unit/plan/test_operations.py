"""Plans and operations as JSON, and the order of services."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings

from labctl import topology
from labctl.errors import InputError
from labctl.plan.build import build
from labctl.plan.operations import (
    SetDown,
    interface_of_sysctl,
    operations_from_json,
    operations_to_json,
    plan_from_json,
    plan_to_json,
)
from labctl.topology.model import Topology
from tests.unit.topology.drafts import topologies

MODEST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MODEST
@given(topologies())
def test_a_plan_survives_the_way_to_the_keeper(made: Topology) -> None:
    built = build(made)
    assert plan_from_json(json.loads(json.dumps(plan_to_json(built)))) == built


def test_an_operation_survives_the_way_to_the_keeper() -> None:
    assert operations_from_json(operations_to_json([SetDown("a", "eth0")])) == (SetDown("a", "eth0"),)


@pytest.mark.parametrize(
    "value",
    [
        "",
        5,
        None,
        {},
        [5],
        [["Jump", "a"]],
        [["SetUp"]],
        [["SetUp", "a", "eth0", "b"]],
        [["SetUp", "a", 5]],
        [["SetMtu", "a", "eth0", "1500", 1500]],
        [["AddAddress", "a", "eth0", "x"]],
        [["AddAddress", "a", "eth0", ["x"]]],
        [["SetImpairment", "a", "eth0", {"delay_us": 1.5}]],
    ],
)
def test_an_invalid_operation_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="plan: cannot read it"):
        operations_from_json(value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"topology": 5}, "Expected `str`"),
        ({"operations": []}, "Expected `str`, got `array`"),
        ({"operations": "["}, "JSON is malformed|Input data was truncated"),
        ({"operations": "[]"}, "its nodes differ from those that its operations make"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_from_json(plan_to_json(build(topology.load("pair"))) | change)


def test_a_name_that_is_a_path_is_refused() -> None:
    sent = json.dumps(plan_to_json(build(topology.load("pair")))).replace("client", "../client")
    with pytest.raises(InputError, match=r"the name `\.\./client` of a node contains"):
        plan_from_json(json.loads(sent))


@pytest.mark.parametrize(
    ("key", "ifname"),
    [
        ("net.ipv4.conf.eth0.proxy_arp", "eth0"),
        ("net.ipv4.conf.eth0.10.proxy_arp", "eth0.10"),
        ("net/ipv6/neigh/eth0/retrans_time", "eth0"),
        ("net.ipv4.conf.all.proxy_arp", ""),
        ("net.ipv4.ip_forward", ""),
        ("net.core.eth0.x", ""),
    ],
)
def test_a_setting_belongs_to_the_interface_that_it_names(key: str, ifname: str) -> None:
    assert interface_of_sysctl(key, {"eth0", "eth0.10"}) == ifname


def test_a_thousand_hosts_are_planned_within_two_seconds() -> None:
    before = time.process_time()  # whatever else the machine does
    built = build(topology.load("star:1000"))
    plan_from_json(plan_to_json(built))
    assert time.process_time() - before < 2
