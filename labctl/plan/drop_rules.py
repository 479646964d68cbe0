"""Which packets a node is to drop, as a value that travels to the keeper as JSON."""

from __future__ import annotations

import json
from enum import IntFlag, StrEnum
from ipaddress import ip_address

from labctl.errors import InputError
from labctl.structs import Struct
from labctl.topology.model import Address


class Direction(StrEnum):
    IN = "in"  # what arrives at the node, for itself or to be passed on
    OUT = "out"  # what leaves the node, its own or passed on


class DropProtocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"  # ICMP, and of ICMPv6 echo and errors: neighbour discovery is IPv6's ARP and is left alone


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
    """Packets to drop: those that fit everything that is given; an empty rule means all packets.

    `port` is the source or the destination port (TCP and UDP). `sources` and `destinations` are the addresses of a
    packet's ends, of either family, () for any. Neighbour discovery (and ARP) is never dropped, so that a rule without
    a protocol makes the peer silent, not absent. As with any packet filter, what is dropped on its way OUT is refused
    to its sender: sendto(2) of a datagram gives EPERM. For silence drop it IN, at the receiver.
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
            raise ValueError("flags are TCP's: protocol must be tcp")


def parse_flags(text: str) -> TcpFlags:
    """`ack,!syn`: with ACK and without SYN. ValueError for an unknown flag, or one that is both wanted and not."""
    given = absent = NO_FLAGS
    for word in text.split(","):
        name = word.strip()
        wanted = not name.startswith("!")
        try:
            flag = TcpFlag[name.removeprefix("!").strip().upper()]
        except KeyError:
            known = ", ".join(flag.name.lower() for flag in TcpFlag if flag.name)
            raise ValueError(
                f"{word.strip()!r} is not a TCP flag; allowed: {known}, each with or without `!`"
            ) from None
        given, absent = (given | flag, absent) if wanted else (given, absent | flag)
    if given & absent:
        raise ValueError(f"{text!r} wants a flag both set and not set")
    return TcpFlags(given, absent)


def to_json(rule: DropRule) -> str:
    """The rule as JSON text."""
    return json.dumps(
        {
            "direction": rule.direction,
            "protocol": rule.protocol,
            "port": rule.port,
            "sources": [str(address) for address in rule.sources],
            "destinations": [str(address) for address in rule.destinations],
            "flags": None if rule.flags is None else [int(rule.flags.given), int(rule.flags.absent)],
        }
    )


def from_json(text: str) -> DropRule:
    """The rule that `to_json` wrote. InputError for anything else."""
    try:
        data = json.loads(text)
        flags = data["flags"]
        return DropRule(
            direction=Direction(data["direction"]),
            protocol=None if data["protocol"] is None else DropProtocol(data["protocol"]),
            port=data["port"],
            sources=tuple(ip_address(address) for address in data["sources"]),
            destinations=tuple(ip_address(address) for address in data["destinations"]),
            flags=None if flags is None else TcpFlags(TcpFlag(flags[0]), TcpFlag(flags[1])),
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise InputError(f"drop rule: cannot read it: {type(error).__name__}: {error}.") from error
