"""SYNs that a full accept queue ignores are drops, which packets and samples of the listener imply."""

from __future__ import annotations

from labctl.structs import replace
from labctl.timeline.events import Flow, Source
from labctl.timeline.inferred_drops import InferredDrops
from tests.timelines import CLIENT, SERVER, Builder

MS = 1000.0


def drops(b: Builder) -> list[tuple[int | None, str]]:
    events = sorted(b.events, key=lambda event: event.at_ns)
    found = InferredDrops().of(events)
    assert all(drop.is_inferred and drop.host == "server" for drop in found)
    return [(drop.packet, drop.reason) for drop in found]


def test_a_syn_without_an_answer_ended_at_an_over_full_listener() -> None:
    b = Builder()
    b.packet(10 * MS, "client", "SYN", 0, 0)
    b.listener(40 * MS, 2, 1)
    assert drops(b) == [(0, "accept queue full (2 of 1)")]


def test_a_syn_that_was_sent_again_and_then_answered_was_ignored_the_first_time() -> None:
    b = Builder()
    b.listener(0, 2, 1)
    b.packet(10 * MS, "client", "SYN", 0, 0)
    b.listener(500 * MS, 1, 1)
    b.packet(1010 * MS, "client", "SYN", 0, 0, is_retransmission=True)
    b.packet(1011 * MS, "server", "SYN ACK", 0, 1)
    b.listener(1100 * MS, 2, 1)
    assert drops(b) == [(0, "accept queue full (2 of 1)")]


def test_an_answered_syn_and_one_to_a_listener_with_room_are_no_drops() -> None:
    b = Builder()
    b.listener(0, 2, 1)
    b.packet(10 * MS, "client", "SYN", 0, 0)
    b.packet(11 * MS, "server", "SYN ACK", 0, 1)
    assert drops(b) == []
    b = Builder()
    b.listener(0, 1, 1)
    b.packet(10 * MS, "client", "SYN", 0, 0)
    assert drops(b) == []


def test_a_sample_of_sock_diag_holds_until_one_that_differs() -> None:
    b = Builder()
    b.listener(0, 2, 1)
    b.packet(3000 * MS, "client", "SYN", 0, 0)
    assert drops(b) == [(0, "accept queue full (2 of 1)")]
    b.listener(3100 * MS, 0, 1)
    assert drops(b) == []


def test_a_refused_syn_and_one_whose_drop_the_kernel_reports_have_no_other_cause() -> None:
    b = Builder()
    b.listener(0, 2, 1)
    b.packet(10 * MS, "client", "SYN", 0, 0)
    b.packet(11 * MS, "server", "RST ACK", 0, 1)
    assert drops(b) == []
    b = Builder()
    b.listener(0, 2, 1)
    b.packet(10 * MS, "client", "SYN", 0, 0)
    b.drop(11 * MS, "server", "NETFILTER_DROP", 0)
    assert drops(b) == []


def test_a_sample_of_another_port_and_one_of_the_kernel_long_ago_tell_nothing() -> None:
    b = Builder()
    b.listener(0, 2, 1)
    b.packet(300 * MS, "client", "SYN", 0, 0)
    sample, syn = b.events
    assert InferredDrops().of([replace(sample, source=Source.KERNEL), syn]) == []
    b = Builder()
    b.listener(0, 2, 1)
    b.flow = Flow("tcp", CLIENT, 40000, SERVER, 81)
    b.packet(10 * MS, "client", "SYN", 0, 0)
    assert drops(b) == []


def test_a_sample_that_comes_later_tells_of_an_earlier_syn() -> None:
    b = Builder()
    b.packet(10 * MS, "client", "SYN", 0, 0)
    b.listener(40 * MS, 2, 1)
    syn, sample = b.events
    inferred = InferredDrops()
    assert inferred.of([syn]) == []
    (drop,) = inferred.of([sample])
    assert (drop.at_ns, drop.packet) == (sample.at_ns, 0)
    assert inferred.of([]) == []
