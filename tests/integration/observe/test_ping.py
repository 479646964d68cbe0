"""Echo requests from nodes: replies, errors, and neighbour tables that stay as they were."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import ip_address
from itertools import count

import pytest

from labctl.clock import monotonic
from labctl.kernel import link_state
from labctl.kernel.netlink import NETLINK_ROUTE
from labctl.observe.ping import EchoRequest, Prober, choose_pairs, ping_pairs, reach
from labctl.plan.build import build
from labctl.plan.operations import SetDown, SetSysctl
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair, routed
from tests.unit.topology.drafts import resolved


@pytest.mark.stock_kernel
@inside
def test_a_reply_a_timeout_and_a_missing_route_have_different_errnos() -> None:
    with NetworkLab(*pair()) as lab:
        assert reach(lab, "client", ip_address("192.0.2.2")).reached
        assert reach(lab, "client", ip_address("fe80::2%eth0")).reached
        silent = reach(lab, "client", ip_address("192.0.2.77"), deadline_s=0.1)
        assert (silent.reached, silent.errno) == (False, errno.ETIMEDOUT)
        no_route = reach(lab, "client", ip_address("203.0.113.1"))
        assert (no_route.errno, str(no_route)) == (errno.ENETUNREACH, "203.0.113.1: Network is unreachable")
        assert not reach(lab, "client", ip_address("2001:db8:ffff::1")).reached


@inside
def test_an_unreachable_error_of_a_router_ends_the_ping_at_once() -> None:
    with NetworkLab(*routed()) as lab:
        lab.apply(SetDown("gw", "eth2"))
        answer = reach(lab, "left", ip_address("10.2.0.1"), deadline_s=5.0)
        assert answer.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        assert answer.duration_s < 4.0


@inside
def test_results_of_several_addresses_are_in_order() -> None:
    with NetworkLab(*pair()) as lab:
        wanted = ["192.0.2.2", "192.0.2.77", "2001:db8::2", "203.0.113.1"]
        with Prober(lab) as prober:
            answers = prober.send([EchoRequest("client", ip_address(each)) for each in wanted], deadline_s=1.0)
        assert [answer.address for answer in answers] == wanted
        assert [answer.errno for answer in answers] == [0, errno.ETIMEDOUT, 0, errno.ENETUNREACH]


def _entries(lab: NetworkLab, node: str) -> set[str]:
    """The node's unicast neighbours: the kernel makes and drops those of multicast groups as it likes."""
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        found = {ip_address(each.address) for each in link_state.neighbours(sock)}
    return {str(each) for each in found if not each.is_multicast}


@inside
def test_pings_leave_the_neighbour_tables_as_they_were() -> None:
    with NetworkLab(*routed()) as lab:
        with lab.socket("left", socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("10.1.0.254", 9))
        before = {node: _entries(lab, node) for node in ("left", "gw", "right")}
        assert before["left"] == {"10.1.0.254"}
        with Prober(lab, ["gw"]) as prober:
            asks = [EchoRequest("left", ip_address(each), "right") for each in ("10.2.0.1", "fd02::1")]
            assert all(echo.reached for echo in prober.send(asks, deadline_s=2.0))
            assert (
                prober.send([EchoRequest("left", ip_address("10.1.0.9"))], deadline_s=0.1)[0].errno == errno.ETIMEDOUT
            )
        assert {node: _entries(lab, node) for node in before} == before


@inside
def test_silent_addresses_on_a_network_of_many_ports_share_their_deadline() -> None:
    silent = [EchoRequest("client", ip_address(f"192.0.2.{host}")) for host in range(100, 140)]
    with NetworkLab(*pair()) as lab, Prober(lab, ports=1000) as prober:  # a request at a time: each floods 1,000 ports
        began = monotonic()
        answers = prober.send([*silent, EchoRequest("client", ip_address("192.0.2.2"))], deadline_s=2.0)
    assert [answer.reached for answer in answers] == [False] * len(silent) + [True]
    assert monotonic() - began < 1.5 * len(silent)  # one after the other, each would take two seconds


@inside
def test_an_icmp_error_has_its_name_and_the_router_that_sent_it() -> None:
    with NetworkLab(*routed(), SetSysctl("left", "net.ipv4.ip_default_ttl", "1")) as lab:
        lab.apply(SetSysctl("left", "net.ipv6.conf.eth0.hop_limit", "1"))
        told = [reach(lab, "left", ip_address(each)) for each in ("10.2.0.1", "fd02::1")]
        assert [str(echo) for echo in told] == [
            "10.2.0.1: time to live exceeded in transit, reported by 10.1.0.254",
            "fd02::1: hop limit exceeded in transit, reported by fd01::fe",
        ]
        assert told[0].problem({"10.1.0.254": "gw"}).endswith("reported by gw (10.1.0.254)")


@inside
def test_a_full_neighbour_table_is_reported_as_the_cause() -> None:
    with NetworkLab(*pair()) as lab, pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_state, "neighbour_table", _filling_table())
        echo = reach(lab, "client", ip_address("192.0.2.77"), deadline_s=0.1)
    assert (echo.reached, echo.problem()) == (
        False,
        "cannot be tested: the machine's neighbour table is full (net.ipv4.neigh.default.gc_thresh3 is 1024)",
    )


def _filling_table() -> Callable[[int], link_state.NeighbourTable]:
    """The machine's table, in which more and more requests for an entry are refused (others use the real one, too)."""
    refused = count()
    return lambda version: link_state.NeighbourTable(version, 1024, True, 1024, next(refused))


@inside
def test_nodes_without_addresses_are_sources_only() -> None:
    made = build(resolved("hosts: {a: , b: }", "networks: {lan: {members: [{node: a, ipv4: false, ipv6: false}, b]}}"))
    with NetworkLab(*made.operations) as lab:
        pairs = choose_pairs(made, ["a", "b"])
        assert [(pair.source, pair.target) for pair in pairs] == [("a", "b"), ("a", "b")]
        assert all(pair.problem for pair in ping_pairs(lab, made, pairs))
