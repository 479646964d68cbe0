"""A timeline as pcapng, which Wireshark and tshark read: packets, and the other events between them.

The format is https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html. Each interface where packets leave is an
interface of the file, named `client:eth0`; the number of a packet's journey is its packet id. Calls, states, output and
drops are systemd journal entries. Addresses have the names of their nodes, TLS keys make Wireshark decrypt, and losses
are in the statistics of the interfaces and in the comment of the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct as Packing
from typing import BinaryIO

from labctl.printable import one_line
from labctl.timeline.event_text import call_text, text_of
from labctl.timeline.events import (
    AnyEvent,
    Call,
    Clock,
    Drop,
    Loss,
    NodeInfo,
    Output,
    Packet,
    SocketSample,
    Source,
    Timeline,
    Wire,
    loss_texts,
)

_SECTION, _INTERFACE, _NAMES, _STATISTICS, _PACKET, _JOURNAL, _SECRETS = 0x0A0D0D0A, 1, 4, 5, 6, 9, 10
_MAGIC = 0x1A2B3C4D
_ETHERNET = 1  # LINKTYPE_ETHERNET
_COMMENT, _HARDWARE, _SYSTEM, _APPLICATION = 1, 2, 3, 4  # options: opt_comment, shb_*
_IF_NAME, _IF_DESCRIPTION, _IF_RESOLUTION = 2, 3, 9
_FLAGS, _PACKET_ID = 2, 5  # epb_*
_INBOUND, _OUTBOUND = 1, 2
_RECEIVED, _DROPPED = 4, 5  # isb_ifrecv, isb_ifdrop
_IPV4_NAME, _IPV6_NAME = 1, 2  # nrb_record_*
_TLS_KEYS = 0x544C534B

_U16, _U32, _U64 = Packing("=H"), Packing("=I"), Packing("=Q")
_BLOCK, _OPTION = Packing("=II"), Packing("=HH")
_SECTION_BODY, _INTERFACE_BODY = Packing("=IHHq"), Packing("=HHI")
# A packet up to its data; and its options after that, the end of options and the length of the block.
_PACKET_HEAD, _PACKET_TAIL = Packing("=IIIIIII"), Packing("=HHIHHQII")
_PACKET_BYTES = _PACKET_HEAD.size + _PACKET_TAIL.size
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_SNAP_BYTES = 1 << 18


def write(timeline: Timeline, file: BinaryIO) -> None:
    """Write the timeline. OSError."""
    writer = PcapngWriter(file, timeline.nodes, timeline.wires, timeline.clock, comment=_comment(timeline))
    if timeline.tls_keys:
        writer.secrets(timeline.tls_keys)
    writer.events(timeline.events)
    writer.losses(timeline.losses)


class PcapngWriter:
    """Writes packets and other events, in their order, to a file that the caller keeps open. OSError."""

    def __init__(
        self,
        file: BinaryIO,
        nodes: Iterable[NodeInfo] = (),
        wires: Iterable[Wire] = (),
        clock: Clock | None = None,
        *,
        comment: str = "",
    ) -> None:
        self._write = file.write
        self._offset_ns = clock.offset_ns if clock else 0
        self._names = {address: node.name for node in nodes for address in node.addresses}
        self._wire_of = {(end.node, end.ifname): wire.name for wire in wires for end in wire.ends}
        self._interfaces: dict[tuple[str, str], int] = {}
        self._counts: list[int] = []
        self._last_ns = 0
        options = _text(_COMMENT, comment) + _text(_APPLICATION, "labctl")
        self._write(_block(_SECTION, _SECTION_BODY.pack(_MAGIC, 1, 0, -1), options))
        if self._names:
            self._write(_block(_NAMES, b"".join(_name(*each) for each in self._names.items()) + bytes(4)))

    def events(self, events: Iterable[AnyEvent]) -> None:
        """Write events, sorted by time; samples of sockets are left out."""
        returns: list[tuple[int, int, Call]] = []  # calls whose return comes after other events
        ordered = list(events)
        dropped = {event.packet: event for event in ordered if isinstance(event, Drop) and event.packet is not None}
        for number, event in enumerate(ordered):
            while returns and returns[0][0] <= event.at_ns:
                self._call_returned(returns.pop(0)[2])
            if isinstance(event, Packet):
                drop = dropped.get(event.journey)
                comment = f"{drop.host} {text_of(drop)}" if drop and drop.host in (event.receiver, event.host) else ""
                self.packet(event, comment)
            elif isinstance(event, Call) and event.until_ns is not None:
                following = ordered[number + 1].at_ns if number + 1 < len(ordered) else event.until_ns
                if following < event.until_ns:
                    self.event(event, call_text(event, entry=True))
                    returns.append((event.until_ns, number, event))
                    returns.sort(key=lambda each: each[:2])
                else:
                    self.event(event)
            elif not isinstance(event, SocketSample):
                self.event(event)
        for _, _, call in returns:
            self._call_returned(call)

    def packet(self, packet: Packet, comment: str = "") -> None:
        """Write one packet."""
        left = bool(packet.host)
        node, interface = (packet.host, packet.interface) if left else (packet.receiver, packet.receiver_interface)
        index = self._interface(node, interface)
        self._counts[index] += 1
        frame = packet.frame
        at_ns = self._last_ns = packet.at_ns + self._offset_ns
        padding = _PADDING[len(frame) & 3]
        note = _text(_COMMENT, comment) if comment else b""
        size = _PACKET_BYTES + len(frame) + len(padding) + len(note)
        self._write(
            b"".join(
                (
                    _PACKET_HEAD.pack(_PACKET, size, index, at_ns >> 32, at_ns & 0xFFFFFFFF, len(frame), packet.length),
                    frame,
                    padding,
                    note,
                    _PACKET_TAIL.pack(
                        _FLAGS, 4, _OUTBOUND if left else _INBOUND, _PACKET_ID, 8, packet.journey, 0, size
                    ),
                )
            )
        )

    def event(self, event: AnyEvent, text: str = "") -> None:
        """Write one event that is not a packet."""
        self._journal(event, event.at_ns, text or text_of(event, self._names))

    def _call_returned(self, call: Call) -> None:
        self._journal(call, call.until_ns or call.at_ns, f"... {call_text(call)}")

    def _journal(self, event: AnyEvent, at_ns: int, text: str) -> None:
        """Write a block in the Journal Export Format (systemd.io), whose times are microseconds."""
        program = event.program if isinstance(event, Call | Output) else ""
        fields = {
            "__REALTIME_TIMESTAMP": str((at_ns + self._offset_ns) // 1000),
            "__MONOTONIC_TIMESTAMP": str(at_ns // 1000),
            "_HOSTNAME": event.host,
            "SYSLOG_IDENTIFIER": program or event.source.value,
            "_PID": str(event.pid) if isinstance(event, Call) else "",
            "MESSAGE": f"{event.host}: {text}" if event.host else text,
        }
        entry = "".join(f"{key}={one_line(value)}\n" for key, value in fields.items() if value)
        self._write(_block(_JOURNAL, entry.encode()))

    def secrets(self, keys: str) -> None:
        """Write TLS keys in the format of SSLKEYLOGFILE; before the packets that they decrypt."""
        data = keys.encode()
        self._write(_block(_SECRETS, _BLOCK.pack(_TLS_KEYS, len(data)) + data))

    def losses(self, losses: Iterable[Loss]) -> None:
        """Write the statistics of all interfaces; a host's packets that were lost belong to its first one. The last."""
        lost: dict[int, list[Loss]] = {}
        for loss in losses:
            if loss.source is Source.PACKETS:
                mine = (index for (node, _), index in self._interfaces.items() if node == loss.host or not loss.host)
                index = next(mine, None)
                lost.setdefault(self._interface(loss.host, "") if index is None else index, []).append(loss)
        high, low = self._last_ns >> 32, self._last_ns & 0xFFFFFFFF
        for index, count in enumerate(self._counts):
            its = lost.get(index, [])
            dropped = sum(loss.count for loss in its)
            options = b"".join(_text(_COMMENT, str(loss)) for loss in its)
            options += _number(_RECEIVED, count + dropped) + _number(_DROPPED, dropped)
            self._write(_block(_STATISTICS, Packing("=III").pack(index, high, low), options))

    def _interface(self, node: str, ifname: str) -> int:
        index = self._interfaces.get((node, ifname))
        if index is None:
            index = self._interfaces[node, ifname] = len(self._counts)
            self._counts.append(0)
            options = _text(_IF_NAME, f"{node}:{ifname}" if ifname else node or "lab")
            options += _text(_IF_DESCRIPTION, self._wire_of.get((node, ifname), ""))
            options += _OPTION.pack(_IF_RESOLUTION, 1) + b"\x09\0\0\0"
            self._write(_block(_INTERFACE, _INTERFACE_BODY.pack(_ETHERNET, 0, _SNAP_BYTES), options))
        return index


