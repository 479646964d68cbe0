"""Timelines as pcapng: the blocks of the file."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from labctl.structs import replace
from labctl.timeline.events import AnyEvent, Call, Drop, Loss, Packet, Source, Timeline
from labctl.timeline.merge import merged
from labctl.timeline.sinks.pcapng import write
from labctl.timeline.sources.packets import Sighting
from tests.frames import ethernet, ipv4, udp
from tests.timelines import tcp_echo

SECTION, INTERFACE, NAMES, STATISTICS, PACKET, JOURNAL, SECRETS = 0x0A0D0D0A, 1, 4, 5, 6, 9, 10


@dataclass(frozen=True)
class Block:
    kind: int
    body: bytes

    def options(self, start: int) -> dict[int, bytes]:
        found, at = {}, start
        while at + 4 <= len(self.body):
            code, size = struct.unpack_from("=HH", self.body, at)
            if code == 0:
                break
            found[code] = self.body[at + 4 : at + 4 + size]
            at += 4 + size + -size % 4
        return found

    @property
    def message(self) -> str:
        """Of a journal entry."""
        return next(line[8:] for line in self.body.rstrip(b"\0").decode().splitlines() if line.startswith("MESSAGE="))


def blocks_of(timeline: Timeline) -> list[Block]:
    file = io.BytesIO()
    write(timeline, file)
    data, found, at = file.getvalue(), [], 0
    while at < len(data):
        kind, size = struct.unpack_from("=II", data, at)
        assert size % 4 == 0
        assert struct.unpack_from("=I", data, at + size - 4) == (size,)
        found.append(Block(kind, data[at + 8 : at + size - 4]))
        at += size
    return found


def kinds(timeline: Timeline, *kinds: int) -> list[Block]:
    return [block for block in blocks_of(timeline) if block.kind in kinds]


def test_packets_have_their_time_and_frame_and_their_interfaces_come_first() -> None:
    timeline = tcp_echo()
    packets = [event for event in timeline.events if isinstance(event, Packet)]
    interfaces: list[str] = []
    for block in kinds(timeline, INTERFACE, PACKET):
        if block.kind == INTERFACE:
            interfaces.append(block.options(8)[2].decode())
            continue
        packet = packets.pop(0)
        index, high, low, captured, length = struct.unpack_from("=IIIII", block.body)
        assert interfaces[index] == f"{packet.host}:eth0"
        assert high << 32 | low == packet.at_ns + timeline.clock.offset_ns
        assert (block.body[20 : 20 + captured], length) == (packet.frame, packet.length)
        assert block.options(20 + captured + -captured % 4)[5] == struct.pack("=Q", packet.journey)
    assert packets == []


def test_other_events_stand_between_the_packets_in_order() -> None:
    around = [
        block.message if block.kind == JOURNAL else "packet" for block in kinds(tcp_echo(), JOURNAL, PACKET)
    ]  # fmt: skip
    syn = around.index("packet")
    assert around[syn - 2 : syn + 3] == [
        "client: connect(3, {AF_INET, 10.0.0.2:5000}, 16) ...",
        "client: SYN_SENT, was CLOSE (client:43768 > server:5000)",
        "packet",
        "packet",
        "client: ESTABLISHED, was SYN_SENT (client:43768 > server:5000)",
    ]
    assert "client: ... connect(3, {AF_INET, 10.0.0.2:5000}, 16) = 0" in around


def test_a_call_that_did_not_return_stands_once() -> None:
    timeline = tcp_echo()
    calls = [event for event in timeline.events if isinstance(event, Call)]
    events: tuple[AnyEvent, ...] = (replace(calls[0], until_ns=None, result=None), *calls[1:])
    found = [block.message for block in kinds(replace(timeline, events=events), JOURNAL)]
    assert found.count("server: socket(AF_INET, SOCK_STREAM, 0) ...") == 1


def test_addresses_have_the_names_of_their_nodes() -> None:
    (block,) = kinds(tcp_echo(), NAMES)
    assert b"\x0a\0\0\x01client\0" in block.body


def test_losses_are_in_the_statistics_and_in_the_comment() -> None:
    loss = Loss(Source.PACKETS, 12, host="client", why="ring of 1 MiB was full")
    timeline = replace(tcp_echo(), losses=(loss,), missing=("drop reasons: not root",))
    section, *_ = blocks_of(timeline)
    comment = section.options(16)[1].decode()
    assert "12 packets of client lost: ring of 1 MiB was full" in comment
    assert "not recorded: drop reasons: not root" in comment
    client, server = (block.options(12) for block in kinds(timeline, STATISTICS))
    assert (client[4], client[5]) == (struct.pack("=Q", 6 + 12), struct.pack("=Q", 12))
    assert server[5] == struct.pack("=Q", 0)


def test_a_loss_of_a_host_without_packets_has_an_interface_of_its_own() -> None:
    timeline = replace(tcp_echo(), losses=(Loss(Source.PACKETS, 3, host="third"),))
    assert kinds(timeline, INTERFACE)[-1].options(8)[2] == b"third"
    assert kinds(timeline, STATISTICS)[-1].options(12)[5] == struct.pack("=Q", 3)


def test_tls_keys_come_before_the_packets() -> None:
    found = [block.kind for block in blocks_of(replace(tcp_echo(), tls_keys="CLIENT_RANDOM ab cd\n"))]
    assert found.index(SECRETS) < found.index(PACKET)


def test_a_dropped_packet_has_a_comment() -> None:
    frame = ethernet(ipv4(udp(b"hello"), 17))
    pair = [Sighting(10, "client", "eth0", True, frame, len(frame)), Sighting(14, "server", "eth0", False, frame, 47)]
    (packet,) = merged(pair, tcp_echo().wires)
    drop = Drop(at_ns=15, host="server", source=Source.KERNEL, seq=0, reason="NETFILTER_DROP", hook="input", packet=0)
    (block,) = kinds(replace(tcp_echo(), events=(packet, drop)), PACKET)
    assert block.options(20 + 48)[1] == b"server dropped: NETFILTER_DROP (input)"


def test_text_of_programs_cannot_make_fields_of_the_journal() -> None:
    timeline = tcp_echo()
    calls = [event for event in timeline.events if isinstance(event, Call)][:1]
    evil = replace(calls[0], arguments="1\nPRIORITY=0\n\n__CURSOR=x", program="a\nb=c")
    (block,) = kinds(replace(timeline, events=(evil,)), JOURNAL)
    keys = [line.split("=")[0] for line in block.body.rstrip(b"\0").decode().splitlines()]
    assert set(keys) <= {
        "__REALTIME_TIMESTAMP", "__MONOTONIC_TIMESTAMP", "_HOSTNAME", "SYSLOG_IDENTIFIER", "_PID", "MESSAGE",
    }  # fmt: skip
