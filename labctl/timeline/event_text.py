"""Events as one line of text each, without their time and host: for lists of packets and for Wireshark."""

from __future__ import annotations

from collections.abc import Mapping

from labctl.printable import one_line
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
    SocketSample,
    State,
    Step,
)
from labctl.timeline.packet_headers import vlan_text
from labctl.timeline.protocol_names import described

_OUTPUT_MAX = 200  # characters of a program's output


def text_of(event: AnyEvent, names: Mapping[str, str] | None = None) -> str:
    """Return what happened: `connect(3, ...) = 0`, `ESTABLISHED, was SYN_SENT`. `names` are those of addresses."""
    names = names or {}
    match event:
        case Step():
            outcome = f": {event.outcome}" if event.outcome else ""
            return one_line(f"step {event.index}: {event.title}{outcome}")
        case Call():
            return call_text(event)
        case Packet():
            return packet_text(event, names)
        case State():
            was = f", was {event.old}" if event.old else ""
            return f"{event.new}{was}{_of(event.socket.flow, names)}"
        case Retransmit():
            return f"sent again{_of(event.socket.flow, names)}"
        case Reset():
            reason = f": {event.reason}" if event.reason else ""
            return f"RST {'sent' if event.is_sent else 'received'}{reason}{_of(event.flow, names)}"
        case Drop():
            what = f" {header_text(event.header, names)}" if event.header else ""
            place = f" ({event.hook})" if event.hook else f" ({event.location})" if event.location else ""
            return f"dropped: {event.reason}{place}{what}"
        case SocketSample():
            queues = f"receive queue {event.receive_queue}, send queue {event.send_queue}"
            return f"{event.state}: {queues}{_of(event.socket.flow, names)}"
        case Counter():
            return f"{event.name} +{event.delta}"
        case Output():
            return one_line(f"{event.stream}: {event.data.decode(errors='replace').rstrip()}")[:_OUTPUT_MAX]
        case Mark():
            return one_line(f"{event.program}: {event.text}" if event.program else event.text)


def call_text(call: Call, *, entry: bool = False) -> str:
    """Return a call as strace(1) writes it; `entry`: only what was known when it began."""
    text = f"{call.name}({call.arguments})"
    if entry or call.result is None:
        return one_line(f"{text} ...")
    value = f" [{call.value}]" if call.value else ""
    errno = f" {call.errno}" if call.errno else ""
    return one_line(f"{text} = {call.result}{errno}{value}")


def packet_text(packet: Packet, names: Mapping[str, str]) -> str:
    """Return the ends and headers of a packet, with relative numbers: `client:43768 > server:5000 SYN seq 0`."""
    text = header_text(packet.header, names, packet.relative_seq, packet.relative_ack)
    notes = []
    if packet.segment_bytes and packet.segments > 1:
        notes.append(f"{packet.segments} x {packet.segment_bytes}")
        if not packet.is_checksum_ready:  # true of most packets on a veth link, and of no harm
            notes.append("checksum left to the device")
    if packet.is_retransmission:
        notes.append("again")
    if vlan := vlan_text(packet.frame):
        notes.append(vlan)
    return f"{text} ({', '.join(notes)})" if notes else text


def header_text(
    header: Header, names: Mapping[str, str], relative_seq: int | None = None, relative_ack: int | None = None
) -> str:
    """Return the ends and headers of a packet; absolute numbers if no relative ones are given."""
    ends = f"{flow_text(header.flow, names)} " if header.flow else ""
    about = described(header)
    if header.protocol == "tcp" and header.flags:
        seq = header.seq if relative_seq is None else relative_seq
        parts = [" ".join(header.flags), f"seq {seq}"]
        if "ACK" in header.flags:
            parts.append(f"ack {header.ack if relative_ack is None else relative_ack}")
        parts.append(f"win {header.window}")
        if header.payload_bytes:
            parts.append(f"len {header.payload_bytes}")
        if "SYN" in header.flags and header.options:
            parts.append(f"[{header.options}]")
        if about:
            parts.append(about)
        return ends + " ".join(parts)
    if about:
        return ends + about
    if header.protocol == "udp" and not header.summary:
        return f"{ends}udp len {header.payload_bytes}"
    quoted = f" ({flow_text(header.quoted, names)})" if header.quoted else ""
    return f"{ends}{header.protocol} {header.summary}".rstrip() + quoted


def flow_text(flow: Flow, names: Mapping[str, str]) -> str:
    """Return both ends with names of hosts: `client:43768 > server:5000`."""
    source, target = (
        _end(*end, names) for end in ((flow.source, flow.source_port), (flow.target, flow.target_port))
    )  # fmt: skip
    return f"{source} > {target}"


def _end(address: str, port: int, names: Mapping[str, str]) -> str:
    name = names.get(address)
    if name is None:
        name = f"[{address}]" if ":" in address and port else address
    return f"{name}:{port}" if port else name


def _of(flow: Flow | None, names: Mapping[str, str]) -> str:
    return f" ({flow_text(flow, names)})" if flow else ""
