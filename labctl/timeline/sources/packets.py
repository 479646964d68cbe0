"""Packets of a recording: from the blocks of a packet ring (packet(7), TPACKET_V3) to sightings.

A sighting is a packet at one interface. `labctl.timeline.merge` makes packets of a timeline from them.
The structures are those of linux/if_packet.h and linux/virtio_net.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct as Packing

from labctl.structs import Struct
from labctl.timeline.events import Clock

_BLOCK = Packing("=4xIIII")  # struct tpacket_block_desc: from offset_to_priv to offset_to_first_pkt
# struct tpacket3_hdr (48 bytes): next offset, seconds, nanoseconds, captured and whole length, status, offset of the
# packet, VLAN tag and its type; then struct sockaddr_ll: protocol, interface, kind of hardware, kind of packet.
_PACKET = Packing("=IIIIIIH6xIH12x2siHB")
_GSO_SIZE = Packing("=H")  # of struct virtio_net_hdr, 10 bytes, which PACKET_VNET_HDR puts before the packet
_GSO_SIZE_BACK = 6
_SECOND_NS = 1_000_000_000

_STATUS_CHECKSUM_NOT_READY, _STATUS_VLAN, _STATUS_VLAN_TYPE = 1 << 3, 1 << 4, 1 << 6  # TP_STATUS_*
_OTHER_HOST, _OUTGOING = 3, 4  # PACKET_* of packet(7)
_ETHERNET, _LOOPBACK = 1, 772  # ARPHRD_*, linux/if_arp.h
_VLAN = 0x8100
_VLAN_TYPES = (b"\x81\x00", b"\x88\xa8")  # IEEE 802.1Q, 802.1ad


class Sighting(Struct, frozen=True, gc=False):
    """A packet at one interface."""

    at_ns: int  # CLOCK_MONOTONIC
    node: str
    interface: str
    is_outgoing: bool
    frame: bytes  # the captured part, from the Ethernet header on
    length: int  # bytes, with the Ethernet header
    segment_bytes: int = 0  # GSO: payload of each segment that the device would send; 0: one segment
    is_checksum_ready: bool = True
    is_for_other: bool = False  # to another node's hardware address: a switch flooded it
    tags: bytes = b""  # of VLANs, which stand before the type: `frame` and `length` are without them


def sightings(block: bytes, node: str, interfaces: Mapping[int, str], clock: Clock) -> list[Sighting]:
    """Return the packets of one block of a ring, in its order.

    `block` begins with its struct tpacket_block_desc; the socket has PACKET_VNET_HDR. `interfaces` has the names by
    index; others become `if7`. The kernel removes a VLAN tag, which is put back. A packet of a device without Ethernet
    headers (a tunnel) gets an empty one. A block that breaks off gives the packets that are complete.
    """
    found: list[Sighting] = []
    if len(block) < _BLOCK.size:
        return found
    _, _, count, at = _BLOCK.unpack_from(block)
    offset_ns, end = clock.offset_ns, len(block)
    unpack, gso_size = _PACKET.unpack_from, _GSO_SIZE.unpack_from
    for _ in range(count):
        if at + _PACKET.size > end:
            break
        (following, seconds, nanoseconds, captured, length, status, mac, tag, tag_type, *sender) = unpack(block, at)
        protocol, index, hardware, kind = sender
        begin = at + mac
        if begin + captured > end:
            break
        frame = block[begin : begin + captured]
        tags = b""
        if hardware != _ETHERNET and hardware != _LOOPBACK:
            frame = bytes(12) + protocol + frame
            length += 14
        elif status & _STATUS_VLAN:
            tag_type = tag_type if status & _STATUS_VLAN_TYPE else _VLAN
            tags = tag_type.to_bytes(2) + (tag & 0xFFFF).to_bytes(2)  # the kernel has taken it out of the frame
        if frame[12:14] in _VLAN_TYPES:  # with two tags, the kernel takes out the first
            tags, frame, length = tags + frame[12:16], frame[:12] + frame[16:], length - 4
        found.append(
            Sighting(
                seconds * _SECOND_NS + nanoseconds - offset_ns,
                node,
                interfaces.get(index) or f"if{index}",
                kind == _OUTGOING,
                frame,
                length,
                gso_size(block, begin - _GSO_SIZE_BACK)[0],
                not status & _STATUS_CHECKSUM_NOT_READY,
                kind == _OTHER_HOST,
                tags,
            )
        )
        if not following:
            break
        at += following
    return found
