"""The values of a timeline: directions of flows, and their form as JSON."""

from __future__ import annotations

import pytest

from labctl.structs import convert, to_builtins
from labctl.timeline.events import Call, Flow, Loss, Source, Timeline, loss_texts
from tests.timelines import Builder, many, tcp_echo


def test_both_directions_of_a_flow_are_one_connection() -> None:
    flow = Flow("tcp", "10.0.0.2", 5000, "10.0.0.1", 40000)
    assert flow.reverse == Flow("tcp", "10.0.0.1", 40000, "10.0.0.2", 5000)
    assert flow.connection == flow.reverse.connection == flow.reverse


def test_a_flow_with_ipv6_addresses_prints_brackets() -> None:
    assert str(Flow("udp", "fd00::1", 1, "fd00::2", 2)) == "udp [fd00::1]:1 -> [fd00::2]:2"


def test_a_timeline_survives_the_way_to_builtins_and_back() -> None:
    timeline = tcp_echo()
    assert convert(to_builtins(timeline), Timeline) == timeline


def test_the_events_of_a_timeline_are_in_order() -> None:
    for timeline in (tcp_echo(), many(2000)):
        moments = [event.at_ns for event in timeline.events]
        assert moments == sorted(moments)


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        ('3, "{AF_INET, 9.9.9.9:9}", 20, 0, {AF_INET, 10.0.0.2:53}, 16', ("10.0.0.2", 53)),
        ("3, {AF_INET6, [fe80::1%eth0]:80}, 28", ("fe80::1", 80)),
        ("3, 5", None),
    ],
)
def test_the_address_of_a_call_is_its_last_one_and_never_part_of_its_data(
    arguments: str, address: tuple[str, int] | None
) -> None:
    b = Builder()
    b.call(0, 1, "client", "sendto", arguments, 0)
    (call,) = b.events
    assert isinstance(call, Call)
    assert call.address == address


def test_losses_of_many_nodes_for_one_reason_are_one_line() -> None:
    many = [Loss(Source.PACKETS, 2, host=f"h{number}", why="the ring was full") for number in range(100)]
    other = Loss(Source.KERNEL, 7, "events")
    assert loss_texts([*many, other]) == ["200 packets of 100 nodes lost: the ring was full", "7 events lost"]
    assert loss_texts([*many[:2], other]) == [
        "2 packets of h0 lost: the ring was full",
        "2 packets of h1 lost: the ring was full",
        "7 events lost",
    ]
