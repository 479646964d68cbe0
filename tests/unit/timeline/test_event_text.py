"""Events as lines of text."""

from __future__ import annotations

import pytest

from labctl.structs import replace
from labctl.timeline.event_text import call_text, packet_text, text_of
from labctl.timeline.events import (
    AnyEvent,
    Call,
    Counter,
    Drop,
    Flow,
    Header,
    Mark,
    Output,
    Packet,
    Reset,
    Retransmit,
    SocketKey,
    SocketSample,
    Source,
    State,
    Step,
)
from tests.timelines import tcp_echo

NAMES = {"10.0.0.1": "client", "10.0.0.2": "server"}
FLOW = Flow("tcp", "10.0.0.1", 40000, "10.0.0.2", 5000)
KEY = SocketKey("client", flow=FLOW)


def packet(number: int) -> Packet:
    return [event for event in tcp_echo().events if isinstance(event, Packet)][number]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "client:43768 > server:5000 SYN seq 0 win 64240 [mss 1460, sackOK, wscale 7]"),
        (1, "server:5000 > client:43768 SYN ACK seq 0 ack 1 win 64240 [mss 1460, sackOK, wscale 7]"),
        (3, "client:43768 > server:5000 PSH ACK seq 1 ack 1 win 64240 len 5"),
    ],
)
def test_a_segment_has_names_flags_and_relative_numbers(number: int, text: str) -> None:
    assert packet_text(packet(number), NAMES) == text


def test_a_large_packet_names_its_segments_and_its_checksum() -> None:
    header = replace(packet(3).header, payload_bytes=3000)
    large = replace(packet(3), header=header, segment_bytes=1448, is_checksum_ready=False, is_retransmission=True)
    assert packet_text(large, NAMES).endswith("len 3000 (3 x 1448, checksum left to the device, again)")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (Header("udp", Flow("udp", "10.0.0.1", 1, "fd00::2", 2), payload_bytes=3), "client:1 > [fd00::2]:2 udp len 3"),
        (Header("arp", summary="who has 10.0.0.2, tell 10.0.0.1"), "arp who has 10.0.0.2, tell 10.0.0.1"),
        (
            Header("icmp", Flow("icmp", "10.0.0.2", 0, "10.0.0.1", 0), summary="port unreachable", quoted=FLOW),
            "server > client icmp port unreachable (client:40000 > server:5000)",
        ),
    ],
)
def test_other_packets(header: Header, text: str) -> None:
    assert packet_text(replace(packet(0), header=header), NAMES) == text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Step(at_ns=0, host="", source=Source.STEPS, seq=0, index="1", kind="run", title="curl", outcome="failed"),
         "step 1: curl: failed"),
        (State(at_ns=0, host="", source=Source.KERNEL, seq=0, socket=KEY, old="SYN_SENT", new="ESTABLISHED"),
         "ESTABLISHED, was SYN_SENT (client:40000 > server:5000)"),
        (Retransmit(at_ns=0, host="", source=Source.KERNEL, seq=0, socket=KEY),
         "sent again (client:40000 > server:5000)"),
        (Reset(at_ns=0, host="", source=Source.KERNEL, seq=0, socket=None, flow=FLOW.reverse, is_sent=True,
               reason="NO_SOCKET"), "RST sent: NO_SOCKET (server:5000 > client:40000)"),
        (Drop(at_ns=0, host="", source=Source.KERNEL, seq=0, reason="NETFILTER_DROP", hook="input",
              header=Header("tcp", FLOW, ("SYN",), 7, window=9)),
         "dropped: NETFILTER_DROP (input) client:40000 > server:5000 SYN seq 7 win 9"),
        (SocketSample(at_ns=0, host="", source=Source.SOCKETS, seq=0, socket=KEY, state="ESTABLISHED",
                      receive_queue=5, send_queue=0),
         "ESTABLISHED: receive queue 5, send queue 0 (client:40000 > server:5000)"),
        (Counter(at_ns=0, host="", source=Source.KERNEL, seq=0, name="TcpExtListenOverflows", delta=2, since_ns=0),
         "TcpExtListenOverflows +2"),
        (Output(at_ns=0, host="", source=Source.OUTPUT, seq=0, program="cat", stream="stdout", data=b"a\nb\x1b\xff\n"),
         "stdout: a\\nb\\x1b\ufffd"),
        (Mark(at_ns=0, host="", source=Source.MARKS, seq=0, text="exited with status 1", program="curl"),
         "curl: exited with status 1"),
    ],
)  # fmt: skip
def test_other_events(event: AnyEvent, text: str) -> None:
    assert text_of(event, NAMES) == text


def test_a_call_has_its_result_when_it_returned() -> None:
    call = Call(
        at_ns=0, until_ns=9, host="client", source=Source.CALLS, seq=0, pid=2, tid=2, program="client", name="connect",
        arguments="3, ...", result=-1, errno="ECONNREFUSED",
    )  # fmt: skip
    assert call_text(call) == "connect(3, ...) = -1 ECONNREFUSED"
    assert call_text(call, entry=True) == "connect(3, ...) ..."
    assert call_text(replace(call, result=4, errno="", value="10.0.0.1:1")) == "connect(3, ...) = 4 [10.0.0.1:1]"
