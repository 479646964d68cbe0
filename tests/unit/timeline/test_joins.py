"""Events of several sources are joined: order, names of sockets, dropped packets."""

from __future__ import annotations

from typing import Any

from labctl.structs import replace
from labctl.timeline.events import (
    AnyEvent,
    Call,
    Drop,
    Flow,
    Hop,
    Mark,
    Packet,
    Retransmit,
    SocketKey,
    SocketSample,
    Source,
    State,
    Step,
    Wire,
)
from labctl.timeline.joins import Joins, joined
from labctl.timeline.merge import merged
from labctl.timeline.packet_headers import decode
from labctl.timeline.sources.packets import Sighting
from labctl.topology.model import Endpoint
from tests import frames
from tests.frames import ethernet, ipv4, tcp, udp

FLOW = Flow("tcp", frames.CLIENT, 40000, frames.SERVER, 5000)
WIRES = (Wire("link", (Endpoint("client", "eth0"), Endpoint("server", "eth0"))),)
SYN = ethernet(ipv4(tcp(flags="SYN"), 6))


def packets(*sent: tuple[int, bytes], lost: bool = False) -> list[Packet]:
    sightings = []
    for at_ns, frame in sent:
        sightings.append(Sighting(at_ns, "client", "eth0", True, frame, len(frame)))
        if not lost:
            sightings.append(Sighting(at_ns + 4, "server", "eth0", False, frame, len(frame)))
    return merged(sightings, WIRES)


def call(at_ns: int, name: str, until_ns: int | None, **more: Any) -> Call:
    fields: dict[str, Any] = {"host": "client", "source": Source.CALLS, "seq": 0, "pid": 2, "tid": 2}
    fields |= {"program": "client", "arguments": "", "result": 0, "fd": 3}
    return Call(at_ns=at_ns, until_ns=until_ns, name=name, **(fields | more))


def drop(at_ns: int, frame: bytes, host: str = "server") -> Drop:
    return Drop(
        at_ns=at_ns, host=host, source=Source.KERNEL, seq=0, reason="NETFILTER_DROP", header=decode(frame, len(frame)),
        frame=frame,
    )  # fmt: skip


def retransmit(at_ns: int, host: str = "client") -> Retransmit:
    key = SocketKey(host, 1, 1, FLOW if host == "client" else FLOW.reverse)
    return Retransmit(at_ns=at_ns, host=host, source=Source.KERNEL, seq=0, socket=key, state="SYN_SENT")


def again(*events: AnyEvent) -> list[bool]:
    return [event.is_retransmission for event in joined(events) if isinstance(event, Packet)]


def test_a_packet_that_the_kernel_reports_as_sent_again_is_a_retransmission_although_it_is_the_first_on_the_wire() -> (
    None
):
    assert again(*packets((1000, SYN)), retransmit(1020)) == [True]


def test_a_retransmission_is_that_of_the_last_packet_of_its_flow_and_sender() -> None:
    data = ethernet(ipv4(tcp(flags="ACK", seq=1, payload=b"hello"), 6))
    assert again(*packets((1000, SYN), (2000, data)), retransmit(2020)) == [False, True]
    assert again(*packets((1000, SYN)), retransmit(1020, "server")) == [False]
    assert again(*packets((2_000_000_000, SYN)), retransmit(900)) == [False]
    assert again(*packets((1000, SYN)), retransmit(2_000_000)) == [False]


def test_a_busy_machine_reports_a_retransmission_late_and_the_next_packet_is_none() -> None:
    data = ethernet(ipv4(tcp(flags="ACK", seq=1, payload=b"hello"), 6))
    first, second, later = packets((1000, SYN), (1_000_000_000, SYN), (1_300_000_000, data))
    second = replace(second, is_retransmission=True)
    assert again(first, second, retransmit(1_250_000_000), later) == [False, True, False]


def test_a_retransmission_may_be_reported_before_it_leaves_as_while_it_waits_for_arp() -> None:
    data = ethernet(ipv4(tcp(flags="ACK", seq=1, payload=b"hello"), 6))
    assert again(*packets((1000, SYN), (2000, data)), retransmit(900)) == [True, False]


def test_a_retransmission_is_marked_on_further_wires_which_it_reaches_later() -> None:
    joins = Joins()
    (packet,) = packets((1000, SYN))
    joins.join([packet, retransmit(1020)])
    (later,) = joins.join([replace(packet, at_ns=5000, host="gw", wire="other")])
    assert isinstance(later, Packet)
    assert later.is_retransmission


def sample(key: SocketKey, at_ns: int = 50) -> SocketSample:
    return SocketSample(
        at_ns=at_ns, host=key.host, source=Source.SOCKETS, seq=0, socket=key, state="ESTABLISHED", receive_queue=0,
        send_queue=0,
    )  # fmt: skip


def state(key: SocketKey, at_ns: int = 10) -> State:
    return State(at_ns=at_ns, host=key.host, source=Source.KERNEL, seq=0, socket=key, old="CLOSE", new="SYN_SENT")


def sockets(events: tuple[AnyEvent, ...]) -> list[SocketKey | None]:
    return [event.socket for event in events if isinstance(event, Call | State | SocketSample)]


