""""""

from __future__ import annotations

import pytest

from labctl.timeline.events import Timeline
from labctl.timeline.fold import Detail, Fold
from labctl.timeline.ladder_layout import Layout, Row, Span, columns_for, compact_arguments, duration
from tests import timelines


def rows_of(timeline: Timeline, width: int) -> list[Row | Span]:
    columns = columns_for(timeline.hosts, width, len)
    fold = Fold(timeline.hosts, timeline.nodes, columns.detail)
    fold.add(timeline.events)
    layout = Layout(columns)
    return [*layout.rows(fold.items()), *layout.close()]


@pytest.mark.parametrize(
    ("name", "arguments", "compact"),
    [
        ("socket", "AF_INET, SOCK_STREAM, 0", "AF_INET, SOCK_STREAM"),
        ("bind", "3, {AF_INET, 10.0.0.2:5000}, 16", "3, 10.0.0.2:5000"),
        ("connect", "3, {AF_INET6, [fd00::2]:5000}, 28", "3, [fd00::2]:5000"),
        ("bind", '3, {AF_UNIX, "/tmp/s"}, 9', '3, "/tmp/s"'),
        ("accept", "3, {AF_INET, 10.0.0.1:40000}, [16 -> 16]", "3, 10.0.0.1:40000"),
        ("accept", "3, {AF_INET, 10.0.0.1:40000}, [4 -> 16]", "3, 10.0.0.1:40000, [4 -> 16]"),
        ("send", '3, "hello", 5, 0', '3, "hello", 5'),
        ("sendto", '3, "hello", 5, 0, NULL, 0', '3, "hello", 5'),
        ("sendto", '3, "hello", 5, MSG_NOSIGNAL, NULL, 0', '3, "hello", 5, MSG_NOSIGNAL'),
        ("recvfrom", '3, "hello", 100, 0, NULL, NULL', '3, "hello", 100'),
        ("socket", "AF_INET, SOCK_STREAM, IPPROTO_IP", "AF_INET, SOCK_STREAM"),
        (
            "epoll_ctl",
            "3, EPOLL_CTL_ADD, 6, {events=EPOLLIN, data={u32=6, u64=6}}",
            "3, EPOLL_CTL_ADD, 6, {EPOLLIN, 6}",
        ),
        (
            "epoll_wait",
            "3, [{events=EPOLLIN|EPOLLHUP, data={u32=8, u64=18}}], 4, 0",
            "3, [{EPOLLIN|EPOLLHUP, 8}], 4, 0",
        ),
        ("accept4", "3, {AF_INET, 10.0.0.1:40000}, [128 => 16], SOCK_CLOEXEC", "3, 10.0.0.1:40000, SOCK_CLOEXEC"),
        ("getsockname", "3, {AF_INET, 10.0.0.1:40000}, [16]", "3, 10.0.0.1:40000"),
        ("accept", "3, {AF_INET, 10.0.0.1:40000}, [4 => 16]", "3, 10.0.0.1:40000, [4 => 16]"),
        ("getsockopt", "3, SOL_TCP, TCP_KEEPCNT, [9], [4]", "3, SOL_TCP, TCP_KEEPCNT, [9], [4]"),
        ("listen", "3, 0", "3, 0"),
        ("setsockopt", "3, SOL_SOCKET, SO_REUSEADDR, 0", "3, SOL_SOCKET, SO_REUSEADDR, 0"),
        (
            "sendmsg",
            '3, {msg_name=NULL, msg_namelen=0, msg_iov=[{iov_base="hello", iov_len=5}], msg_iovlen=1, msg_flags=0}, 0',
            '3, "hello"',
        ),
        (
            "recvmsg",
            '3, {msg_name={AF_INET, 10.0.0.2:5000}, msg_namelen=16, msg_iov=[{iov_base="\\0\\"{}\\1"..., iov_len=9}], '
            "msg_iovlen=1, msg_flags=0}, MSG_DONTWAIT",
            '3, "\\0\\"{}\\1\u2026", 10.0.0.2:5000, MSG_DONTWAIT',
        ),
    ],
)
def test_defaults_and_repeated_families_are_left_out(name: str, arguments: str, compact: str) -> None:
    assert compact_arguments(name, arguments) == compact


