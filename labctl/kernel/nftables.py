"""Dropping packets with nftables, over netlink, without the nft program (linux/netfilter/nf_tables.h).

One table `inet labctl` with a chain as early as packets come in (prerouting) and one as late as they go out
(postrouting), so that a router's drop concerns what passes it as well as what it receives or sends.

nftables over netlink, without the nft program: batches, and the expressions that rules consist of.

The messages are packed here because pyroute2's module of them takes 100 ms to import; a test compares both codecs.
linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from enum import IntEnum

from labctl.errors import errno_name
from labctl.kernel.netlink import (
    MESSAGES_A_SEND,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    attribute,
    attributes,
    dump,
    message,
    messages_in,
)
from labctl.structs import Struct

NETLINK_NETFILTER = 12  # linux/netlink.h
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10  # linux/netfilter.h
SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE, GET_RULE = (SUBSYSTEM | number for number in (0, 2, 3, 6, 7))
NESTED = 0x8000  # NLA_F_NESTED
GENERIC = struct.Struct("!BBH")  # struct nfgenmsg
META_IIF, META_OIF, META_NFPROTO, META_L4PROTO = 4, 5, 15, 16  # NFT_META_*
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2  # NFT_PAYLOAD_*
EQUAL, NOT_EQUAL, LESS = 0, 1, 2  # NFT_CMP_*

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_REGISTER = 1  # NFT_REG_1
_ERROR = struct.Struct("=i")
_TIMEOUT_S = 5.0

Request = tuple[int, int, bytes]  # type, flags, what follows the header


def request(type: int, flags: int, attrs: bytes) -> Request:
    """One request about tables of the family inet, for `transact`."""
    return type, NLM_F_REQUEST | NLM_F_ACK | flags, GENERIC.pack(NFPROTO_INET, 0, 0) + attrs


def transact(sock: socket.socket, requests: list[Request]) -> None:
    """Send the requests as one nfnetlink batch, which the kernel carries out whole or not at all; read all answers.

    `sock` is borrowed. OSError with the first refusal: EOPNOTSUPP, ENOENT where the kernel lacks something.
    """
    bracket = GENERIC.pack(socket.AF_UNSPEC, 0, SUBSYSTEM >> 8)
    parts = [message(_BATCH_BEGIN, NLM_F_REQUEST, bracket, 1)]
    parts += [message(*one, number) for number, one in enumerate(requests, 2)]
    parts.append(message(_BATCH_END, NLM_F_REQUEST, bracket, len(requests) + 2))
    sock.settimeout(_TIMEOUT_S)
    sock.sendto(b"".join(parts), (0, 0))
    missing, refused = len(requests), 0
    while missing:
        for kind, _, number, payload in messages_in(sock.recv(65536)):
            if kind != NLMSG_ERROR:
                continue
            (code,) = _ERROR.unpack_from(payload)
            refused = refused or -code
            missing = 0 if number == 1 else missing - 1  # the batch as such is refused with one answer
    if refused:
        raise OSError(refused, errno_name(refused))


def base_chain(table: bytes, name: bytes, kind: bytes, hook: int, priority: int) -> bytes:
    """The attributes of a chain of that type at a hook (NF_INET_*); names end with a zero byte."""
    place = attribute(1, struct.pack("!I", hook)) + attribute(2, struct.pack("!i", priority))
    return (
        attribute(1, table)  # NFTA_CHAIN_TABLE
        + attribute(3, name)  # NFTA_CHAIN_NAME
        + attribute(4 | NESTED, place)  # NFTA_CHAIN_HOOK
        + attribute(7, kind)  # NFTA_CHAIN_TYPE
    )


def new_rule(table: bytes, chain: bytes, expressions: list[bytes]) -> bytes:
    """The attributes of a rule; names end with a zero byte."""
    parts = b"".join(attribute(1 | NESTED, one) for one in expressions)  # NFTA_LIST_ELEM
    return attribute(1, table) + attribute(2, chain) + attribute(4 | NESTED, parts)


def expression(name: str, data: bytes) -> bytes:
    """An expression by its name (NFTA_EXPR_NAME, NFTA_EXPR_DATA)."""
    return attribute(1, name.encode() + b"\0") + attribute(2 | NESTED, data)


def number(type: int, value: int) -> bytes:
    """An attribute that is a number of 32 bits."""
    return attribute(type, struct.pack("!I", value))


def meta(key: int) -> bytes:
    """Something about the packet into the register (NFTA_META_DREG, _KEY)."""
    return expression("meta", number(1, _REGISTER) + number(2, key))


def load(base: int, offset: int, length: int) -> bytes:
    """Part of a header into the register (NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN)."""
    return expression("payload", number(1, _REGISTER) + number(2, base) + number(3, offset) + number(4, length))


def compare(how: int, value: bytes) -> bytes:
    """The register with a value (NFTA_CMP_SREG, _OP, _DATA)."""
    data = attribute(3 | NESTED, attribute(1, value))
    return expression("cmp", number(1, _REGISTER) + number(2, how) + data)


def masked(mask: int) -> bytes:
    """The register's first byte and a mask (NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR)."""
    masks = attribute(4 | NESTED, attribute(1, bytes([mask]))) + attribute(5 | NESTED, attribute(1, b"\0"))
    return expression("bitwise", number(1, _REGISTER) + number(2, _REGISTER) + number(3, 1) + masks)


def drop() -> bytes:
    """NFTA_IMMEDIATE_DREG = NFT_REG_VERDICT, NFTA_IMMEDIATE_DATA = NF_DROP."""
    return expression("immediate", number(1, 0) + attribute(2 | NESTED, attribute(2 | NESTED, number(1, 0))))


