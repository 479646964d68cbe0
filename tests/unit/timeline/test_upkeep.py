"""Lookups of the C library and address resolution are told from what programs do."""

from __future__ import annotations

from typing import Any

from labctl.structs import replace
from labctl.timeline.events import AnyEvent, Call, Drop, Flow, Header, Packet, Source
from labctl.timeline.packet_headers import decode
from labctl.timeline.upkeep import is_resolution, upkeep
from tests.frames import ethernet, icmp, ipv4, ipv6, udp
from tests.timelines import Builder, tcp_echo


def calls(*made: tuple[str, str, int, int | None], source: Source = Source.SYSCALLS) -> tuple[AnyEvent, ...]:
    b = Builder()
    for number, (name, arguments, result, fd) in enumerate(made):
        b.call(number * 10, number * 10 + 5, "client", name, arguments, result, fd=fd)
    calls = [event for event in b.events if isinstance(event, Call)]
    return tuple(replace(call, source=source) for call in calls)


NETLINK = (
    ("socket", "AF_NETLINK, SOCK_RAW, NETLINK_ROUTE", 3, None),
    ("bind", "3, {sa_family=AF_NETLINK}, 12", 0, 3),
    ("sendto", "3, ...", 20, 3),
    ("close", "3", 0, 3),
)
NSCD = (
    ("socket", "AF_UNIX, SOCK_STREAM, 0", 4, None),
    ("connect", '4, {AF_UNIX, "/var/run/nscd/socket"}, 110', -1, 4),
    ("close", "4", 0, 4),
)
PROBE = (
    ("socket", "AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, IPPROTO_IP", 5, None),
    ("connect", "5, {AF_INET, 10.0.0.2:0}, 16", 0, 5),
    ("getsockname", "5, {AF_INET, 10.0.0.1:52920}, [16]", 0, 5),
    ("close", "5", 0, 5),
)
TCP = (
    ("socket", "AF_INET, SOCK_STREAM, IPPROTO_TCP", 3, None),
    ("connect", "3, {AF_INET, 10.0.0.2:80}, 16", 0, 3),
    ("close", "3", 0, 3),
)


def test_lookups_of_the_c_library_are_upkeep_and_the_connection_after_them_is_not() -> None:
    assert upkeep(calls(*NETLINK, *NSCD, *PROBE, *TCP)) == list(range(11))


def test_a_udp_client_that_sends_is_not_upkeep() -> None:
    assert upkeep(calls(*PROBE[:2], ("send", '5, "x", 1, 0', 1, 5), PROBE[-1])) == []


def test_an_open_udp_socket_is_not_upkeep() -> None:
    assert upkeep(calls(*PROBE[:3])) == []


def test_the_calls_of_a_scenario_are_never_upkeep() -> None:
    assert upkeep(calls(*NETLINK, *PROBE, source=Source.CALLS)) == []


def test_a_descriptor_of_another_process_is_another_one() -> None:
    (made, *_), *_ = [calls(*NETLINK)]
    assert isinstance(made, Call)
    other = calls(("send", '3, "x", 1, 0', 1, 3))[0]
    assert isinstance(other, Call)
    assert upkeep((made, replace(other, pid=made.pid + 1))) == [0]


def test_address_resolution_and_group_membership_are_upkeep() -> None:
    packet = next(event for event in tcp_echo().events if isinstance(event, Packet))
    found = (
        ("arp", "who has 10.0.0.2, tell 10.0.0.1"),
        ("icmpv6", "neighbour solicitation"),
        ("icmpv6", "multicast listener report"),
        ("icmpv6", "echo request 1"),
    )
    packets = [
        replace(packet, header=replace(packet.header, protocol=protocol, summary=summary))
        for protocol, summary in found
    ]
    assert upkeep([packet, *packets]) == [1, 2, 3]


def test_group_membership_in_a_tunnel_and_the_error_about_it_are_upkeep() -> None:
    report = ethernet(ipv6(icmp(143, 0, bytes(20)), 58, "fe80::1", "ff02::16"), 0x86DD)
    echo = ethernet(ipv4(icmp(8, 0, bytes(8)), 1))
    for carried, is_upkeep in ((report, True), (echo, False)):
        outer = ipv4(udp(b"\x08\0\0\0\0\0\x64\0" + carried, ports=(40000, 4789)), 17)
        error = ethernet(ipv4(icmp(3, 0, bytes(4) + outer), 1))
        for frame in (ethernet(outer), error):
            assert is_resolution(decode(frame, len(frame))) == is_upkeep


def test_a_descriptor_whose_close_was_not_recorded_is_used_again() -> None:
    assert upkeep(calls(*NETLINK[:3], *TCP)) == [0, 1, 2]


def test_a_drop_of_dhcp_is_upkeep_because_its_client_took_the_packet_unless_a_rule_dropped_it() -> None:
    header = Header("udp", Flow("udp", "10.0.0.1", 67, "10.0.0.9", 68))
    common: dict[str, Any] = {"at_ns": 1, "host": "client", "source": Source.KERNEL, "seq": 0}
    taken = Drop(reason="IP_INADDRERRORS", header=header, **common)
    assert upkeep([taken, replace(taken, reason="NETFILTER_DROP"), replace(taken, header=None)]) == [0]
