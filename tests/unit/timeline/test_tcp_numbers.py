"""Relative numbers and retransmissions of TCP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.timeline.events import Flow, Header
from labctl.timeline.tcp_numbers import Direction, Numbers, SegmentNumbers

FLOW = Flow("tcp", "10.0.0.1", 40000, "10.0.0.2", 5000)
M = 1 << 32


def segment(flags: str, seq: int, ack: int = 0, size: int = 0, flow: Flow = FLOW) -> Header:
    return Header("tcp", flow, tuple(flags.split()), seq % M, ack % M, 100, size, bytes(size))


@pytest.mark.parametrize("start", [1000, M - 3])
def test_a_conversation_counts_from_its_syn_even_when_numbers_wrap(start: int) -> None:
    one = SegmentNumbers()
    assert one.number(segment("SYN", start)) == Numbers(0, None)
    assert one.number(segment("SYN ACK", 9000, start + 1, flow=FLOW.reverse)) == Numbers(0, 1)
    assert one.number(segment("ACK", start + 1, 9001)) == Numbers(1, 1)
    assert one.number(segment("PSH ACK", start + 1, 9001, 5)) == Numbers(1, 1)
    assert one.number(segment("ACK", 9001, start + 6, flow=FLOW.reverse)) == Numbers(1, 6)
    assert one.number(segment("FIN ACK", start + 6, 9001)) == Numbers(6, 1)
    assert one.number(segment("ACK", 9001, start + 7, flow=FLOW.reverse)) == Numbers(1, 7)


def test_a_refused_syn_is_answered_with_numbers_as_wireshark_shows_them() -> None:
    one = SegmentNumbers()
    one.number(segment("SYN", 1000))
    assert one.number(segment("RST ACK", 0, 1001, flow=FLOW.reverse)) == Numbers(1, 1)


def test_a_connection_that_began_earlier_counts_from_one() -> None:
    one = SegmentNumbers()
    assert one.number(segment("PSH ACK", 777, 888, 10)) == Numbers(1, 1)
    assert one.number(segment("ACK", 888, 787, flow=FLOW.reverse)) == Numbers(1, 11)


def test_what_was_seen_before_is_a_retransmission() -> None:
    one = SegmentNumbers()
    sent = [("SYN", 0, 0), ("SYN", 0, 0), ("ACK", 1, 5), ("ACK", 1, 5), ("FIN ACK", 6, 0), ("FIN ACK", 6, 0)]
    found = [one.number(segment(flags, seq, 1, size)).is_retransmission for flags, seq, size in sent]
    assert found == [False, True, False, True, False, True]


def test_a_segment_out_of_order_is_none_until_it_comes_twice() -> None:
    one = SegmentNumbers()
    sent = [(1, 10), (21, 10), (11, 10), (11, 10), (31, 10)]
    found = [one.number(segment("ACK", seq, 1, size)).is_retransmission for seq, size in sent]
    assert found == [False, False, False, True, False]


def test_acknowledgements_and_keepalives_are_none() -> None:
    one = SegmentNumbers()
    one.number(segment("ACK", 1, 1, 5))
    assert not any(one.number(segment("ACK", seq, 1)).is_retransmission for seq in (6, 6, 5, 5))


def test_a_new_connection_with_the_same_ports_counts_anew() -> None:
    one = SegmentNumbers()
    one.number(segment("SYN", 1000))
    one.number(segment("SYN ACK", 5000, 1001, flow=FLOW.reverse))
    assert one.number(segment("SYN", 90_000)) == Numbers(0, None)
    assert one.number(segment("SYN ACK", 70_000, 90_001, flow=FLOW.reverse)) == Numbers(0, 1)
    assert one.number(segment("ACK", 90_001, 70_001)) == Numbers(1, 1)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=30))
def test_a_segment_is_a_retransmission_if_one_of_its_bytes_was_seen(segments: list[tuple[int, int]]) -> None:
    one = SegmentNumbers()
    one.number(segment("SYN", 0))
    seen: set[int] = set()
    for begin, size in segments:
        its = set(range(begin, begin + size))
        found = one.number(segment("ACK", begin + 1, 1, size))
        assert (found.seq, found.is_retransmission) == (begin + 1, bool(its & seen))
        seen |= its


def test_a_connection_that_moves_to_another_wire_keeps_its_numbers() -> None:
    latest: dict[Flow, Direction] = {}
    one, other = SegmentNumbers(latest), SegmentNumbers(latest)
    one.number(segment("SYN", 1000))
    one.number(segment("SYN ACK", 9000, 1001, flow=FLOW.reverse))
    one.number(segment("PSH ACK", 1001, 9001, 3))
    assert other.number(segment("PSH ACK", 1001, 9001, 3)) == Numbers(1, 1, True)
    assert other.number(segment("PSH ACK", 1004, 9001, 3)) == Numbers(4, 1)
    assert other.number(segment("ACK", 9001, 1007, flow=FLOW.reverse)) == Numbers(1, 7)


def test_a_segment_that_was_on_another_wire_before_is_no_retransmission() -> None:
    latest: dict[Flow, Direction] = {}
    one, other = SegmentNumbers(latest), SegmentNumbers(latest)
    assert one.number(segment("PSH ACK", 777, 888, 10)) == Numbers(1, 1)
    assert other.number(segment("PSH ACK", 777, 888, 10), is_forwarded=True) == Numbers(1, 1)
    assert other.number(segment("PSH ACK", 787, 888, 5), is_forwarded=True) == Numbers(11, 1)