__all__ = [
    "NETLINK_NETFILTER",
    "NFPROTO_IPV4",
    "NFPROTO_IPV6",
    "Dropped",
    "Hook",
    "Match",
    "add",
    "chain",
    "dropped",
    "remove_all",
    "rule",
]

TABLE = b"labctl\0"
IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6 = 6, 17, 1, 58
FIRST_DISCOVERY_TYPE = 130  # RFC 4443: below are ICMPv6's errors and echo; MLD and neighbour discovery begin here

_TCP_FLAGS_OFFSET = 13


class Hook(IntEnum):
    """Where a packet is looked at (NF_INET_*)."""

    PREROUTING = 0
    POSTROUTING = 4


class Match(Struct, frozen=True):
    """Packets of one family that fit everything that is given; addresses are packed, `flags` is (mask, value)."""

    hook: Hook
    family: int  # NFPROTO_IPV4, NFPROTO_IPV6
    protocol: int | None = None  # IPPROTO_*
    other_than: int | None = None  # any protocol but this one
    source: bytes = b""
    destination: bytes = b""
    source_port: int | None = None
    destination_port: int | None = None
    flags: tuple[int, int] | None = None
    icmp_below: int | None = None  # ICMPv6 types smaller than this


class Dropped(Struct, frozen=True):
    """How much the rules of a namespace have dropped."""

    packets: int
    size_bytes: int


def add(sock: socket.socket, matches: Iterable[Match]) -> None:
    """Drop the packets that any of `matches` describes, in the namespace of `sock` (NETLINK_NETFILTER; borrowed).

    OSError: EOPNOTSUPP, ENOENT on a kernel without nf_tables, EPERM without CAP_NET_ADMIN; of many matches some may be
    dropped already then.
    """
    requests = [request(NEW_TABLE, NLM_F_CREATE, _table())]
    requests += [request(NEW_CHAIN, NLM_F_CREATE, chain(hook)) for hook in Hook]
    requests += [request(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, rule(match)) for match in matches]
    for first in range(0, len(requests), MESSAGES_A_SEND):
        transact(sock, requests[first : first + MESSAGES_A_SEND])


def remove_all(sock: socket.socket) -> None:
    """Drop nothing more in the namespace of `sock` (borrowed), also when nothing was dropped. OSError as of `add`."""
    transact(sock, [request(NEW_TABLE, NLM_F_CREATE, _table()), request(DELETE_TABLE, 0, _table())])


def dropped(sock: socket.socket) -> Dropped:
    """What the rules in the namespace of `sock` (borrowed) have dropped since they were added; zeros without rules."""
    packets = size_bytes = 0
    asked = GENERIC.pack(NFPROTO_INET, 0, 0) + attribute(1, TABLE)
    try:
        rules = list(dump(sock, GET_RULE, asked))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return Dropped(0, 0)
        raise
    for _, payload in rules:
        for data in _expressions(bytes(payload[GENERIC.size :]), b"counter\0"):
            for kind, start, length in attributes(data):
                value = int.from_bytes(data[start : start + length], "big")
                packets += value if kind == 2 else 0
                size_bytes += value if kind == 1 else 0
    return Dropped(packets, size_bytes)


# -- messages


def _table() -> bytes:
    return attribute(1, TABLE)  # NFTA_TABLE_NAME


def chain(hook: Hook) -> bytes:
    """The attributes of a base chain at `hook`, before connection tracking on the way in, after it on the way out."""
    return base_chain(TABLE, _chain_name(hook), b"filter\0", hook, -300 if hook is Hook.PREROUTING else 300)


def rule(match: Match) -> bytes:
    """The attributes of the rule that counts and drops what `match` describes."""
    return new_rule(TABLE, _chain_name(match.hook), _program(match))


def _program(match: Match) -> list[bytes]:
    """The expressions of a rule: each comparison that fails ends it."""
    address_bytes, source_offset = (4, 12) if match.family == NFPROTO_IPV4 else (16, 8)
    steps = [meta(META_NFPROTO), compare(EQUAL, bytes([match.family]))]
    if match.protocol is not None:
        steps += [meta(META_L4PROTO), compare(EQUAL, bytes([match.protocol]))]
    if match.other_than is not None:
        steps += [meta(META_L4PROTO), compare(NOT_EQUAL, bytes([match.other_than]))]
    if match.source:
        steps += [load(NETWORK_HEADER, source_offset, address_bytes), compare(EQUAL, match.source)]
    if match.destination:
        offset = source_offset + address_bytes
        steps += [load(NETWORK_HEADER, offset, address_bytes), compare(EQUAL, match.destination)]
    for offset, port in ((0, match.source_port), (2, match.destination_port)):
        if port is not None:
            steps += [load(TRANSPORT_HEADER, offset, 2), compare(EQUAL, struct.pack("!H", port))]
    if match.flags is not None:
        mask, value = match.flags
        steps += [load(TRANSPORT_HEADER, _TCP_FLAGS_OFFSET, 1), masked(mask), compare(EQUAL, bytes([value]))]
    if match.icmp_below is not None:
        steps += [load(TRANSPORT_HEADER, 0, 1), compare(LESS, bytes([match.icmp_below]))]
    return [*steps, expression("counter", b""), drop()]


def _chain_name(hook: Hook) -> bytes:
    return hook.name.lower().encode() + b"\0"


def _expressions(attrs: bytes, name: bytes) -> list[bytes]:
    """The data of each expression called `name` of a rule's attributes."""
    found = []
    for kind, start, length in attributes(attrs):
        if kind != 4:  # NFTA_RULE_EXPRESSIONS
            continue
        for _, element, element_length in attributes(attrs, start, start + length):
            parts = {k: attrs[s : s + n] for k, s, n in attributes(attrs, element, element + element_length)}
            if parts.get(1) == name:
                found.append(parts.get(2, b""))
    return found
