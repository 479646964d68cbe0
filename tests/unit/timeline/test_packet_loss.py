"""Why packets were lost: drops, filters, interfaces, routes, neighbours."""

from __future__ import annotations

from typing import Any

import pytest

from labctl.timeline.events import (
    Drop,
    FilterRule,
    Flow,
    Header,
    HostState,
    InterfaceState,
    RouteState,
    Source,
    Timeline,
)
from labctl.timeline.evidence import Evidence
from labctl.timeline.packet_loss import down, drop_text, filtering, losing, no_way, rejecting, why_lost
from tests.timelines import CLIENT, SERVER, STARTED_NS, Builder
from tests.unit.timeline.test_evidence import ALWAYS, ANY, arp

FILTER = FilterRule("inet filter", "input", "input", "drop", 3)


def state(host: str, **fields: Any) -> HostState:
    return HostState(STARTED_NS, host, **fields)


def interface(*, up: bool = True, carrier: bool = True, queueing: str = "") -> InterfaceState:
    return InterfaceState("eth0", up, carrier, 1500, queueing)


def lost_syn(*states: HostState, **more: Any) -> Timeline:
    b = Builder()
    b.packet(1, "client", "SYN", 0, 0, **more)
    return b.timeline(states=states)


def reasons(timeline: Timeline) -> list[str]:
    ev = Evidence(timeline)
    return why_lost(ev, ev.packets, *ALWAYS)


def test_a_drop_of_the_kernel_names_host_reason_hook_and_chain() -> None:
    b = Builder()
    b.packet(1, "client", "SYN", 0, 0)
    drop = Drop(**b._common(3, "server", Source.KERNEL), reason="NETFILTER_DROP", hook="input", packet=0)
    b.events.append(drop)
    assert reasons(b.timeline(states=(state("server", filters=(FILTER,)),))) == [
        "server dropped it at hook input: packet filter (NETFILTER_DROP; inet filter, chain input)"
    ]


def test_an_unknown_reason_is_shown_as_the_kernel_names_it() -> None:
    b = Builder()
    drop = Drop(**b._common(3, "server", Source.KERNEL), reason="TCP_OLD_ACK", is_inferred=True)
    assert drop_text(Evidence(b.timeline()), drop) == "server dropped it: TCP_OLD_ACK (inferred)"


def test_without_a_drop_event_a_filter_that_counted_packets_is_the_inferred_cause() -> None:
    assert reasons(lost_syn(state("server", filters=(FILTER,)))) == [
        "the packet filter of server at hook input has dropped 3 packets (inet filter, chain input) (inferred)"
    ]


@pytest.mark.parametrize(
    ("role", "hooks"),
    [
        ("source", {"output", "postrouting", ""}),
        ("router", {"prerouting", "forward", "postrouting", ""}),
        ("target", {"prerouting", "input", "output", "postrouting", ""}),
    ],
)
def test_only_filters_at_hooks_that_the_packet_passes_count(role: str, hooks: set[str]) -> None:
    every = ("prerouting", "input", "forward", "output", "postrouting", "")
    found = {
        hook for hook in every if filtering(state("gw", filters=(FilterRule("inet t", "c", hook, "drop", None),)), role)
    }
    assert found == hooks


def test_a_filter_that_has_counted_nothing_is_no_cause() -> None:
    idle = FilterRule("inet filter", "input", "input", "drop", 0)
    assert filtering(state("server", filters=(idle,)), "target") == ""


def test_a_rejecting_rule_is_named() -> None:
    rule = FilterRule("inet filter", "input", "input", "reject", None)
    assert rejecting(state("server", filters=(rule,)), "target") == [
        "the packet filter of server rejects it at hook input (inet filter, chain input)"
    ]
    assert rejecting(state("server", filters=(FILTER,)), "target") == []


def test_an_interface_that_is_down_ends_the_way_at_its_wire() -> None:
    timeline = lost_syn(state("server", interfaces=(interface(up=False),)), receiver="", arrived_ns=None)
    assert reasons(timeline) == ["server:eth0 is down"]


def test_no_carrier_means_that_the_other_end_is_down() -> None:
    assert down(state("client", interfaces=(interface(carrier=False),))) == (
        "client:eth0 has no carrier: the other end is down"
    )
    assert down(state("client", interfaces=(interface(),))) == ""


def test_a_lossy_interface_is_an_inferred_cause() -> None:
    assert losing(state("client", interfaces=(interface(queueing="loss 100%"),))) == (
        "client:eth0 has loss 100% (inferred)"
    )


def test_a_router_without_a_route_is_the_cause() -> None:
    routes = (RouteState("10.0.1.0/24", "10.0.1.0/24 dev eth0"),)
    assert no_way(Evidence(lost_syn(state("gw", routes=routes))), "gw", ANY, STARTED_NS) == [
        f"gw has no route to {SERVER}; its routes: 10.0.1.0/24 dev eth0"
    ]


def test_a_default_route_is_a_route() -> None:
    routes = (RouteState("0.0.0.0/0", "default via 10.0.0.9"),)
    assert no_way(Evidence(lost_syn(state("gw", routes=routes))), "gw", ANY, STARTED_NS) == []


def test_a_blackhole_route_is_a_cause() -> None:
    routes = (RouteState("10.0.0.0/8", "default"), RouteState("10.0.0.0/24", "blackhole 10.0.0.0/24"))
    assert no_way(Evidence(lost_syn(state("gw", routes=routes))), "gw", ANY, STARTED_NS) == [
        "gw has the route blackhole 10.0.0.0/24"
    ]


def test_a_neighbour_that_does_not_answer_is_the_cause_with_the_number_of_requests() -> None:
    b = Builder()
    for at_us in (1, 2):
        b.packet(at_us, "client", "", 0, 0, header=Header("arp"), frame=arp(1, CLIENT, "10.0.0.9"))
    flow = Flow("tcp", "", 0, "10.0.0.9", 80)
    assert no_way(Evidence(b.timeline()), "client", flow, STARTED_NS + 10_000) == [
        "client asked 2 times for the MAC address of 10.0.0.9 (ARP); no host answered: no host has this address"
    ]


def test_a_neighbour_that_answered_is_no_cause() -> None:
    b = Builder()
    b.packet(1, "client", "", 0, 0, header=Header("arp"), frame=arp(1, CLIENT, SERVER))
    b.packet(2, "server", "", 0, 0, header=Header("arp"), frame=arp(2, SERVER, CLIENT))
    assert no_way(Evidence(b.timeline()), "client", ANY, STARTED_NS + 10_000) == []