def test_events_of_one_moment_stand_in_the_order_of_their_sources_and_are_numbered() -> None:
    marks = [Mark(at_ns=at, host="", source=Source.MARKS, seq=0, text=str(at)) for at in (5, 3)]
    step = Step(at_ns=5, host="client", source=Source.STEPS, seq=7, index="1", kind="calls", title="")
    found = joined([*marks, step])
    assert [(type(each), each.at_ns, each.seq) for each in found] == [(Mark, 3, 0), (Step, 5, 0), (Mark, 5, 1)]


def test_the_last_record_of_a_call_stays() -> None:
    begun = call(5, "connect", None)
    ended = replace(begun, until_ns=9)
    assert joined([begun, ended]) == (ended,)


def test_a_call_gets_the_cookie_and_flow_of_its_inode() -> None:
    whole = SocketKey("client", inode=7, cookie=70, flow=FLOW)
    calls = [call(5, "send", 6, socket=SocketKey("client", inode=7)), call(7, "send", 8, socket=SocketKey("client", 9))]
    assert sockets(joined([*calls, sample(whole)])) == [whole, SocketKey("client", 9), whole]


def test_a_state_gets_the_inode_of_its_cookie_and_the_other_host_does_not() -> None:
    whole = SocketKey("client", inode=7, cookie=70, flow=FLOW)
    here, there = state(SocketKey("client", cookie=70, flow=FLOW)), state(SocketKey("server", cookie=70), 11)
    assert sockets(joined([here, there, sample(whole)])) == [whole, SocketKey("server", cookie=70), whole]


def test_a_flow_with_a_peer_replaces_one_without() -> None:
    bound = Flow("tcp", frames.CLIENT, 40000, "0.0.0.0", 0)
    first, second = SocketKey("client", 7, 70, bound), SocketKey("client", 7, 70, FLOW)
    found = sockets(joined([sample(first, 1), sample(second, 2), state(SocketKey("client", cookie=70), 3)]))
    assert found == [second, second, second]


def test_what_was_learnt_stays_for_later_events() -> None:
    joins = Joins()
    whole = SocketKey("client", inode=7, cookie=70, flow=FLOW)
    joins.join([sample(whole)])
    (found,) = joins.join([state(SocketKey("client", cookie=70))])
    assert sockets((found,)) == [whole]


def test_a_connect_gets_the_flow_of_the_syn_that_it_sent() -> None:
    wanted = SocketKey("client", flow=Flow("tcp", "", 0, frames.SERVER, 5000))
    calls = [
        call(100, "connect", 200, socket=wanted),
        call(300, "send", 310, socket=wanted),
        call(320, "close", 330, socket=wanted),
        call(340, "send", 350, socket=wanted),
    ]
    found = sockets(joined([*calls, *packets((50, ethernet(ipv4(tcp(flags="SYN", ports=(1, 5000)), 6))), (150, SYN))]))
    assert [each and each.flow for each in found] == [FLOW, FLOW, FLOW, wanted.flow]


def test_two_connects_at_once_get_the_flows_of_different_syns() -> None:
    wanted = SocketKey("client", flow=Flow("tcp", "", 0, frames.SERVER, 5000))
    calls = [call(100 + fd, "connect", 200, socket=wanted, fd=fd) for fd in (3, 4)]
    syns = [(150 + port, ethernet(ipv4(tcp(flags="SYN", ports=(port, 5000)), 6))) for port in (1, 2)]
    found = sockets(joined([*calls, *packets(*syns)]))
    assert [each and each.flow and each.flow.source_port for each in found] == [1, 2]


def test_a_drop_has_the_journey_of_the_last_packet_like_it_that_arrived() -> None:
    same = ethernet(ipv4(udp(b"hello"), 17))
    found = joined([*packets((100, same), (200, SYN), (300, same), (500, same)), drop(310, same), drop(210, SYN)])
    assert [each.packet for each in found if isinstance(each, Drop)] == [1, 2]


def test_a_drop_with_another_identification_is_not_that_packet() -> None:
    first, second = (ethernet(ipv4(udp(b"hello"), 17, identity=number)) for number in (1, 2))
    found = joined([*packets((100, first), (101, second)), drop(110, first)])
    assert [each.packet for each in found if isinstance(each, Drop)] == [0]


def test_a_drop_before_the_wire_has_no_packet() -> None:
    found = joined([*packets((100, SYN)), drop(110, SYN, "client"), drop(90, SYN)])
    assert [each.packet for each in found if isinstance(each, Drop)] == [None, None]


def test_a_drop_on_the_way_has_the_packet_that_did_not_arrive() -> None:
    found = joined([*packets((100, SYN), lost=True), drop(110, SYN, "lan")])
    assert [each.packet for each in found if isinstance(each, Drop)] == [0]


def test_a_drop_at_a_further_receiver_of_a_broadcast_is_found() -> None:
    (packet,) = packets((100, SYN))
    packet = replace(packet, others=(Hop(105, "third", "eth0", False),))
    found = joined([packet, drop(110, SYN, "third")])
    assert [each.packet for each in found if isinstance(each, Drop)] == [0]
