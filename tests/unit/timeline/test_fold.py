""""""

from __future__ import annotations

from labctl.structs import replace
from labctl.timeline.events import Call, Flow, Header, Packet, Reset, Source, Timeline
from labctl.timeline.fold import (
    Arrow,
    CallItem,
    Detail,
    Fold,
    Heading,
    Item,
    Line,
    Note,
    Omitted,
    Part,
    Silence,
    speaking_hosts,
)
from labctl.timeline.packet_headers import decode
from tests import timelines
from tests.frames import ethernet, icmp, ipv4, ipv6, udp
from tests.timelines import STARTED_NS, US, Builder


def items_of(timeline: Timeline, detail: Detail = Detail.COMPACT) -> list[Item]:
    fold = Fold(timeline.hosts, timeline.nodes, detail)
    fold.add(timeline.events)
    return fold.items()


def arrows(items: list[Item]) -> list[tuple[str, str, str]]:
    return [(each.source, each.target, " ".join(each.packet.header.flags)) for each in items if isinstance(each, Arrow)]


def parts(items: list[Item]) -> list[tuple[str, Part]]:
    return [(each.call.name, each.part) for each in items if isinstance(each, CallItem)]


def test_acknowledgements_of_data_are_left_out_and_the_handshake_is_whole() -> None:
    assert arrows(items_of(timelines.tcp_echo())) == [
        ("client", "server", "SYN"),
        ("server", "client", "SYN ACK"),
        ("client", "server", "ACK"),
        ("client", "server", "PSH ACK"),
        ("server", "client", "PSH ACK"),
        ("client", "server", "FIN ACK"),
        ("server", "client", "FIN ACK"),
    ]
    assert len(arrows(items_of(timelines.tcp_echo(), Detail.FULL))) == 11


def test_a_call_during_which_an_answer_came_is_split_and_a_send_is_not() -> None:
    shown = parts(items_of(timelines.tcp_echo()))
    assert ("connect", Part.BEGIN) in shown
    assert ("connect", Part.END) in shown
    assert ("send", Part.WHOLE) in shown


def test_a_packet_belongs_to_the_call_that_sent_it() -> None:
    items = items_of(timelines.tcp_echo())
    by = [each.call.name if each.call is not None else "" for each in items if isinstance(each, Arrow)]
    assert by == ["connect", "accept", "connect", "send", "send", "close", "close"]


def test_a_drop_ends_the_arrow_of_its_packet_and_has_no_line_of_its_own() -> None:
    items = items_of(timelines.datagrams())
    (dropped,) = [each for each in items if isinstance(each, Arrow) and each.drop is not None]
    assert (dropped.target, dropped.drop and dropped.drop.hook) == ("server", "input")
    assert not [each for each in items if isinstance(each, Line)]


def test_a_packet_over_a_router_is_one_arrow_from_host_to_host() -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0, receiver="gw", receiver_interface="eth0")
    b.journeys -= 1
    b.packet(12, "client", "SYN", 0, 0, receiver="server", interface="eth1")
    second = b.events[1]
    b.events[1] = type(second)(**{field: getattr(second, field) for field in second.__struct_fields__} | {"host": "gw"})
    assert arrows(items_of(b.timeline())) == [("client", "server", "SYN")]


def test_a_router_in_the_ladder_is_not_the_source_of_what_a_node_beside_it_sent() -> None:
    b = Builder()
    for host, receiver in (("far", "gw"), ("gw", "client")):
        b.packet(10, "client", "SYN", 0, 0, receiver=receiver)
        b.events[-1] = replace(b.events[-1], host=host)
        b.journeys -= 1
    assert arrows(items_of(b.timeline(hosts=("client", "gw")))) == [("", "client", "SYN")]
    assert arrows(items_of(b.timeline(hosts=("gw",)))) == [("gw", "", "SYN")]


def test_arp_of_a_router_that_is_not_in_the_ladder_names_it() -> None:
    b = Builder()
    header = Header("arp", summary="who has 10.0.0.9, tell 10.0.0.1")
    b.packet(10, "client", "", 0, 0, header=header, receiver="gw")
    b.packet(20, "client", "", 0, 0, header=header, receiver="client")
    b.events[1] = replace(b.events[1], host="gw")
    items = items_of(b.timeline(hosts=("client", "server")))
    assert [(each.source, each.target, each.peer) for each in items if isinstance(each, Arrow)] == [
        ("client", "", "gw"),
        ("", "client", "gw"),
    ]


def test_a_drop_of_group_membership_in_a_tunnel_has_no_line() -> None:
    b = Builder()
    report = ethernet(ipv4(udp(b"\x08\0\0\0\0\0\x64\0" + mld(), ports=(40000, 4789)), 17))
    b.packet(10, "client", "", 0, 0, header=decode(report, len(report)), receiver="gw")
    b.drop(20, "gw", "IP_INNOROUTES", b.journeys - 1)
    assert items_of(b.timeline()) == []


def mld() -> bytes:
    return ethernet(ipv6(icmp(143, 0, bytes(20)), 58, "fe80::1", "ff02::16"), 0x86DD)


def test_more_than_16_arrows_in_a_row_are_counted() -> None:
    b = Builder()
    for number in range(40):
        b.packet(10 + number, "client" if number % 2 else "server", "PSH ACK", 1 + number, 1, b"x")
    items = items_of(b.timeline())
    assert len(arrows(items)) == 16
    assert [each.packets for each in items if isinstance(each, Omitted)] == [24]


def test_only_a_changed_queue_is_noted_and_a_full_one_is_needed() -> None:
    b = Builder()
    b.listener(0, 0, 1)
    b.listener(10, 1, 1)
    b.listener(20, 1, 1)
    b.listener(30, 2, 1)
    notes = [(each.text, each.is_needed) for each in items_of(b.timeline()) if isinstance(each, Note)]
    assert notes == [("1 of 1 in queue", False), ("2 of 1 in queue", True)]