def test_a_call_and_its_packet_and_the_call_that_this_wakes_share_a_row() -> None:
    rows = [row for row in rows_of(timelines.tcp_echo(), 74) if isinstance(row, Row) and row.wave is not None]
    third = rows[2]
    assert {host: text.text for host, text in third.texts.items()} == {"client": "… connect", "server": "… accept"}


def test_everything_in_a_row_fits_its_columns() -> None:
    for width in (50, 74, 114, 194):
        columns = columns_for(("client", "server"), width, len)
        for row in rows_of(timelines.tcp_echo(), width):
            if isinstance(row, Row) and (len(row.texts) > 1 or row.wave is not None):
                assert columns.fits(row), row


def test_a_call_that_a_signal_interrupted_has_no_result() -> None:
    b = timelines.Builder()
    b.call(10, 20, "server", "accept", "3, NULL, NULL", None, errno="ERESTARTSYS", fd=3)
    (row,) = rows_of(b.timeline(), 74)
    assert isinstance(row, Row)
    assert row.texts["server"].result == "\u2192 interrupted by a signal"


@pytest.mark.parametrize(
    ("name", "until_us", "result"), [("close", 30, ""), ("close", 3000, "blocks"), ("read", 30, "blocks")]
)
def test_only_a_call_that_waits_blocks(name: str, until_us: float, result: str) -> None:
    b = timelines.Builder()
    b.call(10, until_us, "server", name, "4", 0, fd=4)
    b.call(20, 21, "server", "listen", "3, 5", 0, fd=3)
    first = rows_of(b.timeline(), 74)[0]
    assert isinstance(first, Row)
    assert first.texts["server"].result == result


def test_what_the_kernel_sends_while_a_call_waits_is_not_the_call_s() -> None:
    b = timelines.Builder()
    b.call(10, 300_000, "client", "recv", "3, buf, 10, 0", 5, fd=3)
    b.packet(200_000, "client", "PSH ACK", 1, 1, b"hello")
    b.packet(299_000, "server", "PSH ACK", 1, 6, b"hello")
    rows = [row for row in rows_of(b.timeline(), 74) if isinstance(row, Row)]
    assert rows[0].texts["client"].result == "blocks"
    assert [row.wave is not None for row in rows] == [False, True, True]


def test_columns_that_were_too_narrow_are_none() -> None:
    assert columns_for(("a", "b", "c"), 74, len).width == 23
    assert columns_for(("a", "b", "c", "d"), 74, len).are_named
    assert not columns_for(("a",), 10, len).are_named


def test_wide_columns_show_everything() -> None:
    assert columns_for(("a", "b"), 74, len).detail is Detail.COMPACT
    assert columns_for(("a", "b"), 194, len).detail is Detail.FULL


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [(40_000, "0.04 ms"), (12_100_000, "12.1 ms"), (200_000_000, "200 ms"), (1_200_000_000, "1.2 s")],
)
def test_durations_have_a_unit_that_suits_them(time_ns: int, text: str) -> None:
    assert duration(time_ns) == text


def test_syn_sent_does_not_stand_beside_the_call_of_another_thread() -> None:
    b = timelines.Builder()
    b.call(0, 200, "client", "connect", "3, {AF_INET, 10.0.0.2:5000}, 16", 0)
    b.call(2, 3, "client", "socket", "AF_INET, SOCK_STREAM, 0", 4)
    b.state(4, "client", "CLOSE", "SYN_SENT")
    rows = [row for row in rows_of(b.timeline(), 194) if isinstance(row, Row)]
    noted = [row for row in rows if "SYN_SENT" in row.notes.get("client", ())]
    assert [row.texts for row in noted] == [{}]
