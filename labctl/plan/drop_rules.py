"""Packets that a node drops: a rule that a scenario or a test makes and the keeper applies."""

from __future__ import annotations

from enum import IntFlag, StrEnum

from labctl.structs import Struct
from labctl.topology.model import Address


class Direction(StrEnum):
    IN = "in"  # packets that arrive at the node, for itself or for forwarding
    OUT = "out"  # packets that leave the node, its own or forwarded


class DropProtocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"  # ICMP, and of ICMPv6 only echo and errors: neighbour discovery is IPv6's ARP


class TcpFlag(IntFlag):
    """Bits of the TCP header's flag byte (RFC 9293, section 3.1)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80


NO_FLAGS = TcpFlag(0)


class TcpFlags(Struct, frozen=True):
    """Segments with every flag of `given` and none of `absent`."""

    given: TcpFlag = NO_FLAGS
    absent: TcpFlag = NO_FLAGS


class DropRule(Struct, frozen=True):
    """Packets to drop: those that match every field; an empty rule matches all packets.

    `port` is the source or the destination port (TCP and UDP). `sources` and `destinations` are addresses of either
    family, () for any. No rule drops ARP and neighbour discovery, so that a rule without a protocol makes the peer
    silent, not absent. As with any packet filter, the sender gets an error for packets that it drops on their way OUT:
    sendto(2) of a datagram fails with EPERM. For silence drop packets on their way IN, at the receiver.
    """

    direction: Direction = Direction.IN
    protocol: DropProtocol | None = None
    port: int | None = None
    sources: tuple[Address, ...] = ()
    destinations: tuple[Address, ...] = ()
    flags: TcpFlags | None = None

    def __post_init__(self) -> None:
        if self.port is not None and self.protocol is DropProtocol.ICMP:
            raise ValueError("icmp has no ports")
        if self.port is not None and not 0 < self.port < 65536:
            raise ValueError(f"port {self.port} is not between 1 and 65535")
        if self.flags is not None and self.protocol is not DropProtocol.TCP:
            raise ValueError("flags need the protocol tcp")


def parse_flags(text: str) -> TcpFlags:
    """Parse `ack,!syn`: with ACK and without SYN. ValueError for an unknown flag, or one both given and absent."""
    given = absent = NO_FLAGS
    for word in text.split(","):
        name = word.strip()
        try:
            flag = TcpFlag[name.removeprefix("!").strip().upper()]
        except KeyError:
            known = ", ".join(flag.name.lower() for flag in TcpFlag if flag.name)
            raise ValueError(f"`{name}` is not a TCP flag; allowed: {known}, each with or without `!`") from None
        given, absent = (given, absent | flag) if name.startswith("!") else (given | flag, absent)
    if given & absent:
        raise ValueError(f"`{text}` requires a flag both set and not set")
    return TcpFlags(given, absent)