def test_a_quarter_of_a_second_without_events_is_a_silence() -> None:
    silences = [each.duration_ns // 1_000_000 for each in items_of(timelines.full_queue()) if isinstance(each, Silence)]
    assert silences == [1020, 478, 1580]


def test_a_call_recorded_at_its_begin_and_its_end_is_shown_as_it_comes() -> None:
    def accept(until_us: float | None) -> Call:
        return Call(at_ns=STARTED_NS, host="server", source=Source.CALLS, seq=0,
                    until_ns=None if until_us is None else STARTED_NS + round(until_us * US),
                    pid=2, tid=2, program="server", name="accept", arguments="3, ...",
                    result=None if until_us is None else 4)  # fmt: skip

    fold = Fold(("server",))
    fold.add([accept(None)])
    assert fold.items(STARTED_NS + 19_000 * US) == []
    assert parts(fold.items(STARTED_NS + 20_000 * US)) == [("accept", Part.BEGIN)]
    fold.add([accept(80_000)])
    assert parts(fold.items(STARTED_NS + 90_000 * US)) == [("accept", Part.END)]
    assert fold.items() == []


def test_calls_by_which_the_c_library_looks_up_names_are_left_out() -> None:
    b = Builder()
    lookups = (
        ("socket", "AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE", 3, None), ("bind", "3, {AF_NETLINK}", 0, 3),
        ("sendto", "3, ...", 20, 3), ("close", "3", 0, 3),
        ("socket", "AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0", 3, None),
        ("connect", '3, {AF_UNIX, "/var/run/nscd/socket"}, 110', -1, 3), ("close", "3", 0, 3),
        ("socket", "AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, IPPROTO_IP", 3, None),
        ("connect", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, 3), ("getsockname", "3, ...", 0, 3), ("close", "3", 0, 3),
    )  # fmt: skip
    real = (
        ("socket", "AF_INET, SOCK_DGRAM, 0", 3, None), ("connect", "3, {AF_INET, 10.0.0.2:53}, 16", 0, 3),
        ("send", '3, "question", 8, 0', 8, 3), ("close", "3", 0, 3),
    )  # fmt: skip
    for number, (name, arguments, result, fd) in enumerate((*lookups, *real)):
        b.call(10 * number, 10 * number + 5, "client", name, arguments, result, fd=fd)
    b.events = [replace(event, source=Source.SYSCALLS) for event in b.events]
    assert [name for name, _ in parts(items_of(b.timeline()))] == ["socket", "connect", "send", "close"]


def test_a_packet_that_the_kernel_answers_is_no_drop() -> None:
    b = Builder(port=81)
    b.packet(10, "client", "SYN", 0, 0)
    syn = b.events[0]
    assert isinstance(syn, Packet)
    b.drop(15, "server", "NO_SOCKET", 0, header=syn.header)
    items = items_of(b.timeline())
    assert [each.drop for each in items if isinstance(each, Arrow)] == [None]
    assert [each.text for each in items if isinstance(each, Note)] == ["NO_SOCKET"]


def test_headings_of_parallel_steps_stand_before_their_first_calls() -> None:
    b = Builder()
    for number, index in enumerate(("1.1.1", "1.2.1")):
        b.step(number, index, "client", f"branch {index}", 1000)
    for number, index in enumerate(("1.1.1", "1.2.1", "1.1.1")):
        b.call(100 * (number + 1), 100 * (number + 1) + 10, "client", "getpid", "", 2, step=index)
    shown = [each.step.title if isinstance(each, Heading) else each.call.name
             for each in items_of(b.timeline()) if isinstance(each, Heading | CallItem)]  # fmt: skip
    assert shown == ["branch 1.1.1", "getpid", "branch 1.2.1", "getpid", "getpid"]


def test_a_step_without_calls_of_its_own_has_its_heading_at_its_end() -> None:
    b = Builder()
    b.step(0, "1", "client", "only asserts", 10)
    assert [each.step.title for each in items_of(b.timeline()) if isinstance(each, Heading)] == ["only asserts"]


def test_hosts_that_ping_each_other_by_ipv6_take_part() -> None:
    b = Builder()
    flow = Flow("icmpv6", "fd00::1", 0, "fd00::2", 0)
    b.packet(10, "client", "", 0, 0, header=Header(protocol="icmpv6", flow=flow, summary="echo request 1"))
    assert speaking_hosts(b.timeline()) == ["client", "server"]
    solicits = Header(protocol="icmpv6", flow=flow, summary="who has fd00::2")
    b = Builder()
    b.packet(10, "client", "", 0, 0, header=solicits)
    assert speaking_hosts(b.timeline()) == []


def test_the_reason_of_a_refusal_stands_once_whether_the_drop_or_the_reset_comes_first() -> None:
    for order in (("drop", "reset"), ("reset", "drop")):
        b = Builder()
        b.packet(10, "client", "SYN", 0, 0)
        syn = b.events[-1]
        assert isinstance(syn, Packet)
        b.packet(20, "server", "RST ACK", 0, 1)
        for number, kind in enumerate(order):
            at_us = 12 + number
            if kind == "drop":
                b.drop(at_us, "server", "NO_SOCKET", 0, header=syn.header)
            else:
                common = b._common(at_us, "server", Source.KERNEL)
                b.events.append(Reset(**common, socket=None, flow=b.flow.reverse, is_sent=True, reason="NO_SOCKET"))
        notes = [each.text for each in items_of(b.timeline()) if isinstance(each, Note)]
        assert notes == ["NO_SOCKET"], order
