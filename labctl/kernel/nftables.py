"""nftables over netlink, without the nft program: batches, and the expressions that rules consist of.

The messages are packed here because pyroute2's module of them takes 100 ms to import; a test compares both codecs.
linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import socket
import struct

from labctl.errors import errno_name
from labctl.kernel.netlink import NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, attribute, message, messages_in

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