def _comment(timeline: Timeline) -> str:
    lines = [timeline.title, timeline.file, *loss_texts(timeline.losses)]
    lines += [f"not recorded: {each}" for each in timeline.missing]
    if timeline.verdict:
        lines += [f"{timeline.verdict.outcome} {timeline.verdict.reason}".strip(), *timeline.verdict.explanation]
    return "\n".join(line for line in lines if line)


def _block(kind: int, body: bytes, options: bytes = b"") -> bytes:
    padding = _PADDING[len(body) & 3]
    end = bytes(4) if options else b""
    size = 12 + len(body) + len(padding) + len(options) + len(end)
    return b"".join((_BLOCK.pack(kind, size), body, padding, options, end, _U32.pack(size)))


def _text(code: int, text: str) -> bytes:
    """An option of text; nothing for no text."""
    data = text.encode(errors="backslashreplace")[:0xFFFF]
    return _OPTION.pack(code, len(data)) + data + _PADDING[len(data) & 3] if data else b""


def _number(code: int, value: int) -> bytes:
    return _OPTION.pack(code, 8) + _U64.pack(value)


def _name(address: str, name: str) -> bytes:
    """A record of the name resolution block."""
    from ipaddress import ip_address

    packed = ip_address(address).packed
    data = packed + name.encode() + b"\0"
    return _OPTION.pack(_IPV6_NAME if len(packed) == 16 else _IPV4_NAME, len(data)) + data + _PADDING[len(data) & 3]
