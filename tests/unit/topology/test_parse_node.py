"""`nat`, `expose` and `limits` of a node in topology files."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from labctl import topology
from labctl.documents import parse
from labctl.plan.build import build, topology_of
from labctl.plan.operations import DisableOffload, plan_from_json, plan_to_json
from labctl.topology.model import Exposure, Limits, Topology, Transport
from labctl.topology.parse_node import CYCLES_SHOWN

TCP, UDP = Transport.TCP, Transport.UDP


def loaded(text: str) -> Topology:
    resolved, diagnostics = topology.resolve_inline(parse(text, "test.yaml"), (), Path("/"))
    assert resolved is not None
    assert diagnostics == []
    return resolved


def mistakes(text: str) -> list[str]:
    _, diagnostics = topology.resolve_inline(parse(text, "test.yaml"), (), Path("/"))
    return [diagnostic.message for diagnostic in diagnostics]


def exposing(written: str) -> str:
    return f"hosts: {{web: {{expose: [{written}]}}}}"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"8080:80"', Exposure(TCP, None, 8080, 80)),
        ("8080:80", Exposure(TCP, None, 8080, 80)),
        ('"5353:53/udp"', Exposure(UDP, None, 5353, 53)),
        ('"192.0.2.1:8080:80"', Exposure(TCP, ip_address("192.0.2.1"), 8080, 80)),
        ('"[2001:db8::1]:8080:80/tcp"', Exposure(TCP, ip_address("2001:db8::1"), 8080, 80)),
        ("{machine: 8080, port: 80}", Exposure(TCP, None, 8080, 80)),
        ('{machine: "127.0.0.1:8080", port: 80, protocol: udp}', Exposure(UDP, ip_address("127.0.0.1"), 8080, 80)),
    ],
)
def test_a_port_has_a_short_and_a_long_form(written: str, expected: Exposure) -> None:
    assert loaded(exposing(written)).node("web").exposures == (expected,)


@pytest.mark.parametrize(
    "written",
    [
        '"8080"',
        "8080",
        '"0:80"',
        '"8080:65536"',
        '"host:8080:80"',
        '"::1:8080:80"',
        '"[::1%lo]:8080:80"',
        '"80:80/sctp"',
    ],
)
def test_an_invalid_pair_of_ports_is_refused(written: str) -> None:
    assert len(mistakes(exposing(written))) == 1


@pytest.mark.parametrize(
    ("first", "second", "is_twice"),
    [
        ("8080:80", "8080:81", True),
        ("8080:80", "8080:81/udp", False),
        ("127.0.0.1:8080:80", "8080:81", True),
        ("0.0.0.0:8080:80", "8080:81", True),
        ("192.0.2.1:8080:80", "8080:81", False),
        ("192.0.2.1:8080:80", "0.0.0.0:8080:81", True),
        ("192.0.2.1:8080:80", "192.0.2.2:8080:81", False),
    ],
)
def test_a_port_of_the_machine_leads_to_one_place(first: str, second: str, is_twice: bool) -> None:
    text = f'hosts: {{a: {{expose: ["{first}"]}}, b: {{expose: ["{second}"]}}}}'
    assert any("exposed twice" in message for message in mistakes(text)) is is_twice


def test_the_nodes_of_a_group_cannot_share_a_port() -> None:
    assert any("exposed twice" in message for message in mistakes('hosts: {a: {count: 2, expose: ["8080:80"]}}'))


def test_limits_have_units() -> None:
    node = loaded("hosts: {a: {limits: {pids: 100, memory: 256MiB, cpu: 50%}}}").node("a")
    assert node.limits == Limits(100, 256 << 20, 0.5)


@pytest.mark.parametrize("written", ["pids: 1", "memory: 256", "memory: lots", "cpu: 50", "cpu: 0%", "cpu: half"])
def test_invalid_limits_are_refused(written: str) -> None:
    assert len(mistakes(f"hosts: {{a: {{limits: {{{written}}}}}}}")) == 1


@pytest.mark.parametrize(
    "text", ["hosts: {a: {nat: true}}", "routers: {a: {expose: []}}", "switches: {a: {limits: {}}}"]
)
def test_nat_is_for_routers_and_expose_for_hosts_and_limits_for_both(text: str) -> None:
    assert any(message.startswith("unknown key") for message in mistakes(text))


def test_nodes_have_a_default_route_to_the_nearest_router_with_nat() -> None:
    found = loaded(
        """
        hosts: {near: {}, far: {}, both: {}}
        routers: {gw: {nat: true}, inner: {}}
        networks: {lan: {members: [near, gw, inner, both]}}
        links: [[inner, far], [far, both]]
        """
    )
    gateways = {
        node.name: [str(route.gateway) for route in node.routes if route.destination.prefixlen == 0]
        for node in found.nodes
    }
    assert gateways["near"] == gateways["both"] == gateways["inner"] == ["10.0.0.254", "fd00::fe"]
    assert gateways["far"] == ["10.0.1.1", "fd00:0:0:1::1"]
    assert gateways["gw"] == []  # its own is made with the lab


def test_the_interface_to_the_machine_has_a_reserved_name() -> None:
    assert any(
        "nat0" in message for message in mistakes("hosts: {a: {}, b: {}}\nlinks: [[a, {node: b, interface: nat0}]]")
    )


def test_exposures_and_limits_survive_the_way_to_the_keeper() -> None:
    text = """
    hosts: {web: {expose: ["8080:80", "[::1]:5353:53/udp"], limits: {pids: 9, cpu: 150%}}, plain: {}}
    routers: {gw: {nat: true}}
    """
    plan = build(loaded(text))
    assert plan_from_json(plan_to_json(plan)) == plan


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("hosts: {a: {}, b: {}, c: {}}\nlinks: [{ends: [a, b], offload: false}, [b, c]]", {"a:eth0", "b:eth0"}),
        ("hosts: {a: {offload: false}, b: {}, c: {}}\nlinks: [[a, b], [b, c]]", {"a:eth0", "b:eth0"}),
        ("hosts: {a: {offload: false}, b: {}}\nnetworks: {lan: {members: [a, b]}}", {"a:eth0", "lan:a"}),
        ("hosts: {a: {}, b: {}}\nlinks: [[a, b]]", set()),
    ],
)
def test_offload_is_off_on_both_ends_of_a_link_or_of_all_links_of_a_node(text: str, without: set[str]) -> None:
    made = loaded(text)
    off = {f"{node.name}:{one.name}" for node in made.nodes for one in node.interfaces if not one.offload}
    assert off == without
    plan = build(made)
    assert {f"{one.node}:{one.ifname}" for one in plan.operations if isinstance(one, DisableOffload)} == without
    assert plan_from_json(plan_to_json(plan)) == plan
    assert topology_of(plan).node("a").interfaces[0].offload is ("a:eth0" not in without)


def test_each_cycle_of_services_is_reported_once_up_to_a_limit() -> None:
    pair = "services: {a: {run: [x], after: [b]}, b: {run: [x], after: [a]}}"
    assert mistakes(f"hosts: {{h: {{count: 50, {pair}}}}}") == [
        "the services wait for each other: h-1/a after h-1/b after h-1/a"
    ]
    hosts = ", ".join(f"h{number}: {{{pair}}}" for number in range(CYCLES_SHOWN + 5))
    assert len(mistakes(f"hosts: {{{hosts}}}")) == CYCLES_SHOWN
